//! Who is let in, and what they may do: every method, every kind of caller.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use token_broker::client::{Bearer, CallError, Client};
use token_broker::proto::force_refresh_request::Rejected;
use token_broker::proto::token_service_client::TokenServiceClient;
use token_broker::proto::{ErrorReason, FILE_DESCRIPTOR_SET, ForceRefreshRequest, GetTokenRequest};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, ClientTlsConfig};
use tonic::{Code, Request};

use crate::herd::settings;
use crate::support::authority::Authority;
use crate::support::process::{Program, grpcurl, run, text};
use crate::support::signer::Signer;

const POLICY: &str = "
policies:
  - name: orders
    subjects: ['kubernetes:shop/orders', 'static:laptop']
    grants: ['kroger/*']
    actions: [get_token]
  - name: team-a
    subjects: ['kubernetes:team-a/ana']
    grants: ['team-a/*']
    actions: [admin.enroll, admin.providers]
    providers: ['default']
    scopes: ['profile']
  - name: operators
    subjects: ['kubernetes:platform/admin']
    grants: ['**']
    actions: [admin.*, get_token, watch_token, force_refresh]
";
pub(crate) const STATIC: &str = "static-canary-0123456789abcdef";

pub(crate) struct World {
    dir: TempDir,
    pub(crate) authority: Authority,
    cluster: Signer,
    pub(crate) program: Program,
    channel: Channel,
}

#[expect(clippy::disallowed_methods, reason = "the program under test reads the system clock, too")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl World {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// A broker with these settings, too, and a grant `kroger/alice`.
    pub(crate) async fn with(more: &[(&str, &str)]) -> Self {
        let mut known = vec![("TOKEN_BROKER__CALLERS__KUBERNETES__JWKS_FILE", "jwks.json")];
        known.extend(more);
        let world = Self::without_keys(&known).await;
        std::fs::write(world.at("refresh-token"), world.authority.consent("alice")).unwrap();
        let file = world.at("refresh-token").display().to_string();
        let import = ["grant", "import", "kroger/alice", "--provider", "default"];
        let (ok, _, errors) = world.cli(
            "platform",
            "admin",
            &[&import[..], &["--refresh-token-file", &file]].concat(),
        );
        assert!(ok, "{errors}");
        world
    }

    /// The same, where nothing says what the cluster signs with, and without the grant.
    pub(crate) async fn without_keys(more: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let base = authority.serve().await;
        let (dir, cluster) = (tempfile::tempdir().unwrap(), Signer::new());
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("jwks.json"), cluster.published().to_string()).unwrap();
        std::fs::write(at("callers"), format!("laptop {STATIC}\n")).unwrap();
        std::fs::write(at("policy.yaml"), POLICY).unwrap();
        let mut environment = settings(&base, "redb:store.redb");
        environment.extend([
            ("TOKEN_BROKER__CALLERS__KUBERNETES__ISSUER", "https://cluster"),
            ("TOKEN_BROKER__CALLERS__TOKENS_FILE", "callers"),
            ("TOKEN_BROKER__POLICY__FILE", "policy.yaml"),
            ("TOKEN_BROKER__LOG__LEVEL", "trace"),
        ]);
        environment.extend(more);
        if more.iter().any(|(name, _)| *name == "TOKEN_BROKER__KEYS__FILE") {
            let made = run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
            assert!(made.status.success());
        }
        let program = Program::start(dir.path(), &["serve"], &environment);
        let channel = Channel::from_shared(format!("http://{}", program.api)).unwrap();
        let channel = channel.connect().await.unwrap();
        Self { dir, authority, cluster, program, channel }
    }

    /// Connects as this service account.
    pub(crate) async fn client(&self, namespace: &str, name: &str) -> Client {
        self.client_with(&claims(namespace, name)).await
    }

    /// Connects as whoever has these claims.
    pub(crate) async fn client_with(&self, claims: &Value) -> Client {
        let file = self.at(&format!("token-{}", self.token(claims).len()));
        let file = file.with_extension(claims["sub"].as_str().unwrap().replace([':', '/'], "-"));
        std::fs::write(&file, self.token(claims)).unwrap();
        let (address, tls) = (format!("http://{}", self.program.api), ClientTlsConfig::new());
        Client::connect_as(&address, Bearer::from_file(file), tls).await.unwrap()
    }

    /// Calls with grpcurl as this service account.
    fn grpcurl(&self, namespace: &str, name: &str, request: &str, method: &str) -> (bool, String) {
        let header = format!("authorization: Bearer {}", self.token(&claims(namespace, name)));
        let method = format!("tokenbroker.v1.{method}");
        let arguments = ["-plaintext", "-H", &header, "-d", request, &self.program.api, &method];
        let output = std::process::Command::new(grpcurl()).args(arguments).output().unwrap();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    pub(crate) fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Runs the command line as this service account.
    pub(crate) fn cli(
        &self,
        namespace: &str,
        name: &str,
        arguments: &[&str],
    ) -> (bool, String, String) {
        std::fs::write(self.at("token"), self.token(&claims(namespace, name))).unwrap();
        let file = self.at("token").display().to_string();
        self.program.cli(&[arguments, &["--token-file", &file]].concat())
    }

    fn token(&self, claims: &Value) -> String {
        self.cluster.sign(claims)
    }

    /// Calls a method with nothing in the request; gives code and reason.
    async fn call(&self, method: &str, headers: &[String]) -> (Code, ErrorReason) {
        let mut request = Request::new(());
        for header in headers {
            let value = AsciiMetadataValue::try_from(header.as_str()).unwrap();
            request.metadata_mut().append("authorization", value);
        }
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let path = PathAndQuery::try_from(method).unwrap();
        match client.unary(request, path, codec).await {
            Ok(_) => (Code::Ok, ErrorReason::Unspecified),
            Err(status) => {
                let error = CallError::from(status);
                (error.code, error.reason)
            }
        }
    }
}

