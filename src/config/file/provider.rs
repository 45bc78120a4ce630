//! The section of one provider.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::file::Span;

/// A provider and our client registration there.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ProviderSection {
    /// Whose habits it has: they set the defaults of everything below.
    pub(in crate::config) profile: Profile,
    /// The token endpoint is this plus `/token`, the authorization endpoint this plus `/authorize`.
    pub(in crate::config) base_url: Option<String>,
    /// The token endpoint, where it is not below `base_url`.
    pub(in crate::config) token_url: Option<String>,
    /// The authorization endpoint, where it is not below `base_url`.
    pub(in crate::config) authorize_url: Option<String>,
    /// Where tokens are taken back (RFC 7009).
    pub(in crate::config) revoke_url: Option<String>,
    /// Where the keys are that sign who a person is, if `issuer` does not say it.
    pub(in crate::config) jwks_url: Option<String>,
    /// What is added to every question to a person, such as `access_type: offline`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::config) authorize_parameters: BTreeMap<String, String>,
    /// Where the provider sends people after consent, as it is registered there.
    pub(in crate::config) redirect_url: Option<String>,
    /// Bind authorization codes to a verifier (PKCE, RFC 7636). Only for providers that refuse it
    /// this is false.
    pub(in crate::config) pkce: Option<bool>,
    /// The issuer of the provider. Answers that name another one are refused (RFC 9207).
    pub(in crate::config) issuer: Option<String>,
    /// Ask the issuer where the endpoints are that are not configured (RFC 8414, OpenID Connect
    /// Discovery). Left out: only where neither `token_url` nor `base_url` is. Where it leads to
    /// another origin than the issuer's, or that of `token_url`, it is not followed.
    pub(in crate::config) discovery: Option<bool>,
    /// Our client id.
    pub(in crate::config) client_id: Option<String>,
    /// Our client secret. Only in the environment; in a file use `client_secret_file`.
    pub(in crate::config) client_secret: Option<String>,
    /// File with it; a second line may hold the one before or after it, which is tried where the first is
    /// refused. Read again when it changes.
    pub(in crate::config) client_secret_file: Option<PathBuf>,
    /// Private key for `client_auth: private_key_jwt`, in PEM: RSA, P-256, P-384 or Ed25519.
    pub(in crate::config) client_key_file: Option<PathBuf>,
    /// What the provider calls that key.
    pub(in crate::config) client_key_id: Option<String>,
    /// Whom a signature is for. Left out: the token endpoint; some providers want their issuer.
    pub(in crate::config) client_assertion_audience: Option<String>,
    /// Where client id and secret go.
    pub(in crate::config) client_auth: Option<ClientAuth>,
    /// How they are written in the Authorization header.
    pub(in crate::config) basic_encoding: Option<BasicEncoding>,
    /// Lifetime of a token whose reply names none.
    pub(in crate::config) default_lifetime: Option<Span>,
    /// Longest lifetime of a token that is believed.
    pub(in crate::config) lifetime_max: Option<Span>,
    /// Longest wait for a connection.
    pub(in crate::config) connect_timeout: Option<Span>,
    /// For how long an answer is listened for, 5m at most. Callers stop waiting far sooner
    /// (`timing.caller_wait_max`); who hangs up before a slow provider has answered loses what it
    /// answers.
    pub(in crate::config) listen_max: Option<Span>,
    /// Whether a use spends a refresh token.
    pub(in crate::config) refresh_tokens: Option<RefreshTokens>,
    /// For how long a spent refresh token still works, as the provider documents it: what is lost of an answer
    /// is fetched again inside that time.
    pub(in crate::config) replay: Option<Replay>,
    /// The older name of `replay.within`, where nothing is known of what another use brings.
    pub(in crate::config) reuse_grace: Option<Span>,
    /// Refresh tokens that are not used for longer than this may die of it, so that grants are
    /// refreshed at least so often, also those that nobody asks for. 0s: they are left alone.
    pub(in crate::config) keep_warm_every: Option<Span>,
    /// What happens to a refresh token that was sent and got no definite answer.
    pub(in crate::config) resend: Option<Resend>,
    /// Most such refresh tokens in a second, once the provider is well again.
    #[schemars(range(min = 1, max = 10_000))]
    pub(in crate::config) resend_rate: Option<u32>,
    /// Most refreshes in a second, of all replicas together. Where the provider says that this is too
    /// fast (429), it is halved and grows back. Callers who wait go first.
    #[schemars(range(min = 1, max = 100_000))]
    pub(in crate::config) rate: Option<u32>,
    /// Most refreshes of one replica that wait for an answer: a slow provider takes no more than so many
    /// connections.
    #[schemars(range(min = 1, max = 10_000))]
    pub(in crate::config) concurrency: Option<u16>,
    /// Longest wait that the provider can ask for (`Retry-After`): what is longer is taken for a mistake,
    /// and asked again.
    pub(in crate::config) retry_after_max: Option<Span>,
    /// Statuses above 499 that the server itself sends which processes the request, and no gateway
    /// before it: after them nothing is under way any more.
    pub(in crate::config) settled_statuses: Option<Vec<u16>>,
    /// Member of the token reply that says whose consent it was, such as `user_id` or `athlete.id`. It
    /// is kept sealed, and consent of another one refused. Where the scope `openid` is asked for and
    /// the keys are known, the `id_token` says it without this.
    pub(in crate::config) account_field: Option<String>,
    /// Fields of the token reply that callers get to see, such as `instance_url` or `athlete.id`.
    pub(in crate::config) attributes: Vec<String>,
    /// What failures of this provider mean, before the rules of the standard. A rule that names a `code` or
    /// a `text` holds for a success (2xx) with tokens, too. Read again when the file changes.
    pub(in crate::config) error_map: Vec<Rule>,
}

