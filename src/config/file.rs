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

pub(super) use bounds::Bounds;

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

/// TLS of the API. The files are in PEM, and read again when they change.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "they are files, as those of other sections")]
pub(super) struct TlsSection {
    /// Our certificate, and those between it and whom clients trust.
    pub(super) certificate_file: PathBuf,
    /// Its key.
    pub(super) key_file: PathBuf,
    /// Who signs certificates of clients, which then prove who calls by the one URI in them
    /// (`spiffe://DOMAIN/PATH`). Left out: they are not asked for any.
    pub(super) client_ca_file: Option<PathBuf>,
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
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
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

/// How callers prove who they are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Callers {
    /// Pods, by tokens of their service accounts.
    pub(super) kubernetes: Option<KubernetesSection>,
    /// How much each caller may take of each replica.
    pub(super) limits: LimitsSection,
    /// File with `NAME TOKEN` on each line: static tokens, for development and for callers outside of
    /// any cluster.
    pub(super) tokens_file: Option<PathBuf>,
}

/// How much each caller may take of each replica; 0: as much as it likes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LimitsSection {
    /// Calls in a second; as many may come at once, and evenly after that.
    #[schemars(range(max = 1_000_000))]
    pub(super) rate: u32,
    /// Calls at once.
    #[schemars(range(max = 1_000_000))]
    pub(super) concurrency: u32,
    /// Tokens of one grant that are replaced by `ForceRefresh` for one caller in an hour; as many may be at
    /// once, and evenly after that. What joins somebody else's, finds a newer token, or fails is not counted.
    #[schemars(range(max = 1_000_000))]
    pub(super) force_refreshes: u32,
}

impl Default for LimitsSection {
    fn default() -> Self {
        // Far above what services need, and far below what a replica bears.
        Self { rate: 10_000, concurrency: 1_000, force_refreshes: 30 }
    }
}

/// Tokens of Kubernetes service accounts, projected into pods for our audience.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct KubernetesSection {
    /// Who issues them, as `kubectl get --raw /.well-known/openid-configuration` says.
    pub(super) issuer: String,
    /// Whom they are for.
    pub(super) audience: String,
    /// File with the keys of the cluster (JWKS), instead of an address.
    pub(super) jwks_file: Option<PathBuf>,
    /// Where the cluster publishes them. Left out: where our own does, asked as our own service account.
    pub(super) jwks_url: Option<String>,
    /// Who signed the certificate there. Left out with `jwks_url`: whom the system trusts.
    pub(super) ca_file: Option<PathBuf>,
    /// The token to ask with. Left out with `jwks_url`: none.
    pub(super) token_file: Option<PathBuf>,
}

/// What callers may do.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PolicySection {
    /// The policy file. What it does not allow is denied.
    pub(super) file: Option<PathBuf>,
}

