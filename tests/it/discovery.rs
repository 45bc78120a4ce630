//! Discovery: a provider says itself where it is, and is believed as far as it stays at home.

use std::time::Duration;

use serde_json::json;
use token_broker::client::Client;
use token_broker::proto::{CompleteEnrollmentRequest, StartEnrollmentRequest};

use crate::herd::import;
use crate::support::authority::Authority;
use crate::support::consent::answer;
use crate::support::process::Program;

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
