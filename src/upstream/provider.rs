//! A provider: where its token endpoint is, who we are there, and what its habits are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use url::{Host, Url};

use crate::broker::endpoint::Habits;
use crate::broker::model::{ClientFingerprint, ProviderId};
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
    pub error_map: ErrorMap,
}

impl Provider {
    /// What our client is: another one after any setting was changed by which requests are made or answers
    /// read.
    pub fn client(&self) -> ClientFingerprint {
        let mut context = Context::new(&SHA256);
        let mut add = |part: &[u8]| {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        };
        add(self.client_id.as_bytes());
        add(self.profile.as_bytes());
        for address in [&self.endpoints.token, &self.issuer] {
            add(address.as_deref().unwrap_or_default().as_bytes());
        }
        self.credentials.tell(&mut add);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        ClientFingerprint(fingerprint)
    }
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
    /// How it signs what it says of people, as far as it says that.
    pub signs_by: Vec<String>,
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

/// What failures mean, as it is configured now.
#[derive(Debug, Clone, Default)]
pub struct ErrorMap(Arc<ArcSwap<Vec<Rule>>>);

impl ErrorMap {
    /// These rules, the first that fits counts.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(rules)))
    }

    /// From now on it says what the other one says.
    pub fn renew(&self, other: &Self) {
        self.0.store(other.0.load_full());
    }

    /// What a failure means.
    pub fn meaning(&self, status: u16, code: Option<&str>, body: &str) -> Option<Meaning> {
        let rules = self.0.load();
        rules.iter().find(|rule| rule.matches(status, code, body)).map(|rule| rule.meaning)
    }

    /// What a success means that is none: only rules that name its words are about it.
    pub fn meaning_of_success(
        &self,
        status: u16,
        code: Option<&str>,
        body: &str,
    ) -> Option<Meaning> {
        let rules = self.0.load();
        let named = |rule: &&Rule| rule.code.is_some() || rule.text.is_some();
        let mut named = rules.iter().filter(named);
        named.find(|rule| rule.matches(status, code, body)).map(|rule| rule.meaning)
    }
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
    /// We ask too often.
    RateLimited,
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
