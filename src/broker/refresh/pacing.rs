//! Pacing: after a failure, who waits how long before the provider is asked again.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::backoff::Backoff;
use crate::broker::endpoint::{Disposition, Failure, Met};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::freshness::{Window, spread};
use crate::broker::model::{Answer, Generation, Grant, Reason};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::doubt::Next;
use crate::broker::refresh::flight::{Refreshed, Trigger};
use crate::broker::refresh::resend::in_doubt;
use crate::broker::refresh::rotation::usable;
use crate::broker::refresh::troubles::Client;
use crate::broker::rules::pause::{Waits, before_it_is_needed, pause};
use crate::broker::view::Trouble;
use crate::broker::view::View;
use crate::clock::between;

/// Waits are drawn from this share of the backoff up to all of it, so that grants which failed
/// together do not come back together.
const JITTER_FLOOR: f64 = 0.5;
/// So long before callers have to wait for a new token a grant that pauses is tried once more.
const LAST_TRY: Duration = Duration::from_secs(5);

impl Rotations {
    /// Says no to a refresh that cannot help now, and why.
    pub(super) fn may_refresh(
        &self,
        entry: &Entry,
        view: &View,
        trigger: Trigger,
    ) -> Result<(), Error> {
        if self.draining() {
            return Err(Error::Draining);
        }
        // Whether it may be used, is in doubt or in trouble: it is to end.
        if trigger == Trigger::Revoke {
            return Ok(());
        }
        usable(&view.grant)?;
        let doubt = self.doubt_of(entry, &view.grant);
        if let Some(doubt) = &doubt {
            let next = self.next_try(entry, view, doubt);
            if next != Next::In(Duration::ZERO) {
                return Err(in_doubt(&view.grant, doubt, next));
            }
        }
        // An operator who has mended something does not wait.
        if matches!(trigger, Trigger::Admin | Trigger::Resolve) {
            return Ok(());
        }
        let client = Client::of(&view.grant);
        if let Some((error, left)) = self.paused(entry, &view.grant, doubt.is_some()) {
            return Err(waiting(error, left));
        }
        let Some((failure, left)) = self.denial(&client, view.grant.failures()) else {
            return Ok(());
        };
        // Who has no token waits for the next probe, where that is in time.
        let needed = view.grant.valid_token(self.clock.now()).is_none();
        if needed && left <= self.settings.caller_wait_max && trigger != Trigger::Proactive {
            return Ok(());
        }
        Err(match &doubt {
            Some(doubt) => in_doubt(&view.grant, doubt, Next::In(left)),
            None => waiting(self.upstream(&view.grant, failure), left),
        })
    }

    /// What is kept of an answer, as the trouble that it is.
    pub(in crate::broker) fn answered(&self, grant: &Grant, answer: &Answer) -> Trouble {
        let (now, error) = (Instant::now(), self.upstream(grant, told(answer)));
        let passed = between(answer.sent_at, self.clock.now());
        let pause = self.pause_after(grant, answer);
        let at = now.checked_sub(passed);
        // A machine may have been booted after it.
        let until = at.map_or(now + pause.saturating_sub(passed), |at| at + pause);
        Trouble { error, failures: answer.count, at: at.unwrap_or(now), until }
    }

    /// What befell the grant the last time, here or at another process, and for how long it is left alone
    /// after that. What befell it in a trouble of its provider that is over counts no more.
    fn paused(&self, entry: &Entry, grant: &Grant, doubted: bool) -> Option<(Error, Duration)> {
        let client = Client::of(grant);
        let answered = grant.answer.as_ref().map(|answer| self.answered(grant, answer));
        let met = entry.trouble().map(|trouble| Trouble::clone(&trouble));
        // A doubt has a pace of its own.
        let met = met.filter(|trouble| !(doubted && trouble.error.in_doubt()));
        let keeps = grant.keeps_its_pace();
        let over = |at| !keeps && self.troubles.recovered_since(&client, at);
        let now = Instant::now();
        let all = [answered, met].into_iter().flatten();
        let open = all.filter(|trouble| now < trouble.until && !over(trouble.at));
        let last = open.max_by_key(|trouble| trouble.until)?;
        Some((last.error, last.until - now))
    }

