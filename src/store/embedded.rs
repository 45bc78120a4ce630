//! The embedded backend: redb in a file of one process, or in memory for tests.
//!
//! `inner` is the database while it is open, `file` the file under it, `rows` the records and the due
//! index, `meta` what stands beside them.

use std::collections::HashMap;
use std::future::pending;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use redb::Database;
use redb::backends::InMemoryBackend;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use crate::broker::model::{GrantId, ProviderId};
use crate::broker::store::{Claim, Finding, Grade, Heard, Limit, Merged, Slowing, StoreError};
use crate::clock::{Clock, between};
use crate::store::backend::{
    Backend, Change, Claiming, Format1, Inspected, Publishing, Records, StoreResult,
};
use crate::store::bucket::{Booked, Bucket, micros};
use crate::store::embedded::failure::{refusal, unavailable};
use crate::store::embedded::file::StoreFile;
use crate::store::embedded::inner::Inner;
use crate::store::embedded::lists::Lists;
use crate::store::embedded::rows::alive;
use crate::store::embedded::tables::{IDENTITY, META};
use crate::store::identity::Identity;
use crate::store::keyring::private_file;
use crate::store::record::{Blob, Record, millis};
use crate::store::{OpenError, transition};

mod failure;
mod file;
mod inner;
mod lists;
mod meta;
mod rows;
mod tables;

/// Keeps grants in one file, with the same records and rules as Redis.
pub(crate) struct Embedded {
    inner: Arc<Inner>,
    /// Of the only process that there is; they need not last.
    buckets: Mutex<HashMap<ProviderId, Bucket>>,
    shared: Mutex<HashMap<String, Shared>>,
    lists: Mutex<Lists>,
}

/// A disk with less than this is full soon: the file doubles what it holds when it grows.
const ROOM_LEAST: u64 = 100_000_000;

/// With less than this nothing new is begun: what is left is for pairs that arrive.
const ROOM_SPARE: u64 = 16_000_000;

/// A value, which change it is, and when it was made.
struct Shared {
    value: Blob,
    change: u64,
    at: Instant,
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
            cramped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            reopened: AtomicBool::new(false),
            deployment: OnceLock::new(),
            clock,
        };
        inner.make_tables()?;
        Ok(Self {
            inner: Arc::new(inner),
            buckets: Mutex::default(),
            shared: Mutex::default(),
            lists: Mutex::default(),
        })
    }

    /// What [`Backend::identity`] does, for who cannot wait.
    pub(crate) fn claim_identity(&self, proposed: &Identity) -> StoreResult<Identity> {
        self.inner.identity(proposed)
    }

    fn bucket<T>(&self, of: &ProviderId, step: impl FnOnce(&mut Bucket, f64) -> T) -> T {
        let now = micros(between(UNIX_EPOCH, self.inner.clock.now()));
        step(self.buckets.lock().entry(of.clone()).or_default(), now)
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
                inner.cramped.store(true, Ordering::SeqCst);
            }
            outcome
        };
        tokio::task::spawn_blocking(run).await.map_err(unavailable)?
    }
}

