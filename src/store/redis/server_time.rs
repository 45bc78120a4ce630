//! The clock of the server, as seen from here: ages of claims and due times are judged by it, so that
//! clocks of replicas may differ.

use std::sync::atomic::{AtomicI64, Ordering};

/// How far the server's clock is ahead of ours, in ms, as it was measured last.
#[derive(Debug, Default)]
pub(super) struct ServerTime(AtomicI64);

impl ServerTime {
    /// The server said this between these two moments of ours.
    pub(super) fn measured(&self, server: u64, before: u64, after: u64) {
        let middle = before.midpoint(after);
        let ahead = i128::from(server) - i128::from(middle);
        self.0.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
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
