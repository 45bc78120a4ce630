//! Answers: what a reply, or its absence, means for the grant.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::broker::acts::ActKind;
use crate::broker::endpoint::{Disposition, Failure, Reply};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::freshness::Window;
use crate::broker::model::{
    Answer, Cause, Doubt, DoubtKind, Evidence, Grant, Intent, Pair, Piece, Position, ProviderId,
    Reading, Reason, Standing, Verdict,
};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::{Callers, Refreshed};
use crate::broker::refresh::pair::{Presented, Received, Sent, received};
use crate::broker::refresh::troubles::Client;
use crate::broker::rules::evidence::{Failed, reading};
use crate::broker::rules::pause::{is_alone, is_last};
use crate::broker::store::{Amendment, PAGE, StoreError};
use crate::clock::between;

/// A verdict that was decided is in the store after this long.
const VERDICTS_WRITTEN: Duration = Duration::from_secs(5);

impl Rotations {
    /// Acts on what came back. The refresh token is made durable before anything else.
    pub(super) async fn take_answer(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: Grant,
        presented: &Presented<'_>,
        reply: Reply,
        callers: &Callers<'_>,
    ) -> Refreshed {
        let intent = presented.intent;
        let sent = Sent {
            before: &grant.pair,
            descriptor: &grant.descriptor,
            generation: grant.generation().next(),
            at: presented.at,
        };
        let Received { pair, failure } = match received(&sent, reply, self.clock.now()) {
            Ok(received) => received,
            Err(failure) => return self.failed(entry, &grant, presented, failure).await,
        };
        if failure.is_none() {
            self.tell_success(&grant, &pair, presented.sent);
        }
        if let Some(doubt) = &intent.doubt {
            self.count_resend(&grant, doubt, "pair");
        }
        let callers = failure.is_none().then_some(callers);
        let failure = failure.map(rescued);
        let answer = failure.as_ref().map(|failure| {
            let before = grant.answer.as_ref();
            Answer::after(before, failure.cause(), None, presented.at)
        });
        let view = self.publish(entry, grant, intent, pair, answer, callers).await;
        entry.answered(intent);
        let view = view?;
        failure.map_or_else(|| Ok(Arc::clone(&view)), |met| Err(self.upstream(&view.grant, met)))
    }

    /// Acts on a failure that brought no refresh token.
    async fn failed(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        presented: &Presented<'_>,
        failure: Failure,
    ) -> Refreshed {
        let Presented { intent, at: sent_at, .. } = *presented;
        let (failure, answer) = self.whose_trouble(entry, grant, presented, failure).await;
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
                self.give_back(entry, grant, intent, answer).await;
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
        answer: Option<Answer>,
    ) {
        let told = answer.clone().or_else(|| grant.answer.clone());
        match &intent.doubt {
            None => {
                entry.answered(intent);
                entry.adopt(Grant { answer: told, intent: None, ..grant.clone() });
            }
            Some(doubt) => {
                let doubt = Doubt { fence: intent.fence, ..doubt.clone() };
                entry.still_doubted(intent, doubt.clone());
                let held = Intent { doubt: Some(doubt), ..intent.clone() };
                entry.adopt(Grant { answer: told, intent: Some(held), ..grant.clone() });
            }
        }
        self.release(entry, intent, answer.as_ref()).await;
    }

    /// Reads a failure in the light of what other grants of the client met, and says what of it is kept.
    async fn whose_trouble(
        self: &Arc<Self>,
        entry: &Entry,
        grant: &Grant,
        presented: &Presented<'_>,
        failure: Failure,
    ) -> (Failure, Option<Answer>) {
        let mut failure = if self.spends(grant) { failure } else { harmless(grant, failure) };
        let most = self.habits(&grant.descriptor.provider).retry_after_max;
        failure.retry_after = failure.retry_after.map(|asked| asked.min(most));
        if failure.other_secret {
            return (failure, None);
        }
        if failure.disposition == Disposition::Refused {
            // Why a token in doubt is refused is known: it had been spent.
            let explained = presented.intent.doubt.is_some();
            let told = if explained {
                (failure, None)
            } else {
                self.refusal(grant, presented, failure).await
            };
            return told;
        }
        let evidence = self.weigh(entry, grant, presented, &failure).await;
        if !failure.is_answer() {
            return (failure, None);
        }
        let answer = {
            let before = grant.answer.as_ref();
            Answer::after(before, failure.cause(), failure.retry_after, presented.at)
        };
        let others_live = evidence.succeeded.is_some_and(|at| at > self.told_as(answer.since));
        let alone = answer.alone || is_alone(&answer, others_live);
        if alone && !answer.alone {
            warn!(grant.id = %grant.id, refusals = answer.count,
                reason = failure.reason.name(),
                status = failure.status,
                provider_error = failure.provider_error,
                "the provider refuses this grant while it serves others: a person must consent again; it is tried once a day"
            );
        }
        if alone {
            failure.reason = Reason::GrantRefusedAlone;
        }
        (failure, Some(Answer { alone, ..answer }))
    }

