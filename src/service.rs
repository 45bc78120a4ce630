//! The gRPC edge: every method decodes, calls the domain, and encodes.
//!
//! `convert` is the only place where messages become domain types, `status` the only one where an
//! error becomes a `tonic::Status`. `gate` lets callers in, `limits` bounds what each takes, `call` says
//! who asks for what and until when, and `observe` wraps every call once; `log` is the line that a failed
//! call leaves, within the bounds of `lines`; `trail` (with `told`) is what
//! a call leaves in the audit log, `watch` the stream of one who stays.

pub mod admin;
mod call;
mod convert;
pub mod direct;
pub mod gate;
mod limits;
mod lines;
mod log;
pub mod observe;
mod peer;
pub mod reasons;
mod refusal;
mod status;
pub mod token;
mod told;
mod trail;
mod watch;

pub use admin::Admin;
pub use direct::Direct;
pub use gate::Gate;
pub use observe::Observe;
pub use peer::Peer;
pub use reasons::Reasons;
pub use refusal::Refusal;
pub(crate) use status::refused;
pub use token::Tokens;
