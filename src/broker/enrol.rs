//! Enrolment: from a person's consent to a living grant (RFC 6749 section 4.1, RFC 7636, RFC 9207).
//!
//! A question is kept in the store until its answer comes, and is taken out by it. Whoever began it
//! brings the answer, or the broker's own pages do: `browser` is what these may do, `exchange`
//! what a code buys, `chain` how that is kept, `unwanted` what becomes of it otherwise.

use std::collections::BTreeMap;

use tokio::time::{Instant, timeout_at};
use tracing::info;

use crate::broker::Broker;
use crate::broker::endpoint::{Consent, Disposition, Failure, Question};
use crate::broker::error::Error;
use crate::broker::model::{
    Descriptor, ENROLMENT_LIFE, Ending, Enrolment, GrantId, GrantKind, PageTerms, ProviderId,
    Reason,
};
use crate::broker::store::{Crowd, Found, StoreError, Stored};
use crate::secret::{CodeVerifier, EnrolmentId, EnrolmentState, Nonce, UserCode};

mod browser;
mod chain;
mod exchange;
mod unwanted;

pub use browser::{Entered, Landing, Told};
pub use exchange::Answer;

/// A question to be.
#[derive(Debug, Clone)]
pub struct NewEnrolment {
    /// The grant to be.
    pub grant: GrantId,
    /// Who is asked for it.
    pub provider: ProviderId,
    /// What is asked for; nothing: what the grant has already.
    pub scopes: Vec<String>,
    /// Names and values attached by operators; none: those that the grant has already.
    pub labels: BTreeMap<String, String>,
    /// Where the answer goes; `None`: where the provider's settings say, or to our own page.
    pub redirect_uri: Option<String>,
    /// Asking again with this gives the same question.
    pub request: Option<String>,
    /// Who begins it, if they had to prove it.
    pub caller: Option<String>,
    /// Who begins it, as they say.
    pub started_by: String,
    /// Whoever begins it brings the answer, also where it goes to our own page.
    pub paste: bool,
    /// Another person's account than before is welcome.
    pub other_account: bool,
    /// May take the place of a grant of another kind or provider.
    pub replace: bool,
}

/// A question that a person can be shown.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub enrolment: Enrolment,
    /// Where the person begins: our own page, or the provider's.
    pub url: String,
}

/// Where an enrolment stands.
#[derive(Debug)]
pub enum Stage {
    /// Nobody has opened it yet.
    Waiting,
    /// A browser has it.
    Opened,
    /// There is an answer, and its code is being exchanged; or that was interrupted.
    Answered,
    /// It is over.
    Ended(Ending),
}

impl Broker {
    /// Prepares the question to a person. What the provider has to say first is waited for until then.
    pub async fn start_enrolment(&self, new: NewEnrolment, until: Instant) -> Result<Asked, Error> {
        let before = self.consented(&new).await?;
        let scopes = match new.scopes {
            none if none.is_empty() => before.map_or_else(Vec::new, |before| before.scopes),
            scopes => scopes,
        };
        let consent = timeout_at(until, self.consent(&new.provider, &scopes)).await;
        let consent = consent.unwrap_or_else(|_elapsed| Err(silent(&new.provider)))?;
        let pages = self.rotations.settings.pages.as_ref();
        let redirect_uri = new.redirect_uri.or(consent.redirect_uri);
        let redirect_uri = redirect_uri.or_else(|| pages.map(|pages| pages.callback.clone()));
        let Some(redirect_uri) = redirect_uri else {
            return Err(Error::invalid(
                "redirect_uri",
                "is required, or `redirect_url` in the settings of the provider, or `listen.pages`: \
                 where people are sent after consent, as it is registered at the provider",
            ));
        };
        let by_page = !new.paste && pages.is_some_and(|pages| pages.callback == redirect_uri);
        let page =
            by_page.then(|| PageTerms { code: UserCode::random(), started_by: new.started_by });
        let asked = Enrolment {
            id: EnrolmentId::random(),
            state: EnrolmentState::random(),
            verifier: consent.pkce.then(CodeVerifier::random),
            nonce: consent.signs_people.then(Nonce::random),
            grant: new.grant,
            provider: new.provider,
            scopes,
            labels: new.labels,
            redirect_uri,
            other_account: new.other_account,
            page,
            expires_at: self.rotations.clock.now() + ENROLMENT_LIFE,
        };
        self.question(&asked).await?;
        let request = new.request.as_deref();
        self.room_for(&asked, request, new.caller.as_deref()).await?;
        let begun = self.rotations.store.begin(asked.clone(), request).await?;
        let Some(enrolment) = begun else {
            return Err(Error::invalid("request_id", "was answered already; ask with another one"));
        };
        if !same_question(&asked, &enrolment) {
            return Err(Error::invalid(
                "request_id",
                "was used for another question; ask with another one",
            ));
        }
        let url = match (&enrolment.page, pages) {
            (Some(_), Some(pages)) => {
                format!("{}?enrollment={}", pages.start, enrolment.id.expose())
            }
            _ => self.question(&enrolment).await?,
        };
        info!(grant.id = %enrolment.grant, provider = %enrolment.provider, "a person is asked");
        Ok(Asked { enrolment, url })
    }

    /// Says no where there are too many enrolments, or too little room for what they leave.
    async fn room_for(
        &self,
        asked: &Enrolment,
        request: Option<&str>,
        caller: Option<&str>,
    ) -> Result<(), Error> {
        let (store, limits) = (&self.rotations.store, self.rotations.settings.enrolments);
        store.spare().await?;
        let Some(crowded) = store.enter(asked, request, caller, limits).await? else {
            return Ok(());
        };
        let (by, limit) = match crowded.by {
            Crowd::Caller => ("of this caller", "enrollments.per_caller"),
            Crowd::Grant => ("for this grant", "enrollments.per_grant"),
            Crowd::All => ("in all", "enrollments.in_all"),
        };
        Err(Error::EnrolmentsLimited { by, limit, retry_after: crowded.retry_after })
    }

