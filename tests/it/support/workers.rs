//! Trials that run at the same time: most of their time is waiting.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Does all jobs, so many at a time; gives what came of each, in their order.
pub(crate) fn at_a_time<J: Send, R: Send>(
    workers: usize,
    jobs: impl IntoIterator<Item = J>,
    work: impl Fn(J) -> R + Sync,
) -> Vec<R> {
    let queue = Mutex::new(jobs.into_iter().enumerate().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().pop_front();
                    let Some((place, job)) = next else { return };
                    let result = work(job);
                    done.lock().unwrap().push((place, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Does a trial that may fail; `Err`: what it said. A campaign goes on, and counts it in its table.
pub(crate) fn tried<R>(trial: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(trial)).map_err(|said| {
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied());
        text.unwrap_or("it failed without a word").to_owned()
    })
}

/// Fails if trials of a campaign failed, once its table is printed.
pub(crate) fn judge(failures: &[String]) {
    assert!(failures.is_empty(), "{} trials failed:\n{}", failures.len(), failures.join("\n"));
}
