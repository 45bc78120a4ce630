//! Why there is no token: refusals by the provider's own rules, by code, by status. Pure.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::broker::endpoint::{Concern, Disposition, Failure};
use crate::broker::model::{DoubtKind, Reason};
use crate::upstream::provider::{Meaning, Provider};
use crate::upstream::reply::raw::Raw;

/// Longest wait that a provider can ask for: a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// Most characters of a provider's error code that are shown.
const ERROR_LEN_MAX: usize = 64;
/// The status of a client that did not prove who it is.
const UNAUTHORIZED: u16 = 401;
/// From here on the server failed, and not the request.
const SERVER_ERRORS: u16 = 500;

/// A success without a token: it was processed, and what it brought cannot be read.
pub(super) fn unreadable(raw: &Raw<'_>, fields: Option<&Map<String, Value>>) -> Failure {
    Failure {
        reason: Reason::RefreshReplyUnreadable,
        disposition: Disposition::Unknown(DoubtKind::Unreadable),
        concern: Concern::Grant,
        status: Some(raw.status),
        provider_error: fields.and_then(code).map(|code| sanitised(&code)),
        retry_after: None,
    }
}

/// Reads a refusal: first by the provider's own rules, then by the standard's error code, then by
/// the HTTP status. A 401 is about our client whatever its code: RFC 6749 section 5.2 keeps the
/// status for that, and Keycloak for one sends it with another code than `invalid_client`.
pub(super) fn refused(
    provider: &Provider,
    raw: &Raw<'_>,
    text: &str,
    fields: Option<&Map<String, Value>>,
) -> Failure {
    let code = fields.and_then(code);
    let rule = provider
        .error_map
        .iter()
        .find(|rule| rule.matches(raw.status, code.as_deref(), text))
        .map(|rule| by_rule(rule.meaning));
    // A gateway may answer with a server error, and words of the standard in it, while the server
    // behind it goes on.
    let told = raw.status != UNAUTHORIZED && raw.status < SERVER_ERRORS;
    let by_code = || code.as_deref().filter(|_| told).and_then(by_code);
    let (reason, disposition, concern) =
        rule.or_else(by_code).unwrap_or_else(|| by_status(raw, fields.is_some()));
    Failure {
        reason,
        disposition,
        concern,
        status: Some(raw.status),
        provider_error: code.map(|code| sanitised(&code)),
        retry_after: raw.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)),
    }
}

type Reading = (Reason, Disposition, Concern);

fn by_rule(meaning: Meaning) -> Reading {
    use Disposition::{NotProcessed, Refused};
    match meaning {
        Meaning::Reauth => (Reason::GrantReauthRequired, Refused, Concern::Grant),
        Meaning::Client => (Reason::ClientCredentialsRejected, NotProcessed, Concern::Provider),
        Meaning::Unavailable => (Reason::ProviderUnavailable, NotProcessed, Concern::Grant),
        Meaning::Conflict => (Reason::ProviderConflict, NotProcessed, Concern::Grant),
    }
}

/// RFC 6749 section 5.2 and its neighbours.
fn by_code(code: &str) -> Option<Reading> {
    use Concern::{Grant, Provider};
    use Disposition::{NotProcessed, Refused};
    Some(match code {
        "invalid_grant" => (Reason::GrantReauthRequired, Refused, Grant),
        "interaction_required" | "login_required" | "consent_required" => {
            (Reason::GrantInteractionRequired, Refused, Grant)
        }
        "invalid_client" => (Reason::ClientCredentialsRejected, NotProcessed, Provider),
        "unauthorized_client" | "unsupported_grant_type" => {
            (Reason::ClientNotAuthorized, NotProcessed, Provider)
        }
        "invalid_dpop_proof" => (Reason::ClientMisconfigured, NotProcessed, Provider),
        "invalid_scope" => (Reason::ScopeNotGranted, NotProcessed, Grant),
        "invalid_target" => (Reason::ResourceNotAllowed, NotProcessed, Grant),
        "slow_down" => (Reason::ProviderRateLimited, NotProcessed, Provider),
        "temporarily_unavailable" => (Reason::ProviderUnavailable, NotProcessed, Grant),
        _ => return None,
    })
}

fn by_status(raw: &Raw<'_>, structured: bool) -> Reading {
    use Concern::{Grant, Provider};
    use Disposition::NotProcessed;
    const UNKNOWN: Disposition = Disposition::Unknown(DoubtKind::Answered);
    match raw.status {
        UNAUTHORIZED => (Reason::ClientCredentialsRejected, NotProcessed, Provider),
        300..=399 | 404 | 405 | 415 => {
            (Reason::ProviderEndpointMisconfigured, NotProcessed, Provider)
        }
        429 => (Reason::ProviderRateLimited, NotProcessed, Provider),
        408 => (Reason::RefreshOutcomeUnknown, UNKNOWN, Grant),
        400..=499 if structured => (Reason::ProviderUnrecognizedError, NotProcessed, Grant),
        // A page for people comes from a firewall or proxy, which knows nothing of the grant.
        400..=499 => (Reason::ProviderUnavailable, NotProcessed, Grant),
        // The provider may have spent the token before it broke.
        _ => (Reason::RefreshOutcomeUnknown, UNKNOWN, Grant),
    }
}

/// The `error` of a reply, also where it is an object with a code.
fn code(fields: &Map<String, Value>) -> Option<String> {
    let error = fields.get("error")?;
    let code = error.as_str().or_else(|| error.get("code")?.as_str())?;
    Some(code.to_owned())
}

/// The characters that RFC 6749 section 5.2 allows, and not too many of them.
fn sanitised(code: &str) -> String {
    let allowed = |c: &char| matches!(c, ' '..='!' | '#'..='[' | ']'..='~');
    code.chars().filter(allowed).take(ERROR_LEN_MAX).collect()
}
