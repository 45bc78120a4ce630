//! The domain: grants, generations, and when and how to refresh. Plain Rust and tokio time.
//!
//! Reading order: [`model`] what a grant is, [`freshness`] when to refresh, [`known`], [`entry`]
//! and [`view`] what this process knows, [`serving`] what a caller gets, [`watching`] what one who
//! stays hears, [`refresh`] how a grant is kept fresh, [`admin`] what operators do ([`describe`] what
//! they say of a grant), [`enrol`] how a person's consent becomes a grant, [`census`] what they see at
//! a glance, [`rules`] what follows from what, [`standing`] how providers stand, [`resolve`] what they do about grants that do not go on by themselves, [`revoke`] how they
//! end one, [`acts`] what is told of what the broker does by itself. The process ends at two traits,
//! [`store::Store`] and [`endpoint::TokenEndpoint`].

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tracing::warn;

use crate::broker::acts::Act;
use crate::broker::endpoint::TokenEndpoint;
use crate::broker::error::{Error, chain};
use crate::broker::metrics::Metrics;
use crate::broker::model::ProviderId;
use crate::broker::refresh::Rotations;
use crate::broker::refresh::troubles::Client;
use crate::broker::settings::Settings;
use crate::broker::store::{Finding, Store};
use crate::clock::Clock;

pub mod acts;
pub mod admin;
pub mod advice;
pub mod backoff;
pub mod census;
pub mod describe;
pub mod endpoint;
pub mod enrol;
pub mod entry;
pub mod error;
pub mod examination;
pub mod freshness;
pub mod known;
pub mod metrics;
pub mod model;
pub mod refresh;
pub mod resolve;
pub mod revoke;
pub mod rules;
pub mod serving;
pub mod settings;
pub mod standing;
pub mod store;
pub mod view;
pub mod watching;

pub use admin::{NewGrant, Overview, State};
pub use resolve::Resolution;

/// Keeps grants fresh, hands out their tokens, and does what operators say.
pub struct Broker {
    rotations: Arc<Rotations>,
    /// Providers whose grants were counted.
    counted: Mutex<BTreeSet<ProviderId>>,
    /// Of the store, when it was examined last.
    findings: Mutex<Arc<Vec<Finding>>>,
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
        metrics.prepare(endpoint.providers().iter().map(|provider| &provider.id));
        let rotations = Rotations::new(store, endpoint, clock, settings, metrics, boot);
        Arc::new(Self { rotations, counted: Mutex::default(), findings: Mutex::default() })
    }

    /// The clock that expiries are compared with.
    pub fn clock(&self) -> Clock {
        self.rotations.clock
    }

    /// The waits and bounds.
    pub fn settings(&self) -> &Settings {
        &self.rotations.settings
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.rotations.metrics
    }

    /// Looks at the store, and gives it back what it has lost. One caller at a time.
    pub async fn look_at_store(&self) {
        self.rotations.look_at_store().await;
    }

    /// Some grant's token can be served without the store.
    pub fn serves(&self) -> bool {
        let now = self.rotations.clock.now();
        self.rotations
            .known
            .any(|view| view.token().is_some_and(|(_, window)| now < window.expires_at))
    }

    /// Leaves the store as it should be found. Nothing is served or refreshed any more.
    pub async fn close(&self) {
        if let Err(error) = self.rotations.store.close().await {
            warn!(error = %chain(&error), "the store could not be closed; the next start looks it over");
        }
    }

    /// No new refresh starts any more.
    pub fn draining(&self) -> bool {
        self.rotations.draining()
    }

    /// Starts no further refresh and waits until those under way are durable.
    pub async fn drain(&self) {
        self.rotations.drain().await;
    }

    /// Refreshes what is due, until the process drains.
    pub async fn run_scheduler(self: Arc<Self>) {
        Arc::clone(&self.rotations).run_scheduler().await;
    }

    /// Follows what other processes change, until the process drains.
    pub async fn follow(self: Arc<Self>) {
        Arc::clone(&self.rotations).follow().await;
    }

    /// Looks whether what we are known by to providers has changed since it last worked.
    pub async fn compare_clients(&self) {
        self.rotations.compare_clients().await;
    }

    /// What we are known by to this provider has changed: whoever waited for that waits no longer, and
    /// until something succeeds no refusal is believed.
    pub fn client_changed(self: &Arc<Self>, provider: &ProviderId) {
        let (rotations, provider) = (Arc::clone(&self.rotations), provider.clone());
        for entry in rotations.known.of(&provider) {
            let refused = |error: &Error| matches!(error, Error::Upstream { failure, .. } if failure.reason.is_of_client());
            if entry.trouble().is_some_and(|trouble| refused(&trouble.error)) {
                entry.forget_trouble();
            }
        }
        self.rotations.tasks.spawn(async move {
            for client in Client::all_of(&provider) {
                rotations.client_changed(&client).await;
            }
            // Those that wait are brought up one after the other, whether somebody asks for them or not.
            rotations.wake(provider);
        });
    }

    /// What the broker does by itself from now on. Whoever listens and is slow misses some.
    pub fn acts(&self) -> broadcast::Receiver<Act> {
        self.rotations.acts.listen()
    }
}
