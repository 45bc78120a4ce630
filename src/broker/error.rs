//! The one error enum of the domain: a variant for each decision that a caller or operator makes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::grant::{Generation, GrantId, ProviderId, Verdict};
use crate::broker::store::StoreError;

/// Why the provider's side failed; the names are those of `ErrorReason` in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the contract documents each value")]
pub enum Reason {
    GrantReauthRequired,
    GrantInteractionRequired,
    GrantRefreshTokenLost,
    GrantRefreshTokenExpired,
    GrantNotRefreshable,
    ScopeNotGranted,
    ResourceNotAllowed,
    ProviderUnreachable,
    ProviderRateLimited,
    ProviderUnavailable,
    ProviderConflict,
    ProviderUnrecognizedError,
    ProviderRefusesMany,
    ProviderEndpointMisconfigured,
    ClientCredentialsRejected,
    ClientNotAuthorized,
    ClientMisconfigured,
    RefreshOutcomeUnknown,
    RefreshReplyUnreadable,
    StoreUnavailable,
}

impl Reason {
    /// All values, for tables and tests.
    pub const ALL: [Self; 20] = [
        Self::GrantReauthRequired,
        Self::GrantInteractionRequired,
        Self::GrantRefreshTokenLost,
        Self::GrantRefreshTokenExpired,
        Self::GrantNotRefreshable,
        Self::ScopeNotGranted,
        Self::ResourceNotAllowed,
        Self::ProviderUnreachable,
        Self::ProviderRateLimited,
        Self::ProviderUnavailable,
        Self::ProviderConflict,
        Self::ProviderUnrecognizedError,
        Self::ProviderRefusesMany,
        Self::ProviderEndpointMisconfigured,
        Self::ClientCredentialsRejected,
        Self::ClientNotAuthorized,
        Self::ClientMisconfigured,
        Self::RefreshOutcomeUnknown,
        Self::RefreshReplyUnreadable,
        Self::StoreUnavailable,
    ];

