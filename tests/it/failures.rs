//! What goes wrong, and what callers get meanwhile; on paused time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use token_broker::broker::store::Store;
use token_broker::proto::{ErrorReason, GrantState};
use token_broker::telemetry;
use tonic::Code;

use crate::support::authority::{Authority, Fault};
use crate::support::flaky::Flaky;
use crate::support::world::{World, pass};

const ALICE: &str = "kroger/alice";

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_served_while_the_provider_is_away() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get(ALICE).await.unwrap();
    (0..3).for_each(|_| world.authority.next(Fault::Unreachable));
    pass(3_560).await;
    let served = calls.get(ALICE).await.unwrap();
    assert_eq!(served.access_token, first.access_token);
    assert_eq!(served.degraded_reason(), ErrorReason::ProviderUnreachable);
    assert_eq!(calls.show(ALICE).await.unwrap().state(), GrantState::Degraded);
    pass(2).await;
    let next = calls.get(ALICE).await.unwrap();
    assert_eq!(next.generation, first.generation + 1, "tried again after the pause");
    assert_eq!(next.degraded_reason(), ErrorReason::Unspecified);
    assert_eq!(calls.show(ALICE).await.unwrap().state(), GrantState::Active);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn without_a_valid_token_the_error_says_when_to_come_back() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    (0..3).for_each(|_| world.authority.next(Fault::Unreachable));
    let error = calls.get(ALICE).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::ProviderUnreachable));
    let error = calls.get(ALICE).await.unwrap_err();
    assert!(error.retry_after.is_some(), "held back, not hammered");
    tokio::time::sleep(error.retry_after.unwrap()).await;
    assert!(calls.get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refused_grant_is_latched_and_its_token_served_to_the_end() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get(ALICE).await.unwrap();
    world.authority.next(Fault::Answer(400, ""));
    pass(3_000).await;
    calls.get(ALICE).await.unwrap();
    pass(1).await;
    let served = calls.get(ALICE).await.unwrap();
    assert_eq!(served.access_token, first.access_token);
    assert_eq!(served.degraded_reason(), ErrorReason::GrantReauthRequired);
    assert_eq!(calls.show(ALICE).await.unwrap().state(), GrantState::ReauthRequired);
    pass(600).await;
    for _ in 0..50 {
        let error = calls.get(ALICE).await.unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::FailedPrecondition, ErrorReason::GrantReauthRequired)
        );
    }
    assert_eq!(
        calls.refresh(ALICE, None).await.unwrap_err().reason,
        ErrorReason::GrantReauthRequired
    );
    assert_eq!(world.authority.posts(), 2, "a dead token is presented once");
    // A new consent needs no `replace`: there is nothing left to lose.
    calls.import(ALICE, &world.authority.consent("alice")).await.unwrap();
    assert!(calls.get(ALICE).await.unwrap().generation > first.generation);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_an_api_rejected_is_not_served_beside_a_refused_refresh() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let token = calls.get(ALICE).await.unwrap();
    world.authority.next(Fault::Answer(400, ""));
    pass(60).await;
    let error = calls.reject(ALICE, token.generation).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::GrantReauthRequired);
    for mut calls in [calls, world.again().calls] {
        let error = calls.get(ALICE).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::GrantReauthRequired);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_past_its_end_needs_a_new_consent_and_says_so() {
    let day = Duration::from_secs(86_400);
    let world = World::with(Authority::new().refresh_lifetime(day), |store| store);
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.get(ALICE).await.unwrap();
    pass(86_401).await;
    for world in [&world, &world.restarted()] {
        let grant = world.calls.clone().show(ALICE).await.unwrap();
        assert_eq!(grant.state(), GrantState::ReauthRequired);
        let failure = grant.last_failure.unwrap();
        assert_eq!(failure.reason(), ErrorReason::GrantRefreshTokenExpired);
        let error = world.calls.clone().get(ALICE).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::GrantRefreshTokenExpired);
    }
    assert_eq!(world.authority.posts(), 1);
    // As the error says: there is nothing left that `replace` would protect.
    calls.import(ALICE, &world.authority.consent("alice")).await.unwrap();
    assert!(calls.get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_late_refusal_never_beats_a_new_chain() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    world.authority.delay(Duration::from_secs(3));
    world.authority.next(Fault::Answer(400, ""));
    let mut waiting = world.calls.clone();
    let (old, imported) = tokio::join!(waiting.get(ALICE), async {
        pass(1).await;
        let token = world.authority.consent("alice");
        calls.import_with(ALICE, &token, true, false).await
    });
    let imported = imported.unwrap();
    assert!(old.is_ok(), "who waited for the old chain is served from the new one: {old:?}");
    let grant = world.calls.clone().show(ALICE).await.unwrap();
    assert_ne!(grant.state(), GrantState::ReauthRequired);
    assert!(grant.generation >= imported.generation);
    assert!(world.calls.clone().get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_late_pair_never_beats_a_new_chain() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    world.authority.delay(Duration::from_secs(5));
    let mut waiting = world.calls.clone();
    // Bob's consent replaces the chain while Alice's refresh is on the wire.
    let bob = world.authority.consent("bob");
    let (_, imported) = tokio::join!(waiting.get(ALICE), async {
        pass(1).await;
        calls.import_with(ALICE, &bob, true, false).await
    });
    imported.unwrap();
    world.authority.delay(Duration::ZERO);
    pass(60).await;
    calls.refresh(ALICE, None).await.unwrap();
    assert_ne!(world.authority.head("bob").unwrap(), bob, "it is bob's token that was spent");
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn an_import_is_verified_by_its_own_refresh() {
    let world = World::new();
    world.alice().await;
    world.authority.delay(Duration::from_secs(3));
    world.authority.next(Fault::LostAnswer);
    let mut waiting = world.calls.clone();
    let mut calls = world.calls.clone();
    let token = world.authority.consent("bob");
    let (_, imported) = tokio::join!(waiting.get(ALICE), async {
        pass(1).await;
        let request = token_broker::proto::ImportGrantRequest {
            grant_id: ALICE.to_owned(),
            provider_id: "kroger".to_owned(),
            refresh_token: token.clone(),
            replace: true,
            verify: true,
            ..Default::default()
        };
        calls.admin.import_grant(request).await
    });
    let imported = imported.unwrap().into_inner().grant.unwrap();
    assert_ne!(world.authority.head("bob").unwrap(), token, "the imported token was used");
    assert_eq!(imported.state(), GrantState::Active, "the old chain's trouble is not its own");
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_given_back() {
    let (world, off) = switchable();
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.get(ALICE).await.unwrap();
    pass(60).await;
    world.authority.next(Fault::Answer(429, ""));
    world.authority.delay(Duration::from_secs(2));
    let mut forcing = world.calls.clone();
    let (forced, ()) = tokio::join!(forcing.refresh(ALICE, None), async {
        pass(1).await;
        off.store(true, Ordering::SeqCst);
    });
    assert!(forced.is_err());
    off.store(false, Ordering::SeqCst);
    world.broker.drain().await;
    let id = token_broker::broker::model::GrantId::parse(ALICE).unwrap();
    let shown = world.broker.show_grant(&id).await.unwrap();
    assert!(shown.view.grant.intent.is_none(), "shutdown waits until no intent is left");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_of_client_credentials_is_simply_tried_again() {
    let world = World::new();
    let mut calls = world.calls.clone();
    calls.create("kroger/service").await.unwrap();
    for (fault, reason) in [
        (Fault::LostAnswer, ErrorReason::ProviderUnavailable),
        (Fault::Answer(500, ""), ErrorReason::ProviderUnavailable),
        (Fault::Answer(400, ""), ErrorReason::ClientNotAuthorized),
    ] {
        world.authority.next(fault);
        let error = calls.get("kroger/service").await.unwrap_err();
        assert_eq!(error.reason, reason);
        for word in ["refresh token", "consent", "person"] {
            assert!(!error.message.contains(word), "{}", error.message);
        }
        assert_eq!(calls.show("kroger/service").await.unwrap().state(), GrantState::Degraded);
        pass(301).await;
        assert!(calls.get("kroger/service").await.is_ok());
        pass(3_600).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_kills_no_grant_and_stops_the_traffic() {
    let world = World::new();
    let mut calls = world.calls.clone();
    for n in 0..100 {
        let token = world.authority.consent(&format!("person-{n}"));
        calls.import(&format!("kroger/person-{n}"), &token).await.unwrap();
    }
    world.authority.outage(Some(Fault::Answer(401, "")));
    let asked = (0..100).map(|n| {
        let mut calls = world.calls.clone();
        async move { calls.get(&format!("kroger/person-{n}")).await.unwrap_err() }
    });
    for error in join_all(asked).await {
        assert_eq!(
            (error.code, error.reason),
            (Code::FailedPrecondition, ErrorReason::ClientCredentialsRejected)
        );
    }
    let posts = world.authority.posts();
    assert!(posts <= 20, "those that were on their way, and one probe after the other: {posts}");
    world.authority.outage(None);
    pass(15).await;
    for n in 0..100 {
        assert!(calls.get(&format!("kroger/person-{n}")).await.is_ok(), "{n}");
    }
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn one_grants_limit_is_no_others() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.import("kroger/bob", &world.authority.consent("bob")).await.unwrap();
    // A day, or milliseconds that were sent as seconds.
    let day = Duration::from_secs(86_400);
    world.authority.dead("alice", Fault::AnswerLater(429, day));
    let error = calls.get(ALICE).await.unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::ResourceExhausted, ErrorReason::ProviderRateLimited)
    );
    let wait = error.retry_after.unwrap();
    assert!(wait <= Duration::from_secs(300), "{wait:?}");
    pass(1).await;
    assert!(calls.get("kroger/bob").await.is_ok());
    assert_eq!(world.authority.posts(), 2);
    // It is asked again by itself as soon as it may be.
    world.authority.alive("alice");
    pass(300).await;
    assert!(calls.get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_two_grants_meet_is_everybodys() {
    let world = World::new();
    let mut calls = world.calls.clone();
    for person in ["alice", "bob", "carol"] {
        let token = world.authority.consent(person);
        calls.import(&format!("kroger/{person}"), &token).await.unwrap();
    }
    world.authority.outage(Some(Fault::AnswerLater(429, Duration::from_secs(40))));
    assert!(calls.get(ALICE).await.is_err());
    pass(2).await;
    assert!(calls.get("kroger/bob").await.is_err());
    let posts = world.authority.posts();
    let error = calls.get("kroger/carol").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderRateLimited);
    assert!(error.retry_after.unwrap() > Duration::from_secs(30), "{error:?}");
    assert_eq!(world.authority.posts(), posts, "nothing is sent meanwhile");
    world.authority.outage(None);
    pass(41).await;
    assert!(calls.get("kroger/carol").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_old_refresh_token_stays_where_no_new_one_comes() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    world.authority.next(Fault::KeepsRefreshToken);
    calls.get(ALICE).await.unwrap();
    pass(3_600).await;
    assert!(calls.get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_token_in_a_broken_reply_is_kept() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get(ALICE).await.unwrap();
    world.authority.next(Fault::OnlyRefreshToken);
    pass(3_000).await;
    calls.get(ALICE).await.unwrap();
    pass(1).await;
    let next = calls.get(ALICE).await.unwrap();
    assert_eq!(next.generation, first.generation + 2, "what came of it bought the rest at once");
    world.authority.audit();
}

fn switchable() -> (World, Arc<AtomicBool>) {
    let (world, off, _) = flaky();
    (world, off)
}

/// A world with a store that can be switched off, or lose an answer.
fn flaky() -> (World, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (off, loses_answer) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
    let (switch, loses) = (Arc::clone(&off), Arc::clone(&loses_answer));
    let world = World::with(Authority::new(), |store| -> Arc<dyn Store> {
        Arc::new(Flaky { store, off: switch, loses_answer: loses })
    });
    (world, off, loses_answer)
}

#[tokio::test(start_paused = true)]
async fn a_chain_that_the_store_does_not_confirm_begins_once() {
    let (world, off, loses_answer) = flaky();
    let (mut calls, token) = (world.calls.clone(), world.authority.consent("alice"));
    loses_answer.store(true, Ordering::SeqCst);
    let begun = calls.import(ALICE, &token).await.unwrap();
    assert_eq!(calls.show(ALICE).await.unwrap().generation, begun.generation, "and no second time");
    // A store that is away for moments is waited for, and not for longer than callers wait.
    off.store(true, Ordering::SeqCst);
    let (mut other, bob) = (world.calls.clone(), world.authority.consent("bob"));
    let (imported, ()) = tokio::join!(other.import("kroger/bob", &bob), async {
        pass(3).await;
        off.store(false, Ordering::SeqCst);
    });
    assert!(imported.is_ok(), "{imported:?}");
    off.store(true, Ordering::SeqCst);
    let error = other.import("kroger/carol", "token").await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::StoreUnavailable));
    off.store(false, Ordering::SeqCst);
    assert!(calls.get(ALICE).await.is_ok());
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_the_store_does_not_take_is_served_and_offered_again() {
    let (world, off) = switchable();
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.get(ALICE).await.unwrap();
    pass(60).await;
    world.authority.delay(Duration::from_secs(2));
    let mut forcing = world.calls.clone();
    let (forced, ()) = tokio::join!(forcing.refresh(ALICE, None), async {
        pass(1).await;
        off.store(true, Ordering::SeqCst);
    });
    let forced = forced.unwrap().token.unwrap();
    pass(30).await;
    assert_eq!(calls.get(ALICE).await.unwrap().access_token, forced.access_token);
    let again = calls.reject(ALICE, forced.generation).await.unwrap_err();
    assert_eq!(again.reason, ErrorReason::StoreUnavailable, "never the token that was rejected");
    pass(3_540).await;
    let valid = calls.get(ALICE).await.unwrap();
    assert_eq!(valid.access_token, forced.access_token, "served while valid");
    assert_eq!(valid.degraded_reason(), ErrorReason::StoreUnavailable);
    let metrics = telemetry::expose(&world.registry);
    assert!(metrics.contains("unpublished_pairs 1"), "{metrics}");
    assert!(metrics.contains("refresh_persist_failures_total"), "{metrics}");
    off.store(false, Ordering::SeqCst);
    pass(6).await;
    assert_eq!(calls.show(ALICE).await.unwrap().generation, forced.generation);
    assert!(telemetry::expose(&world.registry).contains("unpublished_pairs 0"));
    pass(3_600).await;
    assert!(calls.get(ALICE).await.is_ok());
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn without_the_store_tokens_are_served_and_nothing_is_sent() {
    let (world, off) = switchable();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get(ALICE).await.unwrap();
    off.store(true, Ordering::SeqCst);
    pass(3_590).await;
    let served = calls.get(ALICE).await.unwrap();
    assert_eq!(served.access_token, first.access_token);
    assert_eq!(served.degraded_reason(), ErrorReason::StoreUnavailable);
    pass(60).await;
    let error = calls.get(ALICE).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::StoreUnavailable));
    let unknown = calls.get("kroger/never-seen").await.unwrap_err();
    assert_eq!(unknown.reason, ErrorReason::StoreUnavailable, "not: there is no such grant");
    assert_eq!(world.authority.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_waits_for_the_pair_and_starts_nothing_new() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.import("kroger/bob", &world.authority.consent("bob")).await.unwrap();
    calls.get(ALICE).await.unwrap();
    pass(60).await;
    world.authority.delay(Duration::from_secs(5));
    let mut forcing = world.calls.clone();
    let (forced, ()) = tokio::join!(forcing.refresh(ALICE, None), async {
        pass(1).await;
        world.broker.drain().await;
    });
    let token = forced.unwrap().token.unwrap();
    assert_eq!(calls.get(ALICE).await.unwrap().access_token, token.access_token, "from memory");
    let error = calls.get("kroger/bob").await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::Draining));
    assert_eq!(world.authority.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_broke_off_is_followed_up_at_once() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get(ALICE).await.unwrap();
    pass(60).await;
    world.authority.next(Fault::OnlyRefreshToken);
    let replaced = calls.reject(ALICE, first.generation).await.unwrap().token.unwrap();
    assert_ne!(replaced.access_token, first.access_token, "no token that may be dead");
    assert_eq!(replaced.generation, first.generation + 2);
    world.authority.audit();
    // Where it goes on so, it is not asked in a circle.
    let posts = world.authority.posts();
    world.authority.outage(Some(Fault::OnlyRefreshToken));
    pass(3_600).await;
    for _ in 0..600 {
        let _ = calls.get_within(ALICE, Duration::from_millis(900)).await;
        pass(1).await;
    }
    let asked = world.authority.posts() - posts;
    assert!(asked <= 40, "{asked} requests in ten minutes");
    let shown = calls.show(ALICE).await.unwrap();
    assert_eq!(shown.state(), GrantState::Degraded);
    let failure = shown.last_failure.unwrap();
    assert_eq!(failure.reason(), ErrorReason::ProviderReplyIncomplete);
    assert!(!failure.message.contains("may be spent"), "{}", failure.message);
    world.authority.outage(None);
    pass(400).await;
    assert!(calls.get(ALICE).await.is_ok());
    world.authority.audit();
}
