//! Three brokers, one Redis, one provider, and one fault, tried again and again.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tempfile::TempDir;
use token_broker::client::{CallError, Client};
use token_broker::proto::force_refresh_request::Rejected;
use token_broker::proto::{ForceRefreshRequest, GetTokenRequest, RotateGrantRequest};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::callers::{Addresses, Callers};
use super::servers::Servers;
use super::{Fault, Outcome};
use crate::crash::trial::{State, Waits, states};
use crate::herd::settings;
use crate::support::authority::Authority;
use crate::support::process::{Program, run};

const BROKERS: usize = 3;
/// Grants, all kept warm. A broker that is killed or stopped has one: others would be hit at moments that
/// nobody chose.
const GRANTS: usize = 3;
/// Callers of the herd.
const HERD: usize = 200;
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// An outage, longer than half the life of a token: everything is due in it.
const OUTAGE: Duration = Duration::from_secs(3);
/// Longer than a holder listens and others wait before they suspect it.
const PAUSE: Duration = Duration::from_secs(4);
/// What takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the provider takes where somebody is to be stopped meanwhile.
const SLOW: Duration = Duration::from_millis(400);

pub(super) struct Trio {
    fault: Fault,
    dir: TempDir,
    runtime: Runtime,
    authority: Authority,
    base: String,
    redis: Servers,
    url: String,
    brokers: Vec<Program>,
    addresses: Addresses,
    grants: usize,
}

