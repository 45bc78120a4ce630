//! Doctor: everything that a broker with this configuration would rest on, looked at without starting
//! one.

use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::app::opening::{self, NO_JOURNAL};
use crate::broker::endpoint::Unreached;
use crate::broker::model::Reason;
use crate::broker::store::{Finding, Grade};
use crate::clock::Clock;
use crate::config::{Config, StoreConfig};
use crate::store::redis::{Admission, Redis};
use crate::store::{Keyring, OpenError, room};
use crate::upstream::http::dial::{Dialer, NotReached};
use crate::upstream::http::metadata;
use crate::upstream::id_token::is_readable;
use crate::upstream::{Endpoints, Provider};

mod trust;

/// Longest wait for a provider to take a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Looks at key ring, store, journal and providers. Sends nothing to a provider, and writes nothing that
/// stays.
pub async fn examine(config: &Config, clock: Clock) -> Vec<Finding> {
    // Whoever was first has chosen the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut findings = Vec::new();
    let ring = match opening::existing_key_ring(config) {
        Ok(Some(ring)) => {
            findings.push(Finding::fine("keys", "the key ring can be read"));
            ring
        }
        Ok(None) => {
            findings.push(Finding::fine("keys", "none yet: the first start makes one"));
            Keyring::generate()
        }
        Err(failure) => {
            findings.push(Finding::new("keys", Grade::Wrong, failure.to_string(), ""));
            Keyring::generate()
        }
    };
    findings.extend(store(config, &ring, clock).await);
    findings.extend(journal(config));
    findings.extend(trust::examine(config, clock).await);
    for provider in &config.providers {
        findings.push(reach(provider).await);
        findings.extend(document(provider).await);
    }
    findings
}

async fn store(config: &Config, ring: &Keyring, clock: Clock) -> Vec<Finding> {
    let found = match &config.store {
        StoreConfig::Memory => Ok(vec![Finding::new(
            "store",
            Grade::Risk,
            "everything is in memory only: a restart loses every grant",
            "name another `store.url`",
        )]),
        StoreConfig::Redb(path) => {
            let there = match opening::lost_store(config) {
                Some(path) => Finding::new("store", Grade::Wrong, opening::left_alone(path), ""),
                None => file(path),
            };
            Ok([Some(there), room(path)].into_iter().flatten().collect())
        }
        StoreConfig::Redis { address, prefix, allow_eviction, replicas_min, .. } => {
            let (allow_eviction, replicas_min) = (*allow_eviction, *replicas_min);
            let admission = Admission { allow_eviction, alone: false, replicas_min };
            Redis::examine_at(address, prefix, admission, ring, clock).await
        }
    };
    found.unwrap_or_else(|failure| {
        let grade = match failure {
            OpenError::Unavailable(_) => Grade::Waits,
            OpenError::Refused(_) => Grade::Wrong,
        };
        vec![Finding::new("store", grade, failure.to_string(), "")]
    })
}

/// The file is not opened: a broker may have it.
fn file(path: &Path) -> Finding {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {
            Finding::fine("store", format!("{shown}, {} bytes", found.len()))
        }
        Ok(_) => Finding::new("store", Grade::Wrong, format!("{shown} is no file"), "name another"),
        Err(_) => folder("store", path, "none yet: the first start makes it"),
    }
}

fn journal(config: &Config) -> Option<Finding> {
    let StoreConfig::Redis { journal, .. } = &config.store else { return None };
    Some(match journal {
        None => Finding::new("journal", Grade::Risk, NO_JOURNAL, "name a file in `store.journal`"),
        Some(path) if path.is_file() => writable("journal", path),
        Some(path) => folder("journal", path, "none yet: the first start makes it"),
    })
}

/// A file that is there, and to which something is added.
fn writable(check: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    match OpenOptions::new().append(true).open(path) {
        Ok(_) => Finding::fine(check, shown.to_string()),
        Err(error) => {
            let found = format!("{shown} cannot be written ({error})");
            Finding::new(
                check,
                Grade::Wrong,
                found,
                "let the user of the broker write it, or name another",
            )
        }
    }
}

