//! How a token endpoint's answer is read: success leniently, failure strictly. Pure.
//!
//! The refresh token is taken from a successful reply before anything else is judged, even from
//! the bytes of a reply that broke off. It is taken from no other reply: an error report may well
//! hold a field of that name that is no token.
//!
//! `raw` is what came and how it becomes text, `members` what of it belongs together, `value` reads them,
//! `salvage` finds tokens in what cannot be read, `refusal` says why there is none.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::broker::endpoint::{Disposition, Failure, Issued, Reply};
use crate::broker::model::DoubtKind;
use crate::secret::{AccessToken, RefreshToken};
use crate::upstream::provider::Provider;

mod members;
mod person;
mod raw;
mod refusal;
mod said;
mod salvage;
mod value;

pub(crate) use person::{Person, person};
pub(crate) use raw::Raw;
pub(crate) use said::cleaned;

use members::{completed, members};
use raw::Text;
use refusal::{mapped, over, refused, unreadable};
use value::{attributes, lifetime, scopes, text, visible};

/// What providers call the lifetime of the refresh token.
const REFRESH_LIFETIMES: [&str; 3] =
    ["refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in"];

/// What stands in `error` where there is none.
const NO_ERROR: [&str; 9] = ["", "0", "false", "no", "none", "null", "nil", "ok", "success"];

/// The longest end of a refresh token that is believed: ten years.
const REFRESH_LIFETIME_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Reads an answer.
pub(crate) fn judge(provider: &Provider, raw: &Raw<'_>) -> Reply {
    let body = raw.text();
    let top = members(&body);
    if !(200..300).contains(&raw.status) {
        return not_a_success(provider, raw, &body, top.as_ref()).into();
    }
    let at_the_top = top.as_ref().and_then(|top| text(top, "refresh_token")).map(RefreshToken::new);
    let refresh_token = at_the_top
        .or_else(|| members::refresh_token(&body.text, raw.sent))
        .or_else(|| salvage::refresh_token(&body.text, raw.sent));
    let complete = body.whole && (top.is_some() || members::is_complete(&body.text));
    let Some(fields) = completed(&body, top, refresh_token.as_ref()) else {
        return Reply { refresh_token, ..Reply::of(Err(unreadable(raw, None))) };
    };
    let mut issued = issued(provider, raw, &body, &fields);
    if refresh_token.is_none() && !complete {
        // It may have stood in the part that is missing: the old one is not known to live on.
        issued = issued.and_then(|_| Err(unreadable(raw, Some(&fields))));
    }
    let mut lifetimes = REFRESH_LIFETIMES.iter();
    Reply {
        refresh_token,
        // 0 is what some say of one that does not end.
        refresh_token_lifetime: lifetimes
            .find_map(|name| lifetime(fields.get(*name)?, raw.now, REFRESH_LIFETIME_MAX))
            .filter(|lifetime| !lifetime.is_zero()),
        ..Reply::of(issued)
    }
}

/// A body of a success that says it is whole, and is nothing, or JSON that does not come to its end.
pub(crate) fn is_cut(body: &[u8]) -> bool {
    let text = raw::decoded(body.into());
    text.is_empty() || (text.contains(['{', '[']) && !members::is_complete(&text))
}

/// A refusal; but one that holds a pair did not refuse, and nobody knows what it did.
fn not_a_success(
    provider: &Provider,
    raw: &Raw<'_>,
    body: &Text<'_>,
    fields: Option<&Map<String, Value>>,
) -> Failure {
    let mut failure = refused(provider, raw, &body.text, fields);
    if salvage::pair(&body.text, raw.sent) {
        failure.disposition = Disposition::Unknown(DoubtKind::Answered);
    }
    failure
}

