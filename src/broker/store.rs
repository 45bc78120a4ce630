//! The seam to the token store: its vocabulary and its contract.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use thiserror::Error;

use crate::broker::model::{
    Descriptor, Doubt, Fence, Generation, Grant, GrantId, Intent, Owner, Pair, Position, Verdict,
};

/// A tombstone keeps late pairs out for longer than any pair can be late.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Grants read at once where all are looked at.
pub(super) const PAGE: usize = 500;

/// Keeps grants, sealed, and orders the changes to them.
///
/// Contract, for every implementation (`tests/it/store_contract.rs` runs it):
/// - Each method is one atomic step. `Ok` means durable by the store's own measure.
/// - An `Err` leaves open whether the step happened, unless it is [`StoreError::Refused`].
/// - Changes are ordered by [`Position`]; a smaller one never replaces a greater one, and
///   repeating a change has no further effect.
/// - A generation is claimed by one owner at a time, and no passing of time frees it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads a grant; tombstones included.
    async fn load(&self, id: &GrantId) -> Result<Option<Grant>, StoreError>;

    /// Reads up to `limit` grants after the cursor; tombstones and what cannot be opened left out.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Page, StoreError>;

    /// Starts a new chain if the grant still stands at `expected` (`None`: does not exist).
    ///
    /// Its generation is above everything before it, so no late pair of the old chain wins.
    async fn start_chain(
        &self,
        id: &GrantId,
        expected: Option<Position>,
        seed: Seed,
    ) -> Result<Option<Grant>, StoreError>;

    /// Claims the right to spend `generation`. The grant is due again after `watch` at the latest,
    /// so that somebody looks if the holder is no more.
    ///
    /// `takeover` lets the claim replace an intent that is at least that old: only for kinds that
    /// spend nothing.
    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> Result<Claim, StoreError>;

    /// Takes a claim over whose refresh token is in doubt, if it is still `held`. The doubt stays
    /// until there is a definite answer.
    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> Result<Claim, StoreError>;

    /// Records that the request under this claim got no definite answer, and when the grant is to
    /// be looked at again. `false`: the claim is not ours.
    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> Result<bool, StoreError>;

    /// Gives a claim back, knowing that the provider processed nothing under it: the generation is
    /// free, or in doubt as before. `false`: it is not ours.
    async fn release(&self, id: &GrantId, intent: &Intent) -> Result<bool, StoreError>;

    /// Publishes a pair, or heals the store with one. A missing grant is made again, and so is what
    /// the store needs to be opened later; a tombstone stops it, and a store of another deployment
    /// is never written to.
    async fn merge(&self, id: &GrantId, publication: Publication) -> Result<Merged, StoreError>;

    /// Records the provider's final no, if the claim is still ours. `false`: it is not.
    async fn refuse(
        &self,
        id: &GrantId,
        intent: &Intent,
        verdict: &Verdict,
    ) -> Result<bool, StoreError>;

    /// Changes what people decided about the grant, if it still stands at `expected`.
    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> Result<Option<Grant>, StoreError>;

    /// Replaces the grant by a tombstone if it still stands at `expected`.
    async fn delete(&self, id: &GrantId, expected: Position) -> Result<bool, StoreError>;

    /// Puts the grant, if it is still at `generation`, into the due index.
    async fn schedule(
        &self,
        id: &GrantId,
        generation: Generation,
        due_at: SystemTime,
    ) -> Result<(), StoreError>;

    /// Takes about `limit` grants that are due and hides them from other takers for `visibility`.
    async fn take_due(
        &self,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<GrantId>, StoreError>;

    /// Says what and how this store is.
    async fn health(&self) -> Health;
}

/// A page of grants.
#[derive(Debug)]
pub struct Page {
    /// The grants.
    pub grants: Vec<Grant>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// The beginning of a chain.
#[derive(Debug, Clone)]
pub struct Seed {
    /// What operators say about the grant.
    pub descriptor: Descriptor,
    /// Its first secrets.
    pub pair: Pair,
    /// When it is due, if it is kept warm.
    pub due_at: Option<SystemTime>,
}

/// A change of what people decided about a grant; what is left out stays.
#[derive(Debug, Clone, Default)]
pub struct Amendment {
    /// The verdict is lifted: the grant is usable again.
    pub lift: bool,
    /// Switched off or on.
    pub disabled: Option<bool>,
    /// The refresh token is in doubt (again), under a claim of this owner.
    pub in_doubt: Option<(Owner, Doubt)>,
    /// When it is due from now on.
    pub due_at: Option<SystemTime>,
}

/// A pair on its way into the store.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The generation that it makes current.
    pub generation: Generation,
    /// The fence of the claim that bought it.
    pub fence: Fence,
    /// What operators say about the grant.
    pub descriptor: Descriptor,
    /// The secrets.
    pub pair: Pair,
    /// When it is due; `None` while nobody uses it.
    pub due_at: Option<SystemTime>,
}

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The right is ours.
    Granted(Intent),
    /// Somebody holds it.
    Busy(Intent),
    /// The grant is not at this generation or not usable: read it again.
    Moved,
}

/// Answer to a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is current now.
    Published,
    /// It was current already.
    Same,
    /// A pair of the same generation with a greater fence is current; ours is kept beside it.
    Sibling,
    /// Something newer is current.
    Old,
    /// The store had lost the grant; it was made again from what the publication holds.
    Remade,
}

/// How a store is.
#[derive(Debug, Clone)]
pub struct Health {
    /// Kind of the store.
    pub kind: &'static str,
    /// It answers.
    pub available: bool,
    /// Identifies the deployment.
    pub deployment: String,
}

/// Why the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It did not answer, or not in time; the step may have happened.
    #[error("the token store does not answer; calls are retried")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refused the step, which did not happen.
    #[error("the token store refused: {0}")]
    Refused(String),
    /// A cursor is not one of ours.
    #[error("page_token is not one that this store gave out; begin without it")]
    BadCursor,
    /// A record cannot be opened.
    #[error("the record of grant {grant} cannot be opened: {why}")]
    Unreadable {
        /// The grant.
        grant: GrantId,
        /// What to look at.
        why: &'static str,
        /// Where it stands, if that can be read: enough to replace or delete it.
        position: Option<Position>,
    },
}
