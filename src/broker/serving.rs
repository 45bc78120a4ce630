//! Serving: what a caller gets, decided from memory, and how long it waits for a refresh.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::freshness::Stage;
use crate::broker::metrics::TokenRequest;
use crate::broker::model::{Generation, GrantId, Reason, Standing};
use crate::broker::refresh::flight::{Refreshed, Trigger};
use crate::broker::refresh::join::Joined;
use crate::broker::refresh::pacing::waiting;
use crate::broker::refresh::resend::in_doubt;
use crate::broker::view::View;
use crate::clock::between;

/// What a caller asks of a token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Want {
    /// It must live this long.
    pub min_ttl: Duration,
    /// It must be this new.
    pub min_generation: Option<Generation>,
}

/// The token that an API rejected.
#[derive(Debug, Clone)]
pub enum Rejected {
    /// Whichever is current.
    Current,
    /// The one of this generation.
    Generation(Generation),
    /// The one with this fingerprint.
    Fingerprint(String),
}

/// How a forced refresh was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The provider was asked.
    Rotated,
    /// There was a newer token already.
    AlreadyReplaced,
}

/// A valid token on its way to a caller. Its view always holds one.
#[derive(Debug, Clone)]
pub struct Served {
    /// The grant with the token.
    pub view: Arc<View>,
    /// Why refreshing fails at present, if it does.
    pub degraded: Option<Degraded>,
}

/// Why refreshing fails although the token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degraded {
    /// For programs.
    pub reason: Reason,
    /// When it is tried again; `None` if a person has to act.
    pub retry_at: Option<SystemTime>,
}

/// What to do for a caller.
#[derive(Debug)]
enum Decision {
    Serve,
    /// Serve, and refresh in the background.
    Renew,
    /// Refresh and wait; if that fails, serve the old token if it is good enough.
    Wait {
        fallback: bool,
    },
    /// The caller knows a newer generation than we do.
    CatchUp(Generation),
    Fail(Error),
}

/// Rounds of deciding and waiting: a refresh may be overtaken by an import once, not for ever.
const ROUNDS_MAX: u32 = 3;

impl Broker {
    /// Answers from memory, if the token there is good for long and meets `want`: without a lock that
    /// a refresh could hold, and without a wait. `None`: [`get_token`](Self::get_token) knows more.
    pub fn from_memory<R>(
        &self,
        id: &GrantId,
        want: Want,
        answer: impl FnOnce(&View, Option<Degraded>, SystemTime) -> R,
    ) -> Option<R> {
        self.rotations.known.look(id, |entry| {
            let view = entry.glance();
            let now = self.rotations.clock.now();
            if !matches!(self.decide(entry, &view, want, now), Decision::Serve) {
                return None;
            }
            let degraded = self.degraded(entry, &view, now);
            self.count_served(&view, degraded, false);
            self.note_use(entry, &view);
            entry.ask();
            Some(answer(&view, degraded, now))
        })
    }

    /// Returns a token that is valid now and meets `want`, and waits for one if it must.
    pub async fn get_token(
        &self,
        id: &GrantId,
        want: Want,
        deadline: Instant,
    ) -> Result<Served, Error> {
        let entry = match self.rotations.entry(id).await {
            Ok(entry) => entry,
            Err(error) => {
                self.count("", "error");
                return Err(error);
            }
        };
        let mut waited = false;
        for _ in 0..ROUNDS_MAX {
            let view = entry.view();
            if let Some(answer) = self.answer(&entry, view, want, deadline).await {
                match &answer {
                    Ok(Served { view, degraded }) => {
                        self.count_served(view, *degraded, waited);
                        self.note_use(&entry, view);
                    }
                    Err(_) => self.count(entry.provider().as_str(), "error"),
                }
                return answer;
            }
            waited = true;
        }
        self.count(entry.provider().as_str(), "error");
        Err(Error::RefreshInProgress(id.clone()))
    }

