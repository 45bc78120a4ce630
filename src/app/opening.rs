//! Opening: the store, its key ring, and who this replica is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::app::error::AppError;
use crate::app::watch;
use crate::audit::{Audit, SinkError};
use crate::broker::Broker;
use crate::broker::backoff::Backoff;
use crate::broker::settings::{Predecessors, Settings};
use crate::broker::store::Store;
use crate::caller::{Authenticators, Keys, Kubernetes};
use crate::clock::Clock;
use crate::config::{AuditConfig, Callers, ClusterTokens, Config, StoreConfig};
use crate::ops::Readiness;
use crate::service::Gate;
use crate::store::keyring::{KeyringError, private_file};
use crate::store::redis::Admission;
use crate::store::{Journal, Keyring, OpenError, Vault};

/// Waits for a store that does not answer at start.
const STORE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

pub(super) const NO_JOURNAL: &str = "without `store.journal` a crash may lose a pair that Redis has not taken, and nobody can tell \
     whether a silent replica has ended: refreshes that it interrupts wait for an operator";

/// Takes the journal of this replica, where several may share a store.
pub(super) fn journal(config: &Config) -> Result<Option<Arc<Journal>>, AppError> {
    let StoreConfig::Redis { journal, .. } = &config.store else { return Ok(None) };
    let Some(path) = journal else {
        warn!("{NO_JOURNAL}");
        return Ok(None);
    };
    Ok(Some(Arc::new(Journal::open(path)?)))
}

/// The port of the pages, and what browsers know it by.
pub(super) struct PagePort {
    pub(super) port: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) base: String,
}

/// Opens the port of the pages, if there are to be any.
pub(super) async fn pages(config: &Config) -> Result<Option<PagePort>, AppError> {
    let Some(pages) = &config.listen.pages else { return Ok(None) };
    let (port, address) = bind(pages.address, "listen.pages").await?;
    let base = pages.url.clone().unwrap_or_else(|| format!("http://{address}"));
    Ok(Some(PagePort { port, address, base }))
}

/// Listens, and says where: the real port, also where the configuration says 0.
pub(super) async fn bind(
    address: SocketAddr,
    setting: &'static str,
) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Bind { address, setting, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?;
    Ok((listener, actual))
}

/// The settings of the domain, with what the journal makes certain. `replayed`: all that it held is
/// in the store.
pub(super) fn settings(config: &Config, journal: Option<&Journal>, replayed: bool) -> Settings {
    let settings = config.settings.clone();
    let Some(journal) = journal else { return settings };
    let replica = journal.name().to_owned();
    if replayed {
        return Settings { replica, predecessors: Predecessors::SameReplicaGone, ..settings };
    }
    warn!(
        "the journal holds what the store could not be given: refreshes that a crash of this replica \
         has interrupted wait for an operator"
    );
    Settings { replica, ..settings }
}

