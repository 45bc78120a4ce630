//! Calls: who asks for what, and until when.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::policy::{self, Target};
use crate::proto;
use crate::service::gate::Who;
use crate::service::limits::Place;

/// The answer leaves this long before the caller's deadline, or at a tenth of it, whichever is
/// shorter: an answer that arrives late arrives without its details.
pub(super) const ANSWER_LEAD: Duration = Duration::from_millis(50);
/// See [`ANSWER_LEAD`].
const ANSWER_LEAD_SHARE: u32 = 10;

/// A call on its way through the edge. Whatever is decided about a caller is decided on this.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) who: Who,
    /// The rule that lets it in.
    pub(super) rule: Option<Arc<str>>,
    /// Its place among those of its caller, until the last that knows of it has ended.
    pub(super) place: Option<Arc<Place>>,
    /// The trace that it belongs to, as its caller says.
    pub(super) trace: Option<MetadataValue<Ascii>>,
    pub(super) action: Action,
    pub(super) start: Instant,
    /// The answer must be ready by then.
    pub(super) deadline: Instant,
}

impl Call {
    /// A call that begins now and waits no longer than its caller, and than `wait_max`.
    pub(super) fn begin(action: Action, metadata: &MetadataMap, wait_max: Duration) -> Self {
        let start = Instant::now();
        let deadline = start + budget(metadata, wait_max);
        let trace = metadata.get("traceparent").cloned();
        Self { who: Who::default(), rule: None, place: None, trace, action, start, deadline }
    }
}

/// A request that may name the grant which it is about.
pub(super) trait Named {
    /// Its name, as it was sent; `None`: it is about none, or about one that it does not name.
    fn grant(&self) -> Option<&str>;

    /// What it is about, as rules see it.
    fn target(&self) -> Target<'_> {
        Target { grant: self.grant(), ..Target::default() }
    }
}

macro_rules! named {
    ($($request:ty),* $(,)?) => {
        $(impl Named for $request {
            fn grant(&self) -> Option<&str> {
                Some(&self.grant_id)
            }
        })*
    };
}

/// Requests that make a grant, or make it anew.
macro_rules! making {
    ($($request:ty),* $(,)?) => {
        $(impl Named for $request {
            fn grant(&self) -> Option<&str> {
                Some(&self.grant_id)
            }

            fn target(&self) -> Target<'_> {
                Target {
                    grant: Some(&self.grant_id),
                    provider: Some(&self.provider_id),
                    scopes: Some(&self.scopes),
                }
            }
        })*
    };
}

macro_rules! nameless {
    ($($request:ty),* $(,)?) => {
        $(impl Named for $request {
            fn grant(&self) -> Option<&str> {
                None
            }
        })*
    };
}

named!(
    proto::GetTokenRequest,
    proto::ForceRefreshRequest,
    proto::WatchTokenRequest,
    proto::GetGrantRequest,
    proto::RotateGrantRequest,
    proto::RevokeGrantRequest,
    proto::DeleteGrantRequest,
    proto::DisableGrantRequest,
    proto::EnableGrantRequest,
    proto::ResolveGrantRequest,
);
making!(proto::StartEnrollmentRequest, proto::ImportGrantRequest, proto::CreateGrantRequest,);
nameless!(
    // The grant is that of the enrolment: it is asked for once that is read.
    proto::CompleteEnrollmentRequest,
    proto::GetEnrollmentRequest,
    proto::CancelEnrollmentRequest,
    // Each grant is looked at by itself.
    proto::ListGrantsRequest,
    proto::ListProvidersRequest,
    proto::GetBrokerStatusRequest,
    proto::ConfirmEmptyStoreRequest,
    proto::ReleaseProviderRequest,
    proto::RewrapKeysRequest,
);

impl Named for proto::UpdateGrantRequest {
    fn grant(&self) -> Option<&str> {
        Some(self.grant.as_ref().map_or("", |grant| &grant.grant_id))
    }

    fn target(&self) -> Target<'_> {
        let mut paths = self.update_mask.iter().flat_map(|mask| &mask.paths);
        let changes = paths.any(|path| path == "scopes");
        let scopes = self.grant.as_ref().filter(|_| changes).map(|grant| grant.scopes.as_slice());
        Target { grant: self.grant(), scopes, ..Target::default() }
    }
}

/// What is asked for: each method of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Action {
    GetToken,
    ForceRefresh,
    WatchToken,
    StartEnrollment,
    CompleteEnrollment,
    GetEnrollment,
    CancelEnrollment,
    ImportGrant,
    CreateGrant,
    GetGrant,
    ListGrants,
    UpdateGrant,
    RotateGrant,
    RevokeGrant,
    DeleteGrant,
    DisableGrant,
    EnableGrant,
    ResolveGrant,
    ListProviders,
    GetBrokerStatus,
    ConfirmEmptyStore,
    ReleaseProvider,
    RewrapKeys,
}

impl Action {
    /// How many there are.
    pub(super) const COUNT: usize = Self::RewrapKeys as usize + 1;

