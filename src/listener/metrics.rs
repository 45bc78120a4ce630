//! What is counted of connections and calls.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::listener::bounds::Cause;
use crate::service::Refusal;

type Port = [(&'static str, &'static str); 1];
type Why = [(&'static str, &'static str); 2];

/// Connections and calls of all ports; registered once.
#[derive(Debug, Clone)]
pub struct Ports {
    connections: Family<Port, Gauge>,
    streams: Family<Port, Gauge>,
    closed: Family<Why, Counter>,
    refused: Family<Why, Counter>,
}

/// The same of one port.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    port: &'static str,
    all: Ports,
}

impl Ports {
    /// Registers what is counted.
    pub fn new(registry: &mut Registry) -> Self {
        let ports = Self {
            connections: Family::default(),
            streams: Family::default(),
            closed: Family::default(),
            refused: Family::default(),
        };
        registry.register("connections", "Open connections", ports.connections.clone());
        registry.register("streams", "Calls and streams under way", ports.streams.clone());
        registry.register(
            "connections_closed",
            "Connections that were closed or not let in because of a bound, or whose TLS came to nothing",
            ports.closed.clone(),
        );
        registry.register(
            "streams_refused",
            "Calls that were refused because of a bound",
            ports.refused.clone(),
        );
        ports
    }

    pub(super) fn of(&self, port: &'static str) -> Metrics {
        Metrics { port, all: self.clone() }
    }
}

impl Metrics {
    pub(super) fn set(&self, connections: usize, streams: usize) {
        let label = [("port", self.port)];
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.all.connections.get_or_create(&label).set(number(connections));
        self.all.streams.get_or_create(&label).set(number(streams));
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        let why = match refusal {
            Refusal::Overloaded => "full",
            Refusal::Unfinished => "unfinished",
            Refusal::Leaving => "leaving",
        };
        self.all.refused.get_or_create(&[("port", self.port), ("why", why)]).inc();
    }

    /// A connection that was told to go.
    pub(super) fn told(&self, cause: Cause) {
        self.closed(match cause {
            Cause::Unfinished => "unfinished",
            Cause::Untaken => "untaken",
            Cause::Idle => "idle",
            Cause::Aged => "aged",
            Cause::Lingering => "lingering",
            Cause::Grown => "grown",
            Cause::Crowded => "crowded",
            Cause::Unproven => "unproven",
        });
    }

    /// A connection that never spoke.
    pub(super) fn silent(&self) {
        self.closed("silent");
    }

    /// A connection whose TLS came to nothing.
    pub(super) fn no_tls(&self) {
        self.closed("tls");
    }

    /// A connection that found no place.
    pub(super) fn not_let_in(&self) {
        self.closed("full");
    }

    fn closed(&self, why: &'static str) {
        self.all.closed.get_or_create(&[("port", self.port), ("why", why)]).inc();
    }
}
