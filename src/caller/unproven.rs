//! Why nobody knows who calls, in words for whoever calls.

use thiserror::Error;

/// Why nobody knows who calls.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
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
    /// Its issuer is not the one that is believed; the signature is right.
    #[error(
        "the service account token is of another issuer: it says {claimed:?}, and \
         `callers.kubernetes.issuer` is {ours:?}"
    )]
    Issuer {
        /// What it says.
        claimed: String,
        /// What is believed.
        ours: String,
    },
    /// It is not meant for us; the signature is right.
    #[error(
        "the service account token is for another audience: it says {claimed:?}; project one with {ours:?}"
    )]
    Audience {
        /// What it says.
        claimed: String,
        /// What it must say.
        ours: String,
    },
    /// It may be right: the keys of the cluster are not known yet.
    #[error("the keys that sign service account tokens cannot be had now; call again")]
    NoKeys,
    /// This is wrong with the certificate.
    #[error("the client certificate {0}")]
    Certificate(&'static str),
}
