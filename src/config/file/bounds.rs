//! The section `bounds`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::file::{Span, s};
use crate::listener;

/// How much clients may take. What is over a bound is refused or closed, and counted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Bounds {
    /// Connections to the API at once. One more takes the place of the one that has been idle
    /// longest. Fewer are let in where the system gives us too few files to refresh beside them.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) connections: usize,
    /// Connections on which nobody has proven anything: those that did not call yet, listen to health or
    /// look at the contract. With one more, the oldest of the address that has most goes.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) unproven: usize,
    /// Of these, those of one address, or of one /64 where it is IPv6. Where all callers come from one
    /// address (a sidecar, a load balancer), it must hold as many as may connect at once; as high as
    /// `unproven`, it bounds nobody by address.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) unproven_per_address: usize,
    /// Calls and streams of one connection at once; the client waits with more.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::config) connection_streams: u32,
    /// Calls for tokens at once, watched tokens among them. When all wait, calls that memory can
    /// answer are still let in; requests that do not arrive whole give way first.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(in crate::config) streams: usize,
    /// Bytes of the headers of a call, and 32 more for each header. A bearer token takes one to four
    /// thousand.
    #[schemars(range(min = 1_024, max = 1_048_576))]
    pub(in crate::config) header_bytes: u32,
    /// From a connection to its first byte.
    pub(in crate::config) speak: Span,
    /// From the headers of a call to the end of its request.
    pub(in crate::config) request: Span,
    /// From an answer to the moment at which the client begins to take it.
    pub(in crate::config) answer: Span,
    /// A connection without calls ends after this time. gRPC clients open another when they need it.
    pub(in crate::config) idle: Span,
    /// A connection ends after this time, up to a tenth more or less: clients notice new replicas.
    pub(in crate::config) age: Span,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            // Ten thousand watching services, each with a connection of its own, and some to spare.
            connections: 12_000,
            // A sixth: a caller is one of these only until its first call.
            unproven: 2_000,
            // Four addresses fill the share; a connection takes milliseconds to prove its caller.
            unproven_per_address: 500,
            // A service that watches many grants has one connection, and would wait unseen with more
            // streams than this; and the library keeps 1 to 2 kB for each as long as it is open.
            connection_streams: 250,
            // Ten thousand watched tokens, and six thousand calls that wait for a provider.
            streams: 16_384,
            header_bytes: 8 * 1_024,
            speak: s(10),
            request: s(10),
            answer: s(30),
            // Load balancers let go of silent connections after five minutes and more.
            idle: s(5 * 60),
            age: s(10 * 60),
        }
    }
}

impl Bounds {
    /// Waits of which none may be zero.
    pub(in crate::config) fn spans(&self) -> [(&'static str, Span); 5] {
        [
            ("bounds.speak", self.speak),
            ("bounds.request", self.request),
            ("bounds.answer", self.answer),
            ("bounds.idle", self.idle),
            ("bounds.age", self.age),
        ]
    }
}

impl From<&Bounds> for listener::Bounds {
    fn from(section: &Bounds) -> Self {
        Self {
            connections: section.connections,
            unproven: section.unproven,
            unproven_per_address: section.unproven_per_address,
            connection_streams: section.connection_streams,
            streams: section.streams,
            header_bytes: section.header_bytes,
            speak: section.speak.0,
            request: section.request.0,
            answer: section.answer.0,
            idle: section.idle.0,
            age: section.age.0,
        }
    }
}
