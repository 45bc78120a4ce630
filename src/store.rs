//! The token stores: sealed records, and the rules by which they change.
//!
//! Reading order: [`vault`] is what the domain sees; `seal`, `plain` and [`keyring`] say what is
//! sealed and how, `record` what is stored, `transition` how it may change, `backend` what keeps it: `embedded`
//! (redb) or [`redis`]. `identity` says whom a store belongs to, [`journal`] who this process is
//! among several, and what it has not given to the store yet.

use thiserror::Error;

use crate::broker::error::chain;
use crate::broker::store::StoreError;

mod backend;
mod bucket;
mod embedded;
mod format_1;
mod identity;
pub mod journal;
pub mod keyring;
mod plain;
mod record;
pub mod redis;
mod seal;
mod transition;
pub mod vault;

pub(crate) use embedded::room;
pub use journal::Journal;
pub use keyring::Keyring;
pub use vault::Vault;

/// Why a store cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It may work later: try again.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody has to mend something first.
    #[error("{0}")]
    Refused(String),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) | StoreError::Recovering { .. } => {
                Self::Unavailable(chain(&error))
            }
            StoreError::Refused(_)
            | StoreError::Full(_)
            | StoreError::BadCursor
            | StoreError::Unreadable { .. } => Self::Refused(error.to_string()),
        }
    }
}
