//! What the domain counts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::broker::endpoint::Unreached;
use crate::broker::model::ProviderId;

/// Counters of the domain, registered once and passed in.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Answers to `GetToken` and `ForceRefresh`.
    pub token_requests: Family<TokenRequest, Counter>,
    /// Ended refreshes.
    pub refreshes: Family<Refresh, Counter>,
    /// How long they took, from claim to durable.
    pub refresh_duration: Family<ByProvider, Histogram>,
    /// Times that the store did not take a received pair.
    pub persist_failures: Family<ByProvider, Counter>,
    /// Refresh tokens in doubt that were presented again.
    pub resends: Family<Resend, Counter>,
    /// Enrolments that ended.
    pub enrolments: Family<Enrolled, Counter>,
    /// Grants that the store had lost and that were made again from memory.
    pub remade_grants: Family<ByProvider, Counter>,
    /// All grants, as they were counted last.
    pub grants: Family<InState, Gauge>,
    /// Grants whose refresh token ends within a week, as they were counted last.
    pub ending: Family<ByProvider, Gauge>,
    /// Refresh tokens in doubt, as they were counted last.
    pub doubts: Family<Doubted, Gauge>,
    /// Refreshes that did not reach their provider.
    pub unreachable: Family<Unreachable, Counter>,
    /// Providers that nobody asks at present.
    pub held_providers: Family<ByProvider, Gauge>,
    /// Refreshes that wait for their turn.
    pub queued: Family<Queued, Gauge>,
    /// Refreshes in a second that a provider is sent at most, as it was found out.
    pub rate: Family<ByProvider, Gauge<f64, AtomicU64>>,
    /// Grants in memory: those that somebody asked for lately.
    pub known_grants: Gauge,
    /// Callers who stay to hear of each new token.
    pub watchers: Gauge,
    /// Refreshes under way.
    pub flights: Gauge,
    /// Received pairs that the store has not taken yet.
    pub unpublished_pairs: Gauge,
    /// The store takes what is written.
    pub store_up: Gauge,
    /// What an operator should mend, by what was looked at.
    pub store_findings: Family<Found, Gauge>,
    /// What other replicas change is heard at once.
    pub events_up: Gauge,
    /// The journal takes what is written.
    pub journal_up: Gauge,
    /// Pairs in the journal.
    pub journal_entries: Gauge,
    /// Of these, what the store cannot be given.
    pub journal_stuck: Gauge,
}

/// Labels of a provider that was not reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Unreachable {
    /// The provider.
    pub provider: String,
    /// `name`, `connection`, `tls` or `silence`.
    pub cause: &'static str,
}

/// Label of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByProvider {
    /// Its name.
    pub provider: String,
}

/// Labels of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenRequest {
    /// The provider; empty if the grant is not known.
    pub provider: String,
    /// `hit`, `refreshed`, `degraded` or `error`.
    pub result: &'static str,
}

/// Labels of an ended refresh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refresh {
    /// The provider.
    pub provider: String,
    /// Why it was started.
    pub trigger: &'static str,
    /// `success`, or the reason of the failure.
    pub result: &'static str,
}

/// Labels of a resend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Resend {
    /// The provider.
    pub provider: String,
    /// How the request before it had ended.
    pub kind: &'static str,
    /// Whether it was `inside` a window in which a spent refresh token works, or `early` in it, or `none`.
    pub window: &'static str,
    /// `pair`, `refused`, `unknown`, `not_processed` or `not_sent`.
    pub result: &'static str,
}

/// Labels of an enrolment that ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Enrolled {
    /// The provider.
    pub provider: String,
    /// `granted`, `failed` or `cancelled`.
    pub result: &'static str,
}

/// Labels of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Queued {
    /// The provider.
    pub provider: String,
    /// `caller`, or `nobody`: it is done beforehand.
    pub asked_by: &'static str,
}

/// Label of a check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Found {
    /// What was looked at.
    pub check: &'static str,
}

/// Labels of grants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InState {
    /// The provider.
    pub provider: String,
    /// `active`, `degraded`, `outcome_unknown`, `reauth_required`, `revoked` or `disabled`.
    pub state: &'static str,
}

/// Labels of refresh tokens in doubt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Doubted {
    /// The provider.
    pub provider: String,
    /// How the last request ended.
    pub kind: &'static str,
}

/// Shortest refresh worth telling apart, in seconds.
const REFRESH_BUCKET_FIRST: f64 = 0.01;
/// 10 ms doubled thirteen times ends above the usual `listen_max` (60 s).
const REFRESH_BUCKETS: u16 = 14;

