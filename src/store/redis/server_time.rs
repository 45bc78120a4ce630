//! The clock of the server, as seen from here: ages of claims and due times are judged by it, so that
//! clocks of replicas may differ.
//!
//! A reading is as exact as the call was short. As long as what is believed lies within the newest
//! reading it stays, so that equal clocks are told apart by nothing and a moment that is written
//! and read back is the same moment.

use std::sync::atomic::{AtomicI64, Ordering};

/// All three moments are cut to whole milliseconds.
const ROUNDING_MS: i64 = 1;

/// How far the server's clock is ahead of ours, in ms, as it was measured last.
#[derive(Debug, Default)]
pub(super) struct ServerTime(AtomicI64);

impl ServerTime {
    /// The server said this between these two moments of ours.
    pub(super) fn measured(&self, server: u64, before: u64, after: u64) {
        let ahead_of =
            |ours: u64| i64::try_from(i128::from(server) - i128::from(ours)).unwrap_or_default();
        let (least, most) = (ahead_of(after) - ROUNDING_MS, ahead_of(before) + ROUNDING_MS);
        if !(least..=most).contains(&self.0.load(Ordering::Relaxed)) {
            self.0.store(ahead_of(before.midpoint(after)), Ordering::Relaxed);
        }
    }

    /// A moment of ours by the server's clock.
    pub(super) fn of_server(&self, ours: u64) -> u64 {
        ours.saturating_add_signed(self.0.load(Ordering::Relaxed))
    }

    /// A moment of the server's by our clock.
    pub(super) fn of_ours(&self, server: u64) -> u64 {
        server.saturating_add_signed(-self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reading_allows_is_believed_on() {
        let time = ServerTime::default();
        for (server, before, after) in [(999, 1_000, 1_000), (1_000, 700, 1_000), (7, 7, 900)] {
            time.measured(server, before, after);
            assert_eq!((time.of_server(0), time.of_ours(0)), (0, 0));
        }
        time.measured(1_050, 1_000, 1_020);
        time.measured(1_041, 1_000, 1_001);
        assert_eq!(time.of_server(2_000), 2_040);
    }

    #[test]
    fn moments_are_told_by_either_clock() {
        let time = ServerTime::default();
        assert_eq!(time.of_server(1_000), 1_000);
        time.measured(5_010, 1_000, 1_020);
        assert_eq!((time.of_server(2_000), time.of_ours(6_000)), (6_000, 2_000));
        time.measured(10, 1_000, 1_020);
        assert_eq!((time.of_server(2_000), time.of_ours(6_000)), (1_000, 7_000));
        assert_eq!(time.of_server(5), 0);
    }
}
