//! Rotation: claim a generation, send once, make the new pair durable, then tell everyone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::broker::endpoint::{Disposition, Failure, Met, Proof, Request};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::metrics::{ByProvider, Refresh, Unreachable};
use crate::broker::model::{Generation, Grant, Reason, Standing, Verdict};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::claim::Claimed;
use crate::broker::refresh::flight::{Callers, Refreshed, Trigger};
use crate::broker::refresh::pair::Presented;
use crate::broker::refresh::troubles::Client;
use crate::broker::store::StoreError;
use crate::clock::from_unix_ms;
use crate::crash::{self, Moment};

impl Rotations {
    /// Refreshes the grant once. Never cancelled: it runs as a tracked task.
    pub(super) async fn run_flight(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        trigger: Trigger,
        callers: &Callers<'_>,
    ) -> Refreshed {
        let provider_id = entry.view().grant.descriptor.provider.clone();
        let start = Instant::now();
        let ended = self.rotate(entry, generation, callers).await;
        if let Err(error) = &ended {
            self.tell_failure(entry, generation, trigger, error);
        }
        let result = match &ended {
            Ok(_) => "success",
            Err(error) => error.degraded_reason().map_or("error", Reason::name),
        };
        let provider = provider_id.as_str().to_owned();
        self.metrics
            .refresh_duration
            .get_or_create(&ByProvider { provider: provider.clone() })
            .observe(start.elapsed().as_secs_f64());
        let refresh = Refresh { provider: provider.clone(), trigger: trigger.name(), result };
        self.metrics.refreshes.get_or_create(&refresh).inc();
        if let Err(Error::Upstream { failure: Failure { unreached: Some(cause), .. }, .. }) = &ended
        {
            let label = Unreachable { provider: provider.clone(), cause: cause.name() };
            self.metrics.unreachable.get_or_create(&label).inc();
        }
        self.learn(entry, generation, &ended);
        if let Err(Error::Upstream { failure, retry_after, .. }) = &ended
            && !matches!(failure.disposition, Disposition::Unknown(_))
        {
            self.retry_later(entry, generation, failure, *retry_after).await;
        }
        ended
    }

    /// What callers are told, that it is tried again, holds without their asking again.
    async fn retry_later(
        &self,
        entry: &Entry,
        generation: Generation,
        failure: &Failure,
        told: Option<Duration>,
    ) {
        let wait = match entry.trouble() {
            _ if failure.met != Met::Itself => told.or(failure.retry_after).unwrap_or_default(),
            Some(trouble) => trouble.until.saturating_duration_since(Instant::now()),
            None => return,
        };
        // If this fails, the claim has seen to it that somebody looks again.
        let _ = self.store.schedule(&entry.id, generation, self.clock.now() + wait).await;
    }

    /// Says what went wrong: once for each grant, and not for each grant that meets the same
    /// trouble of a provider.
    fn tell_failure(&self, entry: &Entry, generation: Generation, trigger: Trigger, error: &Error) {
        let queued = matches!(error, Error::Upstream { failure, .. } if failure.met != Met::Itself);
        let known = queued
            || entry.trouble().is_some()
            || self.troubles.hold(&Client::of(&entry.view().grant)).is_some();
        if known {
            debug!(grant.id = %entry.id, provider = %entry.provider(), %generation,
                trigger = trigger.name(), error = chain(error), "not refreshed");
        } else {
            let said = match error {
                Error::Upstream { failure, .. } => failure.detail.clone(),
                Error::GrantRefused { verdict, .. } => verdict.detail.clone(),
                _ => None,
            };
            warn!(grant.id = %entry.id, provider = %entry.provider(), %generation,
                trigger = trigger.name(), error = chain(error), provider_said = said,
                "not refreshed");
        }
    }

    /// Tries until the provider has taken it up, or the tries are used up.
    async fn rotate(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        mut generation: Generation,
        callers: &Callers<'_>,
    ) -> Refreshed {
        let (mut tries, mut limited, mut proof) = (0, None, Proof::InUse);
        loop {
            let ended = self.attempt(entry, generation, callers, proof).await;
            tries += 1;
            let Err(Error::Upstream { failure, .. }) = &ended else { return ended };
            // Why it has to wait in the queue is more than that it does.
            if failure.met == Met::Queue {
                return limited.map_or(ended, Err);
            }
            if tries >= self.settings.attempts_max || self.draining() {
                return ended;
            }
            // The answer broke off, and all that came of it is a new refresh token: it buys the rest.
            let now = entry.view().grant.generation();
            let rescued = now == generation.next();
            proof = if failure.other_secret { Proof::Other } else { Proof::InUse };
            if self.soon_over(entry, failure) {
                limited = ended.err();
            } else if proof == Proof::Other {
                info!(grant.id = %entry.id, "the client secret is refused; the other one is tried");
            } else if rescued
                || (failure.disposition == Disposition::NotSent && failure.met == Met::Itself)
            {
                generation = if rescued { now } else { generation };
                sleep(self.settings.attempt_backoff.after(tries - 1)).await;
            } else {
                return ended;
            }
        }
    }

