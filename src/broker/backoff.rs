//! Back-off: how long to wait after the first, second, third failure in a row.

use std::time::Duration;

/// Waits that double from the first to the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Backoff {
    /// Doubles from `first` to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max }
    }

    /// The wait after one more failure, when that many came before it.
    pub fn after(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_step_by_step_up_to_the_longest() {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        let steps = [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000];
        for (failures, step) in (0..).zip(steps) {
            assert_eq!(backoff.after(failures), Duration::from_millis(step), "{failures}");
        }
        assert_eq!(backoff.after(u32::MAX), Duration::from_secs(5));
        let turned = Backoff::new(Duration::from_secs(9), Duration::from_secs(5));
        assert_eq!(turned.after(0), Duration::from_secs(5), "the longest wait holds");
    }
}
