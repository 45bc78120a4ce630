//! The vault: the one implementation of the domain's seam. Seals once, opens, and leaves keeping and
//! comparing to a backend.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::broker::model::{
    Descriptor, Doubt, Fence, Generation, Grant, GrantId, Intent, Owner, Pair, Position, Standing,
    Verdict,
};
use crate::broker::store::{
    Amendment, Claim, Claims, Continuity, DueIndex, Finding, Grants, Health, Merged, Page, Peers,
    Seed, Store, StoreError, Stored,
};
use crate::clock::{Clock, unix_ms};
use crate::store::backend::{
    Amend, Backend, Change, Claiming, Hold, Inspected, Over, Publishing, StoreResult,
};
use crate::store::embedded::Embedded;
use crate::store::format_1;
use crate::store::identity::Identity;
use crate::store::journal::{Entry, Journal};
use crate::store::record::{Record, Sealed, StoredDoubt, millis};
use crate::store::redis::{Address, Admission, Redis};
use crate::store::seal::Seal;
use crate::store::{Keyring, OpenError, keyring};

mod enrolments;
mod events;
mod rates;
mod replay;

/// Records read at once while a store is converted.
const CONVERTED_AT_ONCE: usize = 500;
/// How long a pair waits for the disk of the journal before the store is asked without it.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// Tries of a change that others keep overtaking.
const CONFLICTS_MAX: u32 = 5;

/// Keeps grants sealed, in a file, in Redis or in memory.
pub struct Vault {
    backend: Box<dyn Backend>,
    identity: Identity,
    seal: Seal,
    clock: Clock,
    /// Where several processes have the store: what this one has not given to it yet.
    journal: Option<Arc<Journal>>,
    marks: Marks,
    /// The worst that was found since what is known was compared with it.
    worst: Mutex<Continuity>,
    /// Grants whose record was found damaged.
    damaged: Mutex<BTreeSet<GrantId>>,
}

impl Vault {
    /// Keeps everything in memory; nothing survives the process.
    pub fn in_memory(ring: Arc<Keyring>, clock: Clock) -> Result<Self, OpenError> {
        let backend = Embedded::in_memory(clock)?;
        let identity = backend.claim_identity(&Identity::new(&ring))?;
        Self::over(Box::new(backend), identity, ring, clock)
    }

    /// Opens the file of this process, or makes it, unless it is one that should be there.
    pub async fn in_file(
        path: &Path,
        existing: bool,
        ring: Arc<Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let there = path.metadata().is_ok_and(|metadata| metadata.len() > 0);
        if existing && !there {
            return Err(lost(&path.display().to_string()));
        }
        Self::open(Box::new(Embedded::open(path, clock)?), existing, ring, clock).await
    }

    /// Connects to Redis, where several replicas can reach the grants, and checks the server.
    /// `existing`: an empty one is not made ours.
    pub async fn in_redis(
        address: &Address,
        prefix: &str,
        admission: Admission,
        existing: bool,
        ring: Arc<Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let backend = Redis::connect(address, prefix, admission, clock).await?;
        Self::open(Box::new(backend), existing, ring, clock).await
    }

    /// From now on pairs go into the journal first.
    #[must_use]
    pub fn with_journal(self, journal: Arc<Journal>) -> Self {
        self.backend.call_it(journal.name());
        Self { journal: Some(journal), ..self }
    }

    /// Reads whom the store belongs to; the first broker at a new store names it.
    async fn open(
        backend: Box<dyn Backend>,
        existing: bool,
        ring: Arc<Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        if existing && !backend.exists().await? {
            return Err(lost(backend.kind()));
        }
        let identity = backend.identity(&Identity::new(&ring)).await?;
        let vault = Self::over(backend, identity, ring, clock)?;
        if vault.identity.is_old() { vault.convert().await } else { Ok(vault) }
    }

    fn over(
        backend: Box<dyn Backend>,
        identity: Identity,
        ring: Arc<Keyring>,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        identity.check(&ring)?;
        let seal = Seal { ring, deployment: identity.deployment.clone() };
        backend.bind(&identity.deployment);
        Ok(Self {
            backend,
            identity,
            seal,
            clock,
            journal: None,
            marks: Marks::default(),
            worst: Mutex::new(Continuity::Unbroken),
            damaged: Mutex::default(),
        })
    }

