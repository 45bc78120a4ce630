//! Troubles: what this process knows of each client's trouble, agreed on with the other processes through
//! the store. The only reader and writer of that seam; what follows from it is in `rules::evidence`, and who
//! may send under it in `permit`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::broker::endpoint::Failure;
use crate::broker::error::chain;
use crate::broker::model::{
    Cause, ClientFingerprint, Evidence, Grant, GrantId, GrantKind, Hold, Millis, ProviderId,
};
use crate::broker::refresh::Rotations;
use crate::broker::rules::evidence::Gaps;
use crate::broker::settings::Settings;
use crate::clock::between;

/// Successes are told to other processes at most so often while nothing is wrong.
const TOLD_AGAIN: Duration = Duration::from_secs(1);
/// Tries of a change that other processes keep overtaking.
const CONFLICTS_MAX: u32 = 8;
/// Requests under way from which on nothing more is held back after a hold.
const RAMP_MAX: u32 = 32;

/// Our client at one provider, for one kind of grant: what is refused to people's grants may be allowed to
/// its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::broker) struct Client {
    pub(in crate::broker) provider: ProviderId,
    pub(in crate::broker) kind: GrantKind,
}

/// As it is called in the store.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.kind.name())
    }
}

impl Client {
    pub(in crate::broker) fn of(grant: &Grant) -> Self {
        Self { provider: grant.descriptor.provider.clone(), kind: grant.descriptor.kind }
    }

    pub(in crate::broker) fn all_of(provider: &ProviderId) -> [Self; 2] {
        [GrantKind::RefreshToken, GrantKind::ClientCredentials]
            .map(|kind| Self { provider: provider.clone(), kind })
    }

    /// The one that is called so in the store.
    fn named(name: &str) -> Option<Self> {
        let (provider, kind) = name.rsplit_once('/')?;
        let provider = ProviderId::new(provider);
        Self::all_of(&provider).into_iter().find(|client| client.kind.name() == kind)
    }
}

/// What is known of all clients.
#[derive(Debug)]
pub(in crate::broker) struct Troubles {
    start: Instant,
    each: Mutex<HashMap<Client, Local>>,
    /// Who wants the next probe, the best first.
    pub(super) waiting: Mutex<HashMap<Client, BTreeSet<Candidate>>>,
    /// When the next refresh token in doubt may be presented, by provider.
    resends: Mutex<HashMap<ProviderId, Instant>>,
    /// Something has ended, or may go out.
    changed: Notify,
}

/// What is known of one.
#[derive(Debug, Default)]
struct Local {
    evidence: Evidence,
    ramp: Option<Ramp>,
    /// The shortest time between a token's being due and callers' waiting that was seen.
    shortest_lead: Option<Duration>,
    told_at: Option<Instant>,
    /// What a grant that was well before met last, if nothing has succeeded since.
    last: Option<(Cause, Millis)>,
    /// What the client was when a request last succeeded, as the store has it.
    proven: Option<ClientFingerprint>,
    /// The client changed then, while this process ran.
    changed: Option<Millis>,
}

/// A hold has ended, and requests come back.
#[derive(Debug)]
struct Ramp {
    /// At once.
    allowed: u32,
    running: u32,
    /// Successes since that was doubled.
    succeeded: u32,
}

/// Who wants to be the probe: who failed least goes first, then who succeeded last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) failures: u32,
    succeeded: Reverse<SystemTime>,
    grant: GrantId,
}

impl Candidate {
    pub(super) fn of(grant: &Grant) -> Self {
        let succeeded = Reverse(grant.pair.published_at);
        Self { failures: grant.failures(), succeeded, grant: grant.id.clone() }
    }
}

