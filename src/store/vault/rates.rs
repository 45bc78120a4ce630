//! Rates in the store: nothing of them is secret, or lasts.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::model::ProviderId;
use crate::broker::store::{Limit, Rates, Slots, Slowing};
use crate::store::backend::StoreResult;
use crate::store::bucket::{Booked, from_micros, micros};
use crate::store::vault::Vault;

#[async_trait]
impl Rates for Vault {
    async fn book(
        &self,
        provider: &ProviderId,
        limit: Limit,
        count: usize,
        ahead: Duration,
    ) -> StoreResult<Slots> {
        let Booked { count, first, step } =
            self.backend.book(provider, limit, count, micros(ahead)).await?;
        let mut moments = std::iter::successors(Some(first), |at| Some(at + step)).map(from_micros);
        let waits = moments.by_ref().take(count).collect();
        let next = moments.next().unwrap_or_default();
        Ok(Slots { waits, next, step: from_micros(step) })
    }

    async fn slow_down(&self, provider: &ProviderId, slowing: Slowing) -> StoreResult<()> {
        self.backend.slow_down(provider, slowing).await
    }
}