    /// Stable name: on the wire, in stored records, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::GrantReauthRequired => "GRANT_REAUTH_REQUIRED",
            Self::GrantInteractionRequired => "GRANT_INTERACTION_REQUIRED",
            Self::GrantRefreshTokenLost => "GRANT_REFRESH_TOKEN_LOST",
            Self::GrantRefreshTokenExpired => "GRANT_REFRESH_TOKEN_EXPIRED",
            Self::GrantNotRefreshable => "GRANT_NOT_REFRESHABLE",
            Self::ScopeNotGranted => "SCOPE_NOT_GRANTED",
            Self::ResourceNotAllowed => "RESOURCE_NOT_ALLOWED",
            Self::ProviderUnreachable => "PROVIDER_UNREACHABLE",
            Self::ProviderRateLimited => "PROVIDER_RATE_LIMITED",
            Self::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            Self::ProviderConflict => "PROVIDER_CONFLICT",
            Self::ProviderUnrecognizedError => "PROVIDER_UNRECOGNIZED_ERROR",
            Self::ProviderRefusesMany => "PROVIDER_REFUSES_MANY",
            Self::ProviderEndpointMisconfigured => "PROVIDER_ENDPOINT_MISCONFIGURED",
            Self::ClientCredentialsRejected => "CLIENT_CREDENTIALS_REJECTED",
            Self::ClientNotAuthorized => "CLIENT_NOT_AUTHORIZED",
            Self::ClientMisconfigured => "CLIENT_MISCONFIGURED",
            Self::RefreshOutcomeUnknown => "REFRESH_OUTCOME_UNKNOWN",
            Self::RefreshReplyUnreadable => "REFRESH_REPLY_UNREADABLE",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
        }
    }

    /// The value of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// What it means and what to do, in one sentence for people.
    pub fn advice(self) -> &'static str {
        match self {
            Self::GrantReauthRequired => {
                "the provider refused the refresh token for good; have the person consent again, \
                 or import a new refresh token with `token-broker grant import`"
            }
            Self::GrantInteractionRequired => {
                "the provider wants the person to sign in again; enrol or import the grant anew"
            }
            Self::GrantRefreshTokenLost => {
                "the provider had spent the refresh token, and its answer with the new one never \
                 arrived; have the person consent again, or import a new refresh token"
            }
            Self::GrantRefreshTokenExpired => {
                "the refresh token is past its end; have the person consent again, or import a \
                 new refresh token"
            }
            Self::GrantNotRefreshable => {
                "there is no refresh token; import one with `token-broker grant import`"
            }
            Self::ScopeNotGranted => {
                "the provider refused the scopes: the grant, or our client, does not cover them"
            }
            Self::ResourceNotAllowed => "the provider refused the resource that was asked for",
            Self::ProviderUnreachable => {
                "the provider could not be reached and nothing was sent; it is tried again"
            }
            Self::ProviderRateLimited => "the provider limits our rate; it is tried again later",
            Self::ProviderUnavailable => {
                "the provider is unavailable; nothing is lost, and it is tried again"
            }
            Self::ProviderConflict => "the provider saw concurrent requests; it is tried again",
            Self::ProviderUnrecognizedError => {
                "the provider refused in a way that is not known; no grant is ended by that, and \
                 it is tried again; say what it means in `error_map` of the provider"
            }
            Self::ProviderRefusesMany => {
                "the provider refuses many grants at once, so the trouble is taken for its own; \
                 one grant at a time is tried until one succeeds, and those refused again after \
                 that need a new consent"
            }
            Self::ProviderEndpointMisconfigured => {
                "this is not a token endpoint; check `base_url` or `token_url` of the provider"
            }
            Self::ClientCredentialsRejected => {
                "the provider refused our client id or secret; check `client_id`, \
                 `client_secret_file`, `client_auth` and `basic_encoding` of the provider"
            }
            Self::ClientNotAuthorized => {
                "the provider does not allow our client this; change the client's registration \
                 there"
            }
            Self::ClientMisconfigured => "the provider refused our client's proof; check the clock",
            Self::RefreshOutcomeUnknown => {
                "a refresh was sent and got no definite answer, so the refresh token may be spent; \
                 it is presented again when nothing can be lost by that, as `token-broker grant \
                 show` says, or when you say so with `token-broker grant resolve`"
            }
            Self::RefreshReplyUnreadable => {
                "the provider answered with success but without a token that can be read, so the \
                 refresh token may be spent; it is presented again when nothing can be lost by \
                 that, as `token-broker grant show` says"
            }
            Self::StoreUnavailable => "the token store did not take the new pair yet",
        }
    }
}

/// A field of a request that is malformed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Name of the field in the contract.
    pub field: &'static str,
    /// What it must be. Never its value.
    pub description: String,
}

