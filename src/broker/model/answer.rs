//! Answers that were no new token: what a provider said last of a grant that goes on.

use std::time::{Duration, SystemTime};

use crate::broker::model::reason::Reason;

/// Why a refresh failed, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// For programs.
    pub reason: Reason,
    /// HTTP status, if there was a reply.
    pub status: Option<u16>,
    /// The provider's error code, cut and cleaned.
    pub said: Option<String>,
    /// What else it said, or why it was not reached; for operators, cut and cleaned.
    pub detail: Option<String>,
}

/// The last definite answer about a grant, where it was no success and did not end the grant. A success
/// leaves none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub cause: Cause,
    /// When the request was sent that it answers.
    pub sent_at: SystemTime,
    /// When the first of those in a row was sent.
    pub since: SystemTime,
    /// How many there are in a row.
    pub count: u32,
    /// How long the provider asks us to wait.
    pub asked: Option<Duration>,
    /// It was refused often enough, while others of the same client succeeded: this grant is what is
    /// refused, whatever the answer says.
    pub alone: bool,
}

impl Answer {
    /// It was refused together with many others: that is not believed yet.
    pub fn is_provisional(&self) -> bool {
        self.cause.reason == Reason::ProviderRefusesMany
    }

    /// It has a pace of its own, which does not end with a trouble of the provider.
    pub fn keeps_its_pace(&self) -> bool {
        self.is_provisional() || self.alone
    }

    /// The answer that follows `before`.
    pub fn after(
        before: Option<&Self>,
        cause: Cause,
        asked: Option<Duration>,
        sent_at: SystemTime,
    ) -> Self {
        let since = before.map_or(sent_at, |before| before.since);
        let count = before.map_or(0, |before| before.count).saturating_add(1);
        let alone = before.is_some_and(|before| before.alone);
        Self { cause, sent_at, since, count, asked, alone }
    }
}
