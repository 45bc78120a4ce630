//! Redis with replicas and with a clock of its own: what a claim rests on, and what it costs to wait.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use token_broker::broker::model::{GrantId, Owner};
use token_broker::broker::store::{Claim, Claims as _, DueIndex as _, Grants as _, Store as _};
use token_broker::clock::{Clock, between};
use token_broker::store::redis::{Address, Admission};
use token_broker::store::{Keyring, Vault};

use crate::herd::{import, redis_settings};
use crate::store_contract::seed;
use crate::support::authority::Authority;
use crate::support::process::Program;
use crate::support::redis::RedisServer;

const GRANT: &str = "kroger/alice";
/// What a measurement of another clock may be off by on a busy machine.
const INEXACT: Duration = Duration::from_secs(30);

struct World {
    authority: Authority,
    primary: RedisServer,
    replica: RedisServer,
    program: Program,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new(more: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port.to_string();
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]);
        replica.follows(&primary).await;
        let (dir, url) = (tempfile::tempdir().unwrap(), primary.url());
        let mut settings = redis_settings(dir.path(), &base, &url);
        settings.extend_from_slice(more);
        let program = Program::start(dir.path(), &["serve"], &settings);
        import(&program, dir.path(), GRANT, &authority.consent("alice"));
        Self { authority, primary, replica, program, _dir: dir }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_under_a_claim_that_only_the_primary_has() {
    let world = World::new(&[]).await;
    let (ok, token, errors) = world.program.cli(&["get", GRANT]);
    assert!(ok, "{errors}");
    let sent = world.authority.posts();
    world.replica.signal("STOP");
    let (ok, _, errors) = world.program.cli(&["grant", "rotate", GRANT]);
    assert!(!ok && errors.contains("STORE_UNAVAILABLE"), "{errors}");
    assert_eq!(world.authority.posts(), sent, "nothing was sent");
    assert_eq!(world.program.cli(&["get", GRANT]).1, token, "the old one is served");
    world.replica.signal("CONT");
    let mut rotated = (false, String::new());
    for _ in 0..100 {
        let (ok, _, errors) = world.program.cli(&["grant", "rotate", GRANT]);
        rotated = (ok, errors);
        if ok {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rotated.0, "{}", rotated.1);
    world.authority.audit();
    assert_eq!(world.authority.posts(), sent + 1);
    // The claim is on the replica before the request is at the provider: a failover keeps it.
    let keys = world.replica.cli(&["KEYS", "*:g:*"]);
    assert_eq!(
        world.primary.cli(&["HGET", &keys, "gen"]),
        world.replica.cli(&["HGET", &keys, "gen"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_must_be_there_are_waited_for() {
    let world = World::new(&[("TOKEN_BROKER__STORE__REPLICAS_MIN", "2")]).await;
    let (ok, _, errors) = world.program.cli(&["get", GRANT]);
    assert!(!ok && errors.contains("STORE_UNAVAILABLE"), "{errors}");
    assert_eq!(world.authority.posts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_clock_is_wrong_judges_by_the_clock_of_the_store() {
    let server = RedisServer::start(&[]);
    let address =
        Address { url: server.url(), password: None, ca: None, timeout: Duration::from_secs(1) };
    let ring = Arc::new(Keyring::generate());
    let open = |ahead: Duration| {
        #[expect(clippy::disallowed_methods, reason = "the clock of the server is the system's")]
        let clock = Clock::simulated(SystemTime::now() + ahead);
        let (address, ring) = (address.clone(), Arc::clone(&ring));
        async move {
            let admission = Admission::default();
            let vault = Vault::in_redis(&address, "tb", admission, false, ring, clock).await;
            let vault = vault.unwrap();
            assert!(vault.health().await.state.is_ok());
            vault.compared().await.unwrap();
            (vault, clock)
        }
    };
    let hour = Duration::from_secs(3_600);
    let ((right, _), (wrong, clock)) = (open(Duration::ZERO).await, open(hour).await);
    let id = GrantId::parse(GRANT).unwrap();
    let grant = right.start_chain(&id, None, seed("one")).await.unwrap().unwrap();
    let owner = |boot| Owner::Process { replica: "r".to_owned(), boot, attempt: 1 };
    let generation = grant.generation();
    let claim = async |boot, store: &Vault| {
        store.claim(&id, generation, owner(boot), None, hour).await.unwrap()
    };
    assert!(matches!(claim(1, &right).await, Claim::Granted(_)));
    let Claim::Busy(held) = claim(2, &wrong).await else { panic!("it is held") };
    assert!(between(held.since, clock.now()) < INEXACT, "it was claimed just now");
    // What is due for one is due for the other.
    wrong.schedule(&id, generation, clock.now()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(right.take_due(9, hour).await.unwrap(), std::slice::from_ref(&id));
    wrong.schedule(&id, generation, clock.now() + INEXACT).await.unwrap();
    assert_eq!(right.take_due(9, hour).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_replicas_ask_seldom() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let (server, dir) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
    let url = server.url();
    let program = Program::start(dir.path(), &["serve"], &redis_settings(dir.path(), &base, &url));
    // What is due is looked for this often, whatever the clock of a busy machine says.
    let asked = |what: &str| {
        let stats = server.cli(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{what}:")));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1)?.parse::<u32>().ok());
        calls.unwrap_or(0)
    };
    // Each look at the store reads twice.
    let (looks, calls) = (asked("hget"), asked("fcall"));
    while asked("hget") < looks + 6 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And is one call, with two for what is due; it was 256 for each of these.
    let made = asked("fcall") - calls;
    assert!((3..=30).contains(&made), "{made} calls");
    drop(program);
}
