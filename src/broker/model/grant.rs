//! Grants: one stored authorization, opened.

use std::time::SystemTime;

use crate::broker::model::answer::Answer;
use crate::broker::model::descriptor::Descriptor;
use crate::broker::model::generation::{Fence, Generation, Position};
use crate::broker::model::id::GrantId;
use crate::broker::model::intent::Intent;
use crate::broker::model::standing::Standing;
use crate::broker::model::token::{Pair, Token};

/// One stored authorization, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its name.
    pub id: GrantId,
    /// Where its newest change stands.
    pub position: Position,
    /// What operators say about it.
    pub descriptor: Descriptor,
    /// Fence of the change that said it.
    pub described: Fence,
    /// Its secrets.
    pub pair: Pair,
    /// Whether it can be used.
    pub standing: Standing,
    /// Set while its generation is being spent.
    pub intent: Option<Intent>,
    /// What the provider said last, where it was no success and no end.
    pub answer: Option<Answer>,
}

impl Grant {
    /// The current generation.
    pub fn generation(&self) -> Generation {
        self.position.generation
    }

    /// Changes whenever the grant changes.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.position.generation.0, self.position.fence.0)
    }

    /// The grant is of the chain that stood at `spent`, one rotation further at most.
    pub fn continues(&self, spent: Generation) -> bool {
        self.generation() <= spent.next()
    }

    /// How often in a row it was not refreshed, as all processes know.
    pub fn failures(&self) -> u32 {
        let answered = self.answer.as_ref().map_or(0, |answer| answer.count);
        let doubt = self.intent.as_ref().and_then(|held| held.doubt.as_ref());
        answered.max(doubt.map_or(0, |doubt| doubt.attempts))
    }

    /// Its last answer gave it a pace that nothing hastens.
    pub fn keeps_its_pace(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::keeps_its_pace)
    }

    /// The access token, if it is valid at `now`.
    pub fn valid_token(&self, now: SystemTime) -> Option<&Token> {
        self.pair.token.as_ref().filter(|token| now < token.expires_at())
    }
}
