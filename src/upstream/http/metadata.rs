//! What providers say of themselves, asked once for all and kept.

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use reqwest::header::ACCEPT;
use reqwest::{Client, Response, StatusCode, redirect, retry};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::broker::endpoint::{Disposition, Failure, Unreached};
use crate::broker::model::Reason;
use crate::upstream::discovery;
use crate::upstream::http::asked::Asked;
use crate::upstream::http::dial::{NotReached, not_reached};
use crate::upstream::http::wire::listen;
use crate::upstream::provider::{Endpoints, Provider};
use crate::upstream::reply::cleaned;

/// Longest document.
const DOCUMENT_LEN_MAX: usize = 1 << 20;
/// Where a document is older, it is read anew before somebody is asked for consent.
const DOCUMENT_AGE: Duration = Duration::from_secs(3_600);
/// A key that was taken back is believed for no longer than this.
const KEYS_AGE: Duration = Duration::from_secs(3_600);
/// Where a signature fits none of the keys that are known, they are asked for now: once for each code that was
/// exchanged, at most, and once for all who wait.
const KEYS_NOW: Duration = Duration::ZERO;
/// As it was read once, however long ago.
const ANY_AGE: Duration = Duration::MAX;

/// What a provider said, as far as it was asked.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    document: Arc<Asked<Endpoints>>,
    keys: Arc<Asked<JwkSet>>,
    tasks: TaskTracker,
}

/// How new something must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As it was read lately; of a document, once.
    Known,
    /// As it is now; a document may be [`DOCUMENT_AGE`] old.
    New,
}

impl Metadata {
    /// Where the provider is, if it was asked.
    pub(super) fn found(&self) -> Option<Arc<Endpoints>> {
        self.document.known()
    }

    /// It is elsewhere now.
    pub(super) fn forget(&self) {
        self.document.forget();
    }

    /// Where the provider is; its issuer is asked once, however many need it.
    pub(super) async fn endpoints(
        &self,
        provider: &Arc<Provider>,
        client: &Client,
        freshness: Freshness,
    ) -> Result<Arc<Endpoints>, Failure> {
        let age = match freshness {
            Freshness::Known => ANY_AGE,
            Freshness::New => DOCUMENT_AGE,
        };
        let ask = || {
            let (provider, client) = (Arc::clone(provider), client.clone());
            async move { discover(&provider, &client).await }
        };
        self.document.get(age, &self.tasks, ask).await
    }

    /// The keys that sign what it says of people.
    pub(super) async fn keys(
        &self,
        provider: &Provider,
        client: &Client,
        url: &str,
        freshness: Freshness,
    ) -> Result<Arc<JwkSet>, Failure> {
        let age = match freshness {
            Freshness::Known => KEYS_AGE,
            Freshness::New => KEYS_NOW,
        };
        let ask = || {
            let (client, url, within) =
                (client.clone(), url.to_owned(), provider.habits.listen_max);
            async move { read_keys(&client, &url, within).await }
        };
        self.keys.get(age, &self.tasks, ask).await
    }
}

async fn read_keys(client: &Client, url: &str, within: Duration) -> Result<JwkSet, Failure> {
    let missing = Missing::Odd("there is no such document".to_owned());
    let document = document(client, url, within).await.and_then(|found| found.ok_or(missing));
    let keys = document.and_then(|document| {
        serde_json::from_slice(&document)
            .map_err(|_| Missing::Odd("it is no set of keys".to_owned()))
    });
    keys.map_err(|missing| {
        let why = missing.why();
        warn!(keys = url, why, "the keys of a provider cannot be read");
        failure(Reason::ProviderUnreachable, &missing, &format!("its keys at {url}: {why}"))
    })
}

/// RFC 8414 section 3, and OpenID Connect Discovery section 4: who follows the one has its document
/// elsewhere than who follows the other. Whatever the first address says, the second is tried.
pub(crate) async fn discover(provider: &Provider, client: &Client) -> Result<Endpoints, Failure> {
    let issuer = provider.issuer.as_deref().unwrap_or_default();
    let (mut told, mut last) = (Vec::new(), None);
    for url in discovery::places(issuer) {
        let missing = match document(client, &url, provider.habits.listen_max).await {
            Ok(Some(bytes)) => match discovery::read(provider, &bytes) {
                Ok(endpoints) => {
                    info!(provider = %provider.id, document = url, "discovered");
                    return Ok(endpoints);
                }
                Err(why) => Missing::Odd(why),
            },
            Ok(None) => Missing::Nowhere,
            Err(missing) => missing,
        };
        told.push(format!("{url}: {}", missing.why()));
        // What can be mended is worth more than what is not there.
        last = last.filter(|last| *last > missing).or(Some(missing));
    }
    let (why, missing) = (told.join("; "), last.unwrap_or(Missing::Nowhere));
    warn!(provider = %provider.id, issuer, why, "what the provider says of itself is not used");
    let reason = match missing {
        Missing::Unreached(_) => Reason::ProviderUnreachable,
        Missing::Nowhere | Missing::Odd(_) => Reason::ProviderEndpointMisconfigured,
    };
    Err(failure(reason, &missing, &format!("discovery: {why}")))
}

/// Why there is no document; what comes later tells more.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    /// Nothing is there.
    Nowhere,
    /// Something is, and cannot be used.
    Odd(String),
    /// Nobody could be asked.
    Unreached(NotReached),
}

impl Missing {
    fn why(&self) -> &str {
        match self {
            Self::Nowhere => "nothing is there (404)",
            Self::Odd(why) | Self::Unreached(NotReached { why, .. }) => why,
        }
    }
}

fn failure(reason: Reason, missing: &Missing, detail: &str) -> Failure {
    let unreached = match missing {
        Missing::Unreached(NotReached { kind, .. }) => Some(*kind),
        Missing::Nowhere | Missing::Odd(_) => None,
    };
    let failure = Failure::new(reason, Disposition::NotSent);
    Failure { unreached, detail: Some(cleaned(detail, &[])), ..failure }
}

/// A client that goes nowhere but where it is told.
#[expect(clippy::disallowed_methods, reason = "the one place that builds it")]
pub(crate) fn client(provider: &Provider) -> Result<Client, reqwest::Error> {
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
async fn document(
    client: &Client,
    url: &str,
    within: Duration,
) -> Result<Option<Vec<u8>>, Missing> {
    let deadline = Instant::now() + within;
    let get = client.get(url).header(ACCEPT, "application/json").send();
    let silent = |why: &str| {
        Err(Missing::Unreached(NotReached { kind: Unreached::Silence, why: why.to_owned() }))
    };
    let response = match listen(deadline, get).await {
        None => return silent("no answer came in time"),
        Some(Err(error)) => return Err(Missing::Unreached(not_reached(&error.without_url()))),
        Some(Ok(response)) => response,
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => return Err(Missing::Odd(format!("it answered {}", status.as_u16()))),
    }
    match listen(deadline, read(response)).await.flatten() {
        Some(document) => Ok(Some(document)),
        None => silent("it did not arrive whole"),
    }
}
