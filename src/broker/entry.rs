//! One grant, as this process knows it: a view for serving, and notes for refreshing.
//!
//! The view is replaced as a whole, by whoever holds the notes; reading it takes no lock. What the
//! notes say of requests that got no answer concerns refreshes alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::broker::model::{Doubt, Generation, Grant, GrantId, Intent, Pair, ProviderId, Standing};
use crate::broker::store::Stored;
use crate::broker::view::{Trouble, View};
use crate::clock::between;

/// A request that left without a definite answer so far.
#[derive(Debug, Clone)]
struct Unanswered {
    /// The claim under which it left.
    intent: Intent,
    sent: Instant,
    /// Absent while the request is under way.
    doubt: Option<Doubt>,
}

impl Unanswered {
    fn in_doubt(intent: &Intent, doubt: Doubt) -> Self {
        Self { intent: intent.clone(), sent: Instant::now(), doubt: Some(doubt) }
    }
}

/// When a doubt was first seen here: the wall clock may be turned while it lasts.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sent_at: SystemTime,
    attempts: u32,
    silent_for: Duration,
    at: Instant,
}

/// A moment is told a little differently each time that it is told by the clock of the store.
const SAME_MOMENT: Duration = Duration::from_secs(1);
/// Number that stands for no generation.
const NONE: u64 = 0;

/// One grant, as this process knows it.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub id: GrantId,
    view: ArcSwap<View>,
    changed: Notify,
    notes: Mutex<Notes>,
    /// Generation that was noted as used in the store.
    noted: AtomicU64,
    /// Somebody asked for it since the last round of letting go.
    asked: AtomicBool,
    /// Rounds in which nobody did.
    idle: AtomicU32,
}

/// What concerns refreshes.
#[derive(Debug, Default)]
struct Notes {
    /// The claim under which a request left without a definite answer.
    unanswered: Option<Unanswered>,
    seen: Option<Seen>,
    /// An operator ordered that this generation's token be presented again, when it had been sent
    /// so often.
    ordered: Option<(Generation, u32)>,
    /// Generation for which a rejected token has brought a resend forward.
    advanced: Option<Generation>,
}

impl Seen {
    fn first(doubt: &Doubt, now: SystemTime, uptime: Duration) -> Self {
        let (sent_at, attempts) = (doubt.sent_at, doubt.attempts);
        let silent_for = between(sent_at, now).min(uptime);
        Self { sent_at, attempts, silent_for, at: Instant::now() }
    }

    fn is_of(&self, doubt: &Doubt) -> bool {
        let apart = between(self.sent_at, doubt.sent_at).max(between(doubt.sent_at, self.sent_at));
        self.attempts == doubt.attempts && apart < SAME_MOMENT
    }
}

