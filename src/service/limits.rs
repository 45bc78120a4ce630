//! What each caller may take of this process, so that one that goes wild harms nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::broker::error::Error;
use crate::broker::model::GrantId;
use crate::caller::CallerLimits;

/// Those who have been quiet are forgotten when there are more.
const REMEMBERED: usize = 10_000;
/// When somebody with too many calls under way may try again.
const CROWDED: Duration = Duration::from_millis(100);
/// Rates are in a second, budgets in an hour.
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Counts what callers take.
pub(super) struct Limits {
    most: CallerLimits,
    /// What times are counted from.
    start: Instant,
    /// When those who are quiet were forgotten last.
    swept: AtomicU64,
    callers: DashMap<Arc<str>, Arc<Usage>>,
    replaced: DashMap<(Arc<str>, GrantId), Rate>,
    exceeded: Family<Exceeded, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exceeded {
    caller: String,
    limit: &'static str,
}

/// What one caller takes.
#[derive(Default)]
struct Usage {
    calls: Rate,
    running: AtomicUsize,
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Place(Arc<Usage>);

impl std::fmt::Debug for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usage").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limits {
    pub(super) fn new(most: CallerLimits, registry: &mut Registry) -> Self {
        let exceeded = Family::default();
        registry.register(
            "caller_limits_exceeded",
            "Calls that were refused because their caller took too much",
            exceeded.clone(),
        );
        let (callers, replaced) = (DashMap::new(), DashMap::new());
        Self { most, start: Instant::now(), swept: AtomicU64::new(0), callers, replaced, exceeded }
    }

    /// Takes a place for a call that begins now.
    pub(super) fn enter(&self, caller: &Arc<str>, now: Instant) -> Result<Place, Error> {
        let CallerLimits { rate, concurrency, .. } = self.most;
        let usage = self.usage(caller, now);
        if let Err(wait) = usage.calls.take(rate, SECOND, self.nanos(now)) {
            return Err(self.exceeded(caller, "callers.limits.rate", wait));
        }
        let before = usage.running.fetch_add(1, Ordering::Relaxed);
        let place = Place(usage);
        if concurrency > 0 && before >= concurrency as usize {
            return Err(self.exceeded(caller, "callers.limits.concurrency", CROWDED));
        }
        Ok(place)
    }

    /// Lets a caller have the token of a grant replaced.
    pub(super) fn replace(&self, caller: &Arc<str>, grant: &GrantId) -> Result<(), Error> {
        let now = self.nanos(Instant::now());
        self.forget_the_quiet(now);
        let budget = self.replaced.entry((Arc::clone(caller), grant.clone())).or_default();
        budget
            .take(self.most.force_refreshes, HOUR, now)
            .map_err(|wait| self.exceeded(caller, "callers.limits.force_refreshes", wait))
    }

    fn usage(&self, caller: &Arc<str>, now: Instant) -> Arc<Usage> {
        if let Some(known) = self.callers.get(caller) {
            return Arc::clone(&known);
        }
        self.forget_the_quiet(self.nanos(now));
        Arc::clone(&self.callers.entry(Arc::clone(caller)).or_default())
    }

    /// What was let in for this came to nothing.
    pub(super) fn give_back(&self, caller: &Arc<str>, grant: &GrantId) {
        if let Some(budget) = self.replaced.get(&(Arc::clone(caller), grant.clone())) {
            budget.give_back(self.most.force_refreshes, HOUR);
        }
    }

    /// All maps are gone through, so not more often than once a second.
    fn forget_the_quiet(&self, now: u64) {
        if self.callers.len().max(self.replaced.len()) < REMEMBERED {
            return;
        }
        let before = self.swept.load(Ordering::Relaxed);
        let due = now.saturating_sub(before) >= nanos_of(SECOND);
        let order = Ordering::Relaxed;
        if due && self.swept.compare_exchange(before, now, order, order).is_ok() {
            self.replaced.retain(|_, rate| !rate.is_unused(now));
            self.callers.retain(|_, usage| {
                !usage.calls.is_unused(now) || usage.running.load(Ordering::Relaxed) > 0
            });
        }
    }

    fn exceeded(&self, caller: &Arc<str>, limit: &'static str, retry_after: Duration) -> Error {
        let labels = Exceeded { caller: caller.to_string(), limit };
        self.exceeded.get_or_create(&labels).inc();
        Error::CallerLimited { caller: caller.to_string(), limit, retry_after }
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// So many in a time, all at once if need be, and evenly after that: the generic cell rate algorithm (ITU-T
/// I.371 annex A). Holds the time at which nothing is used any more, in nanoseconds.
#[derive(Default)]
struct Rate(AtomicU64);

impl Rate {
    /// Takes one of `most` in `each`, or says when there is one. 0: there is always one.
    fn take(&self, most: u32, each: Duration, now: u64) -> Result<(), Duration> {
        if most == 0 {
            return Ok(());
        }
        let whole = nanos_of(each);
        let one = whole / u64::from(most);
        let mut used_until = self.0.load(Ordering::Relaxed);
        loop {
            let next = used_until.max(now) + one;
            let early = next.saturating_sub(now + whole);
            if early > 0 {
                return Err(Duration::from_nanos(early));
            }
            let swapped = self.0.compare_exchange_weak(
                used_until,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return Ok(()),
                Err(newer) => used_until = newer,
            }
        }
    }

    fn give_back(&self, most: u32, each: Duration) {
        let one = nanos_of(each).checked_div(u64::from(most)).unwrap_or_default();
        self.0.fetch_sub(one, Ordering::Relaxed);
    }

    fn is_unused(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

fn nanos_of(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rate: u32, concurrency: u32, force_refreshes: u32) -> Limits {
        let limits = CallerLimits { rate, concurrency, force_refreshes };
        Limits::new(limits, &mut Registry::default())
    }

    #[tokio::test(start_paused = true)]
    async fn who_calls_too_often_waits_and_nobody_else() {
        let limits = limits(4, 0, 0);
        let (wild, calm): (Arc<str>, Arc<str>) = ("wild".into(), "calm".into());
        let enter = |who: &Arc<str>| limits.enter(who, Instant::now()).map(drop);
        for _ in 0..4 {
            enter(&wild).unwrap();
        }
        let Err(Error::CallerLimited { retry_after, .. }) = enter(&wild) else { panic!() };
        assert_eq!(retry_after, Duration::from_millis(250));
        enter(&calm).unwrap();
        tokio::time::advance(retry_after).await;
        enter(&wild).unwrap();
        assert!(enter(&wild).is_err(), "evenly after that");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_at_once_and_replaced_tokens_are_bounded() {
        let limits = limits(0, 2, 1);
        let (who, now): (Arc<str>, _) = ("who".into(), Instant::now());
        let places = [limits.enter(&who, now).unwrap(), limits.enter(&who, now).unwrap()];
        assert!(limits.enter(&who, now).is_err());
        drop(places);
        let _place = limits.enter(&who, now).unwrap();

        let grant = |name| GrantId::parse(name).unwrap();
        limits.replace(&who, &grant("kroger/alice")).unwrap();
        assert!(limits.replace(&who, &grant("kroger/alice")).is_err());
        limits.give_back(&who, &grant("kroger/alice"));
        limits.replace(&who, &grant("kroger/alice")).unwrap();
        limits.replace(&who, &grant("kroger/bob")).unwrap();
        tokio::time::advance(HOUR).await;
        limits.replace(&who, &grant("kroger/alice")).unwrap();
    }
}
