//! A store that an older version wrote is converted at its first start, and loses nothing.
//!
//! The fixtures were written by the last version of format 1: a file of redb, and the commands that
//! fill a Redis with the same grants (command, key, and its arguments in base64).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use token_broker::broker::model::{DoubtKind, Generation, Grant, GrantId, Reason, Standing};
use token_broker::broker::store::{Merged, Store, Stored};
use token_broker::clock::Clock;
use token_broker::store::redis::{Address, Admission};
use token_broker::store::{Keyring, OpenError, Vault};
use tokio::time::timeout;

use crate::support::redis::RedisServer;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format_1").join(name)
}

fn ring() -> Arc<Keyring> {
    Arc::new(Keyring::load(&fixture("keys")).unwrap())
}

async fn fill(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let text = std::fs::read_to_string(fixture("redis.json")).unwrap();
    let commands: Vec<Vec<String>> = serde_json::from_str(&text).unwrap();
    for words in commands {
        let [name, key, arguments @ ..] = words.as_slice() else { panic!("{words:?}") };
        let mut command = redis::cmd(name);
        command.arg(key);
        for argument in arguments {
            command.arg(STANDARD.decode(argument).unwrap());
        }
        command.exec_async(&mut connection).await.unwrap();
    }
    connection
}

async fn open(server: &RedisServer) -> Result<Vault, OpenError> {
    let address =
        Address { url: server.url(), password: None, ca: None, timeout: Duration::from_secs(1) };
    Vault::in_redis(&address, "tb", Admission::default(), false, ring(), Clock::system()).await
}

async fn live(store: &dyn Store, name: &str) -> Grant {
    store.load(&GrantId::parse(name).unwrap()).await.unwrap().unwrap().grant().unwrap()
}

/// What every store of format 1 among the fixtures holds.
async fn holds_everything(store: &dyn Store) {
    let usable = live(store, "a/usable").await;
    assert_eq!(usable.pair.refresh_token.as_ref().unwrap().expose(), "refresh-1");
    assert_eq!(usable.descriptor.scopes, ["x", "y"]);
    assert!(usable.descriptor.keep_warm && !usable.descriptor.disabled);
    assert_eq!(usable.standing, Standing::Usable);

    let refused = live(store, "a/refused").await;
    let Standing::Refused(verdict) = &refused.standing else { panic!("{refused:?}") };
    assert_eq!((verdict.reason, verdict.provider_status), (Reason::GrantReauthRequired, Some(400)));
    assert_eq!(verdict.given_up.as_ref().unwrap().attempts, 2);

    let held = live(store, "a/doubtful").await.intent.unwrap();
    assert_eq!(held.in_doubt().unwrap().kind, DoubtKind::Answered);
    assert!(live(store, "a/off").await.descriptor.disabled);
    let deleted = store.load(&GrantId::parse("a/deleted").unwrap()).await.unwrap();
    assert!(matches!(deleted, Some(Stored::Deleted(_))));
    assert_eq!(store.list(None, 10).await.unwrap().grants.len(), 4);
    let mut due = store.take_due(1_000, Duration::from_secs(60)).await.unwrap();
    due.sort();
    assert_eq!(due.iter().map(GrantId::as_str).collect::<Vec<_>>(), ["a/doubtful", "a/usable"]);

    // And it goes on from there.
    let next = Grant {
        position: token_broker::broker::model::Position {
            generation: Generation(usable.generation().0 + 1),
            ..usable.position
        },
        ..usable
    };
    assert_eq!(store.merge(&next, None).await.unwrap(), Merged::Published);
    assert_eq!(live(store, "a/usable").await.generation(), next.generation());
}

#[tokio::test]
async fn a_file_is_converted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    std::fs::copy(fixture("store.redb"), &path).unwrap();
    holds_everything(&Vault::in_file(&path, false, ring(), Clock::system()).await.unwrap()).await;
    let again = Vault::in_file(&path, false, ring(), Clock::system()).await.unwrap();
    assert!(live(&again, "a/off").await.descriptor.disabled, "once is enough");
}

#[tokio::test]
async fn redis_is_converted_when_nobody_else_is_connected() {
    let server = RedisServer::start(&[]);
    let mut other = fill(&server).await;
    let name = redis::cmd("CLIENT").arg("SETNAME").arg("token-broker:tb").clone();
    name.exec_async(&mut other).await.unwrap();
    let error = open(&server).await.err().unwrap();
    assert!(matches!(&error, OpenError::Unavailable(why) if why.contains("another")), "{error}");
    drop(other);
    // The server needs a moment to notice that it is gone.
    let once_alone = async {
        loop {
            match open(&server).await {
                Err(OpenError::Unavailable(_)) => tokio::task::yield_now().await,
                opened => break opened,
            }
        }
    };
    let store = timeout(Duration::from_secs(10), once_alone).await.unwrap().unwrap();
    holds_everything(&store).await;
    let record = server.cli(&["HGETALL", "tb:{19}:g:a/doubtful"]);
    assert!(!record.contains("team"), "labels are sealed now");
}
