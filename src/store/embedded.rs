//! The embedded store: redb in a file of one process, or in memory for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    TableDefinition, WriteTransaction,
};

use parking_lot::RwLock;
use tracing::{info, warn};

use crate::broker::model::{
    Doubt, Fence, Generation, Grant, GrantId, Intent, Owner, Position, Standing, Verdict,
};
use crate::broker::store::{
    Amendment, Claim, Health, Merged, Page, Publication, Seed, Store, StoreError, TOMBSTONE_LIFE,
};
use crate::clock::{Clock, unix_ms};
use crate::store::keyring::private_file;
use crate::store::record::{Codec, Record};
use crate::store::{Identity, OpenError, transition};

const GRANTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("grants");
/// (due time in ms, grant): what the index holds beside the records.
const DUE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("due");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const IDENTITY: &str = "identity";

/// Keeps grants in one file, with the same records and rules as Redis.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` only while it is being reopened.
    database: RwLock<Option<Database>>,
    /// The file; `None` in memory.
    path: Option<PathBuf>,
    /// A step failed: redb refuses all further ones until the file is opened anew.
    spoiled: AtomicBool,
    codec: Codec,
    clock: Clock,
}

type StoreResult<T> = Result<T, StoreError>;

impl Embedded {
    /// Opens the file, or makes it.
    pub fn open(
        path: &Path,
        ring: Arc<crate::store::Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        // A file that is there already, or cannot be made, is the business of the next line.
        drop(private_file(path));
        let database = Database::create(path).map_err(|error| refusal(path, &error))?;
        Self::with(database, Some(path.to_owned()), ring, clock)
    }

    /// Keeps everything in memory; nothing survives the process.
    pub fn in_memory(ring: Arc<crate::store::Keyring>, clock: Clock) -> Result<Self, OpenError> {
        let database = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .map_err(|error| refusal(Path::new("memory"), &error))?;
        Self::with(database, None, ring, clock)
    }

    fn with(
        database: Database,
        path: Option<PathBuf>,
        ring: Arc<crate::store::Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let identity = identity(&database, &ring).map_err(|error| {
            OpenError::Refused(format!("the embedded store cannot be read: {error}"))
        })?;
        identity.check(&ring)?;
        let codec = Codec { ring, deployment: identity.deployment };
        let database = RwLock::new(Some(database));
        let spoiled = AtomicBool::new(false);
        Ok(Self { inner: Arc::new(Inner { database, path, spoiled, codec, clock }) })
    }

