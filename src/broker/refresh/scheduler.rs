//! Proactive refresh: grants in use are refreshed before anyone has to wait. Cost is O(due).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::known::IDLE_ROUNDS;
use crate::broker::model::{Doubt, GrantId, Standing};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::doubt::Next;
use crate::broker::refresh::flight::Trigger;
use crate::broker::view::View;

/// How often the due index brings up a grant that is switched off, or past its end.
const LATER: Duration = Duration::from_secs(24 * 3600);

impl Rotations {
    /// Works off the due index until the process drains.
    pub async fn run_scheduler(self: Arc<Self>) {
        let settings = &self.settings;
        let round = settings.forget_after / IDLE_ROUNDS;
        let mut next_round = Instant::now() + round;
        loop {
            tokio::select! {
                () = self.drain.cancelled() => return,
                () = sleep(settings.due_tick) => {}
            }
            if Instant::now() >= next_round {
                next_round += round;
                self.known.let_go();
                self.purge().await;
            }
            self.look_at_troubles(false).await;
            self.metrics.known_grants.set(i64::try_from(self.known.count()).unwrap_or(i64::MAX));
            match self.store.take_due(settings.due_batch, settings.due_visibility).await {
                Ok(due) => {
                    for id in due {
                        if let Err(error) = self.refresh_due(&id).await {
                            debug!(grant.id = %id, %error, "not refreshed now");
                        }
                    }
                }
                // Of trouble with the whole store, whoever watches over it has told.
                Err(error) if self.watch.condition().trouble.is_some() => {
                    debug!(error = %chain(&error), "the due index cannot be read");
                }
                Err(error) => warn!(error = %chain(&error), "the due index cannot be read"),
            }
        }
    }

    /// Tombstones are not kept for ever.
    async fn purge(&self) {
        loop {
            match self.store.purge().await {
                Ok(0) => return,
                Ok(purged) => debug!(purged, "let go of old tombstones"),
                Err(error) => return debug!(error = %chain(&error), "tombstones stay for now"),
            }
        }
    }

    /// Starts the refresh of a grant that the index calls due. Failures come up again after the
    /// visibility time.
    async fn refresh_due(self: &Arc<Self>, id: &GrantId) -> Result<(), Error> {
        let entry = self.entry(id).await?;
        let view = entry.view();
        if view.grant.descriptor.disabled || self.spent_by_time(&view.grant).is_some() {
            // What changes that makes it due; until then it is in nobody's way.
            let later = self.clock.now() + LATER;
            return Ok(self.store.schedule(id, view.grant.generation(), later).await?);
        }
        if view.grant.standing != Standing::Usable {
            return Ok(());
        }
        if let Some(doubt) = self.doubt_of(&entry, &view.grant) {
            return self.resend_due(&entry, &view, &doubt).await;
        }
        // Whatever it was put into the index for: it is due as soon as anything is due.
        if let Some(due_at) = self.due_at(&view.grant, true).filter(|at| *at > self.clock.now()) {
            self.store.schedule(id, view.grant.generation(), due_at).await?;
            return Ok(());
        }
        if let Some(later) = self.comes_later(&view) {
            return Ok(self.store.schedule(id, view.grant.generation(), later).await?);
        }
        self.join_or_start(&entry, view.grant.generation(), Trigger::Proactive).map(drop)
    }

    /// Presents a refresh token in doubt again if it is time, or notes when that will be.
    async fn resend_due(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        view: &View,
        doubt: &Doubt,
    ) -> Result<(), Error> {
        let next = self.next_try(entry, view, doubt);
        match (next, &view.grant.intent) {
            (Next::In(Duration::ZERO), _) | (_, None) => {
                self.join_or_start(entry, view.grant.generation(), Trigger::Proactive).map(drop)
            }
            (next, Some(held)) => {
                self.record_doubt(entry, held, doubt, next).await;
                Ok(())
            }
        }
    }
}
