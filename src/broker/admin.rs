//! What operators do to grants.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::model::{
    Descriptor, Doubt, DoubtKind, Generation, Grant, GrantId, GrantKind, Intent, Pair, ProviderId,
    Standing,
};
use crate::broker::refresh::continuity::StoreCondition;
use crate::broker::refresh::flight::Trigger;
use crate::broker::refresh::resend::in_doubt;
use crate::broker::store::{Seed, StoreError, Stored};
use crate::broker::view::Trouble;
use crate::broker::view::View;
use crate::broker::{Broker, endpoint};
use crate::clock::{between, from_unix_ms};
use crate::secret::RefreshToken;

/// Tries of a change that others keep overtaking.
pub(super) const CONFLICTS_MAX: u32 = 5;

/// Where a grant stands, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Tokens flow.
    Active,
    /// The last refresh failed in a way that passes.
    Degraded,
    /// A refresh was sent and its effect is not known.
    OutcomeUnknown,
    /// The provider refused the refresh token.
    ReauthRequired,
    /// An operator took it back at the provider.
    Revoked,
    /// An operator switched it off.
    Disabled,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Active,
        Self::Degraded,
        Self::OutcomeUnknown,
        Self::ReauthRequired,
        Self::Revoked,
        Self::Disabled,
    ];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::ReauthRequired => "reauth_required",
            Self::Revoked => "revoked",
            Self::Disabled => "disabled",
        }
    }
}

/// A grant without its secrets, and how this process sees it.
#[derive(Debug, Clone)]
pub struct Overview {
    /// The grant.
    pub view: Arc<View>,
    /// Where it stands.
    pub state: State,
    /// The failure that has not been overcome.
    pub trouble: Option<Arc<Trouble>>,
    /// The refresh token got no definite answer; and when it is presented again, unless that waits
    /// for an operator.
    pub doubt: Option<(Doubt, Option<SystemTime>)>,
    /// The replica that holds the claim and gives no sign.
    pub holder: Option<String>,
    /// When the next refresh is due, if one is.
    pub due_at: Option<SystemTime>,
}

/// A grant to be.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// Its name.
    pub id: GrantId,
    /// Its provider.
    pub provider: ProviderId,
    /// What buys access tokens; `None` makes a client credentials grant.
    pub refresh_token: Option<RefreshToken>,
    /// The scopes that it stands for.
    pub scopes: Vec<String>,
    /// Names and values attached by operators.
    pub labels: BTreeMap<String, String>,
    /// Refreshed before expiry even if nobody asks.
    pub keep_warm: bool,
    /// May take the place of a usable grant.
    pub replace: bool,
}

impl Broker {
    /// Stores a grant as a new chain.
    ///
    /// Takes the place of a deleted or refused grant of that name; of any other only if told.
    pub async fn create_grant(self: &Arc<Self>, new: NewGrant) -> Result<Overview, Error> {
        self.provider(&new.provider)?;
        let broker = Arc::clone(self);
        self.to_the_end(async move { broker.start_chain(new).await }).await
    }

    /// Begins the chain. What the store does not confirm is looked at again for as long as callers wait:
    /// whether it began, the record itself says.
    async fn start_chain(&self, new: NewGrant) -> Result<Overview, Error> {
        let seed = self.seed(&new);
        let until = Instant::now() + self.rotations.settings.caller_wait_max;
        let (mut conflicts, mut failures) = (0, 0);
        loop {
            match self.try_to_start(&new, &seed, failures > 0).await {
                Ok(Some(grant)) => {
                    info!(grant.id = %new.id, provider = %new.provider, generation = %grant.generation(),
                        "a new chain begins");
                    let entry = self.rotations.known.enter(grant.clone());
                    entry.adopt(grant);
                    entry.forget_trouble();
                    return Ok(self.overview(&entry));
                }
                Ok(None) if conflicts < CONFLICTS_MAX => conflicts += 1,
                Ok(None) => return Err(Error::EtagMismatch(new.id)),
                Err(failure) => {
                    let wait = self.rotations.settings.publish_backoff.after(failures);
                    let passes = matches!(
                        failure,
                        StartError::Store(
                            StoreError::Unavailable(_) | StoreError::Recovering { .. }
                        )
                    );
                    if !passes || Instant::now() + wait >= until {
                        return Err(failure.into_error(new.id));
                    }
                    failures += 1;
                    sleep(wait).await;
                }
            }
        }
    }

