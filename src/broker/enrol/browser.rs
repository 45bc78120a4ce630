//! What the broker's own pages may do with an enrolment.
//!
//! The browser that returns with an answer must be the one that entered the code: a link that was
//! mailed to somebody cannot put their account into somebody else's grant (RFC 9700 section 4.7).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::broker::enrol::exchange::Answer;
use crate::broker::error::Error;
use crate::broker::model::{Ending, Enrolment};
use crate::broker::store::Found;
use crate::secret::{AuthorizationCode, Browser, EnrolmentId, EnrolmentState};

/// Wrong codes that an enrolment survives.
const MISTAKES_MAX: usize = 4;
/// How long a browser is kept waiting for an exchange before it is told to look again.
const LANDING_WAIT: Duration = Duration::from_secs(5);

/// What comes of a code that a person typed.
#[derive(Debug)]
pub enum Entered {
    /// On to the provider.
    Go {
        /// Its question.
        url: String,
    },
    /// It is another one; the person may try again.
    Wrong(Box<Enrolment>),
    /// It was another one too often.
    WrongTooOften,
    /// Another browser entered it before.
    OtherBrowser,
}

/// What a provider sent a browser back with.
#[derive(Debug)]
pub enum Told {
    /// Consent.
    Code {
        /// What buys the pair.
        code: AuthorizationCode,
        /// Who says that it answers.
        issuer: Option<String>,
    },
    /// None; in its words, for people.
    Refusal(String),
}

/// What becomes of a browser that came back.
#[derive(Debug)]
pub enum Landing {
    /// The enrolment is over.
    Ended(Ending),
    /// The code is being exchanged; look again in a moment.
    UnderWay,
    /// Another browser began this, or none.
    OtherBrowser,
    /// Whoever began this waits for the address to be pasted.
    ToBePasted,
}

impl Broker {
    /// The enrolment that a page is to ask for.
    pub async fn page(&self, id: &EnrolmentId) -> Result<Enrolment, Error> {
        let enrolment = self.rotations.store.named(id).await?;
        let asks = |enrolment: &Enrolment| enrolment.page.is_some() && !self.lapsed(enrolment);
        let enrolment = enrolment.filter(asks).ok_or(Error::EnrolmentUnknown)?;
        match self.rotations.store.find(&enrolment.state).await? {
            Found::Waiting(_) => Ok(enrolment),
            Found::Answered | Found::Nothing => Err(Error::EnrolmentUnknown),
        }
    }

    /// Binds the enrolment to the browser in which its code was typed.
    pub async fn enter_code(
        &self,
        id: &EnrolmentId,
        typed: &str,
        browser: &Browser,
    ) -> Result<Entered, Error> {
        let enrolment = self.page(id).await?;
        let store = &self.rotations.store;
        // Once one is through, no other can end it with wrong codes.
        if store.bound(id).await?.is_some_and(|bound| bound != *browser) {
            return Ok(Entered::OtherBrowser);
        }
        if !enrolment.page.as_ref().is_some_and(|page| page.code.is(typed)) {
            if store.count_mistake(id, MISTAKES_MAX).await? {
                return Ok(Entered::Wrong(Box::new(enrolment)));
            }
            warn!(grant.id = %enrolment.grant, "an enrolment ends: its code was wrong too often");
            let why = "the code was wrong too often".to_owned();
            if store.take(&enrolment.state).await?.is_some() {
                self.conclude(&enrolment, Ending::Failed(why)).await;
            }
            return Ok(Entered::WrongTooOften);
        }
        if store.bind(id, browser).await? != *browser {
            return Ok(Entered::OtherBrowser);
        }
        Ok(Entered::Go { url: self.question(&enrolment).await? })
    }

    /// A browser came back from the provider. `may`: asked before a code is exchanged for tokens.
    pub async fn land(
        self: &Arc<Self>,
        state: EnrolmentState,
        browser: Option<&Browser>,
        told: Told,
        may: impl AsyncFnOnce(&Enrolment) -> Result<(), Error>,
    ) -> Result<Landing, Error> {
        let store = &self.rotations.store;
        let enrolment = match store.find(&state).await? {
            Found::Waiting(enrolment) if self.lapsed(&enrolment) => {
                return Err(Error::EnrolmentUnknown);
            }
            Found::Waiting(enrolment) => enrolment,
            // Whoever has only the address learns nothing of what came of it.
            Found::Answered if browser.is_none() => return Ok(Landing::OtherBrowser),
            Found::Answered => return self.landed(&state).await,
            Found::Nothing => return Err(Error::EnrolmentUnknown),
        };
        if enrolment.page.is_none() {
            return Ok(Landing::ToBePasted);
        }
        let bound = store.bound(&enrolment.id).await?;
        if browser.is_none() || bound.as_ref() != browser {
            warn!(grant.id = %enrolment.grant, "an answer came in a browser that did not ask");
            return Ok(Landing::OtherBrowser);
        }
        match told {
            Told::Refusal(words) => {
                info!(grant.id = %enrolment.grant, "a person or the provider said no");
                if store.take(&state).await?.is_some() {
                    self.conclude(&enrolment, Ending::Failed(words)).await;
                }
                self.landed(&state).await
            }
            Told::Code { code, issuer } => {
                may(&enrolment).await?;
                let answer = Answer { state: state.clone(), code, issuer };
                let ended = timeout(LANDING_WAIT, self.complete_enrolment(answer)).await;
                // What comes of it is kept; only what was not begun is told from here.
                let landing = self.landed(&state).await?;
                match (&landing, ended) {
                    (Landing::UnderWay, Ok(Err(Error::EnrolmentUnknown))) => Ok(landing),
                    (Landing::UnderWay, Ok(Err(error))) => Err(error),
                    _ => Ok(landing),
                }
            }
        }
    }

    /// How an enrolment ended that has its answer.
    async fn landed(&self, state: &EnrolmentState) -> Result<Landing, Error> {
        let ending = self.rotations.store.ending(state).await?;
        Ok(ending.map_or(Landing::UnderWay, Landing::Ended))
    }
}
