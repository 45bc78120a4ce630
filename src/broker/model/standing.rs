//! Standing: whether a grant can be used.

use std::time::SystemTime;

use crate::broker::model::intent::Doubt;
use crate::broker::model::reason::Reason;

/// The provider's final no to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// The provider's error code, sanitised.
    pub provider_error: Option<String>,
    /// What else it said; for operators, cut and cleaned.
    pub detail: Option<String>,
    /// HTTP status of the reply.
    pub provider_status: Option<u16>,
    /// When.
    pub time: SystemTime,
    /// An API had rejected the access token, too: it is no good until its end.
    pub token_rejected: bool,
    /// It is not the provider's: an operator gave up a refresh token in this doubt.
    pub given_up: Option<Doubt>,
}

impl Verdict {
    /// It is no word of the provider's: an operator took the tokens back. Nothing lifts it.
    pub fn is_revocation(&self) -> bool {
        self.reason == Reason::GrantRevoked
    }
}

/// Whether a grant can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Usable,
    /// The provider refused its refresh token; only a new chain helps.
    Refused(Verdict),
    /// It was deleted; what is left is a tombstone that keeps late pairs out.
    Deleted,
}
