//! What providers say of themselves, read once and kept.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::JwkSet;
use parking_lot::Mutex;
use reqwest::header::ACCEPT;
use reqwest::{Client, Response, StatusCode, redirect, retry};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::error::chain;
use crate::broker::model::Reason;
use crate::upstream::discovery;
use crate::upstream::http::wire::listen;
use crate::upstream::provider::{Endpoints, Provider};

/// Longest wait for a document.
const DOCUMENT_MAX: Duration = Duration::from_secs(10);
/// Longest document.
const DOCUMENT_LEN_MAX: usize = 1 << 20;
/// So long a failure stands for all who ask: those who waited for it do not ask one by one.
const FAILURE_AGE: Duration = Duration::from_secs(2);
/// Where a document is older, it is read anew before somebody is asked for consent.
const DOCUMENT_AGE: Duration = Duration::from_secs(3600);

/// What a provider said, as far as it was asked.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    found: ArcSwapOption<Endpoints>,
    /// Held by who asks.
    asking: tokio::sync::Mutex<Asked>,
    keys: Mutex<Option<Arc<JwkSet>>>,
}

/// How asking ended last.
#[derive(Debug, Default)]
struct Asked {
    read_at: Option<Instant>,
    failed: Option<(Instant, Failure)>,
}

/// How new something must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As it was read once.
    Known,
    /// As it is now; a document may be [`DOCUMENT_AGE`] old.
    New,
}

impl Metadata {
    /// Where the provider is, if it was asked.
    pub(super) fn found(&self) -> Option<Arc<Endpoints>> {
        self.found.load_full()
    }

    /// It is elsewhere now.
    pub(super) fn forget(&self) {
        self.found.store(None);
    }

    /// Where the provider is; its issuer is asked once, however many need it.
    pub(super) async fn endpoints(
        &self,
        provider: &Provider,
        client: &Client,
        freshness: Freshness,
    ) -> Result<Arc<Endpoints>, Failure> {
        if let Some(found) = self.found().filter(|_| freshness == Freshness::Known) {
            return Ok(found);
        }
        let mut asked = self.asking.lock().await;
        let known = self.found();
        let recent = |at: Instant, age| at.elapsed() < age;
        if let Some(known) = &known
            && (freshness == Freshness::Known
                || asked.read_at.is_some_and(|at| recent(at, DOCUMENT_AGE)))
        {
            return Ok(Arc::clone(known));
        }
        if let Some((at, failure)) = &asked.failed
            && recent(*at, FAILURE_AGE)
        {
            return known.ok_or_else(|| failure.clone());
        }
        match discover(provider, client).await {
            Ok(endpoints) => {
                let endpoints = Arc::new(endpoints);
                self.found.store(Some(Arc::clone(&endpoints)));
                *asked = Asked { read_at: Some(Instant::now()), failed: None };
                Ok(endpoints)
            }
            Err(failure) => {
                asked.failed = Some((Instant::now(), failure.clone()));
                known.ok_or(failure)
            }
        }
    }

    /// The keys that sign what it says of people.
    pub(super) async fn keys(
        &self,
        client: &Client,
        url: &str,
        freshness: Freshness,
    ) -> Result<Arc<JwkSet>, Failure> {
        let known = self.keys.lock().clone();
        if let Some(known) = known.filter(|_| freshness == Freshness::Known) {
            return Ok(known);
        }
        let read = document(client, url).await.and_then(|document| {
            let document = document.ok_or("there is no such document")?;
            serde_json::from_slice(&document).map_err(|_| "it is no set of keys".to_owned())
        });
        match read {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *self.keys.lock() = Some(Arc::clone(&keys));
                Ok(keys)
            }
            Err(why) => {
                warn!(keys = url, why, "the keys of a provider cannot be read");
                Err(Failure::new(Reason::ProviderUnreachable, Disposition::NotSent))
            }
        }
    }
}

/// RFC 8414 section 3, and OpenID Connect Discovery section 4: who follows the one has its document
/// elsewhere than who follows the other.
async fn discover(provider: &Provider, client: &Client) -> Result<Endpoints, Failure> {
    let issuer = provider.issuer.as_deref().unwrap_or_default();
    for url in discovery::places(issuer) {
        match document(client, &url).await {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                return discovery::read(provider, &bytes)
                    .inspect(|_| info!(provider = %provider.id, document = url, "discovered"))
                    .map_err(|why| {
                        warn!(provider = %provider.id, document = url, why,
                            "what the provider says of itself is not used");
                        Failure::new(Reason::ProviderEndpointMisconfigured, Disposition::NotSent)
                    });
            }
            // What is at the other place may say less.
            Err(why) => {
                warn!(provider = %provider.id, document = url, why,
                    "what the provider says of itself cannot be read");
                return Err(Failure::new(Reason::ProviderUnreachable, Disposition::NotSent));
            }
        }
    }
    warn!(provider = %provider.id, issuer, "the provider does not say where it is");
    Err(Failure::new(Reason::ProviderEndpointMisconfigured, Disposition::NotSent))
}

/// A client that goes nowhere but where it is told.
#[expect(clippy::disallowed_methods, reason = "the one place that builds it")]
pub(super) fn client(provider: &Provider) -> Result<Client, reqwest::Error> {
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

/// A document, if it comes whole.
async fn read(mut response: Response) -> Option<Vec<u8>> {
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        document.extend_from_slice(&chunk);
        if document.len() > DOCUMENT_LEN_MAX {
            return None;
        }
    }
    Some(document)
}

/// `None`: there is none.
async fn document(client: &Client, url: &str) -> Result<Option<Vec<u8>>, String> {
    let deadline = Instant::now() + DOCUMENT_MAX;
    let get = client.get(url).header(ACCEPT, "application/json").send();
    let response = match listen(deadline, get).await {
        None => return Err("no answer came in time".to_owned()),
        Some(Err(error)) => return Err(chain(&error.without_url())),
        Some(Ok(response)) => response,
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => return Err(format!("the answer was {}", status.as_u16())),
    }
    let document = listen(deadline, read(response)).await.flatten();
    document.ok_or_else(|| "the document did not arrive whole".to_owned()).map(Some)
}
