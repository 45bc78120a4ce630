//! No secret in the clear: not in the log at TRACE, not in metrics, errors, the file or Redis.

use std::path::Path;

use crate::herd::{import, settings};
use crate::support::authority::{Authority, Fault};
use crate::support::process::{Program, run, text};
use crate::support::redis::RedisServer;

/// Drives a program through good and bad times; gives all that it told.
async fn drive(dir: &Path, store: &str, more: &[(&str, &str)]) -> (Vec<String>, String) {
    let authority = Authority::new();
    let base = authority.serve().await;
    let mut environment = settings(&base, store);
    environment.push(("TOKEN_BROKER__LOG__LEVEL", "trace"));
    environment.push(("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "0s"));
    environment.extend(more);
    let program = Program::start(dir, &["serve"], &environment);
    import(&program, dir, "kroger/alice", &authority.consent("alice"));
    let mut told = String::new();
    let mut tell = |(_, output, errors): (bool, String, String)| {
        told.push_str(&output);
        told.push_str(&errors);
    };
    let (ok, token, _) = program.cli(&["get", "kroger/alice"]);
    assert!(ok && token.contains("access-canary"), "a token is what GetToken is for");
    for fault in
        [Fault::OnlyRefreshToken, Fault::Answer(403, "blocked"), Fault::Answer(503, "busy")]
    {
        authority.next(fault);
        tell(program.cli(&["grant", "rotate", "kroger/alice"]));
    }
    tell(program.cli(&["refresh", "kroger/alice"]));
    tell(program.cli(&["grant", "show", "kroger/alice", "--json"]));
    tell(program.cli(&["grant", "list", "--json"]));
    tell(program.cli(&[
        "grant",
        "import",
        "kroger/alice",
        "--provider",
        "nobody",
        "--refresh-token-file",
        "refresh-token",
    ]));
    told.push_str(&program.page("/metrics"));
    let (_, shown) = program.grpcurl(
        r#"{"grant_id":"!","refresh_token":"refresh-canary-in-a-bad-request"}"#,
        "GrantAdminService/ImportGrant",
    );
    told.push_str(&shown);
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"level\":\"TRACE\""), "the log is at TRACE");
    told.push_str(&log);
    assert!(authority.posts() >= 3);
    let mut secrets = authority.secrets();
    secrets.extend(["client-secret-canary".to_owned(), "in-a-bad-request".to_owned()]);
    (secrets, told)
}

fn assert_none(secrets: &[String], place: &str, bytes: &[u8]) {
    for secret in secrets {
        let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{secret} stands in {place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn none_on_redb() {
    let dir = tempfile::tempdir().unwrap();
    let (secrets, told) = drive(dir.path(), "redb:store.redb", &[]).await;
    assert_none(&secrets, "what the program told", told.as_bytes());
    assert_none(&secrets, "the store", &std::fs::read(dir.path().join("store.redb")).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn none_on_redis() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&["--appendonly", "yes"]);
    run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
    let ring = ("TOKEN_BROKER__KEYS__FILE", "keys.json");
    let (secrets, told) = drive(dir.path(), &server.url(), &[ring]).await;
    assert_none(&secrets, "what the program told", told.as_bytes());
    assert_eq!(server.cli(&["SAVE"]), "OK");
    let mut files = 0;
    let mut folders = vec![server.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files += 1;
                assert_none(&secrets, &path.display().to_string(), &std::fs::read(&path).unwrap());
            }
        }
    }
    assert!(files >= 2, "the dump and the append-only file");
    assert_none(
        &secrets,
        "the slow log",
        text(server.cli(&["SLOWLOG", "GET", "100"]).as_bytes()).as_bytes(),
    );
}
