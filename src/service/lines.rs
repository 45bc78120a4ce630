//! Lines of the log that callers bring about: some of each kind, and the number of all others.
//!
//! Whoever goes wild, or is nobody, fills no disk, and what happens besides is still seen.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// In this time ...
const EACH: Duration = Duration::from_secs(60);
/// ... so many of a kind are written: enough to see what they have in common,
const OF_A_KIND: u32 = 5;
/// and so many in all.
const IN_ALL: u32 = 200;

/// Says which lines are written.
#[derive(Debug, Default)]
pub(super) struct Lines {
    hasher: RandomState,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    since: Option<Instant>,
    written: u32,
    by_kind: HashMap<u64, u32>,
    /// Since the last line that was written.
    left_out: u64,
}

impl Lines {
    /// Whether a line of this kind is written now; and how many were left out since the last one.
    pub(super) fn next(&self, kind: impl Hash) -> Option<u64> {
        let (kind, now) = (self.hasher.hash_one(kind), Instant::now());
        let mut counted = self.counted.lock();
        if counted.since.is_none_or(|since| now - since >= EACH) {
            let left_out = counted.left_out;
            *counted = Counted { since: Some(now), left_out, ..Counted::default() };
        }
        let full = counted.written >= IN_ALL;
        // No more kinds than lines are told apart.
        let of_kind = counted.by_kind.get(&kind).copied().unwrap_or_default();
        if full || of_kind >= OF_A_KIND {
            counted.left_out += 1;
            return None;
        }
        counted.by_kind.insert(kind, of_kind + 1);
        counted.written += 1;
        Some(std::mem::take(&mut counted.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_of_each_kind_are_written_and_the_others_counted() {
        let lines = Lines::default();
        let told: Vec<_> = (0..8).map(|_| lines.next("wild")).collect();
        assert_eq!(told, [[Some(0); 5].as_slice(), &[None; 3]].concat());
        assert_eq!(lines.next("calm"), Some(3), "one kind is in nobody else's way");
        let told = (0..10_000).filter_map(|kind| lines.next(kind)).count();
        assert_eq!(told, (IN_ALL - OF_A_KIND - 1) as usize, "there is an end to it");
        assert!(lines.counted.lock().by_kind.len() <= IN_ALL as usize);
        tokio::time::advance(EACH).await;
        assert_eq!(lines.next("wild"), Some(10_000 - 194));
        assert_eq!(lines.next("wild"), Some(0));
    }
}
