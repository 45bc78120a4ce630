//! From what was written to what the program runs on: secrets are read, parts are compared.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::{Host, Url};

use crate::broker::endpoint::Habits;
use crate::broker::model::ProviderId;
use crate::broker::settings::{Predecessors, Settings};
use crate::config::file::{self, File};
use crate::config::profile::Defaults;
use crate::config::{Config, Environment, Listen, Log, LogFormat, Problem, Shutdown, StoreConfig};
use crate::crash::Moment;
use crate::secret::ClientSecret;
use crate::store::redis::Address;
use crate::upstream::{BasicEncoding, ClientAuth, Meaning, Provider, Rule};

const DEFAULT_STORE: &str = "token-broker.redb";
/// Kubernetes sets this in every pod.
const KUBERNETES: &str = "KUBERNETES_SERVICE_HOST";
/// For tests of debug builds.
const STOP_AT: &str = "TOKEN_BROKER_STOP_AT";
/// The name of the pod in Kubernetes, of the machine elsewhere.
const HOSTNAME: &str = "HOSTNAME";
/// Longest `listen_max`: doubt, suspicion and shutdown last as long.
const LISTEN_MAX_MAX: Duration = Duration::from_secs(300);
/// What a stop may take after the last answer was listened for.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);
/// Longest client secret.
const SECRET_LEN_MAX: u64 = 64 * 1024;

/// Checks what the schema cannot, and builds the configuration.
pub(super) fn check(file: File, environment: &Environment) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let listen = listen(&file.listen, &mut problems);
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
                "{} does not exist; make a key ring with `token-broker keys generate --file PATH`, \
                 or restore the one that the store was sealed with",
                ring.display()
            ),
        ));
    }
    let mut providers = Vec::new();
    for (name, section) in &file.providers {
        providers.extend(provider(name, section, &mut problems));
    }
    nonzero(&file, &mut problems);
    let settings = settings(&file.timing, environment, &providers, store.as_ref());
    let log = Log {
        format: match file.log.format {
            file::LogFormat::Auto => LogFormat::Auto,
            file::LogFormat::Human => LogFormat::Human,
            file::LogFormat::Json => LogFormat::Json,
        },
        level: file.log.level.clone(),
    };
    if log.level.parse::<tracing_subscriber::EnvFilter>().is_err() {
        problems.push(Problem::new("log.level", "must be error, warn, info, debug or trace"));
    }
    let longest =
        providers.iter().map(|provider| provider.habits.listen_max).max().unwrap_or_default();
    let drain_max = file.shutdown.drain_max.map_or(longest + DRAIN_MARGIN, |span| span.0);
    let shutdown = Shutdown { drain_delay: file.shutdown.drain_delay.0, drain_max };
    match (listen, store, problems.is_empty()) {
        (Some(listen), Some(store), true) => Ok(Config {
            listen,
            store,
            keys_file: file.keys.file,
            log,
            settings,
            shutdown,
            providers,
            restored: false,
        }),
        _ => Err(problems),
    }
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
        ("timing.due_tick", timing.due_tick),
        ("timing.due_visibility", timing.due_visibility),
    ];
    let zero = spans.into_iter().filter(|(_, span)| span.0.is_zero());
    problems.extend(zero.map(|(path, _)| Problem::new(path, "must be above zero")));
}

fn listen(section: &file::Listen, problems: &mut Vec<Problem>) -> Option<Listen> {
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
    let ops = address("listen.ops", &section.ops);
    if api.is_some_and(|api| !api.ip().is_loopback()) && !section.anyone_may_take_tokens {
        problems.push(Problem::new(
            "listen.api",
            "is not a loopback address, and callers cannot authenticate yet; listen on 127.0.0.1, \
             or set `listen.anyone_may_take_tokens: true` if the network itself keeps others out",
        ));
    }
    Some(Listen { api: api?, ops: ops?, reflection: section.reflection })
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
    if !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return problem(
            "store.url",
            "must be redb:PATH, memory:, redis://HOST:PORT or rediss://HOST:PORT (Sentinel and \
             Cluster are not built yet)",
        );
    }
    let database = Url::parse(url).map(|url| url.path().trim_start_matches('/').to_owned());
    if !database.is_ok_and(|name| name.is_empty() || name.parse::<u32>().is_ok()) {
        return problem("store.url", "must be redis://HOST:PORT, or with /NUMBER for a database");
    }
    let password = match &section.password_file {
        None => None,
        Some(path) => match secret(path) {
            Ok(password) => Some(password),
            Err(message) => return problem("store.password_file", &message),
        },
    };
    Some(StoreConfig::Redis {
        address: Address { url: url.to_owned(), password, timeout: section.timeout.0 },
        prefix: section.prefix.clone(),
        replica_file: Some(&section.replica_file)
            .filter(|file| !file.is_empty())
            .map(PathBuf::from),
        allow_eviction: section.allow_eviction,
    })
}

