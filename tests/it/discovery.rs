//! Discovery: a provider says itself where it is, and is believed as far as it stays at home.

use std::time::Duration;

use serde_json::json;
use token_broker::client::Client;
use token_broker::proto::{CompleteEnrollmentRequest, StartEnrollmentRequest};

use crate::herd::import;
use crate::support::authority::Authority;
use crate::support::consent::answer;
use crate::support::pages::Pages;
use crate::support::process::{Program, run, text};

fn start(dir: &std::path::Path, issuer: &str, more: &[(&str, &str)]) -> Program {
    let settings = [
        ("TOKEN_BROKER__STORE__URL", "redb:store.redb"),
        ("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "200ms"),
        ("TOKEN_BROKER__TIMING__RETRY_BACKOFF", "50ms"),
        ("TOKEN_BROKER__TIMING__CLIENT_PROBE", "50ms"),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__ISSUER", issuer),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_ID", "id"),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_SECRET", "client-secret-canary"),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__REDIRECT_URL", "http://localhost:1/back"),
    ];
    Program::start(dir, &["serve"], &[&settings, more].concat())
}

fn document(base: &str, token_endpoint: &str) -> serde_json::Value {
    json!({
        "issuer": base, "token_endpoint": token_endpoint,
        "authorization_endpoint": format!("{base}/authorize"),
        "revocation_endpoint": format!("{base}/revoke"),
        "authorization_response_iss_parameter_supported": true,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_is_all_that_is_needed() {
    let authority = Authority::new();
    let base = authority.serve().await;
    authority.document(document(&base, &format!("{base}/token")));
    let dir = tempfile::tempdir().unwrap();
    let program = start(dir.path(), &base, &[]);
    let mut client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let mut end = async |iss: &str| {
        let request = StartEnrollmentRequest {
            grant_id: "kroger/alice".to_owned(),
            provider_id: "default".to_owned(),
            ..StartEnrollmentRequest::default()
        };
        let asked = client.admin.start_enrollment(request).await.unwrap().into_inner();
        let address = authority.answer("alice", &asked.authorization_url);
        let request = CompleteEnrollmentRequest { iss: iss.to_owned(), ..answer(&address) };
        client.admin.complete_enrollment(request).await
    };
    // It says that its answers name it: one that does not is none of its own.
    let error = end("").await.unwrap_err();
    assert!(error.message().contains("another issuer"), "{error:?}");
    assert_eq!(authority.posts(), 0);
    end(&base).await.unwrap();
    std::thread::sleep(Duration::from_millis(250));
    let (ok, _, errors) = program.cli(&["refresh", "kroger/alice"]);
    assert!(ok, "{errors}");
    let (_, listed, _) = program.cli(&["provider", "list"]);
    assert!(listed.contains(&format!("{base}/token")), "{listed}");
    let (ok, _, errors) = program.cli(&["grant", "revoke", "kroger/alice"]);
    assert!(ok, "{errors}");
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_does_not_follow_a_document_elsewhere() {
    let (authority, evil) = (Authority::new(), Authority::new());
    let (base, elsewhere) = (authority.serve().await, evil.serve().await);
    authority.document(document(&base, &format!("{elsewhere}/token")));
    let dir = tempfile::tempdir().unwrap();
    let mut program = start(dir.path(), &base, &[]);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (ok, _, error) = program.cli(&["get", "kroger/alice"]);
    assert!(!ok && error.contains("PROVIDER_ENDPOINT_MISCONFIGURED"), "{error}");
    assert!(program.wait_for("is not used").contains("is elsewhere"));
    assert_eq!((authority.posts(), evil.posts()), (0, 0));
    // It comes to its senses, and nothing was lost.
    authority.document(document(&base, &format!("{base}/token")));
    let mut got = false;
    for _ in 0..100 {
        got = program.cli(&["get", "kroger/alice"]).0;
        if got {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(got);
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_does_not_keep_the_broker_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let program = start(dir.path(), "http://127.0.0.1:1", &[]);
    import(&program, dir.path(), "kroger/alice", "refresh-token");
    let (ok, _, error) = program.cli(&["get", "kroger/alice"]);
    assert!(!ok && error.contains("PROVIDER_UNREACHABLE"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_configured_needs_nobodys_word() {
    let authority = Authority::new();
    let base = authority.serve().await;
    authority.document(document(&base, "https://elsewhere.example/token"));
    let dir = tempfile::tempdir().unwrap();
    let token_url = format!("{base}/token");
    let more = [
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__TOKEN_URL", token_url.as_str()),
        ("TOKEN_BROKER__PROVIDERS__DEFAULT__DISCOVERY", "true"),
    ];
    let program = start(dir.path(), &base, &more);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    let (ok, _, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(ok, "{errors}");
    // What is not configured is not taken from a document that is not believed.
    let (ok, _, errors) = program.cli(&["grant", "revoke", "kroger/alice"]);
    assert!(!ok && errors.contains("PROVIDER_ENDPOINT_MISCONFIGURED"), "{errors}");
    assert!(program.cli(&["get", "kroger/alice"]).0);
    authority.audit();
}

/// Where OpenID Connect has the document of an issuer, and where RFC 8414 has it.
const PLACES: [&str; 2] =
    ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"];
const AT_ONCE: Duration = Duration::ZERO;

async fn asks(client: &mut Client, patience: Duration) -> Result<String, tonic::Status> {
    let mut request = tonic::Request::new(StartEnrollmentRequest {
        grant_id: "kroger/alice".to_owned(),
        provider_id: "default".to_owned(),
        ..StartEnrollmentRequest::default()
    });
    request.set_timeout(patience);
    Ok(client.admin.start_enrollment(request).await?.into_inner().authorization_url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_place_is_tried_whatever_the_first_says() {
    let (pages, base) = Pages::serve().await;
    let good = document(&base, &format!("{base}/token")).to_string();
    pages.put(PLACES[1], (AT_ONCE, 200, good));
    for (status, body) in [(302, ""), (200, "<html>sign in"), (500, ""), (200, r#"{"issuer":"x"}"#)]
    {
        pages.put(PLACES[0], (AT_ONCE, status, body.to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let program = start(dir.path(), &base, &[]);
        let mut client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
        let url = asks(&mut client, Duration::from_secs(5)).await.unwrap();
        assert!(url.starts_with(&format!("{base}/authorize?")), "{status} {body}: {url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_document_is_told_where_people_look() {
    let (pages, base) = Pages::serve().await;
    let slash = document(&base, &format!("{base}/token")).to_string();
    let slash = slash.replace(&format!(r#""issuer":"{base}""#), &format!(r#""issuer":"{base}/""#));
    for (status, body, told) in [
        (302, String::new(), "it answered 302"),
        (200, slash, "only the slash at the end differs"),
        (200, "<html>".to_owned(), "it is no JSON object"),
    ] {
        pages.put(PLACES[0], (AT_ONCE, status, body));
        let dir = tempfile::tempdir().unwrap();
        let program = start(dir.path(), &base, &[]);
        let mut client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
        let error = asks(&mut client, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.message().contains(told), "{error:?}");
        let (_, shown, _) = program.cli(&["provider", "show", "default"]);
        assert!(shown.contains(told), "{told}: {shown}");
        let settings = [
            ("TOKEN_BROKER__STORE__URL", "memory:"),
            ("TOKEN_BROKER__PROVIDERS__DEFAULT__ISSUER", base.as_str()),
            ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_ID", "id"),
            ("TOKEN_BROKER__PROVIDERS__DEFAULT__CLIENT_SECRET", "client-secret-canary"),
        ];
        let looked = run(dir.path(), &["doctor"], &settings);
        let looked = text(&looked.stdout);
        assert!(looked.contains(told), "{told}: {looked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_comes_late_is_kept() {
    let (pages, base) = Pages::serve().await;
    let good = document(&base, &format!("{base}/token")).to_string();
    pages.put(PLACES[0], (Duration::from_millis(2_500), 200, good));
    let dir = tempfile::tempdir().unwrap();
    let program = start(dir.path(), &base, &[]);
    let mut client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let mut hasty = 0;
    let url = loop {
        match asks(&mut client, Duration::from_millis(600)).await {
            Ok(url) => break url,
            Err(error) => {
                assert!(error.message().contains("it has not said in time"), "{error:?}");
                hasty += 1;
            }
        }
        assert!(hasty < 50);
    };
    assert!(hasty > 1 && url.contains("/authorize?"), "{hasty} {url}");
    assert_eq!(pages.asked(PLACES[0]), 1, "asked once for all");
}