    /// One try, or another one `again`; `None`: somebody else was quicker.
    async fn try_to_start(
        &self,
        new: &NewGrant,
        seed: &Seed,
        again: bool,
    ) -> Result<Option<Grant>, StartError> {
        let mut damaged = false;
        let expected = match self.rotations.load(&new.id).await {
            // The try before this one did it, and its answer was lost.
            Ok(Some(Stored::Grant(grant))) if again && grant.descriptor == seed.descriptor => {
                return Ok(Some(grant));
            }
            Ok(Some(Stored::Grant(grant)))
                if grant.standing == Standing::Usable
                    && self.rotations.spent_by_time(&grant).is_none()
                    && !grant.keeps_its_pace()
                    && !new.replace =>
            {
                return Err(StartError::Exists);
            }
            Ok(stored) => stored.map(|stored| stored.position()),
            Err(StoreError::Unreadable { position, .. }) if new.replace => {
                damaged = position.is_none();
                position
            }
            Err(error) => return Err(error.into()),
        };
        self.rotations.watch.whole()?;
        let store = &self.rotations.store;
        if expected.is_none() {
            store.spare().await?;
        }
        Ok(if damaged {
            store.start_over(&new.id, seed.clone()).await?
        } else {
            store.start_chain(&new.id, expected, seed.clone()).await?
        })
    }

