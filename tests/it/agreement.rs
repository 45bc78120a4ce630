//! The rules of change are said twice, in Rust for redb and in Lua for Redis. Random steps must end
//! alike on both; where they do not, the shortest such steps are shown.
//!
//! Every grant begins far above the clock, so that each number a store gives out depends on the
//! steps alone. `make agree` looks for longer.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner, contextualize_config};
use tempfile::TempDir;
use token_broker::broker::model::{
    Doubt, DoubtKind, Fence, Generation, Grant, GrantId, Intent, Owner, Position,
};
use token_broker::broker::store::{Amendment, Claim, Said, Store, Stored};
use token_broker::clock::Clock;
use token_broker::store::{Keyring, Vault};

use crate::store_contract::{open_redis, seed, successor, verdict};
use crate::support::redis::RedisServer;

/// Above the Unix time for longer than this program will run.
const GENERATION: u64 = 1_000_000_000_000;
/// Above the Unix time in milliseconds, and well below 2^53, up to where Lua counts exactly.
const FENCE: u64 = 5_000_000_000_000_000;
/// Steps on one grant: enough for a life of claims, doubts, verdicts and a second chain.
const STEPS: std::ops::Range<usize> = 1..24;
/// Random lives that are tried unless told otherwise.
const CASES: u32 = 48;
/// Longer than the test takes.
const HOUR: Duration = Duration::from_secs(3600);

/// Which of the claims that were granted so far, counted from the newest.
type Back = usize;

#[derive(Debug, Clone)]
enum Step {
    Start { seen: bool },
    Merge { generation: i64, fence: i64, described: i64 },
    Claim { ahead: bool, takeover: Option<bool> },
    TakeOver { back: Back },
    Doubt { back: Back, due: Option<bool> },
    Release { back: Back },
    Refuse { back: Back },
    Promote { back: Back },
    Amend { seen: bool, lift: bool, disabled: Option<bool>, in_doubt: bool, due: bool },
    Delete { seen: bool },
    Schedule { ahead: bool, due: bool },
    TakeDue,
}

fn step() -> impl Strategy<Value = Step> {
    let seen = || prop::bool::weighted(0.9);
    let ahead = || prop::bool::weighted(0.1);
    let back = || prop_oneof![4 => Just(0_usize), 1 => Just(1)];
    prop_oneof![
        1 => seen().prop_map(|seen| Step::Start { seen }),
        4 => (-1_i64..3, -3_i64..4, -1_i64..3).prop_map(|(generation, fence, described)| {
            Step::Merge { generation, fence, described }
        }),
        4 => (ahead(), any::<Option<bool>>())
            .prop_map(|(ahead, takeover)| Step::Claim { ahead, takeover }),
        3 => back().prop_map(|back| Step::TakeOver { back }),
        3 => (back(), any::<Option<bool>>()).prop_map(|(back, due)| Step::Doubt { back, due }),
        2 => back().prop_map(|back| Step::Release { back }),
        1 => back().prop_map(|back| Step::Refuse { back }),
        1 => back().prop_map(|back| Step::Promote { back }),
        2 => (seen(), any::<bool>(), any::<Option<bool>>(), any::<bool>(), any::<bool>()).prop_map(
            |(seen, lift, disabled, in_doubt, due)| {
                Step::Amend { seen, lift, disabled, in_doubt, due }
            }
        ),
        1 => seen().prop_map(|seen| Step::Delete { seen }),
        2 => (ahead(), any::<bool>()).prop_map(|(ahead, due)| Step::Schedule { ahead, due }),
        1 => Just(Step::TakeDue),
    ]
}

/// One grant in one store, and what its life has shown so far.
struct Life<'a> {
    store: &'a dyn Store,
    id: GrantId,
    claims: Vec<Intent>,
    merged: Vec<Grant>,
}

impl<'a> Life<'a> {
    async fn begin(store: &'a dyn Store, id: GrantId) -> Self {
        let first = successor(&id, Generation(GENERATION), Fence(FENCE), "0");
        store.merge(&first, None).await.unwrap();
        Self { store, id, claims: Vec::new(), merged: Vec::new() }
    }

    async fn position(&self) -> Position {
        self.store.load(&self.id).await.unwrap().unwrap().position()
    }

    fn claimed(&self, back: Back) -> Option<&Intent> {
        self.claims.iter().rev().nth(back)
    }

