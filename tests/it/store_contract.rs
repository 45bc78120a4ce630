//! The contract of a store, run on each of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;
use token_broker::broker::model::{
    Answer, Cause, ClientFingerprint, Descriptor, Doubt, DoubtKind, ENROLMENT_KEPT, Enrolment,
    EnrolmentLimits, Evidence, Fence, Generation, Grant, GrantId, GrantKind, Hold, Intent, Owner,
    Pair, Piece, Position, ProviderId, Reading, Reason, Standing, Token, Verdict,
};
use token_broker::broker::store::{
    Amendment, Claim, Claims as _, Crowd, DueIndex as _, Grants as _, Limit, Merged, Rates as _,
    Said, Seed, Slowing, Store, StoreError, Stored, TOMBSTONE_LIFE, When,
};
use token_broker::clock::Clock;
use token_broker::secret::{AccessToken, EnrolmentId, EnrolmentState, RefreshToken};
use token_broker::store::redis::{Address, Admission};
use token_broker::store::{Keyring, Vault};

use crate::support::redis::RedisServer;

/// A store, and what must live as long as it does.
struct Subject {
    store: Arc<dyn Store>,
    _dir: Option<TempDir>,
    _server: Option<RedisServer>,
}

async fn subjects() -> Vec<Subject> {
    let ring = || Arc::new(Keyring::generate());
    let memory = Vault::in_memory(ring(), Clock::system()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let file = Vault::in_file(&path, false, ring(), Clock::system()).await.unwrap();
    let server = RedisServer::start(&[]);
    let redis = open_redis(&server, ring()).await;
    vec![
        Subject { store: Arc::new(memory), _dir: None, _server: None },
        Subject { store: Arc::new(file), _dir: Some(dir), _server: None },
        Subject { store: Arc::new(redis), _dir: None, _server: Some(server) },
    ]
}

pub(crate) async fn open_redis(server: &RedisServer, ring: Arc<Keyring>) -> Vault {
    let address =
        Address { url: server.url(), password: None, ca: None, timeout: Duration::from_secs(1) };
    let vault = Vault::in_redis(&address, "tb", Admission::default(), false, ring, Clock::system());
    let vault = vault.await.unwrap();
    // Nothing is claimed in what nobody has looked at.
    assert!(vault.health().await.state.is_ok());
    vault.compared().await.unwrap();
    vault
}

/// The due index brings a claimed grant up after this.
const WATCH: Duration = Duration::from_secs(69);

pub(crate) fn id(name: &str) -> GrantId {
    GrantId::parse(name).unwrap()
}

fn descriptor(kind: GrantKind) -> Descriptor {
    Descriptor {
        account: None,
        provider: ProviderId::new("kroger"),
        kind,
        scopes: vec!["x".to_owned(), "y".to_owned()],
        labels: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
        keep_warm: true,
        disabled: false,
        create_time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
    }
}

fn pair(name: &str) -> Pair {
    Pair {
        refresh_token: Some(RefreshToken::new(format!("refresh-{name}"))),
        refresh_token_expires_at: Some(UNIX_EPOCH + Duration::from_secs(1_900_000_000)),
        token: Some(Token {
            access_token: AccessToken::new(format!("access-{name}")),
            token_type: "Bearer".to_owned(),
            generation: Generation(7),
            issued_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_456),
            lifetime: Duration::from_secs(1800),
            refresh_in: Some(Duration::from_secs(900)),
            scopes: vec!["x".to_owned()],
            attributes: BTreeMap::from([("instance_url".to_owned(), "https://i".to_owned())]),
        }),
        published_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_789),
    }
}

fn owner(attempt: u64) -> Owner {
    Owner::Process { replica: "broker-0".to_owned(), boot: u64::MAX, attempt }
}

pub(crate) fn verdict() -> Verdict {
    Verdict {
        reason: Reason::GrantReauthRequired,
        provider_error: Some("invalid_grant".to_owned()),
        detail: Some("message: gone".to_owned()),
        provider_status: Some(400),
        time: UNIX_EPOCH + Duration::from_secs(1_700_000_001),
        token_rejected: true,
        given_up: None,
    }
}

pub(crate) fn seed(name: &str) -> Seed {
    Seed { descriptor: descriptor(GrantKind::RefreshToken), pair: pair(name), due_at: None }
}

/// A grant that goes on with the pair of this name.
pub(crate) fn successor(id: &GrantId, generation: Generation, fence: Fence, name: &str) -> Grant {
    Grant {
        id: id.clone(),
        position: Position { generation, fence },
        descriptor: descriptor(GrantKind::RefreshToken),
        described: Fence(1),
        pair: pair(name),
        standing: Standing::Usable,
        intent: None,
        answer: None,
    }
}