/// A provider and our client registration there.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ProviderSection {
    /// Whose habits it has: they set the defaults of everything below.
    pub(super) profile: Profile,
    /// The token endpoint is this plus `/token`, the authorization endpoint this plus `/authorize`.
    pub(super) base_url: Option<String>,
    /// The token endpoint, where it is not below `base_url`.
    pub(super) token_url: Option<String>,
    /// The authorization endpoint, where it is not below `base_url`.
    pub(super) authorize_url: Option<String>,
    /// Where tokens are taken back (RFC 7009).
    pub(super) revoke_url: Option<String>,
    /// Where the keys are that sign who a person is, if `issuer` does not say it.
    pub(super) jwks_url: Option<String>,
    /// What is added to every question to a person, such as `access_type: offline`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) authorize_parameters: BTreeMap<String, String>,
    /// Where the provider sends people after consent, as it is registered there.
    pub(super) redirect_url: Option<String>,
    /// Bind authorization codes to a verifier (PKCE, RFC 7636). Only for providers that refuse it
    /// this is false.
    pub(super) pkce: Option<bool>,
    /// The issuer of the provider. Answers that name another one are refused (RFC 9207).
    pub(super) issuer: Option<String>,
    /// Ask the issuer where the endpoints are that are not configured (RFC 8414, OpenID Connect
    /// Discovery). Left out: only where neither `token_url` nor `base_url` is. Where it leads to
    /// another origin than the issuer's, or that of `token_url`, it is not followed.
    pub(super) discovery: Option<bool>,
    /// Our client id.
    pub(super) client_id: Option<String>,
    /// Our client secret. Only in the environment; in a file use `client_secret_file`.
    pub(super) client_secret: Option<String>,
    /// File with it; a second line may hold the one before or after it, which is tried where the first is
    /// refused. Read again when it changes.
    pub(super) client_secret_file: Option<PathBuf>,
    /// Private key for `client_auth: private_key_jwt`, in PEM: RSA, P-256, P-384 or Ed25519.
    pub(super) client_key_file: Option<PathBuf>,
    /// What the provider calls that key.
    pub(super) client_key_id: Option<String>,
    /// Whom a signature is for. Left out: the token endpoint; some providers want their issuer.
    pub(super) client_assertion_audience: Option<String>,
    /// Where client id and secret go.
    pub(super) client_auth: Option<ClientAuth>,
    /// How they are written in the Authorization header.
    pub(super) basic_encoding: Option<BasicEncoding>,
    /// Lifetime of a token whose reply names none.
    pub(super) default_lifetime: Option<Span>,
    /// Longest wait for a connection.
    pub(super) connect_timeout: Option<Span>,
    /// For how long an answer is listened for, 5m at most. Callers stop waiting far sooner
    /// (`timing.caller_wait_max`); who hangs up before a slow provider has answered loses what it
    /// answers.
    pub(super) listen_max: Option<Span>,
    /// Whether a use spends a refresh token.
    pub(super) refresh_tokens: Option<RefreshTokens>,
    /// For how long a spent refresh token still works, as the provider documents it.
    pub(super) reuse_grace: Option<Span>,
    /// Refresh tokens that are not used for longer than this may die of it, so that grants are
    /// refreshed at least so often, also those that nobody asks for. 0s: they are left alone.
    pub(super) keep_warm_every: Option<Span>,
    /// What happens to a refresh token that was sent and got no definite answer.
    pub(super) resend: Option<Resend>,
    /// Most such refresh tokens in a second, once the provider is well again.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) resend_rate: Option<u32>,
    /// Most refreshes in a second, of all replicas together. Where the provider says that this is too
    /// fast (429), it is halved and grows back. Callers who wait go first.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) rate: Option<u32>,
    /// Most refreshes of one replica that wait for an answer: a slow provider takes no more than so many
    /// connections.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) concurrency: Option<u16>,
    /// Statuses above 499 that the server itself sends which processes the request, and no gateway
    /// before it: after them nothing is under way any more.
    pub(super) settled_statuses: Option<Vec<u16>>,
    /// Member of the token reply that says whose consent it was, such as `user_id` or `athlete.id`. It
    /// is kept sealed, and consent of another one refused. Where the scope `openid` is asked for and
    /// the keys are known, the `id_token` says it without this.
    pub(super) account_field: Option<String>,
    /// Fields of the token reply that callers get to see, such as `instance_url`.
    pub(super) attributes: Vec<String>,
    /// What failures of this provider mean, before the rules of the standard.
    pub(super) error_map: Vec<Rule>,
}

/// Whose habits a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Profile {
    /// As the standard says.
    #[default]
    Generic,
    /// Kroger: single-use refresh tokens, Basic authentication.
    Kroger,
}

impl Profile {
    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Kroger => "kroger",
        }
    }
}

/// Whether a use spends a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RefreshTokens {
    /// It does, or may.
    SingleUse,
    /// It does not: refreshing is simply tried again whatever happens.
    Reusable,
}

/// What happens to a refresh token that was sent and got no definite answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Resend {
    /// It is presented again once the old access token is used up.
    WhenNeeded,
    /// It is presented again only when an operator says so.
    Never,
}

/// Where client id and secret go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientAuth {
    /// Into the Authorization header.
    Basic,
    /// Into the form.
    Post,
    /// Nowhere: a signature goes into the form instead, made with `client_key_file` (RFC 7523).
    PrivateKeyJwt,
    /// Nowhere: a public client, which has no secret and says its name only.
    None,
}

/// How client id and secret are written in the Authorization header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BasicEncoding {
    /// Form-urlencoded first (RFC 6749 section 2.3.1).
    Rfc6749,
    /// As they are.
    Raw,
}

/// Gives a meaning to failures that look like this; what is left out matches anything.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    /// HTTP status.
    #[schemars(range(min = 100, max = 599))]
    pub(super) status: Option<u16>,
    /// The `error` of the reply.
    pub(super) code: Option<String>,
    /// Text in the reply, in any case.
    pub(super) text: Option<String>,
    /// What it means.
    pub(super) means: Meaning,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Meaning {
    /// The grant is dead: a person must consent again.
    Reauth,
    /// Our client registration is refused; no grant is harmed.
    Client,
    /// It passes, and the request was not processed.
    Unavailable,
    /// It passes, and the request was not processed because of another one.
    Conflict,
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
    /// First wait of a provider that refused our client; doubles each time.
    pub(super) client_probe: Span,
    /// Longest wait of a provider that refused our client.
    pub(super) client_probe_max: Span,
    /// Longest wait between the requests that go out one at a time while a provider is in trouble.
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

/// The audit log: a JSON line for each decision on a token or a grant, and for each act of the broker.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AuditSection {
    /// `stdout`, or `file:` and a path. Left out: there is none.
    pub(super) sink: Option<String>,
    /// What changes a grant is not done unless it is written down first. Callers get tokens in any case.
    pub(super) required: bool,
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
    const PATTERN: &'static str = "^[0-9]{1,9}(ms|s|m|h|d)$";
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

impl Default for KubernetesSection {
    fn default() -> Self {
        Self {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audience: "token-broker".to_owned(),
            jwks_file: None,
            jwks_url: None,
            ca_file: None,
            token_file: None,
        }
    }
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
