//! Governor: at what pace each provider is asked, and who goes first.
//!
//! Whoever wants to send queues for a [`Turn`]. Turns come at the rate that all replicas agree on in
//! the store, to refreshes that callers wait for first. The others ask for no moment that lies far
//! ahead, so that a caller at any replica waits behind few of them. One provider's queue is of no
//! concern to another's, and no more than so many requests to one provider are under way: a slow one
//! takes nothing from the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use crate::broker::backoff::Backoff;
use crate::broker::endpoint::{Concern, Disposition, Failure, Habits};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::metrics::Queued;
use crate::broker::model::{ProviderId, Reason, Token};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::Callers;
use crate::broker::store::{Limit, Slots, Slowing};
use crate::broker::view::View;

/// How far ahead refreshes that nobody waits for may book: a caller waits behind no more of them.
const UNASKED_AHEAD: Duration = Duration::from_millis(250);
/// Without a moment to wait for, it is asked again after this.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// A moment that was not used is passed on for this long.
const UNUSED_LIFE: Duration = Duration::from_secs(1);
/// A burst is what a tenth of a second allows: hardly seen by a provider that counts by the second.
const BURSTS_IN_A_SECOND: u32 = 10;
/// That a queue is too long is told once in this time.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// The queues, by provider.
#[derive(Debug, Default)]
pub(in crate::broker) struct Governor {
    queues: DashMap<ProviderId, Arc<Queue>>,
}

/// Leave to send one request, at its moment; dropped when the answer is there.
#[derive(Debug)]
pub(super) struct Turn {
    at: Instant,
    sent: bool,
    queue: Arc<Queue>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Queue {
    limit: Limit,
    /// Requests that may still begin before one ends.
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// A refresh came that somebody waits for.
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Refreshes that callers wait for, and the others.
    asked: VecDeque<Waiter>,
    unasked: VecDeque<Waiter>,
    /// Moments that nobody used.
    unused: Vec<Instant>,
    /// Somebody works the queue off.
    served: bool,
    /// From one request to the next, as it was last.
    step: Duration,
    told_at: Option<Instant>,
}

type Waiter = oneshot::Sender<Result<Turn, NoTurn>>;

/// Why there is no turn.
#[derive(Debug, Clone)]
enum NoTurn {
    /// It would come later than anybody waits.
    Later(Duration),
    /// The store could not be asked.
    Unknown(Error),
}

impl Turn {
    /// The request leaves now.
    pub(super) fn sends(&mut self) {
        self.sent = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.sent {
            self.queue.waiting.lock().unused.push(self.at);
        }
    }
}

impl Queue {
    fn new(habits: &Habits) -> Self {
        let burst = (habits.rate / BURSTS_IN_A_SECOND).max(1);
        Self {
            limit: Limit { rate: habits.rate.max(1), burst },
            places: Arc::new(Semaphore::new(habits.concurrency.max(1))),
            waiting: Mutex::default(),
            hurry: Notify::new(),
        }
    }
}

impl Waiting {
    /// How many wait for the next moment, and whether callers do. Those who have gone are left out.
    fn count(&mut self) -> (usize, bool) {
        self.asked.retain(|waiter| !waiter.is_closed());
        self.unasked.retain(|waiter| !waiter.is_closed());
        match self.asked.len() {
            0 => (self.unasked.len(), false),
            asked => (asked, true),
        }
    }

    fn first(&mut self) -> Option<Waiter> {
        self.asked.pop_front().or_else(|| self.unasked.pop_front())
    }

    /// A moment that somebody else did not use.
    fn unused(&mut self, now: Instant) -> Option<Instant> {
        self.unused.retain(|at| *at + UNUSED_LIFE > now);
        self.unused.pop()
    }
}

impl Governor {
    fn queue(&self, provider: &ProviderId, habits: &Habits) -> Arc<Queue> {
        let queue =
            self.queues.entry(provider.clone()).or_insert_with(|| Arc::new(Queue::new(habits)));
        Arc::clone(&queue)
    }

    /// How long a refresh that nobody waits for would wait for its turn.
    fn backlog(&self, provider: &ProviderId) -> Duration {
        let Some(queue) = self.queues.get(provider) else { return Duration::ZERO };
        let waiting = queue.waiting.lock();
        let before = u32::try_from(waiting.asked.len() + waiting.unasked.len()).unwrap_or(u32::MAX);
        waiting.step.saturating_mul(before)
    }

    /// Whether it is time to tell of a long queue again.
    fn tells(&self, provider: &ProviderId) -> bool {
        let Some(queue) = self.queues.get(provider) else { return false };
        let mut waiting = queue.waiting.lock();
        let now = Instant::now();
        let again = waiting.told_at.is_none_or(|at| now >= at + TOLD_AGAIN);
        if again {
            waiting.told_at = Some(now);
        }
        again
    }
}

impl Rotations {
    /// Waits until it is this refresh's turn to ask its provider. It moves up as soon as a caller waits
    /// for it.
    pub(super) async fn turn(
        self: &Arc<Self>,
        entry: &Entry,
        callers: &Callers<'_>,
    ) -> Result<Turn, Error> {
        let provider = entry.provider();
        let queue = self.governor.queue(&provider, &self.habits(&provider));
        let turn = loop {
            let asked = callers.wait();
            let (sender, receiver) = oneshot::channel();
            self.enqueue(&provider, &queue, sender, asked);
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return Err(Error::Draining),
                turn = receiver => break turn,
                () = callers.come(), if !asked => {}
            }
        };
        match turn {
            Ok(Ok(turn)) => {
                tokio::select! {
                    biased;
                    () = self.drain.cancelled() => Err(Error::Draining),
                    () = sleep_until(turn.at) => Ok(turn),
                }
            }
            Ok(Err(NoTurn::Later(wait))) => Err(self.upstream(&entry.view().grant, limited(wait))),
            Ok(Err(NoTurn::Unknown(error))) => Err(error),
            // Whoever worked the queue off panicked.
            Err(_closed) => Err(Error::Internal),
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        provider: &ProviderId,
        queue: &Arc<Queue>,
        waiter: Waiter,
        asked: bool,
    ) {
        let mut waiting = queue.waiting.lock();
        if asked {
            waiting.asked.push_back(waiter);
            queue.hurry.notify_one();
        } else {
            waiting.unasked.push_back(waiter);
        }
        if !std::mem::replace(&mut waiting.served, true) {
            let (rotations, provider, queue) =
                (Arc::clone(self), provider.clone(), Arc::clone(queue));
            self.tasks.spawn(async move { rotations.work_off(&provider, &queue).await });
        }
    }