async fn live(store: &dyn Store, name: &str) -> Grant {
    store.load(&id(name)).await.unwrap().unwrap().grant().unwrap()
}

async fn start(store: &dyn Store, name: &str) -> Grant {
    store.start_chain(&id(name), None, seed("0")).await.unwrap().unwrap()
}

async fn claim(store: &dyn Store, grant: &Grant, attempt: u64) -> Intent {
    match store.claim(&grant.id, grant.generation(), owner(attempt), None, WATCH).await.unwrap() {
        Claim::Granted(intent) => intent,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_chain_comes_back_as_it_was_stored() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        assert!(store.load(&id("a/1")).await.unwrap().is_none());
        let started = start(store, "a/1").await;
        let loaded = live(store, "a/1").await;
        assert_eq!(loaded, started);
        assert_eq!(loaded.pair, pair("0"));
        assert_eq!(loaded.descriptor, descriptor(GrantKind::RefreshToken));
        assert!(loaded.generation().0 > 1_700_000_000, "begins at the Unix time");
        assert!(store.health().await.state.is_ok());
    }
}

#[tokio::test]
async fn a_new_chain_needs_to_know_what_it_replaces() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let first = start(store, "a/1").await;
        assert!(store.start_chain(&id("a/1"), None, seed("1")).await.unwrap().is_none());
        let position = Position { fence: Fence(1), ..first.position };
        let wrong = store.start_chain(&id("a/1"), Some(position), seed("1")).await.unwrap();
        assert!(wrong.is_none());
        let second = store.start_chain(&id("a/1"), Some(first.position), seed("1")).await.unwrap();
        let second = second.unwrap();
        assert!(
            second.generation() > first.generation()
                && second.position.fence > first.position.fence
        );
        assert_eq!(live(store, "a/1").await.pair, pair("1"));
    }
}

#[tokio::test]
async fn a_generation_has_one_claim_at_a_time() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        assert!(intent.fence > grant.position.fence);
        let again =
            store.claim(&grant.id, grant.generation(), owner(2), None, WATCH).await.unwrap();
        assert_eq!(again, Claim::Busy(intent.clone()), "also for the same process");
        let loaded = live(store, grant.id.as_str()).await;
        assert_eq!(loaded.intent, Some(intent.clone()));
        let other = Intent { fence: Fence(intent.fence.0 + 1), ..intent.clone() };
        assert!(
            !store.release(&grant.id, &other, None).await.unwrap(),
            "only its holder gives it back"
        );
        assert!(store.release(&grant.id, &intent, None).await.unwrap());
        assert!(!store.release(&grant.id, &intent, None).await.unwrap());
        let next = claim(store, &grant, 2).await;
        assert!(next.fence > intent.fence);
        let elsewhere =
            store.claim(&grant.id, grant.generation().next(), owner(3), None, WATCH).await;
        assert_eq!(elsewhere.unwrap(), Claim::Moved);
        let missing = store.claim(&id("a/none"), Generation(1), owner(3), None, WATCH).await;
        assert_eq!(missing.unwrap(), Claim::Moved);
    }
}

#[tokio::test]
async fn kinds_that_spend_nothing_take_silent_claims_over() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let silent = claim(store, &grant, 1).await;
        let hour = Some(Duration::from_secs(3600));
        let busy = store.claim(&grant.id, grant.generation(), owner(2), hour, WATCH).await.unwrap();
        assert_eq!(busy, Claim::Busy(silent.clone()));
        let now = Some(Duration::ZERO);
        let taken = store.claim(&grant.id, grant.generation(), owner(2), now, WATCH).await.unwrap();
        let Claim::Granted(taken) = taken else { panic!("{taken:?}") };
        assert!(taken.fence > silent.fence);
        assert!(!store.release(&grant.id, &silent, None).await.unwrap(), "it is another's now");
    }
}

fn doubt(intent: &Intent) -> Doubt {
    Doubt {
        kind: DoubtKind::Answered,
        status: Some(503),
        since: UNIX_EPOCH + Duration::from_millis(1_700_000_000_111),
        sent_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_222),
        attempts: 2,
        fence: intent.fence,
    }
}