impl Metrics {
    /// Registers the counters.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            token_requests: Family::default(),
            refreshes: Family::default(),
            refresh_duration: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(REFRESH_BUCKET_FIRST, 2.0, REFRESH_BUCKETS))
            }),
            persist_failures: Family::default(),
            resends: Family::default(),
            enrolments: Family::default(),
            remade_grants: Family::default(),
            grants: Family::default(),
            ending: Family::default(),
            doubts: Family::default(),
            unreachable: Family::default(),
            held_providers: Family::default(),
            queued: Family::default(),
            rate: Family::default(),
            known_grants: Gauge::default(),
            watchers: Gauge::default(),
            flights: Gauge::default(),
            unpublished_pairs: Gauge::default(),
            store_up: Gauge::default(),
            store_findings: Family::default(),
            events_up: Gauge::default(),
            journal_up: Gauge::default(),
            journal_entries: Gauge::default(),
            journal_stuck: Gauge::default(),
        };
        registry.register(
            "token_requests",
            "Answers to callers who asked for a token",
            metrics.token_requests.clone(),
        );
        registry.register("watchers", "Callers who stay", metrics.watchers.clone());
        registry.register("refreshes", "Ended refreshes", metrics.refreshes.clone());
        registry.register_with_unit(
            "refresh_duration",
            "Time from the claim to the durable pair",
            Unit::Seconds,
            metrics.refresh_duration.clone(),
        );
        registry.register(
            "refresh_persist_failures",
            "Times that the store did not take a pair that the provider had issued",
            metrics.persist_failures.clone(),
        );
        registry.register(
            "resends",
            "Refresh tokens in doubt that were presented again",
            metrics.resends.clone(),
        );
        registry.register(
            "enrollments",
            "Enrolments that ended, by how",
            metrics.enrolments.clone(),
        );
        registry.register(
            "remade_grants",
            "Grants that the store had lost and that were made again from memory",
            metrics.remade_grants.clone(),
        );
        registry.register("grants", "All grants in the store", metrics.grants.clone());
        registry.register(
            "refresh_tokens_ending",
            "Grants whose refresh token ends within a week",
            metrics.ending.clone(),
        );
        registry.register("doubts", "Refresh tokens in doubt", metrics.doubts.clone());
        registry.register(
            "known_grants",
            "Grants in memory: those that somebody asked for lately",
            metrics.known_grants.clone(),
        );
        registry.register("flights", "Refreshes under way", metrics.flights.clone());
        registry.register(
            "unpublished_pairs",
            "Pairs that the provider issued and the store has not taken yet",
            metrics.unpublished_pairs.clone(),
        );
        metrics.register_providers(registry);
        metrics.register_store(registry);
        metrics
    }

    /// Shows how fast a provider is asked.
    pub(super) fn show_rate(&self, provider: &ProviderId, step: Duration) {
        let labels = ByProvider { provider: provider.as_str().to_owned() };
        self.rate.get_or_create(&labels).set(1.0 / step.as_secs_f64());
    }

    fn register_store(&self, registry: &mut Registry) {
        registry.register(
            "store_up",
            "The token store takes what is written, and has what it had",
            self.store_up.clone(),
        );
        registry.register(
            "store_finding",
            "Something about the store costs something when something else fails; `doctor` says what",
            self.store_findings.clone(),
        );
        registry.register(
            "store_events_up",
            "What other replicas change is heard at once; 0 with a store of one process",
            self.events_up.clone(),
        );
        registry.register(
            "journal_up",
            "The journal takes what is written; 0 with a store of one process",
            self.journal_up.clone(),
        );
        registry.register(
            "journal_entries",
            "Pairs in the journal: the store has not confirmed them, or not for a minute yet",
            self.journal_entries.clone(),
        );
        registry.register(
            "journal_stuck",
            "Entries of the journal that the store cannot be given",
            self.journal_stuck.clone(),
        );
    }

    fn register_providers(&self, registry: &mut Registry) {
        registry.register(
            "provider_unreachable",
            "Refreshes that did not reach their provider, by what was in the way: its name, the connection, TLS, silence",
            self.unreachable.clone(),
        );
        registry.register(
            "provider_held",
            "The provider is not asked at present, because of its own trouble or our client's",
            self.held_providers.clone(),
        );
        registry.register(
            "refreshes_queued",
            "Refreshes that wait for their turn to ask the provider, and for whom",
            self.queued.clone(),
        );
        registry.register(
            "provider_rate",
            "Refreshes in a second that all replicas together send at most, as the provider bears it",
            self.rate.clone(),
        );
    }

    /// Makes the counters that alarms look at: they must be there before the first failure.
    pub(super) fn prepare<'a>(&self, providers: impl Iterator<Item = &'a ProviderId>) {
        for provider in providers {
            let provider = provider.as_str().to_owned();
            for trigger in ["proactive", "on_demand", "forced"] {
                for result in ["success", "error"] {
                    let refresh = Refresh { provider: provider.clone(), trigger, result };
                    let _ = self.refreshes.get_or_create(&refresh);
                }
            }
            for cause in Unreached::ALL {
                let (provider, cause) = (provider.clone(), cause.name());
                let _ = self.unreachable.get_or_create(&Unreachable { provider, cause });
            }
            for alarm in [&self.persist_failures, &self.remade_grants] {
                let _ = alarm.get_or_create(&ByProvider { provider: provider.clone() });
            }
        }
    }
}
