//! From what was written to what the program runs on: secrets are read, parts are compared.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::audit::Place;
use crate::broker::backoff::Backoff;
use crate::broker::settings::{Predecessors, Settings};
use crate::config::callers::callers;
use crate::config::file::{self, File};
use crate::config::provider::{ClientFile, narrow_window, provider};
use crate::config::secrets::secret;
use crate::config::{
    AuditConfig, Config, Environment, Listen, Log, LogFormat, Pages, Problem, Shutdown,
    StoreConfig, Written,
};
use crate::crash::Moment;
use crate::listener::{Tls, TlsFiles};
use crate::policy::Policy;
use crate::store::redis::{Address, SENTINEL, SENTINEL_TLS, parts};
use crate::textfile;
use crate::upstream::{Provider, is_private};

/// Longest file of certificates.
const CA_LEN_MAX: u64 = 1024 * 1024;
const DEFAULT_STORE: &str = "token-broker.redb";
/// Kubernetes sets this in every pod.
const KUBERNETES: &str = "KUBERNETES_SERVICE_HOST";
/// For tests of debug builds.
const STOP_AT: &str = "TOKEN_BROKER_STOP_AT";
/// The name of the pod in Kubernetes, of the machine elsewhere.
const HOSTNAME: &str = "HOSTNAME";
/// What a stop may take after the last answer was listened for.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// Checks what the schema cannot, and builds the configuration.
pub(super) fn check(file: File, environment: &Environment) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let listen = listen(&file, &mut problems);
    let store = store(&file.store, environment, &mut problems);
    if matches!(store, Some(StoreConfig::Redis { .. })) && file.keys.file.is_none() {
        problems.push(Problem::new(
            "keys.file",
            "Redis needs a key ring, the same for every replica; make one with `token-broker keys \
             generate --file PATH` and name it here",
        ));
    }
    if let Some(ring) = file.keys.file.as_ref().filter(|ring| !ring.exists()) {
        problems.push(Problem::new(
            "keys.file",
            format!(
                "{} does not exist; restore the one that the store was sealed with, or, for a new \
                 store, make one with `token-broker keys generate --file PATH`",
                ring.display()
            ),
        ));
    }
    let mut providers = Vec::new();
    let mut clients = Vec::new();
    for (name, section) in &file.providers {
        let checked = provider(name, section, &mut problems);
        clients.extend(checked.iter().filter_map(|it| ClientFile::of(name, section, it)));
        providers.extend(checked);
    }
    let (callers, policy) = callers(&file, &mut problems);
    nonzero(&file, &mut problems);
    turned(&file, &mut problems);
    let settings = settings(&file, environment, &providers, store.as_ref());
    let log = Log {
        format: match file.log.format {
            file::LogFormat::Auto => LogFormat::Auto,
            file::LogFormat::Human => LogFormat::Human,
            file::LogFormat::Json => LogFormat::Json,
        },
        level: file.log.level.clone(),
    };
    let audit = audit(&file, &mut problems);
    if !audible(&log.level) {
        problems.push(Problem::new(
            "log.level",
            "must be error, warn, info, debug or trace, for parts of the program after a comma, \
             such as `info,token_broker=debug`",
        ));
    }
    let longest =
        providers.iter().map(|provider| provider.habits.listen_max).max().unwrap_or_default();
    let drain_max = file.shutdown.drain_max.map_or(longest + DRAIN_MARGIN, |span| span.0);
    let margin = settings.settle_margin;
    let narrow = providers.iter().filter_map(|provider| narrow_window(provider, margin));
    let warnings = hasty_stop(drain_max, longest)
        .into_iter()
        .chain(narrow)
        .chain(wide_rules(policy.as_ref()))
        .collect();
    let shutdown = Shutdown { drain_delay: file.shutdown.drain_delay.0, drain_max };
    match (listen, store, problems.is_empty()) {
        (Some(listen), Some(store), true) => Ok(Config {
            file: None,
            listen,
            bounds: (&file.bounds).into(),
            store,
            expect_existing: file.store.expect_existing,
            keys_file: file.keys.file,
            callers,
            warnings,
            policy,
            policy_file: file.policy.file,
            tokens_file: file.callers.tokens_file,
            clients,
            log,
            audit,
            settings,
            shutdown,
            providers,
            restored: false,
            written: Written::default(),
        }),
        _ => Err(problems),
    }
}

