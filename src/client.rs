//! For Rust callers: connect to a broker, and errors with their reasons.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::proto::ErrorReason;
use crate::proto::grant_admin_service_client::GrantAdminServiceClient;
use crate::proto::token_service_client::TokenServiceClient;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a broker.
#[derive(Debug, Clone)]
pub struct Client {
    /// Hands out tokens.
    pub tokens: TokenServiceClient<Calls>,
    /// Manages grants.
    pub admin: GrantAdminServiceClient<Calls>,
}

/// Calls that prove who makes them.
pub type Calls = InterceptedService<Channel, Bearer>;

/// The token that proves who calls, in a file that is read for each call: projected tokens change every
/// few minutes.
#[derive(Debug, Clone, Default)]
pub struct Bearer(Option<Arc<Path>>);

impl Bearer {
    /// Nobody has to prove anything.
    pub fn none() -> Self {
        Self::default()
    }

    /// The token in this file.
    pub fn from_file(path: PathBuf) -> Self {
        Self(Some(path.into()))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(path) = &self.0 else { return Ok(request) };
        let shown = path.display();
        let token = std::fs::read_to_string(path)
            .map_err(|error| Status::unauthenticated(format!("{shown} cannot be read: {error}")))?;
        let header = format!("Bearer {}", token.trim());
        let mut header = AsciiMetadataValue::try_from(header)
            .map_err(|_| Status::unauthenticated(format!("{shown} holds no token")))?;
        header.set_sensitive(true);
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

impl Client {
    /// Connects to `address`, such as `http://127.0.0.1:50051`.
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        Self::connect_as(address, Bearer::none(), ClientTlsConfig::new().with_native_roots()).await
    }

    /// The same, and proves who calls. `tls` says whom to trust behind `https://`, and may hold our own
    /// certificate.
    pub async fn connect_as(
        address: &str,
        bearer: Bearer,
        tls: ClientTlsConfig,
    ) -> Result<Self, tonic::transport::Error> {
        // Whoever was first has chosen the same provider.
        #[cfg(feature = "server")]
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let endpoint = Endpoint::from_shared(address.to_owned())?.connect_timeout(CONNECT_TIMEOUT);
        let safe = endpoint.uri().scheme_str() == Some("https");
        let endpoint = if safe { endpoint.tls_config(tls)? } else { endpoint };
        let channel = endpoint.connect().await?;
        Ok(Self {
            tokens: TokenServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            admin: GrantAdminServiceClient::with_interceptor(channel, bearer),
        })
    }
}

/// An answer that is an error, with what programs need to act on it.
#[derive(Debug, Clone, Error)]
#[error("{message}")]
pub struct CallError {
    /// The gRPC code.
    pub code: Code,
    /// Why; `Unspecified` if the answer does not come from a broker.
    pub reason: ErrorReason,
    /// For people.
    pub message: String,
    /// How long to wait before the next try, where that helps.
    pub retry_after: Option<Duration>,
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason =
            details.error_info().and_then(|info| ErrorReason::from_wire_name(&info.reason));
        Self {
            code: status.code(),
            reason: reason.unwrap_or(ErrorReason::Unspecified),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}
