//! Enrolments in the store: notes that are written once, under names that tell nothing.

use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::broker::model::{
    ENROLMENT_KEPT, ENROLMENT_LIFE, Ending, Enrolment, EnrolmentLimits, GrantId,
};
use crate::broker::store::{Crowd, Crowded, Enrolments, Found, StoreError};
use crate::clock::between;
use crate::secret::{Browser, EnrolmentId, EnrolmentState};
use crate::store::backend::StoreResult;
use crate::store::keyring;
use crate::store::plain::{PlainEnding, PlainEnrolment};
use crate::store::record::Blob;
use crate::store::vault::Vault;

#[async_trait]
impl Enrolments for Vault {
    async fn begin(
        &self,
        enrolment: Enrolment,
        request: Option<&str>,
    ) -> StoreResult<Option<Enrolment>> {
        self.still_ours().await?;
        let begun = match request {
            None => enrolment,
            Some(request) => {
                let request = name_of_request(&enrolment.grant, request);
                let Some(begun) = self.keep_enrolment(&request, enrolment, Duration::ZERO).await?
                else {
                    return Ok(None);
                };
                begun
            }
        };
        // Once more, if the first time ended before this. How it ended is asked by its id.
        let id = name_of("id", begun.id.expose());
        let Some(begun) = self.keep_enrolment(&id, begun, ENROLMENT_LIFE).await? else {
            return Ok(None);
        };
        // That it was answered is remembered for longer than it may be answered.
        let state = name_of("state", begun.state.expose());
        self.keep_enrolment(&state, begun, ENROLMENT_LIFE).await
    }

    async fn enter(
        &self,
        enrolment: &Enrolment,
        request: Option<&str>,
        caller: Option<&str>,
        limits: EnrolmentLimits,
    ) -> StoreResult<Option<Crowded>> {
        let member = request.map_or_else(
            || name_of("id", enrolment.id.expose()),
            |request| name_of_request(&enrolment.grant, request),
        );
        let caller = caller.filter(|_| limits.per_caller > 0);
        let lists = [
            caller.map(|caller| (Crowd::Caller, name_of("caller", caller), limits.per_caller)),
            Some((Crowd::Grant, name_of("grant", enrolment.grant.as_str()), limits.per_grant)),
            Some((Crowd::All, "all".to_owned(), limits.in_all)),
        ];
        let lists: Vec<_> = lists.into_iter().flatten().collect();
        let names: Vec<_> = lists.iter().map(|(_, name, most)| (name.clone(), *most)).collect();
        let full = self.backend.enlist(&names, &member, ENROLMENT_KEPT).await?;
        let crowded = full
            .and_then(|(list, retry_after)| Some(Crowded { by: lists.get(list)?.0, retry_after }));
        Ok(crowded)
    }

    async fn take(&self, state: &EnrolmentState) -> StoreResult<Option<Enrolment>> {
        let name = name_of("state", state.expose());
        let note = self.backend.pick(&name).await?;
        Ok(note.and_then(|note| self.opened(&name, &note)))
    }

    async fn find(&self, state: &EnrolmentState) -> StoreResult<Found> {
        let name = name_of("state", state.expose());
        let Some(note) = self.backend.look(&name).await? else { return Ok(Found::Nothing) };
        if note.0.is_empty() {
            return Ok(Found::Answered);
        }
        let enrolment = self.opened(&name, &note).map(Box::new);
        Ok(enrolment.map_or(Found::Nothing, Found::Waiting))
    }

    async fn named(&self, id: &EnrolmentId) -> StoreResult<Option<Enrolment>> {
        let name = name_of("id", id.expose());
        let note = self.backend.look(&name).await?;
        Ok(note.and_then(|note| self.opened(&name, &note)))
    }

    async fn bind(&self, id: &EnrolmentId, browser: &Browser) -> StoreResult<Browser> {
        let name = name_of("browser", id.expose());
        let bound = self.keep(&name, &browser.expose(), ENROLMENT_LIFE).await?;
        bound.map(|bound: String| Browser::new(bound)).ok_or_else(sealed_by_another)
    }

    async fn bound(&self, id: &EnrolmentId) -> StoreResult<Option<Browser>> {
        let bound = self.look::<String>(&name_of("browser", id.expose())).await?;
        Ok(bound.map(Browser::new))
    }

    async fn count_mistake(&self, id: &EnrolmentId, most: usize) -> StoreResult<bool> {
        // Whoever finds its own word under a number has counted.
        let word = EnrolmentId::random();
        for number in 0..most {
            let name = name_of("mistake", &format!("{number} {}", id.expose()));
            let there: Option<String> = self.keep(&name, &word.expose(), ENROLMENT_LIFE).await?;
            if there.as_deref() == Some(word.expose()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn conclude(&self, state: &EnrolmentState, ending: &Ending) -> StoreResult<()> {
        let name = name_of("ending", state.expose());
        let plain = PlainEnding::from(ending);
        self.keep::<_, PlainEnding>(&name, &plain, ENROLMENT_LIFE).await.map(drop)
    }

    async fn ending(&self, state: &EnrolmentState) -> StoreResult<Option<Ending>> {
        let plain = self.look::<PlainEnding>(&name_of("ending", state.expose())).await?;
        Ok(plain.and_then(PlainEnding::ending))
    }
}

impl Vault {
    /// What is kept under the name then; `None`: it was taken out.
    async fn keep_enrolment(
        &self,
        name: &str,
        enrolment: Enrolment,
        longer: Duration,
    ) -> StoreResult<Option<Enrolment>> {
        let life = between(self.clock.now(), enrolment.expires_at) + longer;
        let note = self.seal.note(name, &PlainEnrolment::from(&enrolment));
        let note = self.backend.keep(name, note, life).await?;
        if note.0.is_empty() {
            return Ok(None);
        }
        self.opened(name, &note).map(Some).ok_or_else(sealed_by_another)
    }

    fn opened(&self, name: &str, note: &Blob) -> Option<Enrolment> {
        self.seal.open_note::<PlainEnrolment>(name, note)?.enrolment()
    }

    async fn keep<P: Serialize, T: DeserializeOwned>(
        &self,
        name: &str,
        plain: &P,
        life: Duration,
    ) -> StoreResult<Option<T>> {
        let note = self.backend.keep(name, self.seal.note(name, plain), life).await?;
        Ok(self.seal.open_note(name, &note))
    }

    async fn look<T: DeserializeOwned>(&self, name: &str) -> StoreResult<Option<T>> {
        let note = self.backend.look(name).await?;
        Ok(note.and_then(|note| self.seal.open_note(name, &note)))
    }
}

fn sealed_by_another() -> StoreError {
    StoreError::Refused("what it keeps of an enrolment cannot be opened; begin again".into())
}

fn name_of_request(grant: &GrantId, request: &str) -> String {
    name_of("request", &format!("{grant} {request}"))
}

/// A name that tells nothing of what it is made of.
fn name_of(kind: &str, text: &str) -> String {
    let hash = digest(&SHA256, format!("{kind} {text}").as_bytes());
    keyring::hexadecimal(hash.as_ref())
}
