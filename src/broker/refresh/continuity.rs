//! Continuity: whether the store is still there, takes writes, and has what it had; what it lost is
//! written back from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::broker::error::{Error, chain};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::others::{Found, Others};
use crate::broker::store::{Continuity, JournalCondition, StoreError};
use crate::clock::{from_unix_ms, unix_ms};

/// How the store was when it was looked at last.
#[derive(Debug, Clone, Default)]
pub struct StoreCondition {
    /// Kind of the store; empty before the first look.
    pub kind: &'static str,
    /// Identifies the deployment.
    pub deployment: String,
    /// Why it takes nothing, or what it has lost and did not get back yet.
    pub trouble: Option<String>,
    /// The journal of this process, if it has one.
    pub journal: Option<JournalCondition>,
}

const QUIET: &str = "it has lost what was written last, and with it perhaps claims; requests of other replicas \
                     that may be under way are waited for";
const OTHERS: &str = "Redis is another server than before, or was restarted, and these replicas have not said \
                      yet what they know";
/// The end of a wait is told in steps of so many ms.
const END_STEP: u64 = 10_000;
/// What is given back is there soon.
const SOON: Duration = Duration::from_secs(1);
const GIVEN_BACK: &str = "it is given back what it has lost";
/// What a store may lack, until it has all that this process knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lacks {
    /// Perhaps the last moments before it was opened or connected to anew.
    Moments,
    /// What was written since an older state.
    Newer,
    /// Everything.
    All,
}

impl Lacks {
    fn after(continuity: Continuity) -> Option<Self> {
        match continuity {
            Continuity::Unbroken => None,
            Continuity::Anew => Some(Self::Moments),
            Continuity::Older => Some(Self::Newer),
            Continuity::Emptied => Some(Self::All),
        }
    }

    fn tell(self) {
        let what = match self {
            Self::Moments => return,
            Self::Newer => "the store went back to an older state",
            Self::All => "the store was emptied",
        };
        error!(
            "{what}; what this process knows is written back. Grants that nobody asked it for \
             lately may be missing or old: restore them, or look at each"
        );
    }
}

/// What is known of the store.
#[derive(Debug)]
pub(in crate::broker) struct Watch {
    condition: RwLock<Arc<StoreCondition>>,
    lacks: RwLock<Option<Lacks>>,
    others: RwLock<Others>,
    /// Until when requests may be under way whose claims the store has lost.
    quiet_at: RwLock<Option<Instant>>,
    /// Grants that it was given back.
    pub(super) healed: AtomicU64,
    up: Gauge,
}

impl Watch {
    pub(in crate::broker) fn new(up: Gauge) -> Self {
        let (condition, lacks, others) = (RwLock::default(), RwLock::default(), RwLock::default());
        let (quiet_at, healed) = (RwLock::default(), AtomicU64::new(0));
        Self { condition, lacks, others, quiet_at, healed, up }
    }

    pub(in crate::broker) fn condition(&self) -> Arc<StoreCondition> {
        Arc::clone(&self.condition.read())
    }

    /// Nothing new is begun in a store that does not have all that we know.
    pub(in crate::broker) fn whole(&self) -> Result<(), StoreError> {
        let recovering =
            |why: String, retry_after| Err(StoreError::Recovering { why, retry_after });
        if self.lacks.read().is_some() {
            return recovering(GIVEN_BACK.to_owned(), SOON);
        }
        if let Some(left) = self.quiet_for() {
            return recovering(QUIET.to_owned(), left);
        }
        let others = self.others.read();
        if others.waits().is_empty() {
            return Ok(());
        }
        let left = others.left();
        drop(others);
        let told = self.condition().trouble.clone();
        recovering(told.unwrap_or_else(|| OTHERS.to_owned()), left)
    }

    /// An operator says that the store is as it is to be: no other replica is waited for.
    pub(in crate::broker) fn go_on(&self) -> Vec<String> {
        self.others.write().go_on()
    }

    /// Other replicas were seen lately.
    pub(super) fn has_others(&self) -> bool {
        self.others.read().any()
    }