    /// Full name of the method.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::GetToken => "tokenbroker.v1.TokenService/GetToken",
            Self::ForceRefresh => "tokenbroker.v1.TokenService/ForceRefresh",
            Self::WatchToken => "tokenbroker.v1.TokenService/WatchToken",
            Self::StartEnrollment => "tokenbroker.v1.GrantAdminService/StartEnrollment",
            Self::CompleteEnrollment => "tokenbroker.v1.GrantAdminService/CompleteEnrollment",
            Self::GetEnrollment => "tokenbroker.v1.GrantAdminService/GetEnrollment",
            Self::CancelEnrollment => "tokenbroker.v1.GrantAdminService/CancelEnrollment",
            Self::ImportGrant => "tokenbroker.v1.GrantAdminService/ImportGrant",
            Self::CreateGrant => "tokenbroker.v1.GrantAdminService/CreateGrant",
            Self::GetGrant => "tokenbroker.v1.GrantAdminService/GetGrant",
            Self::ListGrants => "tokenbroker.v1.GrantAdminService/ListGrants",
            Self::UpdateGrant => "tokenbroker.v1.GrantAdminService/UpdateGrant",
            Self::RotateGrant => "tokenbroker.v1.GrantAdminService/RotateGrant",
            Self::RevokeGrant => "tokenbroker.v1.GrantAdminService/RevokeGrant",
            Self::DeleteGrant => "tokenbroker.v1.GrantAdminService/DeleteGrant",
            Self::DisableGrant => "tokenbroker.v1.GrantAdminService/DisableGrant",
            Self::EnableGrant => "tokenbroker.v1.GrantAdminService/EnableGrant",
            Self::ResolveGrant => "tokenbroker.v1.GrantAdminService/ResolveGrant",
            Self::ListProviders => "tokenbroker.v1.GrantAdminService/ListProviders",
            Self::GetBrokerStatus => "tokenbroker.v1.GrantAdminService/GetBrokerStatus",
            Self::ConfirmEmptyStore => "tokenbroker.v1.GrantAdminService/ConfirmEmptyStore",
            Self::ReleaseProvider => "tokenbroker.v1.GrantAdminService/ReleaseProvider",
            Self::RewrapKeys => "tokenbroker.v1.GrantAdminService/RewrapKeys",
        }
    }

    /// What the policy calls it.
    pub(super) fn in_policy(self) -> policy::Action {
        match self {
            Self::GetToken => policy::Action::GetToken,
            Self::ForceRefresh => policy::Action::ForceRefresh,
            Self::WatchToken => policy::Action::WatchToken,
            Self::StartEnrollment
            | Self::CompleteEnrollment
            | Self::GetEnrollment
            | Self::CancelEnrollment => policy::Action::EnrollGrant,
            Self::ImportGrant => policy::Action::ImportGrant,
            Self::CreateGrant => policy::Action::CreateGrant,
            Self::GetGrant => policy::Action::GetGrant,
            Self::ListGrants => policy::Action::ListGrants,
            Self::UpdateGrant => policy::Action::UpdateGrant,
            Self::RotateGrant => policy::Action::RotateGrant,
            Self::RevokeGrant => policy::Action::RevokeGrant,
            Self::DeleteGrant => policy::Action::DeleteGrant,
            Self::DisableGrant => policy::Action::DisableGrant,
            Self::EnableGrant => policy::Action::EnableGrant,
            Self::ResolveGrant => policy::Action::ResolveGrant,
            Self::ListProviders => policy::Action::ListProviders,
            Self::GetBrokerStatus => policy::Action::GetBrokerStatus,
            Self::ConfirmEmptyStore => policy::Action::ConfirmStore,
            Self::ReleaseProvider => policy::Action::ReleaseProvider,
            Self::RewrapKeys => policy::Action::RewrapKeys,
        }
    }

    /// It changes a grant, or what the broker makes of its store.
    pub(super) fn changes(self) -> bool {
        match self {
            Self::GetToken
            | Self::ForceRefresh
            | Self::WatchToken
            | Self::GetEnrollment
            | Self::GetGrant
            | Self::ListGrants
            | Self::ListProviders
            | Self::GetBrokerStatus => false,
            Self::StartEnrollment
            | Self::CompleteEnrollment
            | Self::CancelEnrollment
            | Self::ImportGrant
            | Self::CreateGrant
            | Self::UpdateGrant
            | Self::RotateGrant
            | Self::RevokeGrant
            | Self::DeleteGrant
            | Self::DisableGrant
            | Self::EnableGrant
            | Self::ResolveGrant
            | Self::ConfirmEmptyStore
            | Self::ReleaseProvider
            | Self::RewrapKeys => true,
        }
    }

    /// Name of the method within its service.
    pub(super) fn name(self) -> &'static str {
        self.method().rsplit('/').next().unwrap_or_default()
    }
}

/// How long a call may take.
fn budget(metadata: &MetadataMap, wait_max: Duration) -> Duration {
    let given = metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    let Some(given) = given else { return wait_max };
    let lead = ANSWER_LEAD.min(given / ANSWER_LEAD_SHARE);
    given.saturating_sub(lead).min(wait_max)
}

/// `grpc-timeout`: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grpc_timeouts() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("500m"), Some(Duration::from_millis(500)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5x", "-5S", "123456789S", "5é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