#[tokio::test]
async fn a_doubt_stays_until_there_is_a_definite_answer() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let load = async || live(store, grant.id.as_str()).await.intent;
        let intent = claim(store, &grant, 1).await;
        assert_eq!(load().await, Some(intent.clone()));
        let doubted = doubt(&intent);
        assert!(store.doubt(&grant.id, &intent, &doubted, None).await.unwrap());
        let held = load().await.unwrap();
        assert_eq!(held.in_doubt(), Some(&doubted), "nobody is at it");

        let taken = store.take_over(&grant.id, &held, owner(2), WATCH).await.unwrap();
        let Claim::Granted(taken) = taken else { panic!("{taken:?}") };
        assert!(taken.fence > held.fence && taken.in_doubt().is_none(), "somebody is at it");
        assert_eq!(taken.doubt, Some(doubted.clone()), "and it stays");
        assert_eq!(load().await, Some(taken.clone()));
        let twice = store.take_over(&grant.id, &held, owner(3), WATCH).await.unwrap();
        assert_eq!(twice, Claim::Moved, "one takes it over");
        let late = store.doubt(&grant.id, &intent, &doubted, None).await.unwrap();
        assert!(!late, "the old holder has no say any more");
        assert!(!store.release(&grant.id, &intent, None).await.unwrap());

        assert!(store.release(&grant.id, &taken, None).await.unwrap());
        let again = load().await.unwrap();
        assert_eq!(again.in_doubt().unwrap().attempts, 2, "given back into doubt");
        let free = store.claim(&grant.id, grant.generation(), owner(4), None, WATCH).await;
        assert_eq!(free.unwrap(), Claim::Busy(again.clone()));
        let next = successor(&grant.id, grant.generation().next(), again.fence, "1");
        assert_eq!(store.merge(&next, None).await.unwrap(), Merged::Published);
        assert_eq!(load().await, None);
    }
}

#[tokio::test]
async fn a_claimed_grant_comes_up_again_by_itself() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let due = async || store.take_due(1_000, WATCH).await.unwrap();
        let (early, late) = (start(store, "a/early").await, start(store, "a/late").await);
        let watch = Duration::ZERO;
        let owned = store.claim(&early.id, early.generation(), owner(1), None, watch).await;
        assert!(matches!(owned.unwrap(), Claim::Granted(_)));
        let intent = claim(store, &late, 2).await;
        assert_eq!(due().await, std::slice::from_ref(&early.id));
        assert!(store.doubt(&late.id, &intent, &doubt(&intent), Some(UNIX_EPOCH)).await.unwrap());
        assert_eq!(due().await, std::slice::from_ref(&late.id));
    }
}

#[tokio::test]
async fn a_pair_is_published_once_and_frees_the_claim() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        let next = successor(&grant.id, grant.generation().next(), intent.fence, "1");
        assert_eq!(store.merge(&next, None).await.unwrap(), Merged::Published);
        assert_eq!(store.merge(&next, None).await.unwrap(), Merged::Same);
        let loaded = live(store, grant.id.as_str()).await;
        assert_eq!((loaded.generation(), loaded.intent), (next.generation(), None));
        assert_eq!(loaded.pair, pair("1"));
        let late = successor(&grant.id, grant.generation(), Fence(u64::from(u32::MAX)), "late");
        assert_eq!(store.merge(&late, None).await.unwrap(), Merged::Old);
    }
}

#[tokio::test]
async fn a_doubt_that_was_given_up_comes_back_with_the_grant() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        let doubted = doubt(&intent);
        assert!(store.doubt(&grant.id, &intent, &doubted, None).await.unwrap());
        let given_up = Verdict { given_up: Some(doubted.clone()), ..verdict() };
        assert!(store.refuse(&grant.id, &intent, &given_up).await.unwrap());
        let refused = live(store, grant.id.as_str()).await;
        assert_eq!(refused.standing, Standing::Refused(given_up));
        let in_doubt = Some((owner(2), doubted.clone()));
        let lift = Amendment { lift: true, in_doubt, ..Amendment::default() };
        let lifted = store.amend(&grant.id, refused.position, lift).await.unwrap().unwrap();
        let held = lifted.intent.unwrap();
        assert_eq!((held.generation, &held.owner), (grant.generation(), &owner(2)));
        assert_eq!(held.in_doubt(), Some(&Doubt { fence: held.fence, ..doubted }));
        let taken = store.take_over(&grant.id, &held, owner(3), WATCH).await.unwrap();
        assert!(matches!(taken, Claim::Granted(_)));
    }
}

#[tokio::test]
async fn a_missing_grant_is_made_again_but_not_a_deleted_one() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let due_at = Some(UNIX_EPOCH);
        let lost = successor(&id("a/lost"), Generation(9), Fence(9), "1");
        assert_eq!(store.merge(&lost, due_at).await.unwrap(), Merged::Remade);
        assert_eq!(store.merge(&lost, due_at).await.unwrap(), Merged::Same);
        let remade = live(store, "a/lost").await;
        assert_eq!((remade.generation(), &remade.pair), (Generation(9), &pair("1")));
        assert_eq!(remade.descriptor, descriptor(GrantKind::RefreshToken));
        let listed = store.list(None, 10).await.unwrap().grants;
        assert_eq!(listed, std::slice::from_ref(&remade));
        let due = store.take_due(1_000, Duration::from_secs(60)).await.unwrap();
        assert_eq!(due, std::slice::from_ref(&remade.id));

        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        assert!(store.delete(&grant.id, grant.position).await.unwrap());
        let late = successor(&grant.id, grant.generation().next(), intent.fence, "late");
        assert_eq!(store.merge(&late, None).await.unwrap(), Merged::Old);
    }
}

