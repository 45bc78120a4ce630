//! Publishing: a new pair is made durable, then current; the store is healed where it is behind.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::broker::acts::ActKind;
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::freshness::{end_due, idle_due, soft_due};
use crate::broker::metrics::ByProvider;
use crate::broker::model::{Answer, Grant, Intent, Owner, Pair, Position, Standing};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::{Callers, Refreshed};
use crate::broker::refresh::rotation::usable;
use crate::broker::store::{Merged, StoreError, TOMBSTONE_LIFE};
use crate::broker::view::View;
use crate::clock::between;
use crate::crash::{self, Moment};

impl Rotations {
    /// Reads the grant from the store. Where the store is behind what we know, or has lost the
    /// grant, it gets what we know before anything is spent: what it holds is spent already.
    pub(in crate::broker) async fn reconcile(&self, entry: &Entry) -> Refreshed {
        self.compare(entry, false).await
    }

    /// The same. `emptied`: the store has lost all its tombstones, and a missing one says nothing.
    pub(super) async fn compare(&self, entry: &Entry, emptied: bool) -> Refreshed {
        let known = entry.view();
        let stored = self.load(&entry.id).await?;
        let heals = known.grant.standing == Standing::Usable;
        let position = known.grant.position;
        if known.grant.standing == Standing::Deleted {
            // What it has of a deleted grant comes from before that.
            let older = stored.as_ref().is_some_and(|stored| stored.position() < position);
            if (older || (emptied && stored.is_none()))
                && self.store.bury(&entry.id, position).await?
            {
                self.watch.healed.fetch_add(1, Ordering::Relaxed);
                warn!(grant.id = %entry.id, "the store had forgotten that this grant was deleted");
                self.acts.tell(ActKind::DeletedAgain, &known.grant, None);
                return Err(Error::GrantNotFound(entry.id.clone()));
            }
        }
        match stored {
            Some(stored) if heals && stored.position() < known.grant.position => {
                warn!(grant.id = %entry.id, generation = %known.grant.generation(),
                    "the store is behind what it had taken; it is healed");
                self.heal(entry, &known).await
            }
            Some(stored) => Ok(entry.learn(stored)),
            None if heals && !emptied && self.outlives_tombstones(&known) => {
                Err(Error::GrantNotFound(entry.id.clone()))
            }
            None if heals => self.heal(entry, &known).await,
            None => Err(Error::GrantNotFound(entry.id.clone())),
        }
    }

    /// Gives the store the pair that it has lost, and says what it has then: others may have changed
    /// the grant meanwhile.
    async fn heal(&self, entry: &Entry, known: &Arc<View>) -> Refreshed {
        let wanted = known.grant.descriptor.keep_warm || entry.in_use(known.grant.generation());
        let due_at = self.due_at(&known.grant, wanted);
        // Of a lost record a claim may have been lost, too.
        let owner = Owner::Remade;
        let grant = &known.grant;
        let (generation, fence, since) = (grant.generation(), grant.position.fence, self.start);
        let held = Intent { generation, owner, fence, since, doubt: None };
        let held = (self.spends(grant) && self.watch.has_others()).then_some(held);
        let wanted = Grant { intent: held, ..grant.clone() };
        let merged = self.store.merge(&wanted, due_at).await?;
        if matches!(merged, Merged::Published | Merged::Remade) {
            self.watch.healed.fetch_add(1, Ordering::Relaxed);
        }
        match merged {
            Merged::Remade => self.tell_remade(&known.grant),
            Merged::Published => self.acts.tell(ActKind::Healed, &known.grant, None),
            Merged::Same | Merged::Sibling | Merged::Old => {}
        }
        let stored = self.load(&entry.id).await?;
        Ok(stored.map_or_else(|| Arc::clone(known), |stored| entry.learn(stored)))
    }

    /// When the grant is to be refreshed: in time if it is `wanted`, in use or kept warm; otherwise
    /// often enough for its refresh token to live, where the provider wants that or said its end.
    pub(in crate::broker) fn due_at(&self, grant: &Grant, wanted: bool) -> Option<SystemTime> {
        let every = self.habits(&grant.descriptor.provider).keep_warm_every;
        let every = every.filter(|_| grant.descriptor.kind.spends());
        let idle = every
            .map(|every| idle_due(&grant.id, grant.generation(), grant.pair.published_at, every));
        let end = grant
            .pair
            .refresh_token_expires_at
            .and_then(|end| end_due(&grant.id, grant.generation(), grant.pair.published_at, end));
        let soft = wanted.then(|| soft_due(grant));
        idle.into_iter().chain(end).chain(soft).min()
    }

    /// What we know is so old that a deletion by somebody else would have left no mark any more.
    fn outlives_tombstones(&self, known: &View) -> bool {
        let age = between(known.grant.pair.published_at, self.clock.now());
        age >= TOMBSTONE_LIFE
    }

