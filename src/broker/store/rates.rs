//! How fast providers are asked, agreed on by all processes that have the store.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::model::ProviderId;
use crate::broker::store::error::StoreError;

/// Gives out the moments at which a provider may be asked; the contract is that of
/// [`Store`](super::Store), but what is known of rates may be lost with the store's memory.
#[async_trait]
pub trait Rates {
    /// Gives out up to `count` moments, none further ahead than `ahead`. Nobody gets the same one.
    async fn book(
        &self,
        provider: &ProviderId,
        limit: Limit,
        count: usize,
        ahead: Duration,
    ) -> Result<Slots, StoreError>;

    /// The provider limits our rate: nothing is given out for a while, and less after it.
    async fn slow_down(&self, provider: &ProviderId, slowing: Slowing) -> Result<(), StoreError>;
}

/// How fast a provider may be asked at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Requests in a second.
    pub rate: u32,
    /// Requests at once, where there were none for a while.
    pub burst: u32,
}

/// For how long a provider that limits our rate is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowing {
    /// As it said itself.
    pub told: Option<Duration>,
    /// Where it did not say: at first, ...
    pub least: Duration,
    /// ... and at most, after it has said so again and again.
    pub most: Duration,
    /// For how long the request had been under way: what left before a limit ended is the same event.
    pub sent_ago: Duration,
}

/// Moments that were given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// The wait of each, from now.
    pub waits: Vec<Duration>,
    /// The wait of the next one after them.
    pub next: Duration,
    /// From one to the next, at the rate of now.
    pub step: Duration,
}
