//! Flights: a refresh under way, joined by all who need it, outliving each of them.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::broker::error::Error;
use crate::broker::model::{Generation, GrantId};
use crate::broker::view::View;

/// How a refresh ended.
pub type Refreshed = Result<Arc<View>, Error>;

/// Those who wait for a refresh.
pub(super) struct Callers<'a> {
    /// Hears of a token that is good to be served although the refresh is still at work: the store has
    /// not taken it yet.
    pub(super) early: &'a (dyn Fn(Arc<View>) + Send + Sync),
    /// Whether there are any.
    pub(super) waiting: watch::Receiver<bool>,
    /// Since when they do.
    pub(super) since: Instant,
    /// They are operators, who have mended something and do not wait for a trouble to end.
    pub(super) insist: bool,
}

impl Callers<'_> {
    /// Somebody waits, or has waited.
    pub(super) fn wait(&self) -> bool {
        *self.waiting.borrow()
    }

    /// Ends when somebody waits.
    pub(super) async fn come(&self) {
        if self.waiting.clone().wait_for(|waiting| *waiting).await.is_err() {
            pending::<()>().await;
        }
    }
}

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
    /// An operator takes the tokens back: nothing is refreshed, and nothing may be meanwhile.
    Revoke,
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
            Self::Revoke => "revoke",
        }
    }
}

/// The refreshes under way in this process: one for each grant.
#[derive(Debug, Default)]
pub(in crate::broker) struct Flights {
    /// Held for moments only, never across an await.
    running: Mutex<HashMap<GrantId, Flight>>,
}

impl Flights {
    /// All of them, for who may start one.
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<GrantId, Flight>> {
        self.running.lock()
    }

    /// The refresh of this grant.
    pub(in crate::broker) fn of(&self, id: &GrantId) -> Option<Flight> {
        self.running.lock().get(id).cloned()
    }

    /// It is over.
    pub(super) fn remove(&self, id: &GrantId) {
        self.running.lock().remove(id);
    }
}

/// A ticket for a refresh under way.
#[derive(Debug, Clone)]
pub struct Flight {
    /// What it spends.
    generation: Generation,
    trigger: Trigger,
    ended: watch::Receiver<Option<Refreshed>>,
    waited_for: watch::Sender<bool>,
}

impl Flight {
    /// A refresh that spends `generation` and tells here how it ended.
    pub(super) fn new(
        generation: Generation,
        trigger: Trigger,
        ended: watch::Receiver<Option<Refreshed>>,
    ) -> Self {
        Self { generation, trigger, ended, waited_for: watch::Sender::new(false) }
    }

    /// Tells whether anybody waits for it.
    pub(super) fn waited_for(&self) -> watch::Receiver<bool> {
        self.waited_for.subscribe()
    }

    /// It refreshes nothing: it takes the tokens back.
    pub(in crate::broker) fn revokes(&self) -> bool {
        self.trigger == Trigger::Revoke
    }

    /// What it spends.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Its callers have been told how it ended; it may still be at work.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Waits until the refresh ends or the deadline comes. Leaving does not end the refresh.
    pub async fn wait(mut self, id: &GrantId, deadline: Instant) -> Refreshed {
        self.waited_for.send_replace(true);
        match timeout_at(deadline, self.ended.wait_for(Option::is_some)).await {
            Err(_elapsed) => Err(Error::RefreshInProgress(id.clone())),
            // The task ended without saying how: it panicked. Its claim stays, so nothing is spent
            // twice.
            Ok(Err(_closed)) => Err(Error::Internal),
            Ok(Ok(ended)) => ended.clone().unwrap_or(Err(Error::Internal)),
        }
    }
}
