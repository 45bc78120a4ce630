//! Weighing: whether a failure speaks of the grant that met it, or of its provider.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::freshness::Window;
use crate::broker::model::{
    Answer, Cause, Evidence, Grant, Pair, Piece, ProviderId, Reading, Reason,
};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::pair::Presented;
use crate::broker::refresh::troubles::Client;
use crate::broker::rules::evidence::{Failed, reading};
use crate::broker::rules::pause::{is_alone, is_last};
use crate::clock::between;

impl Rotations {
    /// Reads a failure in the light of what other grants of the client met, and says what of it is kept.
    pub(super) async fn whose_trouble(
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
        let unproven = self.is_unproven(&client).await;
        let step = |evidence: &mut Evidence, now| {
            let before = unproven || evidence.refuses_many(total);
            let many = evidence.refused(&grant.id, sent, total, now) || unproven;
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
    pub(super) fn tell_success(self: &Arc<Self>, grant: &Grant, pair: &Pair, sent: Instant) {
        let client = Client::of(grant);
        let window = pair.token.as_ref().map(|token| Window::of(&grant.id, token));
        let lead = window.map(|window| between(window.soft_at, window.hard_at));
        self.lives(client, lead, sent);
    }

    /// Something that was sent then has succeeded: what was in its way is over.
    pub(in crate::broker) fn lives(
        self: &Arc<Self>,
        client: Client,
        lead: Option<Duration>,
        sent: Instant,
    ) {
        if let Some(hold) = self.note_success(&client, lead, sent) {
            let lasted = (self.troubles.now() - hold.since) / 1_000;
            info!(provider = %client.provider, grants = hold.grants.len(), lasted_s = lasted,
                "the provider is well again");
            self.wake(client.provider);
        }
    }
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
