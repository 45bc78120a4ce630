//! Governor: at what pace each provider is asked, and who goes first.
//!
//! Whoever wants to send queues for a [`Turn`]. Turns come at the rate that all replicas agree on in
//! the store, to refreshes that callers wait for first. Nobody books moments that lie far ahead, least
//! of all those whom nobody waits for: a caller at any replica waits behind few of them, and what a
//! provider says of its limit holds at once. One provider's queue is of no concern to another's, and no
//! more than so many requests to one provider are under way: a slow one takes nothing from the others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use crate::broker::backoff::Backoff;
use crate::broker::endpoint::{Disposition, Failure, Habits, Met};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::metrics::Queued;
use crate::broker::model::{Generation, Grant, ProviderId, Reason, Token};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::Callers;
use crate::broker::refresh::pacing::waiting;
use crate::broker::refresh::permit::Permit;
use crate::broker::refresh::queue::{NoTurn, Queue, Turn, Waiter, Worker};
use crate::broker::refresh::troubles::{Candidate, Client};
use crate::broker::store::{Slots, Slowing};
use crate::broker::view::View;

/// How far ahead moments are booked for callers: what a provider says of its limit holds after that.
const ASKED_AHEAD: Duration = Duration::from_secs(1);
/// The same for refreshes that nobody waits for: a caller waits behind no more of them.
const UNASKED_AHEAD: Duration = Duration::from_millis(250);
/// The store is asked again after this at the latest, and at the earliest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// The queues, by provider.
#[derive(Debug, Default)]
pub(in crate::broker) struct Governor {
    queues: DashMap<ProviderId, Arc<Queue>>,
}

impl Governor {
    fn queue(&self, provider: &ProviderId, habits: &Habits) -> Arc<Queue> {
        let made = || Arc::new(Queue::new(habits));
        Arc::clone(&self.queues.entry(provider.clone()).or_insert_with(made))
    }
}

impl Rotations {
    /// Waits until it is this refresh's turn to ask its provider; `None`: the grant has moved meanwhile.
    /// It goes before others as soon as a caller waits for it.
    pub(super) async fn turn(
        self: &Arc<Self>,
        entry: &Entry,
        spends: Generation,
        callers: &Callers<'_>,
    ) -> Result<Option<Turn>, Error> {
        let provider = entry.provider();
        let queue = self.governor.queue(&provider, &self.habits(&provider));
        let moved = async {
            loop {
                let changed = entry.changed();
                if entry.view().grant.generation() != spends {
                    return;
                }
                changed.await;
            }
        };
        let turn = async {
            loop {
                let turn = self.queue_up(&provider, &queue, callers).await?;
                sleep_until(turn.at).await;
                // The provider may have said meanwhile that this is too fast.
                if let Some(turn) = turn.unless_limited() {
                    return Ok(turn);
                }
            }
        };
        let outcome = tokio::select! {
            biased;
            () = self.drain.cancelled() => return Err(Error::Draining),
            () = moved => return Ok(None),
            outcome = turn => outcome,
        };
        match outcome {
            Ok(turn) => Ok(Some(turn)),
            Err(NoTurn::Later(wait)) => Err(self.upstream(&entry.view().grant, limited(wait))),
            Err(NoTurn::Failed(error)) => Err(error),
        }
    }

