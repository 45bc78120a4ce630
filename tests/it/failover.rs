//! Redis becomes another server, with an older state: who knows more is waited for before anything is
//! spent.

use std::time::Duration;

use crate::herd::{import, redis_settings, settings};
use crate::support::authority::Authority;
use crate::support::process::{Program, run};
use crate::support::redis::{RedisServer, Sentinel};

const GRANT: &str = "kroger/alice";
/// Requests may be under way for four seconds, and no longer.
const SHORT: [(&str, &str); 3] = [
    ("TOKEN_BROKER__PROVIDERS__DEFAULT__CONNECT_TIMEOUT", "200ms"),
    ("TOKEN_BROKER__PROVIDERS__DEFAULT__LISTEN_MAX", "2500ms"),
    ("TOKEN_BROKER__TIMING__SUSPECT_MARGIN", "200ms"),
];

struct World {
    authority: Authority,
    redis: RedisServer,
    brokers: [Program; 2],
    base: String,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let (redis, dir) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
        let url = redis.url();
        let brokers = pair(&dir, &base, &url);
        import(&brokers[0], dir.path(), GRANT, &authority.consent("alice"));
        let world = Self { authority, redis, brokers, base, dir };
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
    let made = run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
    assert!(made.status.success());
    ["a", "b"].map(|journal| start(dir, base, url, journal))
}

fn start(dir: &tempfile::TempDir, base: &str, url: &str, journal: &str) -> Program {
    let mut own = settings(base, url);
    own.extend(SHORT);
    own.push(("TOKEN_BROKER__KEYS__FILE", "keys.json"));
    own.push(("TOKEN_BROKER__STORE__JOURNAL", journal));
    own.push(("TOKEN_BROKER__TIMING__STORE_WATCH", "100ms"));
    Program::start(dir.path(), &["serve"], &own)
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
        assert!(!ok && errors.contains("STORE_"), "{errors}");
        assert!(world.cli(1, &["get", GRANT]).0, "what is in memory is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (ok, errors) = world.cli(1, &["grant", "rotate", GRANT]);
    assert!(!ok && errors.contains("STORE_RECOVERING"), "{errors}");
    assert!(errors.contains("confirm-store"), "the caller hears what ends it: {errors}");
    assert_eq!(world.authority.posts(), sent, "the old refresh token is spent");
    let (_, status, _) = world.brokers[1].cli(&["status"]);
    assert!(status.contains("have not said yet what they know"), "{status}");
    let page = world.brokers[1].page("/readyz");
    assert!(page.contains("waited for until") && page.contains("confirm-store"), "{page}");
    let (ok, errors) = world.cli(1, &["confirm-store", "another"]);
    assert!(!ok && errors.contains("INVALID_REQUEST"), "{errors}");
    world.brokers[0].signal("CONT");
    world.rotates(1).await;
    world.rotates(0).await;
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_says_who_is_not_waited_for() {
    let mut world = World::new().await;
    let (_, status, _) = world.brokers[1].cli(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let deployment = status["deployment_id"].as_str().unwrap();
    world.redis.cli(&["SAVE"]);
    world.brokers[0].signal("KILL");
    world.redis.restart();
    let mut told = String::new();
    while !told.contains("no replica waits for") {
        let (ok, errors) = world.cli(1, &["grant", "rotate", GRANT]);
        assert!(!ok && errors.contains("STORE_"), "{errors}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        told = world.brokers[1].cli(&["confirm-store", deployment]).1;
    }
    world.rotates(1).await;
    // Neither one that starts anew waits for it, nor one that has a name of its own.
    let [_, second] = world.brokers;
    let (code, log) = second.stop();
    assert_eq!(code, Some(0), "{log}");
    for journal in ["b", "c"] {
        let broker = start(&world.dir, &world.base, &world.redis.url(), journal);
        rotates(&broker).await;
        let (code, log) = broker.stop();
        assert!(code == Some(0) && !log.contains("have not said"), "{log}");
    }
    world.authority.audit();
}

/// With it claims are gone: what another replica has under way is not sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_when_redis_goes_back_is_not_sent_twice() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let (redis, dir) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
    let url = redis.url();
    let mut settings = redis_settings(dir.path(), &base, &url);
    settings.extend(SHORT);
    let [holder, other] = ["a", "b"].map(|name| {
        let mut own = settings.clone();
        own.push(("TOKEN_BROKER__STORE__JOURNAL", name));
        Program::start(dir.path(), &["serve"], &own)
    });
    import(&holder, dir.path(), GRANT, &authority.consent("alice"));
    for broker in [&holder, &other] {
        assert!(broker.cli(&["get", GRANT]).0);
    }
    for key in redis.cli(&["KEYS", "tb:*"]).lines() {
        redis.cli(&["COPY", key, key, "DB", "1"]);
    }
    // Both have looked at it since.
    let marks = |database: &'static str| {
        let keys = redis.cli(&["-n", database, "KEYS", "tb:mark:*"]);
        let of = |key: &str| redis.cli(&["-n", database, "HGET", key, "mark"]);
        keys.lines().map(|key| (key.to_owned(), of(key))).collect::<Vec<_>>()
    };
    let before = marks("1");
    while marks("0").iter().any(|mark| before.contains(mark)) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    authority.delay(Duration::from_secs(2));
    let posts = authority.posts();
    std::thread::scope(|scope| {
        let address = format!("http://{}", holder.api);
        scope.spawn(move || {
            let target = [("TOKEN_BROKER_ADDRESS", address.as_str())];
            run(std::path::Path::new("/"), &["grant", "rotate", GRANT], &target)
        });
        while authority.posts() == posts {
            std::thread::yield_now();
        }
        redis.cli(&["SWAPDB", "0", "1"]);
        authority.delay(Duration::ZERO);
        // Whether it is told to come back or waits: it does not send what is under way.
        other.cli(&["grant", "rotate", GRANT]);
    });
    rotates(&other).await;
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_stopped_cleanly_is_not_waited_for() {
    let world = World::new().await;
    // It has brought nothing in the last minute that could be lost yet.
    let World { authority, mut redis, brokers: [second, first], base: _, dir: _dir } = world;
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
