//! The journal against the real program and a real Redis: a pair that came back survives its broker,
//! wherever that ends, and nobody gets one that was taken away.

use std::path::PathBuf;

use crate::herd::redis_settings;
use crate::support::authority::Authority;
use crate::support::process::Program;
use crate::support::redis::RedisServer;

const STOP: (&str, &str) = ("TOKEN_BROKER_STOP_AT", "after_journal");
const GRANT: &str = "kroger/alice";

struct World {
    authority: Authority,
    base: String,
    url: String,
    server: RedisServer,
    dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let server = RedisServer::start(&[]);
        let (url, dir) = (server.url(), tempfile::tempdir().unwrap());
        redis_settings(dir.path(), &base, &url);
        Self { authority, base, url, server, dir }
    }

    fn start(&self, more: &[(&str, &str)]) -> Program {
        self.start_on(&self.url, more)
    }

    fn start_on(&self, url: &str, more: &[(&str, &str)]) -> Program {
        let mut settings = crate::herd::settings(&self.base, url);
        settings.push(("TOKEN_BROKER__KEYS__FILE", "keys.json"));
        settings.extend_from_slice(more);
        Program::start(self.dir.path(), &["serve"], &settings)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("token-broker.journal")
    }

    /// A broker is killed when its journal has a new pair, and Redis was not asked to take it.
    fn pair_in_the_journal_only(&self) {
        let mut program = self.start(&[STOP]);
        self.import(&program);
        program.wait_for("stopped for a test");
        program.signal("KILL");
        program.end();
        assert!(self.journal().contains(GRANT));
    }

    fn import(&self, program: &Program) {
        let file = self.dir.path().join("refresh-token");
        std::fs::write(&file, self.authority.consent("alice")).unwrap();
        let (file, provider) = (file.display().to_string(), "default");
        let (ok, _, errors) = program.cli(&[
            "grant",
            "import",
            GRANT,
            "--provider",
            provider,
            "--keep-warm",
            "--refresh-token-file",
            &file,
        ]);
        assert!(ok, "{errors}");
    }

    fn journal(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }
}

