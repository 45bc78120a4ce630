//! One wrapper around every call: its time, its metrics, its one line in the log.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};
use tracing::debug;

use crate::audit::Audit;
use crate::broker::error::Error;
use crate::broker::store::StoreError;
use crate::service::Gate;
use crate::service::call::{ANSWER_LEAD, Action, Call, Named};
use crate::service::gate::{Admitted, Refused};
use crate::service::log::Log;
use crate::service::status::{classify, code_name, status};
use crate::service::told::Tells;
use crate::service::trail::Trail;

/// Shortest call worth telling apart, in seconds: cached answers take less than a millisecond.
const CALL_BUCKET_FIRST: f64 = 0.000_25;
/// 0.25 ms doubled sixteen times ends above the longest wait of a caller.
const CALL_BUCKETS: u16 = 17;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    rpc_method: &'static str,
    rpc_response_status_code: &'static str,
}

/// Counts calls, and bounds them in time.
#[derive(Debug)]
pub struct Observe {
    durations: Family<Labels, Histogram>,
    /// Those of answered calls, found once for each action.
    answered: [OnceLock<Histogram>; Action::COUNT],
    wait_max: Duration,
    gate: Arc<Gate>,
    audit: Arc<Audit>,
    log: Log,
}

impl Observe {
    /// Registers the histogram. No call waits longer than `wait_max`, none passes that the gate does not
    /// let in, and what is decided of each is written down.
    pub fn new(
        registry: &mut Registry,
        wait_max: Duration,
        gate: Arc<Gate>,
        audit: Arc<Audit>,
    ) -> Arc<Self> {
        let durations: Family<Labels, Histogram> = Family::new_with_constructor(|| {
            Histogram::new(exponential_buckets(CALL_BUCKET_FIRST, 2.0, CALL_BUCKETS))
        });
        registry.register_with_unit(
            "rpc_server_call_duration",
            "Time that calls took",
            Unit::Seconds,
            durations.clone(),
        );
        Arc::new(Self {
            durations,
            answered: Default::default(),
            wait_max,
            gate,
            audit,
            log: Log::default(),
        })
    }

    /// Runs a call until shortly before its caller's deadline.
    pub(super) async fn call<Q: Named, T: Tells, F>(
        &self,
        action: Action,
        request: Request<Q>,
        run: impl FnOnce(Q, Call) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut call = Call::begin(action, request.metadata(), self.wait_max);
        let mut record = Record { observe: self, action, start: call.start, code: Code::Cancelled };
        let let_in = self.let_in(&mut call, &request).await;
        let mut trail = Trail::new(&self.audit, &call, request.get_ref().grant());
        let begun = match let_in {
            Ok(()) => trail.begin().await,
            Err(error) => Err(error),
        };
        let ended = match begun {
            Ok(()) => in_time(run(request.into_inner(), call.clone()), &call).await,
            Err(error) => Some(Err(error)),
        };
        let result = if let Some(result) = ended {
            trail.end(&result);
            result
        } else {
            drop(trail);
            self.log.late(action.method());
            Err(late())
        };
        match result {
            Ok(response) => {
                record.code = Code::Ok;
                debug!(rpc.method = action.method(), caller = %call.who, "answered");
                Ok(Response::new(response))
            }
            Err(error) => {
                record.code = classify(&error).0;
                self.log.failed(&call, &error);
                Err(status(&error))
            }
        }
    }

    /// Finds out who calls and whether they may; gives the call its place among those of its caller.
    async fn let_in<Q: Named>(&self, call: &mut Call, request: &Request<Q>) -> Result<(), Error> {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let (action, target) = (call.action.in_policy(), request.get_ref().target());
        let admitted = self.gate.admit(action, metadata, extensions, target);
        match timeout_at(call.deadline, admitted).await {
            Ok(Ok(Admitted { who, rule, place })) => {
                (call.who, call.rule, call.place) = (who, rule, place.map(Arc::new));
                Ok(())
            }
            Ok(Err(Refused { who, error })) => {
                call.who = who;
                Err(error)
            }
            Err(_elapsed) => Err(late()),
        }
    }

    /// What is written down.
    pub(super) fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Who is let in.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    fn durations(&self, action: Action, code: Code) -> Histogram {
        let labels =
            Labels { rpc_method: action.method(), rpc_response_status_code: code_name(code) };
        self.durations.get_or_create(&labels).clone()
    }
}

/// Waits for what a call leads to until shortly before its caller's deadline; `None`: nobody knows yet.
async fn in_time<T>(
    running: impl Future<Output = Result<T, Error>>,
    call: &Call,
) -> Option<Result<T, Error>> {
    let mut running = pin!(running);
    // What is answered from memory needs no timer.
    if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await {
        return Some(result);
    }
    // The domain gives up at its deadline by itself; this bounds what waits for the store.
    timeout_at(call.deadline + ANSWER_LEAD / 2, running).await.ok()
}

/// The store did not answer within the caller's time.
fn late() -> Error {
    let why = "no answer within the caller's deadline";
    StoreError::Unavailable(why.into()).into()
}

/// Written when the call ends, also when the caller hangs up: then as CANCELLED.
struct Record<'a> {
    observe: &'a Observe,
    action: Action,
    start: Instant,
    code: Code,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let Self { observe, action, start, code } = *self;
        let took = start.elapsed().as_secs_f64();
        if code == Code::Ok {
            let found = &observe.answered[action as usize];
            found.get_or_init(|| observe.durations(action, code)).observe(took);
        } else {
            observe.durations(action, code).observe(took);
        }
    }
}
