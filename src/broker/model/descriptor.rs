//! Descriptors: what operators say about a grant.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::broker::model::id::ProviderId;
use crate::secret::Account;

/// How a grant gets its access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantKind {
    /// By a refresh token that a use may spend (RFC 6749 section 6).
    RefreshToken,
    /// By the client's own right, which nothing spends (RFC 6749 section 4.4).
    ClientCredentials,
}

impl GrantKind {
    /// Stable name: in keys of the store and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
        }
    }

    /// A second request for the same generation may do harm.
    pub fn spends(self) -> bool {
        match self {
            Self::RefreshToken => true,
            Self::ClientCredentials => false,
        }
    }
}

/// What operators say about a grant; no secrets, unchanged by rotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The provider that it belongs to.
    pub provider: ProviderId,
    /// How it gets access tokens.
    pub kind: GrantKind,
    /// The scopes that it stands for.
    pub scopes: Vec<String>,
    /// Names and values attached by operators.
    pub labels: BTreeMap<String, String>,
    /// Refreshed before expiry even if nobody asks.
    pub keep_warm: bool,
    /// Switched off: no token is handed out and none fetched.
    pub disabled: bool,
    /// When it was imported, created or enrolled.
    pub create_time: SystemTime,
    /// Whose consent it stands on, if a provider said so.
    pub account: Option<Account>,
}