#[tokio::test]
async fn an_emptied_redis_is_named_again_and_a_foreign_one_left_alone() {
    let server = RedisServer::start(&[]);
    let ring = Arc::new(Keyring::generate());
    let store = open_redis(&server, Arc::clone(&ring)).await;
    let deployment = store.health().await.deployment;
    server.cli(&["FLUSHALL"]);
    let lost = successor(&id("a/1"), Generation(9), Fence(9), "1");
    assert_eq!(store.merge(&lost, None).await.unwrap(), Merged::Remade);
    let again = open_redis(&server, Arc::clone(&ring)).await;
    assert_eq!(again.health().await.deployment, deployment);
    assert_eq!(live(&again, "a/1").await.pair, pair("1"));

    server.cli(&["FLUSHALL"]);
    open_redis(&server, Arc::new(Keyring::generate())).await;
    let error = store.merge(&lost, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert!(server.cli(&["KEYS", "tb:*:g:*"]).is_empty(), "nothing was written");
}

#[tokio::test]
async fn of_two_pairs_of_one_generation_the_greater_fence_stays() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let next = grant.generation().next();
        let at = |fence: u64, name: &str| {
            successor(&grant.id, next, Fence(grant.position.fence.0 + fence), name)
        };
        assert_eq!(store.merge(&at(5, "five"), None).await.unwrap(), Merged::Published);
        assert_eq!(store.merge(&at(3, "three"), None).await.unwrap(), Merged::Sibling);
        assert_eq!(store.merge(&at(3, "three"), None).await.unwrap(), Merged::Same);
        assert_eq!(live(store, grant.id.as_str()).await.pair, pair("five"));
        assert_eq!(store.merge(&at(9, "nine"), None).await.unwrap(), Merged::Published);
        assert_eq!(
            store.merge(&at(5, "five"), None).await.unwrap(),
            Merged::Same,
            "kept beside it"
        );
        assert_eq!(live(store, grant.id.as_str()).await.pair, pair("nine"));
    }
}

#[tokio::test]
async fn a_refusal_counts_only_while_the_claim_is_ours() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        let stale = Intent { fence: grant.position.fence, ..intent.clone() };
        assert!(!store.refuse(&grant.id, &stale, &verdict()).await.unwrap());
        assert!(store.refuse(&grant.id, &intent, &verdict()).await.unwrap());
        assert!(store.refuse(&grant.id, &intent, &verdict()).await.unwrap(), "repeated: the same");
        let dead = live(store, grant.id.as_str()).await;
        assert_eq!(dead.standing, Standing::Refused(verdict()));
        assert_eq!(dead.position.fence, intent.fence, "the refusal is a change of its own");
        assert_eq!(dead.pair, pair("0"), "nothing is thrown away");
        let claim =
            store.claim(&grant.id, grant.generation(), owner(2), None, WATCH).await.unwrap();
        assert_eq!(claim, Claim::Moved);
        // A pair that was under way all the while is better news than the refusal.
        let late = successor(&grant.id, grant.generation().next(), intent.fence, "late");
        assert_eq!(store.merge(&late, None).await.unwrap(), Merged::Published);
        let alive = live(store, grant.id.as_str()).await;
        assert_eq!(alive.standing, Standing::Usable);
        assert!(!store.refuse(&grant.id, &intent, &verdict()).await.unwrap(), "too late");
    }
}

#[tokio::test]
async fn a_lifted_verdict_is_newer_than_the_verdict() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        assert!(store.refuse(&grant.id, &intent, &verdict()).await.unwrap());
        let refused = live(store, grant.id.as_str()).await;
        let lift = || Amendment { lift: true, due_at: Some(UNIX_EPOCH), ..Amendment::default() };
        let stale = store.amend(&grant.id, grant.position, lift()).await.unwrap();
        assert!(stale.is_none(), "who has not seen the verdict does not lift it");
        let lifted = store.amend(&grant.id, refused.position, lift()).await.unwrap().unwrap();
        assert_eq!(lifted.standing, Standing::Usable);
        assert!(lifted.position > refused.position && lifted.pair == grant.pair);
        assert_eq!(live(store, grant.id.as_str()).await, lifted);
        let due = store.take_due(1_000, Duration::from_secs(60)).await.unwrap();
        assert_eq!(due, std::slice::from_ref(&grant.id));
        let late = store.refuse(&grant.id, &intent, &verdict()).await.unwrap();
        assert!(!late, "a repeated verdict does not undo it");
        claim(store, &grant, 2).await;
    }
}

