//! Moments at which a test may stop a refresh for ever, to kill the process there. Debug builds
//! only: in a release there is nothing to set and nothing to reach.

/// A moment in a refresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the claim.
    BeforeClaim,
    /// The claim is written, and nothing was sent.
    AfterClaim,
    /// The answer has arrived, and only memory has it.
    AfterReply,
    /// The journal has the new pair, and the store was not asked to take it.
    AfterJournal,
    /// The store has the new pair, and nobody was told.
    AfterMerge,
}

impl Moment {
    /// The moment of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "before_claim" => Some(Self::BeforeClaim),
            "after_claim" => Some(Self::AfterClaim),
            "after_reply" => Some(Self::AfterReply),
            "after_journal" => Some(Self::AfterJournal),
            "after_merge" => Some(Self::AfterMerge),
            _ => None,
        }
    }
}

/// Goes no further if this is the moment to stop at.
#[cfg(debug_assertions)]
pub(crate) async fn reached(stop_at: Option<Moment>, moment: Moment) {
    if stop_at == Some(moment) {
        tracing::error!(?moment, "stopped for a test");
        std::future::pending::<()>().await;
    }
}

/// Goes on.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "the same form as in debug builds")]
pub(crate) async fn reached(_: Option<Moment>, _: Moment) {}
