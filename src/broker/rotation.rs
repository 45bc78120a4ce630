//! Rotation: claim a generation, send once, make the new pair durable, then tell everyone.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{Instrument, error, info, info_span, warn};

use crate::broker::Broker;
use crate::broker::endpoint::{Disposition, Failure, Issued, Reply, Request};
use crate::broker::error::{Error, Reason, chain};
use crate::broker::flight::{Landing, Trigger};
use crate::broker::grant::{
    Generation, Grant, GrantKind, Intent, Pair, Position, Standing, Token, Verdict,
};
use crate::broker::known::{Entry, View};
use crate::broker::metrics::{ByProvider, Refresh};
use crate::broker::settings::backoff;
use crate::broker::store::{Merged, Publication, StoreError};

/// Where a flight tells its callers how it ended.
type Tower = watch::Sender<Option<Landing>>;

impl Broker {
    /// Refreshes the grant once. Never cancelled: it runs as a tracked task.
    pub(super) async fn fly(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        trigger: Trigger,
        tower: &Tower,
    ) -> Landing {
        let provider_id = entry.view().grant.descriptor.provider.clone();
        let span = info_span!("refresh", grant.id = %entry.id, provider = %provider_id, trigger = trigger.name());
        let start = Instant::now();
        let landing = self.rotate(entry, generation, tower).instrument(span.clone()).await;
        if let Err(error) = &landing {
            span.in_scope(|| warn!(%generation, error = chain(error), "not refreshed"));
        }
        let result = match &landing {
            Ok(_) => "success",
            Err(error) => error.degraded_reason().map_or("error", Reason::name),
        };
        let provider = provider_id.as_str().to_owned();
        self.metrics
            .refresh_duration
            .get_or_create(&ByProvider { provider: provider.clone() })
            .observe(start.elapsed().as_secs_f64());
        let refresh = Refresh { provider, trigger: trigger.name(), result };
        self.metrics.refreshes.get_or_create(&refresh).inc();
        self.learn(entry, generation, &provider_id, &landing);
        landing
    }

    /// Tries until something was sent, or the tries are used up.
    async fn rotate(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        tower: &Tower,
    ) -> Landing {
        let mut tries = 0;
        loop {
            let landing = self.attempt(entry, generation, tower).await;
            tries += 1;
            let unsent = matches!(&landing, Err(Error::Upstream { failure, .. })
                if failure.disposition == Disposition::NotSent);
            if !unsent || tries >= self.settings.attempts_max || self.draining() {
                return landing;
            }
            sleep(backoff(self.settings.attempt_backoff, tries - 1, self.settings.retry_backoff))
                .await;
        }
    }

    /// One claim, at most one request.
    async fn attempt(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        tower: &Tower,
    ) -> Landing {
        let Some(stored) = self.store.load(&entry.id).await? else {
            return Err(Error::GrantNotFound(entry.id.clone()));
        };
        let behind = stored.position < entry.view().grant.position;
        let view = entry.adopt(stored);
        if behind {
            self.heal(&view.grant).await?;
        }
        if view.grant.generation() != generation {
            return Ok(view);
        }
        let grant = view.grant.clone();
        if grant.descriptor.kind.spends() && entry.in_doubt(generation) {
            return Err(self.outcome_unknown(&grant));
        }
        let request = self.request(&grant)?;
        let Some((intent, claimed_at)) = self.claim(entry, &grant).await? else {
            return self.reload(entry).await;
        };
        if self.draining() || claimed_at.elapsed() >= self.settings.send_gate {
            self.release(entry, &intent).await;
            return Err(if self.draining() { Error::Draining } else { slow_store() });
        }
        let sent_at = self.clock.now();
        entry.sent(&intent);
        let reply = self.endpoint.exchange(&grant.descriptor.provider, request).await;
        self.settle(entry, grant, &intent, sent_at, reply, tower).await
    }

    /// The store went back behind what we know: it gets the newer pair before anything is spent,
    /// because what it holds is spent already.
    async fn heal(&self, grant: &Grant) -> Result<(), Error> {
        if grant.standing != Standing::Usable {
            return Ok(());
        }
        warn!(generation = %grant.generation(), "the store is behind what it had taken; healing it");
        let publication = Publication {
            generation: grant.generation(),
            fence: grant.position.fence,
            descriptor: grant.descriptor.clone(),
            pair: grant.pair.clone(),
            due_at: None,
        };
        self.store.merge(&grant.id, publication).await?;
        Ok(())
    }

