//! Pacing: after a failure, who waits how long before the provider is asked again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::Broker;
use crate::broker::endpoint::{Concern, Disposition, Failure};
use crate::broker::error::{Error, Reason};
use crate::broker::flight::{Landing, Trigger};
use crate::broker::freshness::spread;
use crate::broker::grant::{Generation, Grant, ProviderId};
use crate::broker::known::{Entry, Trouble, View};
use crate::broker::rotation::usable;
use crate::broker::settings::{Settings, backoff};

/// Waits are drawn from this share of the backoff up to all of it, so that grants which failed
/// together do not come back together.
const JITTER_FLOOR: f64 = 0.5;

/// A provider that is not asked for a while, because it refused our client or limits our rate.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Why.
    pub failure: Failure,
    /// Until when.
    pub until: Instant,
    /// Failures in a row.
    pub failures: u32,
}

impl Broker {
    /// Says no to a refresh that cannot help now, and why.
    pub(super) fn clear_for_takeoff(
        &self,
        entry: &Entry,
        view: &View,
        trigger: Trigger,
    ) -> Result<(), Error> {
        if self.draining() {
            return Err(Error::Draining);
        }
        usable(&view.grant)?;
        // An operator who has mended something does not wait.
        if trigger == Trigger::Admin {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(trouble) = entry.trouble().filter(|trouble| now < trouble.until) {
            return Err(waiting(trouble.error.clone(), trouble.until - now));
        }
        let provider = &view.grant.descriptor.provider;
        match self.held(provider).filter(|hold| now < hold.until) {
            Some(hold) => Err(waiting(self.upstream(&view.grant, hold.failure), hold.until - now)),
            None => Ok(()),
        }
    }

    /// The hold of a provider, if there is one; it may be over.
    pub(super) fn held(&self, provider: &ProviderId) -> Option<Hold> {
        self.holds.get(provider).map(|hold| hold.clone())
    }

    /// Remembers how a refresh ended, for the next one.
    pub(super) fn learn(
        &self,
        entry: &Entry,
        flown: Generation,
        provider: &ProviderId,
        landing: &Landing,
    ) {
        let view = entry.view();
        match landing {
            Ok(_) => {
                entry.trouble.store(None);
                // A hold that began while this refresh was under way stays.
                self.holds.remove_if(provider, |_, hold| Instant::now() >= hold.until);
            }
            Err(error) => {
                if let Error::Upstream { failure, .. } = error
                    && failure.concern == Concern::Provider
                {
                    self.hold(provider, failure);
                }
                // What befell an old chain says nothing about the one that replaced it.
                if view.grant.continues(flown) {
                    self.remember(entry, &view.grant, error);
                }
            }
        }
    }

    fn hold(&self, provider: &ProviderId, failure: &Failure) {
        let mut hold = self.holds.entry(provider.clone()).or_insert_with(|| Hold {
            failure: failure.clone(),
            until: Instant::now(),
            failures: 0,
        });
        // Flights that took off before the hold began fail with it; they are not further tries.
        if Instant::now() >= hold.until {
            hold.until = Instant::now() + pause(&self.settings, failure, hold.failures);
            hold.failures += 1;
            hold.failure = failure.clone();
        }
    }

    fn remember(&self, entry: &Entry, grant: &Grant, error: &Error) {
        let failures = entry.trouble().map_or(0, |trouble| trouble.failures);
        let wait = match error {
            Error::Upstream { failure, .. } => pause(&self.settings, failure, failures),
            // It is not the provider that has to be spared.
            _ => self.settings.retry_backoff,
        };
        let spread = spread(&grant.id, Generation(u64::from(failures)));
        let asked =
            matches!(error, Error::Upstream { failure, .. } if failure.retry_after.is_some());
        let wait =
            if asked { wait } else { wait.mul_f64(JITTER_FLOOR + (1.0 - JITTER_FLOOR) * spread) };
        let (error, until) = (error.clone(), Instant::now() + wait);
        entry.trouble.store(Some(Arc::new(Trouble { error, failures: failures + 1, until })));
    }

    /// Providers that are held, for operators.
    pub fn provider_hold(&self, provider: &ProviderId) -> Option<Hold> {
        self.held(provider).filter(|hold| Instant::now() < hold.until)
    }

    pub(super) fn forget_trouble(entry: &Entry) {
        entry.trouble.store(None);
    }
}

/// How long to leave a provider or grant alone after this failure.
fn pause(settings: &Settings, failure: &Failure, failures: u32) -> Duration {
    let least = backoff(settings.retry_backoff, failures, settings.retry_backoff_max);
    if let Some(asked) = failure.retry_after {
        return asked.max(least);
    }
    match failure.reason {
        Reason::ClientCredentialsRejected
        | Reason::ClientNotAuthorized
        | Reason::ClientMisconfigured
        | Reason::ProviderEndpointMisconfigured
        | Reason::ScopeNotGranted
        | Reason::ResourceNotAllowed => {
            backoff(settings.client_probe, failures, settings.client_probe_max)
        }
        // Jitter halves it at most, so the confirming retry comes after this and before twice it.
        Reason::ProviderUnrecognizedError => settings.confirm_after * 2,
        _ if failure.disposition == Disposition::Unknown => settings.retry_backoff_max,
        _ => least,
    }
}

fn waiting(error: Error, left: Duration) -> Error {
    match error {
        Error::Upstream { grant, provider, failure, time, .. } => {
            Error::Upstream { grant, provider, failure, time, retry_after: Some(left) }
        }
        other => other,
    }
}
