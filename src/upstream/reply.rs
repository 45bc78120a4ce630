//! How a token endpoint's answer is read: success leniently, failure strictly. Pure.
//!
//! The refresh token is taken from a successful reply before anything else is judged, even from
//! the bytes of a reply that broke off. It is taken from no other reply: an error report may well
//! hold a field of that name that is no token.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::broker::endpoint::{Concern, Disposition, Failure, Issued, Reply};
use crate::broker::model::{DoubtKind, Reason};
use crate::secret::{AccessToken, RefreshToken};
use crate::upstream::provider::{Meaning, Provider};

/// Longest lifetime that is believed: ten years.
const LIFETIME_MAX_S: f64 = 10.0 * 365.0 * 86_400.0;
/// Shortest lifetime that is believed.
const LIFETIME_MIN_S: f64 = 1.0;
/// Longest wait that a provider can ask for: a day.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// Most characters of a provider's error code that are shown.
const ERROR_LEN_MAX: usize = 64;

/// The status of a client that did not prove who it is.
const UNAUTHORIZED: u16 = 401;

/// From here on the server failed, and not the request.
const SERVER_ERRORS: u16 = 500;

/// What providers call the lifetime of the refresh token.
const REFRESH_LIFETIMES: [&str; 3] =
    ["refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"];

/// What came over the wire.
pub(crate) struct Raw<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    pub(crate) retry_after: Option<Duration>,
}

/// Reads an answer.
pub(crate) fn judge(provider: &Provider, raw: &Raw<'_>) -> Reply {
    let fields = fields(raw.body);
    if !(200..300).contains(&raw.status) {
        return refused(provider, raw, fields.as_ref()).into();
    }
    let Some(fields) = fields else {
        let refresh_token = salvage(raw.body);
        let issued = Err(unreadable(raw, None));
        return Reply { refresh_token, refresh_token_lifetime: None, issued };
    };
    let issued = issued(provider, raw, &fields);
    let refresh_token = text(&fields, "refresh_token").map(RefreshToken::new);
    Reply {
        // Where the reply is not as expected, the token may lie deeper in it.
        refresh_token: refresh_token
            .or_else(|| issued.is_err().then(|| salvage(raw.body)).flatten()),
        refresh_token_lifetime: REFRESH_LIFETIMES
            .iter()
            .find_map(|name| seconds(fields.get(*name)?)),
        issued,
    }
}

fn issued(
    provider: &Provider,
    raw: &Raw<'_>,
    fields: &Map<String, Value>,
) -> Result<Issued, Failure> {
    // Some providers always send the member, empty or false where all went well.
    let failed = fields.get("error").is_some_and(|error| match error {
        Value::String(text) => !text.is_empty(),
        other => other.is_object(),
    });
    if failed {
        return Err(refused(provider, raw, Some(fields)));
    }
    // RFC 6749 appendix A.12: visible ASCII. Anything else would break the callers' headers.
    let access_token = text(fields, "access_token")
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
        .ok_or_else(|| unreadable(raw, Some(fields)))?;
    Ok(Issued {
        access_token: AccessToken::new(access_token),
        token_type: text(fields, "token_type").unwrap_or("Bearer").to_owned(),
        lifetime: fields.get("expires_in").and_then(seconds).unwrap_or(provider.default_lifetime),
        refresh_in: fields.get("refresh_in").and_then(seconds),
        scopes: scopes(fields.get("scope")),
        attributes: attributes(provider, fields),
    })
}

