//! The seam to the token store: what the domain asks of it, by noun, and its contract.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

mod claims;
mod due;
mod enrolments;
mod error;
mod events;
mod findings;
mod grants;
mod rates;
mod troubles;

pub use claims::{Claim, Claims};
pub use due::DueIndex;
pub use enrolments::{Crowd, Crowded, Enrolments, Found};
pub use error::StoreError;
pub use events::{Events, Heard};
pub use findings::{Finding, Grade};
pub use grants::{Amendment, Grants, Merged, Page, Said, Seed, Stored};
pub use rates::{Limit, Rates, Slots, Slowing};
pub use troubles::{Troubles, Version, When};

/// A tombstone keeps late pairs out for longer than any pair can be late.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// After the store became another server, a process that has not said what it knows is waited for so long: it
/// may have crashed, and come back with a pair in its journal.
pub const REPLICA_WAIT_MAX: Duration = Duration::from_secs(600);

/// Grants read at once where all are looked at.
pub(super) const PAGE: usize = 500;

/// Keeps grants, sealed, and orders the changes to them.
///
/// Contract, for every implementation (`tests/it/store_contract.rs` runs it):
/// - Each method is one atomic step. `Ok` means durable by the store's own measure.
/// - An `Err` leaves open whether the step happened, unless it is [`StoreError::Refused`].
/// - Changes are ordered by [`Position`](crate::broker::model::Position); a smaller one never replaces a greater one, and
///   repeating a change has no further effect.
/// - A generation is claimed by one owner at a time, and no passing of time frees it.
#[async_trait]
pub trait Store:
    Grants + Claims + DueIndex + Enrolments + Events + Rates + Troubles + Send + Sync + 'static
{
    /// Says what and how this store is; writes a mark, which proves that it takes writes and is
    /// looked for the next time. One caller at a time.
    async fn health(&self) -> Health;

    /// What this process knows was compared with the store as [`health`](Self::health) found it, and
    /// written back: from now on claims can be made in it.
    async fn compared(&self) -> Result<(), StoreError>;

    /// These processes are waited for no longer, by nobody: they have ended, and what they knew is given up.
    async fn dismiss(&self, replicas: &[String]) -> Result<(), StoreError>;

    /// Looks at everything that decides whether grants are safe in it.
    async fn examine(&self) -> Result<Vec<Finding>, StoreError>;

    /// Says no where what is left of it is for what must be written.
    async fn spare(&self) -> Result<(), StoreError>;

    /// Lets go of some tombstones that are older than [`TOMBSTONE_LIFE`], and says of how many.
    async fn purge(&self) -> Result<usize, StoreError>;

    /// Leaves it as it should be found; nothing is asked of it any more.
    async fn close(&self) -> Result<(), StoreError>;
}

/// How a store is.
#[derive(Debug)]
pub struct Health {
    /// Kind of the store.
    pub kind: &'static str,
    /// Identifies the deployment.
    pub deployment: String,
    /// It takes writes; and whether it has lost any. Or why it takes none.
    pub state: Result<Continuity, StoreError>,
    /// Other processes, which may know what the store lacks.
    pub peers: Peers,
    /// The journal of this process; `None`: it has none, and needs none or has to do without.
    pub journal: Option<JournalCondition>,
}

/// How the journal of this process is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalCondition {
    /// Pairs in it: the store has not confirmed them, or not for long.
    pub entries: usize,
    /// Of these, and of lines that cannot be read: what the store cannot be given.
    pub stuck: usize,
    /// Why it takes nothing.
    pub trouble: Option<String>,
}

/// The processes that a store is shared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Which server it is now; another one may lack what the one before had.
    pub server: String,
    /// Since when, as any of the processes has seen it first; `None`: it has always been this one.
    pub since: Option<Instant>,
    /// Whom nobody waits for any more at this server.
    pub gone: Vec<String>,
    /// The names of the others, and whether each has compared what it knows with this server.
    pub others: Vec<(String, bool)>,
}

/// Whether a store has what it had; the worst comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Continuity {
    /// As far as we can see.
    Unbroken,
    /// It was opened or connected to anew, and may lack the last moments before that.
    Anew,
    /// It is ours, and has gone back to an older state: what was written since is missing.
    Older,
    /// It was emptied; it is ours again.
    Emptied,
}
