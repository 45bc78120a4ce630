//! The audit log: who did what, and what the broker did by itself.

use serde_json::Value;

use crate::callers::{STATIC, World};

const SINK: (&str, &str) = ("TOKEN_BROKER__AUDIT__SINK", "file:audit.jsonl");

fn lines(world: &World) -> Vec<Value> {
    let text = std::fs::read_to_string(world.at("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Lines of one action; those that end it, where it has two.
fn of<'a>(lines: &'a [Value], action: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["action"] == action && line["phase"] != "begin").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_written_down_and_no_secret() {
    let world = World::with(&[SINK]).await;
    let get = ["get", "kroger/alice"];
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let (ok, token, errors) = world.cli("shop", "orders", &get);
        assert!(ok, "{errors}");
        tokens.push(token.trim().to_owned());
    }
    assert!(!world.cli("shop", "orders", &["refresh", "kroger/alice"]).0);
    assert!(!world.program.cli(&get).0);
    let token = loop {
        let (ok, token, errors) = world.cli("platform", "admin", &["refresh", "kroger/alice"]);
        if ok {
            break token;
        }
        assert!(errors.contains("COOLDOWN"), "{errors}");
    };
    tokens.push(token.trim().to_owned());
    assert!(world.cli("platform", "admin", &["grant", "disable", "kroger/alice"]).0);

    let before = lines(&world);
    let got = of(&before, "get_token");
    assert_eq!(got.len(), 2, "once for each caller, and not for each call: {before:#?}");
    let (orders, nobody) = (got[0], got[1]);
    assert_eq!(orders["caller"], "kubernetes:shop/orders");
    assert_eq!(orders["rule"], "orders");
    assert_eq!(orders["grant"], "kroger/alice");
    assert_eq!(orders["provider"], "default");
    assert_eq!(orders["outcome"], "OK");
    assert!(orders["generation"].as_u64().unwrap() > 0);
    assert_eq!(orders["fingerprint"].as_str().unwrap().len(), 16);
    // Whoever is nobody can make the log say nothing of their choice.
    assert_eq!(nobody["reason"], "CALLER_UNAUTHENTICATED");
    assert!(nobody.get("caller").is_none() && nobody.get("grant").is_none());
    let forced = of(&before, "force_refresh");
    assert_eq!(forced[0]["reason"], "POLICY_DENIED");
    assert_eq!(forced[0]["caller"], "kubernetes:shop/orders");
    assert!(forced[0].get("rule").is_none());
    let rotated = forced.iter().find(|line| line["reason"] == "ROTATED").unwrap();
    // What the broker did itself is there, too, with what came of it.
    let refreshed = of(&before, "broker.refreshed");
    assert_eq!(refreshed.last().unwrap()["generation"], rotated["generation"]);
    assert_eq!(refreshed.last().unwrap()["fingerprint"], rotated["fingerprint"]);
    // Changes have a beginning and an end.
    let phases: Vec<_> = before
        .iter()
        .filter(|line| line["action"] == "admin.disable")
        .map(|line| line["phase"].as_str().unwrap())
        .collect();
    assert_eq!(phases, ["begin", "end"]);
    assert_eq!(of(&before, "admin.import")[0]["caller"], "kubernetes:platform/admin");

    let (dir, sent) = (world.at("audit.jsonl"), world.authority.secrets());
    world.program.stop();
    let text = std::fs::read_to_string(dir).unwrap();
    let last: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let again = |line: &&Value| line["repeated"].is_u64() && line["action"] == "get_token";
    let counted: Vec<_> = last.iter().filter(again).collect();
    assert_eq!(counted.len(), 1, "{counted:#?}");
    assert_eq!(counted[0]["repeated"], 2);
    assert_eq!(counted[0]["caller"], "kubernetes:shop/orders");
    for secret in tokens.iter().chain(&sent).map(String::as_str).chain([STATIC, "eyJ"]) {
        assert!(!secret.is_empty() && !text.contains(secret), "a secret is in the audit log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_without_the_audit_log_where_it_is_required() {
    let world = World::with(&[SINK, ("TOKEN_BROKER__AUDIT__REQUIRED", "true")]).await;
    std::fs::remove_file(world.at("audit.jsonl")).unwrap();
    std::fs::create_dir(world.at("audit.jsonl")).unwrap();
    let disable = ["grant", "disable", "kroger/alice"];
    let (ok, _, errors) = world.cli("platform", "admin", &disable);
    assert!(!ok && errors.contains("AUDIT_UNAVAILABLE"), "{errors}");
    // Callers are served in any case, and the grant is as it was.
    let (ok, _, errors) = world.cli("shop", "orders", &["get", "kroger/alice"]);
    assert!(ok, "{errors}");
    let metrics = world.program.page("/metrics");
    let failures =
        metrics.lines().find_map(|line| line.strip_prefix("tokenbroker_audit_failures_total "));
    assert!(failures.unwrap().trim().parse::<u64>().unwrap() > 0, "{metrics}");
    std::fs::remove_dir(world.at("audit.jsonl")).unwrap();
    let (ok, _, errors) = world.cli("platform", "admin", &disable);
    assert!(ok, "{errors}");
    assert_eq!(of(&lines(&world), "admin.disable")[0]["outcome"], "OK");
}
