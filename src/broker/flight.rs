//! Flights: one refresh per grant at a time, joined by all who need it, outliving each of them.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::broker::error::Error;
use crate::broker::known::{Entry, View};
use crate::broker::model::{Generation, GrantId};
use crate::broker::store::StoreError;
use crate::broker::{Broker, metrics};

/// How a refresh ended.
pub type Refreshed = Result<Arc<View>, Error>;

/// Where a refresh tells its callers how it ended.
pub(super) type Callers = watch::Sender<Option<Refreshed>>;

/// Why a refresh was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It was due.
    Proactive,
    /// A caller needed a token.
    OnDemand,
    /// A caller saw the token rejected.
    Forced,
    /// An operator said so.
    Admin,
    /// An operator said so although the refresh token is in doubt.
    Resolve,
}

impl Trigger {
    /// Label in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proactive => "proactive",
            Self::OnDemand => "on_demand",
            Self::Forced => "forced",
            Self::Admin => "admin",
            Self::Resolve => "resolve",
        }
    }
}

/// A ticket for a refresh under way.
#[derive(Debug, Clone)]
pub struct Flight {
    /// What it spends.
    generation: Generation,
    ended: watch::Receiver<Option<Refreshed>>,
}

impl Flight {
    /// Waits until the refresh ends or the deadline comes. Leaving does not end the refresh.
    pub async fn wait(mut self, id: &GrantId, deadline: Instant) -> Refreshed {
        match timeout_at(deadline, self.ended.wait_for(Option::is_some)).await {
            Err(_elapsed) => Err(Error::RefreshInProgress(id.clone())),
            // The task ended without saying how: it panicked. Its claim stays, so nothing is spent
            // twice.
            Ok(Err(_closed)) => Err(Error::Internal),
            Ok(Ok(ended)) => ended.clone().unwrap_or(Err(Error::Internal)),
        }
    }
}

/// Answer to somebody who wants a generation replaced.
#[derive(Debug)]
pub enum Joined {
    /// Wait for this.
    Running(Flight),
    /// Wait for this, and ask again: it spends another generation.
    OtherGeneration(Flight),
    /// It was replaced in the meantime.
    Replaced(Arc<View>),
}

impl Broker {
    /// Joins the refresh of `entry`, or starts one that spends `generation`.
    ///
    /// A caller who decided on an old view is sent back to decide anew; the store's own check of
    /// the generation stands behind that.
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        trigger: Trigger,
    ) -> Result<Joined, Error> {
        let mut slot = entry.flight.lock();
        let view = entry.view();
        if let Some(flight) = slot.as_ref() {
            let told = flight.ended.borrow().is_some();
            return match (told, flight.generation == generation) {
                (false, true) => Ok(Joined::Running(flight.clone())),
                (false, false) => Ok(Joined::OtherGeneration(flight.clone())),
                // Its callers have the token, and it is still at work: the store does not take the pair.
                (true, _) if view.grant.generation() != generation => Ok(Joined::Replaced(view)),
                (true, _) => Err(store_behind()),
            };
        }
        if view.grant.generation() != generation {
            return Ok(Joined::Replaced(view));
        }
        self.may_refresh(entry, &view, trigger)?;
        let (sender, receiver) = watch::channel(None);
        let flight = Flight { generation, ended: receiver };
        *slot = Some(flight.clone());
        let broker = Arc::clone(self);
        let entry = Arc::clone(entry);
        self.tasks.spawn(async move {
            let running = Running::new(&broker.metrics, &entry);
            let ended = broker.run_flight(&entry, generation, trigger, &sender).await;
            // The slot is free before anyone hears of the end: who still needs a refresh then
            // starts one instead of finding this one again.
            drop(running);
            // Of a pair that the store did not take at once the callers know already.
            if sender.borrow().is_none() {
                sender.send_replace(Some(ended));
            }
        });
        Ok(Joined::Running(flight))
    }

    /// Joins the refresh of `entry` if there is one.
    pub(super) fn join(entry: &Entry) -> Option<Flight> {
        entry.flight.lock().clone()
    }
}

fn store_behind() -> Error {
    let why = "it has not taken the newest pair yet, which is served from memory";
    StoreError::Unavailable(why.into()).into()
}

/// Frees the slot of the grant when the task ends, however it ends.
struct Running<'a> {
    metrics: &'a metrics::Metrics,
    entry: &'a Entry,
}

impl<'a> Running<'a> {
    fn new(metrics: &'a metrics::Metrics, entry: &'a Entry) -> Self {
        metrics.flights.inc();
        Self { metrics, entry }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.entry.flight.lock() = None;
        self.metrics.flights.dec();
    }
}
