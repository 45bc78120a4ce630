//! Why a store failed.

use std::time::Duration;

use thiserror::Error;

use crate::broker::model::{GrantId, Position};

/// Why the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It did not answer, or not in time; the step may have happened.
    #[error("the token store does not answer; call again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It may lack what was written last: nothing new is begun in it until that is there again.
    #[error("the token store may lack what was written last: {why}")]
    Recovering {
        /// What is waited for, and what ends it.
        why: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// It refused the step, which did not happen.
    #[error("the token store refused: {0}")]
    Refused(String),
    /// Nothing new is begun in it: the little that is left is for what must be written, and nothing was.
    #[error(
        "the token store is nearly full ({0}); nothing new is begun, so that tokens are refreshed still"
    )]
    Full(String),
    /// A cursor is not one of ours.
    #[error("page_token is not one that this store gave out; begin without it")]
    BadCursor,
    /// A record cannot be opened.
    #[error("the record of grant {grant} cannot be opened: {why}")]
    Unreadable {
        /// The grant.
        grant: GrantId,
        /// What to look at.
        why: &'static str,
        /// Where it stands, if that can be read: enough to replace or delete it.
        position: Option<Position>,
    },
}