#[tokio::test]
async fn a_deleted_grant_stays_deleted() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let intent = claim(store, &grant, 1).await;
        let elsewhere = Position { generation: Generation(1), ..grant.position };
        assert!(!store.delete(&grant.id, elsewhere).await.unwrap());
        assert!(store.delete(&grant.id, grant.position).await.unwrap());
        let tombstone = store.load(&grant.id).await.unwrap().unwrap().position();
        assert_eq!(store.load(&grant.id).await.unwrap(), Some(Stored::Deleted(tombstone)));
        let late = successor(&grant.id, grant.generation().next(), intent.fence, "late");
        assert_eq!(store.merge(&late, None).await.unwrap(), Merged::Old);
        assert!(store.list(None, 10).await.unwrap().grants.is_empty());
        let again = store.start_chain(&grant.id, Some(tombstone), seed("1")).await.unwrap();
        assert!(again.unwrap().generation() > tombstone.generation);
        assert_eq!(store.list(None, 10).await.unwrap().grants.len(), 1);
    }
}

#[tokio::test]
async fn the_due_index_hands_each_grant_to_one_taker() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let now = Clock::system().now();
        let long = Duration::from_secs(3600);
        let grants =
            [start(store, "a/1").await, start(store, "a/2").await, start(store, "a/3").await];
        assert!(store.take_due(10, long).await.unwrap().is_empty(), "nobody uses them");
        store.schedule(&grants[0].id, grants[0].generation(), now).await.unwrap();
        store.schedule(&grants[1].id, grants[1].generation(), now + long).await.unwrap();
        store.schedule(&grants[2].id, Generation(1), now).await.unwrap();
        assert_eq!(store.take_due(10, long).await.unwrap(), [grants[0].id.clone()]);
        assert!(store.take_due(10, long).await.unwrap().is_empty(), "hidden");
        // A rotation takes it out until it is used again.
        store.schedule(&grants[0].id, grants[0].generation(), now).await.unwrap();
        let intent = claim(store, &grants[0], 1).await;
        let next = successor(&grants[0].id, grants[0].generation().next(), intent.fence, "1");
        store.merge(&next, None).await.unwrap();
        assert!(store.take_due(10, long).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn moments_are_given_out_once_and_not_while_a_provider_limits_us() {
    let provider = ProviderId::new("kroger");
    let limit = Limit { rate: 1, burst: 1 };
    // Far more than any store takes to answer.
    let (at_once, minute, second) =
        (Duration::ZERO, Duration::from_secs(60), Duration::from_secs(1));
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let book = |count, ahead| store.book(&provider, limit, count, ahead);
        let (one, other) = tokio::join!(book(15, minute), book(15, minute));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.waits.len(), other.waits.len(), one.step), (15, 15, second));
        let furthest = one.waits.iter().chain(&other.waits).max().unwrap();
        assert!(*furthest > 20 * second, "thirty moments take half a minute: {furthest:?}");
        assert!(book(5, at_once).await.unwrap().waits.is_empty());
        assert!((25..32).contains(&book(100, minute).await.unwrap().waits.len()));
        let another = store.book(&ProviderId::new("other"), limit, 1, at_once).await.unwrap();
        assert_eq!(another.waits, [at_once], "one provider's pace is not another's");

        let slowing = |told| Slowing { told, least: second, most: minute, sent_ago: at_once };
        store.slow_down(&provider, slowing(Some(20 * minute))).await.unwrap();
        store.slow_down(&provider, slowing(None)).await.unwrap();
        let limited = book(1, minute).await.unwrap();
        assert_eq!((limited.waits.len(), limited.step), (0, 2 * second), "halved once");
        assert!(limited.next > 19 * minute && limited.next <= 20 * minute, "{limited:?}");
    }
}

#[tokio::test]
async fn nothing_is_claimed_in_a_redis_that_is_not_the_one_that_was_looked_at() {
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    let grant = start(&store, "a/1").await;
    for key in server.cli(&["KEYS", "tb:mark:*"]).lines() {
        server.cli(&["DEL", key]);
    }
    let claim = || store.claim(&grant.id, grant.generation(), owner(1), None, WATCH);
    assert!(matches!(claim().await, Err(StoreError::Unavailable(_))));
    assert!(store.health().await.state.is_ok());
    assert!(matches!(claim().await.unwrap(), Claim::Granted(_)));
}

