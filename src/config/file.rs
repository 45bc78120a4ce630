//! What can be written in the file. The comments are the manual that `config-schema` prints.
//!
//! What may hold a secret has no `Debug`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod bounds;
mod provider;
mod trust;

pub(super) use bounds::Bounds;
pub(super) use provider::{
    Again, BasicEncoding, ClientAuth, Meaning, Profile, ProviderSection, RefreshTokens, Replay,
    Resend, Rule,
};
pub(super) use trust::{
    AuditSection, Callers, Enrollments, KubernetesSection, LimitsSection, PolicySection, TlsSection,
};

/// How `store.prefix` is written.
pub(super) const PREFIX_PATTERN: &str = "^[A-Za-z0-9._-]{1,64}$";

/// The whole file.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    /// Where to listen.
    pub(super) listen: Listen,
    /// How much clients may take.
    pub(super) bounds: Bounds,
    /// Where grants are kept.
    pub(super) store: Store,
    /// What the store is sealed with.
    pub(super) keys: Keys,
    /// How callers prove who they are. Nothing of it: nobody has to, and the API listens on loopback.
    pub(super) callers: Callers,
    /// What they may do.
    pub(super) policy: PolicySection,
    /// How many enrolments may be begun.
    pub(super) enrollments: Enrollments,
    /// Who issues tokens, by name.
    pub(super) providers: BTreeMap<String, ProviderSection>,
    /// Waits and bounds.
    pub(super) timing: Timing,
    /// How to stop.
    pub(super) shutdown: Shutdown,
    /// How to log.
    pub(super) log: Log,
    /// What is written down of who did what.
    pub(super) audit: AuditSection,
}

/// Where to listen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Listen {
    /// Address of the gRPC API.
    pub(super) api: String,
    /// Address of `GrantAdminService`, apart from what callers reach; with the same TLS, callers and policy.
    /// Left out: it is served at `api`.
    pub(super) admin: Option<String>,
    /// Address of health and metrics: /livez, /readyz, /metrics and gRPC health, in plaintext.
    pub(super) ops: String,
    /// Address of the pages at which people begin and end an enrolment. Left out: there are none, and
    /// whoever begins an enrolment brings the answer.
    pub(super) pages: Option<String>,
    /// What browsers know the pages by, such as `https://broker.example.com`; providers have this plus
    /// `/oauth/callback` as our redirect address. Left out: `http://` and the address.
    pub(super) pages_url: Option<String>,
    /// TLS of the API. Left out: it speaks plaintext.
    pub(super) tls: Option<TlsSection>,
    /// Serve gRPC reflection, so that grpcurl needs no proto files.
    pub(super) reflection: bool,
    /// Beyond loopback the API opens only where callers prove who they are, or if this says that anyone
    /// who reaches it may take tokens.
    pub(super) anyone_may_take_tokens: bool,
}

/// Where grants are kept.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    /// `redb:PATH` (one process), `memory:` (lost at exit), `redis://HOST:PORT/DB` or `rediss://`,
    /// `redis+sentinel://HOST:PORT,HOST:PORT/NAME/DB` or `rediss+sentinel://`.
    pub(super) url: Option<String>,
    /// File with the password of Redis.
    pub(super) password_file: Option<PathBuf>,
    /// Who signed the certificate of Redis (PEM), for `rediss://`. Left out: whom the system trusts. Not
    /// with Sentinel yet.
    pub(super) ca_file: Option<PathBuf>,
    /// What all keys in Redis begin with.
    #[schemars(regex(pattern = PREFIX_PATTERN))]
    pub(super) prefix: String,
    /// Longest wait for one answer of Redis.
    pub(super) timeout: Span,
    /// File into which this replica writes each pair that a provider issued, sealed, before Redis is
    /// asked to take it; what a crash leaves in it is given to Redis at the next start. It names the
    /// replica and is locked while it runs, which proves after a crash that the process before is gone.
    /// Only for Redis; on a volume that survives restarts, one for each replica. Empty: none.
    pub(super) journal: String,
    /// Refuse to start with an empty store, instead of making a new one: a store that was lost is not
    /// taken for a first start.
    pub(super) expect_existing: bool,
    /// Use a Redis that may evict keys. An evicted grant locks a person out.
    pub(super) allow_eviction: bool,
    /// Replicas of Redis without which no refresh token is sent. Those that are attached must confirm
    /// each claim anyway, so that a failover forgets none.
    #[schemars(range(max = 16))]
    pub(super) replicas_min: u8,
}

/// What the store is sealed with.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Keys {
    /// File of the key ring, made by `token-broker keys generate`. The embedded store makes one
    /// beside itself if none is named; Redis needs one.
    pub(super) file: Option<PathBuf>,
}

