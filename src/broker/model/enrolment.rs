//! Enrolments: grants to be, while a person is asked to consent.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::broker::model::{GrantId, ProviderId};
use crate::secret::{CodeVerifier, EnrolmentState};

/// How long a person may take. Authorization codes live for ten minutes at most (RFC 6749 section
/// 4.1.2), and people need that long to find a password.
pub const ENROLMENT_LIFE: Duration = Duration::from_secs(600);

/// A question to a person, and what proves that an answer belongs to it. Good for one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Comes back with the answer (RFC 6749 section 10.12).
    pub state: EnrolmentState,
    /// Proves that whoever spends the code asked for it (RFC 7636); `None` where the provider knows
    /// nothing of that.
    pub verifier: Option<CodeVerifier>,
    /// The grant to be.
    pub id: GrantId,
    /// Who is asked for it.
    pub provider: ProviderId,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Names and values attached by operators.
    pub labels: BTreeMap<String, String>,
    /// Where the answer goes; sent once more, exactly so, with the code.
    pub redirect_uri: String,
    /// An answer after this is none.
    pub expires_at: SystemTime,
}
