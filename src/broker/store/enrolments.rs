//! Enrolments under way, in the store: any process that has it may end them.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::model::{Ending, Enrolment, EnrolmentLimits};
use crate::broker::store::error::StoreError;
use crate::secret::{Browser, EnrolmentId, EnrolmentState};

/// Keeps enrolments, sealed, for as long as they live; the contract is that of
/// [`Store`](super::Store). Nothing of it is ever written twice.
#[async_trait]
pub trait Enrolments {
    /// Keeps an enrolment. If one was begun with the same `request` and lives still, that one is
    /// given back and stays; `None`: it was answered already.
    async fn begin(
        &self,
        enrolment: Enrolment,
        request: Option<&str>,
    ) -> Result<Option<Enrolment>, StoreError>;

    /// Counts an enrolment that is about to begin, once: of its caller, for its grant, and in all. `Some`:
    /// there are as many as there may be, and nothing was counted.
    async fn enter(
        &self,
        enrolment: &Enrolment,
        request: Option<&str>,
        caller: Option<&str>,
        limits: EnrolmentLimits,
    ) -> Result<Option<Crowded>, StoreError>;

    /// Takes the enrolment that has this state out: nobody gets it twice.
    async fn take(&self, state: &EnrolmentState) -> Result<Option<Enrolment>, StoreError>;

    /// Looks at what waits for an answer with this state.
    async fn find(&self, state: &EnrolmentState) -> Result<Found, StoreError>;

    /// The enrolment of this name, whether it was answered or not.
    async fn named(&self, id: &EnrolmentId) -> Result<Option<Enrolment>, StoreError>;

    /// Binds an enrolment to a browser; gives back the one that it is bound to, which is the first.
    async fn bind(&self, id: &EnrolmentId, browser: &Browser) -> Result<Browser, StoreError>;

    /// The browser that an enrolment is bound to.
    async fn bound(&self, id: &EnrolmentId) -> Result<Option<Browser>, StoreError>;

    /// Counts a wrong code; `false`: there were `most` already.
    async fn count_mistake(&self, id: &EnrolmentId, most: usize) -> Result<bool, StoreError>;

    /// Keeps how the enrolment with this state ended; what was said first stays.
    async fn conclude(&self, state: &EnrolmentState, ending: &Ending) -> Result<(), StoreError>;

    /// How the enrolment with this state ended, for some minutes after it has.
    async fn ending(&self, state: &EnrolmentState) -> Result<Option<Ending>, StoreError>;
}

/// There are too many enrolments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded {
    /// Of whom, or of what.
    pub by: Crowd,
    /// When there is room for another.
    pub retry_after: Duration,
}

/// What enrolments are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// Who begins them.
    Caller,
    /// The grant to be.
    Grant,
    /// All together.
    All,
}

/// What waits for an answer.
#[derive(Debug)]
pub enum Found {
    /// An enrolment.
    Waiting(Box<Enrolment>),
    /// None any more: it was taken out.
    Answered,
    /// None: there never was one, or it is long ago.
    Nothing,
}
