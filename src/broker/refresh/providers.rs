//! Whose trouble is it? What the answers of a provider say about the provider itself, beyond the
//! grant at hand.
//!
//! When several grants of one client fail alike and none succeeds in between, the provider is in
//! trouble and not they. From then on one request at a time goes out, a *canary*, and the first
//! success ends the trouble for everybody. Grants that failed are slowed by their own pacing, so
//! canaries are mostly grants that did not: a few dead grants never stop a healthy provider.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dashmap::DashMap;
use tokio::time::Instant;

use crate::broker::endpoint::{Concern, Disposition, Failure};
use crate::broker::model::{GrantId, ProviderId, Reason};
use crate::broker::settings::Settings;

/// Grants that fail alike before it counts as the provider's trouble.
const SEVERAL: usize = 2;
/// Final refusals within the window that count as the provider's trouble, where a client has few
/// grants.
const REFUSALS_MIN: usize = 5;
/// The same in percent of the client's grants.
const REFUSALS_PERCENT: usize = 5;
/// A grant that was refused in a trouble and this often again between troubles is dead.
const AGAIN_MAX: u32 = 2;
/// After this long without any success, refusals are believed: everybody did revoke.
const DISBELIEF_MAX: Duration = Duration::from_secs(24 * 3600);

/// A provider that is not asked for a while, because it refused our client or limits our rate.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Why.
    pub failure: Failure,
    /// When it began.
    pub since: Instant,
    /// Until when.
    pub until: Instant,
    /// Failures in a row.
    failures: u32,
    /// The time was over and one request went out to see.
    probing: bool,
}

/// In which way several grants failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Requests left and no usable answer came.
    Silent,
    /// It refuses in a way that is not understood.
    Puzzling,
    /// It refuses grants for good, too many at once.
    Refusing,
}

/// A trouble that is the provider's own.
#[derive(Debug, Clone)]
pub struct Incident {
    /// In which way.
    pub kind: Kind,
    /// When it was noticed.
    pub since: Instant,
    /// What the grants met.
    pub failure: Failure,
    /// Grants that met it.
    pub grants: usize,
    canaries: u32,
    next_canary: Instant,
}

/// What a final refusal counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The grant is dead.
    Final,
    /// The provider refuses too many: nobody is dead yet.
    Doubted,
    /// The same, noticed just now: those refused shortly before are not dead either.
    DoubtedFromNow,
}

/// A grant that was refused while the provider was in trouble.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    since: Instant,
    /// How often it was refused again after the provider was well.
    again: u32,
}

/// What is known of one provider.
#[derive(Debug, Default)]
struct State {
    hold: Option<Hold>,
    incident: Option<Incident>,
    /// Grants without an answer since the last success.
    silent: BTreeSet<GrantId>,
    /// Grants with a refusal that is not understood since the last success.
    puzzling: BTreeSet<GrantId>,
    /// Final refusals within the window.
    refused: BTreeMap<GrantId, Instant>,
    /// Refused while the provider was in trouble.
    suspects: BTreeMap<GrantId, Suspect>,
    recovered_at: Option<Instant>,
    /// When the next refresh token in doubt may be presented again.
    next_resend: Option<Instant>,
}

/// What is known of the providers.
#[derive(Debug, Default)]
pub(in crate::broker) struct Providers {
    each: DashMap<ProviderId, State>,
}

impl Providers {
    /// Lets a request go out, or says why not and for how long.
    pub(super) fn admit(
        &self,
        provider: &ProviderId,
        settings: &Settings,
    ) -> Result<(), (Failure, Duration)> {
        let Some(mut state) = self.each.get_mut(provider) else { return Ok(()) };
        let now = Instant::now();
        if let Some(hold) = &mut state.hold {
            // What limits our rate for moments only is waited for in the queue.
            let soon = hold.until <= now + settings.caller_wait_max;
            let limited = hold.failure.reason == Reason::ProviderRateLimited;
            if now < hold.until && !(limited && soon) {
                return Err((hold.failure.clone(), hold.until - now));
            }
            // A limit of our rate is over for everybody; anything else is tried by one.
            if !limited {
                hold.until = now + settings.client_probe.first;
                hold.probing = true;
            }
        }
        if let Some(incident) = &mut state.incident {
            if now < incident.next_canary {
                return Err((incident.failure.clone(), incident.next_canary - now));
            }
            incident.next_canary = now + settings.canary_backoff.after(incident.canaries);
            incident.canaries += 1;
        }
        Ok(())
    }

