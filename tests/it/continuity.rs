//! A store that is not the one it was, under a running broker.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::herd::{import, redis_settings, settings};
use crate::support::authority::Authority;
use crate::support::process::{Program, run};
use crate::support::redis::RedisServer;

/// Two grants with tokens, and the means to take the store away from under them.
struct World {
    authority: Authority,
    base: String,
    dir: tempfile::TempDir,
    program: Program,
}

const GRANTS: [&str; 2] = ["kroger/alice", "kroger/bob"];

impl World {
    async fn new(server: Option<&RedisServer>) -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let dir = tempfile::tempdir().unwrap();
        let program = start(dir.path(), &base, server);
        for grant in GRANTS {
            import(&program, dir.path(), grant, &authority.consent(grant));
        }
        let world = Self { authority, base, dir, program };
        world.serves();
        world
    }

    /// All tokens are served.
    fn serves(&self) {
        for grant in GRANTS {
            let (ok, _, errors) = self.program.cli(&["get", grant]);
            assert!(ok, "{grant}: {errors}");
        }
    }

    /// All grants can be refreshed, and no refresh token is spent twice.
    fn lives(&self) {
        // Past the cooldown of the tests.
        std::thread::sleep(Duration::from_millis(250));
        for grant in GRANTS {
            let (ok, _, errors) = self.program.cli(&["refresh", grant]);
            assert!(ok, "{grant}: {errors}");
        }
        self.authority.audit();
    }

    /// The alarm comes in time, tokens are served on, and nothing is spent.
    fn alarms(&mut self, why: &str) {
        self.until("/metrics", "tokenbroker_store_up 0");
        self.until("/readyz", why);
        let page = self.program.page("/readyz");
        assert!(page.contains("200 OK") && page.contains("from memory alone"), "{page}");
        self.program.wait_for(why);
        let (_, status, _) = self.program.cli(&["status"]);
        assert!(status.contains("NOT AVAILABLE") && status.contains(why), "{status}");
        self.serves();
        let posts = self.authority.posts();
        std::thread::sleep(Duration::from_millis(250));
        let (ok, _, errors) = self.program.cli(&["refresh", GRANTS[0]]);
        assert!(!ok && errors.contains("STORE_UNAVAILABLE"), "{errors}");
        assert_eq!(self.authority.posts(), posts, "nothing is sent without a claim");
    }

    fn recovers(&mut self) {
        self.until("/metrics", "tokenbroker_store_up 1");
        assert!(self.program.page("/readyz").ends_with("ready\n"));
        self.lives();
    }

    /// Five seconds at most.
    fn until(&self, page: &str, line: &str) {
        let mut last = String::new();
        for _ in 0..50 {
            last = self.program.page(page);
            if last.contains(line) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{page} does not say {line}:\n{last}");
    }

    /// Stops cleanly; after a start everything is there.
    fn restarts(self, server: Option<&RedisServer>) -> Self {
        let Self { authority, base, dir, program } = self;
        let (code, log) = program.stop();
        assert_eq!(code, Some(0), "{log}");
        let program = start(dir.path(), &base, server);
        let world = Self { authority, base, dir, program };
        world.serves();
        world.lives();
        world
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("store.redb")
    }

    /// A copy of the file, older than what the broker knows.
    fn backup(&self) -> std::path::PathBuf {
        let copy = self.dir.path().join("backup");
        fs::copy(self.file(), &copy).unwrap();
        self.lives();
        copy
    }
}

