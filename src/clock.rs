//! Wall time, passed in as a value; and a steady time that nobody turns back.
//!
//! *How long* is measured with tokio's timers, *when* is read here. What is told to others, or by them,
//! goes by the wall clock ([`Clock::system`]). What decides about tokens goes by a clock that begins with
//! the wall clock, moves with the time since the machine was booted (suspension included), and follows
//! the wall clock forwards only ([`Clock::steady`]): where that is set back nothing gets a longer life,
//! and where it is set ahead, or a virtual machine was stopped, nothing is served beyond its end.
//!
//! Under tokio's paused time a simulated clock moves with the timers, so one `sleep` ages tokens and
//! fires deadlines alike.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use tracing::warn;

/// Below this, clocks are corrected, and not set.
const TURNED: i64 = 5 * NS_IN_S;
const NS_IN_S: i64 = 1_000_000_000;
/// Time since the boot of the machine, in which it may have been suspended.
#[cfg(target_os = "linux")]
const BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const BOOT: ClockId = ClockId::Monotonic;

/// Tells the time of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Source);

#[derive(Debug, Clone, Copy)]
enum Source {
    Wall(Base),
    Steady(&'static Steady),
}

/// Where time comes from.
#[derive(Debug, Clone, Copy)]
enum Base {
    System,
    Simulated(&'static Simulated),
}

/// Time as tokio has it.
#[derive(Debug)]
struct Simulated {
    epoch: SystemTime,
    start: Instant,
    /// How far the wall clock was set ahead, in ns.
    turned: AtomicI64,
}

/// A clock that is never turned back.
#[derive(Debug)]
struct Steady {
    base: Base,
    /// How far it is ahead of the time since boot, in ns.
    ahead: AtomicI64,
    /// How far the wall clock was, when it was looked at last.
    wall_ahead: AtomicI64,
}

impl Base {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    fn wall(self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Simulated(Simulated { epoch, start, turned }) => {
                shifted(*epoch + start.elapsed(), turned.load(Ordering::SeqCst))
            }
        }
    }

    /// Time since a moment that stays, in ns.
    fn boot(self) -> i64 {
        match self {
            Self::System => {
                let time = clock_gettime(BOOT);
                time.tv_sec.saturating_mul(NS_IN_S).saturating_add(time.tv_nsec)
            }
            Self::Simulated(simulated) => nanos(simulated.start.elapsed()),
        }
    }

    fn wall_ahead(self, boot: i64) -> i64 {
        nanos(self.wall().duration_since(UNIX_EPOCH).unwrap_or_default()).saturating_sub(boot)
    }
}

impl Steady {
    fn now(&self) -> SystemTime {
        let boot = self.base.boot();
        let (wall_ahead, known) =
            (self.base.wall_ahead(boot), self.wall_ahead.load(Ordering::SeqCst));
        let turned = wall_ahead.saturating_sub(known);
        if turned.abs() >= TURNED {
            let order = Ordering::SeqCst;
            // Whoever sees it first follows it, forwards only.
            if self.wall_ahead.compare_exchange(known, wall_ahead, order, order).is_ok() {
                self.ahead.fetch_add(turned.max(0), order);
                let seconds = turned / NS_IN_S;
                if turned > 0 {
                    warn!(
                        seconds,
                        "the clock was set ahead, or the machine was stopped: tokens may have expired meanwhile"
                    );
                } else {
                    warn!(seconds, "the clock was set back; tokens end when they would have ended");
                }
            }
        }
        let now = boot.saturating_add(self.ahead.load(Ordering::SeqCst));
        shifted(UNIX_EPOCH, now)
    }

    /// How far it is ahead of the wall clock, as it was seen last, in ns.
    fn ahead_of_wall(&self) -> i64 {
        self.ahead.load(Ordering::SeqCst) - self.wall_ahead.load(Ordering::SeqCst)
    }
}

impl Clock {
    /// Reads the clock of the operating system.
    pub const fn system() -> Self {
        Self(Source::Wall(Base::System))
    }

