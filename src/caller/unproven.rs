//! Why nobody knows who calls, in words for whoever calls.

use thiserror::Error;

/// Why nobody knows who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unproven {
    /// It brought nothing.
    #[error(
        "callers must prove who they are: send the header `authorization: Bearer TOKEN`, or come with a client certificate"
    )]
    Nothing,
    /// It is no bearer token.
    #[error("the header `authorization` must be there once, as `Bearer TOKEN`")]
    Malformed,
    /// Nobody has this token.
    #[error("nobody is known by this bearer token")]
    Unknown,
    /// It is a token of a service account, and this is wrong with it.
    #[error("the service account token {0}")]
    Token(&'static str),
    /// It may be right: the keys of the cluster are not known yet.
    #[error("the keys that sign service account tokens cannot be had now; call again")]
    NoKeys,
    /// This is wrong with the certificate.
    #[error("the client certificate {0}")]
    Certificate(&'static str),
}