impl Trio {
    pub(super) fn start(fault: Fault) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
        assert!(made.status.success());
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let authority = Authority::new().lifetime(Waits::Scaled.token_life());
        let base = runtime.block_on(authority.serve());
        let redis = Servers::start(fault.is_of_sentinel());
        let url = redis.url();
        let addresses = Arc::new(Mutex::new(Vec::new()));
        let grants = if fault.hits_one() { 1 } else { GRANTS };
        let mut trio = Self {
            fault,
            dir,
            runtime,
            authority,
            base,
            redis,
            url,
            brokers: Vec::new(),
            addresses,
            grants,
        };
        for n in 0..BROKERS {
            let broker = trio.serve(n, &[]);
            trio.addresses.lock().push(format!("http://{}", broker.api));
            trio.brokers.push(broker);
        }
        for n in 0..trio.grants {
            trio.import(n);
        }
        trio.live();
        trio
    }

    /// Tries the fault so often, under callers, and judges each time.
    pub(super) fn run(mut self, runs: usize, outcome: &mut Outcome) {
        let grants: Vec<_> = (0..self.grants).map(grant).collect();
        let callers = Callers::start(&self.runtime, &self.addresses, &grants);
        for _ in 0..runs {
            self.suffer();
            let begin = Instant::now();
            outcome.lost += self.live();
            outcome.worst_repair = outcome.worst_repair.max(begin.elapsed());
            (outcome.rotations, outcome.requests) =
                (self.authority.rotations(), self.authority.posts());
            outcome.runs += 1;
        }
        outcome.worst_wait = callers.stop(&self.runtime);
        for program in std::mem::take(&mut self.brokers) {
            let (code, log) = program.stop();
            assert_eq!(code, Some(0), "{:?}: {log}", self.fault);
        }
        self.nothing_is_left_over();
        if self.fault.permits().is_none() {
            assert_eq!(outcome.lost, 0, "{:?} costs nothing", self.fault);
            self.authority.audit();
        }
    }

    fn suffer(&mut self) {
        match self.fault {
            Fault::Herd => self.herd(),
            Fault::KillAt(moment) => {
                self.restart(0, "TERM", &[("TOKEN_BROKER_STOP_AT", moment)]);
                // Others may be quicker, time after time: this one is asked until it is its turn.
                let address = self.addresses.lock()[0].clone();
                let (runtime, wanted) = (&self.runtime, grant(0));
                self.brokers[0].wait_for_while("stopped for a test", || {
                    runtime.block_on(rotate(&address, &wanted));
                });
                self.restart(0, "KILL", &[]);
            }
            Fault::KillInRequest { .. } => {
                self.authority.next(self.fault.lost_answer());
                let holder = self.holder_of_next_request();
                self.restart(holder, "KILL", &[]);
            }
            Fault::Pause => {
                self.authority.delay(SLOW);
                let holder = self.holder_of_next_request();
                self.brokers[holder].signal("STOP");
                self.authority.delay(Duration::ZERO);
                sleep(PAUSE);
                self.brokers[holder].signal("CONT");
            }
            Fault::AnswerLost => {
                self.authority.next(self.fault.lost_answer());
                self.holder_of_next_request();
            }
            Fault::RedisHangs => {
                self.redis.signal("STOP");
                sleep(OUTAGE);
                self.redis.signal("CONT");
            }
            Fault::RedisRestarts => self.redis.restart(),
            Fault::RedisFull => {
                self.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
                sleep(OUTAGE);
                self.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::RedisEmptied => drop(self.redis.cli(&["FLUSHALL"])),
            Fault::RedisGoesBack => self.go_back(),
            Fault::RecordDeleted => {
                self.authority.delay(SLOW);
                self.holder_of_next_request();
                for key in self.redis.cli(&["KEYS", "tb:*:g:*"]).lines() {
                    self.redis.cli(&["DEL", key]);
                }
                self.authority.delay(Duration::ZERO);
            }
            Fault::Failover => self.redis.fail_over(),
            Fault::PrimaryKilled => self.redis.lose_primary(),
            Fault::EventsCut => {
                let begin = Instant::now();
                while begin.elapsed() < OUTAGE {
                    self.redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
                    sleep(LOOK);
                }
            }
            Fault::Rollout => {
                for n in 0..BROKERS {
                    self.restart(n, "TERM", &[]);
                }
            }
        }
    }

    /// Everything is put back as it was some rotations ago.
    fn go_back(&self) {
        for key in self.redis.cli(&["KEYS", "tb:*"]).lines() {
            self.redis.cli(&["COPY", key, key, "DB", "1", "REPLACE"]);
        }
        let before = self.authority.rotations();
        let begin = Instant::now();
        while self.authority.rotations() < before + self.grants {
            assert!(begin.elapsed() < PATIENCE, "no refresh came");
            sleep(LOOK);
        }
        self.redis.cli(&["SWAPDB", "0", "1"]);
        self.redis.cli(&["-n", "1", "FLUSHDB"]);
    }

    /// One request, however many want it; beside those that are due meanwhile.
    fn herd(&self) {
        self.authority.delay(SLOW);
        let addresses = self.addresses.lock().clone();
        let (posts, begin) = (self.authority.posts(), Instant::now());
        let rejected = self.runtime.block_on(current(&addresses[0], &grant(0))).unwrap();
        let wanted = grant(0);
        let callers =
            (0..HERD).map(|n| replaced(&addresses[n % addresses.len()], &wanted, rejected));
        let answers = self.runtime.block_on(join_all(callers));
        self.authority.delay(Duration::ZERO);
        assert!(answers.iter().all(|answer| *answer > rejected), "{answers:?}, not {rejected}");
        // Each grant is due once in half of a token's life.
        let half = Waits::Scaled.token_life().as_millis() / 2;
        let due = self.grants * usize::try_from(begin.elapsed().as_millis() / half + 1).unwrap();
        let sent = self.authority.posts() - posts;
        assert!(sent <= 1 + due, "{sent} requests, and {due} were due");
    }

    /// Which broker has the claim under which the next request arrives.
    fn holder_of_next_request(&self) -> usize {
        let posts = self.authority.posts();
        let begin = Instant::now();
        while self.authority.posts() == posts {
            assert!(begin.elapsed() < PATIENCE, "no refresh came");
            sleep(Duration::from_millis(2));
        }
        let owners = self.intents();
        let named = |n: &usize| owners.iter().any(|owner| owner.contains(&self.name(*n)));
        (0..BROKERS).find(named).unwrap_or(0)
    }

    /// Owners of the claims in Redis.
    fn intents(&self) -> Vec<String> {
        let keys = self.redis.cli(&["KEYS", "tb:*:g:*"]);
        let owners = keys.lines().map(|key| self.redis.cli(&["HGET", key, "io"]));
        // What is held because a claim may be lost is held by nobody.
        owners.filter(|owner| !owner.is_empty() && !owner.contains("remade")).collect()
    }

    /// The name of a broker is the first line of its journal.
    fn name(&self, n: usize) -> String {
        let journal = std::fs::read_to_string(self.journal(n)).unwrap();
        journal.lines().next().unwrap().to_owned()
    }

    fn journal(&self, n: usize) -> PathBuf {
        self.dir.path().join(format!("journal-{n}"))
    }

    fn restart(&mut self, n: usize, signal: &str, more: &[(&str, &str)]) {
        self.brokers[n].signal(signal);
        self.brokers[n].end();
        let broker = self.serve(n, more);
        self.addresses.lock()[n] = format!("http://{}", broker.api);
        self.brokers[n] = broker;
    }

    fn serve(&self, n: usize, more: &[(&str, &str)]) -> Program {
        let mut environment = settings(&self.base, &self.url);
        environment.extend(Waits::Scaled.settings());
        let journal = self.journal(n).display().to_string();
        environment.push(("TOKEN_BROKER__KEYS__FILE", "keys.json"));
        environment.push(("TOKEN_BROKER__STORE__JOURNAL", &journal));
        environment.extend_from_slice(more);
        Program::start(self.dir.path(), &["serve"], &environment)
    }

    fn import(&self, n: usize) {
        let file = self.dir.path().join(format!("token-{n}"));
        std::fs::write(&file, self.authority.consent(&format!("person-{n}"))).unwrap();
        let (grant, file) = (grant(n), file.display().to_string());
        let mut arguments = vec!["grant", "import", &grant, "--provider", "default"];
        arguments.extend(["--refresh-token-file", &file, "--keep-warm", "--replace"]);
        let (ok, _, errors) = self.brokers[BROKERS - 1].cli(&arguments);
        assert!(ok, "{errors}");
    }

    /// Waits until every grant lives at every broker, lets people consent again where a chain was
    /// lost, and says how many were.
    fn live(&self) -> usize {
        let begin = Instant::now();
        let mut lost = 0;
        'broker: for n in 0..BROKERS {
            loop {
                let address = self.addresses.lock()[n].clone();
                let states = self.runtime.block_on(async {
                    let mut client = Client::connect(&address).await.ok()?;
                    Some(states(&mut client).await)
                });
                let states = states.unwrap_or_default();
                for (n, state) in states.iter().enumerate() {
                    if *state == State::Lost {
                        lost += 1;
                        self.import(n);
                    }
                }
                if states.len() == self.grants && states.iter().all(|state| *state == State::Lives)
                {
                    continue 'broker;
                }
                assert!(begin.elapsed() < PATIENCE, "{:?}: stuck: {states:?}", self.fault);
                sleep(LOOK);
            }
        }
        lost
    }

    /// Whoever stopped cleanly has settled what it began.
    fn nothing_is_left_over(&self) {
        assert_eq!(self.intents(), Vec::<String>::new(), "{:?}: no claim is left", self.fault);
    }
}

