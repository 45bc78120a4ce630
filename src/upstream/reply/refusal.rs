//! Why there is no token: refusals by the provider's own rules, by code, by status. Pure.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::model::{DoubtKind, Reason};
use crate::upstream::provider::{Meaning, Provider};
use crate::upstream::reply::raw::Raw;
use crate::upstream::reply::said::said;

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
    let unknown = Disposition::Unknown(DoubtKind::Unreadable);
    Failure {
        status: Some(raw.status),
        provider_error: fields.and_then(code).map(|code| sanitised(&code)),
        detail: said(fields, &raw.known()),
        ..Failure::new(Reason::RefreshReplyUnreadable, unknown)
    }
}

/// A success with an access token that is past its end: servers that report what is left say so in its
/// last second. Nothing is in doubt.
pub(super) fn over(raw: &Raw<'_>) -> Failure {
    let failure = Failure::new(Reason::ProviderUnavailable, Disposition::NotProcessed);
    let detail = "the access token that it sent is past its end (expires_in)".to_owned();
    Failure { status: Some(raw.status), detail: Some(detail), ..failure }
}

/// A success that is none, by the provider's own rules: the first that names its words.
pub(super) fn mapped(
    provider: &Provider,
    raw: &Raw<'_>,
    text: &str,
    fields: &Map<String, Value>,
) -> Option<Failure> {
    let code = code(fields);
    let meaning = provider.error_map.meaning_of_success(raw.status, code.as_deref(), text)?;
    let (reason, disposition) = by_rule(meaning);
    Some(Failure {
        status: Some(raw.status),
        provider_error: code.map(|code| sanitised(&code)),
        detail: said(Some(fields), &raw.known()),
        retry_after: raw.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)),
        ..Failure::new(reason, disposition)
    })
}

/// Reads a refusal: first by the provider's own rules, then by the standard's error code, then by
/// the HTTP status. A code outweighs the status: providers send `invalid_grant` with 401 and 403, too.
pub(super) fn refused(
    provider: &Provider,
    raw: &Raw<'_>,
    text: &str,
    fields: Option<&Map<String, Value>>,
) -> Failure {
    let code = fields.and_then(code);
    let rule = provider.error_map.meaning(raw.status, code.as_deref(), text).map(by_rule);
    // A gateway may answer with a server error, and words of the standard in it, while the server
    // behind it goes on.
    let told = raw.status < SERVER_ERRORS;
    let by_code = || code.as_deref().filter(|_| told).and_then(|code| by_code(code, raw.status));
    let (reason, disposition) =
        rule.or_else(by_code).unwrap_or_else(|| by_status(raw, fields.is_some()));
    Failure {
        status: Some(raw.status),
        provider_error: code.map(|code| sanitised(&code)),
        detail: said(fields, &raw.known()),
        retry_after: raw.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)),
        ..Failure::new(reason, disposition)
    }
}

type Meant = (Reason, Disposition);

fn by_rule(meaning: Meaning) -> Meant {
    use Disposition::{NotProcessed, Refused};
    match meaning {
        Meaning::Reauth => (Reason::GrantReauthRequired, Refused),
        Meaning::Client => (Reason::ClientCredentialsRejected, NotProcessed),
        Meaning::Unavailable => (Reason::ProviderUnavailable, NotProcessed),
        Meaning::Conflict => (Reason::ProviderConflict, NotProcessed),
        Meaning::RateLimited => (Reason::ProviderRateLimited, NotProcessed),
    }
}

/// RFC 6749 section 5.2 and its neighbours.
fn by_code(code: &str, status: u16) -> Option<Meant> {
    use Disposition::{NotProcessed, Refused};
    Some(match code {
        "invalid_grant" => (Reason::GrantReauthRequired, Refused),
        "interaction_required"
        | "login_required"
        | "consent_required"
        | "account_selection_required" => (Reason::GrantInteractionRequired, Refused),
        "invalid_client" => (Reason::ClientCredentialsRejected, NotProcessed),
        // Keycloak says so of a wrong secret.
        "unauthorized_client" if status == UNAUTHORIZED => {
            (Reason::ClientCredentialsRejected, NotProcessed)
        }
        "unauthorized_client" | "unsupported_grant_type" => {
            (Reason::ClientNotAuthorized, NotProcessed)
        }
        "invalid_dpop_proof" => (Reason::ClientMisconfigured, NotProcessed),
        "invalid_scope" => (Reason::ScopeNotGranted, NotProcessed),
        "invalid_target" => (Reason::ResourceNotAllowed, NotProcessed),
        "slow_down" => (Reason::ProviderRateLimited, NotProcessed),
        "temporarily_unavailable" => (Reason::ProviderUnavailable, NotProcessed),
        _ => return None,
    })
}

fn by_status(raw: &Raw<'_>, structured: bool) -> Meant {
    use Disposition::NotProcessed;
    const UNKNOWN: Disposition = Disposition::Unknown(DoubtKind::Answered);
    match raw.status {
        UNAUTHORIZED => (Reason::ClientCredentialsRejected, NotProcessed),
        300..=399 | 404 | 405 | 415 => (Reason::ProviderEndpointMisconfigured, NotProcessed),
        429 => (Reason::ProviderRateLimited, NotProcessed),
        408 => (Reason::RefreshOutcomeUnknown, UNKNOWN),
        400..=499 if structured => (Reason::ProviderUnrecognizedError, NotProcessed),
        // A page for people comes from a firewall or proxy, which knows nothing of the grant.
        400..=499 => (Reason::ProviderUnavailable, NotProcessed),
        // The provider may have spent the token before it broke.
        _ => (Reason::RefreshOutcomeUnknown, UNKNOWN),
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
