//! What changes while the program runs, and how.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::warn;

use crate::app::reload::Watched;
use crate::caller::{Keys, StaticTokens};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::policy;
use crate::service::Gate;
use crate::store::Keyring;
use crate::telemetry;

/// All of it.
pub(super) fn all(
    config: &Config,
    gate: &Arc<Gate>,
    keys: Option<Arc<Keys>>,
    ring: &Arc<Keyring>,
    clock: Clock,
    registry: &mut Registry,
) -> Vec<Watched> {
    let mut all: Vec<_> = config.file.iter().map(|file| settings(config, file.clone())).collect();
    if let Some(tls) = config.listen.tls.clone() {
        let ends = certificate_end(registry);
        ends.set(tls.ends());
        let take = move || {
            tls.reload(clock.now()).map_err(|error| error.to_string())?;
            ends.set(tls.ends());
            Ok(())
        };
        let files = config.listen.tls.iter().flat_map(|tls| tls.files()).collect();
        all.push(Watched::new("listen.tls", files, take));
    }
    if let Some(file) = config.policy_file.clone() {
        let (gate, path) = (Arc::clone(gate), file.clone());
        let take = move || {
            let policy = policy::load(&path).map_err(|error| error.to_string())?;
            gate.decide_by(policy);
            Ok(())
        };
        all.push(Watched::new("policy.file", vec![file], take));
    }
    if let Some(file) = config.tokens_file.clone() {
        let (gate, path) = (Arc::clone(gate), file.clone());
        let take = move || {
            let tokens = StaticTokens::load(&path).map_err(|error| error.to_string())?;
            gate.believe(tokens);
            Ok(())
        };
        all.push(Watched::new("callers.tokens_file", vec![file], take));
    }
    if let Some(keys) = keys
        && let Some(path) = keys.file().map(Path::to_owned)
    {
        let files = vec![path.clone()];
        all.push(Watched::new("callers.kubernetes.jwks_file", files, move || keys.read(&path)));
    }
    if let Some(file) = config.keys_file.clone() {
        let (ring, path) = (Arc::clone(ring), file.clone());
        let take = move || ring.renew(&path).map_err(|error| error.to_string());
        all.push(Watched::new("keys.file", vec![file], take));
    }
    for client in config.clients.iter().cloned() {
        let (setting, files) = (client.setting.clone(), vec![client.file.clone()]);
        all.push(Watched::new(setting, files, move || client.read_again()));
    }
    all
}

fn certificate_end(registry: &mut Registry) -> Gauge {
    let ends = Gauge::default();
    registry.register(
        "tls_certificate_expiry_timestamp_seconds",
        "When the certificate of the API ends",
        ends.clone(),
    );
    ends
}

/// The configuration itself: the level of the log changes, all else is named.
fn settings(config: &Config, file: PathBuf) -> Watched {
    let (config, mut told) = (config.clone(), Vec::new());
    Watched::new("configuration", vec![file], move || {
        let (newer, mut changed) = config::load_again(&config).map_err(|problems| {
            let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
            told.join("; ")
        })?;
        changed.retain(|setting| setting != LEVEL);
        telemetry::set_level(&newer.log.level);
        if !changed.is_empty() && changed != told {
            warn!(settings = changed.join(", "), "these hold from the next start on");
        }
        told = changed;
        Ok(())
    })
}

/// The one setting that changes at once.
const LEVEL: &str = "log.level";
