//! What a call hears that is not let through to its method.

use std::fmt;

/// Why a call, or a stream, is ended before the domain hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Too many calls are under way.
    Overloaded,
    /// Its request did not arrive whole in time.
    Unfinished,
    /// Its connection ends.
    Leaving,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overloaded => {
                "the broker has as many calls under way as it takes; call again, less often"
            }
            Self::Unfinished => {
                "the request did not arrive whole in time; send all of it, and its end"
            }
            Self::Leaving => "this connection is being closed; call again",
        })
    }
}