    /// A grant was refreshed; gives the incident that ends with it.
    pub(super) fn succeeded(&self, provider: &ProviderId) -> Option<Incident> {
        let mut state = self.each.get_mut(provider)?;
        let now = Instant::now();
        // A hold that began while this refresh was under way stays.
        if state.hold.as_ref().is_some_and(|hold| hold.probing || now >= hold.until) {
            state.hold = None;
            state.recovered_at = Some(now);
        }
        state.silent.clear();
        state.puzzling.clear();
        let ended = state.incident.take();
        if let Some(incident) = &ended {
            state.recovered_at = Some(now);
            if incident.kind == Kind::Refusing {
                state.refused.clear();
            }
        }
        ended
    }

    /// A request got no usable answer. `true`: this is the provider's trouble from now on.
    pub(super) fn silent(&self, provider: &ProviderId, grant: &GrantId, failure: &Failure) -> bool {
        let mut state = self.each.entry(provider.clone()).or_default();
        state.silent.insert(grant.clone());
        let grants = state.silent.len();
        state.notice(Kind::Silent, grants, SEVERAL, failure)
    }

    /// A refusal is not understood. `true`: this is the provider's trouble from now on.
    pub(super) fn puzzled(
        &self,
        provider: &ProviderId,
        grant: &GrantId,
        failure: &Failure,
    ) -> bool {
        let mut state = self.each.entry(provider.clone()).or_default();
        state.puzzling.insert(grant.clone());
        let grants = state.puzzling.len();
        state.notice(Kind::Puzzling, grants, SEVERAL, failure)
    }

    /// A grant was refused for good; `grants` counts the client's grants.
    pub(super) fn refused(
        &self,
        provider: &ProviderId,
        grant: &GrantId,
        failure: &Failure,
        window: Duration,
        grants: impl FnOnce() -> usize,
    ) -> Refusal {
        let mut state = self.each.entry(provider.clone()).or_default();
        let now = Instant::now();
        state.suspects.retain(|_, suspect| now - suspect.since < DISBELIEF_MAX);
        let suspected = |again| Suspect { since: now, again };
        if let Some(incident) = state.incident.as_ref().filter(|one| one.kind == Kind::Refusing) {
            if now - incident.since >= DISBELIEF_MAX {
                return Refusal::Final;
            }
            state.suspects.entry(grant.clone()).or_insert(suspected(0));
            return Refusal::Doubted;
        }
        // The provider was well in between, so this is about the grant; unless it is only half
        // well, which the next time tells.
        if let Some(suspect) = state.suspects.get_mut(grant) {
            suspect.again += 1;
            if suspect.again >= AGAIN_MAX {
                state.suspects.remove(grant);
                return Refusal::Final;
            }
        }
        state.refused.retain(|_, since| now - *since < window);
        state.refused.insert(grant.clone(), now);
        let refused = state.refused.len();
        if refused < REFUSALS_MIN || refused * 100 < REFUSALS_PERCENT * grants() {
            return Refusal::Final;
        }
        let State { refused: those, suspects, .. } = &mut *state;
        for grant in those.keys() {
            suspects.entry(grant.clone()).or_insert(suspected(0));
        }
        // Another trouble that is still on does not hide this one.
        state.incident = None;
        state.notice(Kind::Refusing, refused, REFUSALS_MIN, failure);
        Refusal::DoubtedFromNow
    }

