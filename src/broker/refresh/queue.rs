//! Queue: who waits to ask one provider, and the turns that are given out.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::broker::endpoint::Habits;
use crate::broker::error::Error;
use crate::broker::store::{Limit, Slots};

/// A burst is what a tenth of a second allows: hardly seen by a provider that counts by the second.
const BURSTS_IN_A_SECOND: u32 = 10;
/// One place in so many is kept for refreshes that callers wait for.
const KEPT_FOR_CALLERS: usize = 4;
/// A moment that was not used is passed on for this long.
const UNUSED_LIFE: Duration = Duration::from_secs(1);
/// That a queue is too long is told once in this time.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// Where whoever waits hears of its turn.
pub(super) type Waiter = oneshot::Sender<Result<Turn, NoTurn>>;

/// Why there is no turn.
#[derive(Debug, Clone)]
pub(super) enum NoTurn {
    /// It would come later than anybody waits.
    Later(Duration),
    /// It cannot be known.
    Failed(Error),
}

/// Leave to send one request, at its moment; dropped when the answer is there.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) at: Instant,
    sent: bool,
    queue: Arc<Queue>,
    place: Option<OwnedSemaphorePermit>,
}

/// Refreshes that wait to ask one provider.
#[derive(Debug)]
pub(super) struct Queue {
    limit: Limit,
    /// Requests that may still begin before one ends.
    places: Arc<Semaphore>,
    kept: usize,
    waiting: Mutex<Waiting>,
    /// Somebody came, or a place is free again.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Refreshes that callers wait for, and the others.
    asked: VecDeque<Waiter>,
    unasked: VecDeque<Waiter>,
    /// Moments that nobody used.
    unused: Vec<Instant>,
    /// Somebody works it off.
    worked_off: bool,
    /// The first moment that was not given out, as it was last; and from one to the next.
    next: Option<Instant>,
    step: Duration,
    limited_until: Option<Instant>,
    told_at: Option<Instant>,
}

/// The right to work a queue off. Where it ends untimely, nobody is left to wait for ever.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Arc<Queue>,
    done: bool,
}

impl Turn {
    /// The request leaves now.
    pub(super) fn sends(&mut self) {
        self.sent = true;
    }

    /// Gives itself up, and its moment with it, if the provider is not to be asked now.
    pub(super) fn unless_limited(mut self) -> Option<Self> {
        let until = self.queue.waiting.lock().limited_until;
        self.sent = until.is_some_and(|until| Instant::now() < until);
        (!self.sent).then_some(self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.sent {
            self.queue.waiting.lock().unused.push(self.at);
        }
        drop(self.place.take());
        self.queue.changed.notify_one();
    }
}

impl Waiting {
    fn count(&mut self) -> (usize, usize) {
        self.asked.retain(|waiter| !waiter.is_closed());
        self.unasked.retain(|waiter| !waiter.is_closed());
        (self.asked.len(), self.unasked.len())
    }