    /// Runs a step of blocking I/O. In memory there is none, so it runs in place.
    async fn run<T: Send + 'static>(
        &self,
        step: impl FnOnce(&Inner) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        if self.inner.path.is_none() {
            return step(&self.inner);
        }
        let inner = Arc::clone(&self.inner);
        let run = move || {
            inner.mend()?;
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
    /// Opens the file anew after a failure, once that is possible again.
    fn mend(&self) -> StoreResult<()> {
        let Some(path) = self.path.as_ref().filter(|_| self.spoiled.load(Ordering::SeqCst)) else {
            return Ok(());
        };
        let mut database = self.database.write();
        if !self.spoiled.load(Ordering::SeqCst) {
            return Ok(());
        }
        // The file is locked by the one that failed until that is dropped.
        drop(database.take());
        // Opened and never made anew: another file would hide what this one holds.
        *database = Some(Database::open(path).map_err(unavailable)?);
        self.spoiled.store(false, Ordering::SeqCst);
        info!(file = %path.display(), "opened the store anew after a failure");
        Ok(())
    }

    fn begin_read(&self) -> StoreResult<ReadTransaction> {
        let database = self.database.read();
        database.as_ref().ok_or_else(closed)?.begin_read().map_err(unavailable)
    }

    fn begin_write(&self) -> StoreResult<WriteTransaction> {
        let database = self.database.read();
        database.as_ref().ok_or_else(closed)?.begin_write().map_err(unavailable)
    }

    fn read(&self, id: &GrantId) -> StoreResult<Option<Record>> {
        let transaction = self.begin_read()?;
        let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
        let found = grants.get(id.as_str()).map_err(unavailable)?;
        found.map(|bytes| decode(id, bytes.value())).transpose()
    }

    /// Changes one record in one durable step; `change` says whether there is anything to keep.
    fn change<T>(
        &self,
        id: &GrantId,
        change: impl FnOnce(&mut Option<Record>) -> (T, bool),
    ) -> StoreResult<T> {
        let transaction = self.begin_write()?;
        let mut record = {
            let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
            let found = grants.get(id.as_str()).map_err(unavailable)?;
            found.map(|bytes| decode(id, bytes.value())).transpose()?
        };
        let due_before = record.as_ref().and_then(|record| record.due_at);
        let (answer, keep) = change(&mut record);
        if let Some(record) = record.filter(|_| keep) {
            write(&transaction, id, &record, due_before)?;
            transaction.commit().map_err(unavailable)?;
        }
        Ok(answer)
    }

    fn page(&self, after: Option<&str>, limit: usize) -> StoreResult<Page> {
        let transaction = self.begin_read()?;
        let grants = transaction.open_table(GRANTS).map_err(unavailable)?;
        let mut page = Page { grants: Vec::new(), next: None };
        for row in grants.range(after.unwrap_or_default()..).map_err(unavailable)? {
            let (key, value) = row.map_err(unavailable)?;
            if Some(key.value()) == after {
                continue;
            }
            if page.grants.len() == limit {
                page.next = page.grants.last().map(|grant: &Grant| grant.id.to_string());
                break;
            }
            let id = stored_id(key.value())?;
            let record = decode(&id, value.value())?;
            if record.deleted_at.is_none() {
                match self.codec.open(&id, &record) {
                    Ok(grant) => page.grants.push(grant),
                    Err(error) => warn!(grant.id = %id, %error, "left out of a list"),
                }
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
        let again = now.saturating_add(u64::try_from(visibility.as_millis()).unwrap_or(u64::MAX));
        let mut taken = Vec::new();
        for (_, name) in due {
            let id = stored_id(&name)?;
            let hidden = self.change(&id, |slot| {
                let found = slot.as_mut().map(|record| record.due_at = Some(again)).is_some();
                (found, found)
            });
            match hidden {
                Ok(true) => taken.push(id),
                Ok(false) => {}
                // One bad record must not keep the others from being refreshed.
                Err(error @ StoreError::Unreadable { .. }) => {
                    warn!(grant.id = %id, %error, "left out of the due index");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn load(&self, id: &GrantId) -> StoreResult<Option<Grant>> {
        let id = id.clone();
        self.run(move |inner| {
            let now = inner.clock.now_ms();
            let record = inner.read(&id)?.filter(|record| alive(record, now));
            record.map(|record| inner.codec.open(&id, &record)).transpose()
        })
        .await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> StoreResult<Page> {
        let after = after.map(str::to_owned);
        self.run(move |inner| inner.page(after.as_deref(), limit)).await
    }

    async fn start_chain(
        &self,
        id: &GrantId,
        expected: Option<Position>,
        seed: Seed,
    ) -> StoreResult<Option<Grant>> {
        let id = id.clone();
        self.run(move |inner| {
            let now = inner.clock.now();
            inner.change(&id, |slot| {
                let known = slot.as_ref().filter(|record| alive(record, unix_ms(now)));
                if known.map(Record::position) != expected {
                    return (None, false);
                }
                let position = next_chain(slot.as_ref(), now);
                let blob = inner.codec.seal(&id, position, &seed.descriptor, &seed.pair);
                let mut record = Record::start(position, &seed.descriptor, blob);
                record.due_at = seed.due_at.map(unix_ms);
                *slot = Some(record);
                let standing = Standing::Usable;
                let Seed { descriptor, pair, .. } = seed;
                let id = id.clone();
                (Some(Grant { id, position, descriptor, pair, standing, intent: None }), true)
            })
        })
        .await
    }

    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let id = id.clone();
        self.run(move |inner| {
            let now = inner.clock.now_ms();
            inner.change(&id, |slot| match slot {
                Some(record) => {
                    let claim = transition::claim(record, generation, owner, takeover, watch, now);
                    let granted = matches!(claim, Claim::Granted(_));
                    (claim, granted)
                }
                None => (Claim::Moved, false),
            })
        })
        .await
    }

    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let (id, held) = (id.clone(), held.clone());
        self.run(move |inner| {
            let now = inner.clock.now_ms();
            inner.change(&id, |slot| {
                let Some(record) = slot else { return (Claim::Moved, false) };
                let claim = transition::take_over(record, &held, owner, watch, now);
                let granted = matches!(claim, Claim::Granted(_));
                (claim, granted)
            })
        })
        .await
    }

    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> StoreResult<bool> {
        let (id, intent, doubt) = (id.clone(), intent.clone(), doubt.clone());
        self.run(move |inner| {
            let due_at = due_at.map(unix_ms);
            inner.change(&id, |slot| {
                let held = slot
                    .as_mut()
                    .is_some_and(|record| transition::doubt(record, &intent, &doubt, due_at));
                (held, held)
            })
        })
        .await
    }

    async fn release(&self, id: &GrantId, intent: &Intent) -> StoreResult<bool> {
        let (id, intent) = (id.clone(), intent.clone());
        self.run(move |inner| {
            inner.change(&id, |slot| {
                let held = slot.as_mut().is_some_and(|record| transition::release(record, &intent));
                (held, held)
            })
        })
        .await
    }

    async fn merge(&self, id: &GrantId, publication: Publication) -> StoreResult<Merged> {
        let id = id.clone();
        self.run(move |inner| {
            let Publication { generation, fence, descriptor, pair, due_at } = publication;
            let position = Position { generation, fence };
            let blob = inner.codec.seal(&id, position, &descriptor, &pair);
            let due_at = due_at.map(unix_ms);
            inner.change(&id, |slot| {
                if let Some(record) = slot {
                    let merged = transition::merge(record, position, blob, due_at);
                    return (merged, matches!(merged, Merged::Published | Merged::Sibling));
                }
                *slot = Some(transition::remake(position, &descriptor, blob, due_at));
                (Merged::Remade, true)
            })
        })
        .await
    }

    async fn refuse(&self, id: &GrantId, intent: &Intent, verdict: &Verdict) -> StoreResult<bool> {
        let (id, intent, verdict) = (id.clone(), intent.clone(), verdict.clone());
        self.run(move |inner| {
            inner.change(&id, |slot| {
                let ours = slot
                    .as_mut()
                    .is_some_and(|record| transition::refuse(record, &intent, &verdict));
                (ours, ours)
            })
        })
        .await
    }

    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> StoreResult<Option<Grant>> {
        let id = id.clone();
        self.run(move |inner| {
            let now = inner.clock.now_ms();
            let amended = inner.change(&id, |slot| match slot {
                Some(record) if record.position() == expected && record.deleted_at.is_none() => {
                    transition::amend(record, &amendment, now);
                    (Some(record.clone()), true)
                }
                _ => (None, false),
            })?;
            amended.map(|record| inner.codec.open(&id, &record)).transpose()
        })
        .await
    }

    async fn delete(&self, id: &GrantId, expected: Position) -> StoreResult<bool> {
        let id = id.clone();
        self.run(move |inner| {
            let now = inner.clock.now();
            inner.change(&id, |slot| match slot {
                Some(record) if record.position() == expected && record.deleted_at.is_none() => {
                    let position = next_chain(Some(record), now);
                    transition::delete(record, position, unix_ms(now));
                    (true, true)
                }
                _ => (false, false),
            })
        })
        .await
    }

    async fn schedule(
        &self,
        id: &GrantId,
        generation: Generation,
        due_at: SystemTime,
    ) -> StoreResult<()> {
        let id = id.clone();
        self.run(move |inner| {
            inner.change(&id, |slot| match slot {
                Some(record)
                    if record.generation == generation.0
                        && record.deleted_at.is_none()
                        && record.verdict.is_none() =>
                {
                    record.due_at = Some(unix_ms(due_at));
                    ((), true)
                }
                _ => ((), false),
            })
        })
        .await
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        self.run(move |inner| inner.take(limit, visibility)).await
    }

    async fn health(&self) -> Health {
        let available = self.run(|inner| inner.begin_write().map(drop)).await.is_ok();
        let deployment = self.inner.codec.deployment.clone();
        let kind = if self.inner.path.is_some() { "redb" } else { "memory" };
        Health { kind, available, deployment }
    }
}

/// Position of a new chain or tombstone: above everything before it.
fn next_chain(previous: Option<&Record>, now: SystemTime) -> Position {
    Position {
        generation: Generation::of_new_chain(
            previous.map(|record| Generation(record.generation)),
            now,
        ),
        fence: Fence::after(Fence(previous.map_or(0, |record| record.last_fence)), unix_ms(now)),
    }
}

/// Tombstones count as missing once they are old enough.
fn alive(record: &Record, now_ms: u64) -> bool {
    let life = u64::try_from(TOMBSTONE_LIFE.as_millis()).unwrap_or(u64::MAX);
    record.deleted_at.is_none_or(|at| now_ms < at.saturating_add(life))
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

/// Reads who the store belongs to; a new store gets an identity, and its tables.
fn identity(
    database: &Database,
    ring: &crate::store::Keyring,
) -> Result<Identity, Box<dyn std::error::Error + Send + Sync>> {
    let transaction = database.begin_write()?;
    let identity = {
        transaction.open_table(GRANTS)?;
        transaction.open_table(DUE)?;
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(IDENTITY)?.map(|bytes| serde_json::from_slice(bytes.value()));
        if let Some(found) = found {
            found?
        } else {
            let identity = Identity::new(ring);
            meta.insert(IDENTITY, serde_json::to_vec(&identity)?.as_slice())?;
            identity
        }
    };
    transaction.commit()?;
    Ok(identity)
}

fn decode(id: &GrantId, bytes: &[u8]) -> StoreResult<Record> {
    serde_json::from_slice(bytes).map_err(|_| StoreError::Unreadable {
        grant: id.clone(),
        why: "its stored form is of another version",
        position: None,
    })
}

fn stored_id(name: &str) -> StoreResult<GrantId> {
    GrantId::parse(name)
        .map_err(|_| StoreError::Refused("a stored grant has a malformed name".to_owned()))
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store could not be opened anew yet".into())
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
