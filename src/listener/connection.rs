//! One connection: what happens on it, and what is to become of it.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::listener::bounds::{Bounds, Cause};
use crate::listener::metrics::Metrics;
use crate::service::{Peer, Refusal};

/// How long answers may wait for a client that does not take them, once others find no place.
const ANSWER_MAX_WHEN_FULL: Duration = Duration::from_secs(1);

/// Requests of one connection, one after the other, that may fail to arrive in their time.
const UNFINISHED_MAX: usize = 100;

/// From so many calls at once on, a connection is one that has grown.
const GROWN: usize = 16;
/// Longer than any call may take, once a connection is told to leave.
const LEAVE_MAX: Duration = Duration::from_secs(30);

/// What a connection is told, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    Stay,
    /// End what is under way, and go.
    Leave,
    /// Go.
    Cut,
}

/// What the calls of a connection and its watch share.
#[derive(Debug)]
pub(super) struct Connection {
    /// In the order of those that came to its port.
    pub(super) number: u64,
    pub(super) peer: Arc<Peer>,
    /// Calls under way.
    open: AtomicUsize,
    /// Those of them that only whoever is known may make.
    held: AtomicUsize,
    /// Most of them at once. The library keeps memory for as many as long as the connection lasts.
    peak: AtomicUsize,
    /// Parts of answers that the client does not take.
    untaken: AtomicUsize,
    /// Grows with everything that happens.
    progress: AtomicU64,
    /// Requests that never arrived whole.
    unfinished: AtomicUsize,
    order: watch::Sender<Order>,
    pub(super) metrics: Arc<Metrics>,
}

impl Connection {
    pub(super) fn new(number: u64, address: IpAddr, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            number,
            peer: Arc::new(Peer::new(address)),
            open: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            untaken: AtomicUsize::new(0),
            progress: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            order: watch::Sender::new(Order::Stay),
            metrics: Arc::clone(metrics),
        })
    }

    /// Tells it to go; it cannot be told to stay again. Whether it is told for the first time.
    pub(super) fn tell(&self, order: Order) -> bool {
        self.order.send_if_modified(|current| {
            let further = order > *current;
            *current = order.max(*current);
            further
        })
    }

    /// Ends when the connection is told at least this.
    pub(super) fn told(&self, least: Order) -> impl Future<Output = ()> + Send + use<> {
        let mut order = self.order.subscribe();
        async move {
            // An error means that the connection is gone.
            let _ = order.wait_for(|order| *order >= least).await;
        }
    }

    /// Calls under way.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// A request did not arrive whole, and is given up. Whoever sends many of those sends nothing else: its streams
    /// are ended all at once, and what the connection keeps for them is given back.
    pub(super) fn given_up(&self, why: Refusal) {
        self.metrics.refused(why);
        let late = why == Refusal::Unfinished;
        if late
            && self.unfinished.fetch_add(1, Ordering::Relaxed) >= UNFINISHED_MAX
            && self.tell(Order::Cut)
        {
            self.metrics.told(Cause::Unfinished);
        }
    }

    /// A request arrived whole.
    pub(super) fn arrived(&self) {
        if self.unfinished.load(Ordering::Relaxed) > 0 {
            self.unfinished.store(0, Ordering::Relaxed);
        }
    }

    /// Its first byte came.
    pub(super) fn spoke(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// A call on its connection.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) connection: Arc<Connection>,
    holds: bool,
    untaken: bool,
}

impl Visit {
    /// `holds`: it is of a kind that keeps the place of its connection.
    pub(super) fn begin(connection: &Arc<Connection>, holds: bool) -> Self {
        if holds {
            connection.held.fetch_add(1, Ordering::Relaxed);
        }
        let open = connection.open.fetch_add(1, Ordering::Relaxed) + 1;
        if open > connection.peak.load(Ordering::Relaxed) {
            connection.peak.store(open, Ordering::Relaxed);
        }
        connection.progress.fetch_add(1, Ordering::Relaxed);
        Self { connection: Arc::clone(connection), holds, untaken: false }
    }

    /// There is a part of the answer for the client to take.
    pub(super) fn offered(&mut self) {
        self.untaken = true;
        self.connection.untaken.fetch_add(1, Ordering::Relaxed);
    }

