//! The due index: which grants are to be looked at, and when.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::broker::model::{Generation, GrantId};
use crate::broker::store::error::StoreError;

/// Knows when grants are due; the contract is that of [`Store`](super::Store).
#[async_trait]
pub trait DueIndex {
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
}
