//! The one request to a token endpoint: sent at most once, whatever happens.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::iter::successors;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
    RETRY_AFTER,
};
use reqwest::{Client, Response, redirect, retry};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::broker::endpoint::{
    self, Concern, Consent, Disposition, Failure, Question, Reply, Request, TokenEndpoint,
};
use crate::broker::error::chain;
use crate::broker::model::{DoubtKind, ProviderId, Reason};
use crate::clock::{Clock, between};
use crate::upstream::authorize::authorization_url;
use crate::upstream::form::Form;
use crate::upstream::provider::Provider;
use crate::upstream::reply::{Raw, judge};

/// How long what had arrived at the deadline may take from the socket to us.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Most headers of a reply; the library's own limit of 100 would cost the refresh token.
const HEADERS_MAX: usize = 1_000;
/// Most bytes of a reply that are read.
const BODY_MAX: usize = 1 << 20;

/// Talks to the token endpoints of the configured providers.
pub struct Http {
    providers: BTreeMap<ProviderId, (Provider, Client)>,
    clock: Clock,
}

/// A provider cannot be talked to.
#[derive(Debug, Error)]
#[error("provider {id}: the HTTP client cannot be made")]
pub struct BuildError {
    id: ProviderId,
    #[source]
    source: reqwest::Error,
}

impl Http {
    /// Prepares a client for each provider.
    pub fn new(providers: Vec<Provider>, clock: Clock) -> Result<Self, BuildError> {
        let each = providers.into_iter().map(|provider| {
            let client = client(&provider)
                .map_err(|source| BuildError { id: provider.id.clone(), source })?;
            Ok((provider.id.clone(), (provider, client)))
        });
        Ok(Self { providers: each.collect::<Result<_, _>>()?, clock })
    }

    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        Some(between(self.clock.now(), httpdate::parse_http_date(text).ok()?))
    }
}

/// A client that never sends anything twice: no redirect, no retry, no pool (a pooled connection
/// that the server closes as we write looks just like a lost answer), no HTTP/2 replays, and no
/// proxy that the environment slipped in.
#[expect(clippy::disallowed_methods, reason = "the one place that builds the token client")]
fn client(provider: &Provider) -> Result<Client, reqwest::Error> {
    Client::builder()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .http1_only()
        // The head of a reply may be as odd as it likes: a refresh token is behind it.
        .http1_max_headers(HEADERS_MAX)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http09_responses()
        .no_proxy()
        .connect_timeout(provider.connect_timeout)
        .user_agent(concat!("token-broker/", env!("CARGO_PKG_VERSION")))
        .build()
}

#[async_trait]
impl TokenEndpoint for Http {
    async fn exchange(&self, provider: &ProviderId, request: Request) -> Reply {
        let Some((provider, client)) = self.providers.get(provider) else {
            return failure(Reason::ProviderEndpointMisconfigured, Disposition::NotSent).into();
        };
        let form = Form::new(provider, &request);
        let mut post = client
            .post(&provider.token_url)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.body);
        if let Some(authorization) = &form.authorization {
            let Ok(mut value) = HeaderValue::from_str(authorization) else {
                return failure(Reason::ClientMisconfigured, Disposition::NotSent).into();
            };
            value.set_sensitive(true);
            post = post.header(AUTHORIZATION, value);
        }
        let deadline = Instant::now() + provider.habits.listen_max;
        match listen(deadline, post.send()).await {
            Some(Ok(response)) => {
                let status = response.status().as_u16();
                let retry_after = self.retry_after(response.headers());
                let deflated =
                    response.headers().get(CONTENT_ENCODING).is_some_and(|how| how == "deflate");
                let sent = match &request {
                    Request::RefreshToken(token) => Some(token),
                    Request::ClientCredentials { .. } | Request::AuthorizationCode { .. } => None,
                };
                let (body, whole) = read(response, deadline).await;
                judge(provider, &Raw { status, body: &body, whole, deflated, retry_after, sent })
            }
            Some(Err(error)) => unanswered(&provider.id, error).into(),
            None => {
                debug!(provider = %provider.id, "the token endpoint gave no answer in time");
                unknown(DoubtKind::Unheard).into()
            }
        }
    }

    fn providers(&self) -> Vec<endpoint::ProviderSummary> {
        let each = self.providers.values().map(|(provider, _)| endpoint::ProviderSummary {
            id: provider.id.clone(),
            profile: provider.profile.clone(),
            token_endpoint: provider.token_url.clone(),
            client_id: provider.client_id.clone(),
            habits: provider.habits.clone(),
            consent: Consent {
                redirect_uri: provider.redirect_url.clone(),
                pkce: provider.pkce,
                issuer: provider.issuer.clone(),
            },
        });
        each.collect()
    }

    fn authorization_url(&self, provider: &ProviderId, question: &Question<'_>) -> Option<String> {
        authorization_url(&self.providers.get(provider)?.0, question)
    }
}

/// Waits until the deadline, and a moment longer: what had arrived by then is still read, also if
/// the process itself was stopped meanwhile.
async fn listen<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    match timeout_at(deadline, &mut work).await {
        Ok(done) => Some(done),
        Err(_elapsed) => timeout(LAST_LOOK, work).await.ok(),
    }
}

/// Reads as much as comes, up to the limit: what arrived may hold the refresh token even if the
/// rest never does.
async fn read(mut response: Response, deadline: Instant) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    let whole = listen(deadline, fill(&mut response, &mut body)).await.unwrap_or(false);
    (body, whole)
}

/// Whether its end came.
async fn fill(response: &mut Response, body: &mut Vec<u8>) -> bool {
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = BODY_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == BODY_MAX {
                    return false;
                }
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// No answer came: was anything sent?
fn unanswered(id: &ProviderId, error: reqwest::Error) -> Failure {
    let unsent = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let cause = chain(&error);
    debug!(provider = %id, sent = !unsent, error = cause, "the token endpoint gave no answer");
    if !unsent && unreadable_head(&error) {
        warn!(
            provider = %id,
            error = cause,
            "the head of a reply cannot be read; if a refresh token came with it, it is lost"
        );
        return unknown(DoubtKind::Unreadable);
    }
    if !unsent {
        return unknown(DoubtKind::Ended);
    }
    // A certificate that does not fit will not fit the next time.
    if cause.contains("certificate") {
        return failure(Reason::ProviderEndpointMisconfigured, Disposition::NotSent);
    }
    failure(Reason::ProviderUnreachable, Disposition::NotSent)
}

/// An answer came, and is no HTTP.
fn unreadable_head(error: &reqwest::Error) -> bool {
    let mut causes = successors(error.source(), |&error| error.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse))
}

fn unknown(kind: DoubtKind) -> Failure {
    failure(Reason::RefreshOutcomeUnknown, Disposition::Unknown(kind))
}

fn failure(reason: Reason, disposition: Disposition) -> Failure {
    let concern = match reason {
        Reason::ProviderEndpointMisconfigured | Reason::ClientMisconfigured => Concern::Provider,
        _ => Concern::Grant,
    };
    Failure { reason, disposition, concern, status: None, provider_error: None, retry_after: None }
}
