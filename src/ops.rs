//! The operators' port: liveness, readiness, metrics, and gRPC health in plaintext.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::telemetry;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Everything that gRPC health is asked about.
const SERVICES: [&str; 3] = ["", "tokenbroker.v1.TokenService", "tokenbroker.v1.GrantAdminService"];

/// Whether callers are welcome: the same for HTTP and gRPC.
#[derive(Clone)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
    reporter: HealthReporter,
}

/// What readiness rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    /// Between start and stop.
    open: bool,
    /// Why nothing can be written to the store.
    trouble: Option<String>,
    /// Some tokens can be served from memory.
    serves: bool,
}

impl State {
    /// A store in trouble is all replicas' trouble: whoever can serve from memory stays, or nobody
    /// would be left to ask.
    fn ready(&self) -> bool {
        self.open && (self.trouble.is_none() || self.serves)
    }

    fn page(&self) -> (StatusCode, String) {
        match (&self.trouble, self.ready()) {
            (None, true) => (StatusCode::OK, "ready\n".to_owned()),
            (Some(why), true) => (StatusCode::OK, format!("ready, from memory alone: {why}\n")),
            (Some(why), false) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            (None, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        }
    }
}

impl Readiness {
    /// Not ready yet; the second part serves gRPC health.
    pub async fn new() -> (Self, HealthServer<impl Health>) {
        let (reporter, server) = tonic_health::server::health_reporter();
        let readiness = Self { state: Arc::default(), reporter };
        readiness.report(false).await;
        (readiness, server)
    }

    /// Welcomes callers, or sends them elsewhere.
    pub async fn open(&self, open: bool) {
        self.change(|state| state.open = open).await;
    }

    /// Says how the store is.
    pub async fn store(&self, trouble: Option<String>, serves: bool) {
        self.change(|state| (state.trouble, state.serves) = (trouble, serves)).await;
    }

    async fn change(&self, change: impl FnOnce(&mut State)) {
        let (before, after) = {
            let mut state = self.state.lock();
            let before = state.ready();
            change(&mut state);
            (before, state.ready())
        };
        if before != after {
            self.report(after).await;
        }
    }

    async fn report(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    fn page(&self) -> (StatusCode, String) {
        self.state.lock().page()
    }
}

/// What the operators' port serves.
pub fn routes(
    readiness: Readiness,
    health: HealthServer<impl Health>,
    registry: Arc<Registry>,
) -> Routes {
    let http: Router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || async move { readiness.page() }))
        .route(
            "/metrics",
            get(move || async move {
                ([(header::CONTENT_TYPE, OPENMETRICS)], telemetry::expose(&registry))
                    .into_response()
            }),
        );
    Routes::from(http).add_service(health)
}