#[tokio::test]
async fn a_grant_that_is_made_again_may_be_held_from_then_on() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let lost = successor(&id("a/lost"), Generation(7), Fence(9), "lost");
        let (owner_of_lost, since) = (owner(3), UNIX_EPOCH);
        let (generation, fence) = (lost.generation(), lost.position.fence);
        let held = Intent { generation, owner: owner_of_lost, fence, since, doubt: None };
        let wanted = Grant { intent: Some(held), ..lost.clone() };
        assert_eq!(store.merge(&wanted, None).await.unwrap(), Merged::Remade);
        let claim = store.claim(&lost.id, lost.generation(), owner(1), None, WATCH).await.unwrap();
        assert!(matches!(claim, Claim::Busy(held) if held.owner == owner(3)));
        let next = successor(&lost.id, lost.generation().next(), Fence(8), "next");
        assert_eq!(
            store.merge(&next, None).await.unwrap(),
            Merged::Published,
            "by whoever held it"
        );
    }
}

#[tokio::test]
async fn what_is_no_rate_in_redis_stops_nothing() {
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    let provider = ProviderId::new("kroger");
    let limit = Limit { rate: 1, burst: 1 };
    for command in [&["SET", "tb:rate:kroger", "x"][..], &["HSET", "tb:rate:kroger", "n", "1e300"]]
    {
        server.cli(&["DEL", "tb:rate:kroger"]);
        server.cli(command);
        let slots = store.book(&provider, limit, 1, 2 * TOMBSTONE_LIFE).await.unwrap();
        assert_eq!(slots.waits.len(), 1, "{command:?}");
    }
    assert_ne!(server.cli(&["PTTL", "tb:rate:kroger"]), "-1");
}

#[tokio::test]
async fn a_cursor_leads_through_all_grants() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        for n in 0..23 {
            start(store, &format!("a/{n:02}")).await;
        }
        let (mut cursor, mut names, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = store.list(cursor.as_deref(), 7).await.unwrap();
            names.extend(page.grants.into_iter().map(|grant| grant.id.to_string()));
            pages += 1;
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        names.sort();
        names.dedup();
        assert_eq!((names.len(), pages), (23, 4));
    }
}

#[tokio::test]
async fn redis_gets_its_functions_back_after_it_lost_them() {
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    let grant = start(&store, "a/1").await;
    server.cli(&["FUNCTION", "FLUSH"]);
    claim(&store, &grant, 1).await;
    server.cli(&["FUNCTION", "FLUSH"]);
    assert!(store.take_due(1, Duration::from_secs(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_record_copied_to_another_grant_does_not_open() {
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    start(&store, "a/1").await;
    start(&store, "a/2").await;
    let keys = server.cli(&["KEYS", "tb:*:g:*"]);
    let keys: Vec<&str> = keys.lines().collect();
    let [one, two] = keys.as_slice() else { panic!("{keys:?}") };
    server.cli(&["COPY", one, two, "REPLACE"]);
    let name = two.rsplit_once(":g:").unwrap().1;
    let error = store.load(&id(name)).await.unwrap_err();
    let StoreError::Unreadable { position, .. } = error else { panic!("{error}") };
    assert_eq!(store.list(None, 10).await.unwrap().grants.len(), 1, "the others are listed");
    let anew = store.start_chain(&id(name), position, seed("1")).await.unwrap();
    assert!(anew.is_some(), "it can be replaced");
}

/// Who can write to Redis may stop a grant, but not end it or widen it.
#[tokio::test]
async fn what_decides_is_sealed_to_its_place() {
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    let (one, two) = (start(&store, "a/1").await, start(&store, "a/2").await);
    let intent = claim(&store, &one, 1).await;
    assert!(store.refuse(&one.id, &intent, &verdict()).await.unwrap());
    let key = |id: &GrantId| {
        let keys = server.cli(&["KEYS", &format!("tb:*:g:{id}")]);
        assert_eq!(keys.lines().count(), 1, "{keys}");
        keys
    };
    let copy = async |field: &str| {
        let client = redis::Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let read = redis::cmd("HGET").arg(key(&one.id)).arg(field).clone();
        let value: Vec<u8> = read.query_async(&mut connection).await.unwrap();
        let write = redis::cmd("HSET").arg(key(&two.id)).arg(field).arg(value).clone();
        write.exec_async(&mut connection).await.unwrap();
    };
    for fields in [["v", "vf"], ["m", "mf"]] {
        for field in fields {
            copy(field).await;
        }
        let error = store.load(&two.id).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreadable { .. }), "{fields:?}: {error}");
        server.cli(&["HDEL", &key(&two.id), "v", "vf"]);
    }
}

#[tokio::test]
async fn a_newer_description_comes_back_with_the_pair() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let said = Said { disabled: Some(true), ..Said::default() };
        let off = Amendment { said, ..Amendment::default() };
        let off = store.amend(&grant.id, grant.position, off).await.unwrap().unwrap();
        assert!(off.descriptor.disabled && off.described > grant.described);
        // Somebody who knows only what was said before publishes the next pair.
        let position = Position { generation: grant.generation().next(), ..off.position };
        let stale = Grant { position, pair: pair("1"), ..grant.clone() };
        assert_eq!(store.merge(&stale, None).await.unwrap(), Merged::Published);
        let stored = live(store, "a/1").await;
        assert!(stored.descriptor.disabled && stored.pair == pair("1"));
        // The store is one that has forgotten what somebody else remembers.
        let position = Position { generation: stored.generation().next(), ..off.position };
        let described = Fence(off.described.0 + 1);
        let descriptor = Descriptor { labels: BTreeMap::new(), ..stored.descriptor };
        let newer = Grant { position, described, descriptor, ..stale };
        assert_eq!(store.merge(&newer, None).await.unwrap(), Merged::Published);
        let stored = live(store, "a/1").await;
        assert!(stored.descriptor.labels.is_empty() && stored.described == described);
    }
}