    /// Waits in the one queue, and from when a caller comes in the other.
    async fn queue_up(
        self: &Arc<Self>,
        provider: &ProviderId,
        queue: &Arc<Queue>,
        callers: &Callers<'_>,
    ) -> Result<Turn, NoTurn> {
        loop {
            let asked = callers.wait();
            let (sender, receiver) = oneshot::channel();
            self.enqueue(provider, queue, sender, asked);
            tokio::select! {
                biased;
                // Whoever worked the queue off fell over.
                turn = receiver => return turn.unwrap_or(Err(NoTurn::Failed(Error::Internal))),
                () = callers.come(), if !asked => {}
            }
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        provider: &ProviderId,
        queue: &Arc<Queue>,
        waiter: Waiter,
        asked: bool,
    ) {
        let worker = queue.push(waiter, asked);
        self.show_queue(provider, queue);
        if let Some(worker) = worker {
            let (rotations, provider) = (Arc::clone(self), provider.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = rotations.drain.cancelled() => {}
                    () = rotations.work_off(&provider, worker) => {}
                }
            });
        }
    }

    /// Gives everybody in the queue a turn, or says why there is none.
    async fn work_off(&self, provider: &ProviderId, mut worker: Worker) {
        while let Some((count, asked)) = worker.next() {
            self.show_queue(provider, worker.queue());
            let free = worker.queue().free(asked);
            if free == 0 {
                worker.queue().changes().await;
                continue;
            }
            if worker.queue().pass_on() {
                continue;
            }
            let limit = worker.queue().limit();
            match self.store.book(provider, limit, count.min(free), ahead(asked)).await {
                Ok(slots) => self.hand_out(provider, worker.queue(), asked, &slots).await,
                Err(failure) => worker.queue().refuse_all(&Error::from(failure)),
            }
        }
        self.show_queue(provider, worker.queue());
    }

    async fn hand_out(
        &self,
        provider: &ProviderId,
        queue: &Arc<Queue>,
        asked: bool,
        slots: &Slots,
    ) {
        // Read after the answer came: on no account too early.
        let now = Instant::now();
        self.metrics.show_rate(provider, slots.step);
        for wait in &slots.waits {
            queue.give(now + *wait);
        }
        let patience =
            if asked { self.settings.caller_wait_max } else { self.settings.due_visibility / 2 };
        queue.send_away(asked, slots, now, patience);
        if slots.waits.is_empty() {
            let wait = slots.next.saturating_sub(ahead(asked)).clamp(LEAST_WAIT, LOOK_AGAIN);
            tokio::select! {
                () = sleep(wait) => {}
                () = queue.changes() => {}
            }
        }
    }

    /// Waits for the turn of a refresh, and for leave to send it; `None`: the grant has moved.
    pub(super) async fn turn_to_refresh(
        self: &Arc<Self>,
        entry: &Entry,
        grant: &Grant,
        callers: &Callers<'_>,
    ) -> Result<Option<(Turn, Permit)>, Error> {
        let client = Client::of(grant);
        let until = callers.since + self.settings.caller_wait_max;
        loop {
            let Some(turn) = self.turn(entry, grant.generation(), callers).await? else {
                return Ok(None);
            };
            let now = entry.view();
            if now.grant.position != grant.position {
                return Ok(None);
            }
            self.can_refresh(&now.grant)?;
            let (failure, left) = match self.leave(&client, &now.grant, callers).await {
                Ok(permit) => return Ok(Some((turn, permit))),
                Err(denied) => denied,
            };
            drop(turn);
            // Who waits and could be served in time is not sent away.
            if Instant::now() + left > until {
                return Err(waiting(self.upstream(&now.grant, failure), left));
            }
            tokio::select! {
                () = self.drain.cancelled() => return Err(Error::Draining),
                () = self.troubles.change(left) => {}
            }
        }
    }

    /// Leave to send. An operator who has mended something does not wait for it.
    pub(super) async fn leave(
        &self,
        client: &Client,
        grant: &Grant,
        callers: &Callers<'_>,
    ) -> Result<Permit, (Failure, Duration)> {
        if callers.insist {
            return Ok(Permit::free());
        }
        self.permit(client, Candidate::of(grant)).await
    }

    /// The provider says that we are too fast: all replicas slow down.
    pub(super) async fn slow_down(
        &self,
        provider: &ProviderId,
        told: Option<Duration>,
        sent_ago: Duration,
    ) {
        let Backoff { first, max } = self.settings.retry_backoff;
        if let Some(queue) = self.governor.queues.get(provider) {
            queue.limit_until(Instant::now() + told.unwrap_or(first));
        }
        let slowing = Slowing { told, least: first, most: max, sent_ago };
        if let Err(failure) = self.store.slow_down(provider, slowing).await {
            debug!(%provider, error = chain(&failure), "the others do not know that it limits our rate");
        }
    }

    /// When a refresh that nobody waits for had better come back, if its queue is that long.
    pub(super) fn comes_later(&self, view: &View) -> Option<SystemTime> {
        let provider = &view.grant.descriptor.provider;
        let queue = Arc::clone(self.governor.queues.get(provider)?.value());
        let backlog = queue.backlog();
        if backlog <= self.settings.due_visibility / 2 {
            return None;
        }
        let turn = self.clock.now() + backlog;
        let end = view.grant.pair.token.as_ref().map(Token::expires_at);
        if end.is_some_and(|end| end < turn) && queue.tells() {
            warn!(%provider, backlog_s = backlog.as_secs(), "its rate does not suffice: tokens expire \
                before it is their turn to be refreshed; raise `rate`, or ask the provider for more");
        }
        Some(turn)
    }

    fn show_queue(&self, provider: &ProviderId, queue: &Queue) {
        let (asked, unasked) = queue.lengths();
        for (asked_by, count) in [("caller", asked), ("nobody", unasked)] {
            let labels = Queued { provider: provider.as_str().to_owned(), asked_by };
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.metrics.queued.get_or_create(&labels).set(count);
        }
    }
}

fn ahead(asked: bool) -> Duration {
    if asked { ASKED_AHEAD } else { UNASKED_AHEAD }
}

/// What those are told whose turn would come too late.
fn limited(wait: Duration) -> Failure {
    let failure = Failure::new(Reason::ProviderRateLimited, Disposition::NotProcessed);
    Failure { met: Met::Queue, retry_after: Some(wait), ..failure }
}
