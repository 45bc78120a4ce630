//! What a caller with one narrow right leaves behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use token_broker::client::CallError;
use token_broker::proto::{
    ErrorReason, ForceRefreshRequest, ImportGrantRequest, StartEnrollmentRequest,
};
use tonic::Code;

use super::{Callers, Effort, long};
use crate::callers::World;
use crate::support::redis::RedisServer;

/// Callers of the attack at once.
const AT_ONCE: usize = 16;

/// As large as an enrolment may be, for a grant of its own corner.
fn largest(number: usize) -> StartEnrollmentRequest {
    let labels = (0..15).map(|label| (format!("{label:02}{}", "n".repeat(20)), "v".repeat(250)));
    StartEnrollmentRequest {
        grant_id: format!("team-a/{number}"),
        provider_id: "default".to_owned(),
        scopes: vec!["profile".to_owned()],
        labels: labels.collect::<HashMap<_, _>>(),
        redirect_uri: format!("http://localhost:1/{}", "x".repeat(2_000)),
        request_id: number.to_string(),
        ..StartEnrollmentRequest::default()
    }
}

/// A broker on a small Redis, before which it has a bound by caller or none.
async fn world(server: &RedisServer, per_caller: &'static str) -> World {
    let url = server.url();
    World::with(&[
        ("TOKEN_BROKER__STORE__URL", &url),
        ("TOKEN_BROKER__KEYS__FILE", "keys.json"),
        ("TOKEN_BROKER__ENROLLMENTS__PER_CALLER", per_caller),
        ("TOKEN_BROKER__ENROLLMENTS__IN_ALL", "1000000"),
        ("TOKEN_BROKER__TIMING__FORCE_COOLDOWN", "1ms"),
        ("TOKEN_BROKER__CALLERS__LIMITS__FORCE_REFRESHES", "0"),
        ("TOKEN_BROKER__LOG__LEVEL", "warn,token_broker=info"),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolments_of_a_narrow_caller_stop_no_refresh() {
    let memory = if long() { "512mb" } else { "12mb" };
    let server = RedisServer::start(&["--maxmemory", memory, "--maxmemory-policy", "noeviction"]);
    for (per_caller, refused_as) in
        [("50", ErrorReason::EnrollmentsLimited), ("0", ErrorReason::StoreFull)]
    {
        server.cli(&["FLUSHALL"]);
        let world = world(&server, per_caller).await;
        let effort = Effort::new(1_000, 60_000);
        let mut callers = Callers::of(&world).await;
        let (begun, next) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let attacker = world.client("team-a", "ana").await;
        let floods = (0..AT_ONCE).map(async |_| {
            let mut attacker = attacker.admin.clone();
            let mut last = None;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= effort.held {
                    return last;
                }
                match attacker.start_enrollment(largest(number)).await {
                    Ok(_) => _ = begun.fetch_add(1, Ordering::Relaxed),
                    Err(status) => last = Some(CallError::from(status)),
                }
            }
        });
        let (mut seen, refused) = tokio::join!(callers.call(effort.during), join_all(floods));
        let refused = refused.into_iter().flatten().next().expect("all were begun");
        assert_eq!((refused.code, refused.reason), (Code::ResourceExhausted, refused_as));
        assert!(refused.retry_after.is_some(), "{refused}");
        // What is left is for those who refresh.
        let mut platform = world.client("platform", "admin").await;
        for _ in 0..20 {
            let grant_id = "kroger/alice".to_owned();
            let request = ForceRefreshRequest { grant_id, rejected: None };
            let forced = platform.tokens.force_refresh(request).await;
            seen.count(forced.map(drop).map_err(|status| status.to_string()));
        }
        seen.add(&callers.call(effort.during).await);
        if refused_as == ErrorReason::StoreFull {
            let request = ImportGrantRequest {
                grant_id: "kroger/bob".to_owned(),
                provider_id: "default".to_owned(),
                refresh_token: world.authority.consent("bob"),
                ..ImportGrantRequest::default()
            };
            let status = platform.admin.import_grant(request).await.unwrap_err();
            assert_eq!(CallError::from(status).reason, ErrorReason::StoreFull);
        }
        let begun = begun.into_inner();
        seen.came_to_nothing("enrolments of one caller", &format!("{begun} begun, {refused_as:?}"));
    }
}