/// Bytes that the disk takes still.
fn left(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let disk = rustix::fs::statvfs(folder.unwrap_or_else(|| Path::new("."))).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// How much the disk takes that the file is on; `None`: the system does not say.
pub(crate) fn room(path: &Path) -> Option<Finding> {
    let left = left(path)?;
    let found = format!("{} MB are left on the disk of {}", left / 1_000_000, path.display());
    if left >= ROOM_LEAST {
        return Some(Finding::fine("room", found));
    }
    let remedy = "make room: what cannot be written is not refreshed";
    Some(Finding::new("room", Grade::Risk, found, remedy))
}

#[async_trait]
impl Backend for Embedded {
    fn kind(&self) -> &'static str {
        if self.inner.file.is_some() { "redb" } else { "memory" }
    }

    fn bind(&self, deployment: &str) {
        let _ = self.inner.deployment.set(deployment.to_owned());
    }

    /// There are no others.
    fn call_it(&self, _: &str) {}

    async fn compared(&self) -> StoreResult<()> {
        Ok(())
    }

    /// There are no others.
    async fn dismiss(&self, _: &[String]) -> StoreResult<()> {
        Ok(())
    }

    async fn inspect(&self, mark: u64) -> StoreResult<Inspected> {
        self.run(move |inner| inner.inspect(mark)).await
    }

    async fn examine(&self) -> StoreResult<Vec<Finding>> {
        let persistence = match self.inner.file {
            Some(_) => {
                Finding::fine("persistence", "one file; a change counts once the disk has it")
            }
            None => Finding::new(
                "persistence",
                Grade::Risk,
                "everything is in memory only: a restart loses every grant",
                "name another `store.url`",
            ),
        };
        let room = match &self.inner.file {
            None => None,
            Some(file) => {
                let path = file.lock().path.clone();
                tokio::task::spawn_blocking(move || room(&path)).await.map_err(unavailable)?
            }
        };
        Ok([Some(persistence), room].into_iter().flatten().collect())
    }

    async fn close(&self, _: bool) -> StoreResult<()> {
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

    /// Other processes, before and after, know of this one's clock only what the wall clock showed.
    fn by_its_clock(&self, ours: SystemTime) -> SystemTime {
        self.inner.clock.to_wall(ours)
    }

    fn by_our_clock(&self, its: SystemTime) -> SystemTime {
        self.inner.clock.of_wall(its)
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
            inner.change(&id, false, |slot, now| {
                let merged = transition::publish(slot, publishing, now);
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

    async fn enlist(
        &self,
        lists: &[(String, usize)],
        member: &str,
        life: Duration,
    ) -> StoreResult<Option<(usize, Duration)>> {
        Ok(self.lists.lock().enlist(lists, member, life))
    }

    async fn spare(&self) -> StoreResult<()> {
        let Some(file) = &self.inner.file else { return Ok(()) };
        let path = file.lock().path.clone();
        let left = tokio::task::spawn_blocking(move || left(&path)).await.map_err(unavailable)?;
        match left {
            Some(left) if left < ROOM_SPARE => {
                Err(StoreError::Full(format!("{} MB are left on its disk", left / 1_000_000)))
            }
            _ => Ok(()),
        }
    }

    async fn look(&self, name: &str) -> StoreResult<Option<Blob>> {
        let name = name.to_owned();
        self.run(move |inner| inner.look(&name)).await
    }

    async fn pick(&self, name: &str) -> StoreResult<Option<Blob>> {
        let name = name.to_owned();
        self.run(move |inner| inner.pick(&name)).await
    }

    async fn shared(&self, name: &str) -> StoreResult<Option<(Blob, u64, u64)>> {
        let shared = self.shared.lock();
        let told =
            |shared: &Shared| (shared.value.clone(), shared.change, millis(shared.at.elapsed()));
        Ok(shared.get(name).map(told))
    }

    async fn share(&self, name: &str, read: u64, value: Blob, _: Duration) -> StoreResult<bool> {
        let mut shared = self.shared.lock();
        let newest = shared.get(name).map_or(0, |shared| shared.change);
        if newest == read {
            let newer = Shared { value, change: newest + 1, at: Instant::now() };
            shared.insert(name.to_owned(), newer);
        }
        Ok(newest == read)
    }

    async fn fact(&self, name: &str) -> StoreResult<Option<Blob>> {
        let name = name.to_owned();
        self.run(move |inner| inner.fact(&name)).await
    }

    async fn put_fact(&self, name: &str, value: Blob) -> StoreResult<()> {
        let name = name.to_owned();
        self.run(move |inner| inner.put_fact(&name, &value)).await
    }

    async fn listen(&self, _: Sender<Heard>, _: Duration) -> StoreResult<()> {
        pending().await
    }

    async fn purge(&self) -> StoreResult<usize> {
        self.run(Inner::purge).await
    }

    async fn book(
        &self,
        provider: &ProviderId,
        limit: Limit,
        count: usize,
        ahead: f64,
    ) -> StoreResult<Booked> {
        Ok(self.bucket(provider, |bucket, now| bucket.book(now, limit, count, ahead)))
    }

    async fn slow_down(&self, provider: &ProviderId, slowing: Slowing) -> StoreResult<()> {
        self.bucket(provider, |bucket, now| bucket.slow_down(now, slowing));
        Ok(())
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        self.run(move |inner| inner.take(limit, visibility)).await
    }
}
