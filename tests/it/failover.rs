//! Redis becomes another server, with an older state: who knows more is waited for before anything is
//! spent.

use std::time::Duration;

use crate::herd::{import, redis_settings};
use crate::support::authority::Authority;
use crate::support::process::Program;
use crate::support::redis::{RedisServer, Sentinel};

const GRANT: &str = "kroger/alice";

struct World {
    authority: Authority,
    redis: RedisServer,
    brokers: [Program; 2],
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let (redis, dir) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
        let url = redis.url();
        let brokers = pair(&dir, &base, &url);
        import(&brokers[0], dir.path(), GRANT, &authority.consent("alice"));
        let world = Self { authority, redis, brokers, _dir: dir };
        for broker in 0..2 {
            assert!(world.cli(broker, &["get", GRANT]).0);
        }
        world
    }

    fn cli(&self, broker: usize, arguments: &[&str]) -> (bool, String) {
        let (ok, _, errors) = self.brokers[broker].cli(arguments);
        (ok, errors)
    }

    async fn rotates(&self, broker: usize) {
        rotates(&self.brokers[broker]).await;
    }
}

/// Two brokers that look at Redis often.
fn pair(dir: &tempfile::TempDir, base: &str, url: &str) -> [Program; 2] {
    let settings = redis_settings(dir.path(), base, url);
    ["a", "b"].map(|name| {
        let mut own = settings.clone();
        own.push(("TOKEN_BROKER__STORE__JOURNAL", name));
        own.push(("TOKEN_BROKER__TIMING__STORE_WATCH", "100ms"));
        Program::start(dir.path(), &["serve"], &own)
    })
}

/// Retries what may fail while Redis is another; what is in memory is served all the time.
async fn rotates(broker: &Program) {
    let mut last = String::new();
    for _ in 0..300 {
        assert!(broker.cli(&["get", GRANT]).0, "hot reads never stop");
        let (ok, _, errors) = broker.cli(&["grant", "rotate", GRANT]);
        if ok {
            return;
        }
        last = errors;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("refreshes do not go on: {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_spent_before_those_who_know_more_have_said_so() {
    let mut world = World::new().await;
    world.redis.cli(&["SAVE"]);
    // Only the first broker knows of a rotation, which Redis loses.
    world.brokers[1].signal("STOP");
    world.rotates(0).await;
    world.brokers[0].signal("STOP");
    world.redis.restart();
    let sent = world.authority.posts();
    world.brokers[1].signal("CONT");
    for _ in 0..10 {
        let (ok, errors) = world.cli(1, &["grant", "rotate", GRANT]);
        assert!(!ok && errors.contains("STORE_UNAVAILABLE"), "{errors}");
        assert!(world.cli(1, &["get", GRANT]).0, "what is in memory is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.authority.posts(), sent, "the old refresh token is spent");
    let (_, status, _) = world.brokers[1].cli(&["status"]);
    assert!(status.contains("other replicas have not compared yet"), "{status}");
    world.brokers[0].signal("CONT");
    world.rotates(1).await;
    world.rotates(0).await;
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_stopped_cleanly_is_not_waited_for() {
    let world = World::new().await;
    // It has brought nothing in the last minute that could be lost yet.
    let World { authority, mut redis, brokers: [second, first], _dir } = world;
    let (code, log) = first.stop();
    assert_eq!(code, Some(0), "{log}");
    // The other has looked since.
    let marks = || {
        let keys = redis.cli(&["KEYS", "tb:mark:*"]);
        keys.lines().map(|key| redis.cli(&["HGET", key, "mark"])).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let before = marks();
        while marks() == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    redis.cli(&["SAVE"]);
    redis.restart();
    rotates(&second).await;
    authority.audit();
}

/// Two servers and a Sentinel that makes the second the primary when the first is gone.
struct Watched {
    primary: RedisServer,
    _replica: RedisServer,
    sentinel: Sentinel,
}

impl Watched {
    async fn start() -> Self {
        let primary = RedisServer::start(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port.to_string();
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]);
        replica.follows(&primary).await;
        let sentinel = Sentinel::start(&port);
        for _ in 0..200 {
            if sentinel.says("REPLICAS").contains(&replica.port.to_string()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { primary, _replica: replica, sentinel }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_costs_nothing() {
    let mut watched = Watched::start().await;
    let authority = Authority::new();
    let base = authority.serve().await;
    let (dir, url) = (tempfile::tempdir().unwrap(), watched.sentinel.url());
    let brokers = pair(&dir, &base, &url);
    import(&brokers[0], dir.path(), GRANT, &authority.consent("alice"));
    for broker in &brokers {
        assert!(broker.cli(&["get", GRANT]).0);
        assert!(broker.cli(&["grant", "rotate", GRANT]).0);
    }
    watched.primary.kill();
    let before = authority.posts();
    for broker in &brokers {
        rotates(broker).await;
    }
    assert_eq!(authority.posts(), before + 2);
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_is_followed() {
    let watched = Watched::start().await;
    let authority = Authority::new();
    let base = authority.serve().await;
    let (dir, url) = (tempfile::tempdir().unwrap(), watched.sentinel.url());
    let mut settings = redis_settings(dir.path(), &base, &url);
    settings.push(("TOKEN_BROKER__TIMING__STORE_WATCH", "100ms"));
    let broker = Program::start(dir.path(), &["serve"], &settings);
    import(&broker, dir.path(), GRANT, &authority.consent("alice"));
    assert!(broker.cli(&["get", GRANT]).0);
    // The old primary lives on, and becomes a replica.
    watched.sentinel.says("FAILOVER");
    for _ in 0..300 {
        if watched.primary.cli(&["ROLE"]).starts_with("slave") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rotates(&broker).await;
    authority.audit();
    let (code, log) = broker.stop();
    assert_eq!(code, Some(0), "{log}");
}
