//! At what pace providers are asked, and who goes first.

use std::time::Duration;

use futures_util::future::join_all;
use token_broker::broker::endpoint::Habits;
use token_broker::client::CallError;
use token_broker::proto::{DisableGrantRequest, ErrorReason, ImportGrantRequest};
use tokio::time::Instant;

use crate::support::authority::{Authority, Fault};
use crate::support::world::{World, pass};

const SECOND: Duration = Duration::from_secs(1);
/// Of tokens that all end together.
const LIFE_S: u64 = 600;

fn grant(n: usize) -> String {
    format!("kroger/person-{n}")
}

async fn import(world: &World, grants: usize, keep_warm: bool) {
    for n in 0..grants {
        let token = world.authority.consent(&format!("person-{n}"));
        world.calls.clone().import_with(&grant(n), &token, false, keep_warm).await.unwrap();
    }
}

/// Grants whose tokens end at one moment; all are asked for all the time, and nobody gets an error.
async fn expiring_together(grants: usize, habits: Habits) -> World {
    let authority = Authority::new().allows(20).habits(habits);
    let world = World::with(authority, |store| store);
    import(&world, grants, false).await;
    let end = Instant::now() + Duration::from_secs(LIFE_S);
    for n in 0..grants {
        let left = end.duration_since(Instant::now());
        let _ = world.authority.clone().lifetime(left);
        world.calls.clone().get(&grant(n)).await.unwrap();
    }
    let _ = world.authority.clone().lifetime(Duration::from_secs(LIFE_S));
    world.start_scheduler();
    let calls = &world.calls;
    for _ in 0..2 * LIFE_S / 120 {
        let asked = (0..grants).map(async |n| calls.clone().get(&grant(n)).await.map(drop));
        for (n, answer) in join_all(asked).await.into_iter().enumerate() {
            assert!(answer.is_ok(), "{n}: {answer:?}");
        }
        pass(120).await;
    }
    assert!(world.authority.rotations() >= 2 * grants);
    world.authority.audit();
    world
}