fn grant(n: usize) -> String {
    format!("kroger/person-{n}")
}

/// The generation of the token that is served.
async fn current(address: &str, grant: &str) -> Option<i64> {
    let mut client = Client::connect(address).await.ok()?;
    let request = GetTokenRequest { grant_id: grant.to_owned(), ..GetTokenRequest::default() };
    Some(client.tokens.get_token(request).await.ok()?.into_inner().token?.generation)
}

/// The generation that takes the place of one that an API rejected. Who is told to wait does so: the
/// token may be new, because it was due just before.
async fn replaced(address: &str, grant: &str, rejected: i64) -> i64 {
    let mut client = Client::connect(address).await.unwrap();
    let begin = Instant::now();
    loop {
        let request = ForceRefreshRequest {
            grant_id: grant.to_owned(),
            rejected: Some(Rejected::RejectedGeneration(rejected)),
        };
        let error = match client.tokens.force_refresh(request).await {
            Ok(response) => return response.into_inner().token.unwrap().generation,
            Err(status) => CallError::from(status),
        };
        let wait = error.retry_after.filter(|_| begin.elapsed() < PATIENCE);
        tokio::time::sleep(wait.unwrap_or_else(|| panic!("{error:?}"))).await;
    }
}

/// An operator has it refreshed, and waits no longer than a moment for that.
async fn rotate(address: &str, grant: &str) {
    let call = async {
        let expected_generation = current(address, grant).await?;
        let mut client = Client::connect(address).await.ok()?;
        let grant_id = grant.to_owned();
        client.admin.rotate_grant(RotateGrantRequest { grant_id, expected_generation }).await.ok()
    };
    let _ = tokio::time::timeout(Duration::from_millis(200), call).await;
}