    /// Seals what lies open in a store of format 1. Begun again where it is interrupted.
    async fn convert(self) -> Result<Self, OpenError> {
        self.backend.alone().await?;
        // From now on older programs do not open it any more. One that had it open is seen below.
        self.backend.identify(&self.identity.converting()).await?;
        let (mut cursor, mut converted) = (None, 0_u64);
        loop {
            let page = self.backend.page(cursor.as_deref(), CONVERTED_AT_ONCE).await?;
            for (id, _) in &page.records {
                converted += u64::from(self.convert_record(id).await?);
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        self.backend.alone().await?;
        let identity = self.identity.converted();
        self.backend.identify(&identity).await?;
        info!(grants = converted, "the store was converted to the format of this version");
        Ok(Self { identity, ..self })
    }

    /// `false`: there was nothing to convert.
    async fn convert_record(&self, id: &GrantId) -> Result<bool, OpenError> {
        for _ in 0..CONFLICTS_MAX {
            let Some(old) = self.backend.read_format_1(id).await? else { return Ok(false) };
            let Some(record) = self.backend.read(id).await? else { return Ok(false) };
            let change = format_1::convert(&self.seal, id, &record, &old)?;
            if self.backend.change(id, change).await? {
                return Ok(true);
            }
        }
        Err(OpenError::Unavailable(format!(
            "the record of grant {id} changes while it is converted"
        )))
    }

    /// A pair at its place, sealed.
    fn publishing(&self, grant: &Grant, due_at: Option<SystemTime>) -> Publishing {
        let Grant { id, position: at, descriptor, described, pair, .. } = grant;
        Publishing {
            at: *at,
            descriptor: self.seal.descriptor(id, *described, descriptor),
            pair: self.seal.pair(id, *at, descriptor, pair),
            remake: false,
            held_by: grant.intent.as_ref().map(|held| held.owner.clone().into()),
            due_at: due_at.map(unix_ms),
        }
    }

    fn open_record(&self, id: &GrantId, record: &Record) -> StoreResult<Stored> {
        if record.deleted_at.is_some() {
            return Ok(Stored::Deleted(record.position()));
        }
        self.seal.grant(id, record).map(Stored::Grant)
    }

    /// What operators say, with the grant switched off or on by the change that has this fence.
    fn switched(
        &self,
        id: &GrantId,
        known: &Record,
        fence: Fence,
        disabled: bool,
    ) -> StoreResult<Sealed> {
        let descriptor = self.seal.described(id, known)?;
        Ok(self.seal.descriptor(id, fence, &Descriptor { disabled, ..descriptor }))
    }

    /// The record, if its newest change stands at `expected` and it is no tombstone.
    async fn standing(&self, id: &GrantId, expected: Position) -> StoreResult<Option<Record>> {
        let record = self.backend.read(id).await?;
        Ok(record.filter(|at| at.deleted_at.is_none() && at.position() == expected))
    }

    /// Looks whether it is still the store that it was, and whether it can be written to.
    /// And which other processes there are.
    async fn inspect(&self) -> StoreResult<(Continuity, Peers)> {
        let mark = self.marks.next();
        let found = self.backend.inspect(mark).await?;
        let Inspected { identity, mark: before, anew, peers, trouble } = found;
        let continuity = match &identity {
            None => Continuity::Emptied,
            Some(identity) if identity.deployment != self.identity.deployment => {
                return Err(foreign());
            }
            Some(_) if self.marks.missing(before) => Continuity::Older,
            Some(_) if anew => Continuity::Anew,
            Some(_) => Continuity::Unbroken,
        };
        // What was seen once is not seen again.
        let worst = {
            let mut worst = self.worst.lock();
            *worst = continuity.max(*worst);
            *worst
        };
        if identity.is_none() {
            self.still_ours().await?;
        }
        self.marks.left(mark);
        trouble.map_or(Ok((worst, peers)), Err)
    }

    /// Names the store again where that was lost with the rest: what is sealed to a deployment
    /// cannot be opened under another name.
    async fn still_ours(&self) -> StoreResult<()> {
        let found = self.backend.identity(&self.identity).await?;
        if found.deployment == self.identity.deployment { Ok(()) } else { Err(foreign()) }
    }

    /// Once for each grant: lists are read often.
    fn tell_damaged(&self, id: &GrantId, error: &StoreError) {
        if self.damaged.lock().insert(id.clone()) {
            warn!(grant.id = %id, %error, "left out of lists");
        }
    }

    /// Nothing in the record can be read, not even where it stands.
    async fn damaged(&self, id: &GrantId) -> StoreResult<bool> {
        match self.backend.read(id).await {
            Ok(_) => Ok(false),
            Err(StoreError::Unreadable { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Position of a new chain or tombstone: above everything before it.
    fn above(&self, known: Option<&Record>) -> Position {
        let now = self.clock.now();
        let generation = known.map(|known| Generation(known.generation));
        let last_fence = Fence(known.map_or(0, |known| known.last_fence));
        Position {
            generation: Generation::of_new_chain(generation, now),
            fence: Fence::after(last_fence, unix_ms(now)),
        }
    }
}

#[async_trait]
impl Grants for Vault {
    async fn load(&self, id: &GrantId) -> StoreResult<Option<Stored>> {
        let record = self.backend.read(id).await?;
        record.map(|record| self.open_record(id, &record)).transpose()
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> StoreResult<Page> {
        let page = self.backend.page(after, limit).await?;
        let opened = page.records.into_iter().filter_map(|(id, record)| {
            let grant = record.and_then(|record| self.seal.grant(&id, &record));
            grant.inspect_err(|error| self.tell_damaged(&id, error)).ok()
        });
        Ok(Page { grants: opened.collect(), next: page.next })
    }

    async fn start_chain(
        &self,
        id: &GrantId,
        expected: Option<Position>,
        seed: Seed,
    ) -> StoreResult<Option<Grant>> {
        // In a store that was emptied, a chain would be sealed to a name that nobody finds.
        self.still_ours().await?;
        for _ in 0..CONFLICTS_MAX {
            let known = self.backend.read(id).await?;
            if known.as_ref().map(Record::position) != expected {
                return Ok(None);
            }
            let at = self.above(known.as_ref());
            let Seed { descriptor, pair, due_at } = &seed;
            let start = Change::Start {
                expected: known.as_ref().map(Record::stamp),
                at,
                descriptor: self.seal.descriptor(id, at.fence, descriptor),
                pair: self.seal.pair(id, at, descriptor, pair),
                due_at: due_at.map(unix_ms),
            };
            if self.backend.change(id, start).await? {
                return Ok(Some(begun(id, at, seed)));
            }
        }
        Ok(None)
    }

    async fn bury(&self, id: &GrantId, at: Position) -> StoreResult<bool> {
        self.still_ours().await?;
        self.backend.change(id, Change::Bury { at }).await
    }

    async fn start_over(&self, id: &GrantId, seed: Seed) -> StoreResult<Option<Grant>> {
        self.still_ours().await?;
        if !self.damaged(id).await? {
            return Ok(None);
        }
        let at = self.above(None);
        let Seed { descriptor, pair, due_at } = &seed;
        let start = Change::StartOver {
            at,
            descriptor: self.seal.descriptor(id, at.fence, descriptor),
            pair: self.seal.pair(id, at, descriptor, pair),
            due_at: due_at.map(unix_ms),
        };
        let started = self.backend.change(id, start).await?;
        if let Some(journal) = self.journal.as_ref().filter(|_| started) {
            journal.forget(id, None).await;
        }
        Ok(started.then(|| begun(id, at, seed)))
    }

    async fn discard(&self, id: &GrantId) -> StoreResult<bool> {
        let discard = Change::Discard { at: self.above(None) };
        Ok(self.damaged(id).await? && self.backend.change(id, discard).await?)
    }

    async fn journal(&self, grant: &Grant, due_at: Option<SystemTime>) -> Result<(), String> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let publishing = self.publishing(grant, due_at);
        let deployment = &self.identity.deployment;
        let entry = Entry::new(&grant.id, deployment, publishing, self.clock.now_ms());
        // A disk that hangs must not keep the pair from the store.
        let written = timeout(DISK_PATIENCE, journal.write(entry)).await;
        written.unwrap_or_else(|_| Err("its disk does not answer".to_owned()))
    }

    async fn merge(&self, grant: &Grant, due_at: Option<SystemTime>) -> StoreResult<Merged> {
        let (id, mut publishing) = (&grant.id, self.publishing(grant, due_at));
        let mut merged = self.backend.publish(id, publishing.clone()).await?;
        if merged.is_none() {
            self.still_ours().await?;
            publishing.remake = true;
            merged = self.backend.publish(id, publishing).await?;
        }
        let merged = merged.ok_or_else(|| {
            StoreError::Refused("a missing grant could not be made again".to_owned())
        })?;
        match &self.journal {
            // Replaced or deleted: nothing of it may come back.
            Some(journal) if merged == Merged::Old => {
                journal.forget(id, Some(grant.position)).await;
            }
            Some(journal) => journal.settle(id, grant.position),
            None => {}
        }
        Ok(merged)
    }

    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> StoreResult<Option<Grant>> {
        for _ in 0..CONFLICTS_MAX {
            let Some(known) = self.standing(id, expected).await? else { return Ok(None) };
            let fence = Fence::after(Fence(known.last_fence), self.clock.now_ms());
            let Amendment { lift, disabled, in_doubt, due_at } = &amendment;
            let switched = disabled.map(|disabled| self.switched(id, &known, fence, disabled));
            let amend = Amend {
                fence: fence.0,
                lift: *lift,
                descriptor: switched.transpose()?,
                in_doubt: in_doubt
                    .as_ref()
                    .map(|(owner, doubt)| (owner.clone().into(), StoredDoubt::new(doubt, fence))),
                due_at: due_at.map(unix_ms),
            };
            let amend = Change::Amend { expected: known.stamp(), amend };
            if self.backend.change(id, amend).await? {
                return Ok(self.load(id).await?.and_then(Stored::grant));
            }
        }
        Ok(None)
    }

    async fn delete(&self, id: &GrantId, expected: Position) -> StoreResult<bool> {
        for _ in 0..CONFLICTS_MAX {
            let Some(known) = self.standing(id, expected).await? else { return Ok(false) };
            let delete = Change::Delete { expected: known.stamp(), at: self.above(Some(&known)) };
            if self.backend.change(id, delete).await? {
                if let Some(journal) = &self.journal {
                    journal.forget(id, None).await;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[async_trait]
impl Claims for Vault {
    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let over = takeover.map_or(Over::Nothing, |lease| Over::Older(millis(lease)));
        let (generation, watch) = (generation.0, millis(watch));
        let claiming = Claiming { generation, owner: owner.into(), over, watch };
        self.backend.claim(id, claiming).await
    }

    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let (generation, over) = (held.generation.0, Over::Held(held.fence.0));
        let claiming = Claiming { generation, owner: owner.into(), over, watch: millis(watch) };
        self.backend.claim(id, claiming).await
    }

    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> StoreResult<bool> {
        let (hold, doubt) = (hold(intent), StoredDoubt::new(doubt, intent.fence));
        self.backend.change(id, Change::Doubt { hold, doubt, due_at: due_at.map(unix_ms) }).await
    }

    async fn release(&self, id: &GrantId, intent: &Intent) -> StoreResult<bool> {
        self.backend.change(id, Change::Release { hold: hold(intent) }).await
    }

    async fn refuse(&self, id: &GrantId, intent: &Intent, verdict: &Verdict) -> StoreResult<bool> {
        let at = Position { generation: intent.generation, fence: intent.fence };
        let (hold, refusal) = (hold(intent), self.seal.verdict(id, at, verdict));
        self.backend.change(id, Change::Refuse { hold, refusal }).await
    }

    async fn promote(&self, id: &GrantId, intent: &Intent) -> StoreResult<Option<Grant>> {
        let Some(record) = self.backend.read(id).await? else { return Ok(None) };
        let opened = record.siblings.iter().rev().find_map(|(fence, blob)| {
            // What cannot be opened cannot be tried.
            Some((*fence, self.seal.sibling(id, &record, Fence(*fence), blob).ok()?))
        });
        let Some((sibling, pair)) = opened else { return Ok(None) };
        let Grant { descriptor, pair: refused, .. } = self.seal.grant(id, &record)?;
        let pair = Pair { token: refused.token, published_at: self.clock.now(), ..pair };
        let at = Position { generation: intent.generation, fence: intent.fence };
        let pair = self.seal.pair(id, at, &descriptor, &pair);
        let promoted =
            self.backend.change(id, Change::Promote { hold: hold(intent), sibling, pair }).await?;
        if promoted { Ok(self.load(id).await?.and_then(Stored::grant)) } else { Ok(None) }
    }
}

#[async_trait]
impl DueIndex for Vault {
    async fn schedule(
        &self,
        id: &GrantId,
        generation: Generation,
        due_at: SystemTime,
    ) -> StoreResult<()> {
        let (generation, due_at) = (generation.0, unix_ms(due_at));
        self.backend.change(id, Change::Schedule { generation, due_at }).await.map(drop)
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        self.backend.take_due(limit, visibility).await
    }
}

#[async_trait]
impl Store for Vault {
    async fn health(&self) -> Health {
        let (state, peers) = match self.inspect().await {
            Ok((continuity, peers)) => (Ok(continuity), peers),
            Err(failure) => (Err(failure), Peers::default()),
        };
        match (&self.journal, &state) {
            (Some(journal), Ok(Continuity::Unbroken)) => journal.sweep(),
            // What it had confirmed may be among what it has lost.
            (Some(journal), _) => journal.distrust(),
            (None, _) => {}
        }
        Health {
            kind: self.backend.kind(),
            deployment: self.identity.deployment.clone(),
            state,
            peers,
            journal: self.journal.as_ref().map(|journal| journal.condition()),
        }
    }

    async fn compared(&self) -> StoreResult<()> {
        let before = *self.worst.lock();
        if before != Continuity::Unbroken {
            // What the process before had received is in no memory.
            self.replay().await.map_err(|failure| StoreError::Unavailable(Box::new(failure)))?;
        }
        self.backend.compared().await?;
        *self.worst.lock() = Continuity::Unbroken;
        Ok(())
    }

    async fn examine(&self) -> StoreResult<Vec<Finding>> {
        let mut findings = self.backend.examine().await?;
        findings.push(Finding::fine("deployment", &self.identity.deployment));
        Ok(findings)
    }

    async fn purge(&self) -> StoreResult<usize> {
        self.backend.purge().await
    }

    async fn close(&self) -> StoreResult<()> {
        let journal = self.journal.as_ref().map(|journal| journal.condition());
        self.backend.close(journal.is_none_or(|journal| journal.entries == 0)).await
    }
}

/// Marks that this process leaves in the store: one that is not found again was lost, and with it
/// what was written at the time.
#[derive(Debug)]
struct Marks {
    /// Where they begin; those of other processes are not ours to judge.
    first: u64,
    given: AtomicU64,
    /// The last that the store has surely taken; zero for none.
    left: AtomicU64,
}

impl Default for Marks {
    fn default() -> Self {
        let mut random = [0; 4];
        keyring::fill(&mut random);
        // Room for one a second for a century above each.
        let first = u64::from(u32::from_be_bytes(random)) << 32;
        Self { first, given: AtomicU64::new(first + 1), left: AtomicU64::new(0) }
    }
}

impl Marks {
    fn next(&self) -> u64 {
        self.given.fetch_add(1, Ordering::Relaxed)
    }

    fn left(&self, mark: u64) {
        self.left.fetch_max(mark, Ordering::Relaxed);
    }

    /// The last one should be there, or one whose answer was lost.
    fn missing(&self, found: Option<u64>) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        let ours = self.first..self.given.load(Ordering::Relaxed);
        left != 0 && !found.is_some_and(|found| ours.contains(&found) && found >= left)
    }
}

fn lost(store: &str) -> OpenError {
    OpenError::Refused(format!(
        "the store ({store}) is empty, and `store.expect_existing` says that it should not be; restore \
         it, point `store.url` at the right one, or set it to false for a first start"
    ))
}

fn foreign() -> StoreError {
    StoreError::Refused(
        "it belongs to another deployment now, and is not written to; point `store.url` or \
         `store.prefix` at the store of this one"
            .to_owned(),
    )
}

fn hold(intent: &Intent) -> Hold {
    Hold { generation: intent.generation.0, fence: intent.fence.0 }
}

fn begun(id: &GrantId, position: Position, seed: Seed) -> Grant {
    let Seed { descriptor, pair, .. } = seed;
    let (id, standing, described) = (id.clone(), Standing::Usable, position.fence);
    Grant { id, position, descriptor, described, pair, standing, intent: None }
}
