//! What this process knows of each grant: the newest view, the refresh under way, recent trouble.
//!
//! Reading the view takes no lock that a refresh can hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::broker::error::Error;
use crate::broker::flight::Flight;
use crate::broker::model::{Doubt, Generation, Grant, GrantId, Intent, Pair, ProviderId, Standing};
use crate::broker::store::Stored;
use crate::broker::view::View;
use crate::clock::between;

/// A failed refresh that has not been overcome.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What happened.
    pub error: Error,
    /// Failures in a row.
    pub failures: u32,
    /// When it was met.
    pub at: Instant,
    /// No refresh before this.
    pub until: Instant,
}

impl Trouble {
    /// A failure met just now, and for the first time.
    pub(super) fn now(error: Error) -> Self {
        let now = Instant::now();
        Self { error, failures: 1, at: now, until: now }
    }
}

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

/// Number that stands for no generation.
const NONE: u64 = 0;

/// One grant, as this process knows it.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub id: GrantId,
    view: ArcSwap<View>,
    /// The refresh under way. Held for moments only, never across an await.
    pub(super) flight: Mutex<Option<Flight>>,
    pub(super) trouble: ArcSwapOption<Trouble>,
    /// The claim under which a request left without a definite answer.
    unanswered: Mutex<Option<Unanswered>>,
    seen: Mutex<Option<Seen>>,
    /// Generation that was noted as used in the store.
    noted: AtomicU64,
    /// Generation of the token that a caller reported as rejected by an API.
    rejected: AtomicU64,
    /// An operator ordered that this generation's token be presented again, when it had been sent
    /// so often.
    ordered: Mutex<Option<(Generation, u32)>>,
    /// Generation for which such a report has brought a resend forward.
    advanced: AtomicU64,
}

