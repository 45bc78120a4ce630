//! The seam to the token store: what the domain asks of it, by noun, and its contract.

use std::time::Duration;

use async_trait::async_trait;

mod claims;
mod due;
mod error;
mod grants;

pub use claims::{Claim, Claims};
pub use due::DueIndex;
pub use error::StoreError;
pub use grants::{Amendment, Grants, Merged, Page, Seed, Stored};

/// A tombstone keeps late pairs out for longer than any pair can be late.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

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
pub trait Store: Grants + Claims + DueIndex + Send + Sync + 'static {
    /// Says what and how this store is.
    async fn health(&self) -> Health;
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
