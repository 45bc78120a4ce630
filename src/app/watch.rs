//! What is looked at again and again: the store, and how many grants are in which state.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::app::Addresses;
use crate::broker::Broker;
use crate::config::Config;
use crate::ops::Readiness;

/// How long `ready` waits for the number of grants.
const COUNT_MAX: Duration = Duration::from_millis(200);
/// How often grants are counted.
const CENSUS: Duration = Duration::from_secs(60);
/// And not more often than takes this share of the time.
const CENSUS_SHARE: u32 = 50;
/// The store is examined once in so many looks at it: what is found changes when somebody changes it.
const EXAMINATION: u32 = 30;

/// Counts grants until `stop`; the first time at once, unless they were `counted` just now.
pub(super) async fn take_censuses(broker: Arc<Broker>, counted: bool, stop: CancellationToken) {
    let mut pause = if counted { CENSUS } else { Duration::ZERO };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        let start = Instant::now();
        broker.take_census().await;
        pause = CENSUS.max(start.elapsed() * CENSUS_SHARE);
    }
}

/// Examines the store until `stop`.
pub(super) async fn examine_store(broker: Arc<Broker>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(broker.settings().store_watch * EXAMINATION) => {}
        }
        broker.examine_store().await;
    }
}

/// Watches over the store until `stop`.
pub(super) async fn watch_store(
    broker: Arc<Broker>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(broker.settings().store_watch) => {}
        }
        look_at_store(&broker, &readiness).await;
    }
}

/// Looks at it once.
pub(super) async fn look_at_store(broker: &Broker, readiness: &Readiness) {
    broker.look_at_store().await;
    broker.show_holds();
    readiness.store(broker.store().trouble.clone(), broker.serves()).await;
}

/// Says that callers are let in, and by whom; and whether grants were counted for it.
pub(super) async fn tell_ready(
    config: &Config,
    broker: &Broker,
    Addresses { api, admin, ops, pages }: Addresses,
) -> bool {
    // A number that takes longer shows in the metrics when it is there.
    let grants = timeout(COUNT_MAX, broker.take_census()).await.ok().flatten();
    let store = broker.store();
    let file = config.file.as_ref().map(|file| file.display().to_string());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        api = %api,
        admin = admin.map(|admin| admin.to_string()),
        ops = %ops,
        pages = pages.map(tracing::field::display),
        store = store.kind,
        deployment = store.deployment,
        grants,
        config = file,
        "ready"
    );
    grants.is_some()
}
