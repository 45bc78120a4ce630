//! The Redis of three brokers: one server, or a primary with a replica and a Sentinel.

use std::thread::sleep;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::redis::{RedisServer, Sentinel};

/// What takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(50);

pub(super) struct Servers {
    /// The first is the primary at the start.
    servers: Vec<RedisServer>,
    sentinel: Option<Sentinel>,
}

impl Servers {
    pub(super) fn start(with_sentinel: bool) -> Self {
        let primary = server(&[]);
        if !with_sentinel {
            return Self { servers: vec![primary], sentinel: None };
        }
        let port = primary.port.to_string();
        let replica = server(&["--replicaof", "127.0.0.1", &port]);
        let sentinel = Sentinel::start(&port);
        let servers = Self { servers: vec![primary, replica], sentinel: Some(sentinel) };
        servers.are_whole();
        servers
    }

    pub(super) fn url(&self) -> String {
        self.sentinel.as_ref().map_or_else(|| self.servers[0].url(), Sentinel::url)
    }

    /// Runs redis-cli at the primary.
    pub(super) fn cli(&self, arguments: &[&str]) -> String {
        self.servers[self.primary()].cli(arguments)
    }

    pub(super) fn signal(&self, name: &str) {
        self.servers[0].signal(name);
    }

    pub(super) fn restart(&mut self) {
        self.servers[0].restart();
    }

    /// As an operator asks for it.
    pub(super) fn fail_over(&self) {
        let before = self.primary();
        // It refuses while it is not over the one before.
        let begin = Instant::now();
        while !self.says("FAILOVER").starts_with("OK") {
            assert!(begin.elapsed() < PATIENCE, "{}", self.says("FAILOVER"));
            sleep(LOOK);
        }
        self.is_another(before);
        self.are_whole();
    }

    /// The primary is killed, and comes back as a replica.
    pub(super) fn lose_primary(&mut self) {
        let before = self.primary();
        self.servers[before].kill();
        self.is_another(before);
        self.servers[before].restart();
        self.are_whole();
    }

    fn says(&self, word: &str) -> String {
        self.sentinel.as_ref().map(|sentinel| sentinel.says(word)).unwrap_or_default()
    }

    fn is_another(&self, before: usize) {
        let begin = Instant::now();
        while self.primary() == before {
            assert!(begin.elapsed() < PATIENCE, "Sentinel does nothing");
            sleep(LOOK);
        }
    }

    /// Which server is the primary, as Sentinel sees it.
    fn primary(&self) -> usize {
        let address = self.says("get-master-addr-by-name");
        let named = |server: &RedisServer| address.contains(&server.port.to_string());
        self.servers.iter().position(named).unwrap_or(0)
    }

    /// Waits until the primary has its replica, and Sentinel knows it.
    fn are_whole(&self) {
        let begin = Instant::now();
        loop {
            let primary = &self.servers[self.primary()];
            let attached = primary.cli(&["INFO", "replication"]).contains("state=online");
            let others = self.servers.iter().filter(|server| server.port != primary.port);
            let known = self.says("REPLICAS");
            if attached
                && others.map(|other| other.port.to_string()).all(|port| known.contains(&port))
            {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "the replica is not attached");
            sleep(LOOK);
        }
    }
}

fn server(more: &[&str]) -> RedisServer {
    let arguments = [&["--appendonly", "yes", "--appendfsync", "always"], more].concat();
    let arguments = [&arguments[..], &["--repl-diskless-sync-delay", "0"]].concat();
    RedisServer::start(&arguments)
}