    fn tell_remade(&self, grant: &Grant) {
        let provider = grant.descriptor.provider.as_str().to_owned();
        self.metrics.remade_grants.get_or_create(&ByProvider { provider }).inc();
        self.acts.tell(ActKind::Remade, grant, None);
        error!(grant.id = %grant.id, generation = %grant.generation(),
            "the store had lost this grant; it was made again from memory. What else did the store lose?");
    }

    /// Makes a pair durable, then current. If the store does not take it, it is served from
    /// memory and offered again until the store does.
    pub(super) async fn publish(
        &self,
        entry: &Entry,
        grant: Grant,
        intent: &Intent,
        pair: Pair,
        answer: Option<Answer>,
        callers: Option<&Callers<'_>>,
    ) -> Refreshed {
        let generation = intent.generation.next();
        let position = Position { generation, fence: intent.fence };
        // What operators changed meanwhile stands.
        let known = entry.view();
        let latest = if known.grant.continues(intent.generation) { &known.grant } else { &grant };
        let (descriptor, described) = (latest.descriptor.clone(), latest.described);
        let (id, standing) = (grant.id.clone(), Standing::Usable);
        let intent = None;
        let next = Grant { id, position, descriptor, described, pair, standing, intent, answer };
        let due_at = self.due_at(&next, next.descriptor.keep_warm);
        if let Err(failure) = self.store.journal(&next, due_at).await {
            warn!(grant.id = %next.id, error = failure, "the new pair is not in the journal");
        }
        crash::reached(self.settings.stop_at, Moment::AfterJournal).await;
        let step = || self.store.merge(&next, due_at);
        let mut waiting = None;
        let serve_from_memory = |failures, failure: &StoreError| {
            waiting.get_or_insert_with(|| Counted::new(&self.metrics.unpublished_pairs));
            self.tell_not_taken(&next, failures, failure);
            if failures == 0 {
                let view = entry.adopt(next.clone());
                if let Some(callers) = callers {
                    (callers.early)(view);
                }
            }
        };
        let merged = self.insist(step, serve_from_memory).await;
        if waiting.take().is_some() {
            info!(grant.id = %entry.id, %generation, "the store has taken the new token pair");
        }
        crash::reached(self.settings.stop_at, Moment::AfterMerge).await;
        match merged {
            Merged::Published | Merged::Same | Merged::Remade => {
                if merged == Merged::Remade {
                    self.tell_remade(&next);
                }
                let view = entry.adopt(next);
                self.keep_warm_since(entry, &view, due_at).await;
                info!(grant.id = %entry.id, provider = %view.grant.descriptor.provider, %generation,
                    token.fingerprint = view.fingerprint, "refreshed");
                self.acts.tell(ActKind::Refreshed, &view.grant, None);
                Ok(view)
            }
            Merged::Sibling | Merged::Old => self.reload(entry).await,
        }
    }

    /// An operator may have said meanwhile that it is to be kept warm.
    async fn keep_warm_since(&self, entry: &Entry, view: &View, due_at: Option<SystemTime>) {
        let said = view.grant.descriptor.keep_warm && due_at.is_none();
        if let Some(due_at) = said.then(|| self.due_at(&view.grant, true)).flatten() {
            // If this fails, the first use brings it up.
            let _ = self.store.schedule(&entry.id, view.grant.generation(), due_at).await;
        }
    }

    /// A pair is only in memory: nothing is worse.
    fn tell_not_taken(&self, next: &Grant, failures: u32, failure: &StoreError) {
        let provider = next.descriptor.provider.as_str().to_owned();
        self.metrics.persist_failures.get_or_create(&ByProvider { provider }).inc();
        error!(grant.id = %next.id, error = %chain(failure), failures,
            "the store did not take the new token pair; it is kept in memory and offered again");
    }

    /// Repeats `step` until it succeeds; `told` hears of each failure and how many came before.
    pub(in crate::broker) async fn insist<T, E, F>(
        &self,
        step: impl Fn() -> F,
        mut told: impl FnMut(u32, &E),
    ) -> T
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut failures = 0;
        loop {
            match step().await {
                Ok(done) => return done,
                Err(failure) => told(failures, &failure),
            }
            sleep(self.settings.publish_backoff.after(failures)).await;
            failures += 1;
        }
    }

    pub(super) async fn reload(&self, entry: &Entry) -> Refreshed {
        let stored = self.load(&entry.id).await?;
        let stored = stored.ok_or_else(|| Error::GrantNotFound(entry.id.clone()))?;
        let view = entry.learn(stored);
        usable(&view.grant)?;
        Ok(view)
    }
}

/// Counts in a gauge for as long as it lives.
pub(in crate::broker) struct Counted(Gauge);

impl Counted {
    pub(in crate::broker) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
