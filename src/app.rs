//! Composition: the one place that names concrete stores and endpoints, and wires everything.
//!
//! Open, which may fail and makes nobody wait at a port; start, which lets callers in; run, which
//! ends with a signal or with an error. Every part that runs for ever is supervised: one that ends
//! unasked ends the process.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::service::Routes;
use tower_layer::Layer as _;
use tower_service::Service;
use tracing::{error, info};

use crate::app::reload::Reloading;
use crate::broker::Broker;
use crate::broker::metrics::Metrics;
use crate::clock::Clock;
use crate::config::Config;
use crate::lifecycle::Signals;
use crate::listener::{self, Listener, Ports, Protocol};
use crate::ops::{self, Readiness};
use crate::pages;
use crate::proto;
use crate::proto::grant_admin_service_server::GrantAdminServiceServer;
use crate::proto::token_service_server::TokenServiceServer;
use crate::service::{Admin, Direct, Observe, Reasons, Tokens};
use crate::store::keyring;
use crate::telemetry;
use crate::upstream::Http;

pub mod doctor;
mod error;
mod opening;
mod record;
mod reload;
mod watch;
mod watched;

pub use error::AppError;

/// Largest request; a refresh token with everything around it is far smaller.
const REQUEST_MAX: usize = 64 * 1024;

/// Where the program listens; the real ports, also where the configuration says 0.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The gRPC API.
    pub api: SocketAddr,
    /// What operators call, if that is apart.
    pub admin: Option<SocketAddr>,
    /// Health and metrics.
    pub ops: SocketAddr,
    /// What people see who consent, if they are to see anything.
    pub pages: Option<SocketAddr>,
}

/// The program with its store open, not serving yet.
pub struct App {
    config: Config,
    signals: Signals,
    broker: Arc<Broker>,
    readiness: Readiness,
    addresses: Addresses,
    api: Listener,
    direct: Direct,
    routes: Routes,
    admin: Option<(Listener, Routes)>,
    pages: Option<(Listener, Routes)>,
    account: Account,
    tasks: Tasks,
    stop_ops: CancellationToken,
}

/// The program while it serves.
pub struct Running {
    app: Parts,
    stop_api: CancellationToken,
}

/// What is left of the program once its server runs.
struct Parts {
    config: Config,
    signals: Signals,
    broker: Arc<Broker>,
    readiness: Readiness,
    account: Account,
    tasks: Tasks,
    stop_ops: CancellationToken,
}

/// What keeps the audit log: the last that ends, as all others are told of in it.
#[derive(Default)]
struct Account {
    kept: JoinSet<()>,
    stop: CancellationToken,
}

impl Account {
    async fn close(mut self) {
        self.stop.cancel();
        while self.kept.join_next().await.is_some() {}
    }
}

/// Parts that run until they are told to stop, each with what it does.
type Tasks = JoinSet<Ended>;