fn metric(program: &Program, name: &str) -> i64 {
    let page = program.page("/metrics");
    let line = page.lines().find(|line| line.starts_with(&format!("tokenbroker_{name} ")));
    line.unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_journal_had_is_served_after_a_crash_and_nothing_is_sent_again() {
    let world = World::new().await;
    world.pair_in_the_journal_only();
    let full = world.journal();
    let sent = world.authority.posts();
    let program = world.start(&[]);
    let (ok, token, errors) = program.cli(&["get", GRANT]);
    assert!(ok, "{errors}");
    assert_eq!(world.authority.posts(), sent, "the pair came from the journal");
    let (ok, _, errors) = program.cli(&["grant", "rotate", GRANT]);
    assert!(ok, "{errors}");
    world.authority.audit();
    let (code, log) = program.stop();
    assert!(code == Some(0) && log.contains("what the process before had received last"), "{log}");
    let kept = full + &world.journal();
    for secret in world.authority.secrets() {
        assert!(!kept.contains(secret.as_str()), "nothing lies open in the journal");
    }
    assert!(kept.contains(GRANT) && !kept.contains(token.trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_deleted_meanwhile_stays_deleted_and_nothing_of_it_is_kept() {
    let world = World::new().await;
    world.pair_in_the_journal_only();
    let other = world.start(&[("TOKEN_BROKER__STORE__JOURNAL", "other.journal")]);
    let (ok, _, errors) = other.cli(&["grant", "delete", GRANT]);
    assert!(ok, "{errors}");
    let program = world.start(&[]);
    let (ok, _, errors) = program.cli(&["get", GRANT]);
    assert!(!ok && errors.contains("GRANT_NOT_FOUND"), "{errors}");
    assert_eq!(metric(&program, "journal_entries"), 0);
    assert!(!world.journal().contains(GRANT), "its entry is destroyed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_meant_for_another_store_waits_for_it() {
    let world = World::new().await;
    world.pair_in_the_journal_only();
    let sent = world.authority.posts();
    let elsewhere = RedisServer::start(&[]);
    let program = world.start_on(&elsewhere.url(), &[]);
    assert_eq!(metric(&program, "journal_stuck"), 1);
    let (ok, _, errors) = program.cli(&["get", GRANT]);
    assert!(!ok && errors.contains("GRANT_NOT_FOUND"), "{errors}");
    let (_, log) = program.stop();
    assert!(log.contains("they wait for that"), "{log}");
    assert_eq!(elsewhere.cli(&["KEYS", "*:g:*"]), "");
    let program = world.start(&[]);
    assert!(program.cli(&["get", GRANT]).0);
    assert_eq!(world.authority.posts(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_was_changed_in_the_journal_hides_nothing_and_ends_nothing() {
    let world = World::new().await;
    world.pair_in_the_journal_only();
    let changed = world.journal().replace("\"pair\":\"", "\"pair\":\"AAAA");
    std::fs::write(world.path(), changed).unwrap();
    let program = world.start(&[]);
    assert_eq!(metric(&program, "journal_stuck"), 1);
    // Its refresh token was spent, and nobody presents it: the pair may be mended.
    let sent = world.authority.posts();
    let (_, shown, _) = program.cli(&["grant", "show", GRANT]);
    assert!(!shown.contains("REAUTH"), "{shown}");
    let (_, log) = program.stop();
    assert!(
        log.contains("the store cannot be given") && log.contains("wait for an operator"),
        "{log}"
    );
    assert_eq!(world.authority.posts(), sent);
    assert!(world.journal().contains(GRANT), "it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_removed_is_made_again_and_one_that_is_replaced_left_alone() {
    let world = World::new().await;
    let program = world.start(&[("TOKEN_BROKER__TIMING__STORE_WATCH", "100ms")]);
    let name = world.journal();
    std::fs::remove_file(world.path()).unwrap();
    for _ in 0..100 {
        if world.path().exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.journal(), name, "the replica keeps its name");
    world.import(&program);
    assert!(program.cli(&["get", GRANT]).0);
    assert!(world.journal().contains(GRANT));
    // A file that somebody else put there is not ours to write to, nor to put aside.
    std::fs::remove_file(world.path()).unwrap();
    std::fs::write(world.path(), "of somebody else").unwrap();
    world.shows(&program, "journal_up", 0).await;
    assert!(program.cli(&["grant", "rotate", GRANT]).0, "refreshes go on");
    assert_eq!(world.journal(), "of somebody else");
    let (_, status, _) = program.cli(&["status"]);
    assert!(status.contains("another file was put in its place"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_grant_keeps_no_replica_from_starting() {
    let world = World::new().await;
    world.pair_in_the_journal_only();
    let key = world.server.cli(&["KEYS", &format!("tb:*:g:{GRANT}")]);
    world.server.cli(&["DEL", &key]);
    world.server.cli(&["SET", &key, "something else"]);
    let program = world.start(&[]);
    assert_eq!(metric(&program, "journal_stuck"), 1);
    // Once that is out of the way, the pair finds its place.
    program.stop();
    world.server.cli(&["DEL", &key]);
    let sent = world.authority.posts();
    let program = world.start(&[]);
    assert!(program.cli(&["get", GRANT]).0);
    assert_eq!(world.authority.posts(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_refresh_and_is_told() {
    let world = World::new().await;
    let program = world.start(&[("TOKEN_BROKER__TIMING__STORE_WATCH", "100ms")]);
    program.limit_files("17");
    world.import(&program);
    let (ok, _, errors) = program.cli(&["get", GRANT]);
    assert!(ok, "{errors}");
    world.shows(&program, "journal_up", 0).await;
    program.limit_files("unlimited");
    let (ok, _, errors) = program.cli(&["grant", "rotate", GRANT]);
    assert!(ok, "{errors}");
    world.shows(&program, "journal_up", 1).await;
    assert!(world.journal().contains(GRANT));
    world.authority.audit();
    let (code, log) = program.stop();
    assert!(code == Some(0) && log.contains("the journal takes nothing"), "{log}");
}

impl World {
    async fn shows(&self, program: &Program, name: &str, value: i64) {
        for _ in 0..100 {
            if metric(program, name) == value {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{name} is not {value}");
    }
}
