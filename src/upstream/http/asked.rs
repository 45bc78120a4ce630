//! What is asked of a provider once, for all who need it, by a task of its own: whoever gives up waiting takes
//! nothing away from the others, and what comes late is kept.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::broker::endpoint::Failure;

/// So long a failure stands for all who ask: those who waited for it do not ask one by one.
const FAILURE_AGE: Duration = Duration::from_secs(2);

/// Something that a provider says.
#[derive(Debug)]
pub(super) struct Asked<T> {
    state: Mutex<State<T>>,
    ended: Notify,
}

#[derive(Debug)]
struct State<T> {
    known: Option<Arc<T>>,
    read_at: Option<Instant>,
    failed: Option<(Instant, Failure)>,
    asking: bool,
}

impl<T> Default for Asked<T> {
    fn default() -> Self {
        let state = State { known: None, read_at: None, failed: None, asking: false };
        Self { state: Mutex::new(state), ended: Notify::new() }
    }
}

/// Asks no longer, however that ended.
struct Asking<'a, T>(&'a Asked<T>);

impl<T> Drop for Asking<'_, T> {
    fn drop(&mut self) {
        self.0.state.lock().asking = false;
        self.0.ended.notify_waiters();
    }
}

impl<T: Send + Sync + 'static> Asked<T> {
    /// What it said last.
    pub(super) fn known(&self) -> Option<Arc<T>> {
        self.state.lock().known.clone()
    }

    /// What it said is not so any more.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock();
        (state.known, state.read_at) = (None, None);
    }

    /// What it said no longer ago than `age`, or says now; where it says nothing, what was known before.
    pub(super) async fn get<F>(
        self: &Arc<Self>,
        age: Duration,
        tasks: &TaskTracker,
        ask: impl Fn() -> F,
    ) -> Result<Arc<T>, Failure>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let begin = Instant::now();
        loop {
            let ended = self.ended.notified();
            {
                let mut state = self.state.lock();
                let new = |at: Instant| at >= begin || at.elapsed() <= age;
                let fresh = state.read_at.is_some_and(new);
                if let Some(known) = state.known.clone().filter(|_| fresh) {
                    return Ok(known);
                }
                if let Some((at, failure)) = &state.failed
                    && (*at >= begin || at.elapsed() < FAILURE_AGE)
                {
                    return state.known.clone().ok_or_else(|| failure.clone());
                }
                if !state.asking {
                    state.asking = true;
                    let (this, asked) = (Arc::clone(self), ask());
                    tasks.spawn(async move {
                        let asking = Asking(&*this);
                        let said = asked.await;
                        asking.0.take(said);
                    });
                }
            }
            ended.await;
        }
    }

    fn take(&self, said: Result<T, Failure>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        match said {
            Ok(said) => {
                (state.known, state.read_at) = (Some(Arc::new(said)), Some(now));
                state.failed = None;
            }
            Err(failure) => state.failed = Some((now, failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::broker::endpoint::Disposition;
    use crate::broker::model::Reason;

    async fn late(seconds: u64, said: Result<u8, Failure>) -> Result<u8, Failure> {
        sleep(Duration::from_secs(seconds)).await;
        said
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[tokio::test(start_paused = true)]
    async fn what_comes_late_is_kept_for_whoever_asks_next() {
        let (asked, tasks) = (Arc::new(Asked::default()), TaskTracker::new());
        let hasty = asked.get(HOUR, &tasks, || late(40, Ok(1)));
        assert!(timeout(Duration::from_secs(3), hasty).await.is_err());
        // Nobody waits, and it comes all the same; whoever asks meanwhile asks nothing new.
        sleep(Duration::from_secs(20)).await;
        let begin = Instant::now();
        let said = asked.get(HOUR, &tasks, || late(40, Ok(2))).await.unwrap();
        assert_eq!((*said, begin.elapsed().as_secs()), (1, 17));
        assert_eq!(asked.known().as_deref(), Some(&1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_known_outlives_a_failure_and_age_counts() {
        let (asked, tasks) = (Arc::new(Asked::default()), TaskTracker::new());
        let failure = Failure::new(Reason::ProviderUnreachable, Disposition::NotSent);
        let failed = asked.get(HOUR, &tasks, || late(1, Err(failure.clone()))).await;
        assert_eq!(failed.unwrap_err(), failure);
        let again = asked.get(HOUR, &tasks, || late(1, Ok(1))).await;
        assert!(again.is_err(), "those who come at once hear the same");
        sleep(FAILURE_AGE).await;
        assert_eq!(*asked.get(HOUR, &tasks, || late(1, Ok(1))).await.unwrap(), 1);
        sleep(HOUR).await;
        assert_eq!(*asked.get(HOUR, &tasks, || late(1, Ok(2))).await.unwrap(), 1);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(*asked.get(HOUR, &tasks, || late(1, Err(failure.clone()))).await.unwrap(), 1);
        sleep(FAILURE_AGE).await;
        for said in [3, 4] {
            sleep(Duration::from_millis(1)).await;
            let now = asked.get(Duration::ZERO, &tasks, || late(1, Ok(said))).await;
            assert_eq!(*now.unwrap(), said);
        }
    }
}
