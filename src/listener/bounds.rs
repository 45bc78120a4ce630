//! How much clients may take of a port.

use std::time::Duration;

/// Bounds of a port; the settings of the section `bounds`, where their defaults have their reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once. One more takes the place of the one that has been idle longest.
    pub connections: usize,
    /// Of these, those on which nobody has proven anything.
    pub unproven: usize,
    /// And of these, those of one address (of one /64, where it is IPv6).
    pub unproven_per_address: usize,
    /// Streams of one connection at once.
    pub connection_streams: u32,
    /// Calls at once over all connections.
    pub streams: usize,
    /// Bytes of the headers of one call, as HTTP/2 counts them: 32 more for each header.
    pub header_bytes: u32,
    /// From the connection to its first byte.
    pub speak: Duration,
    /// From the headers of a call to the end of its request.
    pub request: Duration,
    /// From an answer to the moment at which the client begins to take it.
    pub answer: Duration,
    /// Age of the last thing that happened on a connection without calls.
    pub idle: Duration,
    /// Age of a connection; up to a tenth more or less, so that not all leave together.
    pub age: Duration,
}

/// Why a connection is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its requests do not arrive.
    Unfinished,
    /// It did not take an answer.
    Untaken,
    /// Nothing happened on it.
    Idle,
    /// It is old.
    Aged,
    /// It was told to leave, and did not.
    Lingering,
    /// It once had very many calls at once, and memory is short.
    Grown,
    /// Another needs its place.
    Crowded,
    /// Nobody has proven anything on it, and its address, or all who have not, have too many.
    Unproven,
}

/// Operators are few, and never shed because callers are many.
pub(super) const OPS_CONNECTIONS_MAX: usize = 256;
/// Nobody proves anything there: whoever comes from elsewhere finds room.
const OPS_PER_ADDRESS_MAX: usize = OPS_CONNECTIONS_MAX / 4;
/// See [`OPS_CONNECTIONS_MAX`].
const OPS_STREAMS_MAX: usize = 1_024;

impl Bounds {
    /// The same for operators, with places of their own.
    #[must_use]
    pub fn for_operators(self) -> Self {
        Self {
            connections: OPS_CONNECTIONS_MAX,
            unproven: OPS_CONNECTIONS_MAX,
            unproven_per_address: OPS_PER_ADDRESS_MAX,
            streams: OPS_STREAMS_MAX,
            ..self
        }
    }
}
