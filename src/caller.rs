//! Callers: who they are, and how they prove it.
//!
//! The first proof that is there counts: a bearer token (of a Kubernetes service account, or a static
//! one for development), then a client certificate. One that is there and wrong is an error, whatever
//! else is there.

use std::fmt;

mod authenticators;
mod cache;
mod certificate;
mod claimed;
mod jwt;
mod keys;
mod statics;
mod unproven;

pub use authenticators::{Authenticators, Credentials};
pub use certificate::Certificate;
pub use claimed::Claimed;
pub use jwt::Kubernetes;
pub use keys::{KeySource, Keys, keys as parse_keys};
pub use statics::{StaticTokens, StaticTokensError};
pub use unproven::Unproven;

/// How much one caller may take of this process; 0: as much as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerLimits {
    /// Calls in a second.
    pub rate: u32,
    /// Calls at once.
    pub concurrency: u32,
    /// Tokens of one grant that are replaced for one caller in an hour.
    pub force_refreshes: u32,
}

/// Who calls, as it was proven.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Whoever reaches the port: nobody has to prove anything.
    Anyone,
    /// A pod, by the token of its service account.
    Kubernetes {
        /// Where it runs.
        namespace: String,
        /// As whom.
        service_account: String,
    },
    /// A workload, by the URI of its certificate.
    Spiffe(String),
    /// Whoever has this token of the file.
    Static(String),
}

impl Caller {
    /// The caller of this name, as [`subject`](Self::subject) gives it; `None`: nobody can be called so.
    pub fn named(text: &str) -> Option<Self> {
        if text == "anyone" {
            return Some(Self::Anyone);
        }
        if let Some(path) = text.strip_prefix("spiffe://") {
            let whole = path.split_once('/').is_some_and(|(domain, _)| !domain.is_empty());
            return whole.then(|| Self::Spiffe(text.to_owned()));
        }
        if let Some(name) = text.strip_prefix("static:") {
            return is_name(name).then(|| Self::Static(name.to_owned()));
        }
        let (namespace, name) = text.strip_prefix("kubernetes:")?.split_once('/')?;
        Self::of_pod(namespace, name)
    }

    /// A pod in a namespace, as a service account.
    fn of_pod(namespace: &str, name: &str) -> Option<Self> {
        let (namespace, service_account) = (namespace.to_owned(), name.to_owned());
        let right = is_name(&namespace) && is_name(&service_account);
        right.then_some(Self::Kubernetes { namespace, service_account })
    }

    /// Its name in rules and logs.
    pub fn subject(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Kubernetes { namespace, service_account } => {
                write!(f, "kubernetes:{namespace}/{service_account}")
            }
            Self::Spiffe(uri) => f.write_str(uri),
            Self::Static(name) => write!(f, "static:{name}"),
        }
    }
}

/// What could be taken for a pattern or for another part is no name.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
