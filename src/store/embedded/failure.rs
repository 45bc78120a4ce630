//! Why a step failed, and what to do.

use std::path::Path;

use redb::DatabaseError;

use crate::broker::store::StoreError;
use crate::store::OpenError;

pub(super) fn foreign() -> StoreError {
    StoreError::Unavailable(
        "another store was put in the place of this one, and is not written to; put the right one \
         back, or start anew if it is meant to be another"
            .into(),
    )
}

pub(super) fn odd(path: &Path, error: &DatabaseError) -> StoreError {
    StoreError::Unavailable(refusal(path, error).to_string().into())
}

pub(super) fn gone(path: &Path) -> StoreError {
    let (path, process) = (path.display(), std::process::id());
    StoreError::Unavailable(
        format!(
            "the file {path} is gone; put it back. While this process runs its content is in \
             /proc/{process}/fd: as root, copy the one that points at it to where it was"
        )
        .into(),
    )
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

pub(super) fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

pub(super) fn refusal(path: &Path, error: &DatabaseError) -> OpenError {
    let path = path.display();
    OpenError::Refused(match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => format!(
            "{path} is in use by another process; stop it, or name another file in `store.url`"
        ),
        DatabaseError::UpgradeRequired(_) => {
            format!("{path} was written by an older format; export it with the older version")
        }
        DatabaseError::Storage(redb::StorageError::Io(error)) => {
            format!(
                "{path} cannot be opened: {error}; is it a token-broker store, and may we write there?"
            )
        }
        _ => format!(
            "{path} is damaged ({error}); keep a copy of it, restore a backup, or name another file in `store.url`"
        ),
    })
}