#[tokio::test]
async fn a_newer_chain_takes_the_place_of_a_tombstone() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        assert!(store.delete(&grant.id, grant.position).await.unwrap());
        let at = store.load(&grant.id).await.unwrap().unwrap().position();
        let generation = Generation(at.generation.0 + 2);
        let newer = successor(&grant.id, generation, Fence(at.fence.0 + 2), "1");
        assert_eq!(store.merge(&newer, None).await.unwrap(), Merged::Remade);
        assert_eq!(live(store, "a/1").await.pair, pair("1"));
        assert_eq!(store.list(None, 10).await.unwrap().grants.len(), 1);
    }
}

#[tokio::test]
async fn no_key_of_a_live_grant_expires() {
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    let grant = start(&store, "a/1").await;
    store.delete(&grant.id, grant.position).await.unwrap();
    let tombstone = store.load(&grant.id).await.unwrap().unwrap().position();
    store.start_chain(&grant.id, Some(tombstone), seed("1")).await.unwrap().unwrap();
    // Nothing but the mark of this process does.
    let info = server.cli(&["INFO", "keyspace"]);
    assert!(info.contains("expires=1"), "{info}");
    let grants = server.cli(&["KEYS", "tb:{*"]);
    assert!(grants.lines().all(|key| server.cli(&["TTL", key]) == "-1"), "{grants}");
}

#[tokio::test(start_paused = true)]
async fn tombstones_are_let_go_after_their_life() {
    let clock = Clock::simulated(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30));
    let store = Vault::in_memory(Arc::new(Keyring::generate()), clock).unwrap();
    for name in ["a/1", "a/2", "a/3"] {
        start(&store, name).await;
    }
    for name in ["a/1", "a/2"] {
        let grant = live(&store, name).await;
        assert!(store.delete(&grant.id, grant.position).await.unwrap());
    }
    assert_eq!(store.purge().await.unwrap(), 0, "they keep late pairs out");
    tokio::time::advance(TOMBSTONE_LIFE + Duration::from_secs(1)).await;
    let again = start(&store, "a/2").await;
    assert_eq!(store.purge().await.unwrap(), 1);
    assert_eq!(store.purge().await.unwrap(), 0);
    assert_eq!(live(&store, "a/2").await.position, again.position);
    assert!(store.load(&id("a/1")).await.unwrap().is_none());
    live(&store, "a/3").await;
}

fn answer(count: u32) -> Answer {
    Answer {
        cause: Cause {
            reason: Reason::ClientNotAuthorized,
            status: Some(403),
            said: Some("unauthorized_client".to_owned()),
            detail: Some("error_description: refresh_token is invalid".to_owned()),
        },
        sent_at: UNIX_EPOCH + Duration::from_secs(1_700_000_300),
        since: UNIX_EPOCH + Duration::from_secs(1_700_000_200),
        count,
        asked: Some(Duration::from_secs(40)),
        alone: count > 2,
    }
}

#[tokio::test]
async fn what_a_provider_said_is_kept_until_it_gives_a_pair() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let grant = start(store, "a/1").await;
        let id = grant.id.as_str();
        for count in 1..4 {
            let intent = claim(store, &grant, u64::from(count)).await;
            let told = answer(count);
            assert!(store.release(&grant.id, &intent, Some(&told)).await.unwrap());
            assert_eq!(live(store, id).await.answer, Some(told));
        }
        let intent = claim(store, &grant, 9).await;
        assert!(store.release(&grant.id, &intent, None).await.unwrap(), "nothing new");
        assert_eq!(live(store, id).await.answer, Some(answer(3)));
        // A pair that came with no access token says so; one that did ends it.
        let intent = claim(store, &grant, 10).await;
        let next = successor(&grant.id, grant.generation().next(), intent.fence, "1");
        let broken = Grant { answer: Some(answer(1)), ..next };
        store.merge(&broken, None).await.unwrap();
        assert_eq!(live(store, id).await.answer, Some(answer(1)));
        let last = broken.generation().next();
        store.merge(&successor(&grant.id, last, intent.fence, "2"), None).await.unwrap();
        assert_eq!(live(store, id).await.answer, None);
    }
}