    /// The provider limits our rate for no longer than callers wait: it is worth another turn.
    fn soon_over(&self, entry: &Entry, failure: &Failure) -> bool {
        failure.reason == Reason::ProviderRateLimited
            && failure.retry_after.is_none_or(|wait| wait <= self.settings.caller_wait_max)
            && self.doubt_of(entry, &entry.view().grant).is_none()
    }

    /// One claim, at most one request.
    async fn attempt(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        callers: &Callers<'_>,
        proof: Proof,
    ) -> Refreshed {
        let view = self.reconcile(entry).await?;
        if view.grant.generation() != generation {
            return Ok(view);
        }
        let grant = view.grant.clone();
        let request = self.request(&grant)?;
        let ready = self.endpoint.ready(&grant.descriptor.provider).await;
        ready.map_err(|failure| {
            self.troubles.met(&Client::of(&grant), failure.cause(), self.troubles.now());
            self.upstream(&grant, failure)
        })?;
        let stop_at = self.settings.stop_at;
        crash::reached(stop_at, Moment::BeforeClaim).await;
        let Some(claimed) = self.claim(entry, &view, Some(callers)).await? else {
            return self.reload(entry).await;
        };
        let Claimed { intent, at, mut turn } = claimed;
        crash::reached(stop_at, Moment::AfterClaim).await;
        let gate = self.settings.send_gate;
        if self.draining() || gate.is_some_and(|gate| at.elapsed() >= gate) {
            self.release(entry, &intent, None).await;
            return Err(if self.draining() { Error::Draining } else { slow_store() });
        }
        // Whole milliseconds, as stores keep them: a doubt is the same from memory and from there.
        let sent_at = from_unix_ms(self.clock.now_ms());
        entry.sent(&intent);
        if let Some((turn, _)) = &mut turn {
            turn.sends();
        }
        let sent = Instant::now();
        let reply = self.endpoint.exchange(&grant.descriptor.provider, request, proof).await;
        drop(turn);
        crash::reached(stop_at, Moment::AfterReply).await;
        let sent = Presented { intent: &intent, at: sent_at, sent };
        self.take_answer(entry, grant, &sent, reply, callers).await
    }

    /// What to send for the grant, if it can be refreshed at all.
    fn request(&self, grant: &Grant) -> Result<Request, Error> {
        self.can_refresh(grant)?;
        Ok(match &grant.pair.refresh_token {
            Some(token) if grant.descriptor.kind.spends() => Request::RefreshToken(token.clone()),
            _ => Request::ClientCredentials { scopes: grant.descriptor.scopes.clone() },
        })
    }

    /// Says no for a grant that cannot be refreshed.
    pub(super) fn can_refresh(&self, grant: &Grant) -> Result<(), Error> {
        usable(grant)?;
        match self.spent_by_time(grant) {
            Some(verdict) => Err(Error::GrantRefused { grant: grant.id.clone(), verdict }),
            None => Ok(()),
        }
    }

    /// Why the grant cannot be refreshed though nobody refused it: it has no refresh token, or that
    /// is past the end which the provider named.
    pub(in crate::broker) fn spent_by_time(&self, grant: &Grant) -> Option<Verdict> {
        if !grant.descriptor.kind.spends() || grant.standing != Standing::Usable {
            return None;
        }
        let now = self.clock.now();
        let end = grant.pair.refresh_token_expires_at.filter(|end| *end <= now);
        let reason = match (&grant.pair.refresh_token, end) {
            (None, _) => Reason::GrantNotRefreshable,
            (Some(_), Some(_)) => Reason::GrantRefreshTokenExpired,
            (Some(_), None) => return None,
        };
        Some(Verdict {
            reason,
            provider_error: None,
            detail: None,
            provider_status: None,
            time: end.unwrap_or(now),
            token_rejected: false,
            given_up: None,
        })
    }
}

/// Says no for a grant that is deleted, refused or switched off.
pub(in crate::broker) fn usable(grant: &Grant) -> Result<(), Error> {
    match &grant.standing {
        Standing::Usable if grant.descriptor.disabled => {
            Err(Error::GrantDisabled(grant.id.clone()))
        }
        Standing::Usable => Ok(()),
        Standing::Deleted => Err(Error::GrantNotFound(grant.id.clone())),
        Standing::Refused(verdict) => {
            Err(Error::GrantRefused { grant: grant.id.clone(), verdict: verdict.clone() })
        }
    }
}

fn slow_store() -> Error {
    let why = "the claim took longer than the send gate; nothing was sent";
    StoreError::Unavailable(why.into()).into()
}