    /// What to send for the grant, if it can be refreshed at all.
    fn request(&self, grant: &Grant) -> Result<Request, Error> {
        let refused = |reason| Error::GrantRefused {
            grant: grant.id.clone(),
            verdict: Verdict {
                reason,
                provider_error: None,
                provider_status: None,
                time: self.clock.now(),
            },
        };
        usable(grant)?;
        match grant.descriptor.kind {
            GrantKind::ClientCredentials => {
                Ok(Request::ClientCredentials { scopes: grant.descriptor.scopes.clone() })
            }
            GrantKind::RefreshToken => {
                let end = grant.pair.refresh_token_expires_at;
                if end.is_some_and(|end| end <= self.clock.now()) {
                    return Err(refused(Reason::GrantRefreshTokenExpired));
                }
                let token = grant.pair.refresh_token.clone();
                let token = token.ok_or_else(|| refused(Reason::GrantNotRefreshable))?;
                Ok(Request::RefreshToken(token))
            }
        }
    }

    /// Acts on what came back. The refresh token is made durable before anything else.
    async fn settle(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: Grant,
        intent: &Intent,
        sent_at: SystemTime,
        reply: Reply,
        tower: &Tower,
    ) -> Landing {
        let spends = grant.descriptor.kind.spends();
        let fresh = reply.refresh_token.filter(|_| spends);
        let received = fresh.is_some();
        let issued = match (reply.issued, received) {
            (Ok(issued), _) => Ok(token(&grant, issued, sent_at)),
            (Err(failure), true) => Err((failure, grant.pair.token.clone())),
            (Err(failure), false) => return self.failed(entry, &grant, intent, failure).await,
        };
        let (token, failure) = match issued {
            Ok(token) => (Some(token), None),
            Err((failure, old_token)) => (old_token, Some(failure)),
        };
        let end = reply.refresh_token_lifetime.map(|lifetime| sent_at + lifetime);
        let kept_end = grant.pair.refresh_token_expires_at.filter(|_| !received);
        let pair = Pair {
            refresh_token: fresh.or_else(|| grant.pair.refresh_token.clone()),
            refresh_token_expires_at: end.or(kept_end),
            token,
            published_at: self.clock.now(),
        };
        let tower = failure.is_none().then_some(tower);
        let view = self.publish(entry, grant, intent, pair, tower).await;
        entry.settled(intent);
        let view = view?;
        match failure {
            None => Ok(view),
            // The refresh token that came is unspent: the next try need not wait in doubt.
            Some(failure) => {
                let disposition = Disposition::NotProcessed;
                Err(self.upstream(&view.grant, Failure { disposition, ..failure }))
            }
        }
    }

    /// Acts on a failure that brought no refresh token.
    async fn failed(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        intent: &Intent,
        failure: Failure,
    ) -> Landing {
        let (disposition, reason) = (failure.disposition, failure.reason);
        let (disposition, reason) = match disposition {
            Disposition::Unknown if !grant.descriptor.kind.spends() => {
                (Disposition::NotProcessed, reason)
            }
            Disposition::NotProcessed if Self::confirmed(entry, &failure) => {
                (Disposition::Refused, Reason::GrantReauthRequired)
            }
            other => (other, reason),
        };
        let failure = Failure { reason, ..failure };
        match disposition {
            Disposition::NotSent | Disposition::NotProcessed => {
                entry.settled(intent);
                self.release(entry, intent).await;
            }
            Disposition::Refused => return self.refuse(entry, grant, intent, &failure).await,
            // The claim stays: the refresh token may be spent and is not sent again.
            Disposition::Unknown => {}
        }
        Err(self.upstream(grant, failure))
    }

    /// A second refusal of a kind that we do not know counts as final, after the pause.
    fn confirmed(entry: &Entry, failure: &Failure) -> bool {
        let known =
            |error: &Error| error.degraded_reason() == Some(Reason::ProviderUnrecognizedError);
        failure.reason == Reason::ProviderUnrecognizedError
            && entry
                .trouble()
                .is_some_and(|trouble| known(&trouble.error) && trouble.until <= Instant::now())
    }

    /// Records the provider's final no, unless the store has moved on meanwhile.
    async fn refuse(
        &self,
        entry: &Entry,
        grant: &Grant,
        intent: &Intent,
        failure: &Failure,
    ) -> Landing {
        let verdict = Verdict {
            reason: failure.reason,
            provider_error: failure.provider_error.clone(),
            provider_status: failure.status,
            time: self.clock.now(),
        };
        let step = || self.store.refuse(&entry.id, intent, &verdict);
        let ours = self.persist(grant, "the provider's refusal", step, || {}).await;
        entry.settled(intent);
        if ours {
            let position = Position { generation: intent.generation, fence: intent.fence };
            let standing = Standing::Refused(verdict.clone());
            let refused = Grant { position, standing, intent: None, ..grant.clone() };
            entry.adopt(refused);
            return Err(Error::GrantRefused { grant: grant.id.clone(), verdict });
        }
        self.reload(entry).await
    }

