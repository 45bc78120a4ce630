//! Grants in the store: read, begun, published, amended and deleted.

use std::collections::BTreeMap;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::broker::model::{Answer, Descriptor, Doubt, Grant, GrantId, Owner, Pair, Position};
use crate::broker::store::error::StoreError;

/// Keeps grants; the contract is that of [`Store`](super::Store).
#[async_trait]
pub trait Grants {
    /// Reads a grant, or what is left of a deleted one.
    async fn load(&self, id: &GrantId) -> Result<Option<Stored>, StoreError>;

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

    /// Puts a pair that has just come back where the end of this process does not reach it, until a
    /// merge of it was confirmed for long enough. Where a merge itself is as near as that, this does
    /// nothing.
    /// Or why that was not possible.
    async fn journal(&self, grant: &Grant, due_at: Option<SystemTime>) -> Result<(), String>;

    /// Publishes the pair that makes the grant's position current, or heals the store with it; it is
    /// due at `due_at`. What operators say is written where it is newer than what is there. A missing
    /// grant is made again, and so is what the store needs to be opened later; a tombstone stops it,
    /// and a store of another deployment is never written to.
    async fn merge(&self, grant: &Grant, due_at: Option<SystemTime>) -> Result<Merged, StoreError>;

    /// Changes what people decided about the grant, if it still stands at `expected`.
    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> Result<Option<Grant>, StoreError>;

    /// Replaces the grant by a tombstone if it still stands at `expected`.
    async fn delete(&self, id: &GrantId, expected: Position) -> Result<bool, StoreError>;

    /// Heals the store with a deletion: a tombstone at this position, unless what is there is not older.
    async fn bury(&self, id: &GrantId, at: Position) -> Result<bool, StoreError>;

    /// Starts a new chain in the place of a record that cannot even be read; `None`: it can.
    async fn start_over(&self, id: &GrantId, seed: Seed) -> Result<Option<Grant>, StoreError>;

    /// Replaces a record that cannot even be read by a tombstone; `false`: it can.
    async fn discard(&self, id: &GrantId) -> Result<bool, StoreError>;
}

/// What the store has of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large kind, and short-lived")]
pub enum Stored {
    /// All of it.
    Grant(Grant),
    /// It was deleted; a tombstone at this position keeps late pairs out.
    Deleted(Position),
}

impl Stored {
    /// Where its newest change stands.
    pub fn position(&self) -> Position {
        match self {
            Self::Grant(grant) => grant.position,
            Self::Deleted(position) => *position,
        }
    }

    /// The grant, unless it was deleted.
    pub fn grant(self) -> Option<Grant> {
        match self {
            Self::Grant(grant) => Some(grant),
            Self::Deleted(_) => None,
        }
    }
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
    /// With that, what the provider said last is this; `None`: it is forgotten.
    pub answer: Option<Answer>,
    /// What operators say of it.
    pub said: Said,
    /// The refresh token is in doubt (again), under a claim of this owner.
    pub in_doubt: Option<(Owner, Doubt)>,
    /// When it is due from now on.
    pub due_at: Option<SystemTime>,
}

/// What operators say anew of a grant; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Switched off or on.
    pub disabled: Option<bool>,
    /// Names and values.
    pub labels: Option<BTreeMap<String, String>>,
    /// Refreshed before expiry even if nobody asks.
    pub keep_warm: Option<bool>,
    /// The scopes that it asks for.
    pub scopes: Option<Vec<String>>,
}

impl Said {
    /// What is said of the grant then.
    #[must_use]
    pub fn of(&self, descriptor: &Descriptor) -> Descriptor {
        let Self { disabled, labels, keep_warm, scopes } = self.clone();
        Descriptor {
            disabled: disabled.unwrap_or(descriptor.disabled),
            labels: labels.unwrap_or_else(|| descriptor.labels.clone()),
            keep_warm: keep_warm.unwrap_or(descriptor.keep_warm),
            scopes: scopes.unwrap_or_else(|| descriptor.scopes.clone()),
            ..descriptor.clone()
        }
    }
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
