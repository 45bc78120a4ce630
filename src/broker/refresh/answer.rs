//! Answers: what a reply, or its absence, means for the grant.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, info, warn};

use crate::broker::acts::ActKind;
use crate::broker::endpoint::{Concern, Disposition, Failure, Reply};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::model::{
    Doubt, DoubtKind, Grant, Intent, Position, ProviderId, Reason, Standing, Verdict,
};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::{Callers, Refreshed};
use crate::broker::refresh::pair::{Received, Sent, received};
use crate::broker::refresh::providers::Refusal;
use crate::broker::store::{Amendment, PAGE, StoreError};
use crate::clock::between;

impl Rotations {
    /// Acts on what came back. The refresh token is made durable before anything else.
    pub(super) async fn take_answer(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: Grant,
        intent: &Intent,
        sent_at: SystemTime,
        reply: Reply,
        callers: &Callers<'_>,
    ) -> Refreshed {
        let sent = Sent {
            before: &grant.pair,
            descriptor: &grant.descriptor,
            generation: grant.generation().next(),
            at: sent_at,
        };
        let Received { pair, failure } = match received(&sent, reply, self.clock.now()) {
            Ok(received) => received,
            Err(failure) => return self.failed(entry, &grant, intent, sent_at, failure).await,
        };
        if failure.is_none() {
            self.tell_success(&grant.descriptor.provider);
        }
        if let Some(doubt) = &intent.doubt {
            self.count_resend(&grant, doubt, "pair");
        }
        let callers = failure.is_none().then_some(callers);
        let view = self.publish(entry, grant, intent, pair, callers).await;
        entry.answered(intent);
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
        sent_at: SystemTime,
        failure: Failure,
    ) -> Refreshed {
        let failure = self.whose_trouble(grant, failure);
        if let Some(doubt) = &intent.doubt {
            let result = match failure.disposition {
                Disposition::NotSent => "not_sent",
                Disposition::NotProcessed => "not_processed",
                Disposition::Refused => "refused",
                Disposition::Unknown(_) => "unknown",
            };
            self.count_resend(grant, doubt, result);
        }
        match failure.disposition {
            Disposition::NotSent | Disposition::NotProcessed => {
                self.give_back(entry, grant, intent).await;
                if failure.reason == Reason::ProviderRateLimited {
                    let sent_ago = between(sent_at, self.clock.now());
                    self.slow_down(&grant.descriptor.provider, failure.retry_after, sent_ago).await;
                }
                Err(self.upstream(grant, failure))
            }
            Disposition::Refused => self.refuse(entry, grant, intent, &failure).await,
            // The claim stays: the refresh token may be spent.
            Disposition::Unknown(kind) => {
                self.doubted(entry, grant, intent, sent_at, kind, failure).await
            }
        }
    }

    /// Nothing was processed under this claim: what was in doubt before still is.
    pub(super) async fn give_back(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        intent: &Intent,
    ) {
        match &intent.doubt {
            None => entry.answered(intent),
            Some(doubt) => {
                let doubt = Doubt { fence: intent.fence, ..doubt.clone() };
                entry.still_doubted(intent, doubt.clone());
                let held = Intent { doubt: Some(doubt), ..intent.clone() };
                entry.adopt(Grant { intent: Some(held), ..grant.clone() });
            }
        }
        self.release(entry, intent).await;
    }

    /// Reads a failure in the light of what other grants of the provider met.
    fn whose_trouble(self: &Arc<Self>, grant: &Grant, failure: Failure) -> Failure {
        let provider = &grant.descriptor.provider;
        let failure = if self.spends(grant) { failure } else { harmless(grant, failure) };
        match (failure.disposition, failure.reason) {
            (Disposition::Unknown(_), _) => {
                let begins = self.providers.silent(provider, &grant.id, &failure);
                self.tell_incident(provider, begins);
                if let Some(wait) = failure.retry_after {
                    self.providers.hold(provider, &asked_to_wait(&failure), |_| wait);
                }
            }
            // What is not understood never ends a grant, however often it comes.
            (Disposition::NotProcessed, Reason::ProviderUnrecognizedError) => {
                let begins = self.providers.puzzled(provider, &grant.id, &failure);
                self.tell_incident(provider, begins);
            }
            (Disposition::Refused, _) => return self.refusal(grant, failure),
            (Disposition::NotSent | Disposition::NotProcessed, _) => {}
        }
        failure
    }

