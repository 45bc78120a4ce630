//! What is known of providers: the defaults that a profile sets.

use std::time::Duration;

use crate::broker::endpoint::Habits;
use crate::config::file::Profile;
use crate::upstream::{BasicEncoding, ClientAuth, Meaning, Rule};

/// Defaults of a provider.
pub(super) struct Defaults {
    pub(super) name: &'static str,
    pub(super) base_url: Option<&'static str>,
    pub(super) client_auth: ClientAuth,
    pub(super) basic_encoding: BasicEncoding,
    pub(super) default_lifetime: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) habits: Habits,
    pub(super) error_map: Vec<Rule>,
}

/// Lifetime of a token whose reply names none: short enough to be safe, long enough to be used.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// Well below `listen_max`, so that a stalled connect is never taken for a lost answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Half of the shorter life that Kroger's documents name for an unused refresh token.
const KROGER_KEEP_WARM: Duration = Duration::from_secs(12 * 3600);

impl Defaults {
    pub(super) fn of(profile: Profile) -> Self {
        let generic = Self {
            name: "generic",
            base_url: None,
            client_auth: ClientAuth::Basic,
            basic_encoding: BasicEncoding::Rfc6749,
            default_lifetime: DEFAULT_LIFETIME,
            connect_timeout: CONNECT_TIMEOUT,
            habits: Habits::default(),
            error_map: Vec::new(),
        };
        match profile {
            Profile::Generic => generic,
            Profile::Kroger => Self {
                name: "kroger",
                base_url: Some("https://api.kroger.com/v1/connect/oauth2"),
                // One page of Kroger's says that refresh tokens live six months, the OpenAPI
                // document says typically 24 hours: unverified, so they are used twice a day.
                habits: Habits { keep_warm_every: Some(KROGER_KEEP_WARM), ..generic.habits },
                error_map: kroger_errors(),
                ..generic
            },
        }
    }
}

/// Kroger, `OpenAPI` document of the authorization API 1.0.13 (examples, not captures), and the
/// developer tutorial. One `invalid_request` has four meanings there: only the description tells a
/// dead refresh token from a bad code, a wrong `redirect_uri` and a person's no.
fn kroger_errors() -> Vec<Rule> {
    let rule = |code: Option<&str>, text: Option<&str>, meaning| Rule {
        status: Some(400),
        code: code.map(str::to_owned),
        text: text.map(str::to_owned),
        meaning,
    };
    vec![
        rule(Some("invalid_request"), Some("invalid refresh_token"), Meaning::Reauth),
        // The tutorial: "Missing/Invalid Refresh Token".
        rule(None, Some("invalid refresh token"), Meaning::Reauth),
        // A wrong client id or secret: "invalid credentials".
        rule(Some("unauthorized"), None, Meaning::Client),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::endpoint::Disposition::{self, NotProcessed, Refused};
    use crate::broker::model::{DoubtKind, Reason};
    use crate::upstream::reply::{Raw, judge, tests::provider};

    /// (status, body, reason, disposition), case by case of the document.
    const KROGER: [(u16, &str, Reason, Disposition); 9] = [
        (
            400,
            r#"{"error":"invalid_request","error_description":"invalid refresh_token"}"#,
            Reason::GrantReauthRequired,
            Refused,
        ),
        (
            400,
            r#"{"errors":"Missing/Invalid Refresh Token"}"#,
            Reason::GrantReauthRequired,
            Refused,
        ),
        (
            400,
            r#"{"error":"unauthorized","error_description":"invalid credentials"}"#,
            Reason::ClientCredentialsRejected,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"invalid code"}"#,
            Reason::ProviderUnrecognizedError,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"The redirect_uri did not match the registered redirect_uri for this application"}"#,
            Reason::ProviderUnrecognizedError,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_request","error_description":"The resource owner denied the request"}"#,
            Reason::ProviderUnrecognizedError,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"unsupported_grant_type","error_description":"invalid grant_type"}"#,
            Reason::ClientNotAuthorized,
            NotProcessed,
        ),
        (
            400,
            r#"{"error":"invalid_scope","error_description":"invalid scope"}"#,
            Reason::ScopeNotGranted,
            NotProcessed,
        ),
        (
            500,
            r#"{"errors":{"reason":"Internal server error","code":"Auth-4xxx-xxx","timestamp":1564159296910}}"#,
            Reason::RefreshOutcomeUnknown,
            Disposition::Unknown(DoubtKind::Answered),
        ),
    ];

    #[test]
    fn krogers_own_failures_mean_what_its_document_says() {
        let mut provider = provider();
        provider.error_map = Defaults::of(Profile::Kroger).error_map;
        for (status, body, reason, disposition) in KROGER {
            let raw = Raw { status, body: body.as_bytes(), retry_after: None };
            let failure = judge(&provider, &raw).issued.unwrap_err();
            assert_eq!((failure.reason, failure.disposition), (reason, disposition), "{body}");
        }
    }
}
