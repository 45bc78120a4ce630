//! A broker on paused time: in-memory store, the strict authority in process, and the generated
//! client wrapped around the generated server.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::registry::Registry;
use token_broker::audit::Audit;
use token_broker::broker::Broker;
use token_broker::broker::metrics::Metrics;
use token_broker::broker::settings::{Predecessors, Settings};
use token_broker::broker::store::Store;
use token_broker::clock::Clock;
use token_broker::proto::grant_admin_service_client::GrantAdminServiceClient;
use token_broker::proto::grant_admin_service_server::GrantAdminServiceServer;
use token_broker::proto::token_service_client::TokenServiceClient;
use token_broker::proto::token_service_server::TokenServiceServer;
use token_broker::service::{Admin, Gate, Observe, Tokens};
use token_broker::store::{Keyring, Vault};

use super::authority::Authority;
use super::calls::Calls;

/// A day in 2027, so that generations look like those of the product.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Number of the first process.
const FIRST_BOOT: u64 = 7;

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) broker: Arc<Broker>,
    pub(crate) calls: Calls<TokenServiceServer<Tokens>, GrantAdminServiceServer<Admin>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) store: Arc<dyn Store>,
    clock: Clock,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Authority::new(), |store| store)
    }

    /// `wrap` may put something between the broker and the store.
    pub(crate) fn with(
        authority: Authority,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        Self::looking(Settings::default().due_tick, authority, wrap)
    }

    /// For days: what is due is looked for once a minute only.
    pub(crate) fn for_days(authority: Authority) -> Self {
        Self::looking(Duration::from_secs(60), authority, |store| store)
    }

    fn looking(
        due_tick: Duration,
        authority: Authority,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        let clock = Clock::simulated(UNIX_EPOCH + EPOCH).steady();
        let store = Vault::in_memory(Arc::new(Keyring::generate()), clock).unwrap();
        let alone = Settings {
            send_gate: None,
            predecessors: Predecessors::AllGone,
            due_tick,
            ..Settings::default()
        };
        Self::on(wrap(Arc::new(store)), authority, clock, FIRST_BOOT, alone)
    }

    /// Another broker on the same store.
    pub(crate) fn again(&self) -> Self {
        self.next(Settings::default())
    }

    /// The broker that comes after this one has died.
    pub(crate) fn restarted(&self) -> Self {
        self.next(Settings { predecessors: Predecessors::AllGone, ..Settings::default() })
    }

    fn next(&self, settings: Settings) -> Self {
        let (store, authority) = (Arc::clone(&self.store), self.authority.clone());
        Self::on(store, authority, self.clock, FIRST_BOOT + 1, settings)
    }

    fn on(
        store: Arc<dyn Store>,
        authority: Authority,
        clock: Clock,
        boot: u64,
        settings: Settings,
    ) -> Self {
        let mut registry = Registry::default();
        let gate = Arc::new(Gate::open(clock));
        let observe =
            Observe::new(&mut registry, settings.caller_wait_max, gate, Audit::off(clock));
        let metrics = Metrics::new(&mut registry);
        let endpoint = Arc::new(authority.clone());
        let broker = Broker::new(Arc::clone(&store), endpoint, clock, settings, metrics, boot);
        let tokens = Tokens::new(Arc::clone(&broker), Arc::clone(&observe));
        let admin = Admin::new(Arc::clone(&broker), observe, clock.now());
        let calls = Calls {
            tokens: TokenServiceClient::new(TokenServiceServer::new(tokens)),
            admin: GrantAdminServiceClient::new(GrantAdminServiceServer::new(admin)),
        };
        Self { authority, broker, calls, registry: Arc::new(registry), store, clock }
    }

    /// Sets the wall clock ahead, or back, while the broker runs.
    pub(crate) fn turn(&self, seconds: i64) {
        self.clock.turn(seconds);
    }

    /// What the wall clock shows.
    pub(crate) fn wall(&self) -> std::time::SystemTime {
        self.clock.to_wall(self.clock.now())
    }

    /// The work that goes on unasked.
    pub(crate) fn start_scheduler(&self) {
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(Arc::clone(&self.broker).run_scheduler());
    }

    /// Alice consents and her grant is imported.
    pub(crate) async fn alice(&self) {
        let token = self.authority.consent("alice");
        self.calls.clone().import("kroger/alice", &token).await.unwrap();
    }
}

/// Lets time pass, and everything that is due in it happen.
pub(crate) async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