/// Whose habits a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Profile {
    /// As the standard says.
    #[default]
    Generic,
    /// Kroger: single-use refresh tokens, Basic authentication.
    Kroger,
    /// Atlassian: a window of ten minutes, and dead grants under a code of the client's.
    Atlassian,
    /// Okta: a window of half a minute, unless the application says otherwise.
    Okta,
}

impl Profile {
    /// Its name.
    pub(in crate::config) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Kroger => "kroger",
            Self::Atlassian => "atlassian",
            Self::Okta => "okta",
        }
    }
}

/// Whether a use spends a refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RefreshTokens {
    /// It does, or may.
    SingleUse,
    /// It does not: refreshing is simply tried again whatever happens.
    Reusable,
}

/// A window in which a spent refresh token still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Replay {
    /// How long it is, counted from the first use.
    pub(in crate::config) within: Span,
    /// What another use brings.
    #[serde(default)]
    pub(in crate::config) again: Again,
    /// Use it also where a request that the provider processes very late could end the grant: where it is
    /// shorter than about 36 s.
    #[serde(default)]
    pub(in crate::config) early: bool,
}

/// What another use of a spent refresh token brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Again {
    /// The same pair as the first.
    Same,
    /// Another pair, beside the first.
    Both,
    /// Another pair, and the one before is dead; or nothing is known of it.
    #[default]
    OlderDies,
}

/// What happens to a refresh token that was sent and got no definite answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Resend {
    /// It is presented again once the old access token is used up.
    WhenNeeded,
    /// It is presented again only when an operator says so.
    Never,
}

/// Where client id and secret go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum ClientAuth {
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
pub(in crate::config) enum BasicEncoding {
    /// Form-urlencoded first (RFC 6749 section 2.3.1).
    Rfc6749,
    /// As they are.
    Raw,
}

/// Gives a meaning to failures that look like this; what is left out matches anything.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Rule {
    /// HTTP status.
    #[schemars(range(min = 100, max = 599))]
    pub(in crate::config) status: Option<u16>,
    /// The `error` of the reply.
    pub(in crate::config) code: Option<String>,
    /// Text in the reply, in any case.
    pub(in crate::config) text: Option<String>,
    /// What it means.
    pub(in crate::config) means: Meaning,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum Meaning {
    /// The grant is dead: a person must consent again.
    Reauth,
    /// Our client registration is refused; no grant is harmed.
    Client,
    /// It passes, and the request was not processed.
    Unavailable,
    /// It passes, and the request was not processed because of another one.
    Conflict,
    /// We ask too often, and the request was not processed.
    RateLimited,
}
