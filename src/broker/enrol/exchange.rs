//! The exchange: a code buys what it buys, once, whatever comes of that.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::warn;

use crate::broker::acts::ActKind;
use crate::broker::endpoint::{Consent, Disposition, Issued, Proof, Reply, Request};
use crate::broker::error::{Error, chain};
use crate::broker::metrics::Enrolled;
use crate::broker::model::{Ending, Enrolment, GrantKind, Reason};
use crate::broker::refresh::troubles::Client;
use crate::broker::{Broker, Overview};
use crate::secret::{Account, AuthorizationCode, EnrolmentState, RefreshToken};

/// What came back from the provider.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Which question it answers.
    pub state: EnrolmentState,
    /// What buys the pair.
    pub code: AuthorizationCode,
    /// Who says that it answers.
    pub issuer: Option<String>,
}

impl Broker {
    /// Exchanges the code of an answer, once, and begins the grant's new chain with what it brings.
    pub async fn complete_enrolment(self: &Arc<Self>, answer: Answer) -> Result<Overview, Error> {
        let broker = Arc::clone(self);
        self.to_the_end(async move { broker.complete(answer).await }).await
    }

    async fn complete(self: &Arc<Self>, answer: Answer) -> Result<Overview, Error> {
        // Whoever drains waits for this task, if it has begun by then.
        if self.draining() {
            return Err(Error::Draining);
        }
        // What has to be known of the provider is asked before the code is spent, and before the
        // answer is taken for one.
        let waiting = self.waiting_enrolment(&answer.state).await?;
        let consent = self.consent(&waiting.provider, &waiting.scopes).await?;
        let taken = self.rotations.store.take(&answer.state).await?;
        let enrolment = taken.ok_or(Error::EnrolmentUnknown)?;
        let ended = match self.exchange(&enrolment, &consent, answer).await {
            Ok(first) => {
                let (refresh_token, account) = (first.refresh_token.clone(), first.account.clone());
                let kept = self.keep(&enrolment, first).await;
                if let Err(Error::OtherAccount(_)) = kept {
                    self.take_back_unwanted(enrolment.provider.clone(), refresh_token, account);
                }
                kept
            }
            Err(error) => Err(error),
        };
        let ending = match &ended {
            Ok(_) => Ending::Granted(enrolment.grant.clone()),
            Err(error) => Ending::Failed(error.to_string()),
        };
        self.conclude(&enrolment, ending).await;
        ended
    }

    async fn exchange(
        self: &Arc<Self>,
        enrolment: &Enrolment,
        consent: &Consent,
        answer: Answer,
    ) -> Result<First, Error> {
        let theirs = match (&consent.issuer, &answer.issuer) {
            (Some(expected), Some(given)) => expected == given,
            (Some(_), None) => !consent.names_issuer,
            (None, _) => true,
        };
        if !theirs {
            return Err(Error::AnswerOfAnother(enrolment.provider.clone()));
        }
        let Enrolment { redirect_uri, verifier, nonce, .. } = enrolment.clone();
        let request =
            Request::AuthorizationCode { code: answer.code, redirect_uri, verifier, nonce };
        let (at, sent) = (self.rotations.clock.now(), Instant::now());
        let reply =
            self.rotations.endpoint.exchange(&enrolment.provider, request, Proof::InUse).await;
        let brought = reply.refresh_token.clone();
        let first = first(enrolment, reply, at);
        if let (Err(Error::AccountUnproven { .. }), Some(token)) = (&first, brought) {
            self.take_back_unwanted(enrolment.provider.clone(), token, None);
        }
        let first = first?;
        // A hold of the provider ends with it, as with a refresh.
        let (provider, kind) = (enrolment.provider.clone(), GrantKind::RefreshToken);
        self.rotations.lives(Client { provider, kind }, None, sent);
        Ok(first)
    }

    /// Only those who wait for it miss it where it cannot be kept.
    pub(super) async fn conclude(&self, enrolment: &Enrolment, ending: Ending) {
        let provider = enrolment.provider.as_str().to_owned();
        let labels = Enrolled { provider, result: ending.name() };
        self.rotations.metrics.enrolments.get_or_create(&labels).inc();
        if matches!(ending, Ending::Failed(_)) {
            self.rotations.acts.tell_enrolment(ActKind::EnrolmentFailed, enrolment);
        }
        if let Err(error) = self.rotations.store.conclude(&enrolment.state, &ending).await {
            warn!(grant.id = %enrolment.grant, error = %chain(&error), ?ending,
                "how this enrolment ended is not kept; nobody who waits for it will hear of it");
        }
    }
}

/// What a consent brought.
pub(super) struct First {
    pub(super) refresh_token: RefreshToken,
    pub(super) refresh_token_expires_at: Option<SystemTime>,
    pub(super) issued: Option<Issued>,
    pub(super) account: Option<Account>,
    pub(super) at: SystemTime,
}

/// The beginning of a chain. Without a refresh token there is none.
fn first(enrolment: &Enrolment, reply: Reply, at: SystemTime) -> Result<First, Error> {
    let provider = enrolment.provider.clone();
    match (reply.refresh_token, reply.issued) {
        (Some(refresh_token), issued) => Ok(First {
            account: reply.account.map_err(|why| Error::AccountUnproven { provider, why })?,
            refresh_token,
            refresh_token_expires_at: reply.refresh_token_lifetime.map(|life| at + life),
            issued: issued.ok(),
            at,
        }),
        (None, Ok(_)) => Err(Error::NoRefreshToken(provider)),
        (None, Err(failure)) => Err(match (failure.disposition, failure.reason) {
            (Disposition::Unknown(_), _) => Error::CodeOutcomeUnknown(provider),
            (Disposition::Refused, _) | (_, Reason::ProviderUnrecognizedError) => {
                Error::CodeRejected { provider, failure }
            }
            (Disposition::NotSent | Disposition::NotProcessed, _) => {
                Error::EnrolmentFailed { provider, failure }
            }
        }),
    }
}
