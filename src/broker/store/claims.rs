//! Claims in the store: who may spend a generation, and what became of it.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::broker::model::{Answer, Doubt, Generation, Grant, GrantId, Intent, Owner, Verdict};
use crate::broker::store::error::StoreError;

/// Gives the right to spend a generation; the contract is that of [`Store`](super::Store).
#[async_trait]
pub trait Claims {
    /// Claims the right to spend `generation`. The grant is due again after `watch` at the latest,
    /// so that somebody looks if the holder is no more.
    ///
    /// `takeover` lets the claim replace an intent that is at least that old: only for kinds that
    /// spend nothing.
    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> Result<Claim, StoreError>;

    /// Takes a claim over whose refresh token is in doubt, if it is still `held`. The doubt stays
    /// until there is a definite answer.
    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> Result<Claim, StoreError>;

    /// Records that the request under this claim got no definite answer, and when the grant is to
    /// be looked at again. `false`: the claim is not ours.
    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> Result<bool, StoreError>;

    /// Gives a claim back, knowing that the provider processed nothing under it: the generation is
    /// free, or in doubt as before. What the provider said is kept until a pair comes; `None`: nothing
    /// new. `false`: it is not ours.
    async fn release(
        &self,
        id: &GrantId,
        intent: &Intent,
        answer: Option<&Answer>,
    ) -> Result<bool, StoreError>;

    /// Records the provider's final no, if the claim is still ours. `false`: it is not.
    async fn refuse(
        &self,
        id: &GrantId,
        intent: &Intent,
        verdict: &Verdict,
    ) -> Result<bool, StoreError>;

    /// Puts another pair of the same generation in the place of the one whose refresh token was refused
    /// under this claim; the access token stays. `None`: there is none, or the claim is not ours.
    async fn promote(&self, id: &GrantId, intent: &Intent) -> Result<Option<Grant>, StoreError>;
}

/// Answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The right is ours.
    Granted(Intent),
    /// Somebody holds it.
    Busy(Intent),
    /// The grant is not at this generation or not usable: read it again.
    Moved,
}