    fn first(&mut self) -> Option<Waiter> {
        self.asked.pop_front().or_else(|| self.unasked.pop_front())
    }
}

impl Queue {
    pub(super) fn new(habits: &Habits) -> Self {
        let burst = (habits.rate / BURSTS_IN_A_SECOND).max(1);
        let places = habits.concurrency.max(1);
        Self {
            limit: Limit { rate: habits.rate.max(1), burst },
            places: Arc::new(Semaphore::new(places)),
            kept: places / KEPT_FOR_CALLERS,
            waiting: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn limit(&self) -> Limit {
        self.limit
    }

    /// Takes somebody in; whoever gets the right to work it off has to.
    pub(super) fn push(self: &Arc<Self>, waiter: Waiter, asked: bool) -> Option<Worker> {
        let mut waiting = self.waiting.lock();
        let side = if asked { &mut waiting.asked } else { &mut waiting.unasked };
        side.push_back(waiter);
        self.changed.notify_one();
        let free = !mem::replace(&mut waiting.worked_off, true);
        free.then(|| Worker { queue: Arc::clone(self), done: false })
    }

    /// Waits until somebody comes or a place is free.
    pub(super) async fn changes(&self) {
        self.changed.notified().await;
    }

    /// Places that those may take whom callers wait for, or the others.
    pub(super) fn free(&self, asked: bool) -> usize {
        self.places.available_permits().saturating_sub(if asked { 0 } else { self.kept })
    }

    /// How many wait, with and without callers.
    pub(super) fn lengths(&self) -> (usize, usize) {
        let waiting = self.waiting.lock();
        (waiting.asked.len(), waiting.unasked.len())
    }

    /// Gives a moment to the first; where nobody waits any more it is kept for a little.
    pub(super) fn give(self: &Arc<Self>, at: Instant) {
        let place = Arc::clone(&self.places).try_acquire_owned().ok();
        let waiter = place.is_some().then(|| self.waiting.lock().first()).flatten();
        let turn = Turn { at, sent: false, queue: Arc::clone(self), place };
        // A turn that nobody takes leaves its moment to the next.
        let _ = waiter.map(|waiter| waiter.send(Ok(turn)));
    }

    /// Passes a moment on that somebody else did not use; `false`: there is none.
    pub(super) fn pass_on(self: &Arc<Self>) -> bool {
        let now = Instant::now();
        let unused = {
            let mut waiting = self.waiting.lock();
            waiting.unused.retain(|at| *at + UNUSED_LIFE > now);
            waiting.unused.pop()
        };
        let Some(at) = unused else { return false };
        self.give(at);
        true
    }

    /// Those whose turn would come after all patience are told so: the last first.
    pub(super) fn send_away(&self, asked: bool, slots: &Slots, now: Instant, patience: Duration) {
        let mut waiting = self.waiting.lock();
        (waiting.next, waiting.step) = (Some(now + slots.next), slots.step);
        let side = if asked { &mut waiting.asked } else { &mut waiting.unasked };
        while let Some(before) = side.len().checked_sub(1) {
            let before = u32::try_from(before).unwrap_or(u32::MAX);
            let wait = slots.next.saturating_add(slots.step.saturating_mul(before));
            if wait <= patience {
                break;
            }
            let Some(last) = side.pop_back() else { break };
            let _ = last.send(Err(NoTurn::Later(wait)));
        }
    }

    /// Nobody gets a turn.
    pub(super) fn refuse_all(&self, error: &Error) {
        let mut waiting = self.waiting.lock();
        while let Some(waiter) = waiting.first() {
            let _ = waiter.send(Err(NoTurn::Failed(error.clone())));
        }
    }

    /// No turn that was given out is used before this.
    pub(super) fn limit_until(&self, until: Instant) {
        let mut waiting = self.waiting.lock();
        waiting.limited_until = waiting.limited_until.max(Some(until));
    }

    /// How long a refresh that nobody waits for would wait for its turn.
    pub(super) fn backlog(&self) -> Duration {
        let waiting = self.waiting.lock();
        let before = u32::try_from(waiting.asked.len() + waiting.unasked.len()).unwrap_or(u32::MAX);
        let next = waiting.next.max(waiting.limited_until);
        let next =
            next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
        next.saturating_add(waiting.step.saturating_mul(before))
    }

    /// Whether it is time to tell of a long queue again.
    pub(super) fn tells(&self) -> bool {
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        let again = waiting.told_at.is_none_or(|at| now >= at + TOLD_AGAIN);
        if again {
            waiting.told_at = Some(now);
        }
        again
    }
}

impl Worker {
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// How many are to be served next, and whether callers wait for them; `None`: nobody waits, and it
    /// is worked off.
    pub(super) fn next(&mut self) -> Option<(usize, bool)> {
        let mut waiting = self.queue.waiting.lock();
        match waiting.count() {
            (0, 0) => {
                waiting.worked_off = false;
                self.done = true;
                None
            }
            (0, unasked) => Some((unasked, false)),
            (asked, _) => Some((asked, true)),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut waiting = self.queue.waiting.lock();
        waiting.worked_off = false;
        // Who waits hears that nobody serves.
        waiting.asked.clear();
        waiting.unasked.clear();
    }
}
