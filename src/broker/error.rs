//! The one error enum of the domain: a variant for each decision that a caller or operator makes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::broker::advice::advice;
use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::model::{Generation, GrantId, ProviderId, Reason, Verdict};
use crate::broker::store::StoreError;

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
    #[error(
        "grant {0} exists already; `token-broker grant import --replace` starts a new chain in its place, \
         `token-broker grant delete` ends it"
    )]
    GrantAlreadyExists(GrantId),
    /// The provider refused the grant.
    #[error("grant {grant}: {}{}", advice(.verdict.reason), answered(.verdict.provider_status, .verdict.provider_error.as_deref()))]
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
    /// The caller takes too much.
    #[error(
        "{caller} takes more than `{limit}` lets a caller take here; call less often, or ask an operator to raise it"
    )]
    CallerLimited {
        /// Who called.
        caller: String,
        /// The setting.
        limit: &'static str,
        /// When there is some again.
        retry_after: Duration,
    },
    /// Too many enrolments were begun.
    #[error(
        "too many enrolments {by}; wait for those to end, or ask an operator to raise `{limit}`"
    )]
    EnrolmentsLimited {
        /// Of whom, or of what.
        by: &'static str,
        /// The setting.
        limit: &'static str,
        /// When there is room for another.
        retry_after: Duration,
    },
    /// The audit log takes nothing, and nothing is changed without it.
    #[error(
        "the audit log cannot be written, and `audit.required` says that nothing is changed without \
         it; nothing was done: mend the log, and call again"
    )]
    NotAudited,
    /// No provider of this name.
    #[error("no provider {0} is configured; add it under `providers` in the configuration")]
    ProviderNotConfigured(ProviderId),
    /// The provider's side failed.
    #[error("grant {grant}, provider {provider}: {}{}", advice(.failure.reason), met(.failure))]
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
    /// No question waits for this answer.
    #[error(
        "no enrolment waits for this answer: it was answered already, took longer than ten minutes, \
         or was not begun here; begin it again"
    )]
    EnrolmentUnknown,
    /// The answer names another issuer (RFC 9207): a mix-up, or an attack.
    #[error(
        "the answer names another issuer than `issuer` in the settings of provider {0}, or none; its \
         code was not sent to anybody. Begin again, and look at where the person was sent"
    )]
    AnswerOfAnother(ProviderId),
    /// The provider did not take the code.
    #[error("provider {provider} did not take the authorization code{}; begin the enrolment again", answered(.failure.status, .failure.provider_error.as_deref()))]
    CodeRejected {
        /// The provider.
        provider: ProviderId,
        /// What it said.
        failure: Failure,
    },
    /// The code was not processed; nobody tries again by itself.
    #[error("the enrolment failed; provider {provider}: {}{}. When that is mended, begin the enrolment again", failed(.failure.reason), met(.failure))]
    EnrolmentFailed {
        /// The provider.
        provider: ProviderId,
        /// What happened.
        failure: Failure,
    },
    /// The caller's time ran out first.
    #[error(
        "the provider or the store is slow; the enrolment goes on by itself, look at the grant in a \
         moment. Its code is spent: begin again only if the grant does not come to life"
    )]
    EnrolmentGoesOn,
    /// Nobody knows what came of the code.
    #[error(
        "provider {0} was sent the authorization code and gave no definite answer; it is not sent \
         again. Begin the enrolment again"
    )]
    CodeOutcomeUnknown(ProviderId),
    /// Consent without a refresh token is worth nothing here.
    #[error(
        "provider {0} gave an access token and no refresh token, so that nothing could be kept alive; \
         most want the scope `offline_access`, or `authorize_parameters: {{access_type: offline, \
         prompt: consent}}` in the settings of the provider"
    )]
    NoRefreshToken(ProviderId),
    /// Whose consent it was is not known for sure.
    #[error(
        "what provider {provider} says of the person who consented is not believed: {why}. Nothing was \
         changed; look at `issuer` and `client_id` in its settings and at the clocks, and begin again"
    )]
    AccountUnproven {
        /// The provider.
        provider: ProviderId,
        /// Why.
        why: String,
    },
    /// It was somebody else's consent.
    #[error(
        "another account consented than the one that grant {0} stands on, or the provider does not \
         say which; nothing was changed. Sign in with the account of before, or begin again with \
         `--other-account` if it is to change"
    )]
    OtherAccount(GrantId),
    /// The provider takes nothing back.
    #[error(
        "provider {0} has no `revoke_url` in its settings, and names none itself; `token-broker grant \
         delete` drops the tokens here, and the person can take the consent back at the provider"
    )]
    CannotRevoke(ProviderId),
    /// The provider did not confirm that it took the tokens back.
    #[error("grant {grant}: provider {provider} did not take its tokens back ({}{}); nothing was changed here, ask again", failed(.failure.reason), answered(.failure.status, .failure.provider_error.as_deref()))]
    NotRevoked {
        /// The grant.
        grant: GrantId,
        /// The provider.
        provider: ProviderId,
        /// What happened.
        failure: Failure,
    },
    /// Nobody knows who calls.
    #[error("{0}")]
    Unauthenticated(String),
    /// Nobody can say yet who calls.
    #[error("{0}")]
    CallersUnknown(String),
    /// No rule of the policy allows it, whether there is such a grant or not.
    #[error(
        "no policy allows {caller} the action {action}{}; `token-broker policy explain` says why",
        on(.grant)
    )]
    Denied {
        /// Who calls.
        caller: String,
        /// What they want.
        action: &'static str,
        /// Of which grant, as it was asked for; empty where none was named.
        grant: String,
    },
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
    /// One field is malformed.
    pub(super) fn invalid(field: &'static str, description: &str) -> Self {
        Self::Invalid(vec![Violation { field, description: description.to_owned() }])
    }

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
            | Self::EnrolmentUnknown
            | Self::AnswerOfAnother(_)
            | Self::CodeRejected { .. }
            | Self::EnrolmentFailed { .. }
            | Self::EnrolmentGoesOn
            | Self::CodeOutcomeUnknown(_)
            | Self::NoRefreshToken(_)
            | Self::CannotRevoke(_)
            | Self::Unauthenticated(_)
            | Self::CallersUnknown(_)
            | Self::Denied { .. }
            | Self::NotRevoked { .. }
            | Self::AccountUnproven { .. }
            | Self::OtherAccount(_)
            | Self::CallerLimited { .. }
            | Self::EnrolmentsLimited { .. }
            | Self::NotAudited
            | Self::Draining
            | Self::NotImplemented(_)
            | Self::Internal => None,
        }
    }
}

