//! `doctor`: what a broker with this configuration would rest on.

use crate::herd::redis_settings;
use crate::support::process::{Program, run, text};
use crate::support::redis::{RedisServer, free_port};

#[test]
fn what_is_to_be_mended_is_told_in_a_table_and_as_json() {
    let (server, dir) = (RedisServer::start(&["--appendonly", "no"]), tempfile::tempdir().unwrap());
    let url = server.url();
    let mut environment = redis_settings(dir.path(), "http://127.0.0.1:1", &url);
    environment.push(("TOKEN_BROKER__STORE__JOURNAL", "journal"));
    let told = run(dir.path(), &["doctor"], &environment);
    let table = text(&told.stdout);
    assert_eq!(told.status.code(), Some(1), "the provider cannot be reached: {table}");
    for row in [["persistence", "risk"], ["role", "ok"], ["provider", "waits"], ["journal", "ok"]] {
        let there = |line: &str| line.split_whitespace().take(2).eq(row);
        assert!(table.lines().any(there), "{row:?}\n{table}");
    }
    assert!(table.contains("\npersistence: run `CONFIG SET appendonly yes`"), "{table}");
    assert_eq!(server.cli(&["DBSIZE"]), "0", "it begins nothing");
    assert!(!dir.path().join("journal").exists());

    let told = run(dir.path(), &["doctor", "--json"], &environment);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&told.stdout).unwrap();
    let of = |check: &str| findings.iter().find(|finding| finding["check"] == check).unwrap();
    assert_eq!(of("eviction")["state"], "ok");
    assert!(of("persistence")["remedy"].as_str().unwrap().contains("appendonly"));

    let nobody = format!("redis://127.0.0.1:{}", free_port());
    environment.retain(|(name, _)| *name != "TOKEN_BROKER__STORE__URL");
    environment.push(("TOKEN_BROKER__STORE__URL", &nobody));
    let told = text(&run(dir.path(), &["doctor"], &environment).stdout);
    assert!(
        told.lines().any(|line| line.split_whitespace().take(2).eq(["store", "waits"])),
        "{told}"
    );
}

#[test]
fn what_an_operator_changes_while_it_runs_is_seen() {
    let (server, dir) =
        (RedisServer::start(&["--appendonly", "yes"]), tempfile::tempdir().unwrap());
    let url = server.url();
    let mut environment = redis_settings(dir.path(), "http://127.0.0.1:1", &url);
    environment.push(("TOKEN_BROKER__STORE__JOURNAL", "journal"));
    environment.push(("TOKEN_BROKER__TIMING__STORE_WATCH", "20ms"));
    let mut program = Program::start(dir.path(), &["serve"], &environment);
    let (_, status, _) = program.cli(&["status"]);
    assert!(!status.contains("store risk"), "{status}");
    server.cli(&["CONFIG", "SET", "appendonly", "no"]);
    let line = program.wait_for("keeps nothing on disk");
    assert!(line.contains("CONFIG SET appendonly yes"), "{line}");
    let (_, status, _) = program.cli(&["status"]);
    assert!(status.contains("store risk     persistence: "), "{status}");
    server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
    program.wait_for("well again");
}

#[test]
fn the_embedded_store_is_looked_at_without_being_opened() {
    let dir = tempfile::tempdir().unwrap();
    let url = [("TOKEN_BROKER__STORE__URL", "redb:store.redb")];
    let told = run(dir.path(), &["doctor"], &url);
    assert!(told.status.success(), "{}", text(&told.stdout));
    assert!(text(&told.stdout).contains("the first start makes it"));
    assert!(!dir.path().join("store.redb").exists());
}
