//! Enrolments: grants to be, while a person is asked to consent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::broker::model::{GrantId, ProviderId};
use crate::secret::{CodeVerifier, EnrolmentId, EnrolmentState, Nonce, UserCode};

/// How long a person may take. Authorization codes live for ten minutes at most (RFC 6749 section
/// 4.1.2), and people need that long to find a password.
pub const ENROLMENT_LIFE: Duration = Duration::from_secs(600);
/// How long it is known what became of one.
pub const ENROLMENT_KEPT: Duration = Duration::from_secs(2 * ENROLMENT_LIFE.as_secs());

/// A question to a person, and what proves that an answer belongs to it. Good for one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Names it for whoever began it.
    pub id: EnrolmentId,
    /// Comes back with the answer (RFC 6749 section 10.12).
    pub state: EnrolmentState,
    /// Proves that whoever spends the code asked for it (RFC 7636); `None` where the provider knows
    /// nothing of that.
    pub verifier: Option<CodeVerifier>,
    /// Comes back within what the provider says of the person; `None` where it says nothing.
    pub nonce: Option<Nonce>,
    /// The grant to be.
    pub grant: GrantId,
    /// Who is asked for it.
    pub provider: ProviderId,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Names and values attached by operators.
    pub labels: BTreeMap<String, String>,
    /// Where the answer goes; sent once more, exactly so, with the code.
    pub redirect_uri: String,
    /// Another person's account than before is welcome.
    pub other_account: bool,
    /// How the broker's own page asks; `None`: whoever began it brings the answer.
    pub page: Option<PageTerms>,
    /// An answer after this is none.
    pub expires_at: SystemTime,
}

/// What the broker's own page holds a person to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageTerms {
    /// Shown to whoever began it, and asked of the browser: a link alone connects nothing.
    pub code: UserCode,
    /// Who began it, as they say.
    pub started_by: String,
}

/// How an enrolment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The grant lives.
    Granted(GrantId),
    /// Nothing was changed; why, for people.
    Failed(String),
    /// Whoever began it wants no answer any more.
    Cancelled,
}

impl Ending {
    /// As metrics name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How many enrolments may have been begun within [`ENROLMENT_KEPT`]; what they leave is kept so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnrolmentLimits {
    /// By one caller who has proven who it is; 0: as many as it likes.
    pub per_caller: usize,
    /// For one grant.
    pub per_grant: usize,
    /// In all.
    pub in_all: usize,
}

impl Default for EnrolmentLimits {
    fn default() -> Self {
        // A page for customers begins one every second; a person tries again every minute.
        Self { per_caller: 1_200, per_grant: 20, in_all: 10_000 }
    }
}
