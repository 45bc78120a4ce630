//! Enrolment: a person's consent becomes a grant.

use std::io::Write as _;
use std::time::Duration;

use token_broker::broker::enrol::{Answer, NewEnrolment, Stage};
use token_broker::broker::error::Error;
use token_broker::broker::model::{Ending, GrantId, ProviderId};
use token_broker::client::{CallError, Client};
use token_broker::proto::{Grant, StartEnrollmentRequest, StartEnrollmentResponse};
use token_broker::secret::AuthorizationCode;
use tonic::Code;

use crate::herd::{import, redis_settings};
use crate::support::authority::{Authority, Fault, Way};
use crate::support::consent::{World, answer, enroll, start};
use crate::support::process::{Program, text};
use crate::support::redis::RedisServer;

const REDIRECT: &str = "http://localhost:8080/callback";

const REGISTERED: (&str, &str) = ("REDIRECT_URL", REDIRECT);

async fn world(more: &[(&str, &str)]) -> World {
    World::new(&[&[REGISTERED], more].concat()).await
}

impl World {
    async fn ask(&mut self, id: &str, request: &str) -> Result<StartEnrollmentResponse, CallError> {
        let request = StartEnrollmentRequest {
            grant_id: id.to_owned(),
            provider_id: "default".to_owned(),
            request_id: request.to_owned(),
            ..StartEnrollmentRequest::default()
        };
        Ok(self.client.admin.start_enrollment(request).await?.into_inner())
    }

    async fn end(&mut self, address: &str) -> Result<Grant, CallError> {
        let ended = self.client.admin.complete_enrollment(answer(address)).await?;
        Ok(ended.into_inner().grant.unwrap())
    }
}