    /// What the caller gets on the strength of this view; `None`: it is to be decided anew.
    async fn answer(
        &self,
        entry: &Arc<Entry>,
        view: Arc<View>,
        want: Want,
        deadline: Instant,
    ) -> Option<Result<Served, Error>> {
        let now = self.rotations.clock.now();
        match self.decide(entry, &view, want, now) {
            Decision::Serve => {
                let degraded = self.degraded(entry, &view, now);
                Some(Ok(Served { view, degraded }))
            }
            Decision::Renew => {
                let joined =
                    self.rotations.join_or_start(entry, view.grant.generation(), Trigger::OnDemand);
                let degraded = joined.err().and_then(|error| failing(&error, now));
                Some(Ok(Served { view, degraded }))
            }
            Decision::Wait { fallback } => {
                let error = self.refresh(entry, &view, Trigger::OnDemand, deadline).await.err()?;
                let now = self.rotations.clock.now();
                if !fallback || view.grant.valid_token(now).is_none() {
                    return Some(Err(error));
                }
                let degraded = failing(&error, now).or_else(|| self.degraded(entry, &view, now));
                Some(Ok(Served { view, degraded }))
            }
            Decision::CatchUp(named) => self.catch_up(entry, named, deadline).await.err().map(Err),
            Decision::Fail(error) => Some(Err(error)),
        }
    }

