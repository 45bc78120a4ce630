//! Enrolment: from a person's consent to a living grant (RFC 6749 section 4.1, RFC 7636, RFC 9207).
//!
//! A question is kept in the store until its answer comes, and is taken out by it: a code is
//! exchanged once, whatever comes of that. The pair that comes back is kept like any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, info};

use crate::broker::endpoint::{Concern, Disposition, Issued, Question, Reply, Request};
use crate::broker::error::{Error, Violation, chain};
use crate::broker::model::{
    Descriptor, ENROLMENT_LIFE, Enrolment, Generation, GrantId, Pair, ProviderId, Token,
};
use crate::broker::store::Stored;
use crate::broker::{Broker, NewGrant, Overview, endpoint};
use crate::secret::{AuthorizationCode, CodeVerifier, EnrolmentState};

/// A question to be.
#[derive(Debug, Clone)]
pub struct NewEnrolment {
    /// The grant to be.
    pub id: GrantId,
    /// Who is asked for it.
    pub provider: ProviderId,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// Names and values attached by operators; none: those that the grant has already.
    pub labels: BTreeMap<String, String>,
    /// Where the answer goes; `None`: where the provider's settings say.
    pub redirect_uri: Option<String>,
    /// Asking again with this gives the same question.
    pub request: Option<String>,
}

