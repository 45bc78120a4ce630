//! The line that a failed call leaves in the log of the program.

use tonic::Code;
use tracing::{debug, info, warn};

use crate::broker::error::{Error, chain};
use crate::broker::model::GrantId;
use crate::broker::store::StoreError;
use crate::service::call::Call;
use crate::service::lines::Lines;
use crate::service::status::classify;
use crate::service::trail::trace_id;

/// Writes it, unless there are too many of its kind.
#[derive(Debug, Default)]
pub(super) struct Log(Lines);

/// How loudly a failure is told.
enum Loudness {
    /// Told where it happened, or one of too many to be told: those are counted.
    Quiet,
    /// Callers can mend it by themselves.
    Told,
    /// Somebody should look.
    Warned,
}

impl Log {
    /// A failure is logged once: here, unless it was told where it happened.
    pub(super) fn failed(&self, call: &Call, error: &Error) {
        let (method, caller) = (call.action.method(), call.who.subject());
        let trace = call.trace.as_ref().and_then(trace_id);
        let (code, reason, _) = classify(error);
        let (reason, grant) = (reason.wire_name(), named(error));
        macro_rules! line {
            ($write:ident, $left_out:expr, $told:literal) => {
                $write!(
                    rpc.method = method,
                    caller,
                    grant.id = grant,
                    trace.id = trace,
                    reason,
                    error = chain(error),
                    left_out = $left_out,
                    $told
                )
            };
        }
        let turn = || self.0.next((method, caller, reason));
        let rest = |left_out: u64| Some(left_out).filter(|left_out| *left_out > 0);
        match loudness(code, error) {
            Loudness::Quiet => line!(debug, None::<u64>, "failed"),
            Loudness::Told => _ = turn().map(|left_out| line!(info, rest(left_out), "refused")),
            Loudness::Warned => _ = turn().map(|left_out| line!(warn, rest(left_out), "failed")),
        }
    }

    /// The caller's time was over first.
    pub(super) fn late(&self, method: &'static str) {
        if let Some(left_out) = self.0.next((method, "late")) {
            warn!(rpc.method = method, left_out, "no answer within the caller's deadline");
        }
    }
}

fn loudness(code: Code, error: &Error) -> Loudness {
    let told_already = match error {
        // By the refresh, the watch over the store, the look at the cluster's keys, or the gate.
        Error::Upstream { .. }
        | Error::GrantRefused { .. }
        | Error::Draining
        | Error::CallersUnknown(_)
        | Error::Unauthenticated(_)
        // Whoever goes wild is counted.
        | Error::CallerLimited { .. }
        | Error::EnrolmentsLimited { .. } => true,
        Error::Store(store) => {
            matches!(store.as_ref(), StoreError::Unavailable(_) | StoreError::Recovering { .. })
        }
        _ => false,
    };
    match code {
        _ if told_already => Loudness::Quiet,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Aborted
        | Code::PermissionDenied
        | Code::DeadlineExceeded => Loudness::Told,
        _ => Loudness::Warned,
    }
}

/// The grant that a failure is about.
fn named(error: &Error) -> Option<&str> {
    match error {
        Error::Denied { grant, .. } => Some(grant),
        _ => grant(error).map(GrantId::as_str),
    }
}

fn grant(error: &Error) -> Option<&GrantId> {
    match error {
        Error::GrantNotFound(grant)
        | Error::GrantAlreadyExists(grant)
        | Error::GrantDisabled(grant)
        | Error::NotInDoubt(grant)
        | Error::EtagMismatch(grant)
        | Error::OtherAccount(grant)
        | Error::RefreshInProgress(grant)
        | Error::GrantRefused { grant, .. }
        | Error::MinTtlUnsatisfiable { grant, .. }
        | Error::GenerationUnknown { grant, .. }
        | Error::ForceRefreshCooldown { grant, .. }
        | Error::NotRevoked { grant, .. }
        | Error::Upstream { grant, .. } => Some(grant),
        Error::Invalid(_)
        | Error::EnrolmentUnknown
        | Error::AnswerOfAnother(_)
        | Error::CodeRejected { .. }
        | Error::EnrolmentFailed { .. }
        | Error::EnrolmentGoesOn
        | Error::CodeOutcomeUnknown(_)
        | Error::NoRefreshToken(_)
        | Error::CannotRevoke(_)
        | Error::Unauthenticated(_)
        | Error::CallersUnknown(_)
        | Error::Denied { .. }
        | Error::CallerLimited { .. }
        | Error::EnrolmentsLimited { .. }
        | Error::AccountUnproven { .. }
        | Error::ProviderNotConfigured(_)
        | Error::Store(_)
        | Error::NotAudited
        | Error::Draining
        | Error::NotImplemented(_)
        | Error::Internal => None,
    }
}
