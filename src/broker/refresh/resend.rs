//! Resending: what is done about refresh tokens that got no definite answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::broker::acts::ActKind;
use crate::broker::endpoint::{Again, Disposition, Failure, Habits, Replay};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::freshness::spread;
use crate::broker::metrics::Resend;
use crate::broker::model::{Doubt, DoubtKind, Grant, Intent, Owner, ProviderId, Reason, Token};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::claim::Claimed;
use crate::broker::refresh::doubt::{Next, Patience, Situation, WINDOW_PERCENT};
use crate::broker::refresh::flight::{Callers, Refreshed};
use crate::broker::refresh::pair::Presented;
use crate::broker::refresh::permit::Permit;
use crate::broker::refresh::queue::Turn;
use crate::broker::refresh::troubles::Client;
use crate::broker::settings::Predecessors;
use crate::broker::store::{Claim, StoreError};
use crate::broker::view::View;
use crate::clock::between;

/// The provider's clock may begin and end a window so much later.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);

impl Rotations {
    /// The doubt about the grant's refresh token, if there is one and nobody is resolving it.
    pub(in crate::broker) fn doubt_of(&self, entry: &Entry, grant: &Grant) -> Option<Doubt> {
        if !self.spends(grant) {
            return None;
        }
        // What this process remembers counts even where the store has lost it.
        entry.doubt(grant.generation()).or_else(|| {
            let held = grant.intent.as_ref()?;
            held.in_doubt().filter(|_| held.generation == grant.generation()).cloned()
        })
    }

    /// The same for those who look on: also while it is being resolved, because until there is an
    /// answer nobody knows.
    pub(in crate::broker) fn open_doubt(&self, entry: &Entry, grant: &Grant) -> Option<Doubt> {
        let resolved = || {
            let held = grant.intent.as_ref().filter(|_| self.spends(grant))?;
            held.doubt.clone().filter(|_| held.generation == grant.generation())
        };
        self.doubt_of(entry, grant).or_else(resolved)
    }

    /// A grant as the store has it, with what is certain about a holder that is no more, or as good as
    /// certain.
    pub(in crate::broker) fn interpret(&self, mut grant: Grant) -> Grant {
        let generation = grant.generation();
        let held = grant.intent.as_ref().filter(|held| held.generation == generation);
        let held = held.filter(|held| held.in_doubt().is_none());
        let Some(held) = held else { return grant };
        if held.owner == Owner::Remade {
            // A claim that was lost with the record is over by now, too.
            let over = self.gone(held);
            grant.intent = grant.intent.filter(|_| !over);
            return grant;
        }
        // Nobody knows when its request left; but it did before this process began, or within the gate
        // of a claim that is far older.
        let (kind, sent_at) = match held.owner == Owner::Restored {
            true => (DoubtKind::Restored, self.start),
            false if self.gone(held) => (DoubtKind::Died, self.start),
            false if self.given_up(held, &grant) => (DoubtKind::Silent, held.since),
            false => return grant,
        };
        let doubt = Doubt::after(held, kind, None, held.since, sent_at);
        grant.intent = grant.intent.map(|held| Intent { doubt: Some(doubt), ..held });
        grant
    }

    /// Its holder, which may be alive, gives no sign for so long that the token is presented again: never
    /// while the old access token serves.
    fn given_up(&self, held: &Intent, grant: &Grant) -> bool {
        let at = self.given_up_at(held, grant);
        !self.ours(&held.owner) && at.is_some_and(|at| self.clock.now() >= at)
    }

    /// When a holder that goes on giving no sign is taken for gone; `None`: an operator has to say so.
    pub(in crate::broker) fn given_up_at(
        &self,
        held: &Intent,
        grant: &Grant,
    ) -> Option<SystemTime> {
        let after = self.settings.unproven_resend_after?;
        let end = grant.pair.token.as_ref().map(Token::expires_at);
        Some(end.into_iter().fold(held.since + after, SystemTime::max))
    }

    /// The holder is a process that has certainly ended.
    pub(super) fn gone(&self, held: &Intent) -> bool {
        let (replica, boot) = match &held.owner {
            Owner::Process { replica, boot, .. } => (replica, boot),
            Owner::Restored => return true,
            Owner::Remade => {
                return between(held.since, self.clock.now()) >= self.settings.suspect_after;
            }
        };
        match self.settings.predecessors {
            Predecessors::AllGone => !self.ours(&held.owner),
            Predecessors::SameReplicaGone => {
                *replica == self.settings.replica && *boot != self.boot
            }
            Predecessors::Unknown => false,
        }
    }

