//! One wrapper around every call: its deadline, its metrics, its one line in the log.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

use crate::broker::error::{Error, chain};
use crate::broker::model::GrantId;
use crate::service::status::{classify, status};

/// The answer leaves this long before the caller's deadline, or at a tenth of it, whichever is
/// shorter: an answer that arrives late arrives without its details.
const ANSWER_LEAD: Duration = Duration::from_millis(50);
/// See [`ANSWER_LEAD`].
const ANSWER_LEAD_SHARE: u32 = 10;
/// Shortest call worth telling apart, in seconds: cached answers take less than a millisecond.
const CALL_BUCKET_FIRST: f64 = 0.000_25;
/// 0.25 ms doubled sixteen times ends above the longest wait of a caller.
const CALL_BUCKETS: u16 = 17;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    rpc_method: &'static str,
    rpc_response_status_code: &'static str,
}

/// Counts calls, and bounds them in time.
#[derive(Debug, Clone)]
pub struct Observe {
    durations: Family<Call, Histogram>,
    wait_max: Duration,
}

impl Observe {
    /// Registers the histogram. No call waits longer than `wait_max`.
    pub fn new(registry: &mut Registry, wait_max: Duration) -> Arc<Self> {
        let durations: Family<Call, Histogram> = Family::new_with_constructor(|| {
            Histogram::new(exponential_buckets(CALL_BUCKET_FIRST, 2.0, CALL_BUCKETS))
        });
        registry.register_with_unit(
            "rpc_server_call_duration",
            "Time that calls took",
            Unit::Seconds,
            durations.clone(),
        );
        Arc::new(Self { durations, wait_max })
    }

    /// Runs a call until shortly before its caller's deadline.
    pub(super) async fn call<Q, T, F>(
        &self,
        method: &'static str,
        request: Request<Q>,
        run: impl FnOnce(Q, Instant) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut record =
            Record { observe: self, method, start: Instant::now(), code: Code::Cancelled };
        let deadline = record.start + self.budget(request.metadata());
        // The domain gives up at its deadline by itself; this bounds what waits for the store.
        let result =
            match timeout_at(deadline + ANSWER_LEAD / 2, run(request.into_inner(), deadline)).await
            {
                Ok(result) => result,
                Err(_elapsed) => Err(late()),
            };
        match result {
            Ok(response) => {
                record.code = Code::Ok;
                debug!(rpc.method = method, "answered");
                Ok(Response::new(response))
            }
            Err(error) => {
                record.code = classify(&error).0;
                log(method, &error);
                Err(status(&error))
            }
        }
    }

    /// How long this call may take.
    fn budget(&self, metadata: &MetadataMap) -> Duration {
        let Some(given) =
            metadata.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?))
        else {
            return self.wait_max;
        };
        let lead = ANSWER_LEAD.min(given / ANSWER_LEAD_SHARE);
        given.saturating_sub(lead).min(self.wait_max)
    }
}

/// The store did not answer within the caller's time.
fn late() -> Error {
    let why = "no answer within the caller's deadline";
    crate::broker::store::StoreError::Unavailable(why.into()).into()
}

/// `grpc-timeout`: up to eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// A failure is logged once, here. What callers can mend by themselves is not a warning.
fn log(method: &'static str, error: &Error) {
    let (code, reason, _) = classify(error);
    let grant = grant(error).map(GrantId::as_str);
    let reason = reason.wire_name();
    let error = chain(error);
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Aborted
        | Code::DeadlineExceeded => {
            info!(rpc.method = method, grant.id = grant, reason, error, "refused");
        }
        _ => warn!(rpc.method = method, grant.id = grant, reason, error, "failed"),
    }
}

fn grant(error: &Error) -> Option<&GrantId> {
    match error {
        Error::GrantNotFound(grant)
        | Error::GrantAlreadyExists(grant)
        | Error::GrantDisabled(grant)
        | Error::NotInDoubt(grant)
        | Error::EtagMismatch(grant)
        | Error::RefreshInProgress(grant)
        | Error::GrantRefused { grant, .. }
        | Error::MinTtlUnsatisfiable { grant, .. }
        | Error::GenerationUnknown { grant, .. }
        | Error::ForceRefreshCooldown { grant, .. }
        | Error::Upstream { grant, .. } => Some(grant),
        Error::Invalid(_)
        | Error::ProviderNotConfigured(_)
        | Error::Store(_)
        | Error::Draining
        | Error::NotImplemented(_)
        | Error::Internal => None,
    }
}

/// Written when the call ends, also when the caller hangs up: then as CANCELLED.
struct Record<'a> {
    observe: &'a Observe,
    method: &'static str,
    start: Instant,
    code: Code,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let call = Call { rpc_method: self.method, rpc_response_status_code: name(self.code) };
        let histogram = self.observe.durations.get_or_create(&call);
        histogram.observe(self.start.elapsed().as_secs_f64());
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grpc_timeouts() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("500m"), Some(Duration::from_millis(500)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5x", "-5S", "123456789S", "5é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
