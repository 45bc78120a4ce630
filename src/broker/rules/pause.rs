//! How long a grant is left alone after an answer that was no success. Pure.

use std::time::Duration;

use crate::broker::backoff::Backoff;
use crate::broker::model::{Answer, Reason};
use crate::clock::between;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A grant that was refused together with many others is presented again after each of these waits, the
/// last of which is believed: a refused token can lose nothing.
const PROVISIONAL: [Duration; 4] = [
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(12 * 3_600),
];
/// They count only where the last came so long after the first: an operator who tries again and again in
/// an incident ends no grant.
const PROVISIONAL_LEAST: Duration = HOUR;
/// Refusals in a row, ...
const ALONE_COUNT: u32 = 3;
/// ... and over so long a time, after which a grant is what is refused.
const ALONE_AFTER: Duration = Duration::from_secs(10 * 60);

/// Waits after an answer.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// They double.
    pub backoff: Backoff,
    /// The longest that a provider can ask for.
    pub asked_max: Duration,
}

/// How long a grant is left alone after this answer, at most.
pub fn pause(answer: &Answer, waits: Waits) -> Duration {
    let before = answer.count.saturating_sub(1);
    if answer.alone {
        return DAY;
    }
    if answer.is_provisional() {
        let place = usize::try_from(before).unwrap_or(usize::MAX);
        return PROVISIONAL.get(place).copied().unwrap_or(DAY);
    }
    let own = if between(answer.since, answer.sent_at) >= DAY {
        HOUR
    } else {
        waits.backoff.after(before)
    };
    answer.asked.map_or(own, |asked| asked.min(waits.asked_max).max(waits.backoff.first))
}

/// The refusal that follows so many provisional ones is believed.
pub fn is_last(before: Option<&Answer>) -> bool {
    before.is_some_and(|before| {
        let often = usize::try_from(before.count).is_ok_and(|count| count >= PROVISIONAL.len());
        let long = between(before.since, before.sent_at) >= PROVISIONAL_LEAST;
        before.is_provisional() && often && long
    })
}

/// This grant alone is refused: often, for long, and another one of the same client succeeded meanwhile.
pub fn is_alone(answer: &Answer, others_live: bool) -> bool {
    let refused = !matches!(
        answer.cause.reason,
        Reason::ProviderRateLimited
            | Reason::ProviderUnavailable
            | Reason::ProviderConflict
            | Reason::ProviderRefusesMany
    );
    let long = between(answer.since, answer.sent_at) >= ALONE_AFTER;
    refused && others_live && long && answer.count >= ALONE_COUNT
}

/// `pause` with one more try before callers have to wait for a new token, in `left`; less than `least` is
/// left alone in any case.
pub fn before_it_is_needed(pause: Duration, left: Option<Duration>, least: Duration) -> Duration {
    let latest = left.map_or(Duration::ZERO, |left| left.saturating_sub(least));
    if latest > least { pause.min(latest) } else { pause }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::broker::model::Cause;

    const MINUTE: Duration = Duration::from_secs(60);
    const WAITS: Waits = Waits {
        backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(300)),
        asked_max: Duration::from_secs(300),
    };

    fn answer(reason: Reason, count: u32, since: Duration) -> Answer {
        let cause = Cause { reason, status: Some(403), said: None, detail: None };
        let (since, sent_at) = (UNIX_EPOCH, UNIX_EPOCH + since);
        Answer { cause, sent_at, since, count, asked: None, alone: false }
    }

    #[test]
    fn waits_double_to_five_minutes_and_come_hourly_after_a_day() {
        let wait = |count, since| {
            pause(&answer(Reason::ClientNotAuthorized, count, since), WAITS).as_secs()
        };
        assert_eq!([1, 2, 3, 9, 10, 99].map(|count| wait(count, MINUTE)), [1, 2, 4, 256, 300, 300]);
        assert_eq!(wait(300, DAY), 3_600);
    }

    #[test]
    fn what_a_provider_asks_for_has_an_end() {
        let limited = answer(Reason::ProviderRateLimited, 1, Duration::ZERO);
        let wait = |asked| {
            let asked = Some(Duration::from_secs(asked));
            pause(&Answer { asked, ..limited.clone() }, WAITS).as_secs()
        };
        assert_eq!([0, 30, 86_400, u64::MAX].map(wait), [1, 30, 300, 300]);
    }

    #[test]
    fn provisional_refusals_are_presented_four_times() {
        let at = |count| answer(Reason::ProviderRefusesMany, count, HOUR);
        let waits = [1, 2, 3, 4].map(|count| pause(&at(count), WAITS).as_secs() / 60);
        assert_eq!(waits, [5, 30, 120, 720]);
        assert!(!is_last(None) && !is_last(Some(&at(3))) && is_last(Some(&at(4))));
        assert!(!is_last(Some(&answer(Reason::ClientNotAuthorized, 9, DAY))));
        let hasty = answer(Reason::ProviderRefusesMany, 9, MINUTE);
        assert!(!is_last(Some(&hasty)), "an operator tried it again and again");
    }

    #[test]
    fn a_grant_is_alone_after_three_refusals_in_ten_minutes_while_others_live() {
        let refused = |count, minutes| answer(Reason::ClientNotAuthorized, count, MINUTE * minutes);
        assert!(is_alone(&refused(3, 10), true));
        assert!(!is_alone(&refused(2, 60), true) && !is_alone(&refused(30, 9), true));
        assert!(!is_alone(&refused(3, 10), false), "perhaps all are refused");
        assert!(!is_alone(&answer(Reason::ProviderRateLimited, 30, HOUR), true));
        let alone = Answer { alone: true, ..refused(3, 10) };
        assert_eq!(pause(&alone, WAITS), DAY);
    }

    #[test]
    fn there_is_one_more_try_before_it_is_needed() {
        let s = Duration::from_secs;
        assert_eq!(before_it_is_needed(s(300), Some(s(100)), s(5)), s(95));
        assert_eq!(before_it_is_needed(s(60), Some(s(100)), s(5)), s(60));
        assert_eq!(before_it_is_needed(s(300), Some(s(8)), s(5)), s(300), "that was it");
        assert_eq!(before_it_is_needed(s(300), None, s(5)), s(300));
    }
}
