//! For Rust callers: connect to a broker, and errors with their reasons.

use std::time::Duration;

use thiserror::Error;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
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
    pub tokens: TokenServiceClient<Channel>,
    /// Manages grants.
    pub admin: GrantAdminServiceClient<Channel>,
}

impl Client {
    /// Connects to `address`, such as `http://127.0.0.1:50051`.
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(address.to_owned())?.connect_timeout(CONNECT_TIMEOUT);
        let channel = endpoint.connect().await?;
        Ok(Self {
            tokens: TokenServiceClient::new(channel.clone()),
            admin: GrantAdminServiceClient::new(channel),
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
