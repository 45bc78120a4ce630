//! Pacing: after a failure, who waits how long before the provider is asked again.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::endpoint::{Concern, Disposition, Failure};
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::freshness::spread;
use crate::broker::model::{Generation, Grant, ProviderId, Reason};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::doubt::Next;
use crate::broker::refresh::flight::{Refreshed, Trigger};
use crate::broker::refresh::resend::in_doubt;
use crate::broker::refresh::rotation::usable;
use crate::broker::settings::Settings;
use crate::broker::view::Trouble;
use crate::broker::view::View;

/// Waits are drawn from this share of the backoff up to all of it, so that grants which failed
/// together do not come back together.
const JITTER_FLOOR: f64 = 0.5;

impl Rotations {
    /// Says no to a refresh that cannot help now, and why.
    pub(super) fn may_refresh(
        &self,
        entry: &Entry,
        view: &View,
        trigger: Trigger,
    ) -> Result<(), Error> {
        if self.draining() {
            return Err(Error::Draining);
        }
        // Whether it may be used, is in doubt or in trouble: it is to end.
        if trigger == Trigger::Revoke {
            return Ok(());
        }
        usable(&view.grant)?;
        let doubt = self.doubt_of(entry, &view.grant);
        if let Some(doubt) = &doubt {
            let next = self.next_try(entry, view, doubt);
            if next != Next::In(Duration::ZERO) {
                return Err(in_doubt(&view.grant, doubt, next));
            }
        }
        // An operator who has mended something does not wait.
        if matches!(trigger, Trigger::Admin | Trigger::Resolve) {
            return Ok(());
        }
        let (now, provider) = (Instant::now(), &view.grant.descriptor.provider);
        // What befell the grant in a trouble of the provider that is over counts no more.
        let over = |trouble: &Trouble| self.providers.recovered_since(provider, trouble.at);
        // A doubt has a pace of its own.
        let own_pace = |trouble: &Trouble| doubt.is_some() && trouble.error.in_doubt();
        let trouble = entry.trouble().filter(|trouble| now < trouble.until);
        let trouble = trouble.filter(|trouble| !over(trouble) && !own_pace(trouble));
        if let Some(trouble) = trouble {
            return Err(waiting(trouble.error.clone(), trouble.until - now));
        }
        self.providers.admit(provider, &self.settings).map_err(|(failure, left)| match &doubt {
            Some(doubt) => in_doubt(&view.grant, doubt, Next::In(left)),
            None => waiting(self.upstream(&view.grant, failure), left),
        })
    }

    /// Remembers how a refresh ended, for the next one.
    pub(super) fn learn(
        &self,
        entry: &Entry,
        spent: Generation,
        provider: &ProviderId,
        ended: &Refreshed,
    ) {
        let view = entry.view();
        match ended {
            Ok(_) => {
                entry.forget_trouble();
            }
            Err(error) => {
                if let Error::Upstream { failure, .. } = error
                    && failure.concern == Concern::Provider
                {
                    let pause = |failures| pause(&self.settings, failure, failures);
                    self.providers.hold(provider, failure, pause);
                }
                // The queue was too long: that is no trouble of the grant.
                let queued =
                    matches!(error, Error::Upstream { failure, .. } if failure.turned_away());
                // What befell an old chain says nothing about the one that replaced it.
                if view.grant.continues(spent) && !queued {
                    self.remember(entry, &view.grant, error);
                }
            }
        }
    }

    fn remember(&self, entry: &Entry, grant: &Grant, error: &Error) {
        let failures = entry.trouble().map_or(0, |trouble| trouble.failures);
        let wait = match error {
            Error::Upstream { failure, .. } => pause(&self.settings, failure, failures),
            // It is not the provider that has to be spared.
            _ => self.settings.retry_backoff.first,
        };
        let spread = spread(&grant.id, Generation(u64::from(failures)));
        let asked =
            matches!(error, Error::Upstream { failure, .. } if failure.retry_after.is_some());
        let wait =
            if asked { wait } else { wait.mul_f64(JITTER_FLOOR + (1.0 - JITTER_FLOOR) * spread) };
        let (error, at) = (error.clone(), Instant::now());
        let (failures, until) = (failures + 1, at + wait);
        entry.met(Trouble { error, failures, at, until });
    }
}

/// How long to leave a provider or grant alone after this failure.
fn pause(settings: &Settings, failure: &Failure, failures: u32) -> Duration {
    let least = settings.retry_backoff.after(failures);
    match (failure.disposition, failure.retry_after) {
        // Its own rule has said when.
        (Disposition::Unknown(_), wait) => return wait.unwrap_or(settings.retry_backoff.max),
        (_, Some(asked)) => return asked.max(least),
        (_, None) => {}
    }
    match failure.reason {
        Reason::ClientCredentialsRejected
        | Reason::ClientNotAuthorized
        | Reason::ClientMisconfigured
        | Reason::ProviderEndpointMisconfigured
        | Reason::ScopeNotGranted
        | Reason::ResourceNotAllowed
        | Reason::ProviderUnrecognizedError
        | Reason::ProviderRefusesMany => settings.client_probe.after(failures),
        _ => least,
    }
}

pub(super) fn waiting(error: Error, left: Duration) -> Error {
    match error {
        Error::Upstream { grant, provider, failure, time, .. } => {
            Error::Upstream { grant, provider, failure, time, retry_after: Some(left) }
        }
        other => other,
    }
}