    /// The grant that goes on with this consent, which asks for what was asked for before. One that
    /// came from elsewhere is not put aside unasked.
    async fn consented(&self, new: &NewEnrolment) -> Result<Option<Descriptor>, Error> {
        let before = match self.rotations.load(&new.grant).await {
            Ok(Some(Stored::Grant(grant))) => grant.descriptor,
            Ok(Some(Stored::Deleted(_)) | None) | Err(StoreError::Unreadable { .. }) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if before.provider == new.provider && before.kind == GrantKind::RefreshToken {
            return Ok(Some(before));
        }
        if new.replace { Ok(None) } else { Err(Error::GrantAlreadyExists(new.grant.clone())) }
    }

    /// The question as a URL of the provider.
    async fn question(&self, enrolment: &Enrolment) -> Result<String, Error> {
        let question = Question {
            state: &enrolment.state,
            verifier: enrolment.verifier.as_ref(),
            nonce: enrolment.nonce.as_ref(),
            redirect_uri: &enrolment.redirect_uri,
            scopes: &enrolment.scopes,
        };
        let url = self.rotations.endpoint.authorization_url(&enrolment.provider, question).await;
        url.map_err(|failure| unasked(&enrolment.provider, failure))?.ok_or_else(|| {
            Error::invalid("provider_id", "has no `authorize_url` or `base_url` in its settings")
        })
    }

    /// How the provider asks people.
    async fn consent(&self, id: &ProviderId, scopes: &[String]) -> Result<Consent, Error> {
        self.provider(id)?;
        let consent = self.rotations.endpoint.consent(id, scopes).await;
        consent.map_err(|failure| {
            self.rotations.meets(id, &failure);
            unasked(id, failure)
        })
    }

    /// The enrolment of this question, as long as its answer is waited for.
    pub async fn waiting_enrolment(&self, state: &EnrolmentState) -> Result<Enrolment, Error> {
        match self.rotations.store.find(state).await? {
            Found::Waiting(waiting) if !self.lapsed(&waiting) => Ok(*waiting),
            Found::Waiting(_) | Found::Answered | Found::Nothing => Err(Error::EnrolmentUnknown),
        }
    }

    /// Its answer is brought by whoever began it; one of the pages ends there, in the browser that opened it.
    pub fn is_brought(enrolment: &Enrolment) -> Result<(), Error> {
        if enrolment.page.is_none() {
            return Ok(());
        }
        let why = "is of an enrolment that is answered at the pages of the broker, by the browser that opened \
                   it; begin one with `paste` to bring the answer yourself";
        Err(Error::invalid("state", why))
    }

    /// Shows where an enrolment stands.
    pub async fn show_enrolment(&self, id: &EnrolmentId) -> Result<(Enrolment, Stage), Error> {
        let store = &self.rotations.store;
        let enrolment = store.named(id).await?.ok_or(Error::EnrolmentUnknown)?;
        if let Some(ending) = store.ending(&enrolment.state).await? {
            return Ok((enrolment, Stage::Ended(ending)));
        }
        let stage = match store.find(&enrolment.state).await? {
            Found::Answered => Stage::Answered,
            Found::Waiting(_) if self.lapsed(&enrolment) => return Err(Error::EnrolmentUnknown),
            Found::Waiting(_) if store.bound(id).await?.is_some() => Stage::Opened,
            Found::Waiting(_) => Stage::Waiting,
            Found::Nothing => return Err(Error::EnrolmentUnknown),
        };
        Ok((enrolment, stage))
    }

    /// Nobody may answer it any more.
    fn lapsed(&self, enrolment: &Enrolment) -> bool {
        self.rotations.clock.now() >= enrolment.expires_at
    }

    /// Ends an enrolment without an answer, unless it has one, and shows where it stands then.
    pub async fn cancel_enrolment(&self, id: &EnrolmentId) -> Result<(Enrolment, Stage), Error> {
        let enrolment = self.rotations.store.named(id).await?.ok_or(Error::EnrolmentUnknown)?;
        if self.rotations.store.take(&enrolment.state).await?.is_some() {
            info!(grant.id = %enrolment.grant, "an enrolment is cancelled");
            self.conclude(&enrolment, Ending::Cancelled).await;
        }
        self.show_enrolment(id).await
    }
}

fn unasked(provider: &ProviderId, failure: Failure) -> Error {
    Error::EnrolmentFailed { provider: provider.clone(), failure }
}

/// It has not said yet where people consent. It is asked on, and what it says is kept.
fn silent(provider: &ProviderId) -> Error {
    let detail = "it has not said in time where people consent; it is asked on, and what it says is kept: \
                  call again";
    let failure = Failure::new(Reason::ProviderUnavailable, Disposition::NotSent);
    unasked(provider, Failure { detail: Some(detail.to_owned()), ..failure })
}

/// Asked twice with the same id: nothing but what is random may differ.
fn same_question(one: &Enrolment, other: &Enrolment) -> bool {
    let what = |enrolment: &Enrolment| Enrolment {
        id: one.id.clone(),
        state: one.state.clone(),
        verifier: None,
        nonce: None,
        page: None,
        expires_at: one.expires_at,
        ..enrolment.clone()
    };
    what(one) == what(other) && one.page.is_some() == other.page.is_some()
}