fn audit(file: &File, problems: &mut Vec<Problem>) -> Option<AuditConfig> {
    let required = file.audit.required;
    let Some(sink) = &file.audit.sink else {
        if required {
            problems.push(Problem::new("audit.sink", "is needed where `audit.required` is true"));
        }
        return None;
    };
    let place: Result<Place, _> = sink.parse();
    let place = place.map_err(|why| problems.push(Problem::new("audit.sink", why)));
    place.ok().map(|place| AuditConfig { place, required })
}

/// Directives of the log that let our alarms through: an unknown word would be taken for the name of
/// a part, and silence all others.
pub(super) fn audible(level: &str) -> bool {
    let known = |word: &str| word.parse::<tracing::Level>().is_ok();
    let ours = |part: &str| part == "token_broker" || part.starts_with("token_broker::");
    let directives: Vec<_> = level.split(',').collect();
    let right = |directive: &&str| match directive.split_once('=') {
        Some((part, level)) => {
            !part.is_empty() && !part.contains(char::is_whitespace) && known(level)
        }
        None => known(directive),
    };
    let loud = |directive: &&str| directive.split_once('=').is_none_or(|(part, _)| ours(part));
    directives.iter().all(right) && directives.iter().any(loud)
}

/// First waits that are longer than the longest.
fn turned(file: &File, problems: &mut Vec<Problem>) {
    let timing = &file.timing;
    let pairs = [
        ("timing.retry_backoff", timing.retry_backoff, timing.retry_backoff_max),
        ("timing.client_probe", timing.client_probe, timing.client_probe_max),
        ("timing.publish_backoff", timing.publish_backoff, timing.publish_backoff_max),
    ];
    let turned = pairs.into_iter().filter(|(_, first, max)| first.0 > max.0);
    problems.extend(
        turned.map(|(path, ..)| Problem::new(path, format!("must not be above `{path}_max`"))),
    );
}

/// Whose rules let them use the company's client at every provider.
fn wide_rules(policy: Option<&Policy>) -> Option<Problem> {
    let wide: Vec<_> = policy.iter().flat_map(|policy| policy.wide()).collect();
    (!wide.is_empty()).then(|| {
        let rules = wide.join(", ");
        Problem::new(
            "policy.file",
            format!(
                "lets callers of {rules} make grants at every provider, with any scope: name `providers` there (`'**'` for all)"
            ),
        )
    })
}

/// A stop that does not wait for answers loses what they bring.
fn hasty_stop(drain_max: Duration, longest: Duration) -> Option<Problem> {
    let time = humantime::format_duration;
    (drain_max < longest + DRAIN_MARGIN).then(|| {
        let why = format!(
            "is {}, and a provider is listened to for {} (`listen_max`): a stop may cut a request whose new \
             refresh token then never arrives, and the person has to consent again; {} loses nothing",
            time(drain_max),
            time(longest),
            time(longest + DRAIN_MARGIN)
        );
        Problem::new("shutdown.drain_max", why)
    })
}

/// Waits that stop everything, or spin, when they are zero.
fn nonzero(file: &File, problems: &mut Vec<Problem>) {
    let timing = &file.timing;
    let spans = [
        ("store.timeout", file.store.timeout),
        ("timing.caller_wait_max", timing.caller_wait_max),
        ("timing.send_gate", timing.send_gate),
        ("timing.attempt_backoff", timing.attempt_backoff),
        ("timing.retry_backoff", timing.retry_backoff),
        ("timing.retry_backoff_max", timing.retry_backoff_max),
        ("timing.client_probe", timing.client_probe),
        ("timing.client_probe_max", timing.client_probe_max),
        ("timing.canary_backoff_max", timing.canary_backoff_max),
        ("timing.publish_backoff", timing.publish_backoff),
        ("timing.publish_backoff_max", timing.publish_backoff_max),
        ("timing.poll", timing.poll),
        ("timing.forget_after", timing.forget_after),
        ("timing.due_tick", timing.due_tick),
        ("timing.store_watch", timing.store_watch),
        ("timing.due_visibility", timing.due_visibility),
    ];
    let zero = spans.into_iter().chain(file.bounds.spans()).filter(|(_, span)| span.0.is_zero());
    problems.extend(zero.map(|(path, _)| Problem::new(path, "must be above zero")));
}