    /// The client took it.
    pub(super) fn taken(&mut self) {
        if self.untaken {
            self.untaken = false;
            self.connection.untaken.fetch_sub(1, Ordering::Relaxed);
            self.connection.progress.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends when the connection is to go.
    pub(super) fn leaving(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connection.told(Order::Leave)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.taken();
        if self.holds {
            self.connection.held.fetch_sub(1, Ordering::Relaxed);
        }
        self.connection.open.fetch_sub(1, Ordering::Relaxed);
        self.connection.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// A connection as its watch sees it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) connection: Arc<Connection>,
    /// When it is too old.
    aged: Instant,
    /// The progress that was seen last, and since when there was none.
    progress: u64,
    still_since: Instant,
    told_to_leave: Option<Instant>,
}

impl Watched {
    pub(super) fn new(connection: Arc<Connection>, now: Instant, age: Duration) -> Self {
        let aged = now + age;
        Self { connection, aged, progress: 0, still_since: now, told_to_leave: None }
    }

    /// Looks at it again: what is to become of it, and why. `full`: others find no place.
    pub(super) fn look(
        &mut self,
        bounds: &Bounds,
        now: Instant,
        full: bool,
    ) -> Option<(Order, Cause)> {
        let progress = self.connection.progress.load(Ordering::Relaxed);
        if progress != self.progress {
            (self.progress, self.still_since) = (progress, now);
        }
        let still = now - self.still_since;
        let patience = if full { ANSWER_MAX_WHEN_FULL } else { bounds.answer };
        let lingers = self.told_to_leave.is_some_and(|told| now - told >= LEAVE_MAX);
        if self.connection.untaken.load(Ordering::Relaxed) > 0 && still >= patience {
            Some((Order::Cut, Cause::Untaken))
        } else if lingers {
            Some((Order::Cut, Cause::Lingering))
        } else if self.idle() && still >= bounds.idle {
            Some((Order::Leave, Cause::Idle))
        } else if now >= self.aged {
            Some((Order::Leave, Cause::Aged))
        } else {
            None
        }
    }

    /// Tells it to go, and says whether that is new.
    pub(super) fn tell(&mut self, order: Order, now: Instant) -> bool {
        self.told_to_leave.get_or_insert(now);
        self.connection.tell(order)
    }

    /// Calls for which memory is kept; none if it goes anyway.
    pub(super) fn kept(&self) -> usize {
        let kept = self.connection.peak.load(Ordering::Relaxed);
        if self.told_to_leave.is_some() { 0 } else { kept }
    }

    /// It keeps more than its usual.
    pub(super) fn grown(&self) -> bool {
        self.kept() >= GROWN
    }

    fn idle(&self) -> bool {
        self.connection.open() == 0
    }

    /// How readily it gives its place to another: those on which nobody has proven anything first, of
    /// them those that never spoke; then those that have been idle longest. A known caller with calls
    /// under way keeps it; whoever only listens to health does not.
    pub(super) fn dispensable(&self) -> Option<(bool, bool, Instant)> {
        let spoke = self.connection.progress.load(Ordering::Relaxed) > 0;
        let proven = self.connection.peer.has_proven();
        let held = proven && self.connection.held.load(Ordering::Relaxed) > 0;
        (!held).then_some((proven, spoke, self.still_since))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::listener::metrics::Ports;

    const BOUNDS: Bounds = Bounds {
        connections: 1,
        unproven: 1,
        unproven_per_address: 1,
        connection_streams: 1,
        streams: 1,
        header_bytes: 1,
        speak: Duration::from_secs(1),
        request: Duration::from_secs(1),
        answer: Duration::from_secs(30),
        idle: Duration::from_secs(60),
        age: Duration::from_secs(600),
    };

    fn connection() -> Arc<Connection> {
        let metrics = Arc::new(Ports::new(&mut Registry::default()).of("api"));
        Connection::new(0, Ipv4Addr::LOCALHOST.into(), &metrics)
    }

    #[tokio::test]
    async fn connections_go_when_nothing_happens_on_them() {
        let (connection, start) = (connection(), Instant::now());
        let mut watched = Watched::new(Arc::clone(&connection), start, BOUNDS.age);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watched.look(&BOUNDS, at(59), false), None);
        let mut visit = Visit::begin(&connection, true);
        assert_eq!(watched.look(&BOUNDS, at(60), false), None);
        assert_eq!(watched.look(&BOUNDS, at(150), false), None, "a call may wait");
        assert!(watched.dispensable().is_some(), "nobody has proven anything");
        connection.peer.has_its_caller();
        assert_eq!(watched.dispensable(), None);
        visit.offered();
        assert_eq!(watched.look(&BOUNDS, at(160), true), Some((Order::Cut, Cause::Untaken)));
        assert_eq!(watched.look(&BOUNDS, at(160), false), Some((Order::Cut, Cause::Untaken)));
        visit.taken();
        assert_eq!(watched.look(&BOUNDS, at(170), true), None);
        drop(visit);
        assert_eq!(watched.look(&BOUNDS, at(180), false), None);
        assert_eq!(watched.look(&BOUNDS, at(240), false), Some((Order::Leave, Cause::Idle)));
        drop(Visit::begin(&connection, true));
        assert_eq!(watched.look(&BOUNDS, at(600), false), Some((Order::Leave, Cause::Aged)));
        assert!(watched.tell(Order::Leave, at(600)));
        assert_eq!(watched.look(&BOUNDS, at(630), false), Some((Order::Cut, Cause::Lingering)));
    }

    #[tokio::test]
    async fn the_silent_give_way_before_strangers_and_those_before_callers() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (silent, stranger, caller) = (connection(), connection(), connection());
        let _listens = Visit::begin(&stranger, false);
        let listens = Visit::begin(&caller, false);
        caller.peer.has_its_caller();
        let watched = |connection, since| Watched::new(connection, since, BOUNDS.age);
        let order = [watched(silent, later), watched(stranger, later), watched(caller, now)];
        let dispensable: Vec<_> = order.iter().map(Watched::dispensable).collect();
        assert!(dispensable.iter().all(Option::is_some), "to listen to health holds nothing");
        assert!(dispensable.is_sorted(), "{dispensable:?}");
        drop(listens);
    }
}