/// What a part did, and how it ended.
type Ended = (&'static str, Result<(), String>);

impl App {
    /// Opens everything that may fail. `None`: a signal came while the store was waited for.
    pub async fn open(config: Config, clock: Clock) -> Result<Option<Self>, AppError> {
        // Whoever was first has chosen the same provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut signals = Signals::listen().map_err(AppError::Signals)?;
        let steady = clock.steady();
        let start = steady.now();
        let mut registry = telemetry::registry();
        let stop_ops = CancellationToken::new();
        let mut tasks = Tasks::new();
        let own = telemetry::own(&mut registry);
        let (gate, keys) = opening::gate(&config, clock, own).await;
        if let Some(keys) = keys.clone() {
            keep(&mut tasks, "the look at the cluster's keys", keys.keep_fresh(stop_ops.clone()));
        }
        let ring = Arc::new(opening::key_ring(&config)?);
        let audit = opening::audit(&config, clock, telemetry::own(&mut registry))?;
        let wait_max = config.settings.caller_wait_max;
        let observe = Observe::new(&mut registry, wait_max, Arc::clone(&gate), Arc::clone(&audit));
        let own = telemetry::own(&mut registry);
        let metrics = Metrics::new(own);

        let ports = Ports::new(own);

        let (readiness, health) = Readiness::new().await;
        let (ops, ops_address) = opening::bind(config.listen.ops, "listen.ops").await?;
        let good = Reloading::register(telemetry::own(&mut registry));
        let certificate_end = watched::certificate_end(&config, telemetry::own(&mut registry));
        let registry = Arc::new(registry);
        let mut bounds = config.bounds;
        bounds.connections = listener::room_for_connections(bounds.connections);
        let operators =
            Listener::new(ops, Protocol::Http1And2, bounds.for_operators(), &ports, "ops")
                .serve(ops::routes(readiness.clone(), health.clone(), registry), stop_ops.clone());
        keep(&mut tasks, "the operators' port", operators);

        let journal = opening::journal(&config)?;
        let endpoint = Arc::new(Http::new(config.providers.clone(), clock)?);
        let (store, replayed) = tokio::select! {
            opened = opening::open_store(&config, Arc::clone(&ring), journal.as_ref(), steady) => opened?,
            () = signals.asked() => return Ok(None),
        };
        let mut settings = opening::settings(&config, journal.as_deref(), replayed);
        let pages = opening::pages(&config).await?;
        settings.pages = pages.as_ref().map(|pages| pages::addresses(&pages.base));
        let broker = Broker::new(store, endpoint, steady, settings, metrics, random());
        let mut account = Account::default();
        let kept = record::keep_account(Arc::clone(&audit), broker.acts(), account.stop.clone());
        account.kept.spawn(kept);
        let held = watched::Held { gate, keys, ring, broker: Arc::clone(&broker), certificate_end };
        let watched = watched::all(&config, held);
        let reloading = Reloading::new(watched, signals.reload(), good).run(stop_ops.clone());
        keep(&mut tasks, "the look at files that change", reloading);
        opening::look_over(&broker, &readiness, config.restored).await?;
        let examined = watch::examine_store(Arc::clone(&broker), stop_ops.clone());
        keep(&mut tasks, "the examination of the store", examined);
        let watch = watch::watch_store(Arc::clone(&broker), readiness.clone(), stop_ops.clone());
        keep(&mut tasks, "the watch over the store", watch);

        let tokens = Tokens::new(Arc::clone(&broker), Arc::clone(&observe));
        let admin = Admin::new(Arc::clone(&broker), observe, start);
        let tokens = TokenServiceServer::new(tokens).max_decoding_message_size(REQUEST_MAX);
        let admin = GrantAdminServiceServer::new(admin).max_decoding_message_size(REQUEST_MAX);
        let (routes, apart) = routes(&config, admin, health)?;
        let tls = config.listen.tls.clone();
        let (mut admin, mut admin_address) = (None, None);
        if let Some((address, routes)) = apart {
            let (port, address) = opening::bind(address, "listen.admin").await?;
            let bounds = bounds.for_operators();
            let listener = Listener::new(port, Protocol::Http2, bounds, &ports, "admin");
            admin = Some((listener.with_tls(tls.clone()), routes));
            admin_address = Some(address);
        }
        // Last: whoever connects is answered.
        let (api, api_address) = opening::bind(config.listen.api, "listen.api").await?;
        let pages_address = pages.as_ref().map(|pages| pages.address);
        let addresses = Addresses {
            api: api_address,
            admin: admin_address,
            ops: ops_address,
            pages: pages_address,
        };
        let pages = pages.map(|found| {
            let bounds = bounds.for_operators();
            let listener = Listener::new(found.port, Protocol::Http1And2, bounds, &ports, "pages");
            (listener, pages::routes(Arc::clone(&broker), Arc::clone(&audit), &found.base))
        });
        let api = Listener::new(api, Protocol::Http2, bounds, &ports, "api").with_tls(tls);
        Ok(Some(Self {
            config,
            signals,
            broker,
            readiness,
            addresses,
            api,
            direct: Direct(tokens),
            routes,
            admin,
            pages,
            account,
            tasks,
            stop_ops,
        }))
    }

    /// The domain.
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// Where the program listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Lets callers in, and begins to refresh what is due.
    pub async fn start(mut self) -> Running {
        let scheduler = Arc::clone(&self.broker).run_scheduler();
        keep(&mut self.tasks, "the scheduler", scheduler);
        let followed = Arc::clone(&self.broker).follow();
        keep(&mut self.tasks, "the ear for other replicas", followed);
        let stop_api = CancellationToken::new();
        let service = Reasons.layer(self.direct.layer(self.routes.prepare()));
        let server = self.api.serve(service, stop_api.clone());
        keep(&mut self.tasks, "the API", server);
        if let Some((listener, routes)) = self.admin {
            let server = listener.serve(Reasons.layer(routes.prepare()), stop_api.clone());
            keep(&mut self.tasks, "the API of operators", server);
        }
        if let Some((listener, routes)) = self.pages {
            let server = listener.serve(routes.prepare(), stop_api.clone());
            keep(&mut self.tasks, "the pages", server);
        }
        self.readiness.open(true).await;
        let addresses = self.addresses;
        let Self { config, signals, broker, readiness, account, tasks, stop_ops, .. } = self;
        let mut app = Parts { config, signals, broker, readiness, account, tasks, stop_ops };
        let counted = watch::tell_ready(&app.config, &app.broker, addresses).await;
        let census = watch::take_censuses(Arc::clone(&app.broker), counted, app.stop_ops.clone());
        keep(&mut app.tasks, "the count of grants", census);
        Running { app, stop_api }
    }
}

impl Running {
    /// Serves until a signal asks it to stop, or a part of it ends unasked; then makes what is under
    /// way durable.
    pub async fn until_stopped(self) -> Result<(), AppError> {
        let Self { mut app, stop_api } = self;
        let failed = tokio::select! {
            ended = app.tasks.join_next() => Some(unasked(ended)),
            () = app.signals.asked() => None,
        };
        if let Some(failure) = &failed {
            error!(error = %failure, "stopping: refreshes under way are made durable first");
        }
        app.readiness.open(false).await;
        let drain = async {
            if failed.is_none() {
                sleep(app.config.shutdown.drain_delay).await;
            }
            stop_api.cancel();
            // Callers who wait for a refresh are answered before the server ends.
            app.broker.drain().await;
            app.stop_ops.cancel();
            let rest = async { while app.tasks.join_next().await.is_some() {} };
            // Answers are on their way. Streams and connections that say nothing would stay for ever.
            if timeout(LAST_ANSWERS, rest).await.is_err() {
                info!("connections that are still open are cut");
            }
            app.broker.close().await;
        };
        let shutdown = &app.config.shutdown;
        let drained = tokio::select! {
            drained = timeout(shutdown.drain_delay + shutdown.drain_max, drain) => drained,
            () = app.signals.insisted() => return Ok(()),
        };
        app.account.close().await;
        match (drained, failed) {
            (Ok(()), None) => {
                info!("stopped; nothing is left to store");
                Ok(())
            }
            (Ok(()), Some(failure)) => Err(failure),
            (Err(_elapsed), _) => Err(AppError::DrainTimeout {
                waited: shutdown.drain_max,
                unpublished: app.broker.metrics().unpublished_pairs.get(),
                kept: app.broker.store().journal.as_ref().is_some_and(|it| it.trouble.is_none()),
                flights: app.broker.metrics().flights.get(),
            }),
        }
    }
}

/// What is served beside tokens at the port of callers, and at one of the operators if they have their own.
fn routes<H>(
    config: &Config,
    admin: GrantAdminServiceServer<Admin>,
    health: H,
) -> Result<(Routes, Option<(SocketAddr, Routes)>), tonic_reflection::server::Error>
where
    H: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    H: Clone + Send + Sync + 'static,
    H::Future: Send,
{
    let described = |routes| if config.listen.reflection { reflection(routes) } else { Ok(routes) };
    let Some(address) = config.listen.admin else {
        return Ok((described(Routes::new(admin).add_service(health))?, None));
    };
    let of_operators = Routes::new(admin).add_service(health.clone());
    Ok((described(Routes::new(health))?, Some((address, described(of_operators)?))))
}

/// Supervises a part that runs until it is told to stop.
fn keep(tasks: &mut Tasks, what: &'static str, part: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        part.await;
        (what, Ok(()))
    });
}

