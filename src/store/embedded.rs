//! The embedded backend: redb in a file of one process, or in memory for tests.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable as _,
    TableDefinition, WriteTransaction,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, info, warn};

use crate::broker::model::GrantId;
use crate::broker::store::{Claim, Merged, StoreError, TOMBSTONE_LIFE};
use crate::clock::Clock;
use crate::store::backend::{
    Backend, Change, Claiming, Format1, Inspected, Publishing, Records, StoreResult,
};
use crate::store::embedded::file::{Found, StoreFile};
use crate::store::identity::Identity;
use crate::store::keyring::private_file;
use crate::store::record::{Blob, Record, millis};
use crate::store::{OpenError, transition};

const GRANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("grants");
/// (due time in ms, grant): what the index holds beside the records.
const DUE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("due");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Sealed notes, each with its end in ms.
const NOTES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("notes");
const IDENTITY: &str = "identity";
const MARK: &str = "mark";
/// Tombstones let go in one step.
const PURGED_AT_ONCE: usize = 1_000;

mod file;

/// Keeps grants in one file, with the same records and rules as Redis.
pub(crate) struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` while it cannot be reopened, and after it was closed.
    database: RwLock<Option<Database>>,
    /// Held during every write; `None` in memory.
    file: Option<Mutex<StoreFile>>,
    /// A step failed: redb refuses all further ones until the file is opened anew.
    spoiled: AtomicBool,
    closed: AtomicBool,
    /// It was opened anew, and nobody has looked at it since.
    reopened: AtomicBool,
    /// Whose store it is; one of another deployment is not written to.
    deployment: OnceLock<String>,
    clock: Clock,
}

impl Embedded {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        // A file that is there already, or cannot be made, is the business of the next line.
        drop(private_file(path));
        let (database, file) =
            StoreFile::open(path, true).map_err(|error| refusal(path, &error))?;
        Self::with(database, Some(file), clock)
    }

    /// Keeps everything in memory; nothing survives the process.
    pub(crate) fn in_memory(clock: Clock) -> Result<Self, OpenError> {
        let database = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .map_err(|error| refusal(Path::new("memory"), &error))?;
        Self::with(database, None, clock)
    }

    fn with(database: Database, file: Option<StoreFile>, clock: Clock) -> Result<Self, OpenError> {
        let inner = Inner {
            database: RwLock::new(Some(database)),
            file: file.map(Mutex::new),
            spoiled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            reopened: AtomicBool::new(false),
            deployment: OnceLock::new(),
            clock,
        };
        inner.make_tables()?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What [`Backend::identity`] does, for who cannot wait.
    pub(crate) fn claim_identity(&self, proposed: &Identity) -> StoreResult<Identity> {
        self.inner.identity(proposed)
    }

    /// Runs a step of blocking I/O. In memory there is none, so it runs in place.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Inner) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        if self.inner.file.is_none() {
            return step(&self.inner);
        }
        let inner = Arc::clone(&self.inner);
        let run = move || {
            inner.check()?;
            let outcome = step(&inner);
            if matches!(outcome, Err(StoreError::Unavailable(_))) {
                inner.spoiled.store(true, Ordering::SeqCst);
            }
            outcome
        };
        tokio::task::spawn_blocking(run).await.map_err(unavailable)?
    }
}

impl Inner {
    /// Whether the file is the one that was opened. Who writes to it has looked already.
    fn check(&self) -> StoreResult<()> {
        let file = self.file.as_ref().and_then(Mutex::try_lock);
        file.map_or(Ok(()), |mut file| self.mend(&mut file))
    }

    /// Opens the file anew where that is needed and possible; it is never made anew: another file
    /// would hide what this one holds.
    fn mend(&self, file: &mut StoreFile) -> StoreResult<()> {
        let found = file.compare().map_err(unavailable)?;
        match found {
            _ if self.closed.load(Ordering::SeqCst) => return Err(closed()),
            Found::Same if !self.spoiled.load(Ordering::SeqCst) => return Ok(()),
            Found::Gone => return Err(gone(&file.path)),
            Found::Same => {}
            Found::Replaced | Found::Changed => self.look_into(file)?,
        }
        let mut database = self.database.write();
        if found != Found::Same {
            file.cut();
        }
        if found != Found::Replaced {
            // The file is locked until the one that had it open is dropped.
            drop(database.take());
        }
        let (opened, anew) =
            StoreFile::open(&file.path, false).map_err(|error| odd(&file.path, &error))?;
        self.same_deployment(&opened).inspect_err(|_| anew.cut())?;
        *database = Some(opened);
        *file = anew;
        self.spoiled.store(false, Ordering::SeqCst);
        self.reopened.store(true, Ordering::SeqCst);
        info!(file = %file.path.display(), ?found, "opened the store anew");
        Ok(())
    }

    /// Whether what stands in the place of the file is ours; nothing of it is changed.
    fn look_into(&self, file: &mut StoreFile) -> StoreResult<()> {
        let look = file.look().map_err(unavailable)?;
        if let Some((refused, why)) = &file.refused
            && *refused == look
        {
            return Err(StoreError::Unavailable(why.clone().into()));
        }
        let looked = file.look_into(|opened| self.same_deployment(opened));
        // No room for the copy, or no right to read: that passes.
        let passes = matches!(&looked, Err(DatabaseError::Storage(redb::StorageError::Io(_))));
        let judged = looked.map_err(|error| odd(&file.path, &error)).and_then(|same| same);
        if let Err(StoreError::Unavailable(why)) = &judged
            && !passes
        {
            // What is written to it from now on is worth another look.
            file.refused = Some((look, why.to_string()));
        }
        judged
    }

    fn same_deployment(&self, opened: &impl ReadableDatabase) -> StoreResult<()> {
        if self.deployment.get().is_none() {
            return Ok(());
        }
        let transaction = opened.begin_read().map_err(unavailable)?;
        let meta = transaction.open_table(META).map_err(unavailable)?;
        let found =
            identity(meta.get(IDENTITY).map_err(unavailable)?.map(|found| found.value().to_vec()))?;
        // One that says nothing is another one: it was never ours.
        if found.is_some_and(|found| !self.is_foreign(&found)) { Ok(()) } else { Err(foreign()) }
    }

    fn is_foreign(&self, identity: &Identity) -> bool {
        self.deployment.get().is_some_and(|ours| identity.deployment != *ours)
    }

    fn begin_read(&self) -> StoreResult<ReadTransaction> {
        let database = self.database.read();
        database.as_ref().ok_or_else(closed)?.begin_read().map_err(unavailable)
    }

    /// One durable step, in a file that is the one that was opened. `step` says whether there is
    /// anything to keep.
    fn write<T>(
        &self,
        step: impl FnOnce(&WriteTransaction) -> StoreResult<(T, bool)>,
    ) -> StoreResult<T> {
        let mut file = self.file.as_ref().map(Mutex::lock);
        if let Some(file) = file.as_deref_mut() {
            self.mend(file)?;
        }
        self.transact(step)
    }

    fn transact<T>(
        &self,
        step: impl FnOnce(&WriteTransaction) -> StoreResult<(T, bool)>,
    ) -> StoreResult<T> {
        let database = self.database.read();
        let transaction =
            database.as_ref().ok_or_else(closed)?.begin_write().map_err(unavailable)?;
        let (answer, keep) = step(&transaction)?;
        if keep {
            transaction.commit().map_err(unavailable)?;
        }
        Ok(answer)
    }

    fn read_format_1(&self, id: &GrantId) -> StoreResult<Option<Format1>> {
        let old = self.stored(id, |bytes| serde_json::from_slice::<Old>(bytes).ok())?.flatten();
        Ok(old.map(|old| Format1 {
            descriptor: old.about.get().as_bytes().to_vec(),
            verdict: old.verdict.map(|verdict| verdict.get().as_bytes().to_vec()),
        }))
    }

    fn read(&self, id: &GrantId) -> StoreResult<Option<Record>> {
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
    fn change<T>(
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

    fn page(&self, after: Option<&str>, limit: usize) -> StoreResult<Records> {
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

    fn take(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
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
                self.forget_due(due_at, &name)?;
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
                Ok(false) => self.forget_due(due_at, &name)?,
                // One bad record must not keep the others from being refreshed.
                Err(error @ StoreError::Unreadable { .. }) => {
                    debug!(grant.id = %id, %error, "left out of the due index");
                    self.move_due(due_at, again, &name)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    fn move_due(&self, due_at: u64, again: u64, name: &str) -> StoreResult<()> {
        self.write(|transaction| {
            let mut index = transaction.open_table(DUE).map_err(unavailable)?;
            index.remove((due_at, name)).map_err(unavailable)?;
            index.insert((again, name), ()).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    /// Old ones make room.
    fn keep(&self, name: &str, note: &Blob, life: Duration) -> StoreResult<Blob> {
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

    fn pick(&self, name: &str) -> StoreResult<Option<Blob>> {
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

    fn forget_due(&self, due_at: u64, name: &str) -> StoreResult<()> {
        self.write(|transaction| {
            let mut index = transaction.open_table(DUE).map_err(unavailable)?;
            index.remove((due_at, name)).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    /// Lets go of tombstones that are old enough.
    fn purge(&self) -> StoreResult<usize> {
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

    fn make_tables(&self) -> StoreResult<()> {
        self.write(|transaction| {
            transaction.open_table(GRANTS).map_err(unavailable)?;
            transaction.open_table(DUE).map_err(unavailable)?;
            transaction.open_table(META).map_err(unavailable)?;
            transaction.open_table(NOTES).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    fn identify(&self, identity: &Identity) -> StoreResult<()> {
        self.write(|transaction| {
            let bytes = serde_json::to_vec(identity).map_err(unavailable)?;
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            meta.insert(IDENTITY, bytes.as_slice()).map_err(unavailable)?;
            Ok(((), true))
        })
    }

    fn identity(&self, proposed: &Identity) -> StoreResult<Identity> {
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

    fn inspect(&self, mark: u64) -> StoreResult<Inspected> {
        self.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(unavailable)?;
            let value =
                |name| Ok(meta.get(name).map_err(unavailable)?.map(|found| found.value().to_vec()));
            let (found, before) = (identity(value(IDENTITY)?)?, value(MARK)?);
            if found.as_ref().is_some_and(|found| self.is_foreign(found)) {
                return Ok((Inspected { identity: found, mark: None, anew: true }, false));
            }
            meta.insert(MARK, mark.to_be_bytes().as_slice()).map_err(unavailable)?;
            let before = before.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let anew = self.reopened.swap(false, Ordering::SeqCst);
            Ok((Inspected { identity: found, mark: before, anew }, true))
        })
    }

    fn close(&self) -> StoreResult<()> {
        self.closed.store(true, Ordering::SeqCst);
        let database = self.database.write().take();
        database.map_or(Ok(()), |database| database.close().map_err(unavailable))
    }
}

#[async_trait]
impl Backend for Embedded {
    fn kind(&self) -> &'static str {
        if self.inner.file.is_some() { "redb" } else { "memory" }
    }

    fn bind(&self, deployment: &str) {
        let _ = self.inner.deployment.set(deployment.to_owned());
    }

    async fn inspect(&self, mark: u64) -> StoreResult<Inspected> {
        self.run(move |inner| inner.inspect(mark)).await
    }

    async fn close(&self) -> StoreResult<()> {
        self.run(Inner::close).await
    }

    async fn exists(&self) -> StoreResult<bool> {
        self.run(|inner| {
            let transaction = inner.begin_read()?;
            let meta = transaction.open_table(META).map_err(unavailable)?;
            Ok(meta.get(IDENTITY).map_err(unavailable)?.is_some())
        })
        .await
    }

    async fn identity(&self, proposed: &Identity) -> StoreResult<Identity> {
        let proposed = proposed.clone();
        self.run(move |inner| inner.identity(&proposed)).await
    }

    async fn identify(&self, identity: &Identity) -> StoreResult<()> {
        let identity = identity.clone();
        self.run(move |inner| inner.identify(&identity)).await
    }

    /// One process opens the file, and says so itself when another wants to.
    async fn alone(&self) -> StoreResult<()> {
        Ok(())
    }

    async fn read_format_1(&self, id: &GrantId) -> StoreResult<Option<Format1>> {
        let id = id.clone();
        self.run(move |inner| inner.read_format_1(&id)).await
    }

    async fn read(&self, id: &GrantId) -> StoreResult<Option<Record>> {
        let id = id.clone();
        self.run(move |inner| {
            let now = inner.clock.now_ms();
            Ok(inner.read(&id)?.filter(|record| alive(record, now)))
        })
        .await
    }

    async fn page(&self, after: Option<&str>, limit: usize) -> StoreResult<Records> {
        let after = after.map(str::to_owned);
        self.run(move |inner| inner.page(after.as_deref(), limit)).await
    }

    async fn claim(&self, id: &GrantId, claiming: Claiming) -> StoreResult<Claim> {
        let id = id.clone();
        self.run(move |inner| {
            inner.change(&id, false, |slot, now| {
                let claim = transition::claim(slot, claiming, now);
                let granted = matches!(claim, Claim::Granted(_));
                (claim, granted)
            })
        })
        .await
    }

    async fn publish(&self, id: &GrantId, publishing: Publishing) -> StoreResult<Option<Merged>> {
        let id = id.clone();
        self.run(move |inner| {
            inner.change(&id, false, |slot, _| {
                let merged = transition::publish(slot, publishing);
                let keep = !matches!(merged, None | Some(Merged::Old));
                (merged, keep)
            })
        })
        .await
    }

    async fn change(&self, id: &GrantId, change: Change) -> StoreResult<bool> {
        let id = id.clone();
        self.run(move |inner| {
            inner.change(&id, change.of_damaged(), |slot, now| {
                let made = transition::change(slot, change, now);
                (made, made)
            })
        })
        .await
    }

    async fn keep(&self, name: &str, note: Blob, life: Duration) -> StoreResult<Blob> {
        let name = name.to_owned();
        self.run(move |inner| inner.keep(&name, &note, life)).await
    }

    async fn pick(&self, name: &str) -> StoreResult<Option<Blob>> {
        let name = name.to_owned();
        self.run(move |inner| inner.pick(&name)).await
    }

    async fn purge(&self) -> StoreResult<usize> {
        self.run(Inner::purge).await
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        self.run(move |inner| inner.take(limit, visibility)).await
    }
}

/// What lies open in a record of format 1, and nowhere in a later one.
#[derive(Deserialize)]
struct Old {
    about: Box<RawValue>,
    verdict: Option<Box<RawValue>>,
}

/// Tombstones count as missing once they are old enough.
fn alive(record: &Record, now: u64) -> bool {
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

/// Whose store it is, if that is written in it.
fn identity(found: Option<Vec<u8>>) -> StoreResult<Option<Identity>> {
    let unknown = || {
        StoreError::Refused(
            "it was not written by this version of token-broker; name another file in `store.url`"
                .to_owned(),
        )
    };
    found.map(|bytes| serde_json::from_slice(&bytes).map_err(|_| unknown())).transpose()
}

fn foreign() -> StoreError {
    StoreError::Unavailable(
        "another store was put in the place of this one, and is not written to; put the right one \
         back, or start anew if it is meant to be another"
            .into(),
    )
}

fn odd(path: &Path, error: &DatabaseError) -> StoreError {
    StoreError::Unavailable(refusal(path, error).to_string().into())
}

fn gone(path: &Path) -> StoreError {
    let (path, process) = (path.display(), std::process::id());
    StoreError::Unavailable(
        format!(
            "the file {path} is gone; put it back. While this process runs its content is in \
             /proc/{process}/fd: copy the one that points at it to where it was"
        )
        .into(),
    )
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

fn refusal(path: &Path, error: &DatabaseError) -> OpenError {
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