    /// For how long nobody sends, if so.
    fn quiet_for(&self) -> Option<Duration> {
        let left = (*self.quiet_at.read())?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// For whom is waited, until when, and what ends it; `None`: for nobody.
    fn waits(&self, deployment: &str, now: SystemTime) -> Option<String> {
        let others = self.others.read();
        let (waits, left) = (others.waits(), others.left());
        if waits.is_empty() {
            return None;
        }
        // Told again and again, it is one moment.
        let end = unix_ms(now + left).next_multiple_of(END_STEP);
        Some(format!(
            "{OTHERS}: {}; they are waited for until {}, or until `token-broker confirm-store {deployment}`",
            waits.join(", "),
            format_rfc3339_seconds(from_unix_ms(end))
        ))
    }

    fn healed(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }
}

impl Rotations {
    /// Looks at the store, and gives it back what it has lost. One caller at a time.
    pub(in crate::broker) async fn look_at_store(&self) {
        let health = self.store.health().await;
        self.show_journal(health.journal.as_ref());
        let lacks = *self.watch.lacks.read();
        let (lacks, trouble) = match health.state {
            Err(failure) => (lacks, Some(chain(&failure))),
            Ok(continuity) => {
                let lacks = lacks.max(Lacks::after(continuity));
                if lacks > Some(Lacks::Moments) {
                    // It may take a while: everybody is to know before.
                    let trouble = Some(GIVEN_BACK.to_owned());
                    let (kind, deployment) = (health.kind, health.deployment.clone());
                    let journal = health.journal.clone();
                    self.note(StoreCondition { kind, deployment, trouble, journal });
                }
                let found = match continuity {
                    Continuity::Unbroken => Found::Whole,
                    Continuity::Anew => Found::Anew,
                    Continuity::Older | Continuity::Emptied => Found::Lacking,
                };
                let given_up = self.watch.others.write().look(&health.peers, found);
                self.dismiss(&given_up).await;
                let waits =
                    self.watch.waits(&health.deployment, self.clock.to_wall(self.clock.now()));
                if continuity > Continuity::Anew && self.watch.has_others() {
                    let quiet_at = Instant::now() + self.settings.suspect_after;
                    *self.watch.quiet_at.write() = Some(quiet_at);
                }
                let quiet = self.watch.quiet_for();
                match lacks {
                    Some(what) if !self.complete(what).await => {
                        (lacks, Some(GIVEN_BACK.to_owned()))
                    }
                    _ => match self.store.compared().await {
                        Ok(()) => (None, waits.or_else(|| quiet.map(|_| QUIET.to_owned()))),
                        Err(failure) => (lacks, Some(chain(&failure))),
                    },
                }
            }
        };
        *self.watch.lacks.write() = lacks;
        let (kind, deployment) = (health.kind, health.deployment);
        self.note(StoreCondition { kind, deployment, trouble, journal: health.journal });
    }

    /// What these replicas knew is given up, for everybody.
    pub(in crate::broker) async fn dismiss(&self, replicas: &[String]) {
        if replicas.is_empty() {
            return;
        }
        if let Err(failure) = self.store.dismiss(replicas).await {
            warn!(
                replicas = replicas.join(", "),
                error = chain(&failure),
                "the store still lists them: whoever starts later waits for them once more"
            );
        }
    }

    fn show_journal(&self, journal: Option<&JournalCondition>) {
        let Some(journal) = journal else { return };
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.journal_up.set(i64::from(journal.trouble.is_none()));
        self.metrics.journal_entries.set(number(journal.entries));
        self.metrics.journal_stuck.set(number(journal.stuck));
    }

    /// Whether the store has all that is known here, after what it lacks was written back.
    async fn complete(&self, lacks: Lacks) -> bool {
        if *self.watch.lacks.read() < Some(lacks) {
            lacks.tell();
            *self.watch.lacks.write() = Some(lacks);
        }
        let (before, mut known, mut unread) = (self.watch.healed(), 0_u64, 0_u64);
        let mut whole = true;
        for entry in self.known.all() {
            match self.compare(&entry, lacks == Lacks::All).await {
                Ok(_) => known += 1,
                Err(Error::GrantNotFound(_)) if entry.deleted() => known += 1,
                Err(Error::GrantNotFound(_)) => {
                    warn!(grant.id = %entry.id, "the store does not have it, and it is too old here \
                        to tell a loss from a deletion: it is left out");
                }
                Err(Error::Store(error)) if matches!(*error, StoreError::Unreadable { .. }) => {
                    unread += 1;
                    warn!(grant.id = %entry.id, error = %chain(&error), "not compared");
                }
                // The others would wait as long each.
                Err(failure) => {
                    debug!(grant.id = %entry.id, error = %chain(&failure), "not compared yet");
                    whole = false;
                    break;
                }
            }
        }
        let written_back = self.watch.healed() - before;
        if lacks == Lacks::Moments && written_back > 0 {
            Lacks::Newer.tell();
        }
        if lacks != Lacks::Moments || written_back > 0 {
            info!(
                known,
                written_back, unread, whole, "the store was compared with what is known here"
            );
        }
        whole
    }

    fn note(&self, condition: StoreCondition) {
        let before = self.watch.condition();
        self.watch.up.set(i64::from(condition.trouble.is_none()));
        match (&before.trouble, &condition.trouble) {
            (None, Some(why)) => error!(
                error = %why,
                "the token store takes nothing; tokens are served from memory while they are valid"
            ),
            (Some(old), Some(new)) if old != new => {
                warn!(error = %new, "the token store takes nothing still");
            }
            (Some(_), None) => info!("the token store takes what is written again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        *self.watch.condition.write() = Arc::new(condition);
    }
}
