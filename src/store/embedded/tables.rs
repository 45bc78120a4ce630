//! What lies where in the file.

use redb::TableDefinition;

use crate::broker::store::StoreError;
use crate::store::backend::StoreResult;
use crate::store::identity::Identity;

pub(super) const GRANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("grants");
/// (due time in ms, grant): what the index holds beside the records.
pub(super) const DUE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("due");
/// Whose store it is, the mark, and facts, whose names have a colon.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Sealed notes, each with its end in ms.
pub(super) const NOTES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("notes");
pub(super) const IDENTITY: &str = "identity";
pub(super) const MARK: &str = "mark";
/// Only while it is seen whether there is room.
pub(super) const ROOM: &str = "room";

/// Whose store it is, if that is written in it.
pub(super) fn identity(found: Option<Vec<u8>>) -> StoreResult<Option<Identity>> {
    let unknown = || {
        StoreError::Refused(
            "it was not written by this version of token-broker; name another file in `store.url`"
                .to_owned(),
        )
    };
    found.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| unknown())).transpose()
}
