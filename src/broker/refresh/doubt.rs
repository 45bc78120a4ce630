//! Doubt: a refresh token was sent and got no definite answer. When is it presented again? Pure.
//!
//! Where no newer pair can still arrive, presenting the token again can lose nothing but what is
//! left of the old access token: if it was spent, the chain is lost already; if it was not, this
//! saves it. So it is done when the old access token is used up, as often as it takes, and never
//! before the last request has surely come to rest at the provider.

use std::time::Duration;

use crate::broker::backoff::Backoff;
use crate::broker::model::DoubtKind;

/// In a documented grace time the token is presented again only during this share of it: the
/// provider's clock is not ours.
const GRACE_PERCENT: u32 = 80;

/// Everything that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// How the newest request ended.
    pub(super) kind: DoubtKind,
    /// Requests so far.
    pub(super) attempts: u32,
    /// Time since the first of them.
    pub(super) doubted_for: Duration,
    /// Time since the newest of them.
    pub(super) silent_for: Duration,
    /// Time until callers are better off without the old access token.
    pub(super) useless_in: Duration,
    /// A caller reported that an API rejects it, and no resend has followed yet.
    pub(super) reported: bool,
    /// The provider was in trouble when the newest request left, and is well again.
    pub(super) recovered: bool,
    /// An operator says that it is to be presented again.
    pub(super) ordered: bool,
}

/// How long things take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A request has surely come to rest this long after it left.
    pub(super) settle: Duration,
    /// Waits between resends.
    pub(super) backoff: Backoff,
    /// After so long a doubt ...
    pub(super) slow_after: Duration,
    /// ... resends are this far apart.
    pub(super) slow: Duration,
    /// For how long the provider documents that a spent token still works.
    pub(super) grace: Duration,
    /// Resends happen unasked.
    pub(super) unasked: bool,
}

/// When the token is presented again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Next {
    /// After this time; now if it is zero.
    In(Duration),
    /// Only when an operator says so.
    WhenTold,
}

impl Situation {
    pub(super) fn next(self, patience: Patience) -> Next {
        let settled_in = patience.settle.saturating_sub(self.silent_for);
        if self.ordered {
            return Next::In(settled_in);
        }
        if self.kind == DoubtKind::Restored || !patience.unasked {
            return Next::WhenTold;
        }
        if self.doubted_for + settled_in < patience.grace * GRACE_PERCENT / 100 {
            return Next::In(settled_in);
        }
        let paced_in = if self.recovered { Duration::ZERO } else { self.paced_in(patience) };
        let useless_in = if self.reported { Duration::ZERO } else { self.useless_in };
        Next::In(settled_in.max(paced_in).max(useless_in))
    }

    fn paced_in(self, patience: Patience) -> Duration {
        let pause = if self.doubted_for >= patience.slow_after {
            patience.slow
        } else {
            patience.backoff.after(self.attempts.saturating_sub(1))
        };
        pause.saturating_sub(self.silent_for)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const PATIENCE: Patience = Patience {
        settle: s(65),
        backoff: Backoff::new(s(1), s(60)),
        slow_after: s(86_400),
        slow: s(3_600),
        grace: s(0),
        unasked: true,
    };

    const JUST_NOW: Situation = Situation {
        kind: DoubtKind::Answered,
        attempts: 1,
        doubted_for: s(0),
        silent_for: s(0),
        useless_in: s(300),
        reported: false,
        recovered: false,
        ordered: false,
    };

    fn at(seconds: u64, situation: Situation) -> Next {
        let passed = s(seconds);
        let next = Situation {
            doubted_for: situation.doubted_for + passed,
            silent_for: situation.silent_for + passed,
            useless_in: situation.useless_in.saturating_sub(passed),
            ..situation
        };
        next.next(PATIENCE)
    }

    #[test]
    fn it_waits_until_the_old_token_is_used_up() {
        assert_eq!(at(0, JUST_NOW), Next::In(s(300)));
        assert_eq!(at(299, JUST_NOW), Next::In(s(1)));
        assert_eq!(at(300, JUST_NOW), Next::In(s(0)));
    }

    #[test]
    fn it_never_comes_before_the_last_request_is_at_rest() {
        for hasty in [
            Situation { useless_in: s(0), ..JUST_NOW },
            Situation { reported: true, ..JUST_NOW },
            Situation { ordered: true, ..JUST_NOW },
            Situation { useless_in: s(0), recovered: true, ..JUST_NOW },
            Situation { useless_in: s(0), attempts: 9, doubted_for: s(600), ..JUST_NOW },
        ] {
            assert_eq!(at(0, hasty), Next::In(s(65)), "{hasty:?}");
            assert_eq!(at(64, hasty), Next::In(s(1)), "{hasty:?}");
            assert_eq!(at(65, hasty), Next::In(s(0)), "{hasty:?}");
        }
    }

    #[test]
    fn after_a_day_it_comes_hourly_until_the_provider_is_well() {
        let old = Situation { doubted_for: s(90_000), useless_in: s(0), attempts: 900, ..JUST_NOW };
        assert_eq!(at(0, old), Next::In(s(3_600)));
        assert_eq!(at(0, Situation { recovered: true, ..old }), Next::In(s(65)));
    }

    #[test]
    fn backoff_goes_on_where_settling_is_short() {
        let short = Patience { settle: s(5), ..PATIENCE };
        let wait = |attempts| Situation { attempts, useless_in: s(0), ..JUST_NOW }.next(short);
        assert_eq!([1, 4, 5, 9].map(wait), [5, 8, 16, 60].map(|wait| Next::In(s(wait))));
    }

    #[test]
    fn within_a_documented_grace_it_does_not_wait_for_the_old_token() {
        let graceful = Patience { grace: s(600), ..PATIENCE };
        assert_eq!(JUST_NOW.next(graceful), Next::In(s(65)));
        let late = Situation { doubted_for: s(420), ..JUST_NOW };
        assert_eq!(late.next(graceful), Next::In(s(300)), "the grace would be nearly over");
        let short = Patience { grace: s(60), ..PATIENCE };
        assert_eq!(JUST_NOW.next(short), Next::In(s(300)), "shorter than it takes to settle");
    }

    #[test]
    fn some_doubts_are_for_operators() {
        let restored = Situation { kind: DoubtKind::Restored, useless_in: s(0), ..JUST_NOW };
        assert_eq!(at(9_999, restored), Next::WhenTold);
        assert_eq!(at(9_999, Situation { ordered: true, ..restored }), Next::In(s(0)));
        let told = Patience { unasked: false, ..PATIENCE };
        assert_eq!(JUST_NOW.next(told), Next::WhenTold);
    }
}
