//! Configuration: built-in defaults, then a YAML file, then the environment; later wins.
//!
//! `file` is what can be written, `load` how the layers meet (with `places`), `form` whether they have the form, `check`
//! how the result becomes what the program runs on, `callers` the same for callers and what they may do, `provider` for one provider, `profile`
//! what is known of providers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::Place;
use crate::broker::settings::Settings;
use crate::caller::{CallerLimits, KeySource, StaticTokens};
use crate::listener::{Bounds, Tls};
use crate::policy::Policy;
use crate::store::redis::Address;
use crate::upstream::Provider;

mod callers;
mod check;
mod file;
mod form;
mod load;
mod places;
mod profile;
mod provider;
mod secrets;
mod written;

pub use load::{load, load_again, log_level, schema};
pub use profile::{profile, profile_names};
pub use provider::ClientFile;
pub use written::Written;

/// The environment, as an argument: tests need not touch the real one.
pub type Environment = BTreeMap<String, String>;

/// What the program runs on. Nothing here is checked again.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from.
    pub file: Option<PathBuf>,
    /// Where to listen.
    pub listen: Listen,
    /// How much clients may take.
    pub bounds: Bounds,
    /// Where grants are kept.
    pub store: StoreConfig,
    /// An empty store is a lost one.
    pub expect_existing: bool,
    /// The file of the key ring, if it is named.
    pub keys_file: Option<PathBuf>,
    /// How callers prove who they are.
    pub callers: Callers,
    /// What they may do; `None`: everything, and nobody has to prove anything.
    pub policy: Option<Policy>,
    /// Where that was read from.
    pub policy_file: Option<PathBuf>,
    /// Where static tokens were read from.
    pub tokens_file: Option<PathBuf>,
    /// Secrets that we prove ourselves by to providers, in files.
    pub clients: Vec<ClientFile>,
    /// How to log.
    pub log: Log,
    /// What is written down of who did what; `None`: nothing.
    pub audit: Option<AuditConfig>,
    /// Waits and bounds of the domain.
    pub settings: Settings,
    /// How to stop.
    pub shutdown: Shutdown,
    /// Who issues tokens.
    pub providers: Vec<Provider>,
    /// The store is a copy from the past (`serve --restored`).
    pub restored: bool,
    /// What can be used, and may cost something.
    pub warnings: Vec<Problem>,
    /// What was written, to find changes.
    pub written: Written,
}

/// How callers prove who they are; nothing: nobody has to.
#[derive(Debug, Clone)]
pub struct Callers {
    /// Pods, by tokens of their service accounts.
    pub kubernetes: Option<ClusterTokens>,
    /// Static tokens.
    pub tokens: Option<StaticTokens>,
    /// How much each may take.
    pub limits: CallerLimits,
}

/// Which tokens of service accounts are believed.
#[derive(Debug, Clone)]
pub struct ClusterTokens {
    /// Who issues them.
    pub issuer: String,
    /// Whom they are for.
    pub audience: String,
    /// Where the keys of the cluster are.
    pub keys: KeySource,
}

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The gRPC API.
    pub api: SocketAddr,
    /// What operators call; `None`: the same.
    pub admin: Option<SocketAddr>,
    /// Health and metrics.
    pub ops: SocketAddr,
    /// What people see who consent.
    pub pages: Option<Pages>,
    /// TLS of the API; `None`: plaintext.
    pub tls: Option<Arc<Tls>>,
    /// Serve gRPC reflection.
    pub reflection: bool,
}

/// Where the pages are.
#[derive(Debug, Clone)]
pub struct Pages {
    /// Where they listen.
    pub address: SocketAddr,
    /// What browsers know them by; `None`: that address.
    pub url: Option<String>,
}

/// Where grants are kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// In a file of this process.
    Redb(PathBuf),
    /// Nowhere: they end with the process.
    Memory,
    /// In Redis.
    Redis {
        /// How to reach it.
        address: Address,
        /// What all keys begin with.
        prefix: String,
        /// Where this replica writes down what the store is to take; `None`: nowhere.
        journal: Option<PathBuf>,
        /// Do not refuse a Redis that may evict keys.
        allow_eviction: bool,
        /// Replicas of Redis without which nothing is claimed.
        replicas_min: u64,
    },
}

/// What is written down of who did what.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Where.
    pub place: Place,
    /// What changes a grant is not done without it.
    pub required: bool,
}

/// How to log.
#[derive(Debug, Clone)]
pub struct Log {
    /// For people or for programs.
    pub format: LogFormat,
    /// A filter of `tracing`, such as `info`.
    pub level: String,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Human,
    /// A JSON object a line.
    Json,
}

/// How to stop.
#[derive(Debug, Clone, Copy)]
pub struct Shutdown {
    /// Time between saying "not ready" and closing the door.
    pub drain_delay: Duration,
    /// Longest wait for refreshes under way.
    pub drain_max: Duration,
}

/// A mistake in the configuration. Shows where and what is expected, never the value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Dotted path of the setting, or the name of the variable.
    pub path: String,
    /// What is expected there.
    pub message: String,
}

impl Problem {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