    /// Runs a change as a task of its own: a caller who hangs up must not leave the store changed
    /// and the memory not.
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        // A task that panicked has written the cause to the log.
        self.rotations.tasks.spawn(change).await.unwrap_or(Err(Error::Internal))
    }

    /// What the chain begins with; its moment, in the milliseconds that stores keep, tells it from all
    /// others.
    fn seed(&self, new: &NewGrant) -> Seed {
        let now = from_unix_ms(self.rotations.clock.now_ms());
        let kind = match new.refresh_token {
            Some(_) => GrantKind::RefreshToken,
            None => GrantKind::ClientCredentials,
        };
        Seed {
            descriptor: Descriptor {
                provider: new.provider.clone(),
                kind,
                scopes: new.scopes.clone(),
                labels: new.labels.clone(),
                keep_warm: new.keep_warm,
                disabled: false,
                create_time: now,
                account: None,
            },
            pair: Pair {
                refresh_token: new.refresh_token.clone(),
                refresh_token_expires_at: None,
                token: None,
                published_at: now,
            },
            due_at: if new.keep_warm {
                Some(now)
            } else {
                let every = self.rotations.habits(&new.provider).keep_warm_every;
                every.filter(|_| kind.spends()).map(|every| now + every)
            },
        }
    }

    /// Shows a grant as the store has it now.
    pub async fn show_grant(&self, id: &GrantId) -> Result<Overview, Error> {
        let entry = self.rotations.known.enter(self.stored(id).await?);
        Ok(self.overview(&entry))
    }

    /// Lists up to `limit` grants after the cursor, and the cursor of the next page.
    pub async fn list_grants(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Overview>, Option<String>), Error> {
        let page = self.rotations.store.list(after, limit).await?;
        let grants = page.grants.into_iter().map(|grant| self.rotations.interpret(grant));
        let overviews = grants.map(|grant| match self.rotations.known.get(&grant.id) {
            Some(entry) => {
                entry.adopt(grant);
                self.overview(&entry)
            }
            None => self.overview(&Entry::new(grant)),
        });
        Ok((overviews.collect(), page.next))
    }

    /// Refreshes a grant that is expected to be at `generation`, whatever its pacing.
    pub async fn rotate_grant(
        self: &Arc<Self>,
        id: &GrantId,
        generation: Generation,
        deadline: Instant,
    ) -> Result<Overview, Error> {
        let entry = self.rotations.entry(id).await?;
        let view = entry.view();
        if view.grant.generation() != generation {
            return Err(Error::EtagMismatch(id.clone()));
        }
        self.refresh(&entry, &view, Trigger::Admin, deadline).await?;
        Ok(self.overview(&entry))
    }

    /// Refreshes a grant that was just stored, to see that it works.
    pub async fn verify_grant(
        self: &Arc<Self>,
        overview: Overview,
        deadline: Instant,
    ) -> Result<Overview, Error> {
        let grant = &overview.view.grant;
        self.rotate_grant(&grant.id, grant.generation(), deadline).await
    }

    /// Deletes a grant, if it still has the etag.
    pub async fn delete_grant(
        self: &Arc<Self>,
        id: &GrantId,
        etag: Option<String>,
    ) -> Result<(), Error> {
        let (broker, id) = (Arc::clone(self), id.clone());
        self.to_the_end(async move { broker.try_delete(&id, etag.as_deref()).await }).await
    }

    async fn try_delete(&self, id: &GrantId, etag: Option<&str>) -> Result<(), Error> {
        for _ in 0..CONFLICTS_MAX {
            let position = match self.stored(id).await {
                Ok(grant) if etag.is_some_and(|etag| etag != grant.etag()) => {
                    return Err(Error::EtagMismatch(id.clone()));
                }
                Ok(grant) => Some(grant.position),
                Err(Error::Store(error)) => match *error {
                    StoreError::Unreadable { position, .. } if etag.is_none() => position,
                    _ => return Err(Error::Store(error)),
                },
                Err(error) => return Err(error),
            };
            let deleted = match position {
                Some(position) => self.rotations.store.delete(id, position).await?,
                None => self.rotations.store.discard(id).await?,
            };
            if deleted {
                info!(grant.id = %id, "deleted");
                // Adopts the tombstone, so that nothing is served from memory any more.
                return match self.stored(id).await {
                    Err(Error::GrantNotFound(_)) => Ok(()),
                    other => other.map(drop),
                };
            }
        }
        Err(Error::EtagMismatch(id.clone()))
    }

    /// A configured provider.
    pub(super) fn provider(&self, id: &ProviderId) -> Result<endpoint::ProviderSummary, Error> {
        let mut all = self.providers().into_iter();
        all.find(|provider| provider.id == *id)
            .ok_or_else(|| Error::ProviderNotConfigured(id.clone()))
    }

    /// The configured providers.
    pub fn providers(&self) -> Vec<endpoint::ProviderSummary> {
        self.rotations.endpoint.providers()
    }

    /// Reads a grant from the store; what is learned, also a deletion, is remembered.
    pub(super) async fn stored(&self, id: &GrantId) -> Result<Grant, Error> {
        let missing = || Error::GrantNotFound(id.clone());
        let known = self.rotations.known.get(id);
        let grant = if let Some(entry) = known {
            self.rotations.reconcile(&entry).await?.grant.clone()
        } else {
            let stored = self.rotations.load(id).await?.and_then(Stored::grant);
            let grant = stored.ok_or_else(missing)?;
            self.rotations.known.enter(grant).view().grant.clone()
        };
        if grant.standing == Standing::Deleted { Err(missing()) } else { Ok(grant) }
    }

    pub(super) fn overview(&self, entry: &Entry) -> Overview {
        let view = entry.view();
        let grant = &view.grant;
        let trouble = entry.trouble();
        let met = |error| Arc::new(Trouble::now(error));
        let doubt = self.rotations.open_doubt(entry, grant);
        // Nothing is presented of a grant that is refused or switched off.
        let goes_on = grant.standing == Standing::Usable && !grant.descriptor.disabled;
        let doubt = doubt.filter(|_| goes_on);
        let held = grant.intent.as_ref().filter(|_| self.rotations.spends(grant));
        let silent = held.is_some_and(|held| self.silent(held));
        let answer = grant.answer.as_ref();
        let alone = answer.is_some_and(|answer| answer.alone);
        let answered = answer.map(|answer| Arc::new(self.rotations.answered(grant, answer)));
        let spent_by_time = self.rotations.spent_by_time(grant).map(Standing::Refused);
        let (state, trouble) = match (spent_by_time.as_ref().unwrap_or(&grant.standing), &doubt) {
            (Standing::Refused(verdict), _) => {
                let (grant, verdict) = (grant.id.clone(), verdict.clone());
                let revoked = verdict.is_revocation();
                let state = if revoked { State::Revoked } else { State::ReauthRequired };
                (state, Some(met(Error::GrantRefused { grant, verdict })))
            }
            (_, Some(doubt)) => {
                let next = self.rotations.next_try(entry, &view, doubt);
                let failures = doubt.attempts;
                let error = in_doubt(grant, doubt, next);
                (State::OutcomeUnknown, Some(Arc::new(Trouble { failures, ..Trouble::now(error) })))
            }
            (_, None) if silent => {
                (State::OutcomeUnknown, Some(met(self.rotations.outcome_unknown(grant))))
            }
            (_, None) if alone => (State::ReauthRequired, answered),
            (_, None) if answered.is_some() => (State::Degraded, answered),
            (_, None) if trouble.is_some() => (State::Degraded, trouble),
            (_, None) => (State::Active, None),
        };
        let quiet = held.filter(|_| silent && goes_on);
        let holder = quiet.and_then(|held| held.owner.replica().map(str::to_owned));
        let doubt = match (doubt, quiet) {
            (Some(doubt), _) => {
                let next = self.rotations.next_try(entry, &view, &doubt);
                Some((doubt, self.rotations.look_at(next)))
            }
            (None, Some(held)) => {
                Some((quiet_since(held), self.rotations.given_up_at(held, grant)))
            }
            (None, None) => None,
        };
        let off = grant.descriptor.disabled && state != State::Revoked;
        let state = if off { State::Disabled } else { state };
        let wanted = grant.descriptor.keep_warm || entry.in_use(grant.generation());
        let goes_on = matches!(state, State::Active | State::Degraded);
        let due_at = self.rotations.due_at(&view.grant, wanted).filter(|_| goes_on);
        Overview { view, state, trouble, doubt, holder, due_at }
    }

    /// The holder of this claim, another process that may be alive, gives no sign for too long.
    pub(super) fn silent(&self, held: &Intent) -> bool {
        let age = between(held.since, self.rotations.clock.now());
        !self.rotations.ours(&held.owner) && age >= self.rotations.settings.suspect_after
    }

    /// The store as it was when it was looked at last.
    pub fn store(&self) -> Arc<StoreCondition> {
        self.rotations.watch.condition()
    }
}

/// Why a chain did not begin.
enum StartError {
    /// There is a usable grant of that name.
    Exists,
    Store(StoreError),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl StartError {
    fn into_error(self, id: GrantId) -> Error {
        match self {
            Self::Exists => Error::GrantAlreadyExists(id),
            Self::Store(error) => error.into(),
        }
    }
}

/// What is known of a refresh whose holder, elsewhere, gives no sign: that it may have been sent.
fn quiet_since(held: &Intent) -> Doubt {
    Doubt {
        kind: DoubtKind::Silent,
        status: None,
        since: held.since,
        sent_at: held.since,
        attempts: 1,
        fence: held.fence,
    }
}
