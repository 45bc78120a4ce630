//! Clocks that are set, and machines that are stopped: no token is served beyond its end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use token_broker::broker::model::Token;
use token_broker::broker::store::Grants as _;
use token_broker::clock::{Clock, between};
use token_broker::secret::AccessToken;
use token_broker::store::{Keyring, Vault};

use crate::store_contract::{id, seed};
use crate::support::authority::{Authority, Fault};
use crate::support::world::{World, pass};

const ALICE: &str = "kroger/alice";
const HOUR: i64 = 3_600;

fn seconds(duration: Option<prost_types::Duration>) -> i64 {
    duration.unwrap().seconds
}

/// A world with tokens of half a minute, and a provider that gives no further one.
async fn one_token() -> World {
    let authority = Authority::new().lifetime(Duration::from_secs(30));
    let world = World::with(authority, |store| store);
    world.alice().await;
    world.calls.clone().get(ALICE).await.unwrap();
    world.authority.outage(Some(Fault::Answer(418, "")));
    pass(5).await;
    world
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_gives_no_token_a_longer_life() {
    let world = one_token().await;
    world.turn(-HOUR);
    for second in 5..40 {
        let served = world.calls.clone().get_within(ALICE, Duration::from_millis(100)).await;
        match served {
            Ok(token) => {
                assert!(second < 30, "served {second} s after it was sent for");
                assert!(seconds(token.ttl) <= 30 - second, "{token:?}");
                assert!(seconds(token.refresh_after) <= 15);
            }
            Err(_) => assert!(second >= 29, "{second}"),
        }
        pass(1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_stopped_serves_nothing_that_expired_meanwhile() {
    let world = one_token().await;
    world.turn(60);
    let served = world.calls.clone().get_within(ALICE, Duration::from_millis(100)).await;
    assert!(served.is_err(), "{served:?}");
    world.authority.outage(None);
    pass(10).await;
    let token = world.calls.clone().get(ALICE).await.unwrap();
    assert!(seconds(token.ttl) <= 30);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_goes_by_the_wall_clock() {
    let world = World::new();
    world.alice().await;
    world.turn(-HOUR);
    let token = world.calls.clone().get(ALICE).await.unwrap();
    let wall = world.wall().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let end = u64::try_from(token.expire_time.unwrap().seconds).unwrap();
    assert!((3_599..=3_601).contains(&(end - wall)), "{end} at {wall}");
}

/// A store file with a token that was issued for ten minutes, by a broker with this clock.
async fn written(path: &Path, ring: &Arc<Keyring>, clock: Clock) {
    let vault = Vault::in_file(path, false, Arc::clone(ring), clock).await.unwrap();
    let mut seed = seed("0");
    seed.pair.token = Some(Token {
        access_token: AccessToken::new("access"),
        token_type: "Bearer".to_owned(),
        generation: token_broker::broker::model::Generation(1),
        issued_at: clock.now(),
        lifetime: Duration::from_secs(600),
        refresh_in: None,
        scopes: Vec::new(),
        attributes: std::collections::BTreeMap::new(),
    });
    vault.start_chain(&id(ALICE), None, seed).await.unwrap().unwrap();
}

async fn read(path: &Path, ring: &Arc<Keyring>, clock: Clock) -> Token {
    let vault = Vault::in_file(path, true, Arc::clone(ring), clock).await.unwrap();
    let stored = vault.load(&id(ALICE)).await.unwrap().unwrap();
    stored.grant().unwrap().pair.token.unwrap()
}

/// (how far the clock of the broker before was ahead, in s; what is left of ten minutes; due at once)
const BEFORE: [(i64, u64, bool); 5] =
    [(0, 600, false), (-60, 540, false), (20, 600, false), (31, 600, true), (HOUR, 600, true)];

#[tokio::test]
async fn a_broker_that_is_started_with_another_clock_believes_no_longer_life() {
    for (ahead, left, due) in BEFORE {
        let (dir, ring) = (tempfile::tempdir().unwrap(), Arc::new(Keyring::generate()));
        let path = dir.path().join("store.redb");
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let other = Clock::simulated(clock.now());
        other.turn(ahead);
        written(&path, &ring, other.steady()).await;
        let clock = clock.steady();
        let token = read(&path, &ring, clock).await;
        let real = between(clock.now(), token.expires_at()).as_secs();
        assert!(real.abs_diff(left) <= 1, "{ahead}: {real}");
        assert_eq!(token.refresh_in == Some(Duration::ZERO), due, "{ahead}");
    }
}

#[tokio::test]
async fn a_clock_that_is_turned_while_the_broker_runs_is_not_taken_to_the_next() {
    let (dir, ring) = (tempfile::tempdir().unwrap(), Arc::new(Keyring::generate()));
    let path = dir.path().join("store.redb");
    let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let steady = clock.steady();
    clock.turn(-HOUR);
    let _ = steady.now();
    written(&path, &ring, steady).await;
    let token = read(&path, &ring, clock.steady()).await;
    assert!(token.issued_at <= clock.now() && token.refresh_in.is_none(), "{token:?}");
}
