//! Revocation: a grant ends at its provider, and nothing is refreshed meanwhile.

use std::path::Path;
use std::time::Duration;

use crate::herd::{import, settings};
use crate::support::authority::{Authority, Fault, Way};
use crate::support::process::{Program, run};

struct World {
    authority: Authority,
    dir: tempfile::TempDir,
    program: Program,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let dir = tempfile::tempdir().unwrap();
        let url = format!("{base}/revoke");
        let mut environment = settings(&base, "redb:store.redb");
        environment.push(("TOKEN_BROKER__PROVIDERS__DEFAULT__REVOKE_URL", &url));
        let program = Program::start(dir.path(), &["serve"], &environment);
        Self { authority, dir, program }
    }

    fn import(&self) -> String {
        let token = self.authority.consent("alice");
        import(&self.program, self.dir.path(), "kroger/alice", &token);
        token
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let (ok, shown, errors) = self.program.cli(arguments);
        if ok { Ok(shown + &errors) } else { Err(errors) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_ends_here_and_there() {
    let world = World::new().await;
    let token = world.import();
    world.run(&["get", "kroger/alice"]).unwrap();
    let token = world.authority.head("alice").filter(|head| *head != token).unwrap();
    let shown = world.run(&["grant", "revoke", "kroger/alice"]).unwrap();
    assert!(shown.contains("REVOKED"), "{shown}");
    assert_eq!(world.authority.taken_back(), [token]);
    // The access token that was live is served no more.
    let error = world.run(&["get", "kroger/alice"]).unwrap_err();
    assert!(error.contains("GRANT_REVOKED") && error.contains("consent again"), "{error}");
    // Once more changes nothing, and nothing brings it back but a new chain.
    world.run(&["grant", "revoke", "kroger/alice"]).unwrap();
    let error = world.run(&["grant", "resolve", "kroger/alice", "--by", "retry"]).unwrap_err();
    assert!(error.contains("GRANT_REVOKED"), "{error}");
    assert_eq!(world.authority.taken_back().len(), 1);
    world.import();
    world.run(&["get", "kroger/alice"]).unwrap();
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_under_way_ends_first() {
    let world = World::new().await;
    let before = world.import();
    world.authority.delay(Duration::from_millis(500));
    std::thread::scope(|scope| {
        let address = format!("http://{}", world.program.api);
        let refresh = scope.spawn(move || {
            let environment = [("TOKEN_BROKER_ADDRESS", address.as_str())];
            run(Path::new("/"), &["get", "kroger/alice"], &environment)
        });
        while world.authority.posts() == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let shown = world.run(&["grant", "revoke", "kroger/alice"]).unwrap();
        assert!(shown.contains("REVOKED"), "{shown}");
        assert!(refresh.join().unwrap().status.success());
    });
    let taken_back = world.authority.taken_back();
    assert_eq!(taken_back.len(), 1);
    assert_ne!(taken_back[0], before, "the pair that came back is what is taken back");
    assert_eq!(world.authority.rotations(), 1);
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_does_not_confirm_changes_nothing() {
    let world = World::new().await;
    world.import();
    world.authority.keeps(Some((503, "")));
    for command in
        [&["grant", "revoke", "kroger/alice"][..], &["grant", "delete", "kroger/alice", "--revoke"]]
    {
        let error = world.run(command).unwrap_err();
        assert!(error.contains("503"), "{error}");
    }
    world.run(&["get", "kroger/alice"]).unwrap();
    world.authority.keeps(None);
    let told = world.run(&["grant", "delete", "kroger/alice", "--revoke"]).unwrap();
    assert!(told.contains("were revoked"), "{told}");
    assert_eq!(world.authority.taken_back().len(), 1);
    assert!(world.run(&["grant", "show", "kroger/alice"]).unwrap_err().contains("GRANT_NOT_FOUND"));
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_revoked_says_so() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let program = Program::start(dir.path(), &["serve"], &settings(&base, "redb:store.redb"));
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (ok, _, error) = program.cli(&["grant", "revoke", "kroger/alice"]);
    assert!(
        !ok && error.contains("PROVIDER_CANNOT_REVOKE") && error.contains("revoke_url"),
        "{error}"
    );
    assert!(program.cli(&["get", "kroger/alice"]).0, "and goes on");
    assert!(program.cli(&["grant", "create", "kroger/service", "--provider", "default"]).0);
    let (ok, _, error) = program.cli(&["grant", "revoke", "kroger/service"]);
    assert!(!ok && error.contains("no consent"), "{error}");
    authority.audit();
}

/// Some say so instead of success.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_does_not_know_counts_as_revoked() {
    for body in [r#"{"error":"invalid_token"}"#, r#"{"error":"invalid_grant"}"#] {
        let world = World::new().await;
        world.import();
        world.authority.keeps(Some((400, body)));
        let shown = world.run(&["grant", "revoke", "kroger/alice"]).unwrap();
        assert!(shown.contains("REVOKED"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_outlives_a_revocation_that_fails() {
    let world = World::new().await;
    world.import();
    world.authority.next(Fault::After(Way::Reset));
    let error = world.run(&["get", "kroger/alice"]).unwrap_err();
    assert!(error.contains("REFRESH_OUTCOME_UNKNOWN"), "{error}");
    let stands = |state: &str| {
        let shown = world.run(&["grant", "show", "kroger/alice"]).unwrap();
        assert!(shown.contains(state), "{shown}");
    };
    world.authority.keeps(Some((503, "")));
    let error = world.run(&["grant", "revoke", "kroger/alice"]).unwrap_err();
    assert!(error.contains("did not take its tokens back"), "{error}");
    stands("OUTCOME_UNKNOWN");
    world.authority.keeps(None);
    world.run(&["grant", "revoke", "kroger/alice"]).unwrap();
    stands("REVOKED");
    world.authority.audit();
}

/// Who asks for a token meanwhile is none the worse for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_fails_is_not_the_callers_trouble() {
    let world = World::new().await;
    world.import();
    world.authority.keeps(Some((503, "")));
    world.authority.delay(Duration::from_millis(600));
    let address = format!("http://{}", world.program.api);
    std::thread::scope(|scope| {
        let revoke = scope.spawn(move || {
            let environment = [("TOKEN_BROKER_ADDRESS", address.as_str())];
            run(Path::new("/"), &["grant", "revoke", "kroger/alice"], &environment)
        });
        let under_way = || world.program.page("/metrics").contains("tokenbroker_flights 1");
        while !revoke.is_finished() && !under_way() {
            std::thread::sleep(Duration::from_millis(5));
        }
        world.run(&["get", "kroger/alice"]).unwrap();
        assert!(!revoke.join().unwrap().status.success());
    });
    world.authority.audit();
}