    /// What a failure is evidence of, together with what all processes know.
    async fn weigh(
        self: &Arc<Self>,
        entry: &Entry,
        grant: &Grant,
        presented: &Presented<'_>,
        failure: &Failure,
    ) -> Evidence {
        let (client, cause) = (Client::of(grant), failure.cause());
        let Some(reading) = reading(failure) else { return self.troubles.known(&client) };
        let sent = self.troubles.millis(presented.sent);
        let tried = grant.pair.token.is_some();
        let piece = Piece { grant: grant.id.clone(), reading, sent, tried };
        let failed_before = grant.failures() > 0
            || presented.intent.doubt.is_some()
            || entry
                .trouble()
                .is_some_and(|trouble| matches!(trouble.error, Error::Upstream { .. }));
        if !failed_before || self.troubles.last(&client).is_some() {
            self.troubles.met(&client, cause.clone(), sent);
        }
        let gaps = self.troubles.gaps(&client, &self.settings);
        let limited = |answer: &&Answer| answer.cause.reason == Reason::ProviderRateLimited;
        let limited_at = grant.answer.as_ref().filter(limited).map(|answer| answer.sent_at);
        let step = |evidence: &mut Evidence, now| {
            let limited_at = limited_at.map(|at| self.told_as(at));
            let limited_before = limited_at.is_some_and(|at| evidence.succeeded > Some(at));
            let others = evidence.limits_others(&grant.id);
            let (piece, cause) = (piece.clone(), cause.clone());
            let failed = Failed { piece, changed: !failed_before, cause };
            (evidence.failed(failed, gaps, now), limited_before, others, evidence.clone())
        };
        let (holds, limited_before, limits_others, evidence) = self.agree(&client, step).await;
        if holds {
            self.tell_hold(&client);
        }
        if reading == Reading::Limited && !limited_before {
            // One grant is told to wait; that all are to, takes two.
            let told = failure.retry_after.filter(|_| limits_others);
            let sent_ago = presented.sent.elapsed();
            self.slow_down(&client.provider, told, sent_ago).await;
        }
        evidence
    }

    /// A grant was refused for good, unless the provider refuses too many at once.
    async fn refusal(
        self: &Arc<Self>,
        grant: &Grant,
        presented: &Presented<'_>,
        failure: Failure,
    ) -> (Failure, Option<Answer>) {
        let client = Client::of(grant);
        let before = grant.answer.as_ref();
        if is_last(before) {
            return (failure, None);
        }
        let total = self.grants_of(&client.provider);
        let cause = Cause { reason: Reason::ProviderRefusesMany, ..failure.cause() };
        let gaps = self.troubles.gaps(&client, &self.settings);
        let sent = self.troubles.millis(presented.sent);
        let again = before.is_some_and(Answer::is_provisional);
        let step = |evidence: &mut Evidence, now| {
            let before = evidence.refuses_many(total);
            let many = evidence.refused(&grant.id, sent, total, now);
            let holds = many && evidence.holds_for_refusals(&cause, gaps, now);
            (many, many && !before, holds)
        };
        let (many, from_now, holds) = self.agree(&client, step).await;
        if !many && !again {
            return (failure, None);
        }
        if holds {
            self.tell_hold(&client);
        }
        if from_now {
            self.lift_refusals(client.provider, self.clock.now() - self.settings.refusal_window);
        }
        let before = before.filter(|before| before.is_provisional());
        let answer = Answer::after(before, cause, None, presented.at);
        let (reason, disposition) = (Reason::ProviderRefusesMany, Disposition::NotProcessed);
        (Failure { reason, disposition, ..failure }, Some(answer))
    }

