//! Enrolments under way, in the store: any process that has it may end them.

use async_trait::async_trait;

use crate::broker::model::Enrolment;
use crate::broker::store::error::StoreError;
use crate::secret::EnrolmentState;

/// Keeps enrolments, sealed, for as long as they live; the contract is that of
/// [`Store`](super::Store).
#[async_trait]
pub trait Enrolments {
    /// Keeps an enrolment. If one was begun with the same `request` and lives still, that one is
    /// given back and stays; `None`: it was answered already.
    async fn begin(
        &self,
        enrolment: Enrolment,
        request: Option<&str>,
    ) -> Result<Option<Enrolment>, StoreError>;

    /// Takes the enrolment that has this state out: nobody gets it twice.
    async fn take(&self, state: &EnrolmentState) -> Result<Option<Enrolment>, StoreError>;
}
