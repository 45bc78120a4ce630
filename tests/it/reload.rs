//! Files that change while the program runs: secrets, keys, tokens, settings.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rcgen::SanType;
use token_broker::client::{Bearer, Client};
use token_broker::proto::GetTokenRequest;
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, ClientTlsConfig};

use crate::callers::claims;
use crate::support::authority::{Authority, Fault};
use crate::support::process::{Program, run};
use crate::support::redis::RedisServer;
use crate::support::signer::Signer;
use crate::tls::Authorities;

const GRANT: &str = "kroger/alice";

fn config(base: &str, more: &str) -> String {
    format!(
        "providers: {{ default: {{ profile: kroger, base_url: '{base}', client_id: id, \
         client_secret_file: secret }} }}
timing: {{ force_cooldown: 1ms, retry_backoff: 50ms }}
{more}
"
    )
}

/// A change is seen within two seconds, or at once when SIGHUP asks for a look.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..200 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} does not come about");
}

struct World {
    dir: tempfile::TempDir,
    authority: Authority,
    base: String,
    program: Program,
}

impl World {
    async fn new(more: &str, files: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        authority.takes(&["old"]);
        let (base, dir) = (authority.serve().await, tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("secret", "old\n");
        write("config.yaml", &config(&base, more));
        for (name, text) in files {
            write(name, text);
        }
        assert!(run(dir.path(), &["keys", "generate", "--file", "keys"], &[]).status.success());
        let environment =
            [("TOKEN_BROKER__STORE__URL", "redb:store.redb"), ("TOKEN_BROKER__KEYS__FILE", "keys")];
        let program =
            Program::start(dir.path(), &["serve", "--config", "config.yaml"], &environment);
        Self { dir, authority, base, program }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn import(&self, more: &[&str]) {
        let file = self.dir.path().join("refresh-token");
        std::fs::write(&file, self.authority.consent("alice")).unwrap();
        let file = file.display().to_string();
        let import = ["grant", "import", GRANT, "--provider", "default", "--refresh-token-file"];
        let (ok, _, errors) = self.program.cli(&[&import[..], &[&file], more].concat());
        assert!(ok, "{errors}");
    }

    /// The store holds something that begins as what this key seals: a version, and the name of the key.
    fn sealed_with(&self, key: &str) -> bool {
        let byte = |at: usize| u8::from_str_radix(&key[at..at + 2], 16).unwrap();
        let head = [1, byte(0), byte(2), byte(4), byte(6)];
        let text = STANDARD_NO_PAD.encode(head);
        let store = std::fs::read(self.dir.path().join("store.redb")).unwrap();
        // Sealed values are kept as they are, or as text: all but the last letter is that of the head.
        let text = &text.as_bytes()[..text.len() - 1];
        let holds = |part: &[u8]| store.windows(part.len()).any(|window| window == part);
        holds(&head) || holds(text)
    }

    fn is_in_use(&self, file: &str) -> bool {
        let line = format!("tokenbroker_config_last_reload_successful{{file=\"{file}\"}} 1");
        self.program.page("/metrics").contains(&line)
    }
}

/// Keycloak's words for a wrong secret, Kroger's, and the standard's.
const WRONG_SECRET: [(u16, &str); 3] = [
    (401, r#"{"error":"unauthorized_client"}"#),
    (400, r#"{"error":"unauthorized"}"#),
    (401, r#"{"error":"invalid_client"}"#),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_other_secret_is_tried_whatever_the_refusal_is_called() {
    let mut world = World::new("", &[]).await;
    world.import(&[]);
    let mut before = "old";
    for ((status, body), next) in WRONG_SECRET.into_iter().zip(["new", "newer", "newest"]) {
        world.authority.says_of_others(status, body);
        world.write("secret", &format!("{next}\n{before}\n"));
        world.program.signal("HUP");
        world.program.wait_for("as SIGHUP asked for");
        world.authority.takes(&[before]);
        let (ok, _, errors) = world.program.cli(&["refresh", GRANT]);
        assert!(ok, "not in force yet, {status} {body}: {errors}");
        // It comes into force moments after it was refused.
        world.authority.takes(&[next]);
        let (ok, _, errors) = world.program.cli(&["refresh", GRANT]);
        assert!(ok, "in force, {status} {body}: {errors}");
        before = next;
    }
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failure_means_holds_without_a_restart() {
    let mut world = World::new("", &[]).await;
    world.import(&[]);
    let odd = r#"{"error":"bad_day","message":"the account is closed"}"#;
    world.authority.dead("alice", Fault::Answer(400, odd));
    let (ok, _, errors) = world.program.cli(&["get", GRANT]);
    assert!(!ok && errors.contains("PROVIDER_UNRECOGNIZED_ERROR"), "{errors}");
    let (_, shown, _) = world.program.cli(&["grant", "show", GRANT]);
    assert!(shown.contains("message: the account is closed"), "{shown}");
    let mapped = config(&world.base, "").replace(
        "client_secret_file: secret",
        "client_secret_file: secret, error_map: [{code: bad_day, means: reauth}]",
    );
    world.write("config.yaml", &mapped);
    world.program.signal("HUP");
    world.program.wait_for("as SIGHUP asked for");
    until("the grant ends", || {
        let errors = world.program.cli(&["get", GRANT]).2;
        errors.contains("GRANT_REAUTH_REQUIRED")
    })
    .await;
    assert!(!world.program.seen.iter().any(|line| line.contains("hold from the next start")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_grant_takes_nobody_the_right_secret() {
    let world = World::new("", &[("secret", "new\nold\n")]).await;
    world.import(&[]);
    world.authority.takes(&["new"]);
    world.authority.dead("bob", Fault::Answer(401, r#"{"error":"unauthorized_client"}"#));
    let file = world.dir.path().join("bob");
    std::fs::write(&file, world.authority.consent("bob")).unwrap();
    let file = file.display().to_string();
    let import = ["grant", "import", "kroger/bob", "--provider", "default"];
    let (ok, _, errors) =
        world.program.cli(&[&import[..], &["--refresh-token-file", &file]].concat());
    assert!(ok, "{errors}");
    for _ in 0..3 {
        let (ok, ..) = world.program.cli(&["get", "kroger/bob"]);
        assert!(!ok);
        let posts = world.authority.posts();
        let (ok, _, errors) = world.program.cli(&["refresh", GRANT]);
        assert!(ok, "{errors}");
        assert!(world.authority.posts() - posts <= 2, "alice's, and perhaps another try of bob's");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_secret_is_exchanged_while_nobody_notices() {
    let mut world = World::new("", &[]).await;
    world.import(&[]);
    let refresh = |world: &World| world.program.cli(&["refresh", GRANT]);
    let (ok, _, errors) = refresh(&world);
    assert!(ok, "{errors}");
    // The new one is not in force yet: the old one in the second line is.
    world.write("secret", "new\nold\n");
    world.program.signal("HUP");
    world.program.wait_for("as SIGHUP asked for");
    let (ok, _, errors) = refresh(&world);
    assert!(ok, "{errors}");
    // Now it is, and the old one is not any more.
    world.authority.takes(&["new"]);
    world.write("secret", "new\n");
    world.program.signal("HUP");
    world.program.wait_for("as SIGHUP asked for");
    let (ok, _, errors) = refresh(&world);
    assert!(ok, "{errors}");
    // A wrong one is refused; the right one is used at once, and not when the provider is probed again.
    world.authority.takes(&["newest"]);
    let (ok, _, errors) = refresh(&world);
    assert!(!ok && errors.contains("CLIENT_CREDENTIALS_REJECTED"), "{errors}");
    world.write("secret", "newest\n");
    world.program.signal("HUP");
    world.program.wait_for("as SIGHUP asked for");
    let (ok, _, errors) = refresh(&world);
    assert!(ok, "{errors}");
    // A file that is of no use changes nothing.
    world.write("secret", "canary-1\ncanary-2\ncanary-3\n");
    world.program.signal("HUP");
    world.program.wait_for("more than two lines");
    assert!(!world.is_in_use("providers.default.client_secret_file"));
    let (ok, _, errors) = refresh(&world);
    assert!(ok, "{errors}");
    world.authority.audit();
    let (code, log) = world.program.stop();
    assert_eq!(code, Some(0));
    assert!(!log.contains("canary"), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn static_tokens_and_keys_change_under_callers() {
    let (one, two) = ("one-0123456789abcdef0123", "two-0123456789abcdef0123");
    let policy = "policies: [{ name: all, subjects: ['static:**'], grants: ['**'], \
                  actions: [admin.*, get_token, force_refresh] }]";
    let world = World::new(
        "callers: { tokens_file: callers }\npolicy: { file: policy.yaml }",
        &[("callers", &format!("laptop {one}\n")), ("policy.yaml", policy)],
    )
    .await;
    world.write("one", one);
    world.write("two", two);
    let path = |name: &str| world.dir.path().join(name).display().to_string();
    let (old, new) = (path("one"), path("two"));
    world.import(&["--token-file", &old]);
    let gets = |file: &str| world.program.cli(&["get", GRANT, "--token-file", file]).0;
    assert!(gets(&old) && !gets(&new));
    world.write("callers", &format!("laptop {two}\n"));
    until("the new token", || gets(&new)).await;
    assert!(!gets(&old), "what was taken away is believed no longer");

    // A key that is added seals what comes; what the old one sealed is read still.
    let ring = std::fs::read_to_string(world.dir.path().join("keys")).unwrap();
    let mut ring: serde_json::Value = serde_json::from_str(&ring).unwrap();
    assert!(run(world.dir.path(), &["keys", "generate", "--file", "more"], &[]).status.success());
    let more = std::fs::read_to_string(world.dir.path().join("more")).unwrap();
    let more: serde_json::Value = serde_json::from_str(&more).unwrap();
    let second = more["keys"][0]["id"].as_str().unwrap().to_owned();
    assert!(!world.sealed_with(&second));
    ring["keys"].as_array_mut().unwrap().push(more["keys"][0].clone());
    ring["keys"][0]["state"] = "decrypt_only".into();
    // Other replicas may not have it yet.
    world.write("keys", &ring.to_string());
    until("the refusal", || !world.is_in_use("keys.file")).await;
    ring["keys"][0]["state"] = "active".into();
    ring["keys"][1]["state"] = "decrypt_only".into();
    world.write("keys", &ring.to_string());
    until("both keys", || world.is_in_use("keys.file")).await;
    ring["keys"][0]["state"] = "decrypt_only".into();
    ring["keys"][1]["state"] = "active".into();
    world.write("keys", &ring.to_string());
    let rotate = ["grant", "rotate", GRANT, "--token-file", &new];
    until("a pair that the new key has sealed", || {
        assert!(world.program.cli(&rotate).0);
        world.sealed_with(&second)
    })
    .await;
    // Without the old one nothing could be read that it sealed: that is not taken.
    world.write("keys", &more.to_string());
    until("the refusal", || !world.is_in_use("keys.file")).await;
    assert!(world.program.cli(&rotate).0);
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_level_of_the_log_changes_and_what_cannot_is_named() {
    let mut world = World::new("log: { level: info, format: json }", &[]).await;
    assert!(!world.program.seen.join("").contains("DEBUG"));
    let more = "log: { level: debug, format: json }\nshutdown: { drain_delay: 1s }";
    world.write("config.yaml", &config(&world.base, more));
    let told = world.program.wait_for("from the next start on");
    assert!(told.contains("shutdown.drain_delay") && !told.contains("log.level"), "{told}");
    world.import(&[]);
    world.program.wait_for("DEBUG");
    world.write("config.yaml", "log: { level: loud }");
    let told = world.program.wait_for("still holds");
    assert!(told.contains("log.level"), "{told}");
    // Whoever looks for what is wrong wants to hear more of it.
    world.write(
        "config.yaml",
        "log: { level: trace, format: json }\nshutdown: { drain_delay: never }",
    );
    world.program.wait_for("drain_delay");
    world.program.cli(&["status"]);
    world.program.wait_for("TRACE");
    let (code, _) = world.program.stop();
    assert_eq!(code, Some(0));
}

/// Certificate, keys of the cluster, policy and client secret are exchanged at three replicas under
/// callers: no call fails that should have worked.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_exchanged_at_three_replicas_and_no_call_fails() {
    /// Calls between two exchanges: several of each caller.
    const CALLS: usize = 60;
    let authority = Authority::new();
    authority.takes(&["old"]);
    let base = authority.serve().await;
    let (server, dir) = (RedisServer::start(&[]), tempfile::tempdir().unwrap());
    let (url, signs) = (server.url(), Authorities::new());
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let (before, after) = (Signer::new(), Signer::new());
    let certify = || {
        let names = [SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into())];
        let (certificate, key) = signs.signs(&names);
        write("tls.crt", &certificate);
        write("tls.key", &key);
    };
    let policy = |name: &str| {
        let actions = "actions: [get_token, force_refresh, admin.*]";
        let rule = format!("name: {name}, subjects: ['kubernetes:shop/*'], grants: ['**']");
        write("policy.yaml", &format!("policies: [{{ {rule}, {actions} }}]"));
    };
    certify();
    policy("before");
    write("ca.crt", &signs.pem);
    write("secret", "old");
    write("jwks.json", &before.published().to_string());
    write("token", &before.sign(&claims("shop", "orders")));
    write("config.yaml", &config(&base, ""));
    assert!(run(dir.path(), &["keys", "generate", "--file", "keys"], &[]).status.success());
    let replica = |number: usize| {
        let journal = format!("journal-{number}");
        let environment = [
            ("TOKEN_BROKER__STORE__URL", url.as_str()),
            ("TOKEN_BROKER__STORE__JOURNAL", &journal),
            ("TOKEN_BROKER__KEYS__FILE", "keys"),
            ("TOKEN_BROKER__LISTEN__TLS__CERTIFICATE_FILE", "tls.crt"),
            ("TOKEN_BROKER__LISTEN__TLS__KEY_FILE", "tls.key"),
            ("TOKEN_BROKER__CALLERS__KUBERNETES__ISSUER", "https://cluster"),
            ("TOKEN_BROKER__CALLERS__KUBERNETES__JWKS_FILE", "jwks.json"),
            ("TOKEN_BROKER__POLICY__FILE", "policy.yaml"),
            ("TOKEN_BROKER__AUDIT__SINK", "file:audit.jsonl"),
        ];
        Program::start(dir.path(), &["serve", "--config", "config.yaml"], &environment)
    };
    let mut replicas: Vec<_> = (0..3).map(replica).collect();
    let cli = |program: &Program, arguments: &[&str]| {
        let address = format!("https://{}", program.api);
        let proof = ["--tls-ca", "ca.crt", "--token-file", "token"];
        let environment = [("TOKEN_BROKER_ADDRESS", address.as_str())];
        let told = run(dir.path(), &[arguments, &proof].concat(), &environment);
        (told.status.success(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    write("refresh-token", &authority.consent("alice"));
    let import = ["grant", "import", GRANT, "--provider", "default", "--refresh-token-file"];
    let (ok, errors) = cli(&replicas[0], &[&import[..], &["refresh-token"]].concat());
    assert!(ok, "{errors}");

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&signs.pem));
    let callers: Vec<_> = replicas
        .iter()
        .map(|replica| {
            let bearer = Bearer::from_file(dir.path().join("token"));
            let address = format!("https://{}", replica.api);
            let (stop, calls, tls) = (Arc::clone(&stop), Arc::clone(&calls), tls.clone());
            #[expect(clippy::disallowed_methods, reason = "ends with the test")]
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    // A certificate is shown to new connections only.
                    let client = Client::connect_as(&address, bearer.clone(), tls.clone()).await;
                    let mut client = client.unwrap();
                    for _ in 0..10 {
                        let grant_id = GRANT.to_owned();
                        let request = GetTokenRequest { grant_id, ..Default::default() };
                        client.tokens.get_token(request).await.unwrap();
                        calls.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        })
        .collect();

    // Each exchange has calls before, during and after it, however slow the machine is.
    let called = async || {
        let before = calls.load(Ordering::SeqCst);
        while calls.load(Ordering::SeqCst) < before + CALLS
            && !callers.iter().any(JoinHandle::is_finished)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    called().await;
    // First what is to come is known beside what is there, then it takes its place.
    let both = serde_json::json!({ "keys": [before.published()["keys"][0], after.published()["keys"][0]] });
    write("jwks.json", &both.to_string());
    authority.takes(&["old", "new"]);
    write("secret", "new\nold");
    certify();
    policy("after");
    for replica in &mut replicas {
        replica.signal("HUP");
        replica.wait_for("as SIGHUP asked for");
    }
    called().await;
    replace(&dir.path().join("token"), &after.sign(&claims("shop", "orders")));
    write("jwks.json", &after.published().to_string());
    authority.takes(&["new"]);
    write("secret", "new");
    for replica in &mut replicas {
        replica.signal("HUP");
        replica.wait_for("as SIGHUP asked for");
        let (ok, errors) = cli(replica, &["refresh", GRANT]);
        assert!(ok, "{errors}");
    }
    called().await;
    stop.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
    authority.audit();
    let audit = std::fs::read_to_string(dir.path().join("audit.jsonl")).unwrap();
    assert!(audit.contains("\"rule\":\"before\"") && audit.contains("\"rule\":\"after\""));
    assert!(!audit.contains("\"reason\":\"CALLER_UNAUTHENTICATED\""));
    println!("{} calls", calls.load(Ordering::SeqCst));
}

/// As Kubernetes does it: never half of it.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}
