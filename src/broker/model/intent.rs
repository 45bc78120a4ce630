//! Claims and doubts: who spends a generation, and what is known of requests without an answer.

use std::time::SystemTime;

use crate::broker::model::generation::{Fence, Generation};

/// Name of the holder of a claim on a record that was lost and made again: whoever held the lost one may
/// have a request under way, for as long as anybody listens.
pub const REMADE: &str = "remade";

/// Who spends a generation. `attempt` is new for each claim, so that a process never takes an
/// earlier, already sent claim of its own for a fresh one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the replica.
    pub replica: String,
    /// Random number drawn when the process started.
    pub boot: u64,
    /// Number of the claim within the process.
    pub attempt: u64,
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

impl Intent {
    /// The doubt, if nobody is resolving it: its holder has no request under way.
    pub fn in_doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref().filter(|doubt| doubt.fence == self.fence)
    }
}
