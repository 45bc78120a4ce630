//! Records and entries that cannot be read: in nobody's way, and not without a remedy.

use std::time::Duration;

use crate::herd::{import, redis_settings, settings};
use crate::support::authority::Authority;
use crate::support::process::Program;
use crate::support::redis::RedisServer;

const GRANTS: [&str; 4] = ["kroger/alice", "kroger/bob", "kroger/carol", "kroger/dave"];

/// All but the first are damaged: only the first is listed, and the others get better one way or
/// the other.
fn gets_better(program: &Program, dir: &std::path::Path, authority: &Authority) {
    let (ok, list, errors) = program.cli(&["grant", "list"]);
    assert!(ok && list.contains(GRANTS[0]), "{errors}");
    for grant in &GRANTS[1..] {
        assert!(!list.contains(grant), "{list}");
        let (ok, _, errors) = program.cli(&["get", grant]);
        assert!(!ok && errors.contains("RECORD_UNREADABLE"), "{grant}: {errors}");
        assert!(errors.contains("--replace"), "the remedy is told: {errors}");
    }
    let (ok, _, errors) = program.cli(&["grant", "delete", GRANTS[1]]);
    assert!(ok, "{errors}");
    let (ok, _, errors) = program.cli(&["get", GRANTS[1]]);
    assert!(!ok && errors.contains("GRANT_NOT_FOUND"), "{errors}");
    import(program, dir, GRANTS[1], &authority.consent("bob"));
    for grant in &GRANTS[2..] {
        let consent = authority.consent(grant);
        let file = dir.join("consent");
        std::fs::write(&file, consent).unwrap();
        let file = file.to_str().unwrap();
        let (ok, _, errors) = program.cli(&[
            "grant",
            "import",
            grant,
            "--provider",
            "default",
            "--refresh-token-file",
            file,
            "--replace",
        ]);
        assert!(ok, "{grant}: {errors}");
    }
    for grant in GRANTS {
        let (ok, _, errors) = program.cli(&["get", grant]);
        assert!(ok, "{grant}: {errors}");
    }
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_redis_has_a_remedy() {
    let authority = Authority::new().lifetime(Duration::from_secs(4));
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let environment = redis_settings(dir.path(), &base, &url);
    let program = Program::start(dir.path(), &["serve"], &environment);
    for grant in GRANTS {
        import(&program, dir.path(), grant, &authority.consent(grant));
    }
    program.stop();
    let key = |grant: &str| server.cli(&["KEYS", &format!("tb:*:g:{grant}")]);
    server.cli(&["HDEL", &key(GRANTS[1]), "gen"]);
    server.cli(&["HSET", &key(GRANTS[2]), "io", "x", "igen", "y"]);
    server.cli(&["SET", &key(GRANTS[3]), "a string"]);
    let shard = key(GRANTS[0]).replace(":g:kroger/alice", "");
    server.cli(&["ZADD", &format!("{shard}:ids"), "0", "a bad name"]);
    server.cli(&["ZADD", &format!("{shard}:due"), "0", "another\nbad name"]);
    server.cli(&["SET", "tb:{00}:due", "no index"]);
    let program = Program::start(dir.path(), &["serve"], &environment);
    assert!(program.cli(&["get", GRANTS[0]]).0);
    // Proactive refresh goes on beside all that.
    let mut refreshed = false;
    for _ in 0..60 {
        refreshed = authority.posts() >= 2;
        if refreshed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(refreshed, "the due index is worked off");
    gets_better(&program, dir.path(), &authority);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_a_file_has_a_remedy() {
    const ROWS: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("grants");
    const DUE: redb::TableDefinition<'_, (u64, &str), ()> = redb::TableDefinition::new("due");
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let environment = settings(&base, "redb:store.redb");
    let program = Program::start(dir.path(), &["serve"], &environment);
    for grant in GRANTS {
        import(&program, dir.path(), grant, &authority.consent(grant));
    }
    program.stop();
    {
        let file = redb::Database::open(dir.path().join("store.redb")).unwrap();
        let transaction = file.begin_write().unwrap();
        {
            let mut rows = transaction.open_table(ROWS).unwrap();
            rows.insert(GRANTS[1], b"{}".as_slice()).unwrap();
            rows.insert(GRANTS[2], b"\xff\x00".as_slice()).unwrap();
            rows.insert(GRANTS[3], b"".as_slice()).unwrap();
            rows.insert("A BAD NAME", b"{}".as_slice()).unwrap();
            let mut due = transaction.open_table(DUE).unwrap();
            due.insert((0, "another bad name"), ()).unwrap();
            due.insert((0, GRANTS[2]), ()).unwrap();
            due.insert((0, "kroger/nobody"), ()).unwrap();
        }
        transaction.commit().unwrap();
    }
    let program = Program::start(dir.path(), &["serve"], &environment);
    gets_better(&program, dir.path(), &authority);
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    let told = log.lines().filter(|line| line.contains("it names no grant")).count();
    assert!((1..=12).contains(&told), "told, and not for ever: {told}");
}