/// A success without a token: it was processed, and what it brought cannot be read.
fn unreadable(raw: &Raw<'_>, fields: Option<&Map<String, Value>>) -> Failure {
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
fn refused(provider: &Provider, raw: &Raw<'_>, fields: Option<&Map<String, Value>>) -> Failure {
    let code = fields.and_then(code);
    let body = String::from_utf8_lossy(raw.body);
    let rule = provider
        .error_map
        .iter()
        .find(|rule| rule.matches(raw.status, code.as_deref(), &body))
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

/// The members of a JSON object, or of a form (some providers answer with one).
fn fields(body: &[u8]) -> Option<Map<String, Value>> {
    let body = std::str::from_utf8(body).ok()?.trim_start_matches('\u{feff}').trim();
    if body.starts_with('{') {
        return match serde_json::from_str(body) {
            Ok(Value::Object(fields)) => Some(fields),
            _ => None,
        };
    }
    let form = body.contains('=') && !body.contains(['<', '\n', '{']);
    form.then(|| {
        form_urlencoded::parse(body.as_bytes())
            .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
            .collect()
    })
}

/// A complete refresh token in the bytes of a reply that broke off.
fn salvage(body: &[u8]) -> Option<RefreshToken> {
    const NAME: &[u8] = b"\"refresh_token\"";
    let at = body.windows(NAME.len()).position(|window| window == NAME)?;
    let rest = body[at + NAME.len()..].trim_ascii_start().strip_prefix(b":")?;
    let mut strings = serde_json::Deserializer::from_slice(rest).into_iter::<String>();
    let token = strings.next()?.ok()?;
    (!token.is_empty()).then(|| RefreshToken::new(token))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// The `error` of a reply, also where it is an object with a code.
fn code(fields: &Map<String, Value>) -> Option<String> {
    let error = fields.get("error")?;
    let code = error.as_str().or_else(|| error.get("code")?.as_str())?;
    Some(code.to_owned())
}

/// Seconds as number, float or text; nothing for what is not above zero.
fn seconds(value: &Value) -> Option<Duration> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (number > 0.0 && number.is_finite())
        .then(|| Duration::from_secs_f64(number.clamp(LIFETIME_MIN_S, LIFETIME_MAX_S)))
}

fn scopes(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn attributes(provider: &Provider, fields: &Map<String, Value>) -> BTreeMap<String, String> {
    let named = provider.attributes.iter();
    named
        .filter_map(|name| {
            let value = match fields.get(name)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                _ => return None,
            };
            Some((name.clone(), value))
        })
        .collect()
}

/// The characters that RFC 6749 section 5.2 allows, and not too many of them.
fn sanitised(code: &str) -> String {
    let allowed = |c: &char| matches!(c, ' '..='!' | '#'..='[' | ']'..='~');
    code.chars().filter(allowed).take(ERROR_LEN_MAX).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::broker::endpoint::Habits;
    use crate::broker::model::ProviderId;
    use crate::secret::ClientSecret;
    use crate::upstream::provider::{BasicEncoding, ClientAuth, Rule};

    pub(crate) fn provider() -> Provider {
        Provider {
            id: ProviderId::new("kroger"),
            profile: "kroger".to_owned(),
            token_url: "https://example.test/token".to_owned(),
            client_id: "id".to_owned(),
            client_secret: ClientSecret::new("secret"),
            client_auth: ClientAuth::Basic,
            basic_encoding: BasicEncoding::Rfc6749,
            default_lifetime: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(3),
            habits: Habits::default(),
            attributes: vec!["instance_url".to_owned()],
            error_map: vec![Rule {
                status: Some(400),
                code: None,
                text: Some("refresh token".to_owned()),
                meaning: Meaning::Reauth,
            }],
        }
    }

    fn reply(status: u16, body: &str) -> Reply {
        judge(&provider(), &Raw { status, body: body.as_bytes(), retry_after: None })
    }

    fn lifetime(expires_in: &str) -> u64 {
        let body = format!(r#"{{"access_token":"a","expires_in":{expires_in}}}"#);
        reply(200, &body).issued.unwrap().lifetime.as_secs()
    }

    #[test]
    fn a_full_reply() {
        let body = r#"{"access_token":"a","token_type":"bearer","expires_in":1800,
            "refresh_token":"r","scope":"x y","instance_url":"https://i","other":1,
            "refresh_token_expires_in":"86400"}"#;
        let reply = reply(200, body);
        assert_eq!(reply.refresh_token, Some(RefreshToken::new("r")));
        assert_eq!(reply.refresh_token_lifetime, Some(Duration::from_secs(86_400)));
        let issued = reply.issued.unwrap();
        assert_eq!(issued.access_token, AccessToken::new("a"));
        assert_eq!((issued.token_type.as_str(), issued.lifetime.as_secs()), ("bearer", 1800));
        assert_eq!(issued.scopes, ["x", "y"]);
        assert_eq!(
            issued.attributes.into_iter().collect::<Vec<_>>(),
            [("instance_url".to_owned(), "https://i".to_owned())]
        );
    }

    #[test]
    fn lifetimes_in_every_form() {
        for (given, read) in [
            ("3600", 3600),
            ("\"3600\"", 3600),
            ("3600.5", 3600),
            ("\" 3600.5 \"", 3600),
            ("null", 600),
            ("0", 600),
            ("-1", 600),
            ("\"soon\"", 600),
            ("[]", 600),
            ("1e300", 315_360_000),
        ] {
            assert_eq!(lifetime(given), read, "{given}");
        }
    }

    #[test]
    fn lenient_on_success() {
        for (status, body) in [
            (201, r#"{"access_token":"a","refresh_token":"r"}"#),
            (200, "\u{feff} {\"access_token\":\"a\",\"refresh_token\":\"r\",\"scope\":[\"x\"]}"),
            (200, "access_token=a&refresh_token=r&scope=x"),
            (200, r#"{"access_token":"a","refresh_token":"r","error":""}"#),
            (200, r#"{"access_token":"a","refresh_token":"r","error":false}"#),
        ] {
            let reply = reply(status, body);
            assert!(reply.issued.is_ok(), "{body}");
            assert_eq!(reply.refresh_token, Some(RefreshToken::new("r")), "{body}");
        }
    }

    #[test]
    fn no_new_refresh_token_unless_one_is_given() {
        for member in
            ["", r#","refresh_token":null"#, r#","refresh_token":"""#, r#","refresh_token":7"#]
        {
            let reply = reply(200, &format!(r#"{{"access_token":"a"{member}}}"#));
            assert!(reply.refresh_token.is_none() && reply.issued.is_ok(), "{member}");
        }
    }

    #[test]
    fn a_refresh_token_is_found_in_a_broken_reply() {
        for body in [
            r#"{"refresh_token":"r"}"#,
            r#"{"access_token":"","refresh_token":"r"}"#,
            r#"{"refresh_token" : "r","access_token":"a"#,
            r#"{"access_token":"a","refresh_token":"r","expi"#,
            r#"{"error":"server_error","refresh_token":"r"}"#,
            r#"{"data":{"access_token":"a","refresh_token":"r"}}"#,
            r#"{"access_token":"a\n\u001b[31m","refresh_token":"r"}"#,
        ] {
            let reply = reply(200, body);
            assert_eq!(reply.refresh_token, Some(RefreshToken::new("r")), "{body}");
            assert!(reply.issued.is_err(), "{body}");
        }
        let cut = reply(200, r#"{"access_token":"a","refresh_token":"r-not-the-wh"#);
        assert!(cut.refresh_token.is_none(), "half a token is none");
        let echo = reply(400, r#"{"error":"invalid_request","refresh_token":"is required"}"#);
        assert!(echo.refresh_token.is_none(), "an error report is not a token");
    }

    const ANSWERED: Disposition = Disposition::Unknown(DoubtKind::Answered);
    const UNREADABLE: Disposition = Disposition::Unknown(DoubtKind::Unreadable);

    /// (status, body, reason, disposition)
    const REFUSALS: [(u16, &str, Reason, Disposition); 22] = [
        (400, r#"{"error":"invalid_grant"}"#, Reason::GrantReauthRequired, Disposition::Refused),
        (403, r#"{"error":"invalid_grant"}"#, Reason::GrantReauthRequired, Disposition::Refused),
        (200, r#"{"error":"invalid_grant"}"#, Reason::GrantReauthRequired, Disposition::Refused),
        (
            400,
            r#"{"errors":"Missing/Invalid Refresh Token"}"#,
            Reason::GrantReauthRequired,
            Disposition::Refused,
        ),
        (
            400,
            r#"{"error":"login_required"}"#,
            Reason::GrantInteractionRequired,
            Disposition::Refused,
        ),
        (
            401,
            r#"{"error":"invalid_client"}"#,
            Reason::ClientCredentialsRejected,
            Disposition::NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_client"}"#,
            Reason::ClientCredentialsRejected,
            Disposition::NotProcessed,
        ),
        (401, "", Reason::ClientCredentialsRejected, Disposition::NotProcessed),
        (
            401,
            r#"{"error":"unauthorized_client"}"#,
            Reason::ClientCredentialsRejected,
            Disposition::NotProcessed,
        ),
        (
            400,
            r#"{"error":"unauthorized_client"}"#,
            Reason::ClientNotAuthorized,
            Disposition::NotProcessed,
        ),
        (400, r#"{"error":"invalid_scope"}"#, Reason::ScopeNotGranted, Disposition::NotProcessed),
        (404, "<html>", Reason::ProviderEndpointMisconfigured, Disposition::NotProcessed),
        (307, "", Reason::ProviderEndpointMisconfigured, Disposition::NotProcessed),
        (429, "", Reason::ProviderRateLimited, Disposition::NotProcessed),
        (403, "<html>blocked</html>", Reason::ProviderUnavailable, Disposition::NotProcessed),
        (400, r#"{"status":"BAD"}"#, Reason::ProviderUnrecognizedError, Disposition::NotProcessed),
        (500, "", Reason::RefreshOutcomeUnknown, ANSWERED),
        (503, "<html>", Reason::RefreshOutcomeUnknown, ANSWERED),
        (504, "", Reason::RefreshOutcomeUnknown, ANSWERED),
        (408, "", Reason::RefreshOutcomeUnknown, ANSWERED),
        (200, "", Reason::RefreshReplyUnreadable, UNREADABLE),
        (200, "<html>welcome</html>", Reason::RefreshReplyUnreadable, UNREADABLE),
    ];

    #[test]
    fn strict_on_failure() {
        for (status, body, reason, disposition) in REFUSALS {
            let failure = reply(status, body).issued.unwrap_err();
            assert_eq!(
                (failure.reason, failure.disposition),
                (reason, disposition),
                "{status} {body}"
            );
        }
    }

    #[test]
    fn a_server_error_leaves_the_outcome_unknown_whatever_it_says() {
        let wait = Some(Duration::from_secs(7));
        for body in ["", r#"{"error":"temporarily_unavailable"}"#, r#"{"error":"invalid_grant"}"#] {
            let raw = Raw { status: 503, body: body.as_bytes(), retry_after: wait };
            let failure = judge(&provider(), &raw).issued.unwrap_err();
            assert_eq!((failure.disposition, failure.retry_after), (ANSWERED, wait), "{body}");
        }
        let body = br#"{"error":"temporarily_unavailable"}"#;
        let raw = Raw { status: 400, body, retry_after: wait };
        let failure = judge(&provider(), &raw).issued.unwrap_err();
        assert_eq!(failure.disposition, Disposition::NotProcessed);
    }

    #[test]
    fn error_codes_are_cut_to_harmless_characters() {
        let body = format!(r#"{{"error":"a\nb\"c\\d{}"}}"#, "x".repeat(100));
        let shown = reply(400, &body).issued.unwrap_err().provider_error.unwrap();
        assert!(shown.starts_with("abcd") && shown.len() == 64, "{shown}");
    }
}
