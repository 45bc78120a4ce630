//! Which Redis is accepted, and what is said where it is not.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use token_broker::broker::store::{Grade, Store as _};
use token_broker::clock::Clock;
use token_broker::secret::ClientSecret;
use token_broker::store::redis::{Address, Admission};
use token_broker::store::{Keyring, OpenError, Vault};

use crate::support::redis::{RedisServer, free_port};

async fn open(url: &str, password: Option<&str>) -> Result<Vault, OpenError> {
    open_with(url, password, Arc::new(Keyring::generate())).await
}

async fn open_with(
    url: &str,
    password: Option<&str>,
    ring: Arc<Keyring>,
) -> Result<Vault, OpenError> {
    let password = password.map(ClientSecret::new);
    let address =
        Address { url: url.to_owned(), password, ca: None, timeout: Duration::from_millis(500) };
    Vault::in_redis(&address, "tb", Admission::default(), false, ring, Clock::system()).await
}

fn refused(result: Result<Vault, OpenError>) -> String {
    match result.err().expect("it was accepted") {
        OpenError::Refused(why) => why,
        OpenError::Unavailable(why) => panic!("waits instead of refusing: {why}"),
    }
}

fn waits(result: Result<Vault, OpenError>) -> String {
    match result.err().expect("it was accepted") {
        OpenError::Unavailable(why) => why,
        OpenError::Refused(why) => panic!("refuses instead of waiting: {why}"),
    }
}

#[tokio::test]
async fn passwords_are_asked_for_and_checked() {
    let server = RedisServer::start(&["--requirepass", "right"]);
    assert!(refused(open(&server.url(), None).await).contains("password"));
    let wrong = refused(open(&server.url(), Some("canary-wrong")).await);
    assert!(wrong.contains("password") && !wrong.contains("canary"), "{wrong}");
    assert!(open(&server.url(), Some("right")).await.is_ok());
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused_with_the_remedy() {
    let server = RedisServer::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let why = refused(open(&server.url(), None).await);
    assert!(why.contains("noeviction") && why.contains("store.allow_eviction"), "{why}");
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    assert!(open(&server.url(), None).await.is_ok());
}

#[tokio::test]
async fn a_full_redis_is_waited_for() {
    let server = RedisServer::start(&["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]);
    server.cli(&["CONFIG", "SET", "maxmemory", "100000"]);
    let why = waits(open(&server.url(), None).await);
    assert!(why.contains("full") && why.contains("maxmemory"), "{why}");
}

#[tokio::test]
async fn nobody_there_is_waited_for() {
    let why = waits(open(&format!("redis://127.0.0.1:{}", free_port()), None).await);
    assert!(why.contains("does not answer"), "{why}");
}

#[tokio::test]
async fn garbage_is_refused() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n<html>no</html>");
        }
    });
    let why = refused(open(&url, None).await);
    assert!(why.contains("does not speak the Redis protocol"), "{why}");
}

#[tokio::test]
async fn a_replica_is_not_written_to() {
    let primary = RedisServer::start(&[]);
    let port = primary.port.to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]);
    assert!(waits(open(&replica.url(), None).await).contains("replica"));
}

#[tokio::test]
async fn another_key_ring_is_refused_on_redis_and_on_redb() {
    let server = RedisServer::start(&[]);
    let ring = Arc::new(Keyring::generate());
    open_with(&server.url(), None, Arc::clone(&ring)).await.unwrap();
    assert!(refused(open(&server.url(), None).await).contains("key ring"));
    assert!(open_with(&server.url(), None, Arc::clone(&ring)).await.is_ok());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let open = |ring| Vault::in_file(&path, false, ring, Clock::system());
    drop(open(Arc::clone(&ring)).await.unwrap());
    let other = open(Arc::new(Keyring::generate())).await;
    assert!(other.err().unwrap().to_string().contains("key ring"));
    assert!(open(ring).await.is_ok(), "nothing was lost");
}

#[tokio::test]
async fn a_damaged_or_busy_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let ring = Arc::new(Keyring::generate());
    let open = || Vault::in_file(&path, false, Arc::clone(&ring), Clock::system());
    let first = open().await.unwrap();
    assert!(open().await.err().unwrap().to_string().contains("in use"));
    drop(first);
    let whole = std::fs::read(&path).unwrap();
    for damaged in
        [b"not a database, but long enough to be read as one".repeat(200), whole[..600].to_vec()]
    {
        std::fs::write(&path, &damaged).unwrap();
        let why = open().await.err().unwrap().to_string();
        assert!(why.contains("store"), "{why}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged, "the evidence is kept");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(open().await.is_ok());
}

/// Claims are calls of functions: whoever may not make them hears of it before callers do.
#[tokio::test]
async fn a_user_without_rights_is_refused_with_the_remedy() {
    let server = RedisServer::start(&[]);
    let users = [
        ("no-functions", "+@all -fcall ~*", "FCALL"),
        ("no-keys", "+@all ~other:*", "HSET"),
        ("no-wait", "+@all -wait -hkeys ~*", "WAIT, HKEYS; run `ACL SETUSER NAME +wait +hkeys"),
        ("no-info", "+@all -info ~*", "INFO"),
    ];
    for (name, rights, told) in users {
        let mut command = vec!["ACL", "SETUSER", name, "on", ">secret", "&*"];
        command.extend(rights.split(' '));
        assert_eq!(server.cli(&command), "OK");
        let url = server.url().replace("redis://", &format!("redis://{name}:secret@"));
        let why = refused(open(&url, None).await);
        assert!(why.contains(told) && why.contains("store.prefix"), "{name}: {why}");
    }
}

#[test]
fn a_redis_that_keeps_nothing_is_told_of_with_the_remedy() {
    let server = RedisServer::start(&["--save", "", "--appendonly", "no"]);
    let dir = tempfile::tempdir().unwrap();
    let url = server.url();
    let environment = crate::herd::redis_settings(dir.path(), "http://127.0.0.1:1", &url);
    let program = crate::support::process::Program::start(dir.path(), &["serve"], &environment);
    let told = program.seen.iter().find(|line| line.contains("keeps nothing on disk"));
    assert!(told.is_some_and(|line| line.contains("CONFIG SET appendonly yes")), "{told:?}");
}

/// `docs/redis.md` says what a user needs; it is taken at its word.
#[tokio::test]
async fn the_user_of_the_manual_may_do_all_that_is_needed() {
    let manual = include_str!("../../docs/redis.md");
    let from = manual.find("ACL SETUSER token-broker").unwrap();
    let block = &manual[from..from + manual[from..].find("```").unwrap()];
    let server = RedisServer::start(&[]);
    let command: Vec<_> = block.split_whitespace().collect();
    assert_eq!(server.cli(&command), "OK");
    let url = server.url().replace("redis://", "redis://token-broker:PASSWORD@");
    let store = open(&url, None).await.unwrap();
    assert!(store.health().await.state.is_ok());
    let findings = store.examine().await.unwrap();
    let rights = findings.iter().find(|finding| finding.check == "rights").unwrap();
    assert_eq!(rights.grade, Grade::Fine, "{rights}");
}