impl Default for Troubles {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            each: Mutex::default(),
            waiting: Mutex::default(),
            resends: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Troubles {
    /// The time on the clock that evidence is told by.
    pub(super) fn now(&self) -> Millis {
        self.millis(Instant::now())
    }

    pub(super) fn millis(&self, at: Instant) -> Millis {
        let since = |from: Instant, to: Instant| {
            Millis::try_from(to.saturating_duration_since(from).as_millis()).unwrap_or(Millis::MAX)
        };
        if at >= self.start { since(self.start, at) } else { -since(at, self.start) }
    }

    /// What is known here.
    pub(super) fn known(&self, client: &Client) -> Evidence {
        self.each.lock().get(client).map(|local| local.evidence.clone()).unwrap_or_default()
    }

    /// What is agreed on takes the place of what was known.
    fn adopt(&self, client: &Client, evidence: Evidence) {
        let mut each = self.each.lock();
        let local = each.entry(client.clone()).or_default();
        if local.evidence.hold.is_some() && evidence.hold.is_none() {
            local.ramp = Some(Ramp { allowed: 1, running: 0, succeeded: 0 });
        } else if evidence.hold.is_some() {
            local.ramp = None;
        }
        local.evidence = evidence;
        drop(each);
        self.changed.notify_waiters();
    }

    /// A request has succeeded: twice as many may go out, once as many have.
    fn climb(&self, client: &Client) {
        let mut each = self.each.lock();
        let Some(local) = each.get_mut(client) else { return };
        local.ramp.take_if(|ramp| {
            ramp.succeeded += 1;
            if ramp.succeeded >= ramp.allowed {
                (ramp.allowed, ramp.succeeded) = (ramp.allowed * 2, 0);
            }
            ramp.allowed > RAMP_MAX
        });
        drop(each);
        self.changed.notify_waiters();
    }

    /// A token shows how much time there is between its being due and callers' waiting.
    fn saw_lead(&self, client: &Client, lead: Duration) {
        let mut each = self.each.lock();
        let local = each.entry(client.clone()).or_default();
        local.shortest_lead = Some(local.shortest_lead.map_or(lead, |known| known.min(lead)));
    }

    pub(super) fn gaps(&self, client: &Client, settings: &Settings) -> Gaps {
        let shortest_lead = self.each.lock().get(client).and_then(|local| local.shortest_lead);
        Gaps { refused: settings.client_probe, silent: settings.canary_backoff, shortest_lead }
    }

    /// A place on the ramp, if there is one; `Ok(None)`: there is no ramp.
    pub(super) fn place(&self, client: &Client) -> Result<Option<()>, ()> {
        let mut each = self.each.lock();
        let Some(ramp) = each.get_mut(client).and_then(|local| local.ramp.as_mut()) else {
            return Ok(None);
        };
        if ramp.running >= ramp.allowed {
            return Err(());
        }
        ramp.running += 1;
        Ok(Some(()))
    }

    /// Gives a place on the ramp back.
    pub(super) fn leave(&self, client: &Client) {
        if let Some(ramp) = self.each.lock().get_mut(client).and_then(|local| local.ramp.as_mut()) {
            ramp.running = ramp.running.saturating_sub(1);
        }
        self.changed.notify_waiters();
    }

    /// The hold of this client, if there is one.
    pub(in crate::broker) fn hold(&self, client: &Client) -> Option<Hold> {
        self.each.lock().get(client)?.evidence.hold.clone()
    }

    /// What a grant that was well before met last, and when, if nothing has succeeded since.
    pub(in crate::broker) fn last(&self, client: &Client) -> Option<(Cause, Millis)> {
        self.each.lock().get(client)?.last.clone()
    }

    /// A grant that was well before met this.
    pub(super) fn met(&self, client: &Client, cause: Cause, sent: Millis) {
        self.each.lock().entry(client.clone()).or_default().last = Some((cause, sent));
    }

    /// Something that was sent then has succeeded, here or elsewhere.
    fn lived(&self, client: &Client, sent: Option<Millis>) {
        if let Some(local) = self.each.lock().get_mut(client) {
            local.last.take_if(|(_, met)| sent.is_some_and(|sent| sent > *met));
        }
    }

    /// What the client was when a request last succeeded, as far as is known here.
    pub(super) fn proven(&self, client: &Client) -> Option<ClientFingerprint> {
        self.each.lock().get(client)?.proven
    }

    /// The store has that.
    pub(super) fn prove(&self, client: &Client, is: Option<ClientFingerprint>) {
        self.each.lock().entry(client.clone()).or_default().proven = is;
    }

    /// What was sent before now proves nothing of what the client is from now on.
    pub(super) fn change_client(&self, client: &Client) {
        let now = self.now();
        self.each.lock().entry(client.clone()).or_default().changed = Some(now);
    }

    /// It changed while this process ran, and nothing has succeeded since.
    pub(super) fn changed_since_success(&self, client: &Client) -> bool {
        let each = self.each.lock();
        let Some(local) = each.get(client) else { return false };
        local.changed.is_some_and(|at| local.evidence.succeeded.is_none_or(|sent| sent < at))
    }

    /// How long ago that moment was.
    pub(in crate::broker) fn since(&self, at: Millis) -> Duration {
        Duration::from_millis(u64::try_from(self.now() - at).unwrap_or(0))
    }

    /// How long it is until that moment.
    pub(in crate::broker) fn until(&self, at: Millis) -> Duration {
        Duration::from_millis(u64::try_from(at - self.now()).unwrap_or(0))
    }

    /// A trouble ended after that moment, and there is none.
    pub(super) fn recovered_since(&self, client: &Client, moment: Instant) -> bool {
        let each = self.each.lock();
        let Some(Local { evidence, .. }) = each.get(client) else { return false };
        let moment = self.millis(moment);
        evidence.hold.is_none() && evidence.ended.is_some_and(|ended| ended >= moment)
    }

    /// The same, so long ago at most.
    pub(super) fn recovered_within(&self, client: &Client, time: Duration) -> bool {
        let moment = Instant::now().checked_sub(time);
        moment.is_some_and(|moment| self.recovered_since(client, moment))
    }

    /// When the next refresh token in doubt may be presented, at most `rate` in a second.
    pub(super) fn resend_slot(&self, provider: &ProviderId, rate: u32) -> Instant {
        let mut resends = self.resends.lock();
        let now = Instant::now();
        let slot = resends.get(provider).map_or(now, |next| now.max(*next));
        resends.insert(provider.clone(), slot + Duration::from_secs(1) / rate.max(1));
        slot
    }

    /// Waits for a change, or so long.
    pub(super) async fn change(&self, most: Duration) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = sleep(most) => {}
        }
    }
}