    /// Gives everybody in the queue a turn, or says why there is none.
    async fn work_off(&self, provider: &ProviderId, queue: &Arc<Queue>) {
        loop {
            // Nobody closes it.
            let Ok(place) = Arc::clone(&queue.places).acquire_owned().await else { return };
            let (count, asked, unused) = {
                let mut waiting = queue.waiting.lock();
                let (count, asked) = waiting.count();
                self.count_queue(provider, &waiting);
                if count == 0 {
                    waiting.served = false;
                    return;
                }
                (count, asked, waiting.unused(Instant::now()))
            };
            if let Some(at) = unused {
                let waiter = queue.waiting.lock().first();
                give(queue, waiter, at, place);
                continue;
            }
            let count = count.min(1 + queue.places.available_permits());
            let ahead = if asked { self.settings.caller_wait_max } else { UNASKED_AHEAD };
            let now = Instant::now();
            match self.store.book(provider, queue.limit, count, ahead).await {
                Ok(slots) => self.hand_out(provider, queue, asked, place, now, slots).await,
                Err(failure) => {
                    let error = Error::from(failure);
                    let mut waiting = queue.waiting.lock();
                    for waiter in std::iter::from_fn(|| waiting.first()) {
                        let _ = waiter.send(Err(NoTurn::Unknown(error.clone())));
                    }
                }
            }
        }
    }

    async fn hand_out(
        &self,
        provider: &ProviderId,
        queue: &Arc<Queue>,
        asked: bool,
        place: OwnedSemaphorePermit,
        now: Instant,
        slots: Slots,
    ) {
        queue.waiting.lock().step = slots.step;
        self.metrics.show_rate(provider, slots.step);
        if slots.waits.is_empty() {
            drop(place);
            if asked {
                let waiters = std::mem::take(&mut queue.waiting.lock().asked);
                for waiter in waiters {
                    let _ = waiter.send(Err(NoTurn::Later(slots.next)));
                }
            } else {
                let wait = slots.next.saturating_sub(UNASKED_AHEAD).max(LEAST_WAIT);
                let _ = timeout(wait, queue.hurry.notified()).await;
            }
            return;
        }
        let mut place = Some(place);
        for wait in slots.waits {
            let next = || Arc::clone(&queue.places).try_acquire_owned().ok();
            let waiter = queue.waiting.lock().first();
            match place.take().or_else(next) {
                Some(place) => give(queue, waiter, now + wait, place),
                // Somebody else took the place; the moment is for the next.
                None => queue.waiting.lock().unused.push(now + wait),
            }
        }
    }
}

impl Rotations {
    /// The provider says that we are too fast: all replicas slow down.
    pub(super) async fn slow_down(&self, provider: &ProviderId, told: Option<Duration>) {
        let Backoff { first, max } = self.settings.retry_backoff;
        let slowing = Slowing { told, least: first, most: max };
        if let Err(failure) = self.store.slow_down(provider, slowing).await {
            debug!(%provider, error = chain(&failure), "the others do not know that it limits our rate");
        }
    }

    /// When a refresh that nobody waits for had better come back, if its queue is that long.
    pub(super) fn comes_later(&self, view: &View) -> Option<SystemTime> {
        let provider = &view.grant.descriptor.provider;
        let backlog = self.governor.backlog(provider);
        if backlog <= self.settings.due_visibility / 2 {
            return None;
        }
        let turn = self.clock.now() + backlog;
        let end = view.grant.pair.token.as_ref().map(Token::expires_at);
        if end.is_some_and(|end| end < turn) && self.governor.tells(provider) {
            warn!(%provider, backlog_s = backlog.as_secs(), "its rate does not suffice: tokens expire before it is their turn to be refreshed; raise `rate`, or ask the provider for more");
        }
        Some(turn)
    }

    fn count_queue(&self, provider: &ProviderId, waiting: &Waiting) {
        for (asked_by, queue) in [("caller", &waiting.asked), ("nobody", &waiting.unasked)] {
            let labels = Queued { provider: provider.as_str().to_owned(), asked_by };
            let count = i64::try_from(queue.len()).unwrap_or(i64::MAX);
            self.metrics.queued.get_or_create(&labels).set(count);
        }
    }
}

fn give(queue: &Arc<Queue>, waiter: Option<Waiter>, at: Instant, place: OwnedSemaphorePermit) {
    let turn = Turn { at, sent: false, queue: Arc::clone(queue), _place: place };
    // Who has gone, or was never there, leaves the moment to the next.
    let _ = waiter.map(|waiter| waiter.send(Ok(turn)));
}

/// What those are told whose turn would come too late.
fn limited(wait: Duration) -> Failure {
    Failure {
        reason: Reason::ProviderRateLimited,
        disposition: Disposition::NotProcessed,
        concern: Concern::Grant,
        status: None,
        provider_error: None,
        retry_after: Some(wait),
    }
}
