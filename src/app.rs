//! Composition: the one place that names concrete stores and endpoints, and wires everything.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{error, info, warn};

use crate::broker::Broker;
use crate::broker::metrics::Metrics;
use crate::broker::settings::{Predecessors, Settings, backoff};
use crate::broker::store::Store;
use crate::clock::Clock;
use crate::config::{Config, StoreConfig};
use crate::lifecycle::Signals;
use crate::ops::{self, Readiness};
use crate::proto;
use crate::proto::grant_admin_service_server::GrantAdminServiceServer;
use crate::proto::token_service_server::TokenServiceServer;
use crate::service::{Admin, Observe, Reasons, Tokens};
use crate::store::{Embedded, Keyring, OpenError, Redis, Replica, keyring};
use crate::telemetry;
use crate::upstream::Http;

/// Largest request; a refresh token with everything around it is far smaller.
const REQUEST_MAX: usize = 64 * 1024;
/// First wait for a store that does not answer at start; doubles each time.
const STORE_BACKOFF: Duration = Duration::from_millis(200);
/// Longest wait for a store that does not answer at start.
const STORE_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A dead peer is noticed after these two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the program cannot run.
#[derive(Debug, Error)]
pub enum AppError {
    /// A port is taken, or not ours.
    #[error("cannot listen on {address} (`{setting}`): {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The setting that says so.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error("the token store: {0}")]
    Store(#[from] OpenError),
    /// The key ring cannot be used.
    #[error(transparent)]
    Keyring(#[from] keyring::KeyringError),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Endpoint(#[from] crate::upstream::http::BuildError),
    /// A server failed.
    #[error("a server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// Reflection cannot be offered.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// What a restored store holds cannot be marked.
    #[error("the grants of the restored store could not be put in doubt: {0}")]
    Restored(crate::broker::error::Error),
    /// Signals cannot be heard.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// The drain took too long.
    #[error(
        "after {waited:?} {unpublished} new token pairs were still not taken by the store and are \
         lost with this process (the log names their grants), and {flights} refreshes were under \
         way; their claims stay in the store"
    )]
    DrainTimeout {
        /// How long they were waited for.
        waited: Duration,
        /// Pairs that providers had issued.
        unpublished: i64,
        /// Refreshes, those pairs among them.
        flights: i64,
    },
}

/// Where the program listens; the real ports, also where the configuration says 0.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The gRPC API.
    pub api: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

/// Runs the broker until a signal asks it to stop. `ready` runs once callers are welcome.
pub async fn serve<F>(
    config: Config,
    clock: Clock,
    ready: impl FnOnce(Arc<Broker>, Addresses) -> F,
) -> Result<(), AppError>
where
    F: Future<Output = ()>,
{
    // Whoever was first has chosen the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut signals = Signals::listen().map_err(AppError::Signals)?;
    let start = clock.now();
    let mut registry = telemetry::registry();
    let observe = Observe::new(&mut registry, config.settings.caller_wait_max);
    let own = telemetry::own(&mut registry);
    let metrics = Metrics::new(own);
    let store_up = Gauge::<i64>::default();
    own.register("store_up", "The token store answers", store_up.clone());
    let registry = Arc::new(registry);

    let tasks = TaskTracker::new();
    let stop_ops = CancellationToken::new();
    let (readiness, health) = Readiness::new().await;
    let (ops, ops_address) = bind(config.listen.ops, "listen.ops").await?;
    let (api, api_address) = bind(config.listen.api, "listen.api").await?;
    let addresses = Addresses { api: api_address, ops: ops_address };
    let operators = ops::serve(ops, readiness.clone(), health.clone(), registry, stop_ops.clone());
    tasks.spawn(async move {
        if let Err(failure) = operators.await {
            error!(error = %failure, "the operators' port failed");
        }
    });

    // Its lock is held until the process ends.
    let replica = replica(&config)?;
    let endpoint = Arc::new(Http::new(config.providers.clone(), clock)?);
    let store = tokio::select! {
        store = open_store(&config, clock) => store?,
        () = signals.asked() => return Ok(()),
    };
    let boot = random();
    let settings = settings(&config, replica.as_ref());
    let broker = Broker::new(Arc::clone(&store), endpoint, clock, settings, metrics, boot);
    if config.restored {
        distrust(&broker).await?;
    }
    tasks.spawn(Arc::clone(&broker).run_scheduler());
    tasks.spawn(watch_store(store, store_up, stop_ops.clone()));

    let mut routes = Routes::new(
        TokenServiceServer::new(Tokens::new(Arc::clone(&broker), Arc::clone(&observe)))
            .max_decoding_message_size(REQUEST_MAX),
    )
    .add_service(
        GrantAdminServiceServer::new(Admin::new(Arc::clone(&broker), observe, start))
            .max_decoding_message_size(REQUEST_MAX),
    )
    .add_service(health);
    if config.listen.reflection {
        routes = reflection(routes)?;
    }
    let stop_api = CancellationToken::new();
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(Reasons)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(api).with_nodelay(Some(true)),
            stop_api.clone().cancelled_owned(),
        );
    readiness.set(true).await;
    info!(api = %addresses.api, ops = %addresses.ops, "ready");
    ready(Arc::clone(&broker), addresses).await;

    let mut server = Box::pin(server);
    tokio::select! {
        result = &mut server => return Ok(result?),
        () = signals.asked() => {}
    }
    readiness.set(false).await;
    let drain = async {
        sleep(config.shutdown.drain_delay).await;
        stop_api.cancel();
        // Flights end first or last: callers who wait for one are answered in between.
        let (result, ()) = tokio::join!(server, broker.drain());
        result
    };
    let bound = config.shutdown.drain_delay + config.shutdown.drain_max;
    let drained = tokio::select! {
        drained = timeout(bound, drain) => drained,
        () = signals.insisted() => return Ok(()),
    };
    stop_ops.cancel();
    match drained {
        Ok(result) => {
            result?;
            info!("stopped; nothing is left to store");
            Ok(())
        }
        Err(_elapsed) => Err(AppError::DrainTimeout {
            waited: config.shutdown.drain_max,
            unpublished: broker.metrics().unpublished_pairs.get(),
            flights: broker.metrics().flights.get(),
        }),
    }
}