    /// Starts at `epoch` and moves with tokio's clock. For tests: it stays in memory for ever.
    pub fn simulated(epoch: SystemTime) -> Self {
        let (start, turned) = (Instant::now(), AtomicI64::new(0));
        let simulated = Box::leak(Box::new(Simulated { epoch, start, turned }));
        Self(Source::Wall(Base::Simulated(simulated)))
    }

    /// The same moment now, and never turned back from then on. Made once for a process: it stays in
    /// memory for ever.
    #[must_use]
    pub fn steady(self) -> Self {
        let Source::Wall(base) = self.0 else { return self };
        let wall_ahead = base.wall_ahead(base.boot());
        let (ahead, wall_ahead) = (AtomicI64::new(wall_ahead), AtomicI64::new(wall_ahead));
        Self(Source::Steady(Box::leak(Box::new(Steady { base, ahead, wall_ahead }))))
    }

    /// Returns the time now.
    pub fn now(self) -> SystemTime {
        match self.0 {
            Source::Wall(base) => base.wall(),
            Source::Steady(steady) => steady.now(),
        }
    }

    /// Returns the time now in whole milliseconds since the Unix epoch.
    pub fn now_ms(self) -> u64 {
        unix_ms(self.now())
    }

    /// What the wall clock shows at a moment of this clock.
    pub fn to_wall(self, at: SystemTime) -> SystemTime {
        shifted(at, -self.ahead_of_wall())
    }

    /// The moment of this clock at which the wall clock shows that.
    pub fn of_wall(self, at: SystemTime) -> SystemTime {
        shifted(at, self.ahead_of_wall())
    }

    fn ahead_of_wall(self) -> i64 {
        match self.0 {
            Source::Wall(_) => 0,
            Source::Steady(steady) => steady.ahead_of_wall(),
        }
    }

    /// Sets the wall clock of a simulated time ahead, or back.
    pub fn turn(self, seconds: i64) {
        let base = match self.0 {
            Source::Wall(base) => base,
            Source::Steady(steady) => steady.base,
        };
        if let Base::Simulated(simulated) = base {
            simulated.turned.fetch_add(seconds.saturating_mul(NS_IN_S), Ordering::SeqCst);
        }
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn shifted(at: SystemTime, by: i64) -> SystemTime {
    let time = Duration::from_nanos(by.unsigned_abs());
    let shifted = if by < 0 { at.checked_sub(time) } else { at.checked_add(time) };
    shifted.unwrap_or(at)
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    const EPOCH_S: u64 = 1_800_000_000;

    /// Seconds since the clock began.
    fn at(clock: Clock) -> i64 {
        i64::try_from(clock.now_ms() / 1_000).unwrap() - i64::try_from(EPOCH_S).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_follows_forwards_only() {
        let wall = Clock::simulated(from_unix_ms(EPOCH_S * 1_000));
        let steady = wall.steady();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!((at(wall), at(steady)), (10, 10));
        wall.turn(-HOUR);
        assert_eq!((at(wall), at(steady)), (10 - HOUR, 10));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(at(steady), 20, "time goes on");
        assert_eq!(steady.to_wall(steady.of_wall(wall.now())), wall.now());
        // Stopped for a quarter of an hour, while the wall clock is still wrong.
        wall.turn(900);
        assert_eq!(at(steady), 920);
        wall.turn(HOUR);
        assert_eq!(at(steady), 920 + HOUR, "set right: that looks like a stop, too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_corrected_is_not_turned() {
        let wall = Clock::simulated(from_unix_ms(EPOCH_S * 1_000));
        let steady = wall.steady();
        wall.turn(4);
        assert_eq!(at(steady), 0);
        assert_eq!(steady.to_wall(steady.now()), steady.now());
    }

    #[test]
    fn the_system_has_one() {
        let steady = Clock::system().steady();
        let apart = between(steady.now(), Clock::system().now())
            .max(between(Clock::system().now(), steady.now()));
        assert!(apart < Duration::from_secs(5), "{apart:?}");
    }
}
