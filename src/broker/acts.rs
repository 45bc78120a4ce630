//! Acts: what the broker does to a grant by itself, for whoever keeps account of it. What operators and
//! callers ask for is told where they ask.

use tokio::sync::broadcast;

use crate::broker::model::{Enrolment, Grant, GrantId, ProviderId};

/// Acts that a listener may be behind.
const BEHIND_MAX: usize = 4096;

/// Something that was done to a grant.
#[derive(Debug, Clone)]
pub struct Act {
    /// What it was.
    pub kind: ActKind,
    /// To which grant.
    pub grant: GrantId,
    /// Its provider.
    pub provider: ProviderId,
    /// Number of the token pair that it was done to, or that came of it; `None`: there is none.
    pub generation: Option<u64>,
    /// Fingerprint of the access token of that pair; empty if it has none.
    pub fingerprint: String,
    /// More of it: a reason, or a result.
    pub detail: Option<&'static str>,
}

/// What the broker does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActKind {
    /// A new pair came, and is current.
    Refreshed,
    /// A new chain began with a person's consent.
    Enrolled,
    /// A person's consent came to nothing: refused, rejected, of another person, or given up.
    EnrolmentFailed,
    /// A refresh token was sent and its answer did not come: it may be spent.
    Doubted,
    /// A refresh token in doubt was presented again; the detail says what came of it.
    Resent,
    /// Another pair of the same generation was tried, as this one was refused.
    OtherPairTried,
    /// The provider refused the grant: it is over.
    Refused,
    /// What the provider had said of the grant holds no longer: it refuses too many at once.
    VerdictLifted,
    /// The store was behind, and has what it had lost again.
    Healed,
    /// The store had lost the grant, and has it again.
    Remade,
    /// The store had forgotten that the grant was deleted.
    DeletedAgain,
}

impl ActKind {
    /// Its name in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refreshed => "broker.refreshed",
            Self::Enrolled => "broker.enrolled",
            Self::EnrolmentFailed => "broker.enrolment_failed",
            Self::Doubted => "broker.doubted",
            Self::Resent => "broker.resent",
            Self::OtherPairTried => "broker.other_pair_tried",
            Self::Refused => "broker.refused",
            Self::VerdictLifted => "broker.verdict_lifted",
            Self::Healed => "broker.healed",
            Self::Remade => "broker.remade",
            Self::DeletedAgain => "broker.deleted_again",
        }
    }
}

/// Tells whoever listens.
pub(super) struct Acts(broadcast::Sender<Act>);

impl Default for Acts {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }
}

impl Acts {
    pub(super) fn listen(&self) -> broadcast::Receiver<Act> {
        self.0.subscribe()
    }

    pub(super) fn tell_enrolment(&self, kind: ActKind, enrolment: &Enrolment) {
        // Nobody may be listening.
        let _ = self.0.send(Act {
            kind,
            grant: enrolment.grant.clone(),
            provider: enrolment.provider.clone(),
            generation: None,
            fingerprint: String::new(),
            detail: None,
        });
    }

    pub(super) fn tell(&self, kind: ActKind, grant: &Grant, detail: Option<&'static str>) {
        // Nobody may be listening.
        if self.0.receiver_count() == 0 {
            return;
        }
        let token = grant.pair.token.as_ref();
        let _ = self.0.send(Act {
            kind,
            grant: grant.id.clone(),
            provider: grant.descriptor.provider.clone(),
            generation: Some(grant.generation().0),
            fingerprint: token.map(|it| it.access_token.fingerprint()).unwrap_or_default(),
            detail,
        });
    }
}
