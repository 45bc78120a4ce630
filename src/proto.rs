//! The contract: bindings generated from `proto/`, and `Debug` for the messages that hold secrets.

use std::fmt;

mod codec;
mod reply;

#[expect(clippy::all, clippy::pedantic, reason = "generated code")]
#[cfg_attr(feature = "server", expect(clippy::allow_attributes, reason = "generated code"))]
mod bindings {
    tonic::include_proto!("tokenbroker.v1");
}

pub use bindings::*;
pub use codec::Codec;
pub use reply::GetTokenResponse;

/// Descriptors of the contract, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/tokenbroker.binpb"));

/// Domain of every `google.rpc.ErrorInfo` of this API.
pub const ERROR_DOMAIN: &str = "tokenbroker.dev";

const PREFIX: &str = "ERROR_REASON_";

impl ErrorReason {
    /// The name on the wire: without the prefix of the enum.
    pub fn wire_name(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The reason that has this name on the wire.
    pub fn from_wire_name(name: &str) -> Option<Self> {
        Self::from_str_name(&format!("{PREFIX}{name}"))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("generation", &self.generation)
            .field("fingerprint", &self.fingerprint)
            .field("expire_time", &self.expire_time)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ImportGrantRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportGrantRequest")
            .field("grant_id", &self.grant_id)
            .field("provider_id", &self.provider_id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CompleteEnrollmentRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompleteEnrollmentRequest").finish_non_exhaustive()
    }
}
