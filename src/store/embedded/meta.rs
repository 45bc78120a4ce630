//! What stands beside the records: whose store it is, the mark, and notes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::ReadableTable as _;

use crate::store::backend::{Inspected, StoreResult};
use crate::store::embedded::failure::unavailable;
use crate::store::embedded::inner::Inner;
use crate::store::embedded::tables::{IDENTITY, MARK, META, NOTES, ROOM, identity};
use crate::store::identity::Identity;
use crate::store::record::{Blob, millis};

/// What a whole grant, and some more, would take.
const ROOM_LEN: usize = 256 * 1024;

impl Inner {
    /// Old ones make room.
    pub(super) fn keep(&self, name: &str, note: &Blob, life: Duration) -> StoreResult<Blob> {
        let now = self.clock.now_ms();
        self.write(|transaction| {
            let mut notes = transaction.open_table(NOTES).map_err(unavailable)?;
            notes.retain(|_, (end, _)| end > now).map_err(unavailable)?;
            if let Some(there) = notes.get(name).map_err(unavailable)? {
                return Ok((Blob(there.value().1.to_vec()), true));
            }
            let end = now.saturating_add(millis(life));
            notes.insert(name, (end, note.0.as_slice())).map_err(unavailable)?;
            Ok((note.clone(), true))
        })
    }

    pub(super) fn look(&self, name: &str) -> StoreResult<Option<Blob>> {
        let now = self.clock.now_ms();
        let transaction = self.begin_read()?;
        let notes = transaction.open_table(NOTES).map_err(unavailable)?;
        let there = notes.get(name).map_err(unavailable)?;
        let living = there.filter(|note| note.value().0 > now);
        Ok(living.map(|note| Blob(note.value().1.to_vec())))
    }

    pub(super) fn pick(&self, name: &str) -> StoreResult<Option<Blob>> {
        let now = self.clock.now_ms();
        self.write(|transaction| {
            let mut notes = transaction.open_table(NOTES).map_err(unavailable)?;
            let there = notes.get(name).map_err(unavailable)?;
            let there = there.map(|note| (note.value().0, note.value().1.to_vec()));
            let Some((end, note)) = there.filter(|(end, note)| *end > now && !note.is_empty())
            else {
                return Ok((None, false));
            };
            notes.insert(name, (end, [].as_slice())).map_err(unavailable)?;
            Ok((Some(Blob(note)), true))
        })
    }

    pub(super) fn identify(&self, identity: &Identity) -> StoreResult<()> {
        self.write(|transaction| {
            let bytes = serde_json::to_vec(identity).map_err(unavailable)?;
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            meta.insert(IDENTITY, bytes.as_slice()).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    pub(super) fn identity(&self, proposed: &Identity) -> StoreResult<Identity> {
        let bytes = serde_json::to_vec(proposed).map_err(unavailable)?;
        self.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            let found =
                meta.get(IDENTITY).map_err(unavailable)?.map(|found| found.value().to_vec());
            if let Some(found) = identity(found)? {
                return Ok((found, false));
            }
            meta.insert(IDENTITY, bytes.as_slice()).map_err(unavailable)?;
            Ok((proposed.clone(), true))
        })
    }

    pub(super) fn fact(&self, name: &str) -> StoreResult<Option<Blob>> {
        let transaction = self.begin_read()?;
        let meta = transaction.open_table(META).map_err(unavailable)?;
        let found = meta.get(name).map_err(unavailable)?;
        Ok(found.map(|found| Blob(found.value().to_vec())))
    }

    pub(super) fn put_fact(&self, name: &str, value: &Blob) -> StoreResult<()> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            meta.insert(name, value.0.as_slice()).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    /// On a full disk a mark finds its place in what is there already, and a grant does not.
    fn prove_room(&self) -> StoreResult<()> {
        self.put_fact(ROOM, &Blob(vec![0; ROOM_LEN]))?;
        self.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            meta.remove(ROOM).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    pub(super) fn inspect(&self, mark: u64) -> StoreResult<Inspected> {
        if self.cramped.load(Ordering::SeqCst) {
            self.prove_room()?;
            self.cramped.store(false, Ordering::SeqCst);
        }
        self.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            let value =
                |name| Ok(meta.get(name).map_err(unavailable)?.map(|found| found.value().to_vec()));
            let (found, before) = (identity(value(IDENTITY)?)?, value(MARK)?);
            if found.as_ref().is_some_and(|found| self.is_foreign(found)) {
                return Ok((Inspected::alone(found, None, true), false));
            }
            meta.insert(MARK, mark.to_be_bytes().as_slice()).map_err(unavailable)?;
            let before = before.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let anew = self.reopened.swap(false, Ordering::SeqCst);
            Ok((Inspected::alone(found, before, anew), true))
        })
    }
}
