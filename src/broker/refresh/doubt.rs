//! Doubt: a refresh token was sent and got no definite answer. When is it presented again? Pure.
//!
//! Where no newer pair can still arrive, presenting the token again can lose nothing but what is
//! left of the old access token: if it was spent, the chain is lost already; if it was not, this
//! saves it. So it is done when the old access token is used up, as often as it takes, and never
//! before the last request has surely come to rest at the provider.

use std::time::Duration;

use crate::broker::backoff::Backoff;
use crate::broker::endpoint::{Again, Replay};
use crate::broker::model::DoubtKind;

/// In a documented window the token is presented again only during this share of it: the provider's clock is
/// not ours, and the request takes its time.
pub(super) const WINDOW_PERCENT: u32 = 80;
/// The window may have begun so long before the request left: it counts from the claim.
const CLAIM_BEFORE: Duration = Duration::from_secs(1);
/// An early presentation begins so long before its last moment: what is due is looked for once a second, and
/// has to wait for its turn.
const EARLY_LEAD: Duration = Duration::from_secs(3);
/// Requests in one window: the first, one more, and once more if that one's answer is lost, too.
const REQUESTS_MAX: u32 = 3;

/// Everything that the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// How the newest request ended.
    pub(super) kind: DoubtKind,
    /// The status of an answer to it, if one came.
    pub(super) status: Option<u16>,
    /// Requests so far.
    pub(super) attempts: u32,
    /// Time since the first of them, at least: what is to be at rest counts from then.
    pub(super) doubted_for: Duration,
    /// The same, at most: a window that may be over is over. `None`: nobody can tell.
    pub(super) doubted_for_at_most: Option<Duration>,
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
    /// A spent token still works for a while, as the provider documents it.
    pub(super) replay: Option<Replay>,
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
        if let Some(wait) = patience.replay.and_then(|replay| self.in_window(replay, patience)) {
            return Next::In(wait);
        }
        let paced_in = if self.recovered { Duration::ZERO } else { self.paced_in(patience) };
        let useless_in = if self.reported { Duration::ZERO } else { self.useless_in };
        Next::In(settled_in.max(paced_in).max(useless_in))
    }

    /// How long until the answer can be fetched again inside the window; `None`: not there any more, or not
    /// without harm. `tests/models/windows.rs` tries every order of what may happen.
    pub(super) fn in_window(self, replay: Replay, patience: Patience) -> Option<Duration> {
        if self.attempts >= REQUESTS_MAX || self.kind == DoubtKind::Silent {
            return None;
        }
        let passed = self.doubted_for_at_most? + CLAIM_BEFORE;
        let left = (replay.within * WINDOW_PERCENT / 100).checked_sub(passed)?;
        let settled_in = patience.settle.saturating_sub(self.silent_for);
        let fits = |wait: Duration| (wait <= left).then_some(wait);
        let success = self.status.is_some_and(|status| (200..300).contains(&status));
        let wait = match (self.kind, self.status, replay.again) {
            // It was processed for certain: nothing of it comes later.
            (DoubtKind::Unreadable, ..) if success => fits(Duration::ZERO),
            // Not before what is processed late is inside the window of this one.
            (DoubtKind::Ended, None, Again::Same | Again::Both) => {
                let late = patience.settle.saturating_sub(replay.within);
                let early = || replay.early.then(|| left.saturating_sub(EARLY_LEAD));
                fits(late.saturating_sub(self.silent_for)).or_else(early)
            }
            _ => None,
        };
        wait.or_else(|| fits(settled_in))
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
        replay: None,
        unasked: true,
    };

    const JUST_NOW: Situation = Situation {
        kind: DoubtKind::Answered,
        status: Some(502),
        attempts: 1,
        doubted_for: s(0),
        doubted_for_at_most: Some(s(0)),
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

    fn window(seconds: u64, again: Again) -> Patience {
        Patience { replay: Some(Replay { within: s(seconds), again, early: false }), ..PATIENCE }
    }

    #[test]
    fn within_a_long_window_it_does_not_wait_for_the_old_token() {
        let graceful = window(600, Again::OlderDies);
        assert_eq!(JUST_NOW.next(graceful), Next::In(s(65)), "what was late is at rest then");
        let late = Situation { doubted_for_at_most: Some(s(420)), ..JUST_NOW };
        assert_eq!(late.next(graceful), Next::In(s(300)), "the window would be nearly over");
        let short = window(60, Again::OlderDies);
        assert_eq!(JUST_NOW.next(short), Next::In(s(300)), "shorter than it takes to settle");
    }

    #[test]
    fn within_a_short_window_the_answer_is_fetched_again() {
        let cut = Situation { kind: DoubtKind::Unreadable, status: Some(200), ..JUST_NOW };
        let ended = Situation { kind: DoubtKind::Ended, status: None, ..JUST_NOW };
        for (situation, within, again, expected) in [
            // It was processed: at once, in any kind of window, and once more.
            (cut, 30, Again::Same, 0),
            (cut, 30, Again::OlderDies, 0),
            (
                Situation { attempts: 2, doubted_for_at_most: Some(s(20)), ..cut },
                30,
                Again::Same,
                0,
            ),
            (Situation { attempts: 3, ..cut }, 30, Again::Same, 300),
            (Situation { doubted_for_at_most: Some(s(24)), ..cut }, 30, Again::Same, 300),
            // Perhaps not yet: when what is late falls into the window of the next.
            (ended, 60, Again::Same, 5),
            (ended, 60, Again::Both, 5),
            (
                Situation { silent_for: s(9), doubted_for_at_most: Some(s(9)), ..ended },
                60,
                Again::Same,
                0,
            ),
            (ended, 60, Again::OlderDies, 300),
            (ended, 30, Again::Same, 300),
            // Of another process, or of before a restart: it may be over.
            (Situation { doubted_for_at_most: None, ..cut }, 60, Again::Same, 300),
            // An answer of a gateway says nothing of the server behind it.
            (JUST_NOW, 60, Again::Same, 300),
            (
                Situation { kind: DoubtKind::Unheard, status: None, ..JUST_NOW },
                60,
                Again::Same,
                300,
            ),
            (Situation { kind: DoubtKind::Silent, status: None, ..JUST_NOW }, 60, Again::Same, 300),
            // Longer than the lifetime of the old token.
            (Situation { useless_in: s(0), ..ended }, 7_200, Again::Same, 0),
        ] {
            let next = situation.next(window(within, again));
            assert_eq!(next, Next::In(s(expected)), "{situation:?} {within} {again:?}");
        }
        let early = Replay { within: s(30), again: Again::Same, early: true };
        let patience = Patience { replay: Some(early), ..PATIENCE };
        assert_eq!(ended.next(patience), Next::In(s(20)));
        let now = Situation { doubted_for_at_most: Some(s(21)), silent_for: s(21), ..ended };
        assert_eq!(now.next(patience), Next::In(s(0)));
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