pub(crate) fn claims(namespace: &str, name: &str) -> Value {
    json!({
        "iss": "https://cluster", "aud": ["token-broker"], "exp": now() + 600, "nbf": now() - 60,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

/// Every method of the contract.
fn methods() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
    let ours = files.iter().filter(|file| file.package() == "tokenbroker.v1");
    let services = ours.flat_map(|file| &file.service);
    let methods = services.flat_map(|service| {
        let of = service.name().to_owned();
        service.method.iter().map(move |method| format!("/tokenbroker.v1.{of}/{}", method.name()))
    });
    methods.collect()
}

/// What callers come with who are nobody.
fn nobodies(world: &World) -> BTreeMap<&'static str, Vec<String>> {
    let good = claims("platform", "admin");
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        world.token(&claims)
    };
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(&good));
    let public = world.cluster.published()["keys"][0].to_string();
    let shared = encode(
        &Header { kid: kid(world), ..Header::new(Algorithm::HS256) },
        &good,
        &EncodingKey::from_secret(public.as_bytes()),
    );
    let foreign = Signer::new().sign(&good);
    let critical = Header { crit: Some(vec!["b64".to_owned()]), ..world.cluster.header() };
    let critical = world.cluster.sign_under(&critical, &good);
    let mut cut = world.token(&good);
    cut.truncate(cut.len() - 4);
    let bearer = |token: String| vec![format!("Bearer {token}")];
    BTreeMap::from([
        ("nothing", Vec::new()),
        ("expired", bearer(changed("exp", json!(now() - 60)))),
        ("not yet valid", bearer(changed("nbf", json!(now() + 600)))),
        ("wrong audience", bearer(changed("aud", json!(["other"])))),
        ("no audience", bearer(changed("aud", Value::Null))),
        ("wrong issuer", bearer(changed("iss", json!("https://other")))),
        ("no service account", bearer(changed("sub", json!("system:node:one")))),
        ("a pattern for a name", bearer(changed("sub", json!("system:serviceaccount:platform:*")))),
        ("alg none", bearer(unsigned)),
        ("HS256 with the public key", bearer(shared.unwrap())),
        ("foreign key", bearer(foreign)),
        ("crit", bearer(critical)),
        ("cut signature", bearer(cut)),
        ("garbage", bearer("a.b.c".to_owned())),
        ("wrong static token", bearer("static-canary-0123456789abcdeg".to_owned())),
        ("another scheme", vec![format!("Basic {STATIC}")]),
        ("no token", vec!["Bearer ".to_owned()]),
        ("two headers", vec![format!("Bearer {STATIC}"), format!("Bearer {STATIC}")]),
    ])
}