    /// Makes a pair durable, then current. If the store does not take it, it is served from
    /// memory and offered again until the store does.
    async fn publish(
        &self,
        entry: &Entry,
        grant: Grant,
        intent: &Intent,
        pair: Pair,
        tower: Option<&Tower>,
    ) -> Landing {
        let generation = intent.generation.next();
        let position = Position { generation, fence: intent.fence };
        let next =
            Grant { position, pair, standing: Standing::Usable, intent: None, ..grant.clone() };
        let view = View::new(next.clone());
        let publication = Publication {
            generation,
            fence: intent.fence,
            descriptor: next.descriptor.clone(),
            pair: next.pair.clone(),
            due_at: next.descriptor.keep_warm.then(|| view.due_at()),
        };
        let step = || self.store.merge(&entry.id, publication.clone());
        let serve_from_memory = || {
            let view = entry.adopt(next.clone());
            if let Some(tower) = tower {
                tower.send_replace(Some(Ok(view)));
            }
        };
        let merged = self.persist(&grant, "the new token pair", step, serve_from_memory).await;
        match merged {
            Merged::Published | Merged::Same => {
                let fingerprint =
                    next.pair.token.as_ref().map(|token| token.access_token.fingerprint());
                info!(%generation, token.fingerprint = fingerprint, "refreshed");
                Ok(entry.adopt(next))
            }
            Merged::Sibling | Merged::Old => self.reload(entry).await,
            Merged::Missing => {
                error!(%generation, "the grant is missing in the store; its pair is only in memory");
                Ok(entry.adopt(next))
            }
        }
    }

    /// Repeats `step` until the store takes it; `alarm` runs at the first failure.
    async fn persist<T, F>(
        &self,
        grant: &Grant,
        what: &str,
        step: impl Fn() -> F,
        alarm: impl Fn(),
    ) -> T
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut failures = 0;
        loop {
            let failure = match step().await {
                Ok(done) => {
                    if failures > 0 {
                        self.metrics.unpublished_pairs.dec();
                        info!(failures, "the store has taken {what}");
                    }
                    return done;
                }
                Err(failure) => failure,
            };
            let provider = grant.descriptor.provider.as_str().to_owned();
            self.metrics.persist_failures.get_or_create(&ByProvider { provider }).inc();
            error!(error = %chain(&failure), failures, "the store did not take {what}; it is kept in memory and offered again");
            if failures == 0 {
                self.metrics.unpublished_pairs.inc();
                alarm();
            }
            let settings = &self.settings;
            sleep(backoff(settings.publish_backoff, failures, settings.publish_backoff_max)).await;
            failures += 1;
        }
    }

    async fn reload(&self, entry: &Entry) -> Landing {
        let grant = self.store.load(&entry.id).await?;
        let grant = grant.ok_or_else(|| Error::GrantNotFound(entry.id.clone()))?;
        let view = entry.adopt(grant);
        usable(&view.grant)?;
        Ok(view)
    }

    pub(super) fn outcome_unknown(&self, grant: &Grant) -> Error {
        let failure = Failure {
            reason: Reason::RefreshOutcomeUnknown,
            disposition: Disposition::Unknown,
            concern: crate::broker::endpoint::Concern::Grant,
            status: None,
            provider_error: None,
            retry_after: None,
        };
        self.upstream(grant, failure)
    }

    pub(super) fn upstream(&self, grant: &Grant, failure: Failure) -> Error {
        Error::Upstream {
            grant: grant.id.clone(),
            provider: grant.descriptor.provider.clone(),
            failure,
            time: self.clock.now(),
            retry_after: None,
        }
    }
}

fn token(grant: &Grant, issued: Issued, sent_at: SystemTime) -> Token {
    let scopes =
        if issued.scopes.is_empty() { grant.descriptor.scopes.clone() } else { issued.scopes };
    Token {
        access_token: issued.access_token,
        token_type: issued.token_type,
        generation: grant.generation().next(),
        issued_at: sent_at,
        lifetime: issued.lifetime,
        refresh_in: issued.refresh_in,
        scopes,
        attributes: issued.attributes,
    }
}

/// Says no for a grant that is deleted or refused.
pub(super) fn usable(grant: &Grant) -> Result<(), Error> {
    match &grant.standing {
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