/// Why the broker could not do what it was asked.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The request is malformed.
    #[error("{}", list(.0))]
    Invalid(Vec<Violation>),
    /// There is no such grant.
    #[error("there is no grant {0}; import or create it with `token-broker grant`")]
    GrantNotFound(GrantId),
    /// An operator switched the grant off.
    #[error("grant {0} is switched off; an operator can say `token-broker grant enable`")]
    GrantDisabled(GrantId),
    /// There is nothing to resolve.
    #[error(
        "grant {0} is neither in doubt nor refused, so there is nothing to resolve; \
         `token-broker grant show` says where it stands, `token-broker grant rotate` refreshes it"
    )]
    NotInDoubt(GrantId),
    /// There is such a grant already.
    #[error("grant {0} exists already; say `replace` to start a new chain in its place")]
    GrantAlreadyExists(GrantId),
    /// The provider refused the grant.
    #[error("grant {grant}: {}{}", .verdict.reason.advice(), answered(.verdict.provider_status, .verdict.provider_error.as_deref()))]
    GrantRefused {
        /// The grant.
        grant: GrantId,
        /// What the provider said.
        verdict: Verdict,
    },
    /// The grant changed since it was read.
    #[error("grant {0} changed since its etag was read; read it again")]
    EtagMismatch(GrantId),
    /// The provider's tokens are too short-lived.
    #[error(
        "min_ttl is {} but of a token of grant {grant} {} can be promised: its lifetime less the \
         time in which callers wait for its successor; ask for less",
        humantime::format_duration(*.min_ttl), humantime::format_duration(*.lifetime)
    )]
    MinTtlUnsatisfiable {
        /// The grant.
        grant: GrantId,
        /// What was asked for.
        min_ttl: Duration,
        /// What can be promised of a new token.
        lifetime: Duration,
    },
    /// The caller knows more than we do.
    #[error(
        "generation {named} of grant {grant} is not known here (current: {current}) and no \
         refresh is under way; ask again without it"
    )]
    GenerationUnknown {
        /// The grant.
        grant: GrantId,
        /// What the caller named.
        named: Generation,
        /// What is current.
        current: Generation,
    },
    /// The token was refreshed moments ago.
    #[error(
        "the token of grant {grant} was refreshed moments ago; if the API rejects it still, look \
         at its scopes, not at its age"
    )]
    ForceRefreshCooldown {
        /// The grant.
        grant: GrantId,
        /// When a refresh is possible.
        retry_after: Duration,
    },
    /// The caller's time ran out first.
    #[error("the refresh of grant {0} goes on; call again")]
    RefreshInProgress(GrantId),
    /// No provider of this name.
    #[error("no provider {0} is configured; add it under `providers` in the configuration")]
    ProviderNotConfigured(ProviderId),
    /// The provider's side failed.
    #[error("grant {grant}, provider {provider}: {}{}", .failure.reason.advice(), answered(.failure.status, .failure.provider_error.as_deref()))]
    Upstream {
        /// The grant.
        grant: GrantId,
        /// The provider.
        provider: ProviderId,
        /// What happened.
        failure: Failure,
        /// When it happened.
        time: SystemTime,
        /// When it is tried again; absent if a person has to act.
        retry_after: Option<Duration>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// This process is shutting down.
    #[error("this process is shutting down; call again")]
    Draining,
    /// Part of the contract, not built yet.
    #[error("{0} is not built yet in this version")]
    NotImplemented(&'static str),
    /// A fault of ours.
    #[error("the broker failed; its log has the cause")]
    Internal,
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl Error {
    /// A refresh token was sent and nobody knows whether it was spent.
    pub(super) fn in_doubt(&self) -> bool {
        matches!(self, Self::Upstream { failure, .. }
            if matches!(failure.disposition, Disposition::Unknown(_)))
    }

    /// When it is tried again, as far as this error knows.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream { failure, retry_after, .. } => retry_after.or(failure.retry_after),
            Self::ForceRefreshCooldown { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// The reason to show beside a token that is still valid, if this error came of refreshing it.
    pub fn degraded_reason(&self) -> Option<Reason> {
        match self {
            Self::GrantRefused { verdict, .. } => Some(verdict.reason),
            Self::Upstream { failure, .. } => Some(failure.reason),
            Self::Store(_) => Some(Reason::StoreUnavailable),
            Self::Invalid(_)
            | Self::GrantNotFound(_)
            | Self::GrantAlreadyExists(_)
            | Self::GrantDisabled(_)
            | Self::NotInDoubt(_)
            | Self::EtagMismatch(_)
            | Self::MinTtlUnsatisfiable { .. }
            | Self::GenerationUnknown { .. }
            | Self::ForceRefreshCooldown { .. }
            | Self::RefreshInProgress(_)
            | Self::ProviderNotConfigured(_)
            | Self::Draining
            | Self::NotImplemented(_)
            | Self::Internal => None,
        }
    }
}

/// What the provider said, if it said anything.
fn answered(status: Option<u16>, code: Option<&str>) -> String {
    match (status, code) {
        (Some(status), Some(code)) => format!(" (it answered {status} {code})"),
        (Some(status), None) => format!(" (it answered {status})"),
        (None, _) => String::new(),
    }
}

fn list(violations: &[Violation]) -> String {
    let each: Vec<_> =
        violations.iter().map(|one| format!("{} {}", one.field, one.description)).collect();
    each.join("; ")
}

/// The error with its causes, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
