//! Who may call, and what they may do: files are read, and mistakes told with all others.

use std::path::Path;

use url::Url;

use crate::caller::{CallerLimits, KeySource, StaticTokens, parse_keys};
use crate::config::file::{self, File, KubernetesSection};
use crate::config::{Callers, ClusterTokens, Problem};
use crate::policy::{self, Policy};
use crate::textfile;
use crate::upstream::is_private;

/// Where a cluster publishes its keys to its own pods.
const CLUSTER_KEYS: &str = "https://kubernetes.default.svc/openid/v1/jwks";
/// What a pod is given to reach its cluster.
const OF_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Longest set of keys.
const JWKS_LEN_MAX: u64 = 256 * 1024;

/// Reads what callers prove themselves by, and the policy.
pub(super) fn callers(file: &File, problems: &mut Vec<Problem>) -> (Callers, Option<Policy>) {
    let mut problem = |path: &str, message: String| problems.push(Problem::new(path, message));
    let tokens = file.callers.tokens_file.as_ref().and_then(|path| {
        let loaded = StaticTokens::load(path);
        loaded.map_err(|error| problem("callers.tokens_file", error.to_string())).ok()
    });
    let policy = file.policy.file.as_ref().and_then(|path| match policy::load(path) {
        Ok(policy) => Some(policy),
        Err(error) => {
            error.0.into_iter().for_each(|what| problem("policy.file", what));
            None
        }
    });
    let certificates = file.listen.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
    let tokens_or_pods = file.callers.tokens_file.is_some() || file.callers.kubernetes.is_some();
    let proven = tokens_or_pods || certificates;
    if proven && file.policy.file.is_none() {
        let why = "is needed where callers prove who they are: what it does not allow is denied";
        problem("policy.file", why.to_owned());
    }
    if let Some(section) = &file.callers.kubernetes {
        cluster_problems(section, &mut problem);
    }
    let kubernetes = file.callers.kubernetes.as_ref().map(cluster);
    let file::LimitsSection { rate, concurrency, force_refreshes } = file.callers.limits;
    let limits = CallerLimits { rate, concurrency, force_refreshes };
    (Callers { kubernetes, tokens, limits }, policy)
}

fn cluster_problems(section: &KubernetesSection, problem: &mut impl FnMut(&str, String)) {
    let at = |name: &str| format!("callers.kubernetes.{name}");
    for (name, text) in [("issuer", &section.issuer), ("audience", &section.audience)] {
        if text.is_empty() {
            problem(&at(name), "must not be empty".to_owned());
        }
    }
    let secure = section.jwks_url.as_deref().map(Url::parse);
    if secure.is_some_and(|url| !url.is_ok_and(|url| is_private(&url))) {
        problem(&at("jwks_url"), "must begin with https:// (http:// only for loopback)".to_owned());
    }
    let Some(path) = &section.jwks_file else { return };
    if section.jwks_url.is_some() {
        problem(&at("jwks_file"), "is there beside `jwks_url`; one of them says where".to_owned());
    }
    let read = textfile::read(path, JWKS_LEN_MAX).map_err(|error| error.to_string());
    if let Err(why) = read.and_then(|text| parse_keys(text.as_bytes()).map(drop)) {
        problem(&at("jwks_file"), format!("{}: {why}", path.display()));
    }
}

fn cluster(section: &KubernetesSection) -> ClusterTokens {
    let keys = match (&section.jwks_file, &section.jwks_url) {
        (Some(path), _) => KeySource::File(path.clone()),
        (None, Some(url)) => KeySource::Url {
            url: url.clone(),
            ca_file: section.ca_file.clone(),
            token_file: section.token_file.clone(),
        },
        // What every pod is given for its own cluster is shown to nobody else.
        (None, None) => KeySource::Url {
            url: CLUSTER_KEYS.to_owned(),
            ca_file: Some(
                section.ca_file.clone().unwrap_or_else(|| Path::new(OF_POD).join("ca.crt")),
            ),
            token_file: Some(
                section.token_file.clone().unwrap_or_else(|| Path::new(OF_POD).join("token")),
            ),
        },
    };
    let (issuer, audience) = (section.issuer.clone(), section.audience.clone());
    ClusterTokens { issuer, audience, keys }
}
