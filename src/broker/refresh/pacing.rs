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
        let (now, client) = (Instant::now(), Client::of(&view.grant));
        if let Some((error, left)) = self.paused(entry, &view.grant, doubt.is_some(), now) {
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

    /// What befell the grant the last time, and for how long it is left alone after that. What befell it
    /// in a trouble of its provider that is over counts no more.
    fn paused(
        &self,
        entry: &Entry,
        grant: &Grant,
        doubted: bool,
        now: Instant,
    ) -> Option<(Error, Duration)> {
        let client = Client::of(grant);
        if let Some(trouble) = entry.trouble() {
            // A doubt has a pace of its own.
            let own_pace = doubted && trouble.error.in_doubt();
            let over = own_pace || self.troubles.recovered_since(&client, trouble.at);
            let left = trouble.until.saturating_duration_since(now);
            return (!over && !left.is_zero()).then(|| (trouble.error.clone(), left));
        }
        // Another process met it, or this one before it was started.
        let answer = grant.answer.as_ref()?;
        let sent = now.checked_sub(between(answer.sent_at, self.clock.now()))?;
        if self.troubles.recovered_since(&client, sent) {
            return None;
        }
        let left = self.pause_after(grant, answer, None).saturating_sub(now - sent);
        let error = || self.upstream(grant, told(answer));
        (!left.is_zero()).then(|| (error(), left))
    }

    /// How long a grant is left alone after an answer, with one more try before callers need it.
    pub(super) fn pause_after(
        &self,
        grant: &Grant,
        answer: &Answer,
        asked: Option<Duration>,
    ) -> Duration {
        let Backoff { first, .. } = self.settings.retry_backoff;
        let backoff = Backoff::new(first, self.settings.client_probe.max);
        let asked_max = self.habits(&grant.descriptor.provider).retry_after_max;
        let pause = pause(answer, asked, Waits { backoff, asked_max });
        if answer.is_provisional() || answer.alone || asked.is_some() {
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
        let spread = spread(&grant.id, Generation(u64::from(failures)));
        let jittered = |wait: Duration| wait.mul_f64(JITTER_FLOOR + (1.0 - JITTER_FLOOR) * spread);
        let wait = match (error, &grant.answer) {
            (Error::Upstream { failure, .. }, Some(answer)) if failure.is_answer() => {
                let pause = self.pause_after(grant, answer, failure.retry_after);
                if failure.retry_after.is_some() { pause } else { jittered(pause) }
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

/// What is told on the strength of what is kept of an answer.
pub(super) fn told(answer: &Answer) -> Failure {
    let failure = Failure::of_others(&answer.cause);
    let reason = if answer.alone { Reason::GrantRefusedAlone } else { failure.reason };
    Failure { reason, met: Met::Itself, ..failure }
}

pub(super) fn waiting(error: Error, left: Duration) -> Error {
    match error {
        Error::Upstream { grant, provider, failure, time, .. } => {
            Error::Upstream { grant, provider, failure, time, retry_after: Some(left) }
        }
        other => other,
    }
}