/// How a part ended that nobody told to.
fn unasked(ended: Option<Result<Ended, JoinError>>) -> AppError {
    let (task, why) = match ended {
        Some(Ok((task, Ok(())))) => (task, "it came to its end".to_owned()),
        Some(Ok((task, Err(why)))) => (task, why),
        Some(Err(fell)) => ("a part of the program", fell.to_string()),
        None => ("everything", "nothing runs any more".to_owned()),
    };
    AppError::Ended { task, why }
}

/// How long connections may stay once every refresh is durable: enough for answers to arrive.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn a_part_that_ends_unasked_ends_the_process_with_an_error() {
        let environment = [
            ("TOKEN_BROKER__STORE__URL", "memory:"),
            ("TOKEN_BROKER__LISTEN__API", "127.0.0.1:0"),
            ("TOKEN_BROKER__LISTEN__OPS", "127.0.0.1:0"),
        ];
        let environment =
            environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let config = config::load(None, &environment).unwrap();
        let mut app = App::open(config, Clock::system()).await.unwrap().unwrap();
        app.tasks.spawn(async { ("a part that is to run for ever", Ok(())) });
        let ended = app.start().await.until_stopped().await.unwrap_err();
        assert!(matches!(ended, AppError::Ended { task, .. } if task.contains("for ever")));
    }
}
