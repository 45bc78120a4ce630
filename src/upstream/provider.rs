//! A provider: where its token endpoint is, who we are there, and what its habits are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};

use crate::broker::endpoint::Habits;
use crate::broker::model::ProviderId;
use crate::upstream::credentials::Credentials;

/// One configured provider.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its name.
    pub id: ProviderId,
    /// Name of the profile that its settings began with.
    pub profile: String,
    /// Where it is, as configured.
    pub endpoints: Endpoints,
    /// What is not configured is asked of the issuer.
    pub discovery: bool,
    /// What is added to every question.
    pub authorize_parameters: BTreeMap<String, String>,
    /// Where people are sent afterwards, if nothing else is said.
    pub redirect_url: Option<String>,
    /// Codes are bound to a verifier (RFC 7636).
    pub pkce: bool,
    /// The issuer, where answers name it (RFC 9207).
    pub issuer: Option<String>,
    /// Our name there.
    pub client_id: String,
    /// How we prove that.
    pub credentials: Arc<Credentials>,
    /// Lifetime of a token whose reply names none.
    pub default_lifetime: Duration,
    /// Longest lifetime of a token that is believed.
    pub lifetime_max: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// How it treats requests and refresh tokens.
    pub habits: Habits,
    /// Member of the reply that says whose consent it was, with dots between the steps.
    pub account_field: Option<String>,
    /// Fields of the reply that callers get to see.
    pub attributes: Vec<String>,
    /// What this provider's failures mean, before the rules of the standard.
    pub error_map: Vec<Rule>,
}

/// Where a provider is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Where tokens are fetched; `None` only until it is discovered.
    pub token: Option<String>,
    /// Where people consent; `None`: nowhere.
    pub authorize: Option<String>,
    /// Where tokens are taken back (RFC 7009); `None`: nowhere.
    pub revoke: Option<String>,
    /// Where the keys are that sign what it says of people.
    pub keys: Option<String>,
    /// Its answers to people's consent always name the issuer (RFC 9207).
    pub names_issuer: bool,
}

/// Tokens and secrets travel only under TLS, or within this machine.
pub fn is_private(url: &Url) -> bool {
    let local = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && local)
}

/// Gives a meaning to failures that look like this; what is left out matches anything.
#[derive(Debug, Clone)]
pub struct Rule {
    /// HTTP status.
    pub status: Option<u16>,
    /// The `error` of the reply.
    pub code: Option<String>,
    /// Text in the reply, in any case.
    pub text: Option<String>,
    /// What it means.
    pub meaning: Meaning,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The grant is dead: a person must consent again.
    Reauth,
    /// Our client registration is refused.
    Client,
    /// It passes, and the request was not processed.
    Unavailable,
    /// It passes, and the request was not processed because of another one.
    Conflict,
}

impl Rule {
    /// The failure looks like this.
    pub fn matches(&self, status: u16, code: Option<&str>, body: &str) -> bool {
        self.status.is_none_or(|wanted| wanted == status)
            && self.code.as_deref().is_none_or(|wanted| code == Some(wanted))
            && self
                .text
                .as_ref()
                .is_none_or(|text| body.to_lowercase().contains(&text.to_lowercase()))
    }
}