/// Waits and bounds.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timing {
    /// Longest wait of a caller for a refresh.
    pub(super) caller_wait_max: Span,
    /// No forced refresh for this long after a new token arrived.
    pub(super) force_cooldown: Span,
    /// A claim older than this is not sent under. The embedded store, which belongs to one process,
    /// needs no such bound.
    pub(super) send_gate: Span,
    /// A silent holder of a claim is suspected this long after send gate and provider deadline.
    pub(super) suspect_margin: Span,
    /// The refresh token of a holder elsewhere that has been silent for this long is presented again once
    /// the old access token has expired, though the holder may be alive and have a newer pair. 0s: never
    /// unasked.
    pub(super) unproven_resend_after: Span,
    /// Before a refresh token in doubt is presented again: this long after `listen_max`, counted
    /// from the newest request.
    pub(super) settle_margin: Span,
    /// The same, counted from the request, after one of the provider's `settled_statuses`.
    pub(super) settle_short: Span,
    /// A refresh token that is in doubt for longer than this ...
    pub(super) resend_slow_after: Span,
    /// ... is presented again only once in this time.
    pub(super) resend_slow: Span,
    /// Tries of one refresh while nothing was sent.
    #[schemars(range(min = 1, max = 10))]
    pub(super) attempts_max: u32,
    /// First wait between such tries.
    pub(super) attempt_backoff: Span,
    /// First wait after a failed refresh; doubles each time.
    pub(super) retry_backoff: Span,
    /// Longest wait after a failed refresh.
    pub(super) retry_backoff_max: Span,
    /// First wait between the requests that go out one at a time while a provider refuses several grants
    /// alike; doubles each time, and is ten times as long at least from the third on.
    pub(super) client_probe: Span,
    /// Longest such wait, if the tokens of the client live long enough; and the longest wait of a single
    /// grant that is refused.
    pub(super) client_probe_max: Span,
    /// Longest wait between the requests that go out one at a time while no answer comes.
    pub(super) canary_backoff_max: Span,
    /// Final refusals of many grants within this time count as the provider's trouble.
    pub(super) refusal_window: Span,
    /// First wait before a new pair is offered to the store again; doubles each time.
    pub(super) publish_backoff: Span,
    /// Longest wait before a new pair is offered to the store again.
    pub(super) publish_backoff_max: Span,
    /// Poll for the result of another holder of the claim.
    pub(super) poll: Span,
    /// A grant that nobody asked for is let go from memory about that long after.
    pub(super) forget_after: Span,
    /// How often the due index is asked.
    pub(super) due_tick: Span,
    /// How often a mark is written to the store and looked for: whether it takes writes, and whether
    /// it is still the store that it was.
    pub(super) store_watch: Span,
    /// How long a grant taken from the due index stays hidden.
    pub(super) due_visibility: Span,
    /// Grants taken from the due index at once.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) due_batch: usize,
}

/// How to stop.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// Time between saying "not ready" and closing the door; in Kubernetes about 5s.
    pub(super) drain_delay: Span,
    /// Longest wait for refreshes under way; left out: the longest `listen_max` and 5s. Keep it below
    /// the termination grace period.
    pub(super) drain_max: Option<Span>,
}

/// How to log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// For people or for programs.
    pub(super) format: LogFormat,
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,token_broker=debug`.
    pub(super) level: String,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// A JSON object a line.
    Json,
}

/// A length of time: a whole number and a unit, such as `500ms`, `10s`, `5m`, `1h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span(pub(super) Duration);

impl Span {
    /// How it is written.
    pub(super) const PATTERN: &'static str = "^[0-9]{1,9}(ms|s|m|h|d)$";

    /// The text is written so.
    pub(super) fn is_one(text: &str) -> bool {
        let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
        (1..=9).contains(&(text.len() - unit.len())) && ["ms", "s", "m", "h", "d"].contains(&unit)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|_| D::Error::custom("not a time"))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ms = self.0.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        let unit = units.iter().find(|(_, size)| ms.is_multiple_of(*size) && ms >= *size);
        let (name, size) = unit.unwrap_or(&("s", 1_000));
        serializer.serialize_str(&format!("{}{name}", ms / size))
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": Self::PATTERN,
            "description": "A length of time, such as 500ms, 10s, 5m, 1h or 7d."
        })
    }
}

const fn s(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            admin: None,
            api: "127.0.0.1:50051".to_owned(),
            ops: "127.0.0.1:9464".to_owned(),
            pages: None,
            pages_url: None,
            reflection: true,
            tls: None,
            anyone_may_take_tokens: false,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            ca_file: None,
            prefix: "tb".to_owned(),
            timeout: s(1),
            journal: "token-broker.journal".to_owned(),
            expect_existing: false,
            allow_eviction: false,
            replicas_min: 0,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        let settings = crate::broker::settings::Settings::default();
        Self {
            caller_wait_max: Span(settings.caller_wait_max),
            force_cooldown: Span(settings.force_cooldown),
            send_gate: s(1),
            suspect_margin: s(5),
            unproven_resend_after: s(3600),
            settle_margin: Span(settings.settle_margin),
            settle_short: Span(settings.settle_short),
            resend_slow_after: Span(settings.resend_slow_after),
            resend_slow: Span(settings.resend_slow),
            attempts_max: settings.attempts_max,
            attempt_backoff: Span(settings.attempt_backoff.first),
            retry_backoff: Span(settings.retry_backoff.first),
            retry_backoff_max: Span(settings.retry_backoff.max),
            client_probe: Span(settings.client_probe.first),
            client_probe_max: Span(settings.client_probe.max),
            canary_backoff_max: Span(settings.canary_backoff.max),
            refusal_window: Span(settings.refusal_window),
            publish_backoff: Span(settings.publish_backoff.first),
            publish_backoff_max: Span(settings.publish_backoff.max),
            poll: Span(settings.poll),
            forget_after: Span(settings.forget_after),
            due_tick: Span(settings.due_tick),
            store_watch: Span(settings.store_watch),
            due_visibility: Span(settings.due_visibility),
            due_batch: settings.due_batch,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_delay: s(0), drain_max: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: "info".to_owned() }
    }
}