fn listen(file: &File, problems: &mut Vec<Problem>) -> Option<Listen> {
    let section = &file.listen;
    let mut address = |path: &str, text: &str| {
        let parsed: Option<SocketAddr> = text.parse().ok();
        if parsed.is_none() {
            problems.push(Problem::new(
                path,
                "must be an IP address and port, such as 127.0.0.1:50051",
            ));
        }
        parsed
    };
    let api = address("listen.api", &section.api);
    let admin = section.admin.as_deref().map(|text| address("listen.admin", text));
    let ops = address("listen.ops", &section.ops);
    let pages = section.pages.as_deref().map(|text| address("listen.pages", text));
    let tls = section.tls.as_ref().and_then(|tls| {
        let files = TlsFiles {
            certificate: tls.certificate_file.clone(),
            key: tls.key_file.clone(),
            client_ca: tls.client_ca_file.clone(),
        };
        let loaded = Tls::load(files);
        loaded.map_err(|error| problems.push(Problem::new("listen.tls", error.to_string()))).ok()
    });
    let guarded = section.tls.is_some() && file.policy.file.is_some();
    let beyond = |address: Option<SocketAddr>| address.is_some_and(|it| !it.ip().is_loopback());
    for (path, address) in [("listen.api", api), ("listen.admin", admin.flatten())] {
        if !beyond(address) || guarded || section.anyone_may_take_tokens {
            continue;
        }
        problems.push(Problem::new(
            path,
            "is not a loopback address: it needs `listen.tls`, `callers` and `policy.file`; or listen on \
             127.0.0.1, or set `listen.anyone_may_take_tokens: true` if the network itself keeps others out",
        ));
    }
    if pages.is_none() && section.pages_url.is_some() {
        problems.push(Problem::new(
            "listen.pages",
            "is needed with `listen.pages_url`: where the pages listen, such as 127.0.0.1:9465",
        ));
    }
    let given =
        [("listen.admin", admin.flatten()), ("listen.ops", ops), ("listen.pages", pages.flatten())];
    let mut others = vec![api];
    for (path, address) in given {
        if address.is_some_and(|address| address.port() != 0) && others.contains(&address) {
            problems
                .push(Problem::new(path, "is another listener's address; give it its own port"));
        }
        others.push(address);
    }
    let pages = match pages {
        Some(address) => Some(pages_at(address?, section.pages_url.as_deref(), problems)?),
        None => None,
    };
    let admin = match admin {
        Some(address) => Some(address?),
        None => None,
    };
    Some(Listen { api: api?, admin, ops: ops?, pages, tls, reflection: section.reflection })
}

/// People type codes there and come back with others: beyond loopback that needs TLS.
fn pages_at(address: SocketAddr, url: Option<&str>, problems: &mut Vec<Problem>) -> Option<Pages> {
    let Some(url) = url else {
        if address.ip().is_loopback() {
            return Some(Pages { address, url: None });
        }
        problems.push(Problem::new(
            "listen.pages_url",
            "is needed where `listen.pages` is not a loopback address: what browsers know it by, such \
             as https://broker.example.com",
        ));
        return None;
    };
    let bare = |url: &Url| {
        let nobody = url.username().is_empty() && url.password().is_none();
        nobody && url.query().is_none() && url.fragment().is_none()
    };
    let parsed = Url::parse(url).ok().filter(bare);
    let Some(url) = parsed.filter(is_private) else {
        problems.push(Problem::new(
            "listen.pages_url",
            "must be https://HOST, or http:// on loopback; without user, query and fragment",
        ));
        return None;
    };
    Some(Pages { address, url: Some(url.as_str().trim_end_matches('/').to_owned()) })
}

