//! Records and the due index.

use std::time::Duration;

use redb::{ReadableTable as _, WriteTransaction};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::broker::model::GrantId;
use crate::broker::store::{StoreError, TOMBSTONE_LIFE};
use crate::store::backend::{Format1, Records, StoreResult};
use crate::store::embedded::failure::unavailable;
use crate::store::embedded::inner::Inner;
use crate::store::embedded::tables::{DUE, GRANTS};
use crate::store::record::{Record, millis};

/// Tombstones let go in one step.
const PURGED_AT_ONCE: usize = 1_000;

impl Inner {
    pub(super) fn read_format_1(&self, id: &GrantId) -> StoreResult<Option<Format1>> {
        let old = self.stored(id, |bytes| serde_json::from_slice::<Old>(bytes).ok())?.flatten();
        Ok(old.map(|old| Format1 {
            descriptor: old.about.get().as_bytes().to_vec(),
            verdict: old.verdict.map(|verdict| verdict.get().as_bytes().to_vec()),
        }))
    }

    pub(super) fn read(&self, id: &GrantId) -> StoreResult<Option<Record>> {
        self.stored(id, |bytes| decode(id, bytes))?.transpose()
    }

    fn stored<T>(&self, id: &GrantId, decode: impl FnOnce(&[u8]) -> T) -> StoreResult<Option<T>> {
        let transaction = self.begin_read()?;
        let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
        let found = grants.get(id.as_str()).map_err(unavailable)?;
        Ok(found.map(|bytes| decode(bytes.value())))
    }

