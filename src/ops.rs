//! The operators' port: liveness, readiness, metrics, and gRPC health in plaintext.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
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
    ready: Arc<AtomicBool>,
    reporter: HealthReporter,
}

impl Readiness {
    /// Not ready yet; the second part serves gRPC health.
    pub async fn new() -> (Self, HealthServer<impl Health>) {
        let (reporter, server) = tonic_health::server::health_reporter();
        let readiness = Self { ready: Arc::new(AtomicBool::new(false)), reporter };
        readiness.set(false).await;
        (readiness, server)
    }

    /// Welcomes callers, or sends them elsewhere.
    pub async fn set(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
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
        .route(
            "/readyz",
            get(move || async move {
                if readiness.ready() {
                    (StatusCode::OK, "ready\n")
                } else {
                    (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
                }
            }),
        )
        .route(
            "/metrics",
            get(move || async move {
                ([(header::CONTENT_TYPE, OPENMETRICS)], telemetry::expose(&registry))
                    .into_response()
            }),
        );
    Routes::from(http).add_service(health)
}
