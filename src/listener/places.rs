//! How many calls there may be at once, and who gives way when there are more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// This share more is kept back for when all places are taken. Every connection has its part of it,
/// so that a client with few calls does not suffer from one with many; and as much again is for
/// calls that are answered at once: what memory can answer is answered while others wait for a slow
/// provider.
const RESERVE_SHARE: usize = 4;
/// Requests that are still arriving take no more than this share: they come in one piece from
/// clients that mean well.
const UNFINISHED_SHARE: usize = 4;

/// Places for calls of one kind.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: AtomicUsize,
    /// Between how many connections the reserve is divided.
    connections: Arc<AtomicUsize>,
    next: AtomicU64,
    /// Calls whose request has not arrived whole, oldest first.
    unfinished: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

/// What a newcomer gets.
#[derive(Debug)]
pub(super) enum Entry {
    /// A place.
    Free(Place),
    /// A place for a call that can be answered without waiting.
    AtOnce(Place),
    /// Nothing.
    Full,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Places>);

/// The place of a request that is still arriving: the first to go when a place is needed.
#[derive(Debug)]
pub(super) struct Unfinished {
    places: Arc<Places>,
    number: u64,
    /// Ends when the place is needed.
    pub(super) needed: oneshot::Receiver<()>,
}

impl Places {
    pub(super) fn new(max: usize, connections: &Arc<AtomicUsize>) -> Arc<Self> {
        let (taken, next) = (AtomicUsize::new(0), AtomicU64::new(0));
        let connections = Arc::clone(connections);
        Arc::new(Self { max, taken, connections, next, unfinished: Mutex::default() })
    }

    /// A place for a newcomer, whose connection has `open` calls with it. Of requests that are still
    /// arriving, the oldest gives way.
    pub(super) fn enter(self: &Arc<Self>, open: usize) -> Entry {
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        let reserve = self.max / RESERVE_SHARE;
        if taken < self.max || self.make_room() || open <= self.part_of(reserve) {
            Entry::Free(place)
        } else if taken < self.max + reserve {
            Entry::AtOnce(place)
        } else {
            Entry::Full
        }
    }

    /// One call of every connection is let in whatever happens.
    fn part_of(&self, reserve: usize) -> usize {
        (reserve / self.connections.load(Ordering::Relaxed).max(1)).max(1)
    }

    fn make_room(&self) -> bool {
        let oldest = self.unfinished.lock().pop_first();
        oldest.is_some_and(|(_, needed)| needed.send(()).is_ok())
    }

    /// Marks a request as still arriving.
    pub(super) fn unfinished(self: &Arc<Self>) -> Unfinished {
        let (needed_by_others, needed) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut unfinished = self.unfinished.lock();
        if unfinished.len() >= (self.max / UNFINISHED_SHARE).max(1)
            && let Some((_, oldest)) = unfinished.pop_first()
        {
            // One that has arrived meanwhile needs no notice.
            let _ = oldest.send(());
        }
        unfinished.insert(number, needed_by_others);
        drop(unfinished);
        Unfinished { places: Arc::clone(self), number, needed }
    }

    /// Calls under way.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Every place is taken, by calls that cannot give way.
    pub(super) fn full(&self) -> bool {
        self.taken() >= self.max && self.unfinished.lock().is_empty()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.places.unfinished.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a client that has many calls open.
    const MANY: usize = 1_000;

    fn places(max: usize) -> Arc<Places> {
        Places::new(max, &Arc::new(AtomicUsize::new(2)))
    }

    fn free(places: &Arc<Places>) -> Place {
        match places.enter(MANY) {
            Entry::Free(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_oldest_unfinished_request_gives_way() {
        let places = places(8);
        let _held: Vec<_> = (0..8).map(|_| free(&places)).collect();
        let mut older = places.unfinished();
        let mut younger = places.unfinished();
        let _third = free(&places);
        assert!(older.needed.try_recv().is_ok());
        assert!(younger.needed.try_recv().is_err(), "one newcomer, one place");
    }

    #[test]
    fn whoever_is_complete_is_not_driven_out() {
        let places = places(4);
        let held: Vec<_> = (0..4).map(|_| free(&places)).collect();
        drop(places.unfinished());
        assert!(places.full());
        let over = places.enter(MANY);
        assert!(matches!(over, Entry::AtOnce(_)));
        assert!(matches!(places.enter(MANY), Entry::Full));
        assert!(matches!(places.enter(1), Entry::Free(_)), "its part of the reserve");
        assert!(matches!(places.enter(2), Entry::Full));
        drop((over, held));
        assert_eq!(places.taken(), 0);
        assert!(!places.full());
    }
}
