//! Serving and rotating, on paused time.

use std::time::Duration;

use prost_types::FieldMask;
use token_broker::broker::endpoint::Habits;
use token_broker::client::CallError;
use token_broker::proto::force_refresh_request::Rejected;
use token_broker::proto::force_refresh_response::Outcome;
use token_broker::proto::{
    DeleteGrantRequest, ErrorReason, GetTokenRequest, Grant, GrantState, ListGrantsRequest,
    RotateGrantRequest, UpdateGrantRequest,
};
use token_broker::telemetry;
use tonic::Code;

use crate::support::authority::{Authority, Fault};
use crate::support::world::{World, pass};

#[tokio::test(start_paused = true)]
async fn a_token_is_fetched_once_and_served_from_memory() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get("kroger/alice").await.unwrap();
    let second = calls.get("kroger/alice").await.unwrap();
    assert_eq!(first.access_token, second.access_token);
    assert_eq!(first.ttl.unwrap().seconds, 3600);
    assert_eq!(world.authority.posts(), 1);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn a_soft_token_is_served_at_once_while_one_refresh_runs() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get("kroger/alice").await.unwrap();
    world.authority.delay(Duration::from_secs(5));
    pass(2_900).await;
    for _ in 0..20 {
        let soft = calls.get("kroger/alice").await.unwrap();
        assert_eq!(soft.access_token, first.access_token, "nobody waits for the refresh");
    }
    pass(6).await;
    let next = calls.get("kroger/alice").await.unwrap();
    assert_eq!(next.generation, first.generation + 1);
    assert_eq!(world.authority.posts(), 2);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_never_served() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let first = calls.get("kroger/alice").await.unwrap();
    pass(3_600).await;
    let next = calls.get("kroger/alice").await.unwrap();
    assert_ne!(next.access_token, first.access_token);
    assert_eq!(world.authority.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_share_one_refresh() {
    let world = World::new();
    world.alice().await;
    world.authority.delay(Duration::from_millis(300));
    let callers = (0..1_000).map(|_| {
        let mut calls = world.calls.clone();
        async move { calls.get("kroger/alice").await.unwrap().access_token }
    });
    let mut tokens = futures_util::future::join_all(callers).await;
    tokens.dedup();
    assert_eq!(tokens.len(), 1);
    assert_eq!(world.authority.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_outlives_the_caller_who_started_it() {
    let world = World::new();
    world.alice().await;
    world.authority.delay(Duration::from_secs(3));
    let mut calls = world.calls.clone();
    let call = calls.get("kroger/alice");
    assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err(), "hangs up");
    pass(3).await;
    let show = world.calls.clone().show("kroger/alice").await.unwrap();
    assert!(!show.token_fingerprint.is_empty(), "the pair was stored all the same");
    assert_eq!(world.authority.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_answered_in_time_and_says_that_the_refresh_goes_on() {
    let world = World::new();
    world.alice().await;
    world.authority.delay(Duration::from_secs(3));
    let mut calls = world.calls.clone();
    let start = tokio::time::Instant::now();
    let error = calls.get_within("kroger/alice", Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::DeadlineExceeded, ErrorReason::RefreshInProgress)
    );
    assert!(start.elapsed() < Duration::from_secs(1), "before the caller's own deadline");
    assert!(error.retry_after.is_some());
    assert!(calls.get("kroger/alice").await.is_ok(), "the next caller joins the same refresh");
    assert_eq!(world.authority.posts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_deadline_waits_ten_seconds_at_most() {
    let world = World::new();
    world.alice().await;
    world.authority.delay(Duration::from_secs(25));
    let start = tokio::time::Instant::now();
    let error = world.calls.clone().get("kroger/alice").await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::RefreshInProgress);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_callers_who_reject_one_token_cause_one_refresh() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let old = calls.get("kroger/alice").await.unwrap();
    pass(60).await;
    world.authority.delay(Duration::from_millis(300));
    let callers = (0..200).map(|_| {
        let mut calls = world.calls.clone();
        async move { calls.reject("kroger/alice", old.generation).await.unwrap() }
    });
    let answers = futures_util::future::join_all(callers).await;
    for answer in &answers {
        assert_eq!(answer.outcome(), Outcome::Rotated);
        assert_eq!(answer.token.as_ref().unwrap().generation, old.generation + 1);
    }
    assert_eq!(world.authority.posts(), 2);
    let late = calls.reject("kroger/alice", old.generation).await.unwrap();
    assert_eq!(late.outcome(), Outcome::AlreadyReplaced);
    let by_fingerprint = Rejected::RejectedFingerprint(old.fingerprint.clone());
    let late = calls.refresh("kroger/alice", Some(by_fingerprint)).await.unwrap();
    assert_eq!(late.outcome(), Outcome::AlreadyReplaced);
    assert_eq!(world.authority.posts(), 2, "nobody asked the provider again");
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_is_not_forced_again_before_the_cooldown() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let token = calls.get("kroger/alice").await.unwrap();
    pass(4).await;
    let error = calls.reject("kroger/alice", token.generation).await.unwrap_err();
    assert_eq!(
        (error.code, error.reason),
        (Code::ResourceExhausted, ErrorReason::ForceRefreshCooldown)
    );
    assert_eq!(error.retry_after, Some(Duration::from_secs(6)));
    pass(6).await;
    assert!(calls.refresh("kroger/alice", None).await.is_ok());
    assert_eq!(world.authority.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_seen_here_does_not_hide_what_another_broker_imports() {
    let world = World::new();
    world.alice().await;
    let other = world.again();
    let mut calls = world.calls.clone();
    calls.get("kroger/alice").await.unwrap();
    let gone = DeleteGrantRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
    calls.admin.delete_grant(gone).await.unwrap();
    assert_eq!(calls.get("kroger/alice").await.unwrap_err().code, Code::NotFound);
    other.calls.clone().import("kroger/alice", &world.authority.consent("alice")).await.unwrap();
    assert!(calls.get("kroger/alice").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asks_for_leaves_the_memory_and_comes_back() {
    let world = World::for_days(Authority::new());
    world.alice().await;
    world.start_scheduler();
    let mut calls = world.calls.clone();
    let generation = calls.get("kroger/alice").await.unwrap().generation;
    let known = |count: u32| {
        let text = telemetry::expose(&world.registry);
        text.contains(&format!("\nknown_grants {count}\n"))
    };
    pass(61).await;
    assert!(known(1));
    pass(3 * 24 * 3_600).await;
    assert!(known(0));
    assert!(calls.get("kroger/alice").await.unwrap().generation > generation);
    pass(61).await;
    assert!(known(1));
}

#[tokio::test(start_paused = true)]
async fn the_answer_to_a_rejection_is_never_the_rejected_token() {
    for by_fingerprint in [false, true] {
        let world = World::new();
        world.alice().await;
        let behind = world.again();
        let (mut calls, mut late) = (world.calls.clone(), behind.calls.clone());
        calls.get("kroger/alice").await.unwrap();
        late.get("kroger/alice").await.unwrap();
        pass(60).await;
        let newer = calls.refresh("kroger/alice", None).await.unwrap().token.unwrap();
        pass(60).await;
        // One broker does not know yet what a caller got from the other one.
        let rejected = if by_fingerprint {
            Rejected::RejectedFingerprint(newer.fingerprint.clone())
        } else {
            Rejected::RejectedGeneration(newer.generation)
        };
        let answer = late.refresh("kroger/alice", Some(rejected)).await.unwrap();
        let token = answer.token.clone().unwrap();
        assert_ne!(token.access_token, newer.access_token);
        assert_eq!(token.generation, newer.generation + 1);
        assert_eq!(answer.outcome(), Outcome::Rotated);
        world.authority.audit();
    }
}

#[tokio::test(start_paused = true)]
async fn a_generation_from_the_future_is_not_an_order_to_rotate() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let token = calls.get("kroger/alice").await.unwrap();
    pass(60).await;
    let ahead = token.generation + 1;
    let forced = calls.reject("kroger/alice", ahead).await.unwrap_err();
    assert_eq!((forced.code, forced.reason), (Code::Aborted, ErrorReason::GenerationUnknown));
    let request = GetTokenRequest {
        grant_id: "kroger/alice".to_owned(),
        min_generation: ahead,
        ..GetTokenRequest::default()
    };
    let error = calls.ask(request.clone()).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::GenerationUnknown);
    assert_eq!(world.authority.posts(), 1);
    // While a refresh is under way, it is joined.
    world.authority.delay(Duration::from_secs(1));
    let mut forcing = world.calls.clone();
    let mut asking = world.calls.clone();
    let (forced, asked) = tokio::join!(forcing.reject("kroger/alice", token.generation), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        asking.ask(request).await
    });
    assert_eq!(asked.unwrap().access_token, forced.unwrap().token.unwrap().access_token);
    assert_eq!(world.authority.posts(), 2);
}

#[tokio::test(start_paused = true)]
async fn min_ttl_refreshes_once_and_refuses_what_cannot_be() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let want = |seconds: i64| GetTokenRequest {
        grant_id: "kroger/alice".to_owned(),
        min_ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..GetTokenRequest::default()
    };
    let first = calls.ask(want(60)).await.unwrap();
    pass(1_000).await;
    assert_eq!(calls.ask(want(2_000)).await.unwrap().generation, first.generation);
    let longer = calls.ask(want(3_000)).await.unwrap();
    assert_eq!(longer.generation, first.generation + 1);
    pass(1).await;
    for seconds in [3_600, 7_200] {
        let error = calls.ask(want(seconds)).await.unwrap_err();
        assert_eq!(
            (error.code, error.reason),
            (Code::OutOfRange, ErrorReason::MinTtlUnsatisfiable)
        );
    }
    assert_eq!(world.authority.posts(), 2);
    let error = calls.ask(want(-1)).await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::InvalidRequest);
}

#[tokio::test(start_paused = true)]
async fn grants_in_use_are_refreshed_unasked_and_idle_ones_are_left_alone() {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    let bob = world.authority.consent("bob");
    calls.import("kroger/bob", &bob).await.unwrap();
    let warm = world.authority.consent("warm");
    calls.import_with("kroger/warm", &warm, false, true).await.unwrap();
    let first = calls.get("kroger/alice").await.unwrap();
    pass(3_500).await;
    let generation = |grant: token_broker::proto::Grant| grant.generation;
    let alice = generation(calls.show("kroger/alice").await.unwrap());
    assert_eq!(alice, first.generation + 1, "in use: refreshed before expiry");
    let before = calls.show("kroger/bob").await.unwrap();
    assert!(before.token_fingerprint.is_empty(), "never asked for: not refreshed");
    let warm = calls.show("kroger/warm").await.unwrap();
    assert!(warm.generation >= warm.create_time.unwrap().seconds + 2, "kept warm");
    pass(36_000).await;
    let idle = generation(calls.show("kroger/alice").await.unwrap());
    assert_eq!(idle, alice, "not asked for since: left alone");
    world.authority.audit();
}

/// The provider says when a refresh token ends: it is used before that, though nobody asks.
#[tokio::test(start_paused = true)]
async fn refresh_tokens_that_end_are_used_in_time() {
    let day = Duration::from_secs(86_400);
    let world = World::for_days(Authority::new().refresh_lifetime(day));
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.get("kroger/alice").await.unwrap();
    let shown = calls.show("kroger/alice").await.unwrap();
    assert!(shown.refresh_token_expire_time.is_some() && shown.next_refresh_time.is_some());
    world.start_scheduler();
    pass(3 * 86_400).await;
    let refreshed = world.authority.posts() - 1;
    assert!((3..=6).contains(&refreshed), "{refreshed} in three days");
    calls.get("kroger/alice").await.unwrap();
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn refresh_tokens_that_die_of_idleness_are_used_in_time() {
    let every = Duration::from_secs(12 * 3_600);
    let idle = Habits { keep_warm_every: Some(every), ..Habits::default() };
    let world = World::for_days(Authority::new().habits(idle));
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    calls.create("kroger/service").await.unwrap();
    let imported = calls.show("kroger/alice").await.unwrap();
    let due = imported.next_refresh_time.unwrap().seconds;
    let age = due - imported.create_time.unwrap().seconds;
    assert!((38_880..=43_200).contains(&age), "shown: {age}");
    let mut posts = Vec::new();
    for _ in 0..4 {
        pass(every.as_secs() + 62).await;
        posts.push(world.authority.posts());
    }
    assert!(posts[0] >= 1 && posts.windows(2).all(|pair| pair[1] > pair[0]), "{posts:?}");
    assert!(posts[3] <= 5, "and no more often than that: {posts:?}");
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn it_is_tried_again_as_the_error_says() {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    (0..3).for_each(|_| world.authority.next(Fault::Unreachable));
    assert!(calls.get("kroger/alice").await.is_err());
    pass(3).await;
    assert_eq!(calls.show("kroger/alice").await.unwrap().state(), GrantState::Active);
    assert_eq!(world.authority.posts(), 1, "though nobody asked again");
}

#[tokio::test(start_paused = true)]
async fn client_credentials_need_no_refresh_token() {
    let world = World::new();
    let mut calls = world.calls.clone();
    calls.create("kroger/service").await.unwrap();
    let first = calls.get("kroger/service").await.unwrap();
    pass(3_600).await;
    let second = calls.get("kroger/service").await.unwrap();
    assert_eq!(second.generation, first.generation + 1);
}

#[tokio::test(start_paused = true)]
async fn operators_manage_grants() {
    let world = World::new();
    world.alice().await;
    let mut calls = world.calls.clone();
    let token = world.authority.consent("alice");
    let error = calls.import("kroger/alice", &token).await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::AlreadyExists, ErrorReason::GrantAlreadyExists));
    let before = calls.show("kroger/alice").await.unwrap();
    let replaced = calls.import_with("kroger/alice", &token, true, false).await.unwrap();
    assert!(replaced.generation > before.generation);
    assert!(calls.get("kroger/alice").await.is_ok());

    let grant = calls.show("kroger/alice").await.unwrap();
    let rotate = |expected_generation| RotateGrantRequest {
        grant_id: "kroger/alice".to_owned(),
        expected_generation,
    };
    calls.admin.rotate_grant(rotate(grant.generation)).await.unwrap();
    let repeated = calls.admin.rotate_grant(rotate(grant.generation)).await.unwrap_err();
    assert_eq!(repeated.code(), Code::Aborted, "a repeated command does not rotate twice");

    let delete = DeleteGrantRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
    calls.admin.delete_grant(delete.clone()).await.unwrap();
    for error in [calls.get("kroger/alice").await.err(), calls.show("kroger/alice").await.err()] {
        assert_eq!(error.unwrap().reason, ErrorReason::GrantNotFound);
    }
    let again = calls.admin.delete_grant(delete.clone()).await.unwrap_err();
    assert_eq!(again.code(), Code::NotFound);
    calls.admin.delete_grant(DeleteGrantRequest { allow_missing: true, ..delete }).await.unwrap();
    let anew = calls.import("kroger/alice", &world.authority.consent("alice")).await.unwrap();
    assert!(anew.generation > grant.generation, "callers never see a number go back");
}

#[tokio::test(start_paused = true)]
async fn grants_are_listed_page_by_page() {
    let world = World::new();
    let mut calls = world.calls.clone();
    for n in 0..25 {
        calls.create(&format!("kroger/service-{n:02}")).await.unwrap();
    }
    let mut request = ListGrantsRequest { page_size: 10, ..ListGrantsRequest::default() };
    let mut names = Vec::new();
    loop {
        let page = calls.admin.list_grants(request.clone()).await.unwrap().into_inner();
        names.extend(page.grants.into_iter().map(|grant| grant.grant_id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
    request.page_token.clear();
    request.states = vec![GrantState::ReauthRequired.into()];
    let none = calls.admin.list_grants(request).await.unwrap().into_inner();
    assert!(none.grants.is_empty());
}

#[tokio::test(start_paused = true)]
async fn malformed_requests_are_told_all_that_is_wrong() {
    let world = World::new();
    let mut calls = world.calls.clone();
    let error = calls.import("Kroger Alice", "").await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::InvalidArgument, ErrorReason::InvalidRequest));
    assert!(error.message.contains("grant_id") && error.message.contains("refresh_token"));
    let error = calls.import("kroger/alice", "two words").await.unwrap_err();
    assert!(!error.message.contains("two words"), "a value is never shown");
    let error = calls.get("kroger/nobody").await.unwrap_err();
    assert_eq!((error.code, error.reason), (Code::NotFound, ErrorReason::GrantNotFound));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_built_says_so() {
    let world = World::new();
    let request = token_broker::proto::RewrapKeysRequest {};
    let error = world.calls.clone().admin.rewrap_keys(request).await;
    let error = token_broker::client::CallError::from(error.err().unwrap());
    assert_eq!((error.code, error.reason), (Code::Unimplemented, ErrorReason::NotImplemented));
}

#[tokio::test(start_paused = true)]
async fn short_lived_tokens_keep_flowing() {
    let world = World::with(Authority::new().lifetime(Duration::from_secs(10)), |store| store);
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    let mut last = 0;
    for _ in 0..60 {
        let token = calls.get("kroger/alice").await.unwrap();
        assert!(token.ttl.unwrap().seconds > 0 && token.generation >= last);
        last = token.generation;
        pass(1).await;
    }
    assert!(world.authority.posts() >= 6);
    world.authority.audit();
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_grant_changes_and_its_tokens_stay() {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    let update = |grant: Grant, paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        UpdateGrantRequest { grant: Some(grant), update_mask: Some(FieldMask { paths }) }
    };
    let before = calls.show("kroger/alice").await.unwrap();
    let labels = [("team".to_owned(), "checkout".to_owned())].into();
    let grant = Grant { labels, keep_warm: true, ..before.clone() };
    let updated = calls.admin.update_grant(update(grant.clone(), &["labels"])).await.unwrap();
    let updated = updated.into_inner().grant.unwrap();
    assert_eq!(updated.labels["team"], "checkout");
    assert!(!updated.keep_warm, "the mask does not name it");
    assert_eq!(updated.generation, before.generation);
    // Whoever has read it before that does not undo it.
    let late = calls.admin.update_grant(update(grant.clone(), &["keep_warm"])).await.unwrap_err();
    assert_eq!(CallError::from(late).reason, ErrorReason::EtagMismatch);
    let warm = Grant { keep_warm: true, ..updated.clone() };
    calls.admin.update_grant(update(warm, &["keep_warm"])).await.unwrap();
    pass(4_000).await;
    let kept = calls.show("kroger/alice").await.unwrap();
    assert!(kept.generation > before.generation, "nobody asked for it");
    assert_eq!(kept.labels["team"], "checkout", "a rotation changes nothing of it");

    let scopes = vec!["more".to_owned()];
    let wider = Grant { scopes: scopes.clone(), etag: String::new(), ..kept };
    let refused = calls.admin.update_grant(update(wider.clone(), &["scopes"])).await.unwrap_err();
    assert!(refused.message().contains("consented to"), "{refused:?}");
    for paths in [&[][..], &["state"], &["labels", "provider_id"]] {
        let refused = calls.admin.update_grant(update(wider.clone(), paths)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{paths:?}");
    }
    calls.create("kroger/service").await.unwrap();
    let first = calls.get("kroger/service").await.unwrap();
    let service = calls.show("kroger/service").await.unwrap();
    let service = Grant { scopes, ..service };
    calls.admin.update_grant(update(service, &["scopes"])).await.unwrap();
    pass(5).await;
    let second = calls.get("kroger/service").await.unwrap();
    assert!(second.generation > first.generation, "a token with the old scopes does not stay");
    world.authority.audit();
}
