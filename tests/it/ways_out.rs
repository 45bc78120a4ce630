//! What operators do about grants that do not go on by themselves.

use std::time::Duration;

use futures_util::future::join_all;
use token_broker::broker::endpoint::Habits;
use token_broker::client::CallError;
use token_broker::proto::resolve_grant_request::Resolution;
use token_broker::proto::{
    DisableGrantRequest, EnableGrantRequest, ErrorReason, Grant, GrantState, ResolveGrantRequest,
    grant_doubt,
};
use tonic::Code;

use crate::herd::{import, redis_settings, settings};
use crate::support::authority::{Authority, Fault};
use crate::support::process::Program;
use crate::support::redis::RedisServer;
use crate::support::world::{World, pass};

const ALICE: &str = "kroger/alice";
/// `listen_max` and its margin.
const SETTLE: i64 = 65;

async fn resolve(world: &World, grant: &str, by: Resolution) -> Result<Grant, CallError> {
    let request = ResolveGrantRequest { grant_id: grant.to_owned(), resolution: by.into() };
    let response = world.calls.clone().admin.resolve_grant(request).await?;
    Ok(response.into_inner().grant.unwrap())
}

/// Alice's first refresh met `fault`, and nothing is presented again unasked.
async fn doubtful(fault: Fault) -> World {
    let told = Habits { resends: false, ..Habits::default() };
    let world = World::with(Authority::new().habits(told), |store| store);
    world.start_scheduler();
    world.alice().await;
    world.authority.next(fault);
    assert!(world.calls.clone().get(ALICE).await.is_err());
    world
}

#[tokio::test(start_paused = true)]
async fn an_operator_orders_a_resend_and_it_waits_for_the_last_request() {
    let world = doubtful(Fault::Answer(500, "")).await;
    let now = world.calls.clone().show(ALICE).await.unwrap().doubt.unwrap();
    let sent = now.last_sent_time.unwrap().seconds;
    let grant = resolve(&world, ALICE, Resolution::Retry).await.unwrap();
    assert_eq!(grant.state(), GrantState::OutcomeUnknown);
    assert_eq!(grant.doubt.unwrap().retry_time.unwrap().seconds, sent + SETTLE);
    pass(SETTLE.unsigned_abs() + 2).await;
    let grant = world.calls.clone().show(ALICE).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active, "it needs to be said once");
    assert_eq!(world.authority.posts(), 2);

    let world = doubtful(Fault::Answer(500, "")).await;
    pass(7_200).await;
    assert_eq!(world.authority.posts(), 1);
    let both = join_all([(); 2].map(|()| resolve(&world, ALICE, Resolution::Retry))).await;
    for grant in both {
        assert_eq!(grant.unwrap().state(), GrantState::Active);
    }
    assert_eq!(world.authority.posts(), 2, "two at once present it once");
}

