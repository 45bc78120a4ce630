//! Whoever watches a grant hears of each token, and of the grant's troubles, without asking.

use std::time::Duration;

use token_broker::client::CallError;
use token_broker::proto::watch_token_response::Event;
use token_broker::proto::{
    DeleteGrantRequest, DisableGrantRequest, EnableGrantRequest, ErrorReason, Token,
    WatchTokenRequest, WatchTokenResponse,
};
use tonic::{Code, Streaming};

use crate::callers::World as Guarded;
use crate::support::authority::{Authority, Fault};
use crate::support::process::program;
use crate::support::world::World;

const GRANT: &str = "kroger/alice";

struct Watched(Streaming<WatchTokenResponse>);

impl Watched {
    async fn begin(world: &World, last_generation: i64) -> Self {
        let request = WatchTokenRequest { grant_id: GRANT.to_owned(), last_generation };
        let stream = world.calls.clone().tokens.watch_token(request).await;
        Self(stream.unwrap().into_inner())
    }

    async fn event(&mut self) -> Event {
        self.0.message().await.unwrap().unwrap().event.unwrap()
    }

    /// The next token; silence before it is allowed.
    async fn token(&mut self) -> Token {
        loop {
            match self.event().await {
                Event::Token(token) => return token,
                Event::Heartbeat(_) => {}
                Event::Unavailable(unavailable) => panic!("{unavailable:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_token_comes_and_each_trouble_once() {
    let world = World::new();
    world.start_scheduler();
    world.alice().await;
    let mut calls = world.calls.clone();
    let mut watched = Watched::begin(&world, 0).await;
    let first = watched.token().await;
    assert_eq!(first, calls.get(GRANT).await.unwrap(), "what GetToken gives");
    // Nobody else asks: for whoever watches the grant is kept fresh.
    let second = watched.token().await;
    assert!(second.generation > first.generation);
    let left = second.ttl.unwrap().seconds;
    assert!(left > 3000, "it comes when it is new: {left}");
    assert_eq!(world.authority.posts(), 2, "one request for each token");

    let admin = &mut calls.admin;
    let grant_id = GRANT.to_owned();
    admin.disable_grant(DisableGrantRequest { grant_id: grant_id.clone() }).await.unwrap();
    let Event::Unavailable(unavailable) = watched.event().await else { panic!("it is off") };
    assert_eq!(unavailable.reason(), ErrorReason::GrantDisabled);
    assert!(unavailable.drop_cached);
    assert!(matches!(watched.event().await, Event::Heartbeat(_)), "that is said once");
    admin.enable_grant(EnableGrantRequest { grant_id: grant_id.clone() }).await.unwrap();
    assert_eq!(watched.token().await.generation, second.generation, "and taken back");
    admin.delete_grant(DeleteGrantRequest { grant_id, ..Default::default() }).await.unwrap();
    let error = CallError::from(watched.0.message().await.unwrap_err());
    assert_eq!((error.code, error.reason), (Code::NotFound, ErrorReason::GrantNotFound));
    assert!(watched.0.message().await.unwrap().is_none(), "that is the end");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_not_sent_again_and_silence_is_told() {
    let world = World::new();
    world.alice().await;
    let known = world.calls.clone().get(GRANT).await.unwrap();
    let mut watched = Watched::begin(&world, known.generation).await;
    let before = tokio::time::Instant::now();
    assert!(matches!(watched.event().await, Event::Heartbeat(_)));
    assert!(before.elapsed() >= Duration::from_secs(10));
    // A broker that goes says so, and holds nobody.
    world.broker.drain().await;
    let error = CallError::from(watched.0.message().await.unwrap_err());
    assert_eq!((error.code, error.reason), (Code::Unavailable, ErrorReason::Draining));

    let world = World::with(Authority::new(), |store| store);
    let request = WatchTokenRequest { grant_id: GRANT.to_owned(), last_generation: 0 };
    let error = world.calls.clone().tokens.watch_token(request).await.unwrap_err();
    assert_eq!(CallError::from(error).reason, ErrorReason::GrantNotFound);
}

/// The real program: the policy may end a watch, and the audit log has what was handed out.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_each_token_until_the_policy_ends_it() {
    let world = Guarded::with(&[("TOKEN_BROKER__AUDIT__SINK", "file:audit.jsonl")]).await;
    let (ok, token, errors) = world.cli("platform", "admin", &["get", GRANT]);
    assert!(ok, "{errors}");
    let address = format!("http://{}", world.program.api);
    let proof = world.at("token").display().to_string();
    let watch = ["watch", GRANT, "--json", "--address", &address, "--token-file", &proof];
    let mut watching = program(std::path::Path::new("/"))
        .args(watch)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let told = std::io::BufReader::new(watching.stdout.take().unwrap());
    let mut told = std::io::BufRead::lines(told).map_while(Result::ok);
    assert!(told.next().unwrap().contains(token.trim()));
    let token = loop {
        let (ok, token, errors) = world.cli("platform", "admin", &["refresh", GRANT]);
        if ok {
            break token;
        }
        assert!(errors.contains("COOLDOWN"), "{errors}");
    };
    assert!(told.next().unwrap().contains(token.trim()), "without asking");
    let policy = std::fs::read_to_string(world.at("policy.yaml")).unwrap();
    std::fs::write(world.at("policy.yaml"), policy.replace("watch_token, ", "")).unwrap();
    world.program.signal("HUP");
    let ended = watching.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && errors.contains("POLICY_DENIED"), "{errors}");
    let audit = std::fs::read_to_string(world.at("audit.jsonl")).unwrap();
    let lines = audit.lines().filter(|line| line.contains("\"action\":\"watch_token\""));
    assert!(lines.filter(|line| line.contains("fingerprint")).count() >= 2, "{audit}");
    assert!(world.program.page("/metrics").contains("tokenbroker_watchers 0"));
}

/// Thousands may watch: a grant that gives no token is not asked for in a loop.
#[tokio::test(start_paused = true)]
async fn a_provider_in_trouble_is_not_asked_more_often_because_somebody_watches() {
    let world = World::with(Authority::new().lifetime(Duration::from_secs(60)), |store| store);
    world.start_scheduler();
    world.alice().await;
    let mut watched = Watched::begin(&world, 0).await;
    watched.token().await;
    world.authority.outage(Some(Fault::Unreachable));
    let mut told = 0;
    let end = tokio::time::Instant::now() + Duration::from_secs(600);
    while tokio::time::Instant::now() < end {
        if let Event::Unavailable(_) = watched.event().await {
            told += 1;
        }
    }
    assert_eq!(told, 1, "once, and not for each try");
    let looks = token_broker::telemetry::expose(&world.registry);
    let looks = looks.lines().filter(|line| line.starts_with("token_requests_total"));
    let looks: u64 = looks.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    assert!(looks < 1_500, "{looks} looks in ten minutes");
    world.authority.outage(None);
    watched.token().await;
    world.authority.audit();
}
