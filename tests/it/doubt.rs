//! Refresh tokens that got no definite answer, on paused time: what becomes of them by itself.

use std::time::{Duration, SystemTime};

use token_broker::broker::endpoint::{Again, Habits, Replay};
use token_broker::broker::model::{
    Generation, Grant as Stands, GrantId, Intent, Owner, Pair, Position,
};
use token_broker::broker::store::{Claim, Merged, Stored};
use token_broker::proto::grant_doubt::Kind;
use token_broker::proto::{ErrorReason, Grant, GrantState};
use token_broker::secret::RefreshToken;
use token_broker::telemetry;
use tonic::Code;

use crate::support::authority::{Authority, Fault};
use crate::support::world::{World, pass};

const ALICE: &str = "kroger/alice";
/// `listen_max` and its margin: no refresh token in doubt comes again before that.
const SETTLE: u64 = 65;
/// From when on callers wait for a successor of a token that lives an hour.
const HARD_AT: u64 = 3_535;

async fn show(world: &World) -> Grant {
    world.calls.clone().show(ALICE).await.unwrap()
}

/// Alice's refresh met `fault` while her token is still good for 600 s.
async fn doubtful(fault: Fault) -> (World, i64) {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let first = world.calls.clone().get(ALICE).await.unwrap();
    pass(100).await;
    world.authority.next(fault);
    pass(2_900).await;
    assert_eq!(world.authority.posts(), 2, "the refresh went out by itself");
    (world, first.generation)
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_not_spent_is_saved_when_the_old_one_is_used_up() {
    for fault in [Fault::Answer(500, ""), Fault::Answer(503, ""), Fault::Answer(200, "")] {
        let (world, first) = doubtful(fault).await;
        let grant = show(&world).await;
        assert_eq!(grant.state(), GrantState::OutcomeUnknown);
        let doubt = grant.doubt.unwrap();
        assert_eq!((doubt.kind(), doubt.attempts), (Kind::Answered, 1));
        let issued = grant.token_expire_time.unwrap().seconds - 3_600;
        let next = doubt.retry_time.unwrap().seconds - issued;
        let half = HARD_AT + (3_600 - HARD_AT) / 2;
        assert!((HARD_AT..=half).contains(&next.try_into().unwrap()), "at {next}");

        let served = world.calls.clone().get(ALICE).await.unwrap();
        assert_eq!(served.degraded_reason(), ErrorReason::RefreshOutcomeUnknown);
        assert_eq!(served.retry_time.unwrap().seconds, doubt.retry_time.unwrap().seconds);
        pass(HARD_AT - 3_010).await;
        assert_eq!(world.authority.posts(), 2, "a strict provider would revoke the old token");
        pass(60).await;
        let grant = show(&world).await;
        assert_eq!((grant.state(), grant.generation), (GrantState::Active, first + 1));
        assert!(grant.doubt.is_none());
        assert_eq!(world.authority.posts(), 3);
        let counted =
            r#"resends_total{provider="kroger",kind="answered",window="none",result="pair"} 1"#;
        assert!(telemetry::expose(&world.registry).contains(counted));
        world.authority.audit_families();
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_spent_is_known_to_be_lost_in_the_end() {
    let (world, first) = doubtful(Fault::LostAnswer).await;
    assert_eq!(show(&world).await.doubt.unwrap().kind(), Kind::Ended);
    pass(HARD_AT - 3_010).await;
    let served = world.calls.clone().get(ALICE).await.unwrap();
    assert_eq!(served.generation, first, "the old token is served to the end");
    pass(90).await;
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::FailedPrecondition, ErrorReason::GrantRefreshTokenLost)
    );
    assert_eq!(show(&world).await.state(), GrantState::ReauthRequired);
    pass(7_200).await;
    assert_eq!(world.authority.posts(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_hours_costs_nothing() {
    // The second answers with success, and with an error in it.
    for status in [502, 200] {
        outage_of_hours(Fault::Answer(status, "")).await;
    }
}

async fn outage_of_hours(fault: Fault) {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let first = world.calls.clone().get(ALICE).await.unwrap();
    world.authority.outage(Some(fault));
    pass(4 * 3_600).await;
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RefreshOutcomeUnknown);
    assert!(error.retry_after.unwrap() <= Duration::from_secs(SETTLE));
    let arrivals = world.authority.arrivals();
    assert!(arrivals.len() > 100, "it is tried for as long as it takes");
    let least = arrivals.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    assert!(least >= Duration::from_secs(SETTLE), "and settles before each: {least:?}");
    world.authority.outage(None);
    pass(SETTLE + 2).await;
    let grant = show(&world).await;
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, first.generation + 1));
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_in_doubt_moves_the_resend_forward_once() {
    let (world, first) = doubtful(Fault::Answer(500, "")).await;
    world.authority.next(Fault::Answer(500, ""));
    let mut calls = world.calls.clone();
    let error = calls.reject(ALICE, first).await.unwrap_err();
    assert_eq!((error.reason, world.authority.posts()), (ErrorReason::RefreshOutcomeUnknown, 3));
    pass(SETTLE + 1).await;
    let error = calls.reject(ALICE, first).await.unwrap_err();
    assert!(error.retry_after.unwrap().as_secs() > 60, "the second report changes nothing");
    assert_eq!(world.authority.posts(), 3);
    pass(600).await;
    assert_eq!(show(&world).await.state(), GrantState::Active);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_not_used_up_by_a_request_that_was_not_processed() {
    let (world, first) = doubtful(Fault::Answer(500, "")).await;
    world.authority.next(Fault::AnswerLater(429, Duration::from_secs(20)));
    let error = world.calls.clone().reject(ALICE, first).await.unwrap_err();
    assert_eq!((error.reason, world.authority.posts()), (ErrorReason::ProviderRateLimited, 3));
    pass(25).await;
    let answer = world.calls.clone().reject(ALICE, first).await.unwrap();
    assert_eq!(answer.token.unwrap().generation, first + 1);
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_in_doubt_until_the_resend_is_answered() {
    let (world, _) = doubtful(Fault::Answer(500, "")).await;
    world.authority.delay(Duration::from_secs(40));
    world.authority.next(Fault::Answer(500, ""));
    while world.authority.posts() == 2 {
        pass(1).await;
    }
    assert_eq!(show(&world).await.state(), GrantState::OutcomeUnknown, "nobody knows yet");
    let served = world.calls.clone().get(ALICE).await.unwrap();
    assert_eq!(served.degraded_reason(), ErrorReason::RefreshOutcomeUnknown);
}

#[tokio::test(start_paused = true)]
async fn a_definite_no_to_a_resend_leads_back_into_doubt() {
    let (world, _) = doubtful(Fault::Answer(500, "")).await;
    world.authority.next(Fault::AnswerLater(429, Duration::from_secs(300)));
    pass(600).await;
    let grant = show(&world).await;
    assert_eq!((world.authority.posts(), grant.state()), (3, GrantState::OutcomeUnknown));
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderRateLimited);
    pass(320).await;
    assert_eq!(show(&world).await.state(), GrantState::Active);
    assert_eq!(world.authority.posts(), 4);
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn a_doubt_survives_a_restart() {
    let (world, first) = doubtful(Fault::Answer(500, "")).await;
    world.broker.drain().await;
    let world = world.restarted();
    world.start_scheduler();
    let served = world.calls.clone().get(ALICE).await.unwrap();
    assert_eq!(served.degraded_reason(), ErrorReason::RefreshOutcomeUnknown);
    assert_eq!(show(&world).await.doubt.unwrap().kind(), Kind::Answered);
    pass(500).await;
    assert_eq!(world.authority.posts(), 2);
    pass(100).await;
    let grant = show(&world).await;
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, first + 1));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fell_over_is_followed_up_in_the_same_process() {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    world.authority.next(Fault::Panic);
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::Internal);
    pass(SETTLE + 69 + 3).await;
    assert_eq!(show(&world).await.state(), GrantState::Active);
    assert_eq!(world.authority.posts(), 2);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_died_is_known_at_once_and_followed() {
    let world = World::new();
    world.alice().await;
    let generation = show(&world).await.generation;
    let id = GrantId::parse(ALICE).unwrap();
    let owner = Owner::Process { replica: "local".to_owned(), boot: 99, attempt: 1 };
    let generation = token_broker::broker::model::Generation(generation.try_into().unwrap());
    let watch = Duration::from_secs(69);
    let claim = world.store.claim(&id, generation, owner, None, watch).await.unwrap();
    assert!(matches!(claim, Claim::Granted(_)));

    let world = world.restarted();
    world.start_scheduler();
    let grant = show(&world).await;
    assert_eq!(grant.state(), GrantState::OutcomeUnknown, "at the first look");
    assert_eq!(grant.doubt.unwrap().kind(), Kind::Died);
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RefreshOutcomeUnknown);
    assert_eq!(error.retry_after.unwrap().as_secs(), SETTLE, "its request may be on the way");
    pass(watch.as_secs() + 2).await;
    assert_eq!(show(&world).await.state(), GrantState::Active, "by itself");
    assert_eq!(world.authority.posts(), 1);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn ten_grants_outlive_every_kind_of_short_outage() {
    for status in [500, 502, 503, 504] {
        let world = World::new();
        world.start_scheduler();
        let mut grants = Vec::new();
        for n in 0..10 {
            let token = world.authority.consent(&format!("person-{n}"));
            let grant = format!("kroger/person-{n}");
            world.calls.clone().import_with(&grant, &token, false, true).await.unwrap();
            grants.push(grant);
        }
        world.authority.outage(Some(Fault::Answer(status, "")));
        pass(45).await;
        world.authority.outage(None);
        pass(90).await;
        for grant in grants {
            let shown = world.calls.clone().show(&grant).await.unwrap();
            assert_eq!(shown.state(), GrantState::Active, "{grant} after {status}");
        }
        world.authority.audit_families();
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_provider_is_asked_by_one_at_a_time() {
    let world = World::new();
    world.start_scheduler();
    for n in 0..200 {
        let token = world.authority.consent(&format!("person-{n}"));
        let grant = format!("kroger/person-{n}");
        world.calls.clone().import(&grant, &token).await.unwrap();
        world.calls.clone().get(&grant).await.unwrap();
    }
    world.authority.outage(Some(Fault::Answer(500, "")));
    let before = world.authority.posts();
    pass(2_600).await;
    assert_eq!(world.authority.posts(), before);
    pass(900).await;
    let asked = world.authority.posts() - before;
    assert!((10..=80).contains(&asked), "{asked} requests in a quarter of an hour");
    let error = world.calls.clone().get("kroger/person-7").await;
    assert!(error.is_ok(), "still valid");
    world.authority.outage(None);
    pass(90).await;
    let mut alive = 0;
    for n in 0..200 {
        let shown = world.calls.clone().show(&format!("kroger/person-{n}")).await.unwrap();
        let expires = SystemTime::try_from(shown.token_expire_time.unwrap()).unwrap();
        let valid = expires > world.broker.clock().now() + Duration::from_secs(600);
        alive += u32::from(valid && shown.state() == GrantState::Active);
    }
    assert!(alive > 180, "nearly all were never in doubt: {alive}");
    pass(200).await;
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn chains_that_a_refresh_does_not_spend_are_simply_tried_again() {
    let reusable = Habits { single_use: false, ..Habits::default() };
    let world = World::with(Authority::new().habits(reusable), |store| store);
    world.alice().await;
    let mut calls = world.calls.clone();
    world.authority.next(Fault::Answer(500, ""));
    let error = calls.get(ALICE).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderUnavailable);
    assert_eq!(show(&world).await.state(), GrantState::Degraded);
    tokio::time::sleep(error.retry_after.unwrap()).await;
    assert!(calls.get(ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn within_a_documented_grace_the_answer_is_fetched_again_at_once() {
    let within = Duration::from_secs(600);
    let replay = Some(Replay { within, again: Again::OlderDies, early: false });
    let graceful = Habits { replay, ..Habits::default() };
    let world = World::with(Authority::new().habits(graceful), |store| store);
    world.start_scheduler();
    world.alice().await;
    let first = world.calls.clone().get(ALICE).await.unwrap();
    pass(100).await;
    world.authority.next(Fault::Answer(500, ""));
    pass(2_900).await;
    let grant = show(&world).await;
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, first.generation + 1));
    assert_eq!(world.authority.posts(), 3);
}

/// The provider gives the pair of the first use again for a minute.
async fn with_a_window(fault: Fault) -> (World, i64) {
    let within = Duration::from_secs(60);
    let replay = Some(Replay { within, again: Again::Same, early: false });
    let habits = Habits { replay, ..Habits::default() };
    let world = World::with(Authority::new().habits(habits).gives_again(within), |store| store);
    world.start_scheduler();
    world.alice().await;
    let first = world.calls.clone().get(ALICE).await.unwrap();
    pass(10).await;
    world.authority.next(fault);
    let _ = world.calls.clone().reject(ALICE, first.generation).await;
    (world, first.generation)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_fetched_again_inside_the_window() {
    let (world, first) = with_a_window(Fault::LostAnswer).await;
    assert_eq!(world.authority.posts(), 2, "what is late must fall into the window");
    pass(8).await;
    let token = world.calls.clone().get(ALICE).await.unwrap();
    assert_eq!((token.generation, world.authority.posts()), (first + 1, 3));
    // The pair may be the one that was issued to the first request, and is as old.
    let lives = token.ttl.unwrap().seconds;
    assert!((3_580..=3_592).contains(&lives), "{lives}");
    let counted =
        r#"resends_total{provider="kroger",kind="ended",window="inside",result="pair"} 1"#;
    assert!(telemetry::expose(&world.registry).contains(counted));
    pass(3_600).await;
    assert_eq!(show(&world).await.state(), GrantState::Active);
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn a_short_window_is_used_early_where_that_is_allowed() {
    for (early, posts) in [(false, 2), (true, 3)] {
        let within = Duration::from_secs(30);
        let habits = Habits {
            replay: Some(Replay { within, again: Again::Same, early }),
            ..Habits::default()
        };
        let authority = Authority::new().habits(habits).gives_again(within);
        let world = World::with(authority, |store| store);
        world.start_scheduler();
        world.alice().await;
        let first = world.calls.clone().get(ALICE).await.unwrap();
        pass(10).await;
        world.authority.next(Fault::LostAnswer);
        let _ = world.calls.clone().reject(ALICE, first.generation).await;
        pass(30).await;
        assert_eq!(world.authority.posts(), posts, "{early}");
        let counted = r#"kind="ended",window="early",result="pair"} 1"#;
        assert_eq!(telemetry::expose(&world.registry).contains(counted), early);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_nobody_counts_on_a_window() {
    let within = Duration::from_secs(600);
    let habits = Habits {
        replay: Some(Replay { within, again: Again::Same, early: false }),
        ..Habits::default()
    };
    let authority = Authority::new().habits(habits).gives_again(within);
    let world = World::with(authority, |store| store);
    world.alice().await;
    let first = world.calls.clone().get(ALICE).await.unwrap();
    world.authority.next(Fault::LostAnswer);
    pass(10).await;
    let _ = world.calls.clone().reject(ALICE, first.generation).await;
    assert_eq!(world.authority.posts(), 2);
    // It may have been long ago: the next process cannot tell.
    let next = world.restarted();
    next.start_scheduler();
    pass(100).await;
    let _ = next.calls.clone().get(ALICE).await;
    pass(100).await;
    assert_eq!(world.authority.posts(), 2, "not before the old token is used up");
}

#[tokio::test(start_paused = true)]
async fn after_the_window_the_ordinary_rule_holds() {
    let (world, _) = with_a_window(Fault::LostAnswer).await;
    // Nobody was there while it was open.
    world.authority.outage(Some(Fault::Unreachable));
    pass(120).await;
    let posts = world.authority.posts();
    world.authority.outage(None);
    pass(3_600).await;
    assert!(world.authority.posts() > posts);
    assert_eq!(show(&world).await.state(), GrantState::ReauthRequired);
}

#[tokio::test(start_paused = true)]
async fn where_resending_is_forbidden_an_operator_decides() {
    let told = Habits { resends: false, ..Habits::default() };
    let world = World::with(Authority::new().habits(told), |store| store);
    world.start_scheduler();
    world.alice().await;
    world.authority.next(Fault::Answer(500, ""));
    assert!(world.calls.clone().get(ALICE).await.is_err());
    pass(7_200).await;
    let error = world.calls.clone().get(ALICE).await.unwrap_err();
    assert_eq!((error.reason, error.retry_after), (ErrorReason::RefreshOutcomeUnknown, None));
    assert!(show(&world).await.doubt.unwrap().retry_time.is_none());
    assert_eq!(world.authority.posts(), 1);
}

/// A replica elsewhere claimed alice's next refresh, and nothing was heard of it since.
async fn silent_elsewhere() -> (World, i64, Intent) {
    let world = World::new();
    world.alice().await;
    let first = world.calls.clone().get(ALICE).await.unwrap();
    let (id, owner) = (GrantId::parse(ALICE).unwrap(), elsewhere());
    let generation = Generation(first.generation.try_into().unwrap());
    let claim = world.store.claim(&id, generation, owner, None, Duration::from_secs(69)).await;
    let Claim::Granted(held) = claim.unwrap() else { panic!("nobody else has it") };
    let other = world.again();
    other.start_scheduler();
    (other, first.generation, held)
}

fn elsewhere() -> Owner {
    Owner::Process { replica: "elsewhere".to_owned(), boot: 99, attempt: 1 }
}

#[tokio::test(start_paused = true)]
async fn a_holder_elsewhere_that_is_silent_is_taken_for_gone_when_nothing_serves_any_more() {
    let (world, first, _) = silent_elsewhere().await;
    pass(3_590).await;
    assert_eq!(world.authority.posts(), 1, "it may have the next pair");
    assert_eq!(world.calls.clone().get(ALICE).await.unwrap().generation, first);
    assert_eq!(show(&world).await.state(), GrantState::OutcomeUnknown);
    pass(120).await;
    assert_eq!(world.authority.posts(), 2);
    let grant = show(&world).await;
    assert_eq!((grant.state(), grant.generation), (GrantState::Active, first + 1));
    let counted = r#"resends_total{provider="kroger",kind="silent",window="none",result="pair"} 1"#;
    assert!(telemetry::expose(&world.registry).contains(counted));
    world.authority.audit_families();
}

#[tokio::test(start_paused = true)]
async fn what_a_silent_holder_brings_late_is_tried_before_the_grant_is_given_up() {
    let (world, first, held) = silent_elsewhere().await;
    pass(3_710).await;
    let id = GrantId::parse(ALICE).unwrap();
    // It comes back, with the pair of the same generation under its older claim.
    let stored = world.store.load(&id).await.unwrap().and_then(Stored::grant).unwrap();
    let late = world.authority.consent("late");
    let pair = Pair { refresh_token: Some(RefreshToken::new(late)), ..stored.pair.clone() };
    let position = Position { fence: held.fence, ..stored.position };
    let grant = Stands { position, pair, ..stored };
    assert_eq!(world.store.merge(&grant, None).await.unwrap(), Merged::Sibling);
    // The provider has ended what came of the resend: only the late one is good.
    world.authority.dead("alice", Fault::Answer(400, ""));
    let forced = world.calls.clone().reject(ALICE, first + 1).await;
    assert!(forced.is_err(), "refused, and another one is there");
    pass(10).await;
    let renewed = world.calls.clone().reject(ALICE, first + 1).await.unwrap();
    assert_eq!(renewed.token.unwrap().generation, first + 2);
    assert_eq!(show(&world).await.state(), GrantState::Active);
}