    /// A grant was refused for good, unless the provider refuses too many at once.
    fn refusal(self: &Arc<Self>, grant: &Grant, failure: Failure) -> Failure {
        let provider = &grant.descriptor.provider;
        let window = self.settings.refusal_window;
        let of_provider = || self.known.of(provider).count();
        let refusal = self.providers.refused(provider, &grant.id, &failure, window, of_provider);
        if refusal == Refusal::Final {
            return failure;
        }
        if refusal == Refusal::DoubtedFromNow {
            self.tell_incident(provider, true);
            self.lift_refusals(provider.clone(), self.clock.now() - window);
        }
        let (reason, disposition) = (Reason::ProviderRefusesMany, Disposition::NotProcessed);
        Failure { reason, disposition, ..failure }
    }

    /// Says once that a provider is in trouble, instead of once for each grant.
    fn tell_incident(&self, provider: &ProviderId, begins: bool) {
        let Some(incident) = self.providers.incident(provider).filter(|_| begins) else { return };
        warn!(%provider, grants = incident.grants, reason = incident.failure.reason.name(),
            status = incident.failure.status, provider_error = incident.failure.provider_error,
            "the provider is in trouble: several grants failed alike and none succeeded; one request at a time goes out until one does");
    }

    /// A refresh succeeded: the provider is well.
    fn tell_success(self: &Arc<Self>, provider: &ProviderId) {
        if let Some(incident) = self.providers.succeeded(provider) {
            self.wake(provider.clone());
            let lasted = incident.since.elapsed().as_secs();
            info!(%provider, grants = incident.grants, lasted_s = lasted, "the provider is well again");
        }
    }

    /// Lifts the verdicts on grants that were refused shortly before the provider's trouble was
    /// noticed: nobody is dead yet.
    fn lift_refusals(self: &Arc<Self>, provider: ProviderId, since: SystemTime) {
        let rotations = Arc::clone(self);
        self.tasks.spawn(async move {
            let step = || rotations.lift_all(&provider, since);
            let told = |failures, failure: &Error| {
                if failures > 0 {
                    return;
                }
                warn!(%provider, error = chain(failure), "verdicts on its grants are to be lifted once the store answers");
            };
            let lifted = tokio::select! {
                () = rotations.drain.cancelled() => return,
                lifted = rotations.insist(step, told) => lifted,
            };
            warn!(%provider, lifted, "verdicts of the last minutes are lifted: the provider refuses too many grants at once");
        });
    }