fn store(
    section: &file::Store,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<StoreConfig> {
    let mut problem = |path: &str, message: &str| {
        problems.push(Problem::new(path, message));
        None
    };
    let Some(url) = section.url.as_deref().filter(|url| !url.is_empty()) else {
        if environment.contains_key(KUBERNETES) {
            return problem(
                "store.url",
                "must be named inside Kubernetes: a file in a pod is lost with it; use \
                 redis://HOST:6379, or redb:PATH on a volume",
            );
        }
        return Some(StoreConfig::Redb(PathBuf::from(DEFAULT_STORE)));
    };
    if url == "memory:" {
        return Some(StoreConfig::Memory);
    }
    if let Some(path) = url.strip_prefix("redb:") {
        if path.is_empty() {
            return problem("store.url", "must name a file, such as redb:./token-broker.redb");
        }
        return Some(StoreConfig::Redb(PathBuf::from(path)));
    }
    let by_sentinel = url.starts_with(SENTINEL) || url.starts_with(SENTINEL_TLS);
    if by_sentinel && parts(url).is_none() {
        return problem(
            "store.url",
            "must be redis+sentinel://HOST:PORT,HOST:PORT/NAME, or with /NUMBER for a database",
        );
    }
    if !by_sentinel && !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return problem(
            "store.url",
            "must be redb:PATH, memory:, redis://HOST:PORT, rediss://HOST:PORT, or \
             redis+sentinel://HOST:PORT,HOST:PORT/NAME (Cluster is not built yet)",
        );
    }
    let database = Url::parse(url).map(|url| url.path().trim_start_matches('/').to_owned());
    if !by_sentinel && !database.is_ok_and(|name| name.is_empty() || name.parse::<u32>().is_ok()) {
        return problem("store.url", "must be redis://HOST:PORT, or with /NUMBER for a database");
    }
    let password = match &section.password_file {
        None => None,
        Some(path) => match secret(path) {
            Ok(password) => Some(password),
            Err(message) => return problem("store.password_file", &message),
        },
    };
    let ca = match &section.ca_file {
        None => None,
        Some(_) if !url.starts_with("rediss://") => {
            return problem("store.ca_file", "is for rediss://, and not with Sentinel yet");
        }
        Some(path) => match textfile::read(path, CA_LEN_MAX) {
            Ok(pem) => Some(pem.to_string()),
            Err(error) => {
                let why = format!("{} cannot be read: {error}", path.display());
                return problem("store.ca_file", &why);
            }
        },
    };
    Some(StoreConfig::Redis {
        address: Address { url: url.to_owned(), password, ca, timeout: section.timeout.0 },
        prefix: section.prefix.clone(),
        journal: Some(&section.journal).filter(|file| !file.is_empty()).map(PathBuf::from),
        allow_eviction: section.allow_eviction,
        replicas_min: u64::from(section.replicas_min),
    })
}

fn settings(
    File { timing, enrollments, .. }: &File,
    environment: &Environment,
    providers: &[Provider],
    store: Option<&StoreConfig>,
) -> Settings {
    let embedded = matches!(store, Some(StoreConfig::Redb(_) | StoreConfig::Memory));
    let longest =
        providers.iter().map(|provider| provider.connect_timeout + provider.habits.listen_max);
    let longest = longest.max().unwrap_or_default();
    Settings {
        pages: None,
        enrolments: enrollments.into(),
        replica: environment.get(HOSTNAME).cloned().unwrap_or_else(|| "local".to_owned()),
        caller_wait_max: timing.caller_wait_max.0,
        force_cooldown: timing.force_cooldown.0,
        send_gate: (!embedded).then_some(timing.send_gate.0),
        predecessors: if embedded { Predecessors::AllGone } else { Predecessors::Unknown },
        stop_at: environment.get(STOP_AT).and_then(|name| Moment::from_name(name)),
        settle_margin: timing.settle_margin.0,
        settle_short: timing.settle_short.0,
        resend_slow_after: timing.resend_slow_after.0,
        resend_slow: timing.resend_slow.0,
        unproven_resend_after: Some(timing.unproven_resend_after.0)
            .filter(|after| !after.is_zero()),
        suspect_after: timing.send_gate.0 + longest + timing.suspect_margin.0,
        attempts_max: timing.attempts_max,
        attempt_backoff: Backoff::new(timing.attempt_backoff.0, timing.retry_backoff.0),
        retry_backoff: Backoff::new(timing.retry_backoff.0, timing.retry_backoff_max.0),
        client_probe: Backoff::new(timing.client_probe.0, timing.client_probe_max.0),
        canary_backoff: Backoff::new(timing.retry_backoff.0, timing.canary_backoff_max.0),
        refusal_window: timing.refusal_window.0,
        publish_backoff: Backoff::new(timing.publish_backoff.0, timing.publish_backoff_max.0),
        poll: timing.poll.0,
        forget_after: timing.forget_after.0,
        due_tick: timing.due_tick.0,
        store_watch: timing.store_watch.0,
        due_visibility: timing.due_visibility.0,
        due_batch: timing.due_batch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_lets_alarms_through() {
        for good in ["info", "WARN", "warn,h2=debug", "token_broker=debug", "info,hyper=trace"] {
            assert!(audible(good), "{good}");
        }
        for bad in [
            "",
            "warning",
            "verbose",
            "off",
            "h2=warn",
            "info,warning",
            "info,h2=loud",
            "info, h2=warn",
            "=x",
        ] {
            assert!(!audible(bad), "{bad}");
        }
    }
}
