//! Publishing: a new pair is made durable, then current; the store is healed where it is behind.

use std::future::Future;

use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::broker::Broker;
use crate::broker::error::{Error, chain};
use crate::broker::flight::{Landing, Tower};
use crate::broker::grant::{Grant, Intent, Pair, Position, Standing};
use crate::broker::known::{Entry, View};
use crate::broker::metrics::ByProvider;
use crate::broker::rotation::usable;
use crate::broker::settings::backoff;
use crate::broker::store::{Merged, Publication, StoreError};

impl Broker {
    /// The store went back behind what we know: it gets the newer pair before anything is spent,
    /// because what it holds is spent already.
    pub(super) async fn heal(&self, grant: &Grant) -> Result<(), Error> {
        if grant.standing != Standing::Usable {
            return Ok(());
        }
        warn!(generation = %grant.generation(), "the store is behind what it had taken; healing it");
        let publication = Publication {
            generation: grant.generation(),
            fence: grant.position.fence,
            descriptor: grant.descriptor.clone(),
            pair: grant.pair.clone(),
            due_at: None,
        };
        self.store.merge(&grant.id, publication).await?;
        Ok(())
    }

    /// Makes a pair durable, then current. If the store does not take it, it is served from
    /// memory and offered again until the store does.
    pub(super) async fn publish(
        &self,
        entry: &Entry,
        grant: Grant,
        intent: &Intent,
        pair: Pair,
        tower: Option<&Tower>,
    ) -> Landing {
        let generation = intent.generation.next();
        let position = Position { generation, fence: intent.fence };
        let next =
            Grant { position, pair, standing: Standing::Usable, intent: None, ..grant.clone() };
        let view = View::new(next.clone());
        let publication = Publication {
            generation,
            fence: intent.fence,
            descriptor: next.descriptor.clone(),
            pair: next.pair.clone(),
            due_at: next.descriptor.keep_warm.then(|| view.due_at()),
        };
        let step = || self.store.merge(&entry.id, publication.clone());
        let serve_from_memory = || {
            let view = entry.adopt(next.clone());
            if let Some(tower) = tower {
                tower.send_replace(Some(Ok(view)));
            }
        };
        let merged = self.persist(&grant, "the new token pair", step, serve_from_memory).await;
        match merged {
            Merged::Published | Merged::Same => {
                let fingerprint =
                    next.pair.token.as_ref().map(|token| token.access_token.fingerprint());
                info!(%generation, token.fingerprint = fingerprint, "refreshed");
                Ok(entry.adopt(next))
            }
            Merged::Sibling | Merged::Old => self.reload(entry).await,
            Merged::Missing => {
                error!(%generation, "the grant is missing in the store; its pair is only in memory");
                Ok(entry.adopt(next))
            }
        }
    }

    /// Repeats `step` until the store takes it; `alarm` runs at the first failure.
    pub(super) async fn persist<T, F>(
        &self,
        grant: &Grant,
        what: &str,
        step: impl Fn() -> F,
        alarm: impl Fn(),
    ) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut failures = 0;
        loop {
            let failure = match step().await {
                Ok(done) => {
                    if failures > 0 {
                        self.metrics.unpublished_pairs.dec();
                        info!(failures, "the store has taken {what}");
                    }
                    return done;
                }
                Err(failure) => failure,
            };
            let provider = grant.descriptor.provider.as_str().to_owned();
            self.metrics.persist_failures.get_or_create(&ByProvider { provider }).inc();
            error!(error = %chain(&failure), failures, "the store did not take {what}; it is kept in memory and offered again");
            if failures == 0 {
                self.metrics.unpublished_pairs.inc();
                alarm();
            }
            let settings = &self.settings;
            sleep(backoff(settings.publish_backoff, failures, settings.publish_backoff_max)).await;
            failures += 1;
        }
    }

    /// Repeats `step` until it succeeds; `told` hears of the first failure.
    pub(super) async fn insist<T, E, F>(&self, step: impl Fn() -> F, told: impl Fn(&E)) -> T
    where
        F: Future<Output = Result<T, E>>,
    {
        let settings = &self.settings;
        let mut failures = 0;
        loop {
            match step().await {
                Ok(done) => return done,
                Err(failure) if failures == 0 => told(&failure),
                Err(_) => {}
            }
            sleep(backoff(settings.publish_backoff, failures, settings.publish_backoff_max)).await;
            failures += 1;
        }
    }

    pub(super) async fn reload(&self, entry: &Entry) -> Landing {
        let grant = self.store.load(&entry.id).await?;
        let grant = grant.ok_or_else(|| Error::GrantNotFound(entry.id.clone()))?;
        let view = entry.adopt(grant);
        usable(&view.grant)?;
        Ok(view)
    }
}