    /// How many grants of this provider there are, as far as is known.
    fn grants_of(&self, provider: &ProviderId) -> usize {
        let counted = self.counted.lock().get(provider).copied().unwrap_or(0);
        counted.max(self.known.of(provider).count())
    }

    /// Says once that a client is in trouble, instead of once for each grant.
    fn tell_hold(&self, client: &Client) {
        let Some(hold) = self.troubles.hold(client) else { return };
        let (provider, cause) = (&client.provider, &hold.cause);
        warn!(%provider, kind = client.kind.name(), grants = hold.grants.len(),
            reason = cause.reason.name(), status = cause.status, provider_error = cause.said,
            "the provider is in trouble: several grants failed alike and none succeeded; one request at a time goes out until one does");
    }

    /// A refresh succeeded: the provider is well.
    fn tell_success(self: &Arc<Self>, grant: &Grant, pair: &Pair, sent: Instant) {
        let client = Client::of(grant);
        let window = pair.token.as_ref().map(|token| Window::of(&grant.id, token));
        let lead = window.map(|window| between(window.soft_at, window.hard_at));
        if let Some(hold) = self.note_success(&client, lead, sent) {
            let lasted = (self.troubles.now() - hold.since) / 1_000;
            info!(provider = %client.provider, grants = hold.grants.len(), lasted_s = lasted,
                "the provider is well again");
            self.wake(client.provider);
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
            let lift = async {
                let lifted = rotations.insist(step, told).await;
                // Some were decided before, and written after that was looked for.
                sleep(VERDICTS_WRITTEN).await;
                lifted + rotations.insist(step, told).await
            };
            let lifted = tokio::select! {
                () = rotations.drain.cancelled() => return,
                lifted = lift => lifted,
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
                        if self.lift_provisionally(grant, verdict).await? {
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

    /// Makes a refused grant usable again, as one that was refused together with many others.
    async fn lift_provisionally(&self, grant: &Grant, verdict: &Verdict) -> Result<bool, Error> {
        let Verdict { provider_status: status, provider_error: said, detail, time, .. } =
            verdict.clone();
        let cause = Cause { reason: Reason::ProviderRefusesMany, status, said, detail };
        let answer = Answer::after(None, cause, None, time);
        let due_at = time + self.pause_after(grant, &answer);
        let (answer, due_at) = (Some(answer), Some(due_at));
        let amendment = Amendment { lift: true, answer, due_at, ..Amendment::default() };
        self.lifted(grant, amendment).await
    }

    async fn lifted(&self, grant: &Grant, amendment: Amendment) -> Result<bool, Error> {
        let Some(lifted) = self.store.amend(&grant.id, grant.position, amendment).await? else {
            return Ok(false);
        };
        if let Some(entry) = self.known.get(&grant.id) {
            entry.adopt(lifted);
        }
        Ok(true)
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
        self.lifted(grant, amendment).await
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
            detail: failure.detail.clone(),
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
                error!(grant.id = %entry.id, error = chain(failure), "whether another pair is there is asked again");
            }
        };
        let other = self.insist(step, told).await?;
        entry.answered(intent);
        entry.adopt(other.clone());
        self.acts.tell(ActKind::OtherPairTried, &other, None);
        warn!(grant.id = %entry.id, generation = %other.generation(),
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
                error!(grant.id = %entry.id, error = chain(failure), "the store did not take the end of a grant; it is offered again"
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
        let unknown = Disposition::Unknown(DoubtKind::Unheard);
        let failure = Failure::new(Reason::RefreshOutcomeUnknown, unknown);
        self.upstream(grant, failure)
    }

    pub(in crate::broker) fn upstream(&self, grant: &Grant, failure: Failure) -> Error {
        Error::Upstream {
            grant: grant.id.clone(),
            provider: grant.descriptor.provider.clone(),
            failure,
            time: self.clock.now(),
            retry_after: None,
        }
    }
}

/// The same failure where a new refresh token came with it: that is unspent, and nothing in doubt.
fn rescued(failure: Failure) -> Failure {
    let reason = match failure.reason {
        Reason::RefreshReplyUnreadable | Reason::RefreshOutcomeUnknown => {
            Reason::ProviderUnavailable
        }
        other => other,
    };
    Failure { reason, disposition: Disposition::NotProcessed, ..failure }
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