#[tokio::test(start_paused = true)]
async fn a_thousand_grants_that_end_together_fit_into_a_configured_rate() {
    let world = expiring_together(1_000, Habits { rate: 18, ..Habits::default() }).await;
    assert_eq!(world.authority.turned_away(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_bears_is_found_out() {
    let world = expiring_together(300, Habits::default()).await;
    let (turned_away, rotations) = (world.authority.turned_away(), world.authority.rotations());
    assert!(turned_away * 20 < rotations, "{turned_away} beside {rotations}");
}

/// The most requests that arrived within a second.
fn busiest(arrivals: &[Instant]) -> usize {
    let within = |from: Instant| move |at: &&Instant| (from..from + SECOND).contains(*at);
    arrivals.iter().map(|from| arrivals.iter().filter(within(*from)).count()).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn replicas_keep_to_the_rate_together() {
    let habits = Habits { rate: 10, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    import(&world, 60, true).await;
    let other = world.again();
    world.start_scheduler();
    other.start_scheduler();
    pass(9).await;
    let arrivals = world.authority.arrivals();
    assert_eq!(busiest(&arrivals), 10);
    assert_eq!(arrivals.len(), 60, "nothing is left over");
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_goes_first() {
    let habits = Habits { rate: 10, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    import(&world, 100, true).await;
    world.start_scheduler();
    pass(2).await;
    let done = world.authority.posts();
    assert!((5..30).contains(&done), "{done}");
    // One is in the queue already, of the other nobody has thought yet.
    let last = world.authority.consent("last");
    world.calls.clone().import("kroger/last", &last).await.unwrap();
    for id in [grant(99), "kroger/last".to_owned()] {
        let asked = Instant::now();
        world.calls.clone().get(&id).await.unwrap();
        assert!(asked.elapsed() < SECOND, "{id}: {:?}", asked.elapsed());
    }
    assert!(world.authority.posts() < done + 20, "the others still wait");
}

#[tokio::test(start_paused = true)]
async fn who_would_wait_too_long_is_told_for_how_long() {
    let habits = Habits { rate: 1, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    import(&world, 30, false).await;
    let calls = &world.calls;
    let asked = (0..30).map(async |n| calls.clone().get(&grant(n)).await);
    let answers = join_all(asked).await;
    let refused: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    let limited = |error: &&CallError| error.reason == ErrorReason::ProviderRateLimited;
    let refused: Vec<_> = refused.into_iter().filter(limited).collect();
    assert!((18..20).contains(&refused.len()), "{}", refused.len());
    let told = |error: &&CallError| error.retry_after >= Some(9 * SECOND);
    assert!(refused.iter().all(told), "{refused:?}");
    assert!(busiest(&world.authority.arrivals()) <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_provider_delays_no_other() {
    const PLACES: usize = 4;
    let habits = Habits { concurrency: PLACES, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    world.authority.slow("kroger", 30 * SECOND);
    import(&world, 300, true).await;
    let token = world.authority.consent("bob");
    let request = ImportGrantRequest {
        grant_id: "other/bob".to_owned(),
        provider_id: "other".to_owned(),
        refresh_token: token,
        keep_warm: true,
        ..Default::default()
    };
    world.calls.clone().admin.import_grant(request).await.unwrap();
    world.start_scheduler();
    pass(5).await;
    assert_eq!(world.authority.posts(), PLACES, "one place is kept for callers, and there is bob");
    assert_eq!(world.authority.rotations(), 1, "bob's");
    world.calls.clone().get("other/bob").await.unwrap();
    assert!(world.calls.clone().get(&grant(299)).await.is_err(), "it is slow");
    assert_eq!(world.authority.posts(), PLACES + 1, "what a caller waits for is sent all the same");
}

#[tokio::test(start_paused = true)]
async fn stopping_does_not_wait_for_a_limit_to_end() {
    let world = World::new();
    import(&world, 20, true).await;
    world.authority.outage(Some(Fault::AnswerLater(429, 3_600 * SECOND)));
    world.start_scheduler();
    pass(5).await;
    let asked = Instant::now();
    world.broker.drain().await;
    assert!(asked.elapsed() < SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_is_not_sent_into_a_trouble() {
    let habits = Habits { rate: 10, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    import(&world, 100, true).await;
    world.start_scheduler();
    pass(2).await;
    world.authority.outage(Some(Fault::Answer(401, "")));
    let before = world.authority.posts();
    pass(50).await;
    let sent = world.authority.posts() - before;
    assert!(sent <= 15, "until it is known, and a few to see whether it is over: {sent}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_switched_off_in_the_queue_is_not_refreshed() {
    let habits = Habits { rate: 1, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    import(&world, 5, false).await;
    let calls = &world.calls;
    let asked = join_all((0..5).map(async |n| calls.clone().get(&grant(n)).await));
    let disabled = async {
        tokio::time::sleep(SECOND / 2).await;
        let request = DisableGrantRequest { grant_id: grant(4) };
        world.calls.clone().admin.disable_grant(request).await.unwrap();
    };
    let (answers, ()) = tokio::join!(asked, disabled);
    let error = answers[4].as_ref().unwrap_err();
    assert_eq!(error.reason, ErrorReason::GrantDisabled);
    assert_eq!(world.authority.posts(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_says_of_its_limit_holds_at_once() {
    let habits = Habits { rate: 10, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits), |store| store);
    import(&world, 60, true).await;
    world.start_scheduler();
    pass(2).await;
    world.authority.outage(Some(Fault::AnswerLater(429, 8 * SECOND)));
    pass(3).await;
    let before = world.authority.posts();
    world.authority.outage(None);
    pass(4).await;
    assert_eq!(world.authority.posts(), before, "nothing while it lasts");
    pass(6).await;
    let after = world.authority.posts() - before;
    assert!((5..32).contains(&after), "then half as much: {after}");
    pass(60).await;
    world.authority.audit_families();
}
