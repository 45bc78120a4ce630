//! What the program tells operators: its log and its gauges.

use std::time::Duration;

use token_broker::client::Client;
use token_broker::proto::GetTokenRequest;

use crate::herd::{import, settings};
use crate::support::authority::{Authority, Fault, Way};
use crate::support::process::Program;

/// No line is longer, whatever callers and providers send.
const LINE_MAX: usize = 4_096;

#[tokio::test(flavor = "multi_thread")]
async fn ready_says_who_is_ready_and_gauges_outlive_a_restart() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let environment = settings(&base, "redb:store.redb");
    let program = Program::start(dir.path(), &["serve"], &environment);
    for grant in ["kroger/alice", "kroger/bob"] {
        import(&program, dir.path(), grant, &authority.consent(grant));
    }
    import(&program, dir.path(), "kroger/dead", "never-given-out");
    assert!(!program.cli(&["get", "kroger/dead"]).0);
    program.stop();
    std::fs::write(dir.path().join("broker.yaml"), "log: {level: info}\n").unwrap();
    let program = Program::start(dir.path(), &["serve", "--config", "broker.yaml"], &environment);
    let ready = program.seen.last().unwrap();
    let ready: serde_json::Value = serde_json::from_str(ready).unwrap();
    assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((ready["store"].as_str(), ready["grants"].as_u64()), (Some("redb"), Some(3)));
    assert_eq!(ready["config"], "broker.yaml");
    assert_eq!(ready["deployment"].as_str().unwrap().len(), 16);
    let metrics = program.page("/metrics");
    for line in [
        "tokenbroker_grants{provider=\"default\",state=\"reauth_required\"} 1",
        "tokenbroker_grants{provider=\"default\",state=\"active\"} 2",
        "tokenbroker_grants{provider=\"default\",state=\"outcome_unknown\"} 0",
        "tokenbroker_doubts{provider=\"default\",kind=\"died\"} 0",
        "tokenbroker_provider_held{provider=\"default\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_bounded_and_an_outage_is_told_once() {
    const GRANTS: usize = 20;
    const CALLS: usize = 5;
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let mut environment = settings(&base, "redb:store.redb");
    environment.push(("TOKEN_BROKER__TIMING__CALLER_WAIT_MAX", "300ms"));
    let program = Program::start(dir.path(), &["serve"], &environment);
    for number in 0..GRANTS {
        let grant = format!("kroger/{number:02}");
        import(&program, dir.path(), &grant, &authority.consent(&grant));
    }
    authority.outage(Some(Fault::Before(Way::Status(503))));
    let mut client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let ask = |grant_id: String| GetTokenRequest { grant_id, ..GetTokenRequest::default() };
    for number in 0..GRANTS * CALLS {
        let grant = format!("kroger/{:02}", number % GRANTS);
        assert!(client.tokens.get_token(ask(grant)).await.is_err());
    }
    for long in ["x".repeat(60_000), "\u{202e}\n\"".repeat(10_000)] {
        assert!(client.tokens.get_token(ask(long)).await.is_err());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest <= LINE_MAX, "{longest} bytes");
    let loud = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let loud: Vec<_> = loud.filter(|line| line.contains("503")).collect();
    assert!((1..=GRANTS / 2).contains(&loud.len()), "{} lines:\n{}", loud.len(), loud.join("\n"));
}
