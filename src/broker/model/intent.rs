//! Claims and doubts: who spends a generation, and what is known of requests without an answer.

use std::time::SystemTime;

use crate::broker::model::generation::{Fence, Generation};

/// Who spends a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A broker. `attempt` is new for each claim, so that a process never takes an earlier, already sent
    /// claim of its own for a fresh one.
    Process {
        /// Name of the replica.
        replica: String,
        /// Random number drawn when the process started.
        boot: u64,
        /// Number of the claim within the process; from 1 on.
        attempt: u64,
    },
    /// Nobody that is known: the record was lost and made again, and whoever held the lost one may have a
    /// request under way, for as long as anybody listens.
    Remade,
    /// Nobody: the store is a copy from the past.
    Restored,
}

impl Owner {
    /// Number of the claim within its process; 0 for nobody's.
    pub fn attempt(&self) -> u64 {
        match self {
            Self::Process { attempt, .. } => *attempt,
            Self::Remade | Self::Restored => 0,
        }
    }

    /// Name of the replica.
    pub fn replica(&self) -> Option<&str> {
        match self {
            Self::Process { replica, .. } => Some(replica),
            Self::Remade | Self::Restored => None,
        }
    }
}

/// How it came that nobody knows whether a refresh token was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DoubtKind {
    /// The provider answered that something went wrong, before or after it spent the token.
    Answered,
    /// The provider answered with success, and the answer cannot be read.
    Unreadable,
    /// The connection ended without an answer.
    Ended,
    /// No answer came for as long as one is listened for.
    Unheard,
    /// The process that had sent it is gone.
    Died,
    /// The store is a copy from the past: the token may have been spent since.
    Restored,
    /// A process elsewhere holds the claim and has given no sign for so long that it is taken for gone.
    /// That is not proven: what follows may cost a pair that it has. It stays so until there is an answer.
    Silent,
}

impl DoubtKind {
    /// All values, for tables and tests.
    pub const ALL: [Self; 7] = [
        Self::Answered,
        Self::Unreadable,
        Self::Ended,
        Self::Unheard,
        Self::Died,
        Self::Restored,
        Self::Silent,
    ];

    /// Stable name: in stored records, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreadable => "unreadable",
            Self::Ended => "ended",
            Self::Unheard => "unheard",
            Self::Died => "died",
            Self::Restored => "restored",
            Self::Silent => "silent",
        }
    }

    /// The value of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A refresh token that was sent and got no definite answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// How the newest request ended.
    pub kind: DoubtKind,
    /// HTTP status of the newest answer, if there was one.
    pub status: Option<u16>,
    /// When the token was first sent.
    pub since: SystemTime,
    /// When it was last sent; of a process that is gone, when that was proven.
    pub sent_at: SystemTime,
    /// How often it was sent.
    pub attempts: u32,
    /// The claim that it belongs to. If that is not the one that is held, the doubt is being
    /// resolved under the one that is.
    pub fence: Fence,
}

/// The mark "this generation is being spent". It never expires by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The generation being spent.
    pub generation: Generation,
    /// By whom.
    pub owner: Owner,
    /// Orders holders.
    pub fence: Fence,
    /// When, by the store's clock.
    pub since: SystemTime,
    /// What is known of requests that got no definite answer.
    pub doubt: Option<Doubt>,
}

impl Doubt {
    /// The doubt that follows when the newest request under `held` ended like this, or was found to have. What
    /// followed a holder that may be alive stays so until there is an answer.
    pub fn after(
        held: &Intent,
        kind: DoubtKind,
        status: Option<u16>,
        first_sent: SystemTime,
        sent_at: SystemTime,
    ) -> Self {
        let before = held.doubt.as_ref();
        let unproven = before.is_some_and(|before| before.kind == DoubtKind::Silent);
        Self {
            kind: if unproven { DoubtKind::Silent } else { kind },
            status,
            since: before.map_or(first_sent, |before| before.since),
            sent_at,
            attempts: before.map_or(0, |before| before.attempts) + 1,
            fence: held.fence,
        }
    }
}

impl Intent {
    /// The doubt, if nobody is resolving it: its holder has no request under way.
    pub fn in_doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref().filter(|doubt| doubt.fence == self.fence)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn what_followed_a_silent_holder_stays_unproven_until_there_is_an_answer() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let owner = Owner::Process { replica: "one".to_owned(), boot: 1, attempt: 1 };
        let held = |doubt| Intent {
            generation: Generation(1),
            owner: owner.clone(),
            fence: Fence(7),
            since: at(1),
            doubt,
        };
        let first = Doubt::after(&held(None), DoubtKind::Ended, Some(502), at(1), at(2));
        assert_eq!((first.kind, first.attempts, first.since), (DoubtKind::Ended, 1, at(1)));
        let silent = Doubt { kind: DoubtKind::Silent, ..first };
        for kind in DoubtKind::ALL {
            let next = Doubt::after(&held(Some(silent.clone())), kind, None, at(8), at(9));
            let told = (next.kind, next.attempts, next.since, next.sent_at, next.fence);
            assert_eq!(told, (DoubtKind::Silent, 2, at(1), at(9), Fence(7)));
        }
    }
}
