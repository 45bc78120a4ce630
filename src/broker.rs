//! The domain: grants, generations, and when and how to refresh. Plain Rust and tokio time.
//!
//! Reading order: [`model`] what a grant is, [`freshness`] when to refresh, [`serving`] what a
//! caller gets, [`join`] and [`flight`] one refresh per grant, [`rotation`] how it is done,
//! [`claim`] under what right, [`answer`] what replies mean, [`providers`] whose trouble a failure
//! is, [`resend`] (with `doubt`) what follows a lost answer, [`publish`] how a pair is kept,
//! [`pacing`] who waits after a failure, [`scheduler`] what happens unasked, [`admin`] what
//! operators do, [`resolve`] what they do about grants that do not go on by themselves. [`known`],
//! [`entry`] and [`view`] are what this process knows. The process ends at two traits, [`store::Store`] and
//! [`endpoint::TokenEndpoint`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::endpoint::{Habits, TokenEndpoint};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::flight::Flights;
use crate::broker::known::Known;
use crate::broker::metrics::{ByProvider, Metrics};
use crate::broker::model::{GrantId, ProviderId};
use crate::broker::providers::Providers;
use crate::broker::settings::Settings;
use crate::broker::store::{Store, StoreError, Stored};
use crate::clock::{Clock, from_unix_ms};

pub mod admin;
pub mod answer;
pub mod claim;
mod doubt;
pub mod endpoint;
pub mod entry;
pub mod error;
pub mod flight;
pub mod freshness;
pub mod join;
pub mod known;
pub mod metrics;
pub mod model;
pub mod pacing;
pub mod providers;
pub mod publish;
pub mod resend;
pub mod resolve;
pub mod rotation;
pub mod scheduler;
pub mod serving;
pub mod settings;
pub mod store;
pub mod view;

pub use admin::{NewGrant, Overview, State};
pub use resolve::Resolution;

/// First attempt number; 0 stands for none.
const FIRST_ATTEMPT: u64 = 1;

/// Keeps grants fresh and hands out their tokens.
pub struct Broker {
    store: Arc<dyn Store>,
    endpoint: Arc<dyn TokenEndpoint>,
    clock: Clock,
    settings: Settings,
    metrics: Metrics,
    /// Random number of this process, in every intent.
    boot: u64,
    /// When this process began: whoever held a claim before it and is gone has sent by then.
    start: SystemTime,
    started: Instant,
    habits: HashMap<ProviderId, Habits>,
    attempts: AtomicU64,
    known: Known,
    flights: Flights,
    providers: Providers,
    /// Refreshes and notes; shutdown waits for them.
    tasks: TaskTracker,
    drain: CancellationToken,
}

impl Broker {
    /// Puts the parts together. `boot` is a random number drawn for this process.
    pub fn new(
        store: Arc<dyn Store>,
        endpoint: Arc<dyn TokenEndpoint>,
        clock: Clock,
        settings: Settings,
        metrics: Metrics,
        boot: u64,
    ) -> Arc<Self> {
        let each = endpoint.providers().into_iter();
        let habits = each.map(|provider| (provider.id, provider.habits)).collect();
        // An alarm needs its counter to be there before the first failure.
        for provider in endpoint.providers() {
            let provider = provider.id.as_str().to_owned();
            for alarm in [&metrics.persist_failures, &metrics.remade_grants] {
                let _ = alarm.get_or_create(&ByProvider { provider: provider.clone() });
            }
        }
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
            providers: Providers::default(),
            tasks: TaskTracker::new(),
            drain: CancellationToken::new(),
        })
    }

    /// The clock that expiries are compared with.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The waits and bounds.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// No new refresh starts any more.
    pub fn draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Starts no further refresh and waits until those under way are durable.
    pub async fn drain(&self) {
        self.drain.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Reads a grant from the store.
    async fn load(&self, id: &GrantId) -> Result<Option<Stored>, StoreError> {
        Ok(self.store.load(id).await?.map(|stored| match stored {
            Stored::Grant(grant) => Stored::Grant(self.interpret(grant)),
            Stored::Deleted(position) => Stored::Deleted(position),
        }))
    }

    /// The grant as this process knows it, read from the store at first sight, and again where it
    /// was deleted: somebody may have imported it anew.
    async fn entry(&self, id: &GrantId) -> Result<Arc<Entry>, Error> {
        if let Some(entry) = self.known.get(id).filter(|entry| !entry.deleted()) {
            entry.ask();
            return Ok(entry);
        }
        let stored = self.load(id).await?.and_then(Stored::grant);
        let grant = stored.ok_or_else(|| Error::GrantNotFound(id.clone()))?;
        let entry = self.known.enter(grant);
        // Another task may have learned of a later deletion in the meantime.
        if entry.deleted() { Err(Error::GrantNotFound(id.clone())) } else { Ok(entry) }
    }
}