async fn bind(
    address: SocketAddr,
    setting: &'static str,
) -> Result<(TcpListener, SocketAddr), AppError> {
    let failed = |source| AppError::Bind { address, setting, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let actual = listener.local_addr().map_err(failed)?;
    Ok((listener, actual))
}

/// Takes the name of this replica, where several may share a store.
fn replica(config: &Config) -> Result<Option<Replica>, AppError> {
    let StoreConfig::Redis { replica_file, .. } = &config.store else { return Ok(None) };
    let Some(path) = replica_file else {
        warn!(
            "without `store.replica_file` nobody can tell whether a silent replica has ended: \
             refreshes that a crash interrupts wait for an operator"
        );
        return Ok(None);
    };
    Ok(Some(Replica::take(path)?))
}

/// The settings of the domain, with what the name of this replica makes certain.
fn settings(config: &Config, replica: Option<&Replica>) -> Settings {
    let settings = config.settings.clone();
    match replica {
        Some(replica) => Settings {
            replica: replica.name().to_owned(),
            predecessors: Predecessors::SameReplicaGone,
            ..settings
        },
        None => settings,
    }
}

/// Opens the store. What may pass is waited for; what somebody has to mend ends the program.
async fn open_store(config: &Config, clock: Clock) -> Result<Arc<dyn Store>, AppError> {
    let ring = Arc::new(key_ring(config)?);
    let mut failures = 0;
    loop {
        let opened: Result<Arc<dyn Store>, OpenError> = match &config.store {
            StoreConfig::Memory => {
                Embedded::in_memory(Arc::clone(&ring), clock).map(|store| Arc::new(store) as _)
            }
            StoreConfig::Redb(path) => {
                Embedded::open(path, Arc::clone(&ring), clock).map(|store| Arc::new(store) as _)
            }
            StoreConfig::Redis { address, prefix, allow_eviction, .. } => Redis::open(
                address,
                prefix,
                *allow_eviction,
                config.restored,
                Arc::clone(&ring),
                clock,
            )
            .await
            .map(|store| Arc::new(store) as _),
        };
        match opened {
            Ok(store) => return Ok(store),
            Err(OpenError::Unavailable(why)) => {
                warn!(error = why, failures, "waiting for the token store");
                sleep(backoff(STORE_BACKOFF, failures, STORE_BACKOFF_MAX)).await;
                failures += 1;
            }
            Err(refused) => return Err(refused.into()),
        }
    }
}

/// The key ring that is named; the embedded store makes one beside itself at its first start.
fn key_ring(config: &Config) -> Result<Keyring, AppError> {
    let beside = match (&config.keys_file, &config.store) {
        (Some(named), _) => return Ok(Keyring::load(named)?),
        (None, StoreConfig::Memory | StoreConfig::Redis { .. }) => return Ok(Keyring::generate()),
        (None, StoreConfig::Redb(path)) => {
            (PathBuf::from(format!("{}.keys", path.display())), path)
        }
    };
    let (ring_path, store_path) = beside;
    if let Some(folder) = store_path.parent().filter(|folder| !folder.as_os_str().is_empty())
        && !folder.is_dir()
    {
        let folder = folder.display();
        return Err(
            OpenError::Refused(format!("the folder {folder} does not exist; make it")).into()
        );
    }
    // A store without its ring is not a first start: a new ring could not open it.
    if ring_path.exists() || store_path.exists() {
        return Ok(Keyring::load(&ring_path)?);
    }
    let ring = Keyring::generate();
    ring.create(&ring_path)?;
    info!(file = %ring_path.display(), "made a key ring; keep it as safe as the store, and apart from its backups");
    Ok(ring)
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

/// How often the store is asked whether it is there.
const STORE_WATCH: Duration = Duration::from_secs(5);

async fn watch_store(store: Arc<dyn Store>, up: Gauge, stop: CancellationToken) {
    let mut was_up = true;
    loop {
        let is_up = store.health().await.available;
        up.set(i64::from(is_up));
        if was_up && !is_up {
            error!("the token store does not answer; tokens are served from memory while valid");
        } else if is_up && !was_up {
            info!("the token store answers again");
        }
        was_up = is_up;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(STORE_WATCH) => {}
        }
    }
}

/// Offers both versions, because many installed grpcurls know only the old one, and describes the
/// error details, so that they are shown decoded.
fn reflection(routes: Routes) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    keyring::fill(&mut bytes);
    u64::from_be_bytes(bytes)
}