    /// How long a grant is left alone after an answer, with one more try before callers need it.
    pub(super) fn pause_after(&self, grant: &Grant, answer: &Answer) -> Duration {
        let Backoff { first, .. } = self.settings.retry_backoff;
        let backoff = Backoff::new(first, self.settings.client_probe.max);
        let asked_max = self.habits(&grant.descriptor.provider).retry_after_max;
        let pause = pause(answer, Waits { backoff, asked_max });
        if answer.asked.is_some() {
            return pause;
        }
        let pause = jittered(grant, answer.count.saturating_sub(1), pause);
        if answer.keeps_its_pace() {
            return pause;
        }
        let window = grant.pair.token.as_ref().map(|token| Window::of(&grant.id, token));
        let left = window.map(|window| between(answer.sent_at, window.hard_at));
        before_it_is_needed(pause, left, LAST_TRY)
    }

    /// Remembers how a refresh ended, for the next one.
    pub(super) fn learn(&self, entry: &Entry, spent: Generation, ended: &Refreshed) {
        let view = entry.view();
        match ended {
            Ok(_) => {
                entry.forget_trouble();
            }
            Err(error) => {
                // What others met, or a queue that was too long, is no trouble of the grant.
                let own =
                    !matches!(error, Error::Upstream { failure, .. } if failure.met != Met::Itself);
                // What befell an old chain says nothing about the one that replaced it.
                if view.grant.continues(spent) && own {
                    self.remember(entry, &view.grant, error);
                }
            }
        }
    }

    fn remember(&self, entry: &Entry, grant: &Grant, error: &Error) {
        let failures = entry.trouble().map_or(0, |trouble| trouble.failures);
        let jittered = |wait| jittered(grant, failures, wait);
        let wait = match (error, &grant.answer) {
            (Error::Upstream { failure, .. }, Some(answer)) if failure.is_answer() => {
                self.pause_after(grant, answer)
            }
            (Error::Upstream { failure, .. }, _) => {
                let least = self.settings.retry_backoff.after(failures);
                match (failure.disposition, failure.retry_after) {
                    // Its own rule has said when.
                    (Disposition::Unknown(_), wait) => {
                        wait.unwrap_or_else(|| jittered(self.settings.retry_backoff.max))
                    }
                    (_, asked) => asked.map_or_else(|| jittered(least), |asked| asked.max(least)),
                }
            }
            // It is not the provider that has to be spared.
            _ => jittered(self.settings.retry_backoff.first),
        };
        let (error, at) = (error.clone(), Instant::now());
        let (failures, until) = (failures + 1, at + wait);
        entry.met(Trouble { error, failures, at, until });
    }
}

/// A wait, or part of it: grants that failed together do not come back together.
fn jittered(grant: &Grant, failures: u32, wait: Duration) -> Duration {
    let spread = spread(&grant.id, Generation(u64::from(failures)));
    wait.mul_f64(JITTER_FLOOR + (1.0 - JITTER_FLOOR) * spread)
}

/// What is told on the strength of what is kept of an answer.
pub(super) fn told(answer: &Answer) -> Failure {
    let failure = Failure::of_others(&answer.cause);
    let reason = if answer.alone { Reason::GrantRefusedAlone } else { failure.reason };
    Failure { reason, met: Met::Itself, ..failure }
}

pub(in crate::broker) fn waiting(error: Error, left: Duration) -> Error {
    match error {
        Error::Upstream { grant, provider, failure, time, .. } => {
            Error::Upstream { grant, provider, failure, time, retry_after: Some(left) }
        }
        other => other,
    }
}
