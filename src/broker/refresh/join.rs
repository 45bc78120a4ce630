//! Joining: who needs a refresh joins the one that runs, or starts it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::model::{Generation, GrantId};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::{Callers, Flight, Trigger};
use crate::broker::store::StoreError;
use crate::broker::view::View;

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

impl Rotations {
    /// Joins the refresh of `entry`, or starts one that spends `generation`.
    ///
    /// A caller who decided on an old view is sent back to decide anew; the store's own check of
    /// the generation stands behind that.
    pub(in crate::broker) fn join_or_start(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        generation: Generation,
        trigger: Trigger,
    ) -> Result<Joined, Error> {
        let mut running = self.flights.lock();
        let view = entry.view();
        if let Some(flight) = running.get(&entry.id) {
            let told = flight.has_ended();
            return match (told, flight.generation() == generation) {
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
        let flight = Flight::new(generation, trigger, receiver);
        let (waiting, since) = (flight.waited_for(), Instant::now());
        running.insert(entry.id.clone(), flight.clone());
        let rotations = Arc::clone(self);
        let entry = Arc::clone(entry);
        self.tasks.spawn(async move {
            let running = Running::new(&rotations, &entry.id);
            let early = |view: Arc<View>| drop(sender.send_replace(Some(Ok(view))));
            let insist = matches!(trigger, Trigger::Admin | Trigger::Resolve);
            let callers = Callers { early: &early, waiting, since, insist };
            let ended = match trigger {
                Trigger::Revoke => rotations.revoke(&entry).await,
                _ => rotations.run_flight(&entry, generation, trigger, &callers).await,
            };
            // The way is free before anyone hears of the end: who still needs a refresh then
            // starts one instead of finding this one again.
            drop(running);
            // Of a pair that the store did not take at once the callers know already.
            if sender.borrow().is_none() {
                sender.send_replace(Some(ended));
            }
        });
        Ok(Joined::Running(flight))
    }
}

fn store_behind() -> Error {
    let why = "it has not taken the newest pair yet, which is served from memory";
    StoreError::Unavailable(why.into()).into()
}

/// Takes the refresh off the register when its task ends, however it ends.
struct Running<'a> {
    rotations: &'a Rotations,
    id: &'a GrantId,
}

impl<'a> Running<'a> {
    fn new(rotations: &'a Rotations, id: &'a GrantId) -> Self {
        rotations.metrics.flights.inc();
        Self { rotations, id }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.rotations.flights.remove(self.id);
        self.rotations.metrics.flights.dec();
    }
}
