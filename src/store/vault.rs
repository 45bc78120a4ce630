//! The vault: the one implementation of the domain's seam. Seals once, opens, and leaves keeping and
//! comparing to a backend.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::broker::model::{Fence, Generation, Grant, GrantId, Position};
use crate::broker::store::{Continuity, Finding, Health, Peers, Said, Store, StoreError, Stored};
use crate::clock::{Clock, unix_ms};
use crate::store::backend::{Backend, Inspected, Publishing, StoreResult};
use crate::store::embedded::Embedded;
use crate::store::format_1;
use crate::store::identity::Identity;
use crate::store::journal::Journal;
use crate::store::record::{Record, Sealed, StoredAnswer};
use crate::store::redis::{Address, Admission, Redis};
use crate::store::seal::Seal;
use crate::store::vault::marks::Marks;
use crate::store::{Keyring, OpenError};

mod claims;
mod enrolments;
mod events;
mod grants;
mod marks;
mod moments;
mod rates;
mod replay;
mod troubles;

/// Records read at once while a store is converted.
const CONVERTED_AT_ONCE: usize = 500;
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
            pair: self.seal_pair(id, *at, descriptor, pair),
            remake: false,
            answer: grant.answer.as_ref().map(StoredAnswer::from),
            held_by: grant.intent.as_ref().map(|held| held.owner.clone().into()),
            due_at: due_at.map(unix_ms),
        }
    }

    fn open_record(&self, id: &GrantId, record: &Record) -> StoreResult<Stored> {
        if record.deleted_at.is_some() {
            return Ok(Stored::Deleted(record.position()));
        }
        self.open_grant(id, record).map(Stored::Grant)
    }

    /// What operators say from the change on that has this fence.
    fn described(
        &self,
        id: &GrantId,
        known: &Record,
        fence: Fence,
        said: &Said,
    ) -> StoreResult<Sealed> {
        let descriptor = self.seal.described(id, known)?;
        Ok(self.seal.descriptor(id, fence, &said.of(&descriptor)))
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

    async fn dismiss(&self, replicas: &[String]) -> StoreResult<()> {
        self.backend.dismiss(replicas).await
    }

    async fn examine(&self) -> StoreResult<Vec<Finding>> {
        let mut findings = self.backend.examine().await?;
        findings.push(Finding::fine("deployment", &self.identity.deployment));
        Ok(findings)
    }

    async fn spare(&self) -> StoreResult<()> {
        self.backend.spare().await
    }

    async fn purge(&self) -> StoreResult<usize> {
        self.backend.purge().await
    }

    async fn close(&self) -> StoreResult<()> {
        let journal = self.journal.as_ref().map(|journal| journal.condition());
        self.backend.close(journal.is_none_or(|journal| journal.entries == 0)).await
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
