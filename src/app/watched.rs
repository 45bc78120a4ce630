//! What changes while the program runs, and how.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::app::reload::Watched;
use crate::broker::Broker;
use crate::caller::{Keys, StaticTokens};
use crate::config::{self, Config};
use crate::policy;
use crate::service::Gate;
use crate::store::Keyring;
use crate::telemetry;

/// What changes.
pub(super) struct Held {
    pub(super) gate: Arc<Gate>,
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) ring: Arc<Keyring>,
    pub(super) broker: Arc<Broker>,
    pub(super) certificate_end: Gauge,
}

/// All of it.
pub(super) fn all(config: &Config, held: Held) -> Vec<Watched> {
    let Held { gate, keys, ring, broker, certificate_end } = held;
    let mut all: Vec<_> = config.file.iter().map(|file| settings(config, file.clone())).collect();
    if let Some(tls) = config.listen.tls.clone() {
        let (clock, files) = (broker.clock(), tls.files());
        let take = move || {
            tls.reload(clock.now()).map_err(|error| error.to_string())?;
            certificate_end.set(tls.ends());
            Ok(AT_ONCE)
        };
        all.push(Watched::new("listen.tls", files, take));
    }
    if let Some(file) = config.policy_file.clone() {
        let (gate, path) = (Arc::clone(&gate), file.clone());
        let take = move || {
            let policy = policy::load(&path);
            gate.decide_by(policy.map_err(|error| format!("{}: {error}", path.display()))?);
            Ok(AT_ONCE)
        };
        all.push(Watched::new("policy.file", vec![file], take));
    }
    if let Some(file) = config.tokens_file.clone() {
        let path = file.clone();
        let take = move || {
            gate.believe(StaticTokens::load(&path).map_err(|error| error.to_string())?);
            Ok(AT_ONCE)
        };
        all.push(Watched::new("callers.tokens_file", vec![file], take));
    }
    if let Some(keys) = keys
        && let Some(path) = keys.file().map(Path::to_owned)
    {
        let files = vec![path.clone()];
        let take = move || keys.read(&path).map(|()| AT_ONCE);
        all.push(Watched::new("callers.kubernetes.jwks_file", files, take));
    }
    if let Some(file) = config.keys_file.clone() {
        let path = file.clone();
        let take = move || {
            ring.renew(&path).map_err(|error| error.to_string())?;
            Ok(AT_ONCE)
        };
        all.push(Watched::new("keys.file", vec![file], take));
    }
    for client in config.clients.iter().cloned() {
        let (setting, files) = (client.setting.clone(), vec![client.file.clone()]);
        let broker = Arc::clone(&broker);
        all.push(Watched::new(setting, files, move || {
            if client.read_again()? {
                broker.client_changed(&client.provider);
            }
            Ok(AT_ONCE)
        }));
    }
    all
}

/// When the certificate of the API ends; there is none without TLS.
pub(super) fn certificate_end(config: &Config, registry: &mut Registry) -> Gauge {
    let ends = Gauge::default();
    if let Some(tls) = &config.listen.tls {
        ends.set(tls.ends());
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "When the certificate of the API ends",
            ends.clone(),
        );
    }
    ends
}

/// The configuration itself: the level of the log changes, also where something else is wrong; all else
/// is named.
fn settings(config: &Config, file: PathBuf) -> Watched {
    let config = config.clone();
    Watched::new("configuration", vec![file], move || {
        if let Some(level) = config::log_level(&config) {
            telemetry::set_level(&level);
        }
        let mut changed = config::load_again(&config).map_err(|problems| {
            let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
            told.join("; ")
        })?;
        changed.retain(|setting| setting != LEVEL);
        Ok(changed)
    })
}

/// Nothing of it waits for the next start.
const AT_ONCE: Vec<String> = Vec::new();
/// The one setting that changes at once.
const LEVEL: &str = "log.level";