fn kid(world: &World) -> Option<String> {
    world.cluster.published()["keys"][0]["kid"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_closed_to_whoever_is_nobody_or_may_not() {
    let world = World::new().await;
    let (methods, nobodies) = (methods(), nobodies(&world));
    assert!(methods.len() >= 22, "{methods:?}");
    let mut tried = 0;
    for method in &methods {
        for (what, headers) in &nobodies {
            let told = world.call(method, headers).await;
            let expected = (Code::Unauthenticated, ErrorReason::CallerUnauthenticated);
            assert_eq!(told, expected, "{method}: {what}");
            tried += 1;
        }
        // Known, and allowed nothing: also where there is no such grant.
        for (namespace, name) in [("shop", "other"), ("other", "orders"), ("shop2", "orders")] {
            let header = format!("Bearer {}", world.token(&claims(namespace, name)));
            let told = world.call(method, &[header]).await;
            assert_eq!(told, (Code::PermissionDenied, ErrorReason::PolicyDenied), "{method}");
            tried += 1;
        }
        let header = format!("bearer {}", world.token(&claims("platform", "admin")));
        let (code, _) = world.call(method, &[header]).await;
        let let_in = !matches!(code, Code::Unauthenticated | Code::PermissionDenied);
        assert!(let_in, "{method}: {code}");
        tried += 1;
    }
    println!("{} methods, {tried} calls", methods.len());
    let (code, log) = world.program.stop();
    assert_eq!(code, Some(0));
    // Of the loudest log: no part of what anybody proved themselves by.
    assert!(!log.contains(STATIC) && !log.contains("eyJ"), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_get_what_the_policy_allows_and_nothing_else() {
    let world = World::new().await;
    let get = ["get", "kroger/alice"];
    let (ok, token, errors) = world.cli("shop", "orders", &get);
    assert!(ok && !token.is_empty(), "{errors}");
    for arguments in [
        &["get", "other/alice"][..],
        &["refresh", "kroger/alice"],
        &["grant", "show", "kroger/alice"],
        &["grant", "delete", "kroger/alice"],
        &["grant", "delete", "kroger/alice", "--revoke"],
        &["status"],
    ] {
        let (ok, _, errors) = world.cli("shop", "orders", arguments);
        assert!(!ok && errors.contains("POLICY_DENIED"), "{arguments:?}: {errors}");
    }
    let (ok, _, errors) = world.program.cli(&get);
    assert!(!ok && errors.contains("CALLER_UNAUTHENTICATED"), "{errors}");
    std::fs::write(world.at("static"), STATIC).unwrap();
    let file = world.at("static").display().to_string();
    let (ok, again, errors) = world.program.cli(&["get", "kroger/alice", "--token-file", &file]);
    assert!(ok && again == token, "{errors}");
    // Lists show what may be seen.
    let (ok, listed, errors) = world.cli("platform", "admin", &["grant", "list"]);
    assert!(ok && listed.contains("kroger/alice"), "{errors}");
    // And nothing of others, be it in what asks for the next page.
    let create = ["grant", "create", "kroger/service", "--provider", "default"];
    assert!(world.cli("platform", "admin", &create).0);
    let list = r#"{"page_size":1}"#;
    let (ok, shown) = world.grpcurl("platform", "admin", list, "GrantAdminService/ListGrants");
    assert!(ok && shown.contains("nextPageToken"), "{shown}");
    let token = shown.split("nextPageToken\": \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(!token.contains("kroger") && token.len() > 50, "{token}");
    let list = format!(r#"{{"page_token":"{token}"}}"#);
    let (ok, shown) = world.grpcurl("platform", "admin", &list, "GrantAdminService/ListGrants");
    assert!(ok, "{shown}");
    let list = r#"{"page_token":"kroger/alice"}"#;
    let (ok, shown) = world.grpcurl("platform", "admin", list, "GrantAdminService/ListGrants");
    assert!(!ok && shown.contains("not one that this store gave out"), "{shown}");
    let metrics = world.program.page("/metrics");
    let counted = "tokenbroker_authz_decisions_total{decision=\"denied\",action=\"admin.get\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_policy_is_tried_without_a_broker() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    let ask = |word: &str, subject: &str, action: &str| {
        let arguments =
            ["policy", word, "--file", "policy.yaml", "--subject", subject, "--action", action];
        run(dir.path(), &[&arguments[..], &["--grant", "kroger/alice"]].concat(), &[])
    };
    let told = ask("test", "kubernetes:shop/orders", "get_token");
    assert!(told.status.success() && text(&told.stdout).contains("allowed by orders"));
    let told = ask("test", "kubernetes:shop/orders", "force_refresh");
    assert!(told.status.code() == Some(1) && text(&told.stderr).contains("no rule allows it"));
    let told = text(&ask("explain", "kubernetes:shop/orders", "force_refresh").stdout);
    let row = told.lines().find(|line| line.starts_with("orders")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["orders", "fits", "-", "fits", "fits"]);
    let told = ask("test", "shop/orders", "get_token");
    assert_eq!(told.status.code(), Some(2), "a question that has no answer is no denial");
    assert!(text(&told.stderr).contains("kubernetes:NAMESPACE/SERVICEACCOUNT"));
}

/// Callers without a policy, a policy that is wrong, tokens that are too short: all in one round.
#[test]
fn what_is_wrong_with_callers_and_policy_is_told_before_anything_opens() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("callers"), "laptop short").unwrap();
    std::fs::write(
        at("policy.yaml"),
        "policies: [{name: a, subjects: [b], grants: [], actions: [c]}]",
    )
    .unwrap();
    let mut environment = vec![("TOKEN_BROKER__CALLERS__TOKENS_FILE", "callers")];
    let told = run(dir.path(), &["check-config"], &environment);
    assert_eq!(told.status.code(), Some(78));
    let told = text(&told.stderr);
    assert!(
        told.contains("policy.file: is needed") && told.contains("line 1: a token has"),
        "{told}"
    );
    environment.push(("TOKEN_BROKER__POLICY__FILE", "policy.yaml"));
    let told = text(&run(dir.path(), &["check-config"], &environment).stderr);
    for part in ["subject \"b\"", "`grants` is empty", "no action \"c\"", "line 1"] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policy.example.yaml");
    assert!(token_broker::policy::load(std::path::Path::new(example)).is_ok());
}

/// One caller goes wild; another one does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_takes_too_much_is_refused_and_harms_nobody() {
    let world = World::with(&[
        ("TOKEN_BROKER__CALLERS__LIMITS__RATE", "20"),
        ("TOKEN_BROKER__CALLERS__LIMITS__FORCE_REFRESHES", "1"),
        ("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "1ms"),
    ])
    .await;
    let client = |namespace: &str, name: &str| {
        let file = world.at(&format!("token-of-{name}"));
        std::fs::write(&file, world.token(&claims(namespace, name))).unwrap();
        let bearer = Bearer::from_file(file);
        TokenServiceClient::with_interceptor(world.channel.clone(), bearer)
    };
    let ask = || GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
    let (wild, mut calm) = (client("shop", "orders"), client("platform", "admin"));
    let mut refused = Vec::new();
    for _ in 0..5 {
        let calls = (0..40).map(async |_| wild.clone().get_token(ask()).await.err());
        refused.extend(join_all(calls).await.into_iter().flatten().map(CallError::from));
        calm.get_token(ask()).await.unwrap();
    }
    let first = refused.first().unwrap();
    assert_eq!(
        (first.code, first.reason),
        (Code::ResourceExhausted, ErrorReason::CallerRateLimited)
    );
    assert!(first.retry_after.is_some_and(|wait| wait <= Duration::from_secs(1)), "{first:?}");
    assert!(first.to_string().contains("kubernetes:shop/orders"), "{first}");
    let metrics = world.program.page("/metrics");
    let counted = "tokenbroker_caller_limits_exceeded_total{caller=\"kubernetes:shop/orders\",limit=\"callers.limits.rate\"}";
    assert!(metrics.contains(counted), "{metrics}");

    // What costs a rotation has a budget of its own; what finds a newer token costs nothing.
    let before = calm.get_token(ask()).await.unwrap().into_inner().token.unwrap().generation;
    let force = |generation| ForceRefreshRequest {
        grant_id: "kroger/alice".to_owned(),
        rejected: Some(Rejected::RejectedGeneration(generation)),
    };
    let now = calm.force_refresh(force(before)).await.unwrap().into_inner().token.unwrap();
    let status = calm.force_refresh(force(now.generation)).await.unwrap_err();
    assert_eq!(CallError::from(status).reason, ErrorReason::CallerRateLimited);
    calm.force_refresh(force(before)).await.unwrap();
}

/// Operators have a port of their own: at that of callers there is nothing of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn operators_may_have_a_port_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings("http://127.0.0.1:1", "memory:");
    settings.push(("TOKEN_BROKER__LISTEN__ADMIN", "127.0.0.1:0"));
    let program = Program::start(dir.path(), &["serve"], &settings);
    let ready: Value = serde_json::from_str(program.seen.last().unwrap()).unwrap();
    let admin = format!("http://{}", ready["admin"].as_str().unwrap());
    let (ok, _, errors) = program.cli(&["grant", "list"]);
    assert!(!ok && errors.contains("NOT_IMPLEMENTED"), "{errors}");
    let (ok, _, errors) = program.cli(&["grant", "list", "--address", &admin]);
    assert!(ok, "{errors}");
    let (ok, _, errors) = program.cli(&["get", "kroger/alice", "--address", &admin]);
    assert!(!ok && errors.contains("NOT_IMPLEMENTED"), "{errors}");
    let (ok, shown) = program.grpcurl("{}", "GrantAdminService/ListGrants");
    assert!(!ok && !shown.contains("GRANT"), "{shown}");
}

/// What the address of the cluster's keys answers.
#[derive(Debug, Clone)]
enum Answers {
    Away,
    Keys(String),
    Never,
}

/// The cluster's keys are away, come, are empty, and hang: who has proven themselves is not troubled by it.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_good_keys_of_the_cluster_are_kept() {
    let (answers, heard) = tokio::sync::watch::channel(Answers::Away);
    let served = move || {
        let now = heard.borrow().clone();
        async move {
            match now {
                Answers::Away => (axum::http::StatusCode::SERVICE_UNAVAILABLE, String::new()),
                Answers::Keys(keys) => (axum::http::StatusCode::OK, keys),
                Answers::Never => std::future::pending().await,
            }
        }
    };
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", port.local_addr().unwrap());
    let routes = axum::Router::new().route("/jwks", axum::routing::get(served));
    #[expect(clippy::disallowed_methods, reason = "ends with the test")]
    tokio::spawn(async move { axum::serve(port, routes).await });

    let (dir, cluster, stranger) = (tempfile::tempdir().unwrap(), Signer::new(), Signer::new());
    std::fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    let mut settings = settings("http://127.0.0.1:1", "memory:");
    settings.extend([
        ("TOKEN_BROKER__CALLERS__KUBERNETES__ISSUER", "https://cluster"),
        ("TOKEN_BROKER__CALLERS__KUBERNETES__JWKS_URL", url.as_str()),
        ("TOKEN_BROKER__POLICY__FILE", "policy.yaml"),
    ]);
    let program = Program::start(dir.path(), &["serve"], &settings);
    // Each token is checked: what was believed once would be believed without a key.
    let lists = |signer: &Signer, number: u64| {
        let mut claims = claims("platform", "admin");
        claims["jti"] = number.into();
        std::fs::write(dir.path().join("token"), signer.sign(&claims)).unwrap();
        let file = dir.path().join("token").display().to_string();
        let (ok, _, errors) = program.cli(&["grant", "list", "--token-file", &file]);
        if ok { "OK".to_owned() } else { errors }
    };
    let told = lists(&cluster, 0);
    assert!(told.contains("cannot be had now"), "it may be right: {told}");
    answers.send_replace(Answers::Keys(cluster.published().to_string()));
    let mut number = 0;
    while lists(&cluster, number) != "OK" {
        number += 1;
        assert!(number < 200, "the keys are not fetched again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for wrong in [
        Answers::Keys(r#"{"keys":[]}"#.to_owned()),
        Answers::Keys("<html>".to_owned()),
        Answers::Never,
    ] {
        answers.send_replace(wrong.clone());
        let told = lists(&stranger, 0);
        assert!(told.contains("does not publish"), "{wrong:?}: {told}");
        number += 1;
        assert_eq!(lists(&cluster, number), "OK", "{wrong:?}");
    }
}

/// What names no grant is about one all the same: the rules of that count.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_ends_an_enrolment_of_a_grant_that_they_may_not_enroll() {
    let world = World::new().await;
    let asked = json!({
        "grant_id": "kroger/victim", "provider_id": "default", "redirect_uri": "http://localhost:1/back",
    });
    let start = "GrantAdminService/StartEnrollment";
    let (ok, told) = world.grpcurl("platform", "admin", &asked.to_string(), start);
    assert!(ok, "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let question = told["authorizationUrl"].as_str().unwrap();
    // Of its own it may make some, with what its rule names.
    for (scopes, provider, allowed) in
        [("profile", "default", true), ("admin", "default", false), ("profile", "other", false)]
    {
        let own = json!({
            "grant_id": "team-a/own", "provider_id": provider, "scopes": [scopes],
            "redirect_uri": "http://localhost:1/back",
        });
        let (ok, told) = world.grpcurl("team-a", "ana", &own.to_string(), start);
        assert_eq!(ok, allowed, "{scopes} {provider}: {told}");
        assert_eq!(told.contains("POLICY_DENIED"), !allowed, "{told}");
    }
    let (ok, told) = world.grpcurl("team-a", "ana", "{}", "GrantAdminService/ListProviders");
    assert!(ok && told.contains("\"default\""), "{told}");
    let address = url::Url::parse(&world.authority.answer("mallory", question)).unwrap();
    let answer: BTreeMap<_, _> = address.query_pairs().into_owned().collect();
    let answer = json!({"state": answer["state"], "code": answer["code"]}).to_string();
    let end = "GrantAdminService/CompleteEnrollment";
    let (ok, told) = world.grpcurl("team-a", "ana", &answer, end);
    assert!(!ok && told.contains("ENROLLMENT_NOT_FOUND"), "{told}");
    assert_eq!(world.authority.posts(), 0);
    // It waits still for who may.
    let (ok, told) = world.grpcurl("platform", "admin", &answer, end);
    assert!(ok, "{told}");
}
