//! Enrolment: from a person's consent to a living grant (RFC 6749 section 4.1, RFC 7636, RFC 9207).
//!
//! A question is kept in the store until its answer comes, and is taken out by it: a code is
//! exchanged once, whatever comes of that. The pair that comes back is kept like any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{error, info, warn};

use crate::broker::endpoint::{Disposition, Issued, Question, Reply, Request};
use crate::broker::error::{Error, Violation, chain};
use crate::broker::model::{
    Descriptor, ENROLMENT_LIFE, Enrolment, Fence, Generation, Grant, GrantId, GrantKind, Pair,
    Position, ProviderId, Reason, Standing,
};
use crate::broker::refresh::pair::token;
use crate::broker::refresh::publish::Counted;
use crate::broker::store::{Merged, Seed, StoreError, Stored};
use crate::broker::{Broker, Overview};
use crate::clock::unix_ms;
use crate::secret::{AuthorizationCode, CodeVerifier, EnrolmentState, RefreshToken};

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
        let asked = Enrolment {
            state: EnrolmentState::random(),
            verifier: consent.pkce.then(CodeVerifier::random),
            id: new.id,
            provider: new.provider,
            scopes: new.scopes,
            labels: new.labels,
            redirect_uri,
            expires_at: self.rotations.clock.now() + ENROLMENT_LIFE,
        };
        self.url(&asked)?;
        let begun = self.rotations.store.begin(asked.clone(), new.request.as_deref()).await?;
        let Some(enrolment) = begun else {
            return Err(invalid("request_id", "was answered already; ask with another one"));
        };
        if !same_question(&asked, &enrolment) {
            return Err(invalid(
                "request_id",
                "was used for another question; ask with another one",
            ));
        }
        let url = self.url(&enrolment)?;
        info!(grant.id = %enrolment.id, provider = %enrolment.provider, "a person is asked");
        Ok(Asked { enrolment, url })
    }

    fn url(&self, enrolment: &Enrolment) -> Result<String, Error> {
        let question = Question {
            state: &enrolment.state,
            verifier: enrolment.verifier.as_ref(),
            redirect_uri: &enrolment.redirect_uri,
            scopes: &enrolment.scopes,
        };
        let url = self.rotations.endpoint.authorization_url(&enrolment.provider, &question);
        url.ok_or_else(|| {
            invalid("provider_id", "has no `authorize_url` or `base_url` in its settings")
        })
    }

    /// Exchanges the code of an answer, once, and begins the grant's new chain with what it brings.
    pub async fn complete_enrolment(self: &Arc<Self>, answer: Answer) -> Result<Overview, Error> {
        let broker = Arc::clone(self);
        self.to_the_end(async move { broker.complete(answer).await }).await
    }

    async fn complete(&self, answer: Answer) -> Result<Overview, Error> {
        // Whoever drains waits for this task, if it has begun by then.
        if self.draining() {
            return Err(Error::Draining);
        }
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
        let Enrolment { redirect_uri, verifier, .. } = enrolment.clone();
        let request = Request::AuthorizationCode { code: answer.code, redirect_uri, verifier };
        let at = self.rotations.clock.now();
        let reply = self.rotations.endpoint.exchange(&enrolment.provider, request).await;
        let first = first(&enrolment, reply, at)?;
        Ok(self.keep(enrolment, first).await)
    }

    /// Offers the pair to the store until it takes it: the code is spent, and nothing else holds it.
    /// Its place in the history is fixed before, so that what is newer than it stays.
    async fn keep(&self, enrolment: Enrolment, first: First) -> Overview {
        let rotations = &self.rotations;
        let mut waiting = None;
        let mut tell = |failures, failure: &StoreError| {
            waiting.get_or_insert_with(|| Counted::new(&rotations.metrics.unpublished_pairs));
            error!(grant.id = %enrolment.id, error = %chain(failure), failures,
                "the store did not take the pair of a person's consent; it is kept in memory and offered again");
        };
        let before = rotations.insist(|| self.before(&enrolment.id), &mut tell).await;
        let grant = chain_of(&enrolment, first, before, rotations.clock.now());
        let due_at = rotations.due_at(&grant, grant.descriptor.keep_warm);
        let step = || self.store_chain(&grant, due_at);
        let taken = rotations.insist(step, |failures, failure| {
            if failures == 0 {
                // Served from here meanwhile, and written back like everything that is known.
                rotations.known.enter(grant.clone());
            }
            tell(failures, failure);
        });
        let newest = taken.await;
        drop(waiting);
        if newest {
            info!(grant.id = %grant.id, provider = %grant.descriptor.provider,
                generation = %grant.generation(), "a new chain begins with a person's consent");
        } else {
            warn!(grant.id = %grant.id, "something newer than this consent is there already, and stays");
        }
        let entry = rotations.known.enter(grant);
        entry.forget_trouble();
        self.overview(&entry)
    }

    /// What the store has under this name.
    async fn before(&self, id: &GrantId) -> Result<Before, StoreError> {
        match self.rotations.load(id).await {
            Ok(Some(Stored::Grant(grant))) => Ok(Before {
                position: Some(grant.position),
                described: grant.described,
                descriptor: Some(grant.descriptor),
            }),
            Ok(Some(Stored::Deleted(position))) => {
                Ok(Before { position: Some(position), ..Before::default() })
            }
            Ok(None) => Ok(Before::default()),
            Err(StoreError::Unreadable { position, .. }) => {
                Ok(Before { position, ..Before::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// `false`: something newer is there.
    async fn store_chain(
        &self,
        grant: &Grant,
        due_at: Option<SystemTime>,
    ) -> Result<bool, StoreError> {
        let store = &self.rotations.store;
        match store.merge(grant, due_at).await {
            Ok(merged) => Ok(!matches!(merged, Merged::Old | Merged::Sibling)),
            Err(StoreError::Unreadable { .. }) => {
                // In its place nothing can be compared.
                let Grant { descriptor, pair, .. } = grant.clone();
                Ok(store.start_over(&grant.id, Seed { descriptor, pair, due_at }).await?.is_some())
            }
            Err(error) => Err(error),
        }
    }
}

/// What a consent brought.
struct First {
    refresh_token: RefreshToken,
    refresh_token_expires_at: Option<SystemTime>,
    issued: Option<Issued>,
    at: SystemTime,
}

/// The beginning of a chain. Without a refresh token there is none.
fn first(enrolment: &Enrolment, reply: Reply, at: SystemTime) -> Result<First, Error> {
    let provider = enrolment.provider.clone();
    match (reply.refresh_token, reply.issued) {
        (Some(refresh_token), issued) => Ok(First {
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

/// What was there before a consent.
#[derive(Default)]
struct Before {
    position: Option<Position>,
    described: Fence,
    descriptor: Option<Descriptor>,
}

/// A new chain, above everything before it. Labels stay where none are given, and so does what
/// operators decided.
fn chain_of(enrolment: &Enrolment, first: First, before: Before, now: SystemTime) -> Grant {
    let generation = Generation::of_new_chain(before.position.map(|at| at.generation), now);
    let last = before.position.map_or(before.described, |at| at.fence.max(before.described));
    let fence = Fence::after(last, unix_ms(now));
    let kept = before.descriptor;
    let labels = match &kept {
        Some(kept) if enrolment.labels.is_empty() => kept.labels.clone(),
        _ => enrolment.labels.clone(),
    };
    let First { refresh_token, refresh_token_expires_at, issued, at } = first;
    let token = issued.map(|issued| token(issued, generation, at, &enrolment.scopes));
    Grant {
        id: enrolment.id.clone(),
        position: Position { generation, fence },
        descriptor: Descriptor {
            provider: enrolment.provider.clone(),
            kind: GrantKind::RefreshToken,
            scopes: enrolment.scopes.clone(),
            labels,
            keep_warm: kept.as_ref().is_some_and(|kept| kept.keep_warm),
            disabled: kept.as_ref().is_some_and(|kept| kept.disabled),
            create_time: kept.map_or(now, |kept| kept.create_time),
        },
        described: fence,
        pair: Pair {
            refresh_token: Some(refresh_token),
            refresh_token_expires_at,
            token,
            published_at: now,
        },
        standing: Standing::Usable,
        intent: None,
    }
}

/// Asked twice with the same id: nothing but what is random may differ.
fn same_question(one: &Enrolment, other: &Enrolment) -> bool {
    (&one.provider, &one.scopes, &one.labels, &one.redirect_uri)
        == (&other.provider, &other.scopes, &other.labels, &other.redirect_uri)
}

fn invalid(field: &'static str, description: &str) -> Error {
    Error::Invalid(vec![Violation { field, description: description.to_owned() }])
}