fn start(dir: &Path, base: &str, server: Option<&RedisServer>) -> Program {
    let url = server.map(RedisServer::url);
    let mut environment = match &url {
        Some(url) if dir.join("keys.json").exists() => {
            let mut again = settings(base, url);
            again.push(("TOKEN_BROKER__KEYS__FILE", "keys.json"));
            again
        }
        Some(url) => redis_settings(dir, base, url),
        None => settings(base, "redb:store.redb"),
    };
    environment.push(("TOKEN_BROKER__TIMING__STORE_WATCH", "300ms"));
    Program::start(dir, &["serve"], &environment)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_removed_is_waited_for_and_healed() {
    let mut world = World::new(None).await;
    let backup = world.backup();
    fs::remove_file(world.file()).unwrap();
    world.alarms("is gone; put it back");
    // An older copy: what it lacks is written back before anything is spent.
    fs::copy(&backup, world.file()).unwrap();
    world.program.wait_for("went back to an older state");
    world.recovers();
    world.restarts(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_removed_can_be_copied_from_the_process() {
    let mut world = World::new(None).await;
    let file = world.file();
    fs::remove_file(&file).unwrap();
    world.alarms("/fd");
    let line = world.program.seen.iter().find(|line| line.contains("/proc/")).unwrap();
    let folder = &line[line.find("/proc/").unwrap()..line.find("/fd").unwrap() + 3];
    let gone = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find(|entry| {
        fs::read_link(entry)
            .is_ok_and(|target| target.to_string_lossy().contains("store.redb (deleted)"))
    });
    fs::copy(gone.unwrap(), &file).unwrap();
    world.recovers();
    world.restarts(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_moved_away_and_back_is_taken_as_it_is() {
    let mut world = World::new(None).await;
    let aside = world.dir.path().join("aside");
    fs::rename(world.file(), &aside).unwrap();
    world.alarms("is gone; put it back");
    fs::rename(&aside, world.file()).unwrap();
    world.recovers();
    world.restarts(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_is_waited_for() {
    let mut world = World::new(None).await;
    let backup = world.backup();
    fs::File::create(world.file()).unwrap();
    world.alarms("it is empty");
    fs::write(world.file(), "something else").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(fs::read(world.file()).unwrap(), b"something else", "it is not written to");
    fs::write(world.file(), fs::read(&backup).unwrap()).unwrap();
    world.recovers();
    world.restarts(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_copied_over_is_healed() {
    let mut world = World::new(None).await;
    let backup = world.backup();
    fs::write(world.file(), fs::read(&backup).unwrap()).unwrap();
    world.program.wait_for("went back to an older state");
    world.recovers();
    world.restarts(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_another_deployment_is_not_written_to() {
    let mut world = World::new(None).await;
    let other = World::new(None).await;
    let file = other.file();
    // Not closed cleanly: opening it would mend it.
    other.program.signal("KILL");
    let World { program: mut killed, dir: _kept, .. } = other;
    killed.end();
    let before = fs::read(&file).unwrap();
    let ours = world.dir.path().join("ours");
    fs::rename(world.file(), &ours).unwrap();
    fs::copy(&file, world.file()).unwrap();
    world.alarms("another store was put in the place");
    let after = fs::read(world.file()).unwrap();
    assert!(before == after, "it is untouched");
    assert!(!world.dir.path().join("store.redb.look").exists());
    fs::rename(&ours, world.file()).unwrap();
    world.recovers();
    world.restarts(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_a_clean_file() {
    let world = World::new(None).await;
    let file = world.file();
    let (code, log) = world.program.stop();
    assert_eq!(code, Some(0), "{log}");
    let repaired = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = std::sync::Arc::clone(&repaired);
    let mut builder = redb::Database::builder();
    builder.set_repair_callback(move |_| told.store(true, std::sync::atomic::Ordering::SeqCst));
    builder.open(&file).unwrap();
    assert!(!repaired.load(std::sync::atomic::Ordering::SeqCst), "the next start repairs it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_redis_is_filled_from_memory() {
    let server = RedisServer::start(&[]);
    let mut world = World::new(Some(&server)).await;
    server.cli(&["FLUSHALL"]);
    world.program.wait_for("the store was emptied");
    world.program.wait_for("the store was compared");
    for grant in GRANTS {
        assert!(!server.cli(&["KEYS", &format!("tb:*:g:{grant}")]).is_empty(), "{grant}");
    }
    import(&world.program, world.dir.path(), "kroger/carol", &world.authority.consent("carol"));
    world.recovers();
    let world = world.restarts(Some(&server));
    assert!(world.program.cli(&["get", "kroger/carol"]).0, "imports after that can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_went_back_is_healed() {
    let server = RedisServer::start(&[]);
    let mut world = World::new(Some(&server)).await;
    import(&world.program, world.dir.path(), "kroger/gone", &world.authority.consent("gone"));
    let keys = server.cli(&["KEYS", "tb:*"]);
    let keys: Vec<&str> = keys.lines().filter(|key| !key.ends_with(":meta")).collect();
    for key in &keys {
        server.cli(&["COPY", key, &format!("old:{key}")]);
    }
    // Marks, rotations and a deletion that are lost in a moment.
    assert!(world.program.cli(&["grant", "delete", "kroger/gone"]).0);
    std::thread::sleep(Duration::from_millis(900));
    world.lives();
    // In one step, as a failover does it.
    let back =
        "for _, key in ipairs(KEYS) do redis.call('COPY', 'old:' .. key, key, 'REPLACE') end";
    let count = keys.len().to_string();
    server.cli(&[&["EVAL", back, &count], keys.as_slice()].concat());
    world.program.wait_for("went back to an older state");
    world.recovers();
    let (ok, _, errors) = world.program.cli(&["get", "kroger/gone"]);
    assert!(!ok && errors.contains("GRANT_NOT_FOUND"), "{errors}");
    let world = world.restarts(Some(&server));
    let (ok, _, errors) = world.program.cli(&["get", "kroger/gone"]);
    assert!(!ok && errors.contains("GRANT_NOT_FOUND"), "a deletion is healed, too: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_of_another_deployment_is_not_written_to() {
    let server = RedisServer::start(&[]);
    let mut world = World::new(Some(&server)).await;
    let ours = server.cli(&["HGET", "tb:meta", "identity"]);
    let theirs = ours.replacen("\"deployment\":\"", "\"deployment\":\"00", 1);
    server.cli(&["HSET", "tb:meta", "identity", &theirs]);
    world.alarms("another deployment");
    let writes = || {
        let stats = server.cli(&["INFO", "commandstats"]);
        stats
            .lines()
            .filter(|line| line.contains("fcall") || line.contains("cmdstat_set"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = writes();
    let _ = world.program.cli(&["refresh", GRANTS[1]]);
    std::thread::sleep(Duration::from_millis(500));
    let calls = |lines: &[String]| {
        lines.iter().map(|line| line.split(",usec").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(calls(&before), calls(&writes()));
    server.cli(&["HSET", "tb:meta", "identity", &ours]);
    world.recovers();
    world.restarts(Some(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_claims_is_told_of() {
    let server = RedisServer::start(&[]);
    let mut world = World::new(Some(&server)).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    world.alarms("maxmemory");
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    world.recovers();
}

#[test]
fn a_store_that_should_be_there_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let keys = dir.path().join("keys.json");
    let made = run(dir.path(), &["keys", "generate", "--file", keys.to_str().unwrap()], &[]);
    assert!(made.status.success());
    let expect = ("TOKEN_BROKER__STORE__EXPECT_EXISTING", "true");
    let keys = ("TOKEN_BROKER__KEYS__FILE", keys.to_str().unwrap());
    for url in
        [("TOKEN_BROKER__STORE__URL", url.as_str()), ("TOKEN_BROKER__STORE__URL", "redb:new.redb")]
    {
        let (code, log) = Program::spawn(dir.path(), &["serve"], &[url, expect, keys]).end();
        assert!(code == Some(1) && log.contains("store.expect_existing"), "{log}");
    }
    assert!(!dir.path().join("new.redb").exists());
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

/// One record that cannot be read keeps nobody from anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_does_not_stop_a_comparison() {
    let server = RedisServer::start(&[]);
    let mut world = World::new(Some(&server)).await;
    let key = server.cli(&["KEYS", &format!("tb:*:g:{}", GRANTS[0])]);
    server.cli(&["HDEL", &key, "gen"]);
    server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    world.program.wait_for("not compared");
    world.until("/metrics", "tokenbroker_store_up 1");
    import(&world.program, world.dir.path(), "kroger/carol", &world.authority.consent("carol"));
    assert!(world.program.cli(&["get", "kroger/carol"]).0);
}