    /// A use of its refresh token may spend it.
    pub(in crate::broker) fn spends(&self, grant: &Grant) -> bool {
        grant.descriptor.kind.spends() && self.habits(&grant.descriptor.provider).single_use
    }

    pub(in crate::broker) fn habits(&self, provider: &ProviderId) -> Habits {
        self.habits.get(provider).cloned().unwrap_or_default()
    }

    /// When the token is presented again, counted from now.
    pub(in crate::broker) fn next_try(&self, entry: &Entry, view: &View, doubt: &Doubt) -> Next {
        let (situation, patience) = self.situation(entry, view, doubt);
        situation.next(patience)
    }

    fn situation(&self, entry: &Entry, view: &View, doubt: &Doubt) -> (Situation, Patience) {
        let now = self.clock.now();
        let settings = &self.settings;
        let habits = self.habits(&view.grant.descriptor.provider);
        let silent_for = entry.silent_for(doubt, now, self.started.elapsed());
        // What this process sent itself it has by one clock, which also counts what it was suspended.
        let ours = entry.doubt(view.grant.generation()).is_some() && doubt.since >= self.start;
        let situation = Situation {
            doubted_for_at_most: ours.then(|| between(doubt.since, now)),
            kind: doubt.kind,
            status: doubt.status,
            attempts: doubt.attempts,
            doubted_for: between(doubt.since, doubt.sent_at) + silent_for,
            silent_for,
            useless_in: useless_in(view, now),
            reported: entry.report_pending(&view.grant),
            recovered: self.troubles.recovered_within(&Client::of(&view.grant), silent_for),
            ordered: entry.ordered(view.grant.generation(), doubt),
        };
        let settled = doubt.status.is_some_and(|status| habits.settled_statuses.contains(&status));
        let patience = Patience {
            settle: if settled {
                settings.settle_short
            } else {
                habits.listen_max + settings.settle_margin
            },
            backoff: settings.retry_backoff,
            slow_after: settings.resend_slow_after,
            slow: settings.resend_slow,
            replay: habits.replay,
            unasked: habits.resends,
        };
        (situation, patience)
    }

    /// Records that a request got no definite answer. The old token is served on, and the refresh
    /// token is presented again when nothing can be lost by it.
    pub(super) async fn doubted(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        intent: &Intent,
        sent_at: SystemTime,
        kind: DoubtKind,
        failure: Failure,
    ) -> Refreshed {
        let doubt = Doubt::after(intent, kind, failure.status, sent_at, sent_at);
        entry.doubted(intent, doubt.clone());
        self.acts.tell(ActKind::Doubted, grant, Some(kind.name()));
        if intent.doubt.is_some() {
            entry.use_report(grant);
        }
        let held = Intent { doubt: Some(doubt.clone()), ..intent.clone() };
        let view = entry.adopt(Grant { intent: Some(held.clone()), ..grant.clone() });
        let next = self.next_try(entry, &view, &doubt);
        self.record_doubt(entry, &held, &doubt, next).await;
        Err(in_doubt(grant, &doubt, next))
    }

    /// Tells the store of a doubt, at once or when it answers again. Until then, and if this
    /// process ends before, the claim itself says that something was sent.
    pub(in crate::broker) async fn record_doubt(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        held: &Intent,
        doubt: &Doubt,
        next: Next,
    ) {
        let due_at = self.look_at(next);
        let told = self.store.doubt(&entry.id, held, doubt, due_at).await;
        let Err(failure) = told else { return };
        debug!(grant.id = %entry.id, error = chain(&failure), "a doubt is recorded once the store answers");
        let (rotations, entry) = (Arc::clone(self), Arc::clone(entry));
        let (held, doubt) = (held.clone(), doubt.clone());
        self.tasks.spawn(async move {
            let step = || async {
                // An operator may have said something meanwhile.
                let next = rotations.next_try(&entry, &entry.view(), &doubt);
                let due_at = rotations.look_at(next);
                rotations.store.doubt(&entry.id, &held, &doubt, due_at).await
            };
            rotations.insist(step, |_, _: &StoreError| {}).await;
        });
    }

    /// When somebody has to look at a grant in doubt again.
    pub(in crate::broker) fn look_at(&self, next: Next) -> Option<SystemTime> {
        match next {
            Next::In(wait) => Some(self.clock.now() + wait),
            Next::WhenTold => None,
        }
    }