/// What somebody wanted something of, if a grant can be called so.
fn on(grant: &str) -> String {
    let named = GrantId::parse(grant).is_ok();
    if named { format!(" on {grant}") } else { String::new() }
}

/// What the provider said, or why it was not reached.
fn met(failure: &Failure) -> String {
    match (&failure.unreached, &failure.detail) {
        (Some(_), Some(why)) => format!(" ({why})"),
        // Our own words, not the provider's.
        (None, Some(why)) if failure.status.is_none() => format!(" ({why})"),
        _ => answered(failure.status, failure.provider_error.as_deref()),
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

/// What became of a request that nobody repeats.
fn failed(reason: Reason) -> &'static str {
    match reason {
        Reason::ProviderUnreachable => "it could not be reached",
        Reason::ProviderRateLimited => "its rate limit is reached",
        Reason::ClientCredentialsRejected => "it refuses our client id or secret",
        Reason::ScopeNotGranted => "it does not grant the scopes",
        Reason::RefreshOutcomeUnknown | Reason::RefreshReplyUnreadable => "no definite answer",
        _ => reason.name(),
    }
}

/// Longest part of an error in the log; what callers and servers send can be long.
const PART_MAX: usize = 500;

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(PART_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The error with its causes, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = shortened(error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = shortened(cause.to_string());
        // Many errors repeat their cause in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
