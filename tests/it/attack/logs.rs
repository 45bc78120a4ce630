//! Calls that are refused, by nobody and by a narrow caller, and what they leave in logs.

use token_broker::client::{CallError, Client};
use token_broker::proto::{DeleteGrantRequest, GetTokenRequest};
use tonic::Code;

use super::{Callers, Effort, client};
use crate::callers::{World, claims};

/// Most that a minute of attack may leave in either log, in bytes.
const LOG_MAX: usize = 200_000;
/// Settings for a log as operators have it.
const QUIET: (&str, &str) = ("TOKEN_BROKER__LOG__LEVEL", "info");
const AUDIT: (&str, &str) = ("TOKEN_BROKER__AUDIT__SINK", "file:audit.jsonl");

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_fill_neither_log() {
    let world = World::with(&[AUDIT, QUIET]).await;
    let effort = Effort::new(1_000, 100_000);
    let mut callers = Callers::of(&world).await;
    let narrow = world.client("team-a", "ana").await;
    let address = format!("http://{}", world.program.api);
    let nobody = Client::connect(&address).await.unwrap();
    for (name, who) in [("calls of nobody", nobody), ("what a caller may not", narrow)] {
        let before = audit_len(&world);
        let flood = async {
            let (mut tokens, mut admin) = (who.tokens, who.admin);
            for number in 0..effort.held / 2 {
                let grant_id = format!("victim/{number}");
                let get = GetTokenRequest { grant_id: grant_id.clone(), ..Default::default() };
                assert!(tokens.get_token(get).await.is_err());
                let delete = DeleteGrantRequest { grant_id, ..Default::default() };
                assert!(admin.delete_grant(delete).await.is_err());
            }
        };
        let ((), seen) = tokio::join!(flood, callers.call(effort.during));
        let written = audit_len(&world) - before;
        seen.came_to_nothing(name, &format!("{} calls, audit {written} bytes", effort.held));
        assert!(written < LOG_MAX, "{name}: {written} bytes");
    }
    let (_, log) = world.program.stop();
    println!("{:38} {} bytes", "the log of the program", log.len());
    assert!(log.len() < LOG_MAX, "{} bytes", log.len());
}

fn audit_len(world: &World) -> usize {
    std::fs::metadata(world.at("audit.jsonl")).map_or(0, |file| file.len()).try_into().unwrap()
}

/// The cluster's keys were never had: that is told once, and not for each call.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_had_are_told_of_once() {
    let url = ("TOKEN_BROKER__CALLERS__KUBERNETES__JWKS_URL", "http://127.0.0.1:1/jwks");
    let world = World::without_keys(&[QUIET, url]).await;
    let mut caller = world.client("shop", "orders").await;
    for _ in 0..200 {
        let request = GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
        let error = CallError::from(caller.tokens.get_token(request).await.unwrap_err());
        assert_eq!(error.code, Code::Unavailable, "it may be right: {error}");
    }
    assert!(client(&world).await.is_ok());
    let metrics = world.program.page("/metrics");
    assert!(metrics.contains("tokenbroker_caller_keys_timestamp_seconds 0"), "{metrics}");
    let (_, log) = world.program.stop();
    let warnings = log.lines().filter(|line| line.contains("\"WARN\"")).count();
    assert!(warnings <= 5, "{log}");
    assert!(log.contains("Connection refused"), "the cause is told: {log}");
}

/// Who cannot prove who it is leaves what an operator needs to find out why.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_proof_can_be_traced() {
    let world = World::with(&[QUIET]).await;
    for (name, value) in [("iss", "https://other"), ("aud", "someone-else")] {
        let mut claims = claims("shop", "orders");
        claims[name] = value.into();
        let mut caller = world.client_with(&claims).await;
        let request = GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
        let error = CallError::from(caller.tokens.get_token(request).await.unwrap_err());
        assert_eq!(error.code, Code::Unauthenticated);
        assert!(error.to_string().contains(value), "both are named: {error}");
    }
    let (_, log) = world.program.stop();
    let traced: Vec<_> = log.lines().filter(|line| line.contains("could not prove")).collect();
    assert_eq!(traced.len(), 2, "{log}");
    for line in traced {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = line.to_string();
        for part in ["127.0.0.1", "system:serviceaccount:shop:orders", "iss=https://", "aud="] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
