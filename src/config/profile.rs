//! What is known of providers: the defaults that a profile sets.

use std::time::Duration;

use crate::config::file::Profile;
use crate::upstream::{BasicEncoding, ClientAuth, Rule, Verdict};

/// Defaults of a provider.
pub(super) struct Defaults {
    pub(super) name: &'static str,
    pub(super) base_url: Option<&'static str>,
    pub(super) client_auth: ClientAuth,
    pub(super) basic_encoding: BasicEncoding,
    pub(super) default_lifetime: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) error_map: Vec<Rule>,
}

/// Lifetime of a token whose reply names none: short enough to be safe, long enough to be used.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// Well below the request timeout, so that a stalled connect is never taken for a lost answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

impl Defaults {
    pub(super) fn of(profile: Profile) -> Self {
        let generic = Self {
            name: "generic",
            base_url: None,
            client_auth: ClientAuth::Basic,
            basic_encoding: BasicEncoding::Rfc6749,
            default_lifetime: DEFAULT_LIFETIME,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            error_map: Vec::new(),
        };
        match profile {
            Profile::Generic => generic,
            // Kroger, developer documentation: a refresh token is invalid once used, and a later
            // use gives 400 "Missing/Invalid Refresh Token".
            Profile::Kroger => Self {
                name: "kroger",
                base_url: Some("https://api.kroger.com/v1/connect/oauth2"),
                error_map: vec![Rule {
                    status: Some(400),
                    code: None,
                    text: Some("refresh token".to_owned()),
                    verdict: Verdict::Reauth,
                }],
                ..generic
            },
        }
    }
}