    /// Our client was refused, or our rate limited: nobody is asked for `pause(failures in a row)`.
    pub(super) fn hold(
        &self,
        provider: &ProviderId,
        failure: &Failure,
        pause: impl FnOnce(u32) -> Duration,
    ) {
        let mut state = self.each.entry(provider.clone()).or_default();
        let now = Instant::now();
        let (failures, over) = match &state.hold {
            Some(hold) => (hold.failures, hold.probing || now >= hold.until),
            None => (0, true),
        };
        // Refreshes that began before the hold fail with it; they are not further tries.
        if over {
            let (failure, until) = (failure.clone(), now + pause(failures));
            state.hold =
                Some(Hold { failure, since: now, until, failures: failures + 1, probing: false });
        }
    }

    /// What we prove ourselves by has changed: that it was refused means nothing any more.
    pub(in crate::broker) fn client_changed(&self, provider: &ProviderId) {
        if let Some(mut state) = self.each.get_mut(provider) {
            state.hold.take_if(|hold| hold.failure.reason.is_of_client());
        }
    }

    /// Why nobody is asked at present, and until when.
    pub(in crate::broker) fn waits(&self, provider: &ProviderId) -> Option<(Failure, Instant)> {
        let state = self.each.get(provider)?;
        let hold = state.hold.as_ref().map(|hold| (hold.failure.clone(), hold.until));
        let hold = hold.filter(|(_, until)| Instant::now() < *until);
        let incident = || state.incident.as_ref();
        hold.or_else(|| incident().map(|one| (one.failure.clone(), one.next_canary)))
    }

    /// It has got into trouble after `moment`; a limit of our rate is none, the queue knows of it.
    pub(super) fn in_trouble_since(&self, provider: &ProviderId, moment: Instant) -> bool {
        let Some(state) = self.each.get(provider) else { return false };
        let held = state.hold.as_ref().is_some_and(|hold| {
            hold.since >= moment && hold.failure.reason != Reason::ProviderRateLimited
        });
        held || state.incident.as_ref().is_some_and(|incident| incident.since >= moment)
    }

    /// The trouble that is the provider's own, if there is one.
    pub(super) fn incident(&self, provider: &ProviderId) -> Option<Incident> {
        self.each.get(provider)?.incident.clone()
    }

    /// The provider was in trouble within the last `time` and is well again.
    pub(super) fn recovered_within(&self, provider: &ProviderId, time: Duration) -> bool {
        let now = Instant::now();
        let moment = now.checked_sub(time);
        moment.is_some_and(|moment| self.recovered_since(provider, moment))
    }

    /// When the next refresh token in doubt may be presented, at most `rate` in a second.
    pub(super) fn resend_slot(&self, provider: &ProviderId, rate: u32) -> Instant {
        let mut state = self.each.entry(provider.clone()).or_default();
        let now = Instant::now();
        let slot = state.next_resend.map_or(now, |next| next.max(now));
        state.next_resend = Some(slot + Duration::from_secs(1) / rate.max(1));
        slot
    }

    /// The provider was in trouble after `moment` and is well again.
    pub(super) fn recovered_since(&self, provider: &ProviderId, moment: Instant) -> bool {
        self.each
            .get(provider)
            .and_then(|state| state.recovered_at.filter(|_| state.incident.is_none()))
            .is_some_and(|recovered_at| recovered_at >= moment)
    }
}

impl State {
    /// Begins an incident, or goes on with it.
    fn notice(&mut self, kind: Kind, grants: usize, enough: usize, failure: &Failure) -> bool {
        if let Some(incident) = &mut self.incident {
            if incident.kind == kind {
                incident.grants = incident.grants.max(grants);
            }
            return false;
        }
        if grants < enough {
            return false;
        }
        let since = Instant::now();
        let failure = told(kind, failure);
        let incident = Incident { kind, since, failure, grants, canaries: 0, next_canary: since };
        self.incident = Some(incident);
        true
    }
}

/// What those are told who wait: nothing was sent for them.
fn told(kind: Kind, met: &Failure) -> Failure {
    let reason = match kind {
        Kind::Silent => Reason::ProviderUnavailable,
        Kind::Puzzling => Reason::ProviderUnrecognizedError,
        Kind::Refusing => Reason::ProviderRefusesMany,
    };
    let (disposition, concern) = (Disposition::NotProcessed, Concern::Grant);
    Failure { reason, disposition, concern, retry_after: None, ..met.clone() }
}