fn provider(
    name: &str,
    section: &file::ProviderSection,
    problems: &mut Vec<Problem>,
) -> Option<Provider> {
    let path = |key: &str| format!("providers.{name}.{key}");
    let before = problems.len();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(allowed) {
        problems.push(Problem::new(
            format!("providers.{name}"),
            "a provider's name is of a-z, 0-9, '_' and '-'",
        ));
    }
    let defaults = Defaults::of(section.profile);
    let base = section.base_url.as_deref().or(defaults.base_url);
    let token_url = match (&section.token_url, base) {
        (Some(url), _) => endpoint(&path("token_url"), url, problems),
        (None, Some(base)) => {
            endpoint(&path("base_url"), &format!("{}/token", base.trim_end_matches('/')), problems)
        }
        (None, None) => {
            problems.push(Problem::new(path("token_url"), "is required, or `base_url`"));
            None
        }
    };
    let client_id = section.client_id.clone().filter(|id| !id.is_empty());
    if client_id.is_none() {
        problems.push(Problem::new(path("client_id"), "is required"));
    }
    let client_secret = client_secret(section, &path, problems);
    let connect_timeout = section.connect_timeout.map_or(defaults.connect_timeout, |span| span.0);
    let habits = habits(section, defaults.habits.clone());
    let listen_max = habits.listen_max;
    if listen_max > LISTEN_MAX_MAX {
        problems.push(Problem::new(path("listen_max"), "must be 5m at most"));
    }
    if connect_timeout >= listen_max {
        problems.push(Problem::new(
            path("connect_timeout"),
            "must be below `listen_max`, or a stalled connect looks like a lost answer",
        ));
    }
    for (key, span) in [
        ("default_lifetime", section.default_lifetime),
        ("connect_timeout", section.connect_timeout),
        ("listen_max", section.listen_max),
    ] {
        if span.is_some_and(|span| span.0.is_zero()) {
            problems.push(Problem::new(path(key), "must be above zero"));
        }
    }
    for name in section.attributes.iter().filter(|name| name.contains("token")) {
        problems.push(Problem::new(
            path("attributes"),
            format!("`{name}` sounds like a token; callers get access tokens and nothing else"),
        ));
    }
    for (index, rule) in section.error_map.iter().enumerate() {
        let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        let vague = empty(&rule.code) && empty(&rule.text);
        if vague && (rule.status.is_none() || matches!(rule.means, file::Meaning::Reauth)) {
            problems.push(Problem::new(
                path(&format!("error_map.{index}")),
                "matches too much: name a `code` or a `text` (a `status` alone is enough only where \
                 no grant dies of it)",
            ));
        }
    }
    let mut error_map: Vec<Rule> = section.error_map.iter().map(rule).collect();
    error_map.extend(defaults.error_map);
    let client_auth = section.client_auth.map_or(defaults.client_auth, |auth| match auth {
        file::ClientAuth::Basic => ClientAuth::Basic,
        file::ClientAuth::Post => ClientAuth::Post,
    });
    let basic_encoding =
        section.basic_encoding.map_or(defaults.basic_encoding, |encoding| match encoding {
            file::BasicEncoding::Rfc6749 => BasicEncoding::Rfc6749,
            file::BasicEncoding::Raw => BasicEncoding::Raw,
        });
    if problems.len() > before {
        return None;
    }
    Some(Provider {
        id: ProviderId::new(name),
        profile: defaults.name.to_owned(),
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        client_auth,
        basic_encoding,
        default_lifetime: section.default_lifetime.map_or(defaults.default_lifetime, |span| span.0),
        connect_timeout,
        habits,
        attributes: section.attributes.clone(),
        error_map,
    })
}