    /// Takes a step and says what came of it, as far as stores must agree.
    async fn take(&mut self, step: &Step) -> String {
        let at = self.position().await;
        let stale = Position { fence: Fence(at.fence.0 - 1), ..at };
        let expected = |seen: &bool| if *seen { at } else { stale };
        let generation = |ahead: &bool| if *ahead { at.generation.next() } else { at.generation };
        let (store, id) = (self.store, self.id.clone());
        match step {
            Step::Start { seen } => {
                let seed = seed(&format!("chain-{}", at.fence.0));
                let started = store.start_chain(&id, Some(expected(seen)), seed).await.unwrap();
                seen_of(&started.map(timeless))
            }
            Step::Merge { generation, fence, described } => {
                let name = format!("{generation}{fence}-{}", at.fence.0);
                let generation = Generation(at.generation.0.saturating_add_signed(*generation));
                let fence = Fence(at.fence.0.saturating_add_signed(*fence));
                let mut grant = successor(&id, generation, fence, &name);
                grant.described = Fence(at.fence.0.saturating_add_signed(*described));
                grant.descriptor.labels.insert("said".to_owned(), name);
                let due_at = fence.0.is_multiple_of(2).then_some(UNIX_EPOCH);
                let merged = store.merge(&grant, due_at).await.unwrap();
                self.merged.push(grant);
                seen_of(&merged)
            }
            Step::Claim { ahead, takeover } => {
                let lease = takeover.map(|at_once| if at_once { Duration::ZERO } else { HOUR });
                let claim = store.claim(&id, generation(ahead), owner(self), lease, HOUR);
                let claim = claim.await.unwrap();
                self.claimed_now(claim)
            }
            Step::TakeOver { back } => {
                let Some(held) = self.claimed(*back) else { return String::new() };
                let claim = store.take_over(&id, held, owner(self), HOUR).await.unwrap();
                self.claimed_now(claim)
            }
            Step::Doubt { back, due } => {
                let Some(held) = self.claimed(*back) else { return String::new() };
                let due_at =
                    due.map(|now| if now { UNIX_EPOCH } else { UNIX_EPOCH + 500_000 * HOUR });
                let doubted = store.doubt(&id, held, &doubt(held.fence), due_at).await;
                seen_of(&doubted.unwrap())
            }
            Step::Release { back } => {
                let Some(held) = self.claimed(*back) else { return String::new() };
                seen_of(&store.release(&id, held, None).await.unwrap())
            }
            Step::Refuse { back } => {
                let Some(held) = self.claimed(*back) else { return String::new() };
                seen_of(&store.refuse(&id, held, &verdict()).await.unwrap())
            }
            Step::Promote { back } => {
                let Some(held) = self.claimed(*back) else { return String::new() };
                seen_of(&store.promote(&id, held).await.unwrap().map(timeless))
            }
            Step::Amend { seen, lift, disabled, in_doubt, due } => {
                let in_doubt = in_doubt.then(|| (owner(self), doubt(at.fence)));
                let due_at = due.then_some(UNIX_EPOCH);
                let said = Said { disabled: *disabled, ..Said::default() };
                let amendment =
                    Amendment { lift: *lift, said, in_doubt, due_at, ..Amendment::default() };
                let amended = store.amend(&id, expected(seen), amendment).await.unwrap();
                let amended = amended.map(timeless);
                self.claims.extend(amended.as_ref().and_then(|grant| grant.intent.clone()));
                seen_of(&amended)
            }
            Step::Delete { seen } => seen_of(&store.delete(&id, expected(seen)).await.unwrap()),
            Step::Schedule { ahead, due } => {
                let due_at = if *due { UNIX_EPOCH } else { UNIX_EPOCH + 500_000 * HOUR };
                store.schedule(&id, generation(ahead), due_at).await.unwrap();
                String::new()
            }
            Step::TakeDue => seen_of(&self.due().await),
        }
    }

    fn claimed_now(&mut self, claim: Claim) -> String {
        match claim {
            Claim::Granted(intent) => {
                let intent = Intent { since: UNIX_EPOCH, ..intent };
                self.claims.push(intent.clone());
                seen_of(&Claim::Granted(intent))
            }
            Claim::Busy(intent) => seen_of(&Claim::Busy(Intent { since: UNIX_EPOCH, ..intent })),
            Claim::Moved => seen_of(&Claim::Moved),
        }
    }

    /// Whether it is due; other lives are none of its business.
    async fn due(&self) -> bool {
        self.store.take_due(100_000, HOUR).await.unwrap().contains(&self.id)
    }

