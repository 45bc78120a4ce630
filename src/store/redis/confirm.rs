//! Claims that replicas of Redis have, too, before anything rests on them: a failover forgets what
//! only the primary had, and a forgotten claim is a refresh token that is sent twice.
//!
//! `WAIT` speaks of the writes of its own connection and holds that up, so claims have one of their
//! own. Those that come at the same time share one round trip.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue as _, RedisError, Value};
use tokio::sync::oneshot;

use crate::broker::error::chain;
use crate::broker::store::StoreError;
use crate::store::backend::StoreResult;
use crate::store::redis::session::{self, Session};
use crate::store::redis::{facts, malformed, unavailable};

/// Claims in one round trip.
const BATCH_MAX: usize = 128;
/// Replicas get this share of the longest wait for an answer: the answer itself takes some, too.
const WAIT_PERCENT: u32 = 50;

/// Writes claims, and says whether the replicas have them.
pub(super) struct Confirming {
    session: Session,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever writes for all.
    turn: tokio::sync::Mutex<()>,
    /// Replicas that must have a claim.
    replicas: AtomicU64,
    patience: Duration,
}

/// A call, the connection that it is meant for, and who waits for its answer.
struct Waiting {
    call: Cmd,
    number: u64,
    answer: oneshot::Sender<StoreResult<Value>>,
}

impl Confirming {
    /// `timeout`: the longest wait for an answer on this session.
    pub(super) fn new(session: Session, timeout: Duration) -> Self {
        Self {
            session,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            replicas: AtomicU64::new(0),
            patience: timeout * WAIT_PERCENT / 100,
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Looks whether the connection leads to the primary where `mark` was left, and makes another one
    /// where it does not; counts the replicas there. A claim is not to find that out. It needs the
    /// rights that a claim does. Gives back which server it is, and the number of the connection; nothing
    /// else connects.
    pub(super) async fn look(
        &self,
        mark: Option<(&str, u64)>,
        least: u64,
    ) -> StoreResult<(String, u64)> {
        let mut looked = self.try_look(mark).await;
        if looked.is_err() {
            self.session.disconnect().await;
            looked = self.try_look(mark).await;
        }
        let (replicas, server) = looked?;
        self.replicas.store(replicas.max(least), Ordering::Relaxed);
        Ok((server, self.session.connections()))
    }

    async fn try_look(&self, mark: Option<(&str, u64)>) -> StoreResult<(u64, String)> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("server").arg("replication").cmd("WAIT").arg(0).arg(1);
        if let Some((key, _)) = mark {
            pipeline.cmd("HGET").arg(key).arg("mark");
        }
        let answers: Vec<Value> = self.session.pipeline(&pipeline).await.map_err(unavailable)?;
        let mut texts = answers.into_iter().map(String::from_redis_value);
        let info = texts.next().and_then(Result::ok).ok_or_else(malformed)?;
        let found = texts.nth(1).and_then(Result::ok).and_then(|text| text.parse().ok());
        if !info.contains("role:master") || mark.is_some_and(|(_, left)| found != Some(left)) {
            return Err(StoreError::Unavailable(
                "claims would go to another Redis than everything else".into(),
            ));
        }
        Ok((facts::attached(&info), facts::server(&info)))
    }

    /// Calls a function through the connection of this number, which was looked at. An error leaves open
    /// whether it ran: also where it did, and too few replicas have it.
    pub(super) async fn call(
        &self,
        number: u64,
        function: &str,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> StoreResult<Value> {
        let call = self.session.command(function, keys, arguments);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().push(Waiting { call, number, answer: sender });
        {
            let _turn = self.turn.lock().await;
            // Empty where the one before has written for us.
            self.write_waiting().await;
        }
        answer.await.map_err(|_| StoreError::Unavailable("its writer is gone".into()))?
    }

    /// Writes those that are meant for the same connection as the first.
    async fn write_waiting(&self) {
        let batch: Vec<Waiting> = {
            let mut waiting = self.waiting.lock();
            let number = waiting.first().map(|first| first.number);
            let alike = waiting.iter().take_while(|next| Some(next.number) == number).count();
            waiting.drain(..alike.min(BATCH_MAX)).collect()
        };
        let Some(number) = batch.first().map(|first| first.number) else { return };
        let calls: Vec<_> = batch.iter().map(|waiting| waiting.call.clone()).collect();
        match self.run(number, &calls).await {
            Ok(answers) => {
                for (waiting, answer) in batch.into_iter().zip(answers) {
                    let _ = waiting.answer.send(answer.map_err(unavailable));
                }
            }
            Err(failure) => {
                let why = chain(&failure);
                for waiting in batch {
                    let _ = waiting.answer.send(Err(StoreError::Unavailable(why.clone().into())));
                }
            }
        }
    }

    /// Runs calls and waits for the replicas, in one round trip.
    async fn run(&self, number: u64, calls: &[Cmd]) -> StoreResult<Vec<Result<Value, RedisError>>> {
        let mut answers = self.round_trip(number, calls).await?;
        let missing = |answer: &Result<Value, RedisError>| {
            answer.as_ref().is_err_and(session::missing_function)
        };
        if answers.iter().any(missing) {
            // Functions that the server does not have did nothing. Whoever loads them too is as good.
            let mut load = redis::pipe();
            load.ignore_errors().add_command(self.session.load());
            let _: Vec<Result<Value, RedisError>> =
                self.session.pipeline_on(number, &load).await.map_err(unavailable)?;
            let again: Vec<_> = (0..calls.len()).filter(|at| missing(&answers[*at])).collect();
            let repeated: Vec<_> = again.iter().map(|at| calls[*at].clone()).collect();
            for (at, answer) in again.into_iter().zip(self.round_trip(number, &repeated).await?) {
                answers[at] = answer;
            }
        }
        Ok(answers)
    }

    async fn round_trip(
        &self,
        number: u64,
        calls: &[Cmd],
    ) -> StoreResult<Vec<Result<Value, RedisError>>> {
        let mut pipeline = redis::pipe();
        pipeline.ignore_errors();
        for call in calls {
            pipeline.add_command(call.clone());
        }
        let replicas = self.replicas.load(Ordering::Relaxed);
        if replicas > 0 {
            let patience = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
            pipeline.cmd("WAIT").arg(replicas).arg(patience);
        }
        let mut answers: Vec<Result<Value, RedisError>> =
            self.session.pipeline_on(number, &pipeline).await.map_err(unavailable)?;
        if answers.iter().filter_map(|answer| answer.as_ref().err()).any(session::spoiled) {
            // It leads to a server that cannot write.
            self.session.disconnect().await;
        }
        if replicas > 0 {
            let reached: u64 = match answers.pop() {
                Some(Ok(Value::Int(count))) => u64::try_from(count).unwrap_or(0),
                Some(Err(error)) => return Err(unavailable(error)),
                _ => return Err(malformed()),
            };
            if reached < replicas && answers.iter().flatten().any(granted) {
                return Err(StoreError::Unavailable(
                    format!(
                        "{reached} of {replicas} replicas of Redis have confirmed a claim, and \
                         nothing is sent under it"
                    )
                    .into(),
                ));
            }
        }
        Ok(answers)
    }
}

/// The answer to a claim that was won; others wrote nothing.
fn granted(answer: &Value) -> bool {
    let Value::Array(parts) = answer else { return false };
    matches!(parts.first(), Some(Value::BulkString(word)) if word == b"granted")
}