/// Makes a file in the folder, and takes it away again.
fn probe(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".token-broker-doctor-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

/// What a file that is not there yet will lie in.
fn folder(check: &'static str, path: &Path, otherwise: &str) -> Finding {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            let found = format!("the folder {} does not exist", folder.display());
            Finding::new(check, Grade::Wrong, found, "make it")
        }
        folder => {
            let folder = folder.unwrap_or_else(|| Path::new("."));
            match probe(folder) {
                Ok(()) => Finding::fine(check, otherwise),
                Err(error) => {
                    let found = format!("nothing can be made in {} ({error})", folder.display());
                    Finding::new(
                        check,
                        Grade::Wrong,
                        found,
                        "let the user of the broker write there",
                    )
                }
            }
        }
    }
}

/// Whether what it says of itself can be used, where that is asked for.
async fn document(provider: &Provider) -> Option<Finding> {
    let name = &provider.id;
    if !provider.discovery {
        return None;
    }
    let looked = match metadata::client(provider) {
        Ok(client) => metadata::discover(provider, &client).await,
        Err(_) => return None,
    };
    Some(match looked {
        Ok(found) if !checkable(provider, &found) => Finding::new(
            "discovery",
            Grade::Risk,
            format!(
                "{name}: it signs what it says of people by {} only, which cannot be checked",
                found.signs_by.join(", ")
            ),
            "have it sign by RS256 or ES256 for this client, or do not ask for the scope `openid`",
        ),
        Ok(found) => {
            let token = found.token.unwrap_or_default();
            Finding::fine("discovery", format!("{name}: its token endpoint is {token}"))
        }
        Err(failure) => {
            let reached = failure.reason != Reason::ProviderUnreachable;
            let grade = if reached { Grade::Wrong } else { Grade::Waits };
            let found = format!("{name}: {}", failure.detail.unwrap_or_default());
            let remedy = "look at `issuer`, or name `token_url` and the other addresses yourself";
            Finding::new("discovery", grade, found, remedy)
        }
    })
}

/// What it signs of people can be checked, or it does not say how it signs.
fn checkable(provider: &Provider, found: &Endpoints) -> bool {
    let secret = !provider.credentials.secrets().is_empty();
    let readable = |algorithm: &String| is_readable(algorithm, secret);
    found.signs_by.is_empty() || found.signs_by.iter().any(readable)
}

/// Whether its token endpoint takes a connection, and proves whose it is. No request is made.
async fn reach(provider: &Provider) -> Finding {
    let name = &provider.id;
    let endpoint = provider.endpoints.token.as_ref().or(provider.issuer.as_ref());
    let address = endpoint.and_then(|url| Url::parse(url).ok());
    let Some((url, host)) = address.as_ref().and_then(|url| Some((url, url.host_str()?))) else {
        return Finding::new("provider", Grade::Unseen, format!("{name}: no address"), "");
    };
    let met = match Dialer::new() {
        Ok(dialer) => dialer.dial(url, CONNECT).await.map(drop),
        Err(error) => Err(NotReached { kind: Unreached::Tls, why: error.to_string() }),
    };
    let NotReached { kind, why } = match met {
        Ok(()) if url.scheme() == "https" => {
            return Finding::fine("provider", format!("{name}: {host} shakes hands (TLS)"));
        }
        Ok(()) => return Finding::fine("provider", format!("{name}: {host} takes connections")),
        Err(not_reached) => not_reached,
    };
    let (grade, remedy) = match kind {
        Unreached::Tls => {
            (Grade::Wrong, "look at its certificate, the clock, and at whom this machine trusts")
        }
        Unreached::Name | Unreached::Connection | Unreached::Silence => {
            (Grade::Waits, "look at the network, proxies and the address")
        }
    };
    let port = url.port_or_known_default().unwrap_or_default();
    let found = format!("{name}: {host}:{port} cannot be reached ({why})");
    Finding::new("provider", grade, found, remedy)
}