#[tokio::test(start_paused = true)]
async fn an_order_holds_for_one_resend() {
    let world = doubtful(Fault::Answer(500, "")).await;
    pass(100).await;
    world.authority.next(Fault::Answer(500, ""));
    let error = resolve(&world, ALICE, Resolution::Retry).await.unwrap_err();
    assert_eq!((error.reason, error.retry_after), (ErrorReason::RefreshOutcomeUnknown, None));
    pass(7_200).await;
    assert_eq!(world.authority.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_in_doubt_can_be_given_up() {
    let world = doubtful(Fault::LostAnswer).await;
    let grant = resolve(&world, ALICE, Resolution::Reauthorize).await.unwrap();
    assert_eq!(grant.state(), GrantState::ReauthRequired);
    assert_eq!(grant.last_failure.unwrap().reason(), ErrorReason::GrantRefreshTokenLost);
    let again = resolve(&world, ALICE, Resolution::Reauthorize).await.unwrap();
    assert_eq!(again.state(), GrantState::ReauthRequired, "saying it twice changes nothing");
    let token = world.authority.consent("alice");
    world.calls.clone().import(ALICE, &token).await.unwrap();
    assert!(world.calls.clone().get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_in_doubt_again_when_that_is_taken_back() {
    let world = doubtful(Fault::Answer(500, "")).await;
    pass(5).await;
    resolve(&world, ALICE, Resolution::Reauthorize).await.unwrap();
    for world in [&world, &world.restarted()] {
        assert!(world.calls.clone().get(ALICE).await.is_err());
    }
    pass(5).await;
    let grant = resolve(&world, ALICE, Resolution::Retry).await.unwrap();
    assert_eq!(grant.state(), GrantState::OutcomeUnknown, "the last request may be under way");
    assert_eq!(world.authority.posts(), 1);
    pass(60).await;
    let grant = world.calls.clone().show(ALICE).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active);
    assert_eq!(world.authority.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn there_must_be_something_to_resolve() {
    let world = World::new();
    world.alice().await;
    world.calls.clone().get(ALICE).await.unwrap();
    for by in [Resolution::Retry, Resolution::Reauthorize] {
        let healthy = resolve(&world, ALICE, by).await.unwrap_err();
        assert_eq!(
            (healthy.code, healthy.reason),
            (Code::FailedPrecondition, ErrorReason::GrantNotInDoubt)
        );
        let unknown = resolve(&world, "kroger/nobody", by).await.unwrap_err();
        assert_eq!(unknown.reason, ErrorReason::GrantNotFound);
    }
    let unsaid = resolve(&world, ALICE, Resolution::Unspecified).await.unwrap_err();
    assert_eq!(unsaid.reason, ErrorReason::InvalidRequest);
    let delete = token_broker::proto::DeleteGrantRequest {
        grant_id: ALICE.to_owned(),
        ..Default::default()
    };
    world.calls.clone().admin.delete_grant(delete).await.unwrap();
    let deleted = resolve(&world, ALICE, Resolution::Retry).await.unwrap_err();
    assert_eq!(deleted.reason, ErrorReason::GrantNotFound);
    assert_eq!(world.authority.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_can_be_lifted() {
    let world = World::new();
    world.alice().await;
    world.authority.next(Fault::Answer(400, ""));
    assert!(world.calls.clone().get(ALICE).await.is_err());
    world.authority.next(Fault::Answer(400, ""));
    let error = resolve(&world, ALICE, Resolution::Retry).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::GrantReauthRequired, "refused again");
    let grant = resolve(&world, ALICE, Resolution::Retry).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active);
    assert!(world.calls.clone().get(ALICE).await.is_ok());
    assert_eq!(world.authority.posts(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_switched_off_gives_and_fetches_nothing() {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    let token = calls.get(ALICE).await.unwrap();
    let disable = DisableGrantRequest { grant_id: ALICE.to_owned() };
    for _ in 0..2 {
        let grant = calls.admin.disable_grant(disable.clone()).await.unwrap().into_inner();
        assert_eq!(grant.grant.unwrap().state(), GrantState::Disabled);
    }
    for broker in [&world, &world.restarted()] {
        let mut calls = broker.calls.clone();
        let error = calls.get(ALICE).await.unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::FailedPrecondition, ErrorReason::GrantDisabled)
        );
        let error = calls.reject(ALICE, token.generation).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::GrantDisabled);
    }
    pass(7_200).await;
    assert_eq!(world.authority.posts(), 1);
    let enable = EnableGrantRequest { grant_id: ALICE.to_owned() };
    let grant = calls.admin.enable_grant(enable).await.unwrap().into_inner().grant.unwrap();
    assert_eq!(grant.state(), GrantState::Active);
    pass(2).await;
    assert_eq!(world.authority.posts(), 2, "it is due, and so it is refreshed");
    assert!(calls.get(ALICE).await.unwrap().generation > token.generation);
}

#[tokio::test(start_paused = true)]
async fn switching_off_during_a_refresh_loses_no_pair() {
    let world = World::new();
    world.alice().await;
    world.authority.delay(Duration::from_secs(5));
    let (mut waiting, mut calls) = (world.calls.clone(), world.calls.clone());
    let disable = DisableGrantRequest { grant_id: ALICE.to_owned() };
    let (_, switched) = tokio::join!(waiting.get(ALICE), async {
        pass(1).await;
        calls.admin.disable_grant(disable).await
    });
    switched.unwrap();
    assert_eq!(calls.get(ALICE).await.unwrap_err().reason, ErrorReason::GrantDisabled);
    let enable = EnableGrantRequest { grant_id: ALICE.to_owned() };
    calls.admin.enable_grant(enable).await.unwrap();
    assert!(calls.get(ALICE).await.is_ok());
    assert_eq!(world.authority.posts(), 1);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn what_a_restored_store_holds_is_presented_only_when_told() {
    let world = World::new();
    world.alice().await;
    let token = world.calls.clone().get(ALICE).await.unwrap();
    world.calls.clone().create("kroger/service").await.unwrap();
    let bob = world.authority.consent("bob");
    world.calls.clone().import("kroger/bob", &bob).await.unwrap();
    let disable = DisableGrantRequest { grant_id: "kroger/bob".to_owned() };
    world.calls.clone().admin.disable_grant(disable).await.unwrap();
    let world = world.restarted();
    let doubted = world.broker.distrust_all().await.unwrap();
    assert_eq!(doubted, 2, "what is switched off, too; nothing spends the service's right");
    world.start_scheduler();
    let served = world.calls.clone().get(ALICE).await.unwrap();
    assert_eq!(served.access_token, token.access_token);
    assert_eq!(served.degraded_reason(), ErrorReason::RefreshOutcomeUnknown);
    pass(9_000).await;
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!((error.reason, error.retry_after), (ErrorReason::RefreshOutcomeUnknown, None));
    let doubt = world.calls.clone().show(ALICE).await.unwrap().doubt.unwrap();
    assert_eq!(doubt.kind(), grant_doubt::Kind::Restored);
    assert_eq!(world.authority.posts(), 1);
    assert!(world.calls.clone().get("kroger/service").await.is_ok());
    let enable = EnableGrantRequest { grant_id: "kroger/bob".to_owned() };
    world.calls.clone().admin.enable_grant(enable).await.unwrap();
    pass(600).await;
    assert_eq!(world.authority.head("bob").unwrap(), bob, "switched on and still not presented");
    let grant = resolve(&world, ALICE, Resolution::Retry).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active);
    world.authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_file_is_started_as_restored_and_resolved_by_the_command_line() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let mut environment = settings(&base, "redb:store.redb");
    environment.push(("TOKEN_BROKER__PROVIDERS__DEFAULT__LISTEN_MAX", "200ms"));
    environment.push(("TOKEN_BROKER__PROVIDERS__DEFAULT__CONNECT_TIMEOUT", "100ms"));
    environment.push(("TOKEN_BROKER__TIMING__SETTLE_MARGIN", "100ms"));
    let program = Program::start(dir.path(), &["serve"], &environment);
    for person in ["alice", "bob", "carol"] {
        import(&program, dir.path(), &format!("kroger/{person}"), &authority.consent(person));
    }
    let second = Program::spawn(dir.path(), &["serve", "--restored"], &environment);
    let (code, log) = { second }.end();
    assert!(code == Some(1) && log.contains("in use by another process"), "{log}");
    program.stop();

    let program = Program::start(dir.path(), &["serve", "--restored"], &environment);
    let (ok, _, errors) = program.cli(&["get", "kroger/alice"]);
    assert!(!ok && errors.contains("REFRESH_OUTCOME_UNKNOWN"), "{errors}");
    let (_, shown, _) = program.cli(&["grant", "show", "kroger/alice"]);
    assert!(shown.contains("grant resolve") && shown.contains("OUTCOME_UNKNOWN"), "{shown}");
    let (_, shown, _) = program.cli(&["status"]);
    assert!(shown.contains("3 OUTCOME_UNKNOWN") && shown.contains("default, well"), "{shown}");
    let (_, shown, _) = program.cli(&["provider", "list"]);
    assert!(shown.contains("default") && shown.contains("kroger"), "{shown}");
    let (ok, shown, _) = program.cli(&["provider", "show", "default", "--json"]);
    assert!(ok && shown.contains("token_endpoint"), "{shown}");
    let (ok, _, errors) = program.cli(&["provider", "show", "nobody"]);
    assert!(!ok && errors.contains("provider list"), "{errors}");
    let (ok, shown, _) = program.cli(&["provider", "profile", "kroger"]);
    assert!(ok && shown.contains("OpenAPI"), "each setting has its source: {shown}");
    let nobody = ["grant", "resolve", "--provider", "nobody", "--all", "--by", "retry"];
    let (ok, _, errors) = program.cli(&nobody);
    assert!(!ok && errors.contains("provider list"), "{errors}");
    let one = ["grant", "resolve", "kroger/alice", "--by", "reauthorize"];
    let (ok, shown, errors) = program.cli(&one);
    assert!(ok && shown.contains("REAUTH_REQUIRED"), "{errors}");
    tokio::time::sleep(Duration::from_millis(400)).await;
    let all = ["grant", "resolve", "--provider", "default", "--all", "--by", "retry"];
    let (ok, _, told) = program.cli(&all);
    assert!(ok && told.contains("2/2 kroger/carol: ACTIVE"), "{told}");
    let (ok, _, errors) = program.cli(&["get", "kroger/bob"]);
    assert!(ok, "{errors}");
    assert_eq!(authority.posts(), 2);
    authority.audit();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_in_use_is_not_started_as_restored() {
    let authority = Authority::new();
    let base = authority.serve().await;
    let dir = tempfile::tempdir().unwrap();
    let server = RedisServer::start(&[]);
    let url = server.url();
    let mut environment = redis_settings(dir.path(), &base, &url);
    let program = Program::start(dir.path(), &["serve"], &environment);
    let second = Program::spawn(dir.path(), &["serve"], &environment);
    let (code, log) = { second }.end();
    assert!(code == Some(1) && log.contains("store.journal"), "one name, one process: {log}");
    environment.push(("TOKEN_BROKER__STORE__JOURNAL", "second.journal"));
    let second = Program::spawn(dir.path(), &["serve", "--restored"], &environment);
    let (code, log) = { second }.end();
    assert!(code == Some(1) && log.contains("another token-broker is connected"), "{log}");
    program.stop();
    Program::start(dir.path(), &["serve", "--restored"], &environment).stop();
}

/// Three people with a token whose hour is over.
async fn an_hour_later(world: &World) -> [String; 3] {
    let mut calls = world.calls.clone();
    let grants = ["kroger/ann", "kroger/ben", "kroger/cy"].map(str::to_owned);
    for grant in &grants {
        let token = world.authority.consent(&grant[7..]);
        calls.import(grant, &token).await.unwrap();
        calls.get(grant).await.unwrap();
    }
    pass(3_600).await;
    grants
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_not_believed_can_be_tried_believed_or_consented_to_at_once() {
    let world = World::new();
    let grants = an_hour_later(&world).await;
    let mut calls = world.calls.clone();
    world.authority.outage(Some(Fault::Answer(400, "")));
    for grant in &grants {
        assert!(calls.get(grant).await.is_err());
    }
    // The second and third were refused together.
    let [_, ben, cy] = &grants;
    assert_eq!(calls.get(ben).await.unwrap_err().reason, ErrorReason::ProviderRefusesMany);
    for _ in 0..9 {
        let error = resolve(&world, ben, Resolution::Retry).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::ProviderRefusesMany, "haste ends no grant");
    }
    world.authority.outage(None);
    assert!(calls.get(ben).await.is_err(), "its pause lasts");
    let grant = resolve(&world, ben, Resolution::Retry).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active);
    assert!(calls.get(ben).await.is_ok());

    let anew = world.authority.consent("cy");
    calls.import(cy, &anew).await.unwrap();
    assert!(calls.get(cy).await.is_ok(), "whoever consents again need not say `replace`");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_refused_alone_can_be_tried_now_or_given_up() {
    let world = World::new();
    let [ann, ben, _] = an_hour_later(&world).await;
    let mut calls = world.calls.clone();
    for person in ["ann", "ben"] {
        world.authority.dead(person, Fault::Answer(418, ""));
    }
    for _ in 0..20 {
        for grant in [ann.as_str(), ben.as_str(), "kroger/cy"] {
            let _ = calls.get(grant).await;
        }
        pass(300).await;
    }
    for grant in [&ann, &ben] {
        let error = calls.get(grant).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::GrantRefusedAlone);
        let failure = calls.show(grant).await.unwrap().last_failure.unwrap();
        let (met, next) = (failure.time.unwrap().seconds, failure.retry_time.unwrap().seconds);
        assert!((40_000..=86_400).contains(&(next - met)), "about once a day: {}", next - met);
    }
    world.authority.alive("ann");
    let grant = resolve(&world, &ann, Resolution::Retry).await.unwrap();
    assert_eq!(grant.state(), GrantState::Active);
    let grant = resolve(&world, &ben, Resolution::Reauthorize).await.unwrap();
    assert_eq!(grant.last_failure.unwrap().reason(), ErrorReason::GrantReauthRequired);
    world.authority.audit_families();
}