    /// What the store has now.
    async fn stored(&self) -> String {
        seen_of(&match self.store.load(&self.id).await.unwrap().unwrap() {
            Stored::Grant(grant) => Stored::Grant(timeless(grant)),
            Stored::Deleted(position) => Stored::Deleted(position),
        })
    }

    /// What can be seen of it only by asking: the indexes, and the pairs kept beside the current.
    async fn end(&self) -> String {
        let mut all = vec![seen_of(&self.due().await)];
        let listed = self.store.list(None, 100_000).await.unwrap().grants;
        let listed = listed.into_iter().filter(|grant| grant.id == self.id).map(timeless);
        all.push(seen_of(&listed.collect::<Vec<_>>()));
        let generation = self.position().await.generation;
        for grant in &self.merged {
            // As it was, and as if its fence had been given out for the current generation.
            let fence = grant.position.fence;
            let beside = Grant { position: Position { generation, fence }, ..grant.clone() };
            for pair in [grant, &beside] {
                all.push(seen_of(&self.store.merge(pair, None).await.unwrap()));
            }
        }
        all.push(self.stored().await);
        all.join("\n")
    }
}

fn seen_of<T: Debug>(value: &T) -> String {
    // Secrets print as nothing; the grants carry their name in a label, too.
    format!("{value:?}")
}

/// Stores read their own clocks.
fn timeless(mut grant: Grant) -> Grant {
    if let Some(intent) = &mut grant.intent {
        intent.since = UNIX_EPOCH;
    }
    grant.pair.published_at = UNIX_EPOCH;
    if let Some(token) = &grant.pair.token {
        let secret = grant.pair.refresh_token.as_ref().map_or("", |token| token.expose());
        let (access, secret) = (token.access_token.fingerprint(), secret.to_owned());
        grant.descriptor.labels.insert("pair".to_owned(), format!("{access} {secret}"));
    }
    grant
}

fn owner(life: &Life<'_>) -> Owner {
    let attempt = u64::try_from(life.claims.len()).unwrap();
    Owner::Process { replica: "broker-0".to_owned(), boot: 7, attempt }
}

fn doubt(fence: Fence) -> Doubt {
    let (kind, status, attempts) = (DoubtKind::Ended, None, 1);
    Doubt { kind, status, since: UNIX_EPOCH, sent_at: UNIX_EPOCH, attempts, fence }
}

/// What must live as long as the stores.
struct Stores {
    memory: Vault,
    file: Vault,
    redis: Vault,
    _dir: TempDir,
    _server: RedisServer,
}

impl Stores {
    async fn open() -> Self {
        let ring = Arc::new(Keyring::generate());
        let dir = tempfile::tempdir().unwrap();
        let server = RedisServer::start(&[]);
        let path = dir.path().join("store");
        Self {
            memory: Vault::in_memory(Arc::clone(&ring), Clock::system()).unwrap(),
            file: Vault::in_file(&path, false, Arc::clone(&ring), Clock::system()).await.unwrap(),
            redis: open_redis(&server, ring).await,
            _dir: dir,
            _server: server,
        }
    }

    async fn agree(&self, id: &GrantId, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut memory = Life::begin(&self.memory, id.clone()).await;
        let mut others =
            [Life::begin(&self.file, id.clone()).await, Life::begin(&self.redis, id.clone()).await];
        for (number, step) in steps.iter().enumerate() {
            let answer = memory.take(step).await;
            let stored = memory.stored().await;
            for (other, name) in others.iter_mut().zip(["redb", "Redis"]) {
                let place = format!("step {number} on {name}: {step:?}");
                prop_assert_eq!(&other.take(step).await, &answer, "answer to {}", &place);
                prop_assert_eq!(&other.stored().await, &stored, "state after {}", &place);
            }
        }
        let end = memory.end().await;
        for (other, name) in others.iter().zip(["redb", "Redis"]) {
            prop_assert_eq!(&other.end().await, &end, "indexes and siblings on {}", name);
        }
        Ok(())
    }
}

#[test]
fn stores_agree_on_every_step() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stores = runtime.block_on(Stores::open());
    let lives = AtomicU32::new(0);
    let config = Config { failure_persistence: None, ..Config::with_cases(CASES) };
    let mut runner = TestRunner::new(contextualize_config(config));
    let outcome = runner.run(&prop::collection::vec(step(), STEPS), |steps| {
        let life = lives.fetch_add(1, Ordering::Relaxed);
        let id = GrantId::parse(&format!("life/{life}")).unwrap();
        runtime.block_on(stores.agree(&id, &steps))
    });
    if let Err(difference) = outcome {
        panic!("{difference}");
    }
}
