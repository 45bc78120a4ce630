//! The map from domain errors to gRPC: the only place that makes a `tonic::Status`.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::error::{Error, Violation};
use crate::broker::model::{Reason, Verdict};
use crate::broker::store::StoreError;
use crate::proto::{ERROR_DOMAIN, ErrorReason};
use crate::service::Refusal;

/// Wait that is advised where the error itself knows none.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// Somebody must make room first.
const STORE_FULL_WAIT: Duration = Duration::from_secs(30);

/// The reason in the contract for a reason of the domain.
pub(crate) fn contract_reason(reason: Reason) -> ErrorReason {
    ErrorReason::from_wire_name(reason.name()).unwrap_or(ErrorReason::Internal)
}

/// Code, reason and waiting time of an error.
pub(crate) fn classify(error: &Error) -> (Code, ErrorReason, Option<Duration>) {
    let soon = Some(RETRY_AFTER_DEFAULT);
    match error {
        Error::Invalid(_) => (Code::InvalidArgument, ErrorReason::InvalidRequest, None),
        Error::GrantNotFound(_) => (Code::NotFound, ErrorReason::GrantNotFound, None),
        Error::GrantAlreadyExists(_) => {
            (Code::AlreadyExists, ErrorReason::GrantAlreadyExists, None)
        }
        Error::GrantRefused { verdict, .. } => {
            (Code::FailedPrecondition, contract_reason(verdict.reason), None)
        }
        Error::GrantDisabled(_) => (Code::FailedPrecondition, ErrorReason::GrantDisabled, None),
        Error::NotInDoubt(_) => (Code::FailedPrecondition, ErrorReason::GrantNotInDoubt, None),
        Error::EtagMismatch(_) => (Code::Aborted, ErrorReason::EtagMismatch, None),
        Error::MinTtlUnsatisfiable { .. } => {
            (Code::OutOfRange, ErrorReason::MinTtlUnsatisfiable, None)
        }
        Error::GenerationUnknown { .. } => (Code::Aborted, ErrorReason::GenerationUnknown, None),
        Error::ForceRefreshCooldown { retry_after, .. } => {
            (Code::ResourceExhausted, ErrorReason::ForceRefreshCooldown, Some(*retry_after))
        }
        Error::RefreshInProgress(_) => {
            (Code::DeadlineExceeded, ErrorReason::RefreshInProgress, soon)
        }
        Error::ProviderNotConfigured(_) => {
            (Code::NotFound, ErrorReason::ProviderNotConfigured, None)
        }
        Error::Upstream { failure, retry_after, .. } => {
            let code = upstream_code(failure.reason);
            let waits = matches!(code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted);
            let soon = match failure.disposition {
                // Without a time of its own it waits for an operator.
                Disposition::Unknown(_) => None,
                Disposition::NotSent | Disposition::NotProcessed | Disposition::Refused => soon,
            };
            let wait = retry_after.or(failure.retry_after).or(soon);
            (code, contract_reason(failure.reason), wait.filter(|_| waits))
        }
        Error::Store(store) => match store.as_ref() {
            StoreError::Unreadable { .. } => (Code::DataLoss, ErrorReason::RecordUnreadable, None),
            StoreError::BadCursor => (Code::InvalidArgument, ErrorReason::InvalidRequest, None),
            StoreError::Recovering { retry_after, .. } => {
                (Code::Unavailable, ErrorReason::StoreRecovering, Some(*retry_after))
            }
            StoreError::Full(_) => {
                (Code::ResourceExhausted, ErrorReason::StoreFull, Some(STORE_FULL_WAIT))
            }
            StoreError::Unavailable(_) | StoreError::Refused(_) => {
                (Code::Unavailable, ErrorReason::StoreUnavailable, soon)
            }
        },
        Error::EnrolmentUnknown => (Code::NotFound, ErrorReason::EnrollmentNotFound, None),
        Error::AnswerOfAnother(_) | Error::CodeRejected { .. } => {
            (Code::InvalidArgument, ErrorReason::AuthorizationCodeRejected, None)
        }
        Error::EnrolmentFailed { failure, .. } => {
            (upstream_code(failure.reason), contract_reason(failure.reason), None)
        }
        Error::EnrolmentGoesOn => (Code::DeadlineExceeded, ErrorReason::RefreshInProgress, None),
        Error::CodeOutcomeUnknown(_) => {
            (Code::Aborted, ErrorReason::AuthorizationCodeOutcomeUnknown, None)
        }
        Error::NoRefreshToken(_) => {
            (Code::FailedPrecondition, ErrorReason::RefreshTokenNotGranted, None)
        }
        // Nothing was refreshed, and nothing is in doubt.
        Error::NotRevoked { failure, .. } => match failure.disposition {
            Disposition::Unknown(_) => (Code::Unavailable, ErrorReason::ProviderUnavailable, soon),
            _ => (upstream_code(failure.reason), contract_reason(failure.reason), None),
        },
        Error::AccountUnproven { .. } => {
            (Code::FailedPrecondition, ErrorReason::EnrollmentAccountUnproven, None)
        }
        Error::OtherAccount(_) => {
            (Code::FailedPrecondition, ErrorReason::EnrollmentOtherAccount, None)
        }
        Error::CannotRevoke(_) => {
            (Code::FailedPrecondition, ErrorReason::ProviderCannotRevoke, None)
        }
        Error::Unauthenticated(_) => {
            (Code::Unauthenticated, ErrorReason::CallerUnauthenticated, None)
        }
        Error::CallersUnknown(_) => (Code::Unavailable, ErrorReason::CallerUnauthenticated, soon),
        Error::Denied { .. } => (Code::PermissionDenied, ErrorReason::PolicyDenied, None),
        Error::CallerLimited { retry_after, .. } => {
            (Code::ResourceExhausted, ErrorReason::CallerRateLimited, Some(*retry_after))
        }
        Error::EnrolmentsLimited { retry_after, .. } => {
            (Code::ResourceExhausted, ErrorReason::EnrollmentsLimited, Some(*retry_after))
        }
        Error::NotAudited => (Code::Unavailable, ErrorReason::AuditUnavailable, soon),
        Error::Draining => (Code::Unavailable, ErrorReason::Draining, soon),
        Error::NotImplemented(_) => (Code::Unimplemented, ErrorReason::NotImplemented, None),
        Error::Internal => (Code::Internal, ErrorReason::Internal, None),
    }
}

