//! Listening: connections that no client can hold for ever, calls that no client can pile up.
//!
//! A connection has a time to speak, an age, and an age of silence; a call has a place, of which
//! there are so many, and a time to arrive whole. What hyper and h2 bound by themselves (streams of
//! a connection, bytes of headers, resets) they are told; what lies between connections is here.
//!
//! `accept` lets connections in and watches over them, `connection` is one of them and what is to
//! become of it, `strangers` are those on which nobody has proven anything, `places` is how many calls there may be, `arriving` and `answer` are the two
//! bodies of a call, `tls` what connections are accepted with.

mod accept;
mod answer;
mod arriving;
mod bounds;
mod call;
mod connection;
mod files;
mod metrics;
mod places;
mod strangers;
mod tls;

pub use accept::{Listener, Protocol};
pub use bounds::Bounds;
pub use files::room_for_connections;
pub use metrics::Ports;
pub use tls::{Tls, TlsError, TlsFiles};
