//! Census: how many grants are in which state, counted in the store, so that dead ones show in the
//! metrics also after a restart.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tracing::debug;

use crate::broker::Broker;
use crate::broker::admin::State;
use crate::broker::error::chain;
use crate::broker::metrics::{ByProvider, Doubted, InState};
use crate::broker::model::{DoubtKind, ProviderId};
use crate::broker::store::PAGE;

/// A person can be asked within this time.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

impl Broker {
    /// Counts all grants by provider and state, and says how many there are. A count that cannot be
    /// finished changes nothing.
    pub async fn take_census(&self) -> Option<u64> {
        let (mut total, mut cursor) = (0, None);
        let mut counts = BTreeMap::<(ProviderId, State), i64>::new();
        let mut doubts = BTreeMap::<(ProviderId, DoubtKind), i64>::new();
        let mut ending = BTreeMap::<ProviderId, i64>::new();
        let soon = self.rotations.clock.now() + SOON;
        loop {
            let page = self.list_grants(cursor.as_deref(), PAGE).await;
            let (grants, next) = match page {
                Ok(page) => page,
                Err(error) => {
                    debug!(error = %chain(&error), "grants cannot be counted");
                    return None;
                }
            };
            for grant in grants {
                total += 1;
                let provider = grant.view.grant.descriptor.provider.clone();
                if let Some((doubt, _)) = &grant.doubt {
                    *doubts.entry((provider.clone(), doubt.kind)).or_default() += 1;
                }
                if grant.view.grant.pair.refresh_token_expires_at.is_some_and(|end| end <= soon) {
                    *ending.entry(provider.clone()).or_default() += 1;
                }
                *counts.entry((provider, grant.state)).or_default() += 1;
            }
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        let mut of_provider = HashMap::<ProviderId, usize>::new();
        for ((provider, _), count) in &counts {
            *of_provider.entry(provider.clone()).or_default() +=
                usize::try_from(*count).unwrap_or(0);
        }
        *self.rotations.counted.lock() = of_provider;
        let providers = self.providers().into_iter().map(|each| each.id);
        let metrics = self.metrics();
        // All labels are there from the start: an alarm sees nothing else.
        let mut shown = self.counted.lock();
        // Those that have gone go to zero.
        shown.extend(providers);
        shown.extend(counts.keys().map(|(provider, _)| provider.clone()));
        for provider in shown.iter() {
            for state in State::ALL {
                let count = counts.get(&(provider.clone(), state)).copied().unwrap_or(0);
                let provider = provider.as_str().to_owned();
                let label = InState { provider, state: state.name() };
                metrics.grants.get_or_create(&label).set(count);
            }
            let label = ByProvider { provider: provider.as_str().to_owned() };
            metrics.ending.get_or_create(&label).set(ending.get(provider).copied().unwrap_or(0));
            for kind in DoubtKind::ALL {
                let count = doubts.get(&(provider.clone(), kind)).copied().unwrap_or(0);
                let provider = provider.as_str().to_owned();
                let label = Doubted { provider, kind: kind.name() };
                metrics.doubts.get_or_create(&label).set(count);
            }
        }
        Some(total)
    }

    /// Shows which providers nobody asks at present.
    pub fn show_holds(&self) {
        for provider in self.providers() {
            let held = self.provider_trouble(&provider.id).hold.is_some();
            let label = ByProvider { provider: provider.id.as_str().to_owned() };
            self.metrics().held_providers.get_or_create(&label).set(i64::from(held));
        }
    }
}
