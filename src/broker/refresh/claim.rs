//! Claims: the right to spend a generation, how it is won, and how it is given back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::model::{Answer, Doubt, DoubtKind, Grant, Intent, Owner};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::Callers;
use crate::broker::refresh::permit::Permit;
use crate::broker::refresh::queue::Turn;
use crate::broker::store::{Claim, StoreError, Stored};
use crate::broker::view::View;
use crate::clock::between;

/// The right to spend a generation, and the turn to do it.
pub(super) struct Claimed {
    pub(super) intent: Intent,
    /// Since before it was asked for.
    pub(super) at: Instant,
    /// With leave to send; `None`: nobody asked for one.
    pub(super) turn: Option<(Turn, Permit)>,
}

impl Rotations {
    /// Claims the grant's generation; `None` if it moved. Waits for another live holder, and says when a
    /// refresh token in doubt is presented again. `callers` are those of a refresh, which is claimed
    /// once it is its turn.
    pub(super) async fn claim(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        view: &View,
        callers: Option<&Callers<'_>>,
    ) -> Result<Option<Claimed>, Error> {
        let grant = &view.grant;
        if self.spends(grant) {
            // What it has forgotten may be spent.
            self.watch.whole()?;
        }
        self.find_vanished(entry, grant);
        if let Some(doubt) = self.doubt_of(entry, grant) {
            return self.claim_in_doubt(entry, view, doubt, callers).await;
        }
        let lease = self.settings.suspect_after;
        let mut takeover = (!self.spends(grant)).then_some(lease);
        let patience = Instant::now() + lease;
        loop {
            let turn = match callers {
                None => None,
                Some(callers) => match self.turn_to_refresh(entry, grant, callers).await? {
                    None => return Ok(None),
                    turn => turn,
                },
            };
            if self.spends(grant) {
                self.watch.whole()?;
            }
            let at = Instant::now();
            let owner = self.next_owner();
            let attempt = owner.attempt();
            let claim =
                self.store.claim(&entry.id, grant.generation(), owner, takeover, lease).await;
            let claim = claim.inspect_err(|_| self.give_back_later(entry, attempt))?;
            match claim {
                Claim::Busy(held) if held.owner == Owner::Remade => {
                    if !self.gone(&held) {
                        return Err(remade());
                    }
                    takeover = Some(lease);
                }
                Claim::Granted(intent) => return Ok(Some(Claimed { intent, at, turn })),
                Claim::Moved => return Ok(None),
                Claim::Busy(held) if self.ours(&held.owner) => {
                    if entry.unanswered(held.owner.attempt()) {
                        return Ok(None);
                    }
                    // The answer to our claim was lost and nothing was sent under it.
                    self.store.release(&entry.id, &held, None).await?;
                }
                // Its holder is no more, or says itself that it waits: read it again.
                Claim::Busy(held) if self.gone(&held) || held.in_doubt().is_some() => {
                    if takeover.is_none() {
                        return Ok(None);
                    }
                    takeover = Some(Duration::ZERO);
                }
                Claim::Busy(_) if self.draining() => return Err(Error::Draining),
                Claim::Busy(held) => {
                    // It is another's turn meanwhile.
                    drop(turn);
                    if !self.let_go(entry, grant, held, patience).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Waits until a live holder elsewhere has let the claim go; `false`: the grant has moved.
    async fn let_go(
        &self,
        entry: &Entry,
        grant: &Grant,
        mut held: Intent,
        patience: Instant,
    ) -> Result<bool, Error> {
        let mut changed = pin!(entry.changed());
        loop {
            // The holder's age by the store's clock, or our own patience, whichever ends first: clocks
            // may disagree.
            let age = between(held.since, self.clock.now());
            if age >= self.settings.suspect_after || Instant::now() >= patience {
                return Err(self.outcome_unknown(grant));
            }
            // Others tell what they publish; the poll stands behind that.
            tokio::select! {
                () = self.drain.cancelled() => return Err(Error::Draining),
                () = changed.as_mut() => {}
                () = sleep(self.settings.poll) => {}
            }
            changed.set(entry.changed());
            let now = self.reload(entry).await?;
            if now.grant.position != grant.position {
                return Ok(false);
            }
            match &now.grant.intent {
                Some(intent) if !self.gone(intent) && intent.in_doubt().is_none() => {
                    held = intent.clone();
                }
                _ => return Ok(true),
            }
        }
    }

    /// A refresh of this process sent something and vanished before it heard an answer: it panicked,
    /// for a grant has one refresh at a time. What it sent is in doubt.
    fn find_vanished(&self, entry: &Entry, grant: &Grant) {
        let Some(intent) = entry.unheard(grant.generation()) else { return };
        let now = self.clock.now();
        let doubt = Doubt::after(&intent, DoubtKind::Died, None, intent.since, now);
        entry.still_doubted(&intent, doubt);
    }

    /// Gives a claim back under which nothing was sent, once the store answers again: its answer
    /// was lost, and after a restart nobody could tell that it was never used. Shutdown waits.
    pub(super) fn give_back_later(self: &Arc<Self>, entry: &Arc<Entry>, attempt: u64) {
        let (rotations, entry) = (Arc::clone(self), Arc::clone(entry));
        self.tasks.spawn(async move {
            let told = |failures, failure: &StoreError| {
                if failures == 0 {
                    warn!(grant.id = %entry.id, error = %chain(failure), "a claim is to be given back once the store answers");
                }
            };
            rotations.insist(|| rotations.give_back_claim(&entry, attempt), told).await;
        });
    }

    async fn give_back_claim(&self, entry: &Entry, attempt: u64) -> Result<(), StoreError> {
        let grant = self.store.load(&entry.id).await?.and_then(Stored::grant);
        let intent = grant.and_then(|grant| grant.intent);
        match intent.filter(|held| self.ours(&held.owner) && held.owner.attempt() == attempt) {
            Some(intent) if !entry.unanswered(attempt) => {
                self.store.release(&entry.id, &intent, None).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// The claim under which the doubt is kept; it is claimed anew where the store has lost it.
    pub(in crate::broker) async fn held_in_doubt(
        &self,
        grant: &Grant,
        doubt: &Doubt,
    ) -> Result<Option<Intent>, Error> {
        if let Some(held) = &grant.intent {
            return Ok(Some(held.clone()));
        }
        let Some(held) = self.claim_anew(grant).await? else { return Ok(None) };
        let ours = self.store.doubt(&grant.id, &held, doubt, None).await?;
        Ok(ours.then_some(held))
    }

    /// Claims where the store has lost the claim; `None`: the grant has moved, or is held again.
    pub(super) async fn claim_anew(&self, grant: &Grant) -> Result<Option<Intent>, StoreError> {
        self.watch.whole()?;
        let (owner, watch) = (self.next_owner(), self.settings.suspect_after);
        let mut claim =
            self.store.claim(&grant.id, grant.generation(), owner.clone(), None, watch).await?;
        if matches!(&claim, Claim::Busy(held) if held.owner == Owner::Remade && self.gone(held)) {
            let over = Some(watch);
            claim = self.store.claim(&grant.id, grant.generation(), owner, over, watch).await?;
        }
        Ok(match claim {
            Claim::Granted(intent) => Some(intent),
            Claim::Busy(_) | Claim::Moved => None,
        })
    }

    /// Gives a claim back, at once or once the store answers again.
    pub(super) async fn release(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        intent: &Intent,
        answer: Option<&Answer>,
    ) {
        if self.store.release(&entry.id, intent, answer).await.is_err() {
            self.give_back_later(entry, intent.owner.attempt());
        }
    }

    pub(in crate::broker) fn next_owner(&self) -> Owner {
        Owner::Process {
            replica: self.settings.replica.clone(),
            boot: self.boot,
            attempt: self.attempts.fetch_add(1, Ordering::Relaxed),
        }
    }

    pub(in crate::broker) fn ours(&self, owner: &Owner) -> bool {
        matches!(owner, Owner::Process { replica, boot, .. }
            if *boot == self.boot && *replica == self.settings.replica)
    }
}

fn remade() -> Error {
    let why = "the record of this grant was lost and made again; a request of another replica may be \
               under way, and is waited for";
    StoreError::Unavailable(why.into()).into()
}