    /// Takes the claim over to present the token again, or says when that will be.
    pub(super) async fn claim_in_doubt(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        view: &View,
        doubt: Doubt,
        callers: Option<&Callers<'_>>,
    ) -> Result<Option<Claimed>, Error> {
        let grant = &view.grant;
        entry.see(&doubt, self.clock.now(), self.started.elapsed());
        let next = self.next_try(entry, view, &doubt);
        let waits = next != Next::In(Duration::ZERO);
        if waits && grant.intent.is_none() {
            return Err(in_doubt(grant, &doubt, next));
        }
        let Some(held) = self.held(grant, &doubt).await? else { return Ok(None) };
        if waits {
            self.record_doubt(entry, &held, &doubt, next).await;
            return Err(in_doubt(grant, &doubt, next));
        }
        let watch = self.settings.suspect_after;
        if !self.store.doubt(&entry.id, &held, &doubt, Some(self.clock.now() + watch)).await? {
            return Ok(None);
        }
        let turn = match callers {
            None => None,
            Some(callers) => match self.turn_to_resend(entry, grant, &doubt, callers).await? {
                None => return Ok(None),
                turn => turn,
            },
        };
        let at = Instant::now();
        let Some(intent) = self.take_over(entry, &held).await? else { return Ok(None) };
        debug!(grant.id = %grant.id, generation = %intent.generation, attempts = doubt.attempts,
            kind = doubt.kind.name(), "a refresh token in doubt is presented again");
        Ok(Some(Claimed { intent, at, turn }))
    }

    /// Takes the claim over although the refresh token is in doubt: it is not presented again, and
    /// nobody else is to.
    pub(super) async fn claim_to_end(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        doubt: &Doubt,
    ) -> Result<Option<Intent>, Error> {
        let Some(held) = self.held(grant, doubt).await? else { return Ok(None) };
        let watch = self.clock.now() + self.settings.suspect_after;
        if !self.store.doubt(&entry.id, &held, doubt, Some(watch)).await? {
            return Ok(None);
        }
        self.take_over(entry, &held).await
    }

    /// The claim under which a doubt is kept; `None`: the grant has moved.
    async fn held(&self, grant: &Grant, doubt: &Doubt) -> Result<Option<Intent>, Error> {
        match &grant.intent {
            // Another process is at it.
            Some(held)
                if held.in_doubt().is_none() && !self.ours(&held.owner) && !self.gone(held) =>
            {
                Err(in_doubt(grant, doubt, Next::In(self.settings.poll)))
            }
            Some(held) => Ok(Some(held.clone())),
            // The store has lost the claim; what this process remembers is told to it anew.
            None => Ok(self.claim_anew(grant).await?),
        }
    }

    async fn take_over(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        held: &Intent,
    ) -> Result<Option<Intent>, Error> {
        self.watch.whole()?;
        let owner = self.next_owner();
        let attempt = owner.attempt();
        let watch = self.settings.suspect_after;
        let claim = self.store.take_over(&entry.id, held, owner, watch).await;
        Ok(match claim.inspect_err(|_| self.give_back_later(entry, attempt))? {
            Claim::Granted(intent) => Some(intent),
            Claim::Busy(_) | Claim::Moved => None,
        })
    }

    /// Waits until the provider's rates allow this resend, and looks again whether it is still to be
    /// made; `None`: the grant has moved.
    async fn turn_to_resend(
        self: &Arc<Self>,
        entry: &Entry,
        grant: &Grant,
        doubt: &Doubt,
        callers: &Callers<'_>,
    ) -> Result<Option<(Turn, Permit)>, Error> {
        let provider = entry.provider();
        let slot = self.troubles.resend_slot(&provider, self.habits(&provider).resend_rate);
        if slot > Instant::now() {
            tokio::select! {
                () = self.drain.cancelled() => return Err(Error::Draining),
                () = sleep_until(slot) => {}
            }
        }
        let Some(turn) = self.turn(entry, grant.generation(), callers).await? else {
            return Ok(None);
        };
        let view = entry.view();
        if view.grant.position != grant.position {
            return Ok(None);
        }
        self.can_refresh(&view.grant)?;
        let next = self.next_try(entry, &view, doubt);
        if next != Next::In(Duration::ZERO) {
            return Err(in_doubt(&view.grant, doubt, next));
        }
        let leave = self.leave(&Client::of(grant), grant, callers).await;
        let permit = leave.map_err(|(_, left)| in_doubt(&view.grant, doubt, Next::In(left)))?;
        Ok(Some((turn, permit)))
    }

    /// The window in which this request presents a refresh token again, or may do so by the provider's clock.
    pub(super) fn window(&self, grant: &Grant, presented: &Presented<'_>) -> Option<Window> {
        let replay = self.habits(&grant.descriptor.provider).replay?;
        let doubt = presented.intent.doubt.as_ref()?;
        let first_sent = (replay.again == Again::Same).then_some(doubt.since);
        let end = doubt.since + replay.within * WINDOW_PERCENT / 100;
        let over = doubt.since + replay.within + CLOCKS_DIFFER;
        (presented.at <= over).then_some(Window { first_sent, end })
    }

