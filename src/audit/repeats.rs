//! What comes up again and again: told once, then counted.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;

use crate::audit::Entry;

/// Different things that are told apart in a minute: a fleet has fewer callers times grants. Of what is
/// beyond that, only the number is kept.
const DIFFERENT_MAX: usize = 100_000;

/// How often what came up since the last count.
#[derive(Default)]
pub(super) struct Repeats {
    hasher: RandomState,
    counted: DashMap<u64, Counted>,
    left_out: AtomicU64,
}

struct Counted {
    entry: Entry,
    /// Times after the first.
    again: AtomicU64,
}

impl Repeats {
    /// Counts; gives the entry if it is to be told, as it came up for the first time.
    pub(super) fn count(&self, what: impl Hash, entry: impl FnOnce() -> Entry) -> Option<Entry> {
        let key = self.hasher.hash_one(what);
        if let Some(counted) = self.counted.get(&key) {
            counted.again.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if self.counted.len() >= DIFFERENT_MAX {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        match self.counted.entry(key) {
            Slot::Occupied(counted) => {
                counted.get().again.fetch_add(1, Ordering::Relaxed);
                None
            }
            Slot::Vacant(slot) => {
                let entry = entry();
                slot.insert(Counted { entry: entry.clone(), again: AtomicU64::new(0) });
                Some(entry)
            }
        }
    }

    /// What came up more than once, and how often it was left out; it all begins anew.
    pub(super) fn take(&self) -> (Vec<(Entry, u64)>, u64) {
        let keys: Vec<u64> = self.counted.iter().map(|counted| *counted.key()).collect();
        let taken = keys.iter().filter_map(|key| {
            let (_, Counted { entry, again }) = self.counted.remove(key)?;
            Some((entry, again.into_inner())).filter(|(_, again)| *again > 0)
        });
        (taken.collect(), self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_up_again_is_counted_and_none_is_lost() {
        let repeats = Repeats::default();
        let count = |action| repeats.count(action, || Entry { action, ..Entry::default() });
        assert_eq!(count("a").map(|entry| entry.action), Some("a"));
        assert!(count("a").is_none() && count("a").is_none());
        assert!(count("b").is_some());
        let (counted, left_out) = repeats.take();
        let counted: Vec<_> = counted.iter().map(|(entry, again)| (entry.action, *again)).collect();
        assert_eq!((counted, left_out), (vec![("a", 2)], 0));
        assert!(count("a").is_some(), "told again after it was counted");
    }
}
