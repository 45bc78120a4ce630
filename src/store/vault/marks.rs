//! Marks: how a process finds out that a store has lost what was written last.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::keyring;

/// Marks that this process leaves in the store: one that is not found again was lost, and with it
/// what was written at the time.
#[derive(Debug)]
pub(super) struct Marks {
    /// Where they begin; those of other processes are not ours to judge.
    first: u64,
    given: AtomicU64,
    /// The last that the store has surely taken; zero for none.
    left: AtomicU64,
}

impl Default for Marks {
    fn default() -> Self {
        let mut random = [0; 4];
        keyring::fill(&mut random);
        // Room for one a second for a century above each.
        let first = u64::from(u32::from_be_bytes(random)) << 32;
        Self { first, given: AtomicU64::new(first + 1), left: AtomicU64::new(0) }
    }
}

impl Marks {
    pub(super) fn next(&self) -> u64 {
        self.given.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn left(&self, mark: u64) {
        self.left.fetch_max(mark, Ordering::Relaxed);
    }

    /// The last one should be there, or one whose answer was lost.
    pub(super) fn missing(&self, found: Option<u64>) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        let ours = self.first..self.given.load(Ordering::Relaxed);
        left != 0 && !found.is_some_and(|found| ours.contains(&found) && found >= left)
    }
}