#[tokio::test]
async fn troubles_are_changed_on_top_of_what_others_know() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let (nothing, first) = store.trouble("kroger/refresh_token", 5_000).await.unwrap();
        assert_eq!(nothing, Evidence::default());
        let cause = answer(1).cause;
        let hold = Hold {
            reading: Reading::Client,
            cause,
            since: 1_000,
            grants: vec![id("a/1")],
            probes: 2,
            next_probe: 9_000,
        };
        let evidence = Evidence {
            pieces: vec![Piece {
                grant: id("a/1"),
                reading: Reading::Client,
                sent: 500,
                tried: true,
            }],
            succeeded: Some(100),
            hold: Some(hold),
            ended: Some(50),
            refused: vec![(id("a/2"), 700)],
        };
        let put = async |version, now| {
            store.put_trouble("kroger/refresh_token", version, &evidence, now).await.unwrap()
        };
        assert!(put(first, 5_000).await);
        assert!(!put(first, 5_000).await, "somebody was quicker");
        // Another process reads it by a clock of its own.
        let (read, second) = store.trouble("kroger/refresh_token", 105_000).await.unwrap();
        let ahead = read.hold.as_ref().unwrap().next_probe - 9_000;
        assert!((99_000..=100_000).contains(&ahead), "{ahead}");
        assert_eq!(read.shifted(-ahead), evidence);
        assert!(second != first && put(second, 105_000).await);
        let (other, _) = store.trouble("kroger/client_credentials", 0).await.unwrap();
        assert_eq!(other, Evidence::default());
    }
}

#[tokio::test]
async fn what_a_client_was_when_it_last_succeeded_is_kept() {
    for subject in subjects().await {
        let store = subject.store.as_ref();
        let (client, other) = ("kroger/refresh_token", "kroger/client_credentials");
        let was = async |client, when| store.client_was(client, when).await.unwrap();
        for when in [When::Proven, When::Begun] {
            assert_eq!(was(client, when).await, None);
            for is in [1, 2, 2].map(|byte| ClientFingerprint([byte; 32])) {
                store.client_is(client, when, is).await.unwrap();
                assert_eq!(was(client, when).await, Some(is));
            }
            assert_eq!(was(other, when).await, None);
        }
    }
}

/// Each counts once, however often it is begun, and everything that may be full says so.
#[tokio::test]
async fn enrolments_are_counted_by_caller_by_grant_and_in_all() {
    let limits = EnrolmentLimits { per_caller: 2, per_grant: 3, in_all: 5 };
    for subject in subjects().await {
        let begins = async |grant: &str, request: Option<&str>, caller: Option<&str>| {
            let entered = subject.store.enter(&enrolment(grant), request, caller, limits).await;
            entered.unwrap().map(|crowded| {
                assert!(crowded.retry_after > ENROLMENT_KEPT / 2);
                crowded.by
            })
        };
        for _ in 0..3 {
            assert_eq!(begins("a/1", Some("same"), Some("ana")).await, None);
        }
        assert_eq!(begins("a/1", None, Some("ana")).await, None);
        assert_eq!(begins("a/2", None, Some("ana")).await, Some(Crowd::Caller));
        assert_eq!(begins("a/1", None, Some("bob")).await, None);
        assert_eq!(begins("a/1", None, Some("bob")).await, Some(Crowd::Grant));
        assert_eq!(begins("a/2", None, Some("bob")).await, None, "what was refused is not counted");
        assert_eq!(begins("a/2", None, None).await, None);
        assert_eq!(begins("a/2", None, None).await, Some(Crowd::All));
        assert_eq!(begins("a/1", Some("same"), Some("ana")).await, None, "it is one of them");
        let any = EnrolmentLimits { per_caller: 0, in_all: 100, ..limits };
        let entered = subject.store.enter(&enrolment("a/3"), None, Some("ana"), any).await;
        assert_eq!(entered.unwrap(), None);
    }
}

fn enrolment(grant: &str) -> Enrolment {
    Enrolment {
        id: EnrolmentId::random(),
        state: EnrolmentState::random(),
        verifier: None,
        nonce: None,
        grant: id(grant),
        provider: ProviderId::new("default"),
        scopes: Vec::new(),
        labels: BTreeMap::new(),
        redirect_uri: "http://localhost:1".to_owned(),
        other_account: false,
        page: None,
        expires_at: Clock::system().now() + Duration::from_secs(600),
    }
}