/// A question that a person can be shown.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub enrolment: Enrolment,
    /// Where the person answers it.
    pub url: String,
}

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
    /// Prepares the question to a person.
    pub async fn start_enrolment(&self, new: NewEnrolment) -> Result<Asked, Error> {
        let consent = self.provider(&new.provider)?.consent;
        let Some(redirect_uri) = new.redirect_uri.or(consent.redirect_uri) else {
            return Err(invalid(
                "redirect_uri",
                "is required, or `redirect_url` in the settings of the provider: where people are \
                 sent after consent, as it is registered there",
            ));
        };
        let enrolment = Enrolment {
            state: EnrolmentState::random(),
            verifier: consent.pkce.then(CodeVerifier::random),
            id: new.id,
            provider: new.provider,
            scopes: new.scopes,
            labels: new.labels,
            redirect_uri,
            expires_at: self.rotations.clock.now() + ENROLMENT_LIFE,
        };
        let enrolment = self.rotations.store.begin(enrolment, new.request.as_deref()).await?;
        let question = Question {
            state: &enrolment.state,
            verifier: enrolment.verifier.as_ref(),
            redirect_uri: &enrolment.redirect_uri,
            scopes: &enrolment.scopes,
        };
        let url = self.rotations.endpoint.authorization_url(&enrolment.provider, &question);
        let url = url.ok_or_else(|| {
            invalid("provider_id", "has no `authorize_url` or `base_url` in its settings")
        })?;
        info!(grant.id = %enrolment.id, provider = %enrolment.provider, "a person is asked");
        Ok(Asked { enrolment, url })
    }

    /// Exchanges the code of an answer, once, and begins the grant's new chain with what it brings.
    pub async fn complete_enrolment(self: &Arc<Self>, answer: Answer) -> Result<Overview, Error> {
        let broker = Arc::clone(self);
        self.to_the_end(async move { broker.complete(answer).await }).await
    }

    async fn complete(&self, answer: Answer) -> Result<Overview, Error> {
        let taken = self.rotations.store.take(&answer.state).await?;
        let now = self.rotations.clock.now();
        let enrolment = taken.filter(|enrolment| now < enrolment.expires_at);
        let enrolment = enrolment.ok_or(Error::EnrolmentUnknown)?;
        let expected = self.provider(&enrolment.provider)?.consent.issuer;
        if let (Some(expected), Some(given)) = (&expected, &answer.issuer)
            && expected != given
        {
            return Err(Error::AnswerOfAnother(enrolment.provider));
        }
        let before = match self.rotations.load(&enrolment.id).await {
            Ok(Some(Stored::Grant(grant))) => Some(grant.descriptor),
            Ok(_) | Err(_) => None,
        };
        let Enrolment { redirect_uri, verifier, .. } = enrolment.clone();
        let request = Request::AuthorizationCode { code: answer.code, redirect_uri, verifier };
        let at = self.rotations.clock.now();
        let reply = self.rotations.endpoint.exchange(&enrolment.provider, request).await;
        let pair = self.first_pair(&enrolment, reply, at)?;
        Ok(self.keep(enrolment, before, pair).await)
    }

    /// The pair that begins a chain. Without a refresh token there is none.
    fn first_pair(
        &self,
        enrolment: &Enrolment,
        reply: Reply,
        at: SystemTime,
    ) -> Result<Pair, Error> {
        let now = self.rotations.clock.now();
        let provider = || enrolment.provider.clone();
        match (reply.refresh_token, reply.issued) {
            (Some(refresh_token), issued) => Ok(Pair {
                refresh_token: Some(refresh_token),
                refresh_token_expires_at: reply.refresh_token_lifetime.map(|life| at + life),
                token: issued.ok().map(|issued| token(enrolment, issued, at)),
                published_at: now,
            }),
            (None, Ok(_)) => Err(Error::NoRefreshToken(provider())),
            (None, Err(failure)) => Err(match (failure.disposition, failure.concern) {
                (Disposition::Unknown(_), _) => Error::CodeOutcomeUnknown(provider()),
                (_, Concern::Provider) | (Disposition::NotSent, _) => Error::Upstream {
                    grant: enrolment.id.clone(),
                    provider: provider(),
                    failure,
                    time: now,
                    retry_after: None,
                },
                _ => Error::CodeRejected {
                    provider: provider(),
                    provider_error: failure.provider_error,
                },
            }),
        }
    }

    /// Offers the pair to the store until it takes it: the code is spent, and nothing else holds it.
    async fn keep(&self, enrolment: Enrolment, before: Option<Descriptor>, pair: Pair) -> Overview {
        let before = before.filter(|before| before.provider == enrolment.provider);
        let kept_labels = before.as_ref().map(|before| before.labels.clone()).unwrap_or_default();
        let new = NewGrant {
            id: enrolment.id,
            provider: enrolment.provider,
            refresh_token: pair.refresh_token.clone(),
            scopes: enrolment.scopes,
            labels: if enrolment.labels.is_empty() { kept_labels } else { enrolment.labels },
            keep_warm: before.is_some_and(|before| before.keep_warm),
            replace: true,
        };
        let unpublished = &self.rotations.metrics.unpublished_pairs;
        let mut waiting = false;
        let told = |failures, failure: &Error| {
            if !waiting {
                unpublished.inc();
            }
            waiting = true;
            error!(grant.id = %new.id, error = %chain(failure), failures,
                "the store did not take the pair of a person's consent; it is kept in memory and offered again");
        };
        let step = || self.start_chain(new.clone(), Some(pair.clone()));
        let overview = self.rotations.insist(step, told).await;
        if waiting {
            unpublished.dec();
        }
        overview
    }

    fn provider(&self, id: &ProviderId) -> Result<endpoint::ProviderSummary, Error> {
        let mut all = self.rotations.endpoint.providers().into_iter();
        all.find(|provider| provider.id == *id)
            .ok_or_else(|| Error::ProviderNotConfigured(id.clone()))
    }
}

/// The generation is that of the chain, which is not known before the store has begun it.
fn token(enrolment: &Enrolment, issued: Issued, at: SystemTime) -> Token {
    let granted = Some(issued.scopes).filter(|scopes| !scopes.is_empty());
    Token {
        access_token: issued.access_token,
        token_type: issued.token_type,
        generation: Generation::OF_THE_CHAIN,
        issued_at: at,
        lifetime: issued.lifetime,
        refresh_in: issued.refresh_in,
        scopes: granted.unwrap_or_else(|| enrolment.scopes.clone()),
        attributes: issued.attributes,
    }
}

fn invalid(field: &'static str, description: &str) -> Error {
    Error::Invalid(vec![Violation { field, description: description.to_owned() }])
}