fn habits(section: &file::ProviderSection, defaults: Habits) -> Habits {
    let span = |span: Option<file::Span>, default| span.map_or(default, |span| span.0);
    Habits {
        listen_max: span(section.listen_max, defaults.listen_max),
        single_use: section.refresh_tokens.map_or(defaults.single_use, |kind| match kind {
            file::RefreshTokens::SingleUse => true,
            file::RefreshTokens::Reusable => false,
        }),
        reuse_grace: span(section.reuse_grace, defaults.reuse_grace),
        settled_statuses: section.settled_statuses.clone().unwrap_or(defaults.settled_statuses),
        keep_warm_every: match section.keep_warm_every {
            Some(every) => Some(every.0).filter(|every| !every.is_zero()),
            None => defaults.keep_warm_every,
        },
        resends: section.resend.map_or(defaults.resends, |resend| match resend {
            file::Resend::WhenNeeded => true,
            file::Resend::Never => false,
        }),
        resend_rate: section.resend_rate.unwrap_or(defaults.resend_rate),
    }
}

/// Tokens travel only under TLS, or within this machine.
fn endpoint(path: &str, text: &str, problems: &mut Vec<Problem>) -> Option<String> {
    let Ok(url) = Url::parse(text) else {
        problems.push(Problem::new(
            path,
            "must be an absolute URL, such as https://example.com/oauth2",
        ));
        return None;
    };
    let local = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if url.scheme() != "https" && !(url.scheme() == "http" && local) {
        problems.push(Problem::new(path, "must begin with https:// (http:// only for loopback)"));
        return None;
    }
    if url.fragment().is_some() {
        problems.push(Problem::new(path, "must have no fragment (RFC 6749 section 3.2)"));
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        problems.push(Problem::new(path, "must hold no user or password"));
        return None;
    }
    Some(url.into())
}

fn client_secret(
    section: &file::ProviderSection,
    path: &impl Fn(&str) -> String,
    problems: &mut Vec<Problem>,
) -> Option<ClientSecret> {
    match (&section.client_secret, &section.client_secret_file) {
        (Some(_), Some(_)) => {
            problems.push(Problem::new(
                path("client_secret"),
                "and `client_secret_file` are both set; keep one",
            ));
            None
        }
        (Some(secret), None) => Some(ClientSecret::new(secret)),
        (None, Some(file)) => match secret(file) {
            Ok(secret) => Some(secret),
            Err(message) => {
                problems.push(Problem::new(path("client_secret_file"), message));
                None
            }
        },
        (None, None) => {
            problems.push(Problem::new(
                path("client_secret_file"),
                "is required (for `default` the variable CLIENT_SECRET will do)",
            ));
            None
        }
    }
}

/// Reads a secret from its file; one trailing newline is ignored.
fn secret(path: &Path) -> Result<ClientSecret, String> {
    let shown = path.display();
    let length = fs::metadata(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if length.len() > SECRET_LEN_MAX {
        return Err(format!("{shown} is too long for a secret"));
    }
    let text =
        fs::read_to_string(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(format!("{shown} is empty"));
    }
    Ok(ClientSecret::new(text))
}

fn rule(rule: &file::Rule) -> Rule {
    Rule {
        status: rule.status,
        code: rule.code.clone(),
        text: rule.text.clone(),
        meaning: match rule.means {
            file::Meaning::Reauth => Meaning::Reauth,
            file::Meaning::Client => Meaning::Client,
            file::Meaning::Unavailable => Meaning::Unavailable,
            file::Meaning::Conflict => Meaning::Conflict,
        },
    }
}

fn settings(
    timing: &file::Timing,
    environment: &Environment,
    providers: &[Provider],
    store: Option<&StoreConfig>,
) -> Settings {
    let embedded = matches!(store, Some(StoreConfig::Redb(_) | StoreConfig::Memory));
    let longest =
        providers.iter().map(|provider| provider.connect_timeout + provider.habits.listen_max);
    let longest = longest.max().unwrap_or_default();
    Settings {
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
        suspect_after: timing.send_gate.0 + longest + timing.suspect_margin.0,
        attempts_max: timing.attempts_max,
        attempt_backoff: timing.attempt_backoff.0,
        retry_backoff: timing.retry_backoff.0,
        retry_backoff_max: timing.retry_backoff_max.0,
        client_probe: timing.client_probe.0,
        client_probe_max: timing.client_probe_max.0,
        canary_backoff_max: timing.canary_backoff_max.0,
        refusal_window: timing.refusal_window.0,
        publish_backoff: timing.publish_backoff.0,
        publish_backoff_max: timing.publish_backoff_max.0,
        poll: timing.poll.0,
        due_tick: timing.due_tick.0,
        due_visibility: timing.due_visibility.0,
        due_batch: timing.due_batch,
    }
}
