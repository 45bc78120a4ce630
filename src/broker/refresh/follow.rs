//! Following: what other processes change is seen here at once, and not when somebody stumbles over it.
//!
//! Events are hints. Each is checked against the record, so that a forged one moves nothing and a lost
//! one costs no more than the time until somebody asks the store anyway.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::broker::backoff::Backoff;
use crate::broker::error::chain;
use crate::broker::refresh::Rotations;
use crate::broker::store::Heard;

/// Events that may wait; a store that has more to say breaks the link, and all is looked at.
const WAITING_MAX: usize = 1024;
/// Marks that every process leaves are heard, too: a link on which several are missing is dead.
const MARKS_MISSED: u32 = 5;
/// And so much longer.
const MARK_MARGIN: Duration = Duration::from_secs(3);
/// Waits before the link is made again.
const RELINK: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

impl Rotations {
    /// Follows what others change, until this process drains.
    pub(in crate::broker) async fn follow(self: Arc<Self>) {
        let mut failures = 0;
        let silence = self.settings.store_watch * MARKS_MISSED + MARK_MARGIN;
        loop {
            let (sender, receiver) = channel(WAITING_MAX);
            let broken = tokio::select! {
                () = self.drain.cancelled() => return,
                broken = self.store.listen(sender, silence) => broken,
                () = self.hear(receiver, &mut failures) => Ok(()),
            };
            self.metrics.events_up.set(0);
            if failures == 0 {
                let why =
                    broken.err().map_or_else(|| "the link ended".to_owned(), |error| chain(&error));
                warn!(error = why, "what other replicas change is not heard at once; trying again");
            }
            tokio::select! {
                () = self.drain.cancelled() => return,
                () = sleep(RELINK.after(failures)) => failures += 1,
            }
        }
    }

    async fn hear(self: &Arc<Self>, mut events: Receiver<Heard>, failures: &mut u32) {
        while let Some(heard) = events.recv().await {
            match heard {
                Heard::Linked => {
                    self.metrics.events_up.set(1);
                    if *failures > 0 {
                        info!("what other replicas change is heard again");
                    }
                    *failures = 0;
                    self.look_at_all();
                }
                Heard::Trouble { client } => self.hear_trouble(&client).await,
                Heard::Changed { id, position } => {
                    let Some(entry) = self.known.get(&id) else { continue };
                    if entry.view().grant.position >= position {
                        continue;
                    }
                    if let Err(error) = self.reconcile(&entry).await {
                        debug!(grant.id = %id, error = chain(&error), "a change of another replica is not read");
                    }
                }
            }
        }
    }

    /// Events were lost: what is known may be old.
    fn look_at_all(self: &Arc<Self>) {
        let rotations = Arc::clone(self);
        self.tasks.spawn(async move {
            rotations.look_at_troubles(true).await;
            for entry in rotations.known.all() {
                if rotations.draining() {
                    return;
                }
                // What cannot be read now is read when somebody asks.
                let _ = rotations.reconcile(&entry).await;
            }
        });
    }
}
