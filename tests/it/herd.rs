//! Many callers at once, against the real program, over sockets, on each store.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use token_broker::client::Client;

use crate::support::authority::Authority;
use crate::support::calls::Calls;
use crate::support::process::{Program, run};
use crate::support::redis::RedisServer;

/// Callers of an expired grant.
const CALLERS: usize = 1_000;
/// Callers who saw the same token rejected.
const REJECTERS: usize = 200;

/// Settings of a program that fetches from `base` and keeps its grants at `store`.
pub(crate) fn settings<'a>(base: &'a str, store: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("OAUTH2_BASE_URL", base),
        ("CLIENT_ID", "id"),
        ("CLIENT_SECRET", "client-secret-canary"),
        ("TOKEN_BROKER__STORE__URL", store),
        ("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "200ms"),
        ("TOKEN_BROKER__TIMING__RETRY_BACKOFF", "50ms"),
    ]
}

/// The same with a key ring in `dir`, for Redis at `url`.
pub(crate) fn redis_settings<'a>(
    dir: &Path,
    base: &'a str,
    url: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let made = run(dir, &["keys", "generate", "--file", "keys.json"], &[]);
    assert!(made.status.success());
    let mut settings = settings(base, url);
    settings.push(("TOKEN_BROKER__KEYS__FILE", "keys.json"));
    settings
}

/// Stores the refresh token of a person by the command line.
pub(crate) fn import(program: &Program, dir: &Path, grant: &str, token: &str) {
    let file = dir.join("refresh-token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let file = file.display().to_string();
    let arguments =
        ["grant", "import", grant, "--provider", "default", "--refresh-token-file", &file];
    let (ok, _, errors) = program.cli(&arguments);
    assert!(ok, "{errors}");
}

async fn herd(dir: &Path, store: &str, more: &[(&str, &str)]) {
    let authority = Authority::new().lifetime(Duration::from_secs(4));
    let base = authority.serve().await;
    let mut environment = settings(&base, store);
    // Nothing happens unasked, so that the grant does expire.
    environment.push(("TOKEN_BROKER__TIMING__DUE_TICK", "1h"));
    environment.extend(more);
    let program = Program::start(dir, &["serve"], &environment);
    import(&program, dir, "kroger/alice", &authority.consent("alice"));
    let client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let calls = Calls { tokens: client.tokens, admin: client.admin };

    let first = calls.clone().get("kroger/alice").await.unwrap();
    let expiry = Duration::try_from(first.ttl.unwrap()).unwrap();
    tokio::time::sleep(expiry).await;
    authority.delay(Duration::from_millis(400));
    let posts = authority.posts();
    let answers = join_all((0..CALLERS).map(|_| {
        let mut calls = calls.clone();
        async move { calls.get("kroger/alice").await.unwrap().access_token }
    }));
    let answers = answers.await;
    assert!(answers.iter().all(|token| *token == answers[0] && *token != first.access_token));
    assert_eq!(authority.posts() - posts, 1, "{CALLERS} callers, one request");

    tokio::time::sleep(Duration::from_millis(250)).await;
    let current = calls.clone().get("kroger/alice").await.unwrap();
    let posts = authority.posts();
    let answers =
        join_all(
            (0..REJECTERS).map(|_| {
                let mut calls = calls.clone();
                async move {
                    calls.reject("kroger/alice", current.generation).await.unwrap().token.unwrap()
                }
            }),
        );
    let answers = answers.await;
    assert!(answers.iter().all(|token| token.access_token == answers[0].access_token));
    assert_eq!(answers[0].generation, current.generation + 1);
    assert_eq!(authority.posts() - posts, 1, "{REJECTERS} rejections, one request");
    authority.audit();
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
}

/// Callers at several replicas, whose token has expired.
#[tokio::test(flavor = "multi_thread")]
async fn one_request_for_all_at_three_replicas() {
    const REPLICAS: usize = 3;
    const EACH: usize = 200;
    let authority = Authority::new().lifetime(Duration::from_secs(4));
    let base = authority.serve().await;
    let (server, dir) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
    let url = server.url();
    let mut environment = redis_settings(dir.path(), &base, &url);
    // Nothing happens unasked, so that the grant does expire.
    environment.push(("TOKEN_BROKER__TIMING__DUE_TICK", "1h"));
    let programs = ["a", "b", "c"].map(|name| {
        let mut own = environment.clone();
        own.push(("TOKEN_BROKER__STORE__JOURNAL", name));
        Program::start(dir.path(), &["serve"], &own)
    });
    import(&programs[0], dir.path(), "kroger/alice", &authority.consent("alice"));
    let mut replicas = Vec::new();
    for program in &programs {
        let client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
        replicas.push(Calls { tokens: client.tokens, admin: client.admin });
    }
    let first = replicas[0].clone().get("kroger/alice").await.unwrap();
    tokio::time::sleep(Duration::try_from(first.ttl.unwrap()).unwrap()).await;
    authority.delay(Duration::from_millis(400));
    let callers = (0..REPLICAS * EACH).map(|n| {
        let mut calls = replicas[n % REPLICAS].clone();
        async move { calls.get("kroger/alice").await.unwrap().generation }
    });
    let answers = join_all(callers).await;
    assert!(answers.iter().all(|generation| *generation == first.generation + 1));
    assert_eq!(authority.posts(), 2, "{} callers at three replicas, one request", answers.len());
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_for_all_on_redb() {
    let dir = tempfile::tempdir().unwrap();
    herd(dir.path(), "redb:store.redb", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_for_all_on_redis() {
    let server = RedisServer::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let made = run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
    assert!(made.status.success());
    herd(dir.path(), &server.url(), &[("TOKEN_BROKER__KEYS__FILE", "keys.json")]).await;
}
