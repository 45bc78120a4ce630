//! Authenticators: the ways to prove who one is, and the first that is used.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::caller::Caller;
use crate::caller::cache::Cache;
use crate::caller::certificate::Certificate;
use crate::caller::jwt::{self, Kubernetes};
use crate::caller::statics::StaticTokens;
use crate::caller::unproven::Unproven;
use crate::clock::Clock;

/// What every token begins with in the header `authorization` (RFC 6750 section 2.1).
const SCHEME: &str = "Bearer ";

/// What a call brings along.
#[derive(Debug, Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The header `authorization`; `Err`: it is no text, or there is more than one.
    pub authorization: Option<Result<&'a str, ()>>,
    /// Whom the certificate of its connection names, or why it names nobody.
    pub certificate: Option<&'a Result<Certificate, &'static str>>,
}

/// The ways to prove who one is.
#[derive(Default)]
pub struct Authenticators {
    kubernetes: Option<Kubernetes>,
    statics: Option<ArcSwap<StaticTokens>>,
    /// Certificates were checked when the connection was made.
    certificates: bool,
    known: Cache,
}

impl Authenticators {
    /// Those that are given.
    pub fn new(
        kubernetes: Option<Kubernetes>,
        statics: Option<StaticTokens>,
        certificates: bool,
    ) -> Self {
        let statics = statics.map(ArcSwap::from_pointee);
        Self { kubernetes, statics, certificates, known: Cache::default() }
    }

    /// From now on these static tokens are believed, and no others.
    pub fn believe(&self, tokens: StaticTokens) {
        if let Some(statics) = &self.statics {
            statics.store(Arc::new(tokens));
        }
    }

    /// Nobody has to prove anything.
    pub fn is_empty(&self) -> bool {
        self.kubernetes.is_none() && self.statics.is_none() && !self.certificates
    }

    /// The name of who calls, where that is known already; `None`: it has to be found out.
    pub fn recall(&self, credentials: Credentials<'_>, clock: Clock) -> Option<Arc<str>> {
        match (credentials.authorization, credentials.certificate) {
            (Some(Ok(header)), _) => self.known.get(bearer(header)?, || clock.now()),
            (None, Some(Ok(certificate))) if self.certificates => {
                certificate.subject_at(clock.now()).ok()
            }
            _ => None,
        }
    }

    /// Finds out the name of who calls.
    pub async fn authenticate(
        &self,
        credentials: Credentials<'_>,
        clock: Clock,
    ) -> Result<Arc<str>, Unproven> {
        match (credentials.authorization, credentials.certificate) {
            (Some(header), _) => {
                let token = header.ok().and_then(bearer).ok_or(Unproven::Malformed)?;
                self.by_token(token, clock.now()).await
            }
            (None, Some(named)) if self.certificates => {
                let subject = named.as_ref().map_err(|why| *why);
                let subject = subject.and_then(|certificate| certificate.subject_at(clock.now()));
                subject.map_err(Unproven::Certificate)
            }
            (None, _) => Err(Unproven::Nothing),
        }
    }

    async fn by_token(&self, token: &str, now: SystemTime) -> Result<Arc<str>, Unproven> {
        // Looked up at each call: that costs no more than to remember it.
        if let Some(statics) = &self.statics
            && let Some(name) = statics.load().name_of(token)
        {
            return Ok(Caller::Static(name.to_owned()).subject().into());
        }
        let kubernetes = self.kubernetes.as_ref().filter(|_| jwt::looks_like_one(token));
        let (caller, until) = kubernetes.ok_or(Unproven::Unknown)?.verify(token, now).await?;
        let subject: Arc<str> = caller.subject().into();
        self.known.put(token, Arc::clone(&subject), until, now);
        Ok(subject)
    }
}

/// The token of a header. The scheme is compared without regard to case (RFC 9110 section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_at_checked(SCHEME.len())?;
    let right = scheme.eq_ignore_ascii_case(SCHEME);
    (right && !token.is_empty() && !token.contains(char::is_whitespace)).then_some(token)
}