fn reason(error: &CallError) -> String {
    format!("{error:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_becomes_a_living_grant() {
    let mut world = world(&[]).await;
    let asked = world.ask("kroger/alice", "").await.unwrap();
    assert!(asked.authorization_url.starts_with(&format!("{}/authorize?", world.base)));
    assert!(asked.authorization_url.contains("code_challenge_method=S256"));
    let address = world.authority.answer("alice", &asked.authorization_url);
    let grant = world.end(&address).await.unwrap();
    assert_eq!(grant.grant_id, "kroger/alice");
    assert_eq!(world.authority.posts(), 1);
    let (ok, _, errors) = world.program.cli(&["get", "kroger/alice"]);
    assert!(ok, "{errors}");
    assert_eq!(world.authority.posts(), 1, "the token that came with it is served");
    world.lives("kroger/alice");
    // The answer is good once.
    let again = world.end(&address).await.unwrap_err();
    assert!(reason(&again).contains("EnrollmentNotFound"), "{again:?}");
    world.authority.audit();
    // Nothing of it is in the clear anywhere.
    let World { authority, base, dir, program, .. } = world;
    let (code, log) = program.stop();
    assert_eq!(code, Some(0), "{log}");
    let file = std::fs::read(dir.path().join("store.redb")).unwrap();
    for secret in authority.secrets().iter().chain([&asked.state]) {
        assert!(!log.contains(secret.as_str()), "in the log");
        let bytes = secret.as_bytes();
        assert!(!file.windows(bytes.len()).any(|window| window == bytes), "in the store");
    }
    let program = start(dir.path(), &base, &[REGISTERED]);
    assert!(program.cli(&["get", "kroger/alice"]).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_shows_that_the_provider_takes_our_client_again() {
    let mut world = world(&[
        ("TOKEN_BROKER__TIMING__CLIENT_PROBE", "60s"),
        ("TOKEN_BROKER__TIMING__CLIENT_PROBE_MAX", "60s"),
    ])
    .await;
    world.authority.outage(Some(Fault::Answer(401, r#"{"error":"invalid_client"}"#)));
    for person in ["ann", "ben"] {
        let (token, grant) = (world.authority.consent(person), format!("kroger/{person}"));
        import(&world.program, world.dir.path(), &grant, &token);
        assert!(!world.program.cli(&["get", &grant]).0);
    }
    world.authority.outage(None);
    assert!(!world.program.cli(&["get", "kroger/ann"]).0, "the next request is a minute away");
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let address = world.authority.answer("alice", &asked.authorization_url);
    world.end(&address).await.unwrap();
    for grant in ["kroger/ann", "kroger/ben"] {
        let (ok, _, errors) = world.program.cli(&["get", grant]);
        assert!(ok, "{grant}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_mends_a_grant_in_place() {
    let mut world = world(&[]).await;
    let file = world.dir.path().join("dead");
    std::fs::write(&file, "never-given-out").unwrap();
    let (ok, _, errors) = world.program.cli(&[
        "grant",
        "import",
        "kroger/alice",
        "--provider",
        "default",
        "--keep-warm",
        "--label",
        "team=blue",
        "--refresh-token-file",
        file.to_str().unwrap(),
    ]);
    assert!(ok, "{errors}");
    let mut refused = false;
    for _ in 0..50 {
        let (_, shown, _) = world.program.cli(&["grant", "show", "kroger/alice"]);
        refused = shown.contains("REAUTH_REQUIRED");
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(refused);
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let address = world.authority.answer("alice", &asked.authorization_url);
    let grant = world.end(&address).await.unwrap();
    assert_eq!(grant.labels["team"], "blue");
    assert!(grant.keep_warm);
    world.lives("kroger/alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_with_the_same_id_is_the_same_question() {
    let mut world = world(&[]).await;
    let first = world.ask("kroger/alice", "ticket-7").await.unwrap();
    let again = world.ask("kroger/alice", "ticket-7").await.unwrap();
    assert_eq!((&first.state, &first.authorization_url), (&again.state, &again.authorization_url));
    let other = world.ask("kroger/alice", "ticket-8").await.unwrap();
    assert_ne!(first.state, other.state);
    // The broker is killed between question and answer.
    world.die(&[REGISTERED]).await;
    let address = world.authority.answer("alice", &first.authorization_url);
    assert!(world.end(&address).await.is_ok(), "any process with the store may end it");
    world.lives("kroger/alice");
    // What was answered does not come back, and no code is sent twice.
    let answered = world.ask("kroger/alice", "ticket-7").await.unwrap_err();
    assert!(reason(&answered).contains("answered already"), "{answered:?}");
    let request = StartEnrollmentRequest {
        grant_id: "kroger/alice".to_owned(),
        provider_id: "default".to_owned(),
        scopes: vec!["more".to_owned()],
        request_id: "ticket-8".to_owned(),
        ..StartEnrollmentRequest::default()
    };
    let differs = world.client.admin.start_enrollment(request).await.unwrap_err();
    assert!(differs.message().contains("another question"), "{differs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_and_no_code_is_sent_twice() {
    let issuer = [("TOKEN_BROKER__PROVIDERS__DEFAULT__ISSUER", "https://provider.example")];
    let mut world = world(&issuer).await;
    import(&world.program, world.dir.path(), "kroger/alice", &world.authority.consent("alice"));
    let forged = format!("{REDIRECT}?code=x&state={}", "A".repeat(43));
    assert!(reason(&world.end(&forged).await.unwrap_err()).contains("EnrollmentNotFound"));

    // Another server's answer is not sent to anybody.
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let address = world.authority.answer("alice", &asked.authorization_url);
    let mixed_up = format!("{address}&iss=https%3A%2F%2Fevil.example");
    let error = world.end(&mixed_up).await.unwrap_err();
    assert!(reason(&error).contains("AuthorizationCodeRejected"), "{error:?}");
    assert_eq!(world.authority.posts(), 0);

    // A code that the provider does not know.
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let wrong = format!("{REDIRECT}?code=wrong&state={}", asked.state);
    let error = world.end(&wrong).await.unwrap_err();
    assert!(reason(&error).contains("AuthorizationCodeRejected"), "{error:?}");

    // An answer that is lost: nobody knows, and it is not tried again.
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let address = world.authority.answer("alice", &asked.authorization_url);
    world.authority.next(Fault::After(Way::Reset));
    let error = world.end(&address).await.unwrap_err();
    assert!(reason(&error).contains("AuthorizationCodeOutcomeUnknown"), "{error:?}");
    assert!(world.end(&address).await.is_err());

    // Consent without a refresh token.
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let address = world.authority.answer("alice", &asked.authorization_url);
    world.authority.next(Fault::KeepsRefreshToken);
    let error = world.end(&address).await.unwrap_err();
    assert!(reason(&error).contains("offline_access"), "{error:?}");
    world.authority.audit();
    let (ok, _, errors) = world.program.cli(&["get", "kroger/alice"]);
    assert!(!ok || errors.is_empty(), "the grant that was there is what it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_a_pasted_address() {
    let world = world(&[]).await;
    let arguments = ["kroger/alice", "--provider", "default"];
    let (mut waits, mut told) = enroll(&world.program, &arguments);
    let url = std::io::BufRead::lines(&mut told)
        .map_while(Result::ok)
        .find(|line| line.contains("http"))
        .unwrap();
    let address = world.authority.answer("alice", url.trim());
    writeln!(waits.stdin.take().unwrap(), "{address}").unwrap();
    let output = waits.wait_with_output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("kroger/alice"), "{output:?}");
    world.lives("kroger/alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_on_redis_is_taken_once() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let mut environment = redis_settings(dir.path(), &base, &url);
    environment.push(("REDIRECT_URL", REDIRECT));
    let program = Program::start(dir.path(), &["serve"], &environment);
    let client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let mut world = World { authority, base: base.clone(), dir, program, client };
    let asked = world.ask("kroger/alice", "once").await.unwrap();
    let keys = server.cli(&["KEYS", "tb:note:*"]);
    assert_eq!(keys.lines().count(), 3, "by request, by id and by state");
    for key in keys.lines() {
        let left: i64 = server.cli(&["PTTL", key]).parse().unwrap();
        assert!((1..=1_200_000).contains(&left), "{left}");
    }
    let address = world.authority.answer("alice", &asked.authorization_url);
    let mut other = world.client.clone();
    let (first, second) = tokio::join!(
        world.client.admin.complete_enrollment(answer(&address)),
        other.admin.complete_enrollment(answer(&address)),
    );
    let codes = [first.err(), second.err()].map(|error| error.map(|status| status.code()));
    assert!(codes.contains(&None) && codes.contains(&Some(Code::NotFound)), "{codes:?}");
    world.lives("kroger/alice");
}

/// The code is spent, and the store does not take what it brought.
#[tokio::test(flavor = "multi_thread")]
async fn a_consent_waits_for_the_store() {
    let mut world = world(&[("TOKEN_BROKER__TIMING__CALLER_WAIT_MAX", "1s")]).await;
    let asked = world.ask("kroger/alice", "").await.unwrap();
    let address = world.authority.answer("alice", &asked.authorization_url);
    world.authority.delay(Duration::from_millis(500));
    let (store, aside) = (world.dir.path().join("store.redb"), world.dir.path().join("aside"));
    let authority = world.authority.clone();
    let taken_away = {
        let (store, aside) = (store.clone(), aside.clone());
        std::thread::spawn(move || {
            while authority.posts() == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::fs::rename(store, aside).unwrap();
        })
    };
    let error = world.end(&address).await.unwrap_err();
    assert!(reason(&error).contains("goes on by itself"), "{error:?}");
    taken_away.join().unwrap();
    world.authority.delay(Duration::ZERO);
    assert!(world.program.page("/metrics").contains("tokenbroker_unpublished_pairs 1"));
    std::fs::rename(aside, store).unwrap();
    let mut stored = false;
    for _ in 0..100 {
        stored = world.program.page("/metrics").contains("tokenbroker_unpublished_pairs 0");
        if stored {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(stored);
    world.lives("kroger/alice");
}

/// In simulated time.
fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(5)
}

#[tokio::test(start_paused = true)]
async fn a_question_lapses_after_ten_minutes() {
    let world = crate::support::world::World::new();
    let new = || NewEnrolment {
        caller: None,
        grant: GrantId::parse("kroger/alice").unwrap(),
        provider: ProviderId::new("kroger"),
        scopes: Vec::new(),
        labels: std::collections::BTreeMap::new(),
        redirect_uri: Some(REDIRECT.to_owned()),
        request: None,
        started_by: String::new(),
        paste: false,
        other_account: false,
        replace: false,
    };
    let asked = world.broker.start_enrolment(new(), soon()).await.unwrap().enrolment;
    let answer =
        Answer { state: asked.state.clone(), code: AuthorizationCode::new("code"), issuer: None };
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(matches!(world.broker.show_enrolment(&asked.id).await, Ok((_, Stage::Waiting))));
    tokio::time::advance(Duration::from_secs(2)).await;
    let late = world.broker.complete_enrolment(answer).await.unwrap_err();
    assert!(matches!(late, Error::EnrolmentUnknown), "{late:?}");
    assert!(world.broker.show_enrolment(&asked.id).await.is_err());
    assert_eq!(world.authority.posts(), 0, "a code that comes late is not spent");
    // One that nobody wants any more.
    let asked = world.broker.start_enrolment(new(), soon()).await.unwrap().enrolment;
    for _ in 0..2 {
        let (_, stage) = world.broker.cancel_enrolment(&asked.id).await.unwrap();
        assert!(matches!(stage, Stage::Ended(Ending::Cancelled)), "{stage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consent_does_not_put_a_grant_of_another_kind_aside_unasked() {
    let mut world = world(&[]).await;
    let (ok, _, errors) =
        world.program.cli(&["grant", "create", "kroger/service", "--provider", "default"]);
    assert!(ok, "{errors}");
    let refused = world.ask("kroger/service", "").await.unwrap_err();
    assert!(reason(&refused).contains("GrantAlreadyExists"), "{refused:?}");
    let request = StartEnrollmentRequest {
        grant_id: "kroger/service".to_owned(),
        provider_id: "default".to_owned(),
        replace: true,
        ..StartEnrollmentRequest::default()
    };
    let asked = world.client.admin.start_enrollment(request).await.unwrap().into_inner();
    let address = world.authority.answer("alice", &asked.authorization_url);
    let grant = world.end(&address).await.unwrap();
    assert_eq!(grant.kind(), token_broker::proto::GrantKind::RefreshToken);
    world.lives("kroger/service");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_sent_to_addresses_only() {
    let mut world = world(&[]).await;
    for place in
        ["javascript:alert(1)", "data:text/html,x", "file:///etc", "/callback", "http://x/#y"]
    {
        let request = StartEnrollmentRequest {
            grant_id: "kroger/alice".to_owned(),
            provider_id: "default".to_owned(),
            redirect_uri: place.to_owned(),
            ..StartEnrollmentRequest::default()
        };
        let refused = world.client.admin.start_enrollment(request).await.unwrap_err();
        assert!(refused.message().contains("redirect_uri"), "{place}: {refused:?}");
    }
}