fn upstream_code(reason: Reason) -> Code {
    match reason {
        Reason::GrantReauthRequired
        | Reason::GrantInteractionRequired
        | Reason::GrantRefreshTokenLost
        | Reason::GrantRefreshTokenExpired
        | Reason::GrantNotRefreshable
        | Reason::GrantRevoked
        | Reason::GrantRefusedAlone
        | Reason::ScopeNotGranted
        | Reason::ProviderEndpointMisconfigured
        | Reason::ClientCredentialsRejected
        | Reason::ClientNotAuthorized
        | Reason::ClientMisconfigured => Code::FailedPrecondition,
        Reason::ResourceNotAllowed => Code::InvalidArgument,
        Reason::ProviderRateLimited => Code::ResourceExhausted,
        Reason::ProviderConflict => Code::Aborted,
        Reason::ProviderUnreachable
        | Reason::ProviderUnavailable
        | Reason::ProviderUnrecognizedError
        | Reason::ProviderRefusesMany
        | Reason::ProviderReplyIncomplete
        | Reason::RefreshOutcomeUnknown
        | Reason::RefreshReplyUnreadable
        | Reason::StoreUnavailable => Code::Unavailable,
    }
}

/// Makes the status that a caller sees.
#[expect(clippy::disallowed_methods, reason = "the one place that makes a Status")]
pub(crate) fn status(error: &Error) -> Status {
    let (code, reason, retry_after) = classify(error);
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.wire_name(), ERROR_DOMAIN, metadata(error));
    if let Some(wait) = retry_after {
        details.set_retry_info(Some(wait));
    }
    if let Error::Invalid(violations) = error {
        for Violation { field, description } in violations {
            details.add_bad_request_violation(*field, description);
        }
    }
    Status::with_error_details(code, error.to_string(), details)
}

/// The status of a call that is not let through.
#[expect(clippy::disallowed_methods, reason = "the one place that makes a Status")]
pub(crate) fn refused(refusal: Refusal) -> Status {
    let soon = Some(RETRY_AFTER_DEFAULT);
    let (code, reason, retry_after) = match refusal {
        Refusal::Overloaded => (Code::ResourceExhausted, ErrorReason::Overloaded, soon),
        Refusal::Unfinished => (Code::DeadlineExceeded, ErrorReason::RequestUnfinished, None),
        Refusal::Leaving => (Code::Unavailable, ErrorReason::Draining, soon),
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.wire_name(), ERROR_DOMAIN, HashMap::new());
    if retry_after.is_some() {
        details.set_retry_info(retry_after);
    }
    Status::with_error_details(code, refusal.to_string(), details)
}