impl Entry {
    pub(super) fn new(grant: Grant) -> Self {
        Self {
            id: grant.id.clone(),
            view: ArcSwap::from_pointee(View::new(grant)),
            changed: Notify::new(),
            notes: Mutex::default(),
            noted: AtomicU64::new(NONE),
            asked: AtomicBool::new(true),
            idle: AtomicU32::new(0),
        }
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The next change of the view; from now on none is missed, be it waited for or not.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The newest view, for a look that is over at once: cheaper, and not to be kept.
    pub(super) fn glance(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// The one place where the view changes: one at a time, each on top of the one before.
    fn change(&self, change: impl FnOnce(&View) -> Option<View>) -> Arc<View> {
        let _writer = self.notes.lock();
        if let Some(view) = change(&self.view.load()) {
            self.view.store(Arc::new(view));
            self.changed.notify_waiters();
        }
        self.view()
    }

    /// The provider that the grant belongs to.
    pub(super) fn provider(&self) -> ProviderId {
        self.view.load().grant.descriptor.provider.clone()
    }

    /// Takes a grant over unless a newer one is known; returns the newest.
    pub(super) fn adopt(&self, grant: Grant) -> Arc<View> {
        self.change(|known| {
            let newer = known.grant.position <= grant.position;
            let grant = || describe(same_end(grant, &known.grant), &known.grant);
            newer.then(|| View::new(grant()).after(known))
        })
    }

    /// Refreshing failed.
    pub(super) fn met(&self, trouble: Trouble) {
        self.change(|known| Some(View { trouble: Some(Arc::new(trouble)), ..known.clone() }));
    }

    /// Whatever befell refreshes before counts no more.
    pub(super) fn forget_trouble(&self) {
        self.change(|known| {
            known.trouble.as_ref()?;
            Some(View { trouble: None, ..known.clone() })
        });
    }

    /// Takes over what the store has, unless something newer is known; returns the newest.
    pub(super) fn learn(&self, stored: Stored) -> Arc<View> {
        match stored {
            Stored::Grant(grant) => self.adopt(grant),
            Stored::Deleted(position) => {
                let known = self.view().grant.clone();
                let pair = Pair { refresh_token: None, token: None, ..known.pair };
                let standing = Standing::Deleted;
                self.adopt(Grant { position, pair, standing, intent: None, ..known })
            }
        }
    }

    /// A request is about to leave under this claim.
    pub(super) fn sent(&self, intent: &Intent) {
        let (intent, sent) = (intent.clone(), Instant::now());
        self.notes.lock().unanswered = Some(Unanswered { intent, sent, doubt: None });
    }

    /// The request under this claim had a definite end, or is in doubt as others were before.
    pub(super) fn answered(&self, intent: &Intent) {
        let ended = |sent: &mut Unanswered| sent.intent.owner.attempt() == intent.owner.attempt();
        self.notes.lock().unanswered.take_if(ended);
    }

    /// The request under this claim got no definite answer.
    pub(super) fn doubted(&self, intent: &Intent, doubt: Doubt) {
        let (sent_at, attempts) = (doubt.sent_at, doubt.attempts);
        let mut notes = self.notes.lock();
        let sent = notes.unanswered.as_ref().filter(|sent| sent.intent.fence == intent.fence);
        if let Some(sent) = sent {
            let (silent_for, at) = (Duration::ZERO, sent.sent);
            notes.seen = Some(Seen { sent_at, attempts, silent_for, at });
        }
        notes.unanswered = Some(Unanswered::in_doubt(intent, doubt));
    }

    /// The request under this claim was not processed; what was in doubt before still is.
    pub(super) fn still_doubted(&self, intent: &Intent, doubt: Doubt) {
        self.notes.lock().unanswered = Some(Unanswered::in_doubt(intent, doubt));
    }

    /// A request under this attempt may have been processed without our knowing how it ended.
    pub(super) fn unanswered(&self, attempt: u64) -> bool {
        self.notes
            .lock()
            .unanswered
            .as_ref()
            .is_some_and(|sent| sent.intent.owner.attempt() == attempt)
    }

    /// The doubt about this generation that this process remembers.
    pub(super) fn doubt(&self, generation: Generation) -> Option<Doubt> {
        let notes = self.notes.lock();
        let sent = notes.unanswered.as_ref().filter(|sent| sent.intent.generation == generation)?;
        sent.doubt.clone()
    }

    /// The claim under which a request for this generation left, of which nothing was heard since.
    /// Only the refresh that sent it can tell whether it is still under way.
    pub(super) fn unheard(&self, generation: Generation) -> Option<Intent> {
        let notes = self.notes.lock();
        let sent = notes.unanswered.as_ref().filter(|sent| sent.doubt.is_none())?;
        (sent.intent.generation == generation).then(|| sent.intent.clone())
    }

    /// Time since the newest request of a doubt, as far as it is certain. Of requests of this process
    /// the wall clock has no say in it; others count from the start of this process at most, because
    /// nobody can tell how the clock was turned before.
    pub(super) fn silent_for(&self, doubt: &Doubt, now: SystemTime, uptime: Duration) -> Duration {
        let seen = self.notes.lock().seen;
        let seen = seen.filter(|seen| seen.is_of(doubt));
        let seen = seen.unwrap_or_else(|| Seen::first(doubt, now, uptime));
        seen.silent_for + seen.at.elapsed()
    }

    /// Keeps for how long nothing was heard, as it is certain now: no clock that is turned later has a say
    /// in it.
    pub(super) fn see(&self, doubt: &Doubt, now: SystemTime, uptime: Duration) {
        let mut notes = self.notes.lock();
        if !notes.seen.is_some_and(|seen| seen.is_of(doubt)) {
            notes.seen = Some(Seen::first(doubt, now, uptime));
        }
    }

    /// A caller reported that an API rejects the token, and no resend has come of that yet.
    pub(super) fn report_pending(&self, grant: &Grant) -> bool {
        self.token_rejected(grant) && self.notes.lock().advanced != Some(grant.generation())
    }

    /// An operator says that the refresh token in doubt is to be presented again.
    pub(super) fn order(&self, generation: Generation, doubt: &Doubt) {
        self.notes.lock().ordered = Some((generation, doubt.attempts));
    }

    /// That was said, and it has not been presented since.
    pub(super) fn ordered(&self, generation: Generation, doubt: &Doubt) -> bool {
        self.notes.lock().ordered == Some((generation, doubt.attempts))
    }

    /// A resend goes out: the report has had its effect.
    pub(super) fn use_report(&self, grant: &Grant) {
        if self.token_rejected(grant) {
            self.notes.lock().advanced = Some(grant.generation());
        }
    }

    /// True once per generation: the caller then notes the use in the store.
    pub(super) fn first_use(&self, generation: u64) -> bool {
        self.noted.load(Ordering::Relaxed) != generation
            && self.noted.swap(generation, Ordering::Relaxed) != generation
    }

    /// A caller reports that an API rejected the token of this generation.
    pub(super) fn report_rejected(&self, generation: Generation) {
        self.change(|known| Some(View { rejected: Some(generation), ..known.clone() }));
    }

    /// A caller reported that an API rejected the grant's access token.
    pub(super) fn token_rejected(&self, grant: &Grant) -> bool {
        let generation = grant.pair.token.as_ref().map(|token| token.generation);
        generation.is_some() && generation == self.view.load().rejected
    }

    /// Somebody asked for this generation.
    pub(super) fn in_use(&self, generation: Generation) -> bool {
        self.noted.load(Ordering::Relaxed) == generation.0
    }

    /// The use could not be noted; the next one tries again.
    pub(super) fn forget_use(&self) {
        self.noted.store(NONE, Ordering::Relaxed);
    }

    /// The failure that has not been overcome.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.view.load().trouble.clone()
    }

    /// Somebody asks for it.
    pub(super) fn ask(&self) {
        // Written seldom, because all callers share it.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Called once in each round of letting go: nobody asked for it in that many, and nothing that
    /// only this process knows would be lost with it.
    pub(super) fn idle_for(&self, rounds: u32) -> bool {
        if self.asked.swap(false, Ordering::Relaxed) {
            self.idle.store(0, Ordering::Relaxed);
            return false;
        }
        self.idle.fetch_add(1, Ordering::Relaxed) + 1 >= rounds && self.holds_nothing()
    }

    /// Nothing would be lost with it.
    pub(super) fn holds_nothing(&self) -> bool {
        let notes = self.notes.lock();
        let view = self.view.load();
        if view.grant.standing == Standing::Deleted {
            return true;
        }
        notes.unanswered.is_none() && view.trouble.is_none() && view.grant.intent.is_none()
    }

    /// The grant is gone.
    pub fn deleted(&self) -> bool {
        matches!(self.view.load().grant.standing, Standing::Deleted)
    }
}

/// The grant, with the end of its token as it was first known here: clocks may have been turned since.
fn same_end(mut grant: Grant, known: &Grant) -> Grant {
    if let (Some(token), Some(first)) = (&mut grant.pair.token, &known.pair.token)
        && token.generation == first.generation
        && token.access_token == first.access_token
    {
        (token.issued_at, token.lifetime) = (first.issued_at, first.lifetime);
        token.refresh_in = first.refresh_in;
    }
    grant
}

/// The grant, with what operators said of it last: who refreshed it meanwhile may not have heard.
fn describe(grant: Grant, known: &Grant) -> Grant {
    let of = |grant: &Grant| (grant.descriptor.provider.clone(), grant.descriptor.kind);
    if known.described <= grant.described || of(known) != of(&grant) {
        return grant;
    }
    Grant { descriptor: known.descriptor.clone(), described: known.described, ..grant }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::broker::model::{Descriptor, DoubtKind, Fence, GrantKind, Owner, Position};

    pub(crate) fn grant() -> Grant {
        Grant {
            id: GrantId::parse("kroger/alice").unwrap(),
            position: Position { generation: Generation(7), fence: Fence(1) },
            descriptor: Descriptor {
                account: None,
                provider: ProviderId::new("kroger"),
                kind: GrantKind::RefreshToken,
                scopes: Vec::new(),
                labels: BTreeMap::new(),
                keep_warm: false,
                disabled: false,
                create_time: UNIX_EPOCH,
            },
            described: Fence(1),
            pair: Pair {
                refresh_token: None,
                refresh_token_expires_at: None,
                token: None,
                published_at: UNIX_EPOCH,
            },
            standing: Standing::Usable,
            intent: None,
            answer: None,
        }
    }

    fn doubt(sent_at: SystemTime) -> Doubt {
        let (kind, status, attempts) = (DoubtKind::Ended, None, 1);
        Doubt { kind, status, since: sent_at, sent_at, attempts, fence: Fence(2) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_operator_said_during_a_refresh_stands_after_it() {
        let before = grant();
        let entry = Entry::new(before.clone());
        let descriptor = Descriptor { disabled: true, ..before.descriptor.clone() };
        let position = Position { fence: Fence(9), ..before.position };
        entry.adopt(Grant { position, descriptor, described: Fence(9), ..before.clone() });
        // Neither a new pair nor a refusal that was under way knows of it.
        let next = Position { generation: Generation(8), fence: Fence(5) };
        for position in [position, next] {
            let view = entry.adopt(Grant { position, ..before.clone() });
            assert!(view.grant.position == position && view.grant.descriptor.disabled);
        }
        let position = Position { generation: Generation(20), fence: Fence(20) };
        let view = entry.adopt(Grant { position, described: Fence(20), ..before });
        assert!(!view.grant.descriptor.disabled, "a new chain is described anew");
    }

    #[tokio::test(start_paused = true)]
    async fn turning_the_clock_shortens_no_silence() {
        let entry = Entry::new(grant());
        let intent = Intent {
            generation: Generation(7),
            owner: Owner::Process { replica: "one".to_owned(), boot: 1, attempt: 1 },
            fence: Fence(2),
            since: UNIX_EPOCH,
            doubt: None,
        };
        let hour = Duration::from_secs(3_600);
        let sent_at = UNIX_EPOCH + hour;
        entry.sent(&intent);
        tokio::time::advance(Duration::from_secs(4)).await;
        // Ours, and the clock is turned while the request is under way.
        entry.doubted(&intent, doubt(sent_at));
        for now in [sent_at + hour, UNIX_EPOCH] {
            let silent_for = entry.silent_for(&doubt(sent_at), now, hour * 9);
            assert_eq!(silent_for, Duration::from_secs(4));
        }
        // Somebody else's, of before this process began, a minute ago.
        let minute = Duration::from_secs(60);
        let other = Entry::new(grant());
        other.see(&doubt(sent_at), sent_at + hour * 9, minute);
        assert_eq!(other.silent_for(&doubt(sent_at), sent_at + hour * 9, minute), minute);
        tokio::time::advance(minute).await;
        assert_eq!(other.silent_for(&doubt(sent_at), UNIX_EPOCH, minute * 2), minute * 2);
    }
}