impl Rotations {
    /// Changes what is known of a client, on top of what all others know. Without the store, this process
    /// goes by what it knows itself.
    pub(in crate::broker) async fn agree<R>(
        &self,
        client: &Client,
        step: impl Fn(&mut Evidence, Millis) -> R,
    ) -> R {
        let name = client.to_string();
        for _ in 0..CONFLICTS_MAX {
            let now = self.troubles.now();
            let (before, version) = match self.store.trouble(&name, now).await {
                Ok(known) => known,
                Err(failure) => {
                    debug!(%client, error = chain(&failure), "its trouble is judged without the others");
                    break;
                }
            };
            let mut evidence = before.clone();
            let done = step(&mut evidence, now);
            let kept = before == evidence
                || matches!(self.store.put_trouble(&name, version, &evidence, now).await, Ok(true));
            if kept {
                self.troubles.adopt(client, evidence);
                return done;
            }
        }
        let mut evidence = self.troubles.known(client);
        let done = step(&mut evidence, self.troubles.now());
        self.troubles.adopt(client, evidence);
        done
    }

    /// A request of the grant, sent at that moment, has succeeded; gives the hold that ends here with it.
    pub(super) fn note_success(
        self: &Arc<Self>,
        client: &Client,
        lead: Option<Duration>,
        sent: Instant,
    ) -> Option<Hold> {
        let (troubles, sent) = (&self.troubles, self.troubles.millis(sent));
        if let Some(lead) = lead {
            troubles.saw_lead(client, lead);
        }
        let mut evidence = troubles.known(client);
        let quiet = evidence.is_quiet();
        let ended = evidence.succeeded(sent, troubles.now());
        troubles.adopt(client, evidence);
        troubles.climb(client);
        let (tell, proves) = {
            let mut each = troubles.each.lock();
            let local = each.entry(client.clone()).or_default();
            local.last.take_if(|(_, met)| sent > *met);
            let tell = !quiet || local.told_at.is_none_or(|at| at.elapsed() >= TOLD_AGAIN);
            if tell {
                local.told_at = Some(Instant::now());
            }
            (tell, local.changed.is_none_or(|at| sent >= at))
        };
        if tell {
            let proof = self.endpoint.client(&client.provider);
            let proof = proof.filter(|_| proves && troubles.proven(client) != proof);
            let (rotations, client) = (Arc::clone(self), client.clone());
            self.tasks.spawn(async move {
                rotations.agree(&client, |evidence, now| drop(evidence.succeeded(sent, now))).await;
                if let Some(proof) = proof {
                    rotations.keep_proof(&client, proof).await;
                }
            });
        }
        ended
    }

    /// What a provider says of itself is missing: nothing was asked for a grant yet.
    pub(in crate::broker) fn meets(&self, provider: &ProviderId, failure: &Failure) {
        let (provider, kind) = (provider.clone(), GrantKind::RefreshToken);
        self.troubles.met(&Client { provider, kind }, failure.cause(), self.troubles.now());
    }

    /// Another process has changed what is known of a client's trouble.
    pub(super) async fn hear_trouble(self: &Arc<Self>, name: &str) {
        let Some(client) = Client::named(name) else { return };
        let Ok((evidence, _)) = self.store.trouble(name, self.troubles.now()).await else { return };
        let before = self.troubles.hold(&client);
        self.troubles.lived(&client, evidence.succeeded);
        self.troubles.adopt(&client, evidence);
        if before.is_some() && self.troubles.hold(&client).is_none() {
            self.wake(client.provider);
        }
    }

    /// Looks at the troubles that are known, and at those of all providers where events were missed.
    pub(super) async fn look_at_troubles(self: &Arc<Self>, all: bool) {
        for provider in self.habits.keys() {
            for client in Client::all_of(provider) {
                if all || self.troubles.hold(&client).is_some() {
                    self.hear_trouble(&client.to_string()).await;
                }
            }
        }
    }

    /// The moment of a wall clock's time on the clock that evidence is told by.
    pub(super) fn told_as(&self, time: SystemTime) -> Millis {
        let ago = between(time, self.clock.now()).as_millis();
        self.troubles.now() - Millis::try_from(ago).unwrap_or(Millis::MAX / 2)
    }
}
