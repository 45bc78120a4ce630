//! A real store behind a switch: while it is off, nothing reaches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use token_broker::broker::model::{
    Answer, ClientFingerprint, Doubt, Ending, Enrolment, EnrolmentLimits, Evidence, Generation,
    Grant, GrantId, Intent, Millis, Owner, Position, ProviderId, Verdict,
};
use token_broker::broker::store::{
    Amendment, Claim, Claims, Crowded, DueIndex, Enrolments, Events, Finding, Found, Grants,
    Health, Heard, Limit, Merged, Page, Rates, Seed, Slots, Slowing, Store, StoreError, Stored,
    Troubles, Version, When,
};
use token_broker::secret::{Browser, EnrolmentId, EnrolmentState};
use tokio::sync::mpsc::Sender;

pub(crate) struct Flaky {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) off: Arc<AtomicBool>,
    /// The next step that begins a chain is made, and its answer lost.
    pub(crate) loses_answer: Arc<AtomicBool>,
}

type StoreResult<T> = Result<T, StoreError>;

impl Flaky {
    fn reach(&self) -> StoreResult<&dyn Store> {
        if self.off.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("switched off".into()));
        }
        Ok(self.store.as_ref())
    }
}

#[async_trait]
impl Enrolments for Flaky {
    async fn begin(
        &self,
        enrolment: Enrolment,
        request: Option<&str>,
    ) -> StoreResult<Option<Enrolment>> {
        self.reach()?.begin(enrolment, request).await
    }
    async fn enter(
        &self,
        enrolment: &Enrolment,
        request: Option<&str>,
        caller: Option<&str>,
        limits: EnrolmentLimits,
    ) -> StoreResult<Option<Crowded>> {
        self.reach()?.enter(enrolment, request, caller, limits).await
    }
    async fn take(&self, state: &EnrolmentState) -> StoreResult<Option<Enrolment>> {
        self.reach()?.take(state).await
    }
    async fn find(&self, state: &EnrolmentState) -> StoreResult<Found> {
        self.reach()?.find(state).await
    }
    async fn named(&self, id: &EnrolmentId) -> StoreResult<Option<Enrolment>> {
        self.reach()?.named(id).await
    }
    async fn bind(&self, id: &EnrolmentId, browser: &Browser) -> StoreResult<Browser> {
        self.reach()?.bind(id, browser).await
    }
    async fn bound(&self, id: &EnrolmentId) -> StoreResult<Option<Browser>> {
        self.reach()?.bound(id).await
    }
    async fn count_mistake(&self, id: &EnrolmentId, most: usize) -> StoreResult<bool> {
        self.reach()?.count_mistake(id, most).await
    }
    async fn conclude(&self, state: &EnrolmentState, ending: &Ending) -> StoreResult<()> {
        self.reach()?.conclude(state, ending).await
    }
    async fn ending(&self, state: &EnrolmentState) -> StoreResult<Option<Ending>> {
        self.reach()?.ending(state).await
    }
}

#[async_trait]
impl Events for Flaky {
    async fn listen(&self, heard: Sender<Heard>, silence: Duration) -> StoreResult<()> {
        self.reach()?.listen(heard, silence).await
    }
}

#[async_trait]
impl Grants for Flaky {
    async fn load(&self, id: &GrantId) -> StoreResult<Option<Stored>> {
        self.reach()?.load(id).await
    }
    async fn list(&self, after: Option<&str>, limit: usize) -> StoreResult<Page> {
        self.reach()?.list(after, limit).await
    }
    async fn start_chain(
        &self,
        id: &GrantId,
        expected: Option<Position>,
        seed: Seed,
    ) -> StoreResult<Option<Grant>> {
        let started = self.reach()?.start_chain(id, expected, seed).await;
        if self.loses_answer.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Unavailable("its answer was lost".into()));
        }
        started
    }
    async fn journal(&self, _: &Grant, _: Option<SystemTime>) -> Result<(), String> {
        Ok(())
    }
    async fn merge(&self, grant: &Grant, due_at: Option<SystemTime>) -> StoreResult<Merged> {
        self.reach()?.merge(grant, due_at).await
    }
    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> StoreResult<Option<Grant>> {
        self.reach()?.amend(id, expected, amendment).await
    }
    async fn bury(&self, id: &GrantId, at: Position) -> StoreResult<bool> {
        self.reach()?.bury(id, at).await
    }
    async fn start_over(&self, id: &GrantId, seed: Seed) -> StoreResult<Option<Grant>> {
        self.reach()?.start_over(id, seed).await
    }
    async fn discard(&self, id: &GrantId) -> StoreResult<bool> {
        self.reach()?.discard(id).await
    }
    async fn delete(&self, id: &GrantId, expected: Position) -> StoreResult<bool> {
        self.reach()?.delete(id, expected).await
    }
}

