//! Answers: what a reply, or its absence, means for the grant.

use std::sync::Arc;

use crate::broker::endpoint::{Disposition, Failure, Reply};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::model::{Answer, Doubt, DoubtKind, Grant, Intent, Reason};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::{Callers, Refreshed};
use crate::broker::refresh::pair::{Presented, Received, Sent, received};

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
        let window = self.window(&grant, presented);
        let sent = Sent {
            before: &grant.pair,
            descriptor: &grant.descriptor,
            generation: grant.generation().next(),
            // What is fetched again may be what the first request brought.
            at: window.and_then(|window| window.first_sent).unwrap_or(presented.at),
            window_end: window.map(|window| window.end),
        };
        let Received { pair, failure } = match received(&sent, reply, self.clock.now()) {
            Ok(received) => received,
            Err(failure) => return self.failed(entry, &grant, presented, failure).await,
        };
        if failure.is_none() {
            self.tell_success(&grant, &pair, presented.sent);
        }
        if let Some(doubt) = &intent.doubt {
            self.count_resend(&grant, presented, doubt, "pair");
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
            self.count_resend(grant, presented, doubt, result);
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
            Reason::ProviderReplyIncomplete
        }
        other => other,
    };
    Failure { reason, disposition: Disposition::NotProcessed, ..failure }
}
