//! Callers who want tokens all the time, and go to another broker where one fails them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use token_broker::client::Client;
use token_broker::proto::GetTokenRequest;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Callers at a time.
const CALLERS: usize = 6;
/// Between two wishes of a caller.
const PAUSE: Duration = Duration::from_millis(10);
/// A caller gives a broker up after this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the brokers are now.
pub(super) type Addresses = Arc<Mutex<Vec<String>>>;

/// Callers, until this value is stopped.
pub(super) struct Callers {
    stop: Arc<AtomicBool>,
    worst_ms: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Callers {
    pub(super) fn start(runtime: &Runtime, addresses: &Addresses, grants: &[String]) -> Self {
        let (stop, worst_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tasks = (0..CALLERS).map(|n| {
            let (addresses, stop) = (Arc::clone(addresses), Arc::clone(&stop));
            let (worst_ms, grant) = (Arc::clone(&worst_ms), grants[n % grants.len()].clone());
            runtime.spawn(async move {
                let mut at = n;
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    // As behind a balancer: each time another one.
                    at += 1;
                    while !stop.load(Ordering::Relaxed) && !served(&addresses, at, &grant).await {
                        at += 1;
                        sleep(PAUSE).await;
                    }
                    let waited = u64::try_from(begin.elapsed().as_millis()).unwrap();
                    worst_ms.fetch_max(waited, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, worst_ms, tasks }
    }

    /// The longest that somebody waited for a token.
    pub(super) fn stop(self, runtime: &Runtime) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            runtime.block_on(task).unwrap();
        }
        Duration::from_millis(self.worst_ms.load(Ordering::Relaxed))
    }
}

async fn served(addresses: &Addresses, at: usize, grant: &str) -> bool {
    let address = {
        let addresses = addresses.lock();
        addresses[at % addresses.len()].clone()
    };
    let call = async {
        let mut client = Client::connect(&address).await.ok()?;
        let request = GetTokenRequest { grant_id: grant.to_owned(), ..GetTokenRequest::default() };
        client.tokens.get_token(request).await.ok()
    };
    timeout(PATIENCE, call).await.is_ok_and(|answer| answer.is_some())
}
