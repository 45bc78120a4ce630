//! The keys that a cluster signs with (JWKS, RFC 7517): kept, and fetched again where a new one is named.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::clock::{Clock, unix_ms};
use crate::textfile;

/// Largest set of keys.
const LEN_MAX: u64 = 256 * 1024;
/// Longest wait for them.
const FETCH_MAX: Duration = Duration::from_secs(5);
/// They are fetched this often, so that a key that is taken back is believed no longer,
const FETCH_EACH: Duration = Duration::from_secs(300);
/// and not more often than this.
const FETCH_LEAST: Duration = Duration::from_secs(5);
/// Calls that wait for a look at once.
const WAITING_MAX: usize = 256;

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// At an address of the cluster.
    Url {
        /// The address.
        url: String,
        /// Who signed its certificate; `None`: whom the system trusts.
        ca_file: Option<PathBuf>,
        /// The token to ask with; `None`: it answers anybody.
        token_file: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Default)]
struct KeysMetrics {
    fetched: Gauge,
    failures: Counter,
}

/// The last good set, ready for use.
pub struct Keys {
    source: KeySource,
    set: ArcSwap<HashMap<String, Arc<DecodingKey>>>,
    /// Whoever needs a key that is not there asks for another look.
    wanted: Notify,
    /// Counts the looks, and when the last one ended.
    looked: watch::Sender<u64>,
    looked_at: Mutex<Option<Instant>>,
    /// The last look brought nothing.
    failing: AtomicBool,
    /// Those who wait for a look may be anybody.
    waiting: Semaphore,
    metrics: KeysMetrics,
}

/// What is known of a key.
pub(super) enum Found {
    Key(Arc<DecodingKey>),
    /// There are others.
    Unknown,
    /// There is none at all, or it may be a new one, and they cannot be had now.
    NoKeys,
}

impl Keys {
    /// None yet.
    pub fn new(source: KeySource) -> Arc<Self> {
        Arc::new(Self {
            source,
            set: ArcSwap::default(),
            wanted: Notify::new(),
            looked: watch::Sender::new(0),
            looked_at: Mutex::default(),
            failing: AtomicBool::new(false),
            waiting: Semaphore::new(WAITING_MAX),
            metrics: KeysMetrics::default(),
        })
    }

    /// Registers what is counted.
    pub fn register(&self, registry: &mut Registry) {
        let KeysMetrics { fetched, failures } = self.metrics.clone();
        registry.register(
            "caller_keys_timestamp_seconds",
            "When the keys that sign callers' tokens were had last; 0: never",
            fetched,
        );
        registry.register(
            "caller_keys_failures",
            "Looks for the keys that sign callers' tokens that brought nothing",
            failures,
        );
    }

    /// The file that they are in, if they are in one.
    pub fn file(&self) -> Option<&Path> {
        match &self.source {
            KeySource::File(path) => Some(path),
            KeySource::Url { .. } => None,
        }
    }