    /// Replaces a rejected token: compare, then refresh at most once. `may`: asked only where that costs a
    /// refresh which nobody else has begun.
    pub async fn force_refresh(
        &self,
        id: &GrantId,
        rejected: Rejected,
        deadline: Instant,
        may: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(Served, Outcome), Error> {
        let entry = self.rotations.entry(id).await?;
        if entry.view().grant.descriptor.disabled {
            return Err(Error::GrantDisabled(id.clone()));
        }
        let Some(view) = self.still_current(&entry, &rejected, deadline).await? else {
            // Also when that token has expired meanwhile: it is replaced like any other.
            let served = self.get_token(id, Want::default(), deadline).await?;
            return Ok((served, Outcome::AlreadyReplaced));
        };
        let current = view.token().map(|(token, _)| token);
        let alone = self.rotations.flights.of(id).is_none();
        let cooling = self.cooldown(&view, self.rotations.clock.now());
        let cooling = cooling.filter(|_| alone && current.is_some());
        if alone && cooling.is_none() {
            may()?;
        }
        if let Some(token) = current {
            entry.report_rejected(token.generation);
        }
        if let Some(retry_after) = cooling {
            return Err(Error::ForceRefreshCooldown { grant: id.clone(), retry_after });
        }
        let (refreshed, outcome) = self.refresh(&entry, &view, Trigger::Forced, deadline).await?;
        self.note_use(&entry, &refreshed);
        let old = current.map(|token| Rejected::Generation(token.generation));
        let newer = old.is_none_or(|old| matches!(compare(&old, &refreshed), Compared::Replaced));
        let same = current.is_some() && refreshed.fingerprint == view.fingerprint;
        if same {
            return Err(self.same_token(&refreshed));
        }
        if !newer || refreshed.grant.valid_token(self.rotations.clock.now()).is_none() {
            return Err(Error::RefreshInProgress(id.clone()));
        }
        Ok((Served { view: refreshed, degraded: None }, outcome))
    }

    /// A refresh brought the access token that was rejected.
    fn same_token(&self, view: &View) -> Error {
        let failure = Failure::new(Reason::ProviderUnavailable, Disposition::NotProcessed);
        let detail =
            "it gives the same access token again, which an API rejected; it will until that ends";
        let failure = Failure { detail: Some(detail.to_owned()), ..failure };
        let left = view.window.map(|window| window.ttl(self.rotations.clock.now()));
        let error = self.rotations.upstream(&view.grant, failure);
        left.map_or_else(|| error.clone(), |left| waiting(error.clone(), left))
    }

    /// What is known of the grant if the rejected token is the newest one; `None` if there is a
    /// newer one. Who names a token that is not known here may know more than we do: the store is
    /// asked before anything is answered, and what it says is compared again.
    async fn still_current(
        &self,
        entry: &Arc<Entry>,
        rejected: &Rejected,
        deadline: Instant,
    ) -> Result<Option<Arc<View>>, Error> {
        let view = entry.view();
        match compare(rejected, &view) {
            Compared::Current => return Ok(Some(view)),
            Compared::Replaced => return Ok(None),
            Compared::Ahead(named) => drop(self.catch_up(entry, named, deadline).await?),
            // Without the store, what is known here is the best there is.
            Compared::Other => drop(self.rotations.reconcile(entry).await),
        }
        let view = entry.view();
        let current = matches!(compare(rejected, &view), Compared::Current);
        Ok(current.then_some(view))
    }

    fn decide(&self, entry: &Entry, view: &View, want: Want, now: SystemTime) -> Decision {
        if view.grant.standing == Standing::Deleted {
            return Decision::Fail(Error::GrantNotFound(view.grant.id.clone()));
        }
        if view.grant.descriptor.disabled {
            return Decision::Fail(Error::GrantDisabled(view.grant.id.clone()));
        }
        let Some((token, window)) = view.token() else {
            return Decision::Wait { fallback: false };
        };
        if want.min_generation.is_some_and(|named| named > token.generation) {
            let named = want.min_generation.unwrap_or(token.generation);
            return Decision::CatchUp(named);
        }
        // What an API rejected and the provider will not replace is of no use to anybody.
        if let Standing::Refused(verdict) = &view.grant.standing
            && (verdict.token_rejected || entry.token_rejected(&view.grant))
        {
            let (grant, verdict) = (view.grant.id.clone(), verdict.clone());
            return Decision::Fail(Error::GrantRefused { grant, verdict });
        }
        let stage = window.stage(now);
        if want.min_ttl > window.ttl(now) && stage < Stage::Expired {
            return self.longer(view, want, now);
        }
        let refused = refusal(view).is_some();
        match stage {
            Stage::Fresh => Decision::Serve,
            Stage::Soft | Stage::Hard if refused => Decision::Serve,
            Stage::Soft => Decision::Renew,
            Stage::Hard => Decision::Wait { fallback: true },
            Stage::Expired => Decision::Wait { fallback: false },
        }
    }

    /// A valid token does not live long enough for the caller.
    fn longer(&self, view: &View, want: Want, now: SystemTime) -> Decision {
        let grant = view.grant.id.clone();
        let Some((token, window)) = view.token() else {
            return Decision::Wait { fallback: false };
        };
        // What a token can promise: the tail in which callers wait for its successor is left out,
        // so that a request for the full lifetime does not rotate at each call.
        let promise = between(token.issued_at, window.hard_at);
        if want.min_ttl > promise {
            let min_ttl = want.min_ttl;
            return Decision::Fail(Error::MinTtlUnsatisfiable {
                grant,
                min_ttl,
                lifetime: promise,
            });
        }
        if let Some(retry_after) = self.cooldown(view, now) {
            return Decision::Fail(Error::ForceRefreshCooldown { grant, retry_after });
        }
        Decision::Wait { fallback: false }
    }

    /// How long it is until callers may have the grant refreshed again.
    fn cooldown(&self, view: &View, now: SystemTime) -> Option<Duration> {
        let age = between(view.grant.pair.published_at, now);
        self.rotations.settings.force_cooldown.checked_sub(age).filter(|left| !left.is_zero())
    }

    /// Refreshes the grant that `view` shows, or joins who does, and says which it was.
    pub(super) async fn refresh(
        &self,
        entry: &Arc<Entry>,
        view: &View,
        trigger: Trigger,
        deadline: Instant,
    ) -> Result<(Arc<View>, Outcome), Error> {
        loop {
            match self.rotations.join_or_start(entry, view.grant.generation(), trigger)? {
                Joined::Replaced(view) => return Ok((view, Outcome::AlreadyReplaced)),
                // Somebody takes the tokens back: if that fails, it is our turn.
                Joined::Running(flight) if flight.revokes() => {
                    match flight.wait(&entry.id, deadline).await {
                        Err(error @ (Error::GrantRefused { .. } | Error::RefreshInProgress(_))) => {
                            return Err(error);
                        }
                        _ => tokio::task::yield_now().await,
                    }
                }
                Joined::Running(flight) => {
                    return Ok((flight.wait(&entry.id, deadline).await?, Outcome::Rotated));
                }
                // How it ends is the business of those who joined it.
                Joined::OtherGeneration(flight) => match flight.wait(&entry.id, deadline).await {
                    Err(late @ Error::RefreshInProgress(_)) => return Err(late),
                    _ => tokio::task::yield_now().await,
                },
            }
        }
    }

    /// Looks for a generation that a caller knows and we do not.
    async fn catch_up(&self, entry: &Entry, named: Generation, deadline: Instant) -> Refreshed {
        let refreshed = match self.rotations.flights.of(&entry.id) {
            Some(flight) if !flight.revokes() => flight.wait(&entry.id, deadline).await?,
            _ => match self.rotations.load(&entry.id).await? {
                Some(stored) => entry.learn(stored),
                None => entry.view(),
            },
        };
        let current = refreshed.token().map_or(Generation(0), |(token, _)| token.generation);
        if current < named {
            let grant = entry.id.clone();
            return Err(Error::GenerationUnknown { grant, named, current });
        }
        Ok(refreshed)
    }

    /// Tells the store, once per generation, that the grant is in use and so to be kept fresh.
    fn note_use(&self, entry: &Arc<Entry>, view: &View) {
        let generation = view.grant.generation();
        if !entry.first_use(generation.0) || refusal(view).is_some() {
            return;
        }
        let Some(due_at) = self.rotations.due_at(&view.grant, true) else { return };
        let (rotations, entry) = (Arc::clone(&self.rotations), Arc::clone(entry));
        self.rotations.tasks.spawn(async move {
            if rotations.store.schedule(&entry.id, generation, due_at).await.is_err() {
                entry.forget_use();
            }
        });
    }

    /// Why the token cannot be refreshed at present, if that is so.
    fn degraded(&self, entry: &Entry, view: &View, now: SystemTime) -> Option<Degraded> {
        if let Some(reason) = refusal(view) {
            return Some(Degraded { reason, retry_at: None });
        }
        if view.grant.intent.is_some()
            && let Some(doubt) = self.rotations.open_doubt(entry, &view.grant)
        {
            let next = self.rotations.next_try(entry, view, &doubt);
            return failing(&in_doubt(&view.grant, &doubt, next), now);
        }
        let trouble = entry.trouble()?;
        let left = trouble.until.saturating_duration_since(Instant::now());
        let degraded = failing(&trouble.error, now)?;
        Some(Degraded { retry_at: Some(now + left), ..degraded })
    }

    fn count_served(&self, view: &View, degraded: Option<Degraded>, waited: bool) {
        let provider = view.grant.descriptor.provider.as_str();
        match (degraded, waited) {
            (Some(_), _) => self.count(provider, "degraded"),
            (None, true) => self.count(provider, "refreshed"),
            (None, false) => {
                view.hits.get_or_init(|| self.requests(provider, "hit")).inc();
            }
        }
    }

    fn count(&self, provider: &str, result: &'static str) {
        self.requests(provider, result).inc();
    }

    fn requests(&self, provider: &str, result: &'static str) -> Counter {
        let labels = TokenRequest { provider: provider.to_owned(), result };
        self.rotations.metrics.token_requests.get_or_create(&labels).clone()
    }
}

/// How the token that a caller saw rejected compares with the newest one that is known here.
enum Compared {
    /// It is that one.
    Current,
    /// It is older.
    Replaced,
    /// It is newer.
    Ahead(Generation),
    /// It is another one, and whether older or newer cannot be seen.
    Other,
}

fn compare(rejected: &Rejected, view: &View) -> Compared {
    let Some((token, _)) = view.token() else { return Compared::Current };
    match rejected {
        Rejected::Current => Compared::Current,
        Rejected::Generation(named) => match named.cmp(&token.generation) {
            Ordering::Less => Compared::Replaced,
            Ordering::Equal => Compared::Current,
            Ordering::Greater => Compared::Ahead(*named),
        },
        Rejected::Fingerprint(named) if *named == view.fingerprint => Compared::Current,
        Rejected::Fingerprint(_) => Compared::Other,
    }
}

/// What a failed refresh means for those who are served all the same.
fn failing(error: &Error, now: SystemTime) -> Option<Degraded> {
    let reason = error.degraded_reason()?;
    Some(Degraded { reason, retry_at: error.retry_after().map(|wait| now + wait) })
}

/// Why the grant gives no further tokens, if that is so.
fn refusal(view: &View) -> Option<Reason> {
    match &view.grant.standing {
        Standing::Refused(verdict) => Some(verdict.reason),
        Standing::Usable | Standing::Deleted => None,
    }
}