/// Opens the store, and gives it what the journal holds; whether that was all. What may pass is waited
/// for; what somebody has to mend ends the program.
pub(super) async fn open_store(
    config: &Config,
    ring: Arc<Keyring>,
    journal: Option<&Arc<Journal>>,
    clock: Clock,
) -> Result<(Arc<dyn Store>, bool), AppError> {
    let existing = config.expect_existing;
    let mut failures = 0;
    loop {
        let ring = Arc::clone(&ring);
        let opened = match &config.store {
            StoreConfig::Memory => Vault::in_memory(ring, clock),
            StoreConfig::Redb(path) => Vault::in_file(path, existing, ring, clock).await,
            StoreConfig::Redis { address, prefix, allow_eviction, replicas_min, .. } => {
                let admission = Admission {
                    allow_eviction: *allow_eviction,
                    alone: config.restored,
                    replicas_min: *replicas_min,
                };
                Vault::in_redis(address, prefix, admission, existing, ring, clock).await
            }
        };
        let opened = match (opened, journal) {
            (Ok(vault), Some(journal)) => {
                let vault = vault.with_journal(Arc::clone(journal));
                vault.replay().await.map(|replayed| (vault, replayed))
            }
            (opened, _) => opened.map(|vault| (vault, false)),
        };
        match opened {
            Ok((vault, replayed)) => return Ok((Arc::new(vault), replayed)),
            Err(OpenError::Unavailable(why)) => {
                warn!(error = why, failures, "waiting for the token store");
                sleep(STORE_BACKOFF.after(failures)).await;
                failures += 1;
            }
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// What is written down of who does what.
pub(super) fn audit(
    config: &Config,
    clock: Clock,
    registry: &mut Registry,
) -> Result<Arc<Audit>, SinkError> {
    let Some(AuditConfig { place, required }) = config.audit.clone() else {
        return Ok(Audit::off(clock));
    };
    Audit::open(&place, required, config.settings.replica.clone(), clock, registry)
}

/// Who is let in, and what they may do.
pub(super) async fn gate(
    config: &Config,
    clock: Clock,
    registry: &mut Registry,
) -> (Arc<Gate>, Option<Arc<Keys>>) {
    let Some(policy) = &config.policy else { return (Arc::new(Gate::open(clock)), None) };
    let Callers { kubernetes, tokens, limits } = config.callers.clone();
    let (kubernetes, keys) = match kubernetes {
        None => (None, None),
        Some(ClusterTokens { issuer, audience, keys }) => {
            let keys = Keys::new(keys);
            keys.register(registry);
            if let Err(error) = keys.refresh().await {
                warn!(
                    error,
                    "the keys that sign callers' tokens are not known yet; they are fetched when \
                    somebody calls"
                );
            }
            (Some(Kubernetes::new(issuer, audience, Arc::clone(&keys))), Some(keys))
        }
    };
    let certificates = config.listen.tls.as_ref().is_some_and(|tls| tls.asks_clients());
    let authenticators = Authenticators::new(kubernetes, tokens, certificates);
    (Arc::new(Gate::new(authenticators, policy.clone(), limits, clock, registry)), keys)
}

/// The key ring that is there; none where the first start is to make it.
pub(super) fn existing_key_ring(config: &Config) -> Result<Option<Keyring>, KeyringError> {
    match (&config.keys_file, &config.store) {
        (Some(named), _) => Keyring::load(named).map(Some),
        (None, StoreConfig::Redb(path)) => {
            let beside = ring_beside(path);
            // A store without its ring is not a first start: a new ring could not open it.
            let begun = path.metadata().is_ok_and(|file| file.len() > 0);
            if begun || beside.exists() { Keyring::load(&beside).map(Some) } else { Ok(None) }
        }
        (None, StoreConfig::Memory | StoreConfig::Redis { .. }) => Ok(None),
    }
}

/// The embedded store that is gone, though its key ring is there: that is no first start.
pub(super) fn lost_store(config: &Config) -> Option<&Path> {
    let StoreConfig::Redb(path) = &config.store else { return None };
    let gone = config.keys_file.is_none() && !path.exists() && ring_beside(path).exists();
    gone.then_some(path)
}

/// What to do then.
pub(super) fn left_alone(path: &Path) -> String {
    let (store, ring) = (path.display(), ring_beside(path));
    format!(
        "the store {store} is gone, and its key ring {} is there: put the file back, or mount the volume \
         that it is on; to begin anew without any grant, move the key ring away",
        ring.display()
    )
}

/// Where the embedded store keeps its key ring.
fn ring_beside(store: &Path) -> PathBuf {
    PathBuf::from(format!("{}.keys", store.display()))
}

/// The key ring that is named; the embedded store makes one beside itself at its first start.
pub(super) fn key_ring(config: &Config) -> Result<Keyring, AppError> {
    let existing = existing_key_ring(config)?;
    if let Some(path) = lost_store(config) {
        return Err(OpenError::Refused(left_alone(path)).into());
    }
    let (None, StoreConfig::Redb(store_path)) = (&existing, &config.store) else {
        return Ok(existing.unwrap_or_else(Keyring::generate));
    };
    let ring_path = ring_beside(store_path);
    if let Some(folder) = store_path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        let folder = folder.display();
        return Err(
            OpenError::Refused(format!("the folder {folder} does not exist; make it")).into()
        );
    }
    // First an empty one: a start that ends between the two files has lost nothing. Whatever keeps it from
    // being made is told when the store is opened.
    drop(private_file(store_path));
    let ring = Keyring::generate();
    ring.create(&ring_path)?;
    info!(file = %ring_path.display(), "made a key ring; keep it as safe as the store, and apart from its backups");
    Ok(ring)
}

/// Looks at all that may have changed while no broker ran, before anything is sent.
pub(super) async fn look_over(
    broker: &Arc<Broker>,
    readiness: &Readiness,
    restored: bool,
) -> Result<(), AppError> {
    if restored {
        distrust(broker).await?;
    }
    watch::look_at_store(broker, readiness).await;
    broker.compare_clients().await;
    broker.examine_store().await;
    Ok(())
}

/// What a copy from the past holds may have been spent since.
async fn distrust(broker: &Arc<Broker>) -> Result<(), AppError> {
    let doubted = broker.distrust_all().await.map_err(AppError::Restored)?;
    warn!(
        grants = doubted,
        "the store is a copy from the past: refresh tokens are presented only when an operator \
         says so; `token-broker grant resolve` takes one grant, or all of a provider"
    );
    Ok(())
}