    /// Fetches them now and then, and where somebody needs one that is not there; until `stop`. Where that
    /// fails, those from before stay.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut told = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(FETCH_EACH) => {}
                () = self.wanted.notified() => {}
            }
            match self.refresh().await {
                Ok(()) => told = None,
                Err(error) if told.as_ref() == Some(&error) => {}
                Err(error) => {
                    let meanwhile = if self.set.load().is_empty() {
                        "there are none yet, and whoever comes with such a token is told to call again"
                    } else {
                        "the last good ones stay"
                    };
                    warn!(error, meanwhile, "the keys that sign callers' tokens cannot be fetched");
                    told = Some(error);
                }
            }
            // Whatever keys callers name.
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(FETCH_LEAST) => {}
            }
        }
    }

    /// Fetches them; where that fails, those from before stay.
    pub async fn refresh(&self) -> Result<(), String> {
        let fetched = self.fetch().await;
        self.note(fetched.is_ok());
        *self.looked_at.lock() = Some(Instant::now());
        self.looked.send_modify(|looks| *looks += 1);
        fetched
    }

    fn note(&self, had: bool) {
        self.failing.store(!had, Ordering::Relaxed);
        if had {
            let now = unix_ms(Clock::system().now()) / 1_000;
            self.metrics.fetched.set(i64::try_from(now).unwrap_or_default());
        } else {
            self.metrics.failures.inc();
        }
    }

    async fn fetch(&self) -> Result<(), String> {
        match &self.source {
            KeySource::File(path) => self.read(path),
            KeySource::Url { url, ca_file, token_file } => {
                self.take(&get(url, ca_file.as_ref(), token_file.as_ref()).await?)
            }
        }
    }

    /// Takes what the file of this path holds now; where that is wrong, those from before stay.
    pub fn read(&self, path: &Path) -> Result<(), String> {
        let text = named(path)?;
        self.take(text.as_bytes())
    }

    fn take(&self, text: &[u8]) -> Result<(), String> {
        let keys = keys(text)?;
        if self.set.load().is_empty() {
            info!(keys = keys.len(), "the keys that sign callers' tokens are known");
        }
        self.set.store(Arc::new(keys));
        Ok(())
    }

    /// The key of this name; where it is not there, another look is waited for.
    pub(super) async fn named(&self, name: &str) -> Found {
        if let Some(key) = self.set.load().get(name) {
            return Found::Key(Arc::clone(key));
        }
        // Of more than that nobody waits, so that strangers take no places of callers.
        let Ok(_waits) = self.waiting.try_acquire() else { return Found::NoKeys };
        let mut looked = self.looked.subscribe();
        looked.mark_unchanged();
        if self.looked_at.lock().is_some_and(|at| at.elapsed() < FETCH_LEAST) {
            return self.unknown();
        }
        self.wanted.notify_one();
        let _ = timeout(FETCH_MAX, looked.changed()).await;
        let set = self.set.load();
        set.get(name).map_or_else(|| self.unknown(), |key| Found::Key(Arc::clone(key)))
    }

    fn unknown(&self) -> Found {
        // It may be new.
        let cannot_be_had = self.failing.load(Ordering::Relaxed) || self.set.load().is_empty();
        if cannot_be_had { Found::NoKeys } else { Found::Unknown }
    }
}

/// Takes a set of keys; those that this program cannot use are left out.
pub fn keys(text: &[u8]) -> Result<HashMap<String, Arc<DecodingKey>>, String> {
    let set: JwkSet =
        serde_json::from_slice(text).map_err(|_| "what is there is no set of keys".to_owned())?;
    let signs = |key: &&Jwk| {
        let used_for = key.common.public_key_use.as_ref();
        used_for.is_none_or(|used_for| *used_for == PublicKeyUse::Signature)
    };
    let usable = set.keys.iter().filter(signs).filter_map(|key| {
        Some((key.common.key_id.clone()?, Arc::new(DecodingKey::from_jwk(key).ok()?)))
    });
    let keys: HashMap<_, _> = usable.collect();
    if keys.is_empty() { Err("the set has no key with a name".to_owned()) } else { Ok(keys) }
}

/// What a file holds, or which one it is that cannot be read.
fn named(path: &Path) -> Result<Zeroizing<String>, String> {
    textfile::read(path, LEN_MAX)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

async fn get(
    url: &str,
    ca_file: Option<&PathBuf>,
    token_file: Option<&PathBuf>,
) -> Result<Vec<u8>, String> {
    #[expect(clippy::disallowed_methods, reason = "this reads keys, and spends nothing")]
    let client = reqwest::Client::builder();
    let told = |error: reqwest::Error| chain(&error.without_url());
    let mut client =
        client.timeout(FETCH_MAX).redirect(reqwest::redirect::Policy::none()).no_proxy();
    if let Some(path) = ca_file {
        let pem = named(path)?;
        let signers = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(told)?;
        client = client.tls_certs_only(signers);
    }
    let mut request = client.build().map_err(told)?.get(url);
    if let Some(path) = token_file {
        let token = named(path)?;
        request = request.bearer_auth(token.trim());
    }
    let mut answer = request.send().await.map_err(told)?;
    if !answer.status().is_success() {
        return Err(format!("the answer is {}", answer.status()));
    }
    let mut text = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(told)? {
        text.extend_from_slice(&part);
        if text.len() as u64 > LEN_MAX {
            return Err("the set of keys is too long".to_owned());
        }
    }
    Ok(text)
}

/// An error with its causes: the first alone says only that something was asked.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