    /// Changes one record in one durable step; `change` says whether there is anything to keep.
    /// `damaged`: one that cannot be read counts as none.
    pub(super) fn change<T>(
        &self,
        id: &GrantId,
        damaged: bool,
        change: impl FnOnce(&mut Option<Record>, u64) -> (T, bool),
    ) -> StoreResult<T> {
        let now = self.clock.now_ms();
        self.write(|transaction| {
            let stored = {
                let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
                let found = grants.get(id.as_str()).map_err(unavailable)?;
                match found.map(|bytes| decode(id, bytes.value())).transpose() {
                    Err(_) if damaged => None,
                    stored => stored?,
                }
            };
            let due_before = stored.as_ref().and_then(|record| record.due_at);
            let mut record = stored.filter(|record| alive(record, now));
            let (answer, keep) = change(&mut record, now);
            let record = record.filter(|_| keep);
            if let Some(record) = &record {
                write(transaction, id, record, due_before)?;
            }
            Ok((answer, record.is_some()))
        })
    }

    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> StoreResult<Records> {
        let transaction = self.begin_read()?;
        let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
        let mut page = Records { records: Vec::new(), next: None };
        for row in grants.range(after.unwrap_or_default()..).map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if Some(key.value()) == after {
                continue;
            }
            if page.records.len() == limit {
                page.next = page.records.last().map(|(id, _)| id.to_string());
                break;
            }
            let Some(id) = stored_id(key.value(), "a list") else { continue };
            let record = decode(&id, value.value());
            if !matches!(&record, Ok(record) if record.deleted_at.is_some()) {
                page.records.push((id, record));
            }
        }
        Ok(page)
    }

    pub(super) fn take(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        let now = self.clock.now_ms();
        let due: Vec<(u64, String)> = {
            let transaction = self.begin_read()?;
            let index = transaction.open_table(DUE).map_err(unavailable)?;
            let range = index.range(..(now + 1, "")).map_err(unavailable)?;
            range
                .take(limit)
                .map(|row| row.map(|(key, _)| (key.value().0, key.value().1.to_owned())))
                .collect::<Result<_, _>>()
                .map_err(unavailable)?
        };
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let again = now.saturating_add(millis(visibility));
        let mut taken = Vec::new();
        for (due_at, name) in due {
            let Some(id) = stored_id(&name, "the due index") else {
                self.move_due(due_at, None, &name)?;
                continue;
            };
            let hidden = self.change(&id, false, |slot, _| {
                let row = slot.as_mut().filter(|record| record.due_at == Some(due_at));
                let found = row.map(|record| record.due_at = Some(again)).is_some();
                (found, found)
            });
            match hidden {
                Ok(true) => taken.push(id),
                // A row that the record knows nothing of.
                Ok(false) => self.move_due(due_at, None, &name)?,
                // One bad record must not keep the others from being refreshed.
                Err(error @ StoreError::Unreadable { .. }) => {
                    debug!(grant.id = %id, %error, "left out of the due index");
                    self.move_due(due_at, Some(again), &name)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Moves a row of the due index that no record knows of; `None`: takes it away.
    fn move_due(&self, due_at: u64, again: Option<u64>, name: &str) -> StoreResult<()> {
        self.write(|transaction| {
            let mut index = transaction.open_table(DUE).map_err(unavailable)?;
            index.remove((due_at, name)).map_err(unavailable)?;
            if let Some(again) = again {
                index.insert((again, name), ()).map_err(unavailable)?;
            }
            Ok(((), true))
        })
    }

    /// Lets go of tombstones that are old enough.
    pub(super) fn purge(&self) -> StoreResult<usize> {
        let now = self.clock.now_ms();
        let dead: Vec<String> = {
            let transaction = self.begin_read()?;
            let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
            let rows = grants.iter().map_err(unavailable)?.filter_map(Result::ok);
            let dead = rows.filter(|(_, value)| dead_at(value.value(), now));
            dead.take(PURGED_AT_ONCE).map(|(key, _)| key.value().to_owned()).collect()
        };
        if !dead.is_empty() {
            self.write(|transaction| {
                let mut grants = transaction.open_table(GRANTS).map_err(unavailable)?;
                for name in &dead {
                    // A grant may have been made in its place.
                    let found = grants.get(name.as_str()).map_err(unavailable)?;
                    if found.is_some_and(|value| dead_at(value.value(), now)) {
                        grants.remove(name.as_str()).map_err(unavailable)?;
                    }
                }
                Ok(((), true))
            })?;
        }
        Ok(dead.len())
    }
}

/// What lies open in a record of format 1, and nowhere in a later one.
#[derive(Deserialize)]
struct Old {
    about: Box<RawValue>,
    verdict: Option<Box<RawValue>>,
}

/// Tombstones count as missing once they are old enough.
pub(super) fn alive(record: &Record, now: u64) -> bool {
    record.deleted_at.is_none_or(|at| now < at.saturating_add(millis(TOMBSTONE_LIFE)))
}

fn dead_at(bytes: &[u8], now: u64) -> bool {
    serde_json::from_slice(bytes).is_ok_and(|record: Record| !alive(&record, now))
}

fn write(
    transaction: &WriteTransaction,
    id: &GrantId,
    record: &Record,
    due_before: Option<u64>,
) -> StoreResult<()> {
    let bytes = serde_json::to_vec(record).map_err(unavailable)?;
    let mut grants = transaction.open_table(GRANTS).map_err(unavailable)?;
    grants.insert(id.as_str(), bytes.as_slice()).map_err(unavailable)?;
    if due_before != record.due_at {
        let mut index = transaction.open_table(DUE).map_err(unavailable)?;
        if let Some(due) = due_before {
            index.remove((due, id.as_str())).map_err(unavailable)?;
        }
        if let Some(due) = record.due_at {
            index.insert((due, id.as_str()), ()).map_err(unavailable)?;
        }
    }
    Ok(())
}

fn decode(id: &GrantId, bytes: &[u8]) -> StoreResult<Record> {
    serde_json::from_slice(bytes).map_err(|_| StoreError::Unreadable {
        grant: id.clone(),
        why: "its stored form is damaged or of another version; import the grant again with \
              `--replace`, or delete it",
        position: None,
    })
}

/// A name that is one of a grant; others are told of, and left out.
fn stored_id(name: &str, of: &str) -> Option<GrantId> {
    GrantId::parse(name)
        .inspect_err(|_| {
            warn!(key = name.escape_debug().to_string(), "left out of {of}: it names no grant");
        })
        .ok()
}
