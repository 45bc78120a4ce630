//! Refreshing: one at a time for each grant, claimed before it is sent, and never lost.
//!
//! Reading order: [`join`] and [`flight`] one refresh for each grant, [`rotation`] how it is done,
//! [`claim`] under what right (and when it is its turn: `governor`, `queue`), [`answer`] what replies mean
//! (with `pair`), [`weigh`] whose trouble a failure is (with [`troubles`], `proven` and `permit`), [`verdict`] how a grant ends by it,
//! [`resend`] (with `doubt`) what follows a
//! lost answer, [`publish`] how a pair is kept, [`continuity`] whether the store keeps it (with
//! `others`), [`revoke`] how it ends on purpose, [`pacing`] who waits after a failure, [`follow`] what
//! other processes change, [`scheduler`] what happens unasked. Nothing here knows of callers or
//! operators.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::acts::Acts;
use crate::broker::endpoint::{Habits, TokenEndpoint};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::known::Known;
use crate::broker::metrics::Metrics;
use crate::broker::model::{GrantId, ProviderId};
use crate::broker::refresh::continuity::Watch;
use crate::broker::refresh::flight::Flights;
use crate::broker::refresh::governor::Governor;
use crate::broker::refresh::troubles::Troubles;
use crate::broker::settings::Settings;
use crate::broker::store::{Store, StoreError, Stored};
use crate::clock::{Clock, from_unix_ms};

pub mod answer;
pub mod claim;
pub mod continuity;
pub mod doubt;
pub mod flight;
pub mod follow;
mod governor;
pub mod join;
mod others;
pub mod pacing;
pub mod pair;
mod permit;
mod proven;
pub mod publish;
mod queue;
pub mod resend;
pub mod revoke;
pub mod rotation;
pub mod scheduler;
pub mod troubles;
pub mod verdict;
pub mod weigh;

/// First attempt number; 0 stands for none.
const FIRST_ATTEMPT: u64 = 1;

/// Keeps grants fresh.
pub struct Rotations {
    pub(super) store: Arc<dyn Store>,
    pub(super) endpoint: Arc<dyn TokenEndpoint>,
    pub(super) clock: Clock,
    pub(super) settings: Settings,
    pub(super) metrics: Metrics,
    /// Random number of this process, in every intent.
    boot: u64,
    /// When this process began: whoever held a claim before it and is gone has sent by then.
    pub(super) start: SystemTime,
    started: Instant,
    habits: HashMap<ProviderId, Habits>,
    attempts: AtomicU64,
    pub(super) known: Known,
    pub(super) flights: Flights,
    pub(super) troubles: Arc<Troubles>,
    /// How many grants of each provider there are, as they were counted last.
    pub(super) counted: Mutex<HashMap<ProviderId, usize>>,
    pub(super) governor: Governor,
    pub(super) acts: Acts,
    pub(super) watch: Watch,
    /// Refreshes and notes; shutdown waits for them.
    pub(super) tasks: TaskTracker,
    pub(super) drain: CancellationToken,
}

impl Rotations {
    /// Puts the parts together. `boot` is a random number drawn for this process.
    pub(super) fn new(
        store: Arc<dyn Store>,
        endpoint: Arc<dyn TokenEndpoint>,
        clock: Clock,
        settings: Settings,
        metrics: Metrics,
        boot: u64,
    ) -> Arc<Self> {
        let each = endpoint.providers().into_iter();
        let watch = Watch::new(metrics.store_up.clone());
        let habits = each.map(|provider| (provider.id, provider.habits)).collect();
        Arc::new(Self {
            store,
            endpoint,
            clock,
            settings,
            metrics,
            boot,
            start: from_unix_ms(clock.now_ms()),
            started: Instant::now(),
            habits,
            attempts: AtomicU64::new(FIRST_ATTEMPT),
            known: Known::default(),
            flights: Flights::default(),
            troubles: Arc::default(),
            counted: Mutex::default(),
            governor: Governor::default(),
            acts: Acts::default(),
            watch,
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
        })
    }

    /// No new refresh starts any more.
    pub(super) fn draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Starts no further refresh and waits until those under way are durable.
    pub(super) async fn drain(&self) {
        self.drain.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Reads a grant from the store.
    pub(super) async fn load(&self, id: &GrantId) -> Result<Option<Stored>, StoreError> {
        Ok(self.store.load(id).await?.map(|stored| match stored {
            Stored::Grant(grant) => Stored::Grant(self.interpret(grant)),
            Stored::Deleted(position) => Stored::Deleted(position),
        }))
    }

    /// The grant as this process knows it, read from the store at first sight, and again where it
    /// was deleted: somebody may have imported it anew.
    pub(super) async fn entry(&self, id: &GrantId) -> Result<Arc<Entry>, Error> {
        let missing = || Error::GrantNotFound(id.clone());
        let known = self.known.get(id);
        if let Some(entry) = known.as_ref().filter(|entry| !entry.deleted()) {
            entry.ask();
            return Ok(Arc::clone(entry));
        }
        let stored = match (self.load(id).await, known) {
            (Ok(stored), _) => stored,
            // Without the store, what is known here is the best there is.
            (Err(_), Some(_deleted)) => return Err(missing()),
            (Err(failure), None) => return Err(failure.into()),
        };
        let grant = stored.and_then(Stored::grant).ok_or_else(missing)?;
        let entry = self.known.enter(grant);
        // Another task may have learned of a later deletion in the meantime.
        if entry.deleted() { Err(missing()) } else { Ok(entry) }
    }
}
