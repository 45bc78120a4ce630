//! The one request to a token endpoint: sent at most once, whatever happens.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect, retry};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::broker::endpoint::{self, Concern, Disposition, Failure, Reply, Request, TokenEndpoint};
use crate::broker::error::chain;
use crate::broker::model::{DoubtKind, ProviderId, Reason};
use crate::clock::{Clock, between};
use crate::upstream::form::Form;
use crate::upstream::provider::Provider;
use crate::upstream::reply::{Raw, judge};

/// How long what had arrived at the deadline may take from the socket to us.
const LAST_LOOK: Duration = Duration::from_millis(100);
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
                let body = read(response, deadline).await;
                judge(provider, &Raw { status, body: &body, retry_after })
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
        });
        each.collect()
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
async fn read(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    listen(deadline, fill(&mut response, &mut body)).await;
    body
}

async fn fill(response: &mut Response, body: &mut Vec<u8>) {
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = BODY_MAX - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == BODY_MAX {
            return;
        }
    }
}

/// No answer came: was anything sent?
fn unanswered(id: &ProviderId, error: reqwest::Error) -> Failure {
    let unsent = error.is_connect() || error.is_builder();
    let cause = chain(&error.without_url());
    debug!(provider = %id, sent = !unsent, error = cause, "the token endpoint gave no answer");
    if !unsent {
        return unknown(DoubtKind::Ended);
    }
    // A certificate that does not fit will not fit the next time.
    if cause.contains("certificate") {
        return failure(Reason::ProviderEndpointMisconfigured, Disposition::NotSent);
    }
    failure(Reason::ProviderUnreachable, Disposition::NotSent)
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