    async fn lift_all(&self, provider: &ProviderId, since: SystemTime) -> Result<usize, Error> {
        let (mut cursor, mut lifted) = (None, 0);
        loop {
            let page = self.store.list(cursor.as_deref(), PAGE).await?;
            for grant in page.grants.iter().filter(|grant| grant.descriptor.provider == *provider) {
                match &grant.standing {
                    Standing::Refused(verdict)
                        if verdict.time >= since
                            && verdict.given_up.is_none()
                            && !verdict.is_revocation() =>
                    {
                        if self.lift(grant).await? {
                            self.acts.tell(ActKind::VerdictLifted, grant, None);
                            lifted += 1;
                        }
                    }
                    Standing::Refused(_) | Standing::Usable | Standing::Deleted => {}
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(lifted);
            }
        }
    }

    /// Makes a refused grant usable again. It is due at once, unless its refresh token was in doubt
    /// when an operator gave it up: then it is in doubt again.
    pub(in crate::broker) async fn lift(&self, grant: &Grant) -> Result<bool, Error> {
        let in_doubt = match &grant.standing {
            Standing::Refused(verdict) => verdict.given_up.clone(),
            Standing::Usable | Standing::Deleted => None,
        };
        let due_at = in_doubt.is_none().then(|| self.clock.now());
        let in_doubt = in_doubt.map(|doubt| (self.next_owner(), doubt));
        let amendment = Amendment { lift: true, due_at, in_doubt, ..Amendment::default() };
        let Some(lifted) = self.store.amend(&grant.id, grant.position, amendment).await? else {
            return Ok(false);
        };
        if let Some(entry) = self.known.get(&grant.id) {
            entry.adopt(lifted);
        }
        Ok(true)
    }

    /// Records the provider's final no, unless the store has moved on meanwhile.
    async fn refuse(
        &self,
        entry: &Entry,
        grant: &Grant,
        intent: &Intent,
        failure: &Failure,
    ) -> Refreshed {
        if failure.reason == Reason::GrantReauthRequired
            && let Some(other) = self.try_sibling(entry, intent).await
        {
            let (reason, disposition) = (Reason::RefreshOutcomeUnknown, Disposition::NotProcessed);
            return Err(self.upstream(&other, Failure { reason, disposition, ..failure.clone() }));
        }
        // What is refused now was spent by a request before, whose answer was lost.
        let lost = intent.doubt.as_ref().filter(|_| failure.reason == Reason::GrantReauthRequired);
        let verdict = Verdict {
            reason: lost.map_or(failure.reason, |_| Reason::GrantRefreshTokenLost),
            provider_error: failure.provider_error.clone(),
            provider_status: failure.status,
            time: self.clock.now(),
            token_rejected: entry.token_rejected(grant),
            given_up: None,
        };
        self.end(entry, grant, intent, verdict).await
    }

    /// No grant is dead while there is another pair of its generation, of a holder that was overtaken.
    async fn try_sibling(&self, entry: &Entry, intent: &Intent) -> Option<Grant> {
        let step = || self.store.promote(&entry.id, intent);
        let told = |failures, failure: &StoreError| {
            if failures == 0 {
                error!(error = chain(failure), "whether another pair is there is asked again");
            }
        };
        let other = self.insist(step, told).await?;
        entry.answered(intent);
        entry.adopt(other.clone());
        self.acts.tell(ActKind::OtherPairTried, &other, None);
        warn!(generation = %other.generation(),
            "the refresh token was refused; another pair of the same generation is tried");
        Some(other)
    }

    /// Ends the grant under this claim; the store is offered that until it takes it.
    pub(super) async fn end(
        &self,
        entry: &Entry,
        grant: &Grant,
        intent: &Intent,
        verdict: Verdict,
    ) -> Refreshed {
        let step = || self.store.refuse(&entry.id, intent, &verdict);
        let told = |failures, failure: &StoreError| {
            if failures == 0 {
                error!(
                    error = chain(failure),
                    "the store did not take the end of a grant; it is offered again"
                );
            }
        };
        let ours = self.insist(step, told).await;
        entry.answered(intent);
        if ours {
            let fence = intent.fence.max(entry.view().grant.position.fence);
            let position = Position { generation: intent.generation, fence };
            let standing = Standing::Refused(verdict.clone());
            let refused = Grant { position, standing, intent: None, ..grant.clone() };
            self.acts.tell(ActKind::Refused, &refused, Some(verdict.reason.name()));
            entry.adopt(refused);
            return Err(Error::GrantRefused { grant: grant.id.clone(), verdict });
        }
        self.reload(entry).await
    }

    pub(in crate::broker) fn outcome_unknown(&self, grant: &Grant) -> Error {
        let failure = Failure {
            reason: Reason::RefreshOutcomeUnknown,
            disposition: Disposition::Unknown(DoubtKind::Unheard),
            concern: Concern::Grant,
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

/// What others are told while a provider that failed asks for a pause.
fn asked_to_wait(failure: &Failure) -> Failure {
    let (reason, disposition) = (Reason::ProviderUnavailable, Disposition::NotProcessed);
    Failure { reason, disposition, ..failure.clone() }
}

/// The same failure where nothing is spent: no outcome is in doubt, and no grant dies of a no.
fn harmless(grant: &Grant, failure: Failure) -> Failure {
    let reason = match failure.disposition {
        Disposition::Unknown(_) => Reason::ProviderUnavailable,
        Disposition::Refused if !grant.descriptor.kind.spends() => Reason::ClientNotAuthorized,
        Disposition::Refused | Disposition::NotSent | Disposition::NotProcessed => return failure,
    };
    Failure { reason, disposition: Disposition::NotProcessed, ..failure }
}
