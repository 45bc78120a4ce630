//! What comes up again and again: told once, then counted.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::{Entry as Slot, VacantEntry};

use crate::audit::Entry;

/// Different things that are told apart in a minute: a fleet has fewer callers times grants.
const DIFFERENT_MAX: usize = 50_000;
/// And of one caller: more than it has grants that it may not have, unless it tries all there are.
const OF_ONE_MAX: usize = 100;

/// How often what came up since the last count.
pub(super) struct Repeats {
    hasher: RandomState,
    counted: DashMap<u64, Times>,
    /// To ask the map itself means to ask all its parts.
    different: AtomicUsize,
    /// Different things by whom they come from.
    by_whom: DashMap<u64, usize>,
    left_out: AtomicU64,
}

struct Times {
    entry: Entry,
    /// After the first.
    again: AtomicU64,
}

/// What is known of something.
pub(super) enum Counted<'a> {
    /// It came up before, and is counted.
    Again,
    /// It is to be told, and kept.
    First(First<'a>),
    /// There is no room to count it.
    Full,
}

/// A place for something that came up for the first time.
pub(super) struct First<'a>(VacantEntry<'a, u64, Times>);

impl First<'_> {
    /// Keeps the entry, and gives it back. A trace is that of one call, and not of those that follow.
    pub(super) fn keep(self, entry: Entry) -> Entry {
        let kept = Entry { trace_id: None, ..entry.clone() };
        self.0.insert(Times { entry: kept, again: AtomicU64::new(0) });
        entry
    }
}

impl Repeats {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            counted: DashMap::new(),
            different: AtomicUsize::new(0),
            by_whom: DashMap::new(),
            left_out: AtomicU64::new(0),
        }
    }

    /// It came up before.
    pub(super) fn is_known(&self, what: impl Hash) -> bool {
        self.counted.contains_key(&self.hasher.hash_one(what))
    }

    /// One more different thing of somebody; `false`: there are so many that they are not told apart.
    pub(super) fn tells_apart(&self, who: &str) -> bool {
        let mut different = self.by_whom.entry(self.hasher.hash_one(who)).or_default();
        *different += 1;
        *different <= OF_ONE_MAX
    }

    /// Counts, where it came up before.
    pub(super) fn count(&self, what: impl Hash) -> Counted<'_> {
        let key = self.hasher.hash_one(what);
        if let Some(times) = self.counted.get(&key) {
            times.again.fetch_add(1, Ordering::Relaxed);
            return Counted::Again;
        }
        if self.different.load(Ordering::Relaxed) >= DIFFERENT_MAX {
            return Counted::Full;
        }
        match self.counted.entry(key) {
            Slot::Occupied(times) => {
                times.get().again.fetch_add(1, Ordering::Relaxed);
                Counted::Again
            }
            Slot::Vacant(slot) => {
                self.different.fetch_add(1, Ordering::Relaxed);
                Counted::First(First(slot))
            }
        }
    }

    /// One more of which only the number is kept.
    pub(super) fn leave_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    /// What came up more than once, and how often it was left out; it all begins anew.
    pub(super) fn take(&self) -> (Vec<(Entry, u64)>, u64) {
        self.by_whom.clear();
        let keys: Vec<u64> = self.counted.iter().map(|counted| *counted.key()).collect();
        self.different.fetch_sub(keys.len(), Ordering::Relaxed);
        let taken = keys.iter().filter_map(|key| {
            let (_, Times { entry, again }) = self.counted.remove(key)?;
            Some((entry, again.into_inner())).filter(|(_, again)| *again > 0)
        });
        (taken.collect(), self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_up(repeats: &Repeats, action: &'static str) -> bool {
        match repeats.count(action) {
            Counted::First(slot) => {
                slot.keep(Entry { action, ..Entry::default() });
                true
            }
            Counted::Again | Counted::Full => false,
        }
    }

    #[test]
    fn what_comes_up_again_is_counted_and_none_is_lost() {
        let repeats = Repeats::new();
        assert!(comes_up(&repeats, "a") && !comes_up(&repeats, "a") && !comes_up(&repeats, "a"));
        assert!(comes_up(&repeats, "b"));
        repeats.leave_out();
        let (counted, left_out) = repeats.take();
        let counted: Vec<_> = counted.iter().map(|(entry, again)| (entry.action, *again)).collect();
        assert_eq!((counted, left_out), (vec![("a", 2)], 1));
        assert!(comes_up(&repeats, "a"), "told again after it was counted");
    }

    #[test]
    fn there_is_an_end_to_what_is_told_apart() {
        let repeats = Repeats::new();
        for number in 0..DIFFERENT_MAX {
            let Counted::First(slot) = repeats.count(number) else { panic!("{number}") };
            slot.keep(Entry::default());
        }
        assert!(matches!(repeats.count("one more"), Counted::Full));
        assert!(matches!(repeats.count(0_usize), Counted::Again), "what is known still is");
        repeats.take();
        assert!(matches!(repeats.count("one more"), Counted::First(_)));
    }
}
