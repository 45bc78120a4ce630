//! How fast a provider is asked: the rule by which requests are booked, for stores that keep it in
//! Rust. `rotation.lua` says the same for Redis.
//!
//! A bucket gives out moments, one every `1 / rate` seconds (the generic cell rate algorithm). When
//! the provider says that it is too fast, nothing is given out for a while, then half as much, which
//! grows back: it is found out what the provider allows where nobody has configured it.

use std::time::Duration;

use crate::broker::store::{Limit, Slowing};

/// The whole of the configured rate, in thousandths.
const WHOLE: f64 = 1_000.0;
/// No provider is asked more slowly than at this share of it.
const LEAST: f64 = 16.0;
/// Thousandths that grow back in a microsecond: from half to whole in 100 seconds.
const REGROWTH: f64 = 5.0 / 1e6;
const SECOND: f64 = 1e6;
/// Longest wait that is believed: a day.
const TOLD_MOST: f64 = 86_400.0 * SECOND;

/// Moments in µs since the Unix epoch; they fit into a float as they do in Lua.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// The first moment that is not given out yet.
    next: f64,
    share: f64,
    share_at: f64,
    limited_until: f64,
    /// When it was looked at last.
    last: f64,
}

/// Moments that were given out: the first in this many µs from now (before now: at once), and each
/// of the others one step later.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Booked {
    pub(crate) count: usize,
    pub(crate) first: f64,
    pub(crate) step: f64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { next: 0.0, share: WHOLE, share_at: 0.0, limited_until: 0.0, last: 0.0 }
    }
}

impl Bucket {
    /// Gives out up to `count` moments, none further ahead than `ahead` µs.
    pub(crate) fn book(&mut self, now: f64, limit: Limit, count: usize, ahead: f64) -> Booked {
        self.keep_time(now);
        let step = SECOND * WHOLE / (f64::from(limit.rate) * self.share(now));
        let unused = (f64::from(limit.burst) - 1.0) * step;
        let first = self.next.max(now - unused);
        let within = ((now + ahead - first) / step).floor() + 1.0;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let count = count.min(within.max(0.0) as usize);
        #[expect(clippy::cast_precision_loss, reason = "nobody asks for so many")]
        let taken = count as f64;
        self.next = first + taken * step;
        Booked { count, first: first - now, step }
    }

    /// The provider limits our rate.
    pub(crate) fn slow_down(&mut self, now: f64, slowing: Slowing) {
        self.keep_time(now);
        let mut share = self.share(now);
        // What was on its way when the limit was met is the same event.
        if now - micros(slowing.sent_ago) >= self.limited_until {
            share = (share / 2.0).floor().max(LEAST);
        }
        let unless_told = (micros(slowing.least) * WHOLE / 2.0 / share).min(micros(slowing.most));
        let told = slowing.told.map(|told| micros(told).clamp(micros(slowing.least), TOLD_MOST));
        let until = now + told.unwrap_or(unless_told);
        self.share = share.floor();
        self.limited_until = self.limited_until.max(until);
        self.share_at = self.limited_until;
        self.next = self.next.max(self.limited_until);
    }

    /// A clock that was set back takes what it has said with it.
    fn keep_time(&mut self, now: f64) {
        let back = (self.last - now).max(0.0);
        self.next -= back;
        self.share_at -= back;
        self.limited_until -= back;
        self.last = now;
    }

    fn share(&self, now: f64) -> f64 {
        (self.share + (now - self.share_at).max(0.0) * REGROWTH).min(WHOLE)
    }
}

/// A time in µs.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * SECOND
}

/// A time of so many µs; none where it is over.
pub(crate) fn from_micros(time: f64) -> Duration {
    Duration::try_from_secs_f64(time / SECOND).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these are whole numbers")]
mod tests {
    use super::*;

    const NOW: f64 = 1.7e15;
    const LIMIT: Limit = Limit { rate: 20, burst: 2 };
    const STEP: f64 = 50_000.0;

    fn slowing(told: Option<Duration>) -> Slowing {
        let sent_ago = Duration::from_millis(100);
        Slowing { told, least: Duration::from_secs(1), most: Duration::from_secs(60), sent_ago }
    }

    #[test]
    fn moments_are_evenly_spaced_after_a_small_burst() {
        let mut bucket = Bucket::default();
        let booked = bucket.book(NOW, LIMIT, 5, SECOND);
        assert_eq!(booked, Booked { count: 5, first: -STEP, step: STEP });
        // No moment twice, by whomever it is asked for.
        assert_eq!(bucket.book(NOW, LIMIT, 1, SECOND).first, 4.0 * STEP);
        // What nobody asked for is not saved up beyond the burst.
        assert_eq!(bucket.book(NOW + 60.0 * SECOND, LIMIT, 1, 0.0).first, -STEP);
    }

    #[test]
    fn nothing_is_given_out_further_ahead_than_asked() {
        let mut bucket = Bucket::default();
        assert_eq!(bucket.book(NOW, LIMIT, 100, SECOND).count, 22);
        let later = bucket.book(NOW, LIMIT, 100, 0.0);
        assert_eq!((later.count, later.first), (0, 21.0 * STEP));
        assert_eq!(bucket.book(NOW + later.first, LIMIT, 100, 0.0).count, 1);
    }

    #[test]
    fn a_limit_halves_the_rate_once_and_it_grows_back() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            bucket.slow_down(NOW, slowing(Some(Duration::from_secs(10))));
        }
        let held = bucket.book(NOW, LIMIT, 1, SECOND);
        assert_eq!((held.count, held.first), (0, 10.0 * SECOND));
        let then = NOW + 10.0 * SECOND;
        assert_eq!(
            bucket.book(then, LIMIT, 1, 0.0),
            Booked { count: 1, first: 0.0, step: 2.0 * STEP }
        );
        assert_eq!(bucket.book(then + 100.0 * SECOND, LIMIT, 1, 0.0).step, STEP);
    }

    #[test]
    fn what_left_before_a_limit_ended_does_not_count_again() {
        let mut bucket = Bucket::default();
        bucket.slow_down(NOW, slowing(Some(Duration::ZERO)));
        let over = NOW + SECOND;
        bucket.slow_down(over, slowing(None));
        assert_eq!(bucket.book(over + SECOND, LIMIT, 1, 0.0).step, 2.0 * STEP);
        bucket.slow_down(over + 2.0 * SECOND, slowing(None));
        assert!(bucket.book(over + 4.0 * SECOND, LIMIT, 1, 0.0).step > 3.9 * STEP);
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nothing() {
        let mut bucket = Bucket::default();
        bucket.book(NOW, LIMIT, 5, SECOND);
        bucket.slow_down(NOW, slowing(Some(Duration::from_secs(2))));
        let back = NOW - 3_600.0 * SECOND;
        assert_eq!(bucket.book(back, LIMIT, 0, 0.0).first, 2.0 * SECOND);
    }

    #[test]
    fn without_a_word_the_wait_doubles_with_each_limit_up_to_the_longest() {
        let mut bucket = Bucket::default();
        let mut now = NOW;
        for seconds in [1.0, 2.0, 4.0, 8.0, 16.0, 31.25, 31.25] {
            // The request left when the limit before was over.
            bucket.slow_down(now, Slowing { sent_ago: Duration::ZERO, ..slowing(None) });
            let wait = bucket.book(now, LIMIT, 0, 0.0).first;
            // The share is cut to thousandths.
            assert!((wait / SECOND / seconds - 1.0).abs() < 0.1, "{wait} {seconds}");
            now += wait;
        }
    }
}