    /// Counts how a resend ended.
    pub(super) fn count_resend(
        &self,
        grant: &Grant,
        presented: &Presented<'_>,
        doubt: &Doubt,
        result: &'static str,
    ) {
        let habits = self.habits(&grant.descriptor.provider);
        let settle = habits.listen_max + self.settings.settle_margin;
        let since = between(doubt.sent_at, presented.at);
        let window = match (self.window(grant, presented), habits.replay) {
            (Some(_), Some(replay)) if replay.is_early(doubt, since, settle) => "early",
            (Some(window), _) if presented.at <= window.end => "inside",
            (Some(_) | None, _) => "none",
        };
        let provider = grant.descriptor.provider.as_str().to_owned();
        let labels = Resend { provider, kind: doubt.kind.name(), window, result };
        self.metrics.resends.get_or_create(&labels).inc();
        self.acts.tell(ActKind::Resent, grant, Some(result));
    }

    /// Brings grants up again that wait for a provider which is well again.
    pub(in crate::broker) fn wake(self: &Arc<Self>, provider: ProviderId) {
        let rotations = Arc::clone(self);
        let waits = |entry: &Arc<Entry>| {
            let view = entry.view();
            let paced = view.grant.keeps_its_pace();
            !paced && (view.trouble.is_some() || view.grant.intent.is_some())
        };
        let waiting: Vec<_> = self.known.of(&provider).filter(waits).collect();
        self.tasks.spawn(async move {
            let mut turn = Instant::now();
            for entry in waiting {
                let view = entry.view();
                let doubt = rotations.doubt_of(&entry, &view.grant);
                let due_at = match doubt {
                    Some(doubt) => rotations.look_at(rotations.next_try(&entry, &view, &doubt)),
                    // One after the other: the provider has only just recovered.
                    None => Some(rotations.clock.now() + turn.saturating_duration_since(Instant::now())),
                };
                turn += Duration::from_secs(1) / rotations.habits(&provider).resend_rate.max(1);
                let Some(due_at) = due_at else { continue };
                let told =
                    rotations.store.schedule(&entry.id, view.grant.generation(), due_at).await;
                if let Err(failure) = told {
                    // They come up by themselves a little later.
                    warn!(%provider, error = chain(&failure), "waiting grants cannot be brought up now");
                    return;
                }
            }
        });
    }
}

/// Inside which time a refresh token is presented again that may be spent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// When the request left that may have brought what comes back; `None`: it is another pair.
    pub(super) first_sent: Option<SystemTime>,
    /// From then on a spent one may not work any more.
    pub(super) end: SystemTime,
}

impl Replay {
    /// It was presented again before what is processed late was sure to fall into the window.
    fn is_early(&self, doubt: &Doubt, since: Duration, settle: Duration) -> bool {
        let ended = doubt.kind == DoubtKind::Ended && doubt.status.is_none();
        self.early && ended && since < settle.saturating_sub(self.within)
    }
}

/// What callers are told while a grant is in doubt.
pub(in crate::broker) fn in_doubt(grant: &Grant, doubt: &Doubt, next: Next) -> Error {
    let (reason, disposition) = (reason(doubt.kind), Disposition::Unknown(doubt.kind));
    let retry_after = match next {
        Next::In(wait) => Some(wait),
        Next::WhenTold => None,
    };
    let failure =
        Failure { status: doubt.status, retry_after, ..Failure::new(reason, disposition) };
    let (grant, provider) = (grant.id.clone(), grant.descriptor.provider.clone());
    Error::Upstream { grant, provider, failure, time: doubt.sent_at, retry_after: None }
}

/// The reason to show for a doubt.
fn reason(kind: DoubtKind) -> Reason {
    match kind {
        DoubtKind::Unreadable => Reason::RefreshReplyUnreadable,
        DoubtKind::Answered
        | DoubtKind::Ended
        | DoubtKind::Unheard
        | DoubtKind::Died
        | DoubtKind::Restored
        | DoubtKind::Silent => Reason::RefreshOutcomeUnknown,
    }
}

/// Time until nothing is lost if the old access token dies: grants are spread over the first half
/// of the time in which callers would have to wait for another one.
fn useless_in(view: &View, now: SystemTime) -> Duration {
    let Some((_, window)) = view.token().filter(|(_, window)| now < window.expires_at) else {
        return Duration::ZERO;
    };
    let half = between(window.hard_at, window.expires_at) / 2;
    let spread = spread(&view.grant.id, view.grant.generation());
    between(now, window.hard_at + half.mul_f64(spread))
}
