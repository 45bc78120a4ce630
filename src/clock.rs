//! Wall time, passed in as a value.
//!
//! *How long* is measured with tokio's timers, *when* is read here. Under tokio's paused time a
//! simulated clock moves with the timers, so one `sleep` ages tokens and fires deadlines alike.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Tells the time of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    System,
    Simulated { epoch: SystemTime, start: Instant },
}

impl Clock {
    /// Reads the clock of the operating system.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// Starts at `epoch` and moves with tokio's clock.
    pub fn simulated(epoch: SystemTime) -> Self {
        Self(Source::Simulated { epoch, start: Instant::now() })
    }

    /// Returns the time now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    pub fn now(self) -> SystemTime {
        match self.0 {
            Source::System => SystemTime::now(),
            Source::Simulated { epoch, start } => epoch + start.elapsed(),
        }
    }

    /// Returns the time now in whole milliseconds since the Unix epoch.
    pub fn now_ms(self) -> u64 {
        unix_ms(self.now())
    }
}

/// Whole milliseconds since the Unix epoch; 0 for earlier times.
pub fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that many milliseconds after the Unix epoch.
pub fn from_unix_ms(ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

/// Time from `earlier` to `later`; zero if it is the other way round.
pub fn between(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}