#[async_trait]
impl Claims for Flaky {
    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> StoreResult<Claim> {
        self.reach()?.claim(id, generation, owner, takeover, watch).await
    }
    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> StoreResult<Claim> {
        self.reach()?.take_over(id, held, owner, watch).await
    }
    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> StoreResult<bool> {
        self.reach()?.doubt(id, intent, doubt, due_at).await
    }
    async fn release(
        &self,
        id: &GrantId,
        intent: &Intent,
        answer: Option<&Answer>,
    ) -> StoreResult<bool> {
        self.reach()?.release(id, intent, answer).await
    }
    async fn promote(&self, id: &GrantId, intent: &Intent) -> StoreResult<Option<Grant>> {
        self.reach()?.promote(id, intent).await
    }
    async fn refuse(&self, id: &GrantId, intent: &Intent, verdict: &Verdict) -> StoreResult<bool> {
        self.reach()?.refuse(id, intent, verdict).await
    }
}

#[async_trait]
impl DueIndex for Flaky {
    async fn schedule(
        &self,
        id: &GrantId,
        generation: Generation,
        at: SystemTime,
    ) -> StoreResult<()> {
        self.reach()?.schedule(id, generation, at).await
    }
    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        self.reach()?.take_due(limit, visibility).await
    }
}

#[async_trait]
impl Rates for Flaky {
    async fn book(
        &self,
        provider: &ProviderId,
        limit: Limit,
        count: usize,
        ahead: Duration,
    ) -> StoreResult<Slots> {
        self.reach()?.book(provider, limit, count, ahead).await
    }
    async fn slow_down(&self, provider: &ProviderId, slowing: Slowing) -> StoreResult<()> {
        self.reach()?.slow_down(provider, slowing).await
    }
}

#[async_trait]
impl Troubles for Flaky {
    async fn trouble(&self, client: &str, now: Millis) -> StoreResult<(Evidence, Version)> {
        self.reach()?.trouble(client, now).await
    }
    async fn put_trouble(
        &self,
        client: &str,
        read: Version,
        evidence: &Evidence,
        now: Millis,
    ) -> StoreResult<bool> {
        self.reach()?.put_trouble(client, read, evidence, now).await
    }
    async fn client_was(&self, client: &str, when: When) -> StoreResult<Option<ClientFingerprint>> {
        self.reach()?.client_was(client, when).await
    }
    async fn client_is(&self, client: &str, when: When, is: ClientFingerprint) -> StoreResult<()> {
        self.reach()?.client_is(client, when, is).await
    }
}

#[async_trait]
impl Store for Flaky {
    async fn health(&self) -> Health {
        self.store.health().await
    }
    async fn compared(&self) -> StoreResult<()> {
        self.store.compared().await
    }
    async fn dismiss(&self, replicas: &[String]) -> StoreResult<()> {
        self.reach()?.dismiss(replicas).await
    }
    async fn examine(&self) -> StoreResult<Vec<Finding>> {
        self.reach()?.examine().await
    }
    async fn spare(&self) -> StoreResult<()> {
        self.reach()?.spare().await
    }
    async fn purge(&self) -> StoreResult<usize> {
        self.reach()?.purge().await
    }
    async fn close(&self) -> StoreResult<()> {
        self.store.close().await
    }
}