fn issued(
    provider: &Provider,
    raw: &Raw<'_>,
    body: &Text<'_>,
    fields: &Map<String, Value>,
) -> Result<Issued, Failure> {
    if let Some(failure) = mapped(provider, raw, &body.text, fields) {
        return Err(failure);
    }
    // Some providers always send the member, empty or false where all went well.
    let failed = fields.get("error").is_some_and(|error| match error {
        Value::String(text) => !NO_ERROR.iter().any(|none| text.trim().eq_ignore_ascii_case(none)),
        other => other.is_object(),
    });
    if failed {
        return Err(refused(provider, raw, &body.text, Some(fields)));
    }
    // RFC 6749 appendix A.12: visible ASCII. Anything else would break the callers' headers.
    let access_token = text(fields, "access_token")
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))
        .ok_or_else(|| unreadable(raw, Some(fields)))?;
    let given = |name| lifetime(fields.get(name)?, raw.now, provider.lifetime_max);
    let lifetime = given("expires_in").unwrap_or(provider.default_lifetime);
    if lifetime.is_zero() {
        return Err(over(raw));
    }
    Ok(Issued {
        access_token: AccessToken::new(access_token),
        token_type: text(fields, "token_type")
            .filter(|word| visible(word))
            .unwrap_or("Bearer")
            .to_owned(),
        lifetime,
        refresh_in: given("refresh_in").filter(|time| !time.is_zero()),
        scopes: scopes(fields.get("scope")),
        attributes: attributes(&provider.attributes, fields),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::endpoint::Habits;
    use crate::broker::model::{ProviderId, Reason};
    use crate::upstream::credentials::{ClientAuth, Credentials};
    use crate::upstream::provider::{Endpoints, ErrorMap, Meaning, Rule};

    pub(crate) fn provider() -> Provider {
        Provider {
            id: ProviderId::new("kroger"),
            profile: "kroger".to_owned(),
            endpoints: Endpoints {
                token: Some("https://example.test/token".to_owned()),
                ..Endpoints::default()
            },
            discovery: false,
            authorize_parameters: std::collections::BTreeMap::new(),
            redirect_url: None,
            pkce: true,
            issuer: None,
            client_id: "id".to_owned(),
            credentials: std::sync::Arc::new(Credentials::new(ClientAuth::None, Vec::new())),
            default_lifetime: Duration::from_secs(600),
            lifetime_max: Duration::from_secs(86_400),
            connect_timeout: Duration::from_secs(3),
            habits: Habits::default(),
            account_field: None,
            attributes: vec!["instance_url".to_owned()],
            error_map: ErrorMap::new(vec![Rule {
                status: Some(400),
                code: None,
                text: Some("refresh token".to_owned()),
                meaning: Meaning::Reauth,
            }]),
        }
    }

    fn reply(status: u16, body: &str) -> Reply {
        judge(&provider(), &Raw::answered(status, body.as_bytes()))
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
            ("\"soon\"", 600),
            ("[]", 600),
            ("1e300", 86_400),
            ("999999999", 86_400),
            // A moment, in seconds or milliseconds.
            ("1800003600", 3600),
            ("\"1800003600\"", 3600),
            ("1800003600000", 3600),
        ] {
            assert_eq!(lifetime(given), read, "{given}");
        }
    }

    #[test]
    fn a_rule_that_names_its_words_holds_for_a_success_too() {
        let rule = |code: &str, meaning| Rule {
            status: None,
            code: Some(code.to_owned()),
            text: None,
            meaning,
        };
        let anything = Rule { status: Some(200), code: None, text: None, meaning: Meaning::Client };
        let rules =
            vec![anything, rule("slow", Meaning::RateLimited), rule("gone", Meaning::Reauth)];
        let provider = Provider { error_map: ErrorMap::new(rules), ..provider() };
        for (code, reason) in
            [("slow", Reason::ProviderRateLimited), ("gone", Reason::GrantReauthRequired)]
        {
            let body = format!(r#"{{"error":"{code}","access_token":"a","refresh_token":"r"}}"#);
            let reply = judge(&provider, &Raw::answered(200, body.as_bytes()));
            assert_eq!(reply.issued.unwrap_err().reason, reason);
            assert_eq!(reply.refresh_token, Some(RefreshToken::new("r")), "it is kept");
        }
        let well = judge(&provider, &Raw::answered(200, br#"{"access_token":"a"}"#));
        assert!(well.issued.is_ok(), "a status alone is no failure where there are tokens");
    }

    #[test]
    fn what_is_over_is_not_served() {
        for given in ["0", "-1", "\"0\"", "0.0", "-3600", "1799999999", "1000000000000"] {
            let body =
                format!(r#"{{"access_token":"a","refresh_token":"r","expires_in":{given}}}"#);
            let reply = reply(200, &body);
            let failure = reply.issued.unwrap_err();
            assert_eq!(failure.reason, Reason::ProviderUnavailable, "{given}");
            assert_eq!(failure.disposition, Disposition::NotProcessed);
            assert_eq!(reply.refresh_token, Some(RefreshToken::new("r")), "it is kept");
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
        for (body, with_access_token) in [
            (r#"{"refresh_token":"r"}"#, false),
            (r#"{"access_token":"","refresh_token":"r"}"#, false),
            (r#"{"refresh_token" : "r","access_token":"a"#, false),
            (r#"{"access_token":"a","refresh_token":"r","expi"#, true),
            (r#"{"error":"server_error","refresh_token":"r"}"#, false),
            (r#"{"data":{"access_token":"a","refresh_token":"r"}}"#, true),
            (r#"{"access_token":"a\n\u001b[31m","refresh_token":"r"}"#, false),
        ] {
            let reply = reply(200, body);
            assert_eq!(reply.refresh_token, Some(RefreshToken::new("r")), "{body}");
            assert_eq!(reply.issued.is_ok(), with_access_token, "{body}");
        }
        let cut = reply(200, r#"{"access_token":"a","refresh_token":"r-not-the-wh"#);
        assert!(cut.refresh_token.is_none(), "half a token is none");
        let echo = reply(400, r#"{"error":"invalid_request","refresh_token":"is required"}"#);
        assert!(echo.refresh_token.is_none(), "an error report is not a token");
    }

    /// Wherever a reply breaks off: whole tokens or none.
    #[test]
    fn half_a_token_is_none() {
        let json = r#"{"access_token":"AT2","expires_in":1800,"refresh_token":"RT2","scope":"a"}"#;
        let form = "access_token=AT2&expires_in=1800&refresh_token=RT2&scope=a";
        let inner = r#"{"body":"{\"access_token\":\"AT2\",\"refresh_token\":\"RT2\"}"}"#;
        let mut found = 0;
        for text in [json, form, inner, &format!("<a>{json}</a>"), &json.replace('"', "'")] {
            for end in 0..text.len() {
                let raw = Raw { whole: false, ..Raw::answered(200, &text.as_bytes()[..end]) };
                let reply = judge(&provider(), &raw);
                let refresh_token = reply.refresh_token.as_ref().map(RefreshToken::expose);
                assert!(matches!(refresh_token, None | Some("RT2")), "{}", &text[..end]);
                found += usize::from(refresh_token.is_some());
                if let Ok(issued) = reply.issued {
                    assert_eq!(issued.access_token.expose(), "AT2", "{}", &text[..end]);
                    assert!(refresh_token.is_some(), "the old one may be spent: {}", &text[..end]);
                }
            }
        }
        assert!(found > 30, "{found}");
    }

    #[test]
    fn nothing_takes_long_to_read() {
        let parts = [
            "\"",
            "<",
            "\"refresh_token\":'",
            "\\",
            "\\\"",
            "&refresh_token=",
            "<refresh_token>",
            "{",
            "[",
        ];
        for part in parts {
            let text = part.repeat((1 << 20) / part.len());
            let _ = judge(&provider(), &Raw::answered(200, text.as_bytes()));
        }
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
            let raw = Raw { retry_after: wait, ..Raw::answered(503, body.as_bytes()) };
            let failure = judge(&provider(), &raw).issued.unwrap_err();
            assert_eq!((failure.disposition, failure.retry_after), (ANSWERED, wait), "{body}");
        }
        let body = r#"{"error":"temporarily_unavailable"}"#;
        let raw = Raw { retry_after: wait, ..Raw::answered(400, body.as_bytes()) };
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
