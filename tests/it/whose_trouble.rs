//! Whose trouble is it: the grant's, or the provider's? On paused time.

use futures_util::future::join_all;
use token_broker::proto::{ErrorReason, GrantState, RotateGrantRequest};
use tonic::Code;

use crate::support::authority::Fault;
use crate::support::world::{World, pass};

/// Longest wait for a grant after its provider is well again: the due index, then a canary.
const SOON: u64 = 45;

/// People whose grants are in use, all with a token.
async fn people(world: &World, count: usize) -> Vec<String> {
    let mut calls = world.calls.clone();
    let mut grants = Vec::new();
    for n in 0..count {
        let token = world.authority.consent(&format!("person-{n}"));
        let grant = format!("kroger/person-{n}");
        calls.import(&grant, &token).await.unwrap();
        calls.get(&grant).await.unwrap();
        grants.push(grant);
    }
    grants
}

async fn states(world: &World, grants: &[String]) -> Vec<GrantState> {
    let mut states = Vec::new();
    for grant in grants {
        states.push(world.calls.clone().show(grant).await.unwrap().state());
    }
    states
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_never_ends_a_grant() {
    let world = World::new();
    world.start_scheduler();
    let grants = people(&world, 1).await;
    let mut calls = world.calls.clone();
    world.authority.outage(Some(Fault::Answer(418, "")));
    pass(3_600).await;
    for _ in 0..20 {
        let error = calls.get(&grants[0]).await.unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::Unavailable, ErrorReason::ProviderUnrecognizedError)
        );
        pass(error.retry_after.unwrap().as_secs() + 1).await;
    }
    let rotate = RotateGrantRequest {
        grant_id: grants[0].clone(),
        expected_generation: calls.show(&grants[0]).await.unwrap().generation,
    };
    assert!(calls.admin.rotate_grant(rotate).await.is_err());
    assert_eq!(states(&world, &grants).await, [GrantState::Degraded]);
    world.authority.outage(None);
    let wait = calls.get(&grants[0]).await.unwrap_err().retry_after.unwrap();
    tokio::time::sleep(wait).await;
    assert!(calls.get(&grants[0]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn several_grants_refused_alike_are_the_providers_trouble() {
    let world = World::new();
    let grants = people(&world, 20).await;
    let mut calls = world.calls.clone();
    world.authority.outage(Some(Fault::Answer(418, "")));
    let before = world.authority.posts();
    pass(3_600).await;
    for grant in &grants[..2] {
        assert!(calls.get(grant).await.is_err());
    }
    let others = grants[2..].iter().map(|grant| {
        let mut calls = world.calls.clone();
        async move { assert!(calls.get(grant).await.is_err()) }
    });
    join_all(others).await;
    let asked = world.authority.posts() - before;
    assert!(asked <= 5, "one at a time is asked from the second on: {asked}");
    world.authority.outage(None);
    world.start_scheduler();
    pass(SOON).await;
    for grant in &grants {
        assert!(calls.get(grant).await.is_ok(), "the first success ends it for {grant}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_dead_grants_do_not_stop_a_healthy_provider() {
    let world = World::new();
    let grants = people(&world, 10).await;
    let mut calls = world.calls.clone();
    for person in ["person-0", "person-1"] {
        world.authority.dead(person, Fault::Answer(418, ""));
    }
    pass(3_600).await;
    for _ in 0..3 {
        for dead in &grants[..2] {
            assert!(calls.get(dead).await.is_err());
        }
        for alive in &grants[2..] {
            assert!(calls.get(alive).await.is_ok(), "{alive}");
        }
        pass(3_600).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_refuses_everybody_ends_nobody() {
    let world = World::new();
    world.start_scheduler();
    let grants = people(&world, 20).await;
    let mut calls = world.calls.clone();
    world.authority.outage(Some(Fault::Answer(400, "")));
    pass(3_600).await;
    let error = calls.get(&grants[0]).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::ProviderRefusesMany));
    for state in states(&world, &grants).await {
        assert_ne!(state, GrantState::ReauthRequired);
    }
    // Nobody asks any more: it is the due index that brings them back.
    world.authority.outage(None);
    pass(600).await;
    for state in states(&world, &grants).await {
        assert_eq!(state, GrantState::Active);
    }
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn those_refused_again_by_a_healthy_provider_are_dead() {
    let world = World::new();
    world.start_scheduler();
    let grants = people(&world, 12).await;
    for n in 0..6 {
        world.authority.dead(&format!("person-{n}"), Fault::Answer(400, ""));
    }
    pass(3_600).await;
    let mut calls = world.calls.clone();
    // Not at once: so many at a time are not believed, and presented again and again.
    pass(600).await;
    let error = calls.get(&grants[0]).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderRefusesMany);
    for _ in 0..16 {
        for grant in &grants {
            let _ = calls.get(grant).await;
        }
        pass(3_600).await;
    }
    let states = states(&world, &grants).await;
    assert!(states[..6].iter().all(|state| *state == GrantState::ReauthRequired), "{states:?}");
    for alive in &grants[6..] {
        assert!(calls.get(alive).await.is_ok(), "{alive}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_are_believed_after_a_day_without_any_success() {
    let world = World::new();
    let grants = people(&world, 6).await;
    world.authority.outage(Some(Fault::Answer(400, "")));
    pass(3_600).await;
    let mut calls = world.calls.clone();
    for _ in 0..25 * 6 {
        for grant in &grants {
            assert!(calls.get(grant).await.is_err());
        }
        pass(600).await;
    }
    for state in states(&world, &grants).await {
        assert_eq!(state, GrantState::ReauthRequired);
    }
}

/// A wrong client id reads like dead grants at some providers, and one that was wrong may be right now.
#[tokio::test(start_paused = true)]
async fn after_a_change_over_a_restart_no_refusal_is_believed_before_a_success() {
    let world = World::new();
    let grants = people(&world, 6).await;
    world.authority.ask_as(1);
    world.authority.outage(Some(Fault::Answer(400, "")));
    // The second restart finds the same client as the first: nothing has succeeded with it either.
    for world in [world.restarted(), world.restarted()] {
        world.broker.compare_clients().await;
        pass(3_600).await;
        let error = world.calls.clone().get(&grants[0]).await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::ProviderRefusesMany);
        assert_eq!(states(&world, &grants[..1]).await, [GrantState::Degraded]);
    }

    world.authority.outage(None);
    let world = world.restarted();
    world.broker.compare_clients().await;
    for grant in &grants[1..4] {
        assert!(
            world.calls.clone().get(grant).await.is_ok(),
            "the first that gets through ends the hold"
        );
    }
    // What is refused from then on is believed.
    world.authority.dead("person-5", Fault::Answer(400, ""));
    let error = world.calls.clone().get(&grants[5]).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::GrantReauthRequired);
}