impl Entry {
    pub(super) fn new(grant: Grant) -> Self {
        Self {
            id: grant.id.clone(),
            view: ArcSwap::from_pointee(View::new(grant)),
            flight: Mutex::new(None),
            trouble: ArcSwapOption::empty(),
            unanswered: Mutex::new(None),
            seen: Mutex::new(None),
            noted: AtomicU64::new(NONE),
            rejected: AtomicU64::new(NONE),
            ordered: Mutex::new(None),
            advanced: AtomicU64::new(NONE),
        }
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The newest view, for a look that is over at once: cheaper, and not to be kept.
    pub(super) fn glance(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// The provider that the grant belongs to.
    pub(super) fn provider(&self) -> ProviderId {
        self.view.load().grant.descriptor.provider.clone()
    }

    /// Takes a grant over unless a newer one is known; returns the newest.
    pub(super) fn adopt(&self, grant: Grant) -> Arc<View> {
        let fresh = Arc::new(View::new(grant));
        self.view.rcu(|known| {
            if known.grant.position > fresh.grant.position {
                Arc::clone(known)
            } else {
                Arc::clone(&fresh)
            }
        });
        self.view()
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
        *self.unanswered.lock() = Some(Unanswered { intent, sent, doubt: None });
    }

    /// The request under this claim had a definite end, or is in doubt as others were before.
    pub(super) fn answered(&self, intent: &Intent) {
        let mut slot = self.unanswered.lock();
        if slot.as_ref().is_some_and(|sent| sent.intent.owner.attempt == intent.owner.attempt) {
            *slot = None;
        }
    }

    /// The request under this claim got no definite answer.
    pub(super) fn doubted(&self, intent: &Intent, doubt: Doubt) {
        let (sent_at, attempts) = (doubt.sent_at, doubt.attempts);
        let mut slot = self.unanswered.lock();
        if let Some(sent) = slot.as_ref().filter(|sent| sent.intent.fence == intent.fence) {
            let (silent_for, at) = (Duration::ZERO, sent.sent);
            *self.seen.lock() = Some(Seen { sent_at, attempts, silent_for, at });
        }
        *slot = Some(Unanswered::in_doubt(intent, doubt));
    }

    /// The request under this claim was not processed; what was in doubt before still is.
    pub(super) fn still_doubted(&self, intent: &Intent, doubt: Doubt) {
        *self.unanswered.lock() = Some(Unanswered::in_doubt(intent, doubt));
    }

    /// A request under this attempt may have been processed without our knowing how it ended.
    pub(super) fn unanswered(&self, attempt: u64) -> bool {
        self.unanswered.lock().as_ref().is_some_and(|sent| sent.intent.owner.attempt == attempt)
    }

    /// The doubt about this generation that this process remembers.
    pub(super) fn doubt(&self, generation: Generation) -> Option<Doubt> {
        let slot = self.unanswered.lock();
        slot.as_ref().filter(|sent| sent.intent.generation == generation)?.doubt.clone()
    }

    /// The claim under which a request for this generation left, of which nothing was heard since.
    /// Only the refresh that sent it can tell whether it is still under way.
    pub(super) fn unheard(&self, generation: Generation) -> Option<Intent> {
        let slot = self.unanswered.lock();
        let sent = slot.as_ref().filter(|sent| sent.doubt.is_none())?;
        (sent.intent.generation == generation).then(|| sent.intent.clone())
    }

    /// Time since the newest request of a doubt, as far as it is certain. Of requests of this process
    /// the wall clock has no say in it; others count from the start of this process at most, because
    /// nobody can tell how the clock was turned before.
    pub(super) fn silent_for(&self, doubt: &Doubt, now: SystemTime, uptime: Duration) -> Duration {
        let (sent_at, attempts) = (doubt.sent_at, doubt.attempts);
        let mut seen = self.seen.lock();
        let fresh = || Seen {
            sent_at,
            attempts,
            silent_for: between(sent_at, now).min(uptime),
            at: Instant::now(),
        };
        let known = seen.filter(|seen| (seen.sent_at, seen.attempts) == (sent_at, attempts));
        let known = known.unwrap_or_else(fresh);
        *seen = Some(known);
        known.silent_for + known.at.elapsed()
    }

    /// A caller reported that an API rejects the token, and no resend has come of that yet.
    pub(super) fn report_pending(&self, grant: &Grant) -> bool {
        self.token_rejected(grant) && self.advanced.load(Ordering::Relaxed) != grant.generation().0
    }

    /// An operator says that the refresh token in doubt is to be presented again.
    pub(super) fn order(&self, generation: Generation, doubt: &Doubt) {
        *self.ordered.lock() = Some((generation, doubt.attempts));
    }

    /// That was said, and it has not been presented since.
    pub(super) fn ordered(&self, generation: Generation, doubt: &Doubt) -> bool {
        *self.ordered.lock() == Some((generation, doubt.attempts))
    }

    /// A resend goes out: the report has had its effect.
    pub(super) fn use_report(&self, grant: &Grant) {
        if self.token_rejected(grant) {
            self.advanced.store(grant.generation().0, Ordering::Relaxed);
        }
    }

    /// True once per generation: the caller then notes the use in the store.
    pub(super) fn first_use(&self, generation: u64) -> bool {
        self.noted.load(Ordering::Relaxed) != generation
            && self.noted.swap(generation, Ordering::Relaxed) != generation
    }

    /// A caller reports that an API rejected the token of this generation.
    pub(super) fn report_rejected(&self, generation: Generation) {
        self.rejected.store(generation.0, Ordering::Relaxed);
    }

    /// A caller reported that an API rejected the grant's access token.
    pub(super) fn token_rejected(&self, grant: &Grant) -> bool {
        let generation = grant.pair.token.as_ref().map(|token| token.generation.0);
        generation == Some(self.rejected.load(Ordering::Relaxed))
    }

    /// Somebody asked for this generation.
    pub(super) fn in_use(&self, generation: Generation) -> bool {
        self.noted.load(Ordering::Relaxed) == generation.0
    }

    /// The use could not be noted; the next one tries again.
    pub(super) fn forget_use(&self) {
        self.noted.store(NONE, Ordering::Relaxed);
    }

    /// A refresh is under way in this process.
    pub fn in_flight(&self) -> bool {
        self.flight.lock().is_some()
    }

    /// The failure that has not been overcome.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.trouble.load_full()
    }

    /// The grant is gone.
    pub fn deleted(&self) -> bool {
        matches!(self.view.load().grant.standing, Standing::Deleted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::broker::model::{Descriptor, DoubtKind, Fence, GrantKind, Owner, Position};

    fn grant() -> Grant {
        Grant {
            id: GrantId::parse("kroger/alice").unwrap(),
            position: Position { generation: Generation(7), fence: Fence(1) },
            descriptor: Descriptor {
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
        }
    }

    fn doubt(sent_at: SystemTime) -> Doubt {
        let (kind, status, attempts) = (DoubtKind::Ended, None, 1);
        Doubt { kind, status, since: sent_at, sent_at, attempts, fence: Fence(2) }
    }

    #[tokio::test(start_paused = true)]
    async fn turning_the_clock_shortens_no_silence() {
        let entry = Entry::new(grant());
        let intent = Intent {
            generation: Generation(7),
            owner: Owner { replica: "one".to_owned(), boot: 1, attempt: 1 },
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
        assert_eq!(other.silent_for(&doubt(sent_at), sent_at + hour * 9, minute), minute);
        tokio::time::advance(minute).await;
        assert_eq!(other.silent_for(&doubt(sent_at), UNIX_EPOCH, minute * 2), minute * 2);
    }
}
