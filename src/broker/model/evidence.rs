//! Evidence: what is known of the trouble that a provider may be in with a client of ours. Data; what
//! follows from it is in [`rules`](crate::broker::rules).

use crate::broker::model::answer::Cause;
use crate::broker::model::id::GrantId;

/// Milliseconds on a clock of this process that nobody turns; what was before its start is negative.
pub type Millis = i64;

/// How a failure reads; only what reads alike is evidence together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reading {
    /// Our client is refused.
    Client,
    /// That is no token endpoint, or not the right one.
    Endpoint,
    /// It refuses in a way that nobody has told us the meaning of.
    Puzzling,
    /// A request left and no usable answer came.
    Silent,
    /// No connection came about.
    Unreachable,
    /// It refuses grants for good, many at once.
    Refusing,
    /// We ask too often. It never holds anybody: all are asked more slowly.
    Limited,
}

impl Reading {
    /// All values, for tables and tests.
    pub const ALL: [Self; 7] = [
        Self::Client,
        Self::Endpoint,
        Self::Puzzling,
        Self::Silent,
        Self::Unreachable,
        Self::Refusing,
        Self::Limited,
    ];

    /// Stable name: in stored values and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
            Self::Puzzling => "puzzling",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Refusing => "refusing",
            Self::Limited => "limited",
        }
    }

    /// The value of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reading| reading.name() == name)
    }
}

/// A failure that is evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whose refresh failed.
    pub grant: GrantId,
    /// How it reads.
    pub reading: Reading,
    /// When the request was sent.
    pub sent: Millis,
    /// Something came of that grant before.
    pub tried: bool,
}

/// One request at a time goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// How the evidence reads.
    pub reading: Reading,
    /// What the grants met.
    pub cause: Cause,
    /// When it began.
    pub since: Millis,
    /// Grants whose failures are the evidence.
    pub grants: Vec<GrantId>,
    /// Probes so far.
    pub probes: u32,
    /// From when on the next one may go out.
    pub next_probe: Millis,
}

/// All that is known of one client at one provider and one kind of grant, by all replicas together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What speaks for a trouble.
    pub pieces: Vec<Piece>,
    /// When the newest request was sent that succeeded.
    pub succeeded: Option<Millis>,
    /// One request at a time goes out.
    pub hold: Option<Hold>,
    /// When the last hold ended.
    pub ended: Option<Millis>,
    /// Grants that were refused for good, by the time at which the request was sent.
    pub refused: Vec<(GrantId, Millis)>,
}

impl Evidence {
    /// The same by a clock that is ahead by so much.
    #[must_use]
    pub fn shifted(mut self, by: Millis) -> Self {
        for piece in &mut self.pieces {
            piece.sent += by;
        }
        if let Some(hold) = &mut self.hold {
            hold.since += by;
            hold.next_probe += by;
        }
        for (_, sent) in &mut self.refused {
            *sent += by;
        }
        self.succeeded = self.succeeded.map(|at| at + by);
        self.ended = self.ended.map(|at| at + by);
        self
    }

    /// Nothing is known that another process would have to know.
    pub fn is_quiet(&self) -> bool {
        self.pieces.is_empty() && self.hold.is_none()
    }
}