/// What to say instead of an error that the gRPC library made by itself; `None` if it is no error
/// or one of ours. Messages too large or not readable are the caller's to mend, like any other
/// malformed request.
#[expect(clippy::disallowed_methods, reason = "the one place that makes a Status")]
pub(crate) fn foreign(status: &Status) -> Option<Status> {
    if status.code() == Code::Ok || !status.details().is_empty() {
        return None;
    }
    let malformed =
        matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Internal);
    let (code, reason) = match status.code() {
        Code::Unimplemented => (Code::Unimplemented, ErrorReason::NotImplemented),
        _ if malformed => (Code::InvalidArgument, ErrorReason::InvalidRequest),
        other => (other, ErrorReason::Internal),
    };
    let mut details = ErrorDetails::new();
    details.set_error_info(reason.wire_name(), ERROR_DOMAIN, HashMap::new());
    let message = match (code, status.message()) {
        (Code::Unimplemented, "") => {
            "there is no such method at this address; reflection lists them, and GrantAdminService may have \
             an address of its own (`listen.admin`)"
        }
        (_, message) => message,
    };
    Some(Status::with_error_details(code, message, details))
}

/// Every variable part of the message, for programs. Never a secret, never text of a provider
/// beyond its error code.
fn metadata(error: &Error) -> HashMap<String, String> {
    let mut metadata = HashMap::new();
    let mut put = |name: &str, value: String| {
        metadata.insert(name.to_owned(), value);
    };
    match error {
        Error::GrantNotFound(grant)
        | Error::GrantAlreadyExists(grant)
        | Error::GrantDisabled(grant)
        | Error::NotInDoubt(grant)
        | Error::EtagMismatch(grant)
        | Error::OtherAccount(grant)
        | Error::RefreshInProgress(grant)
        | Error::ForceRefreshCooldown { grant, .. } => put("grant_id", grant.to_string()),
        Error::GrantRefused { grant, verdict } => {
            put("grant_id", grant.to_string());
            let Verdict { provider_error, provider_status, .. } = verdict;
            provider_parts(&mut put, provider_error.as_deref(), *provider_status);
        }
        Error::MinTtlUnsatisfiable { grant, min_ttl, lifetime } => {
            put("grant_id", grant.to_string());
            put("min_ttl", humantime::format_duration(*min_ttl).to_string());
            put("max_ttl", humantime::format_duration(*lifetime).to_string());
        }
        Error::GenerationUnknown { grant, named, current } => {
            put("grant_id", grant.to_string());
            put("generation", named.to_string());
            put("current_generation", current.to_string());
        }
        Error::ProviderNotConfigured(provider)
        | Error::AnswerOfAnother(provider)
        | Error::CodeOutcomeUnknown(provider)
        | Error::CannotRevoke(provider)
        | Error::AccountUnproven { provider, .. }
        | Error::NoRefreshToken(provider) => put("provider", provider.to_string()),
        Error::CodeRejected { provider, failure }
        | Error::EnrolmentFailed { provider, failure } => {
            put("provider", provider.to_string());
            let Failure { provider_error, status, .. } = failure;
            provider_parts(&mut put, provider_error.as_deref(), *status);
        }
        Error::Upstream { grant, provider, failure, .. }
        | Error::NotRevoked { grant, provider, failure } => {
            put("grant_id", grant.to_string());
            put("provider", provider.to_string());
            let Failure { provider_error, status, .. } = failure;
            provider_parts(&mut put, provider_error.as_deref(), *status);
        }
        Error::Store(store) => {
            if let StoreError::Unreadable { grant, .. } = store.as_ref() {
                put("grant_id", grant.to_string());
            }
        }
        Error::NotImplemented(what) => put("method", (*what).to_owned()),
        Error::Invalid(violations) => {
            let fields: Vec<_> = violations.iter().map(|violation| violation.field).collect();
            put("fields", fields.join(","));
        }
        Error::Denied { caller, action, .. } => {
            put("caller", caller.clone());
            put("action", (*action).to_owned());
        }
        Error::CallerLimited { caller, limit, .. } => {
            put("caller", caller.clone());
            put("limit", (*limit).to_owned());
        }
        Error::EnrolmentsLimited { limit, .. } => put("limit", (*limit).to_owned()),
        Error::Unauthenticated(_)
        | Error::CallersUnknown(_)
        | Error::EnrolmentUnknown
        | Error::EnrolmentGoesOn
        | Error::NotAudited
        | Error::Draining
        | Error::Internal => {}
    }
    metadata
}

fn provider_parts(put: &mut impl FnMut(&str, String), error: Option<&str>, status: Option<u16>) {
    if let Some(error) = error {
        put("provider_error", error.to_owned());
    }
    if let Some(status) = status {
        put("provider_status", status.to_string());
    }
}

/// What gRPC calls a code.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_domain_is_in_the_contract() {
        for reason in Reason::ALL {
            assert_eq!(contract_reason(reason).wire_name(), reason.name());
            assert_eq!(Reason::from_name(reason.name()), Some(reason));
        }
    }
}
