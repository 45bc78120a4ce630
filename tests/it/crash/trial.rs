//! One fault, tried again and again on one store with the same grants.

use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use token_broker::client::Client;
use token_broker::proto::{GrantState, ListGrantsRequest};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::{Fault, Outcome, Store};
use crate::herd::settings;
use crate::support::authority::{self, Authority, Way};
use crate::support::process::{Program, run};
use crate::support::redis::RedisServer;

/// Grants of an outage, all kept warm. A kill has one: others would be hit at moments that nobody
/// chose.
const GRANTS: usize = 3;
/// How often the grants are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// Milliseconds instead of seconds.
    Scaled,
    /// As the program is delivered.
    Default,
}

impl Waits {
    pub(crate) fn token_life(self) -> Duration {
        match self {
            Self::Scaled => Duration::from_secs(4),
            Self::Default => Duration::from_secs(120),
        }
    }

    /// An outage lasts this long, which is longer than the access token lives, or long enough for
    /// every grant to be due in it.
    fn outage(self) -> Duration {
        match self {
            Self::Scaled => Duration::from_secs(6),
            Self::Default => Duration::from_secs(130),
        }
    }

    /// Longest wait until all grants live again; what takes longer is stuck.
    fn patience(self) -> Duration {
        match self {
            Self::Scaled => Duration::from_secs(30),
            Self::Default => Duration::from_secs(200),
        }
    }

    pub(crate) fn settings(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Default => Vec::new(),
            Self::Scaled => vec![
                ("TOKEN_BROKER__PROVIDERS__DEFAULT__CONNECT_TIMEOUT", "200ms"),
                ("TOKEN_BROKER__PROVIDERS__DEFAULT__LISTEN_MAX", "1500ms"),
                ("TOKEN_BROKER__TIMING__SETTLE_MARGIN", "200ms"),
                ("TOKEN_BROKER__TIMING__SUSPECT_MARGIN", "200ms"),
                ("TOKEN_BROKER__TIMING__SEND_GATE", "500ms"),
                ("TOKEN_BROKER__TIMING__RETRY_BACKOFF", "100ms"),
                ("TOKEN_BROKER__TIMING__RETRY_BACKOFF_MAX", "500ms"),
                ("TOKEN_BROKER__TIMING__CANARY_BACKOFF_MAX", "300ms"),
                ("TOKEN_BROKER__TIMING__PUBLISH_BACKOFF_MAX", "300ms"),
                ("TOKEN_BROKER__TIMING__DUE_TICK", "100ms"),
                ("TOKEN_BROKER__TIMING__DUE_VISIBILITY", "300ms"),
                ("TOKEN_BROKER__STORE__TIMEOUT", "300ms"),
            ],
        }
    }
}

pub(super) struct Trial {
    fault: Fault,
    waits: Waits,
    dir: TempDir,
    runtime: Runtime,
    authority: Authority,
    base: String,
    grants: usize,
    redis: Option<RedisServer>,
}

impl Trial {
    pub(super) fn start(store: Store, fault: Fault, waits: Waits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = run(dir.path(), &["keys", "generate", "--file", "keys.json"], &[]);
        assert!(made.status.success());
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let authority = Authority::new().lifetime(waits.token_life());
        let base = runtime.block_on(authority.serve());
        let redis = (store == Store::Redis).then(|| RedisServer::start(&[]));
        let grants = if fault.kills() { 1 } else { GRANTS };
        Self { fault, waits, dir, runtime, authority, base, grants, redis }
    }

    /// Tries the fault so often, with the same grants, and judges each time.
    pub(super) fn run(self, runs: usize, outcome: &mut Outcome) {
        let mut program = self.serve(None);
        for n in 0..self.grants {
            self.import(&program, n);
        }
        self.live(&program);
        for _ in 0..runs {
            program = self.suffer(program);
            let begin = Instant::now();
            outcome.lost += self.live(&program);
            outcome.worst = outcome.worst.max(begin.elapsed());
            (outcome.rotations, outcome.requests) =
                (self.authority.rotations(), self.authority.posts());
            outcome.runs += 1;
        }
        let (code, log) = program.stop();
        assert_eq!(code, Some(0), "{:?}: {log}", self.fault);
        if self.fault.permits().is_none() {
            assert_eq!(outcome.lost, 0, "{:?} costs nothing: {log}", self.fault);
            self.authority.audit();
        }
    }

    /// Lets the fault happen, and leaves a program in front of a world that is well again.
    fn suffer(&self, program: Program) -> Program {
        let outage = |fault: authority::Fault| {
            self.authority.outage(Some(fault));
            sleep(self.waits.outage());
            self.authority.outage(None);
        };
        match self.fault {
            Fault::KillAt(moment) => {
                program.stop();
                let mut program = self.serve(Some(moment));
                program.wait_for("stopped for a test");
                self.kill(program)
            }
            Fault::KillBeforeCommit => {
                self.kill_in_request(program, authority::Fault::Before(Way::Hang))
            }
            Fault::KillAfterCommit => {
                self.kill_in_request(program, authority::Fault::After(Way::Hang))
            }
            Fault::OutageBefore(way) => {
                outage(authority::Fault::Before(way));
                program
            }
            Fault::OutageAfter(way) => {
                outage(authority::Fault::After(way));
                program
            }
            Fault::StoreFull => self.store_fault(
                program,
                |program, _| program.limit_files("1024"),
                &["CONFIG", "SET", "maxmemory", "1"],
                |program, _| program.limit_files("unlimited"),
                &["CONFIG", "SET", "maxmemory", "0"],
            ),
            Fault::StoreReadOnly => self.store_fault(
                program,
                |_, _| {},
                &["REPLICAOF", "127.0.0.1", "1"],
                |_, _| {},
                &["REPLICAOF", "NO", "ONE"],
            ),
            Fault::StoreAway => self.store_fault(
                program,
                |_, redis| redis.unwrap().signal("STOP"),
                &[],
                |_, redis| redis.unwrap().signal("CONT"),
                &[],
            ),
        }
    }

    fn store_fault(
        &self,
        program: Program,
        begin: impl FnOnce(&Program, Option<&RedisServer>),
        on_redis: &[&str],
        end: impl FnOnce(&Program, Option<&RedisServer>),
        off_redis: &[&str],
    ) -> Program {
        let redis = self.redis.as_ref();
        match redis.filter(|_| !on_redis.is_empty()) {
            Some(redis) => drop(redis.cli(on_redis)),
            None => begin(&program, redis),
        }
        sleep(self.waits.outage());
        match redis.filter(|_| !off_redis.is_empty()) {
            Some(redis) => drop(redis.cli(off_redis)),
            None => end(&program, redis),
        }
        program
    }

    /// Kills the program when a request of it has arrived at the provider.
    fn kill_in_request(&self, program: Program, fault: authority::Fault) -> Program {
        let posts = self.authority.posts();
        self.authority.next(fault);
        let begin = Instant::now();
        while self.authority.posts() == posts {
            assert!(begin.elapsed() < self.waits.patience(), "no refresh came");
            sleep(Duration::from_millis(2));
        }
        // The provider has taken it up by now.
        sleep(Duration::from_millis(50));
        self.kill(program)
    }

    fn kill(&self, mut program: Program) -> Program {
        program.signal("KILL");
        program.end();
        self.serve(None)
    }

    fn serve(&self, stop_at: Option<&str>) -> Program {
        let url = self.redis.as_ref().map(RedisServer::url);
        let mut environment = settings(&self.base, url.as_deref().unwrap_or("redb:store.redb"));
        if self.waits == Waits::Default {
            environment.retain(|(name, _)| !name.contains("TIMING"));
        }
        environment.extend(self.waits.settings());
        environment.push(("TOKEN_BROKER__KEYS__FILE", "keys.json"));
        environment.extend(stop_at.map(|moment| ("TOKEN_BROKER_STOP_AT", moment)));
        Program::start(self.dir.path(), &["serve"], &environment)
    }

    fn import(&self, program: &Program, n: usize) {
        let token = self.authority.consent(&format!("person-{n}"));
        let file = self.dir.path().join(format!("token-{n}"));
        std::fs::write(&file, token).unwrap();
        let (grant, file) = (format!("kroger/person-{n}"), file.display().to_string());
        let mut arguments = vec!["grant", "import", &grant, "--provider", "default"];
        arguments.extend(["--refresh-token-file", &file, "--keep-warm", "--replace"]);
        let (ok, _, errors) = program.cli(&arguments);
        assert!(ok, "{errors}");
    }

    /// Waits until every grant lives, lets people consent again where a chain was lost, and says
    /// how many were.
    fn live(&self, program: &Program) -> usize {
        let address = format!("http://{}", program.api);
        let mut client = self.runtime.block_on(Client::connect(&address)).unwrap();
        let begin = Instant::now();
        let mut lost = 0;
        loop {
            let states = self.runtime.block_on(states(&mut client));
            for (n, state) in states.iter().enumerate() {
                if *state == State::Lost {
                    lost += 1;
                    self.import(program, n);
                }
            }
            if states.len() == self.grants && states.iter().all(|state| *state == State::Lives) {
                return lost;
            }
            let waited = begin.elapsed();
            assert!(waited < self.waits.patience(), "{:?}: stuck: {states:?}", self.fault);
            sleep(LOOK);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is active, its token is valid, and nothing keeps it from being refreshed.
    Lives,
    /// It does not, so far.
    Waits,
    /// A person has to consent again.
    Lost,
}

/// Looks without asking for a token: the grants are to come back by themselves.
pub(crate) async fn states(client: &mut Client) -> Vec<State> {
    let (mut grants, mut request) = (Vec::new(), ListGrantsRequest::default());
    loop {
        let Ok(listed) = client.admin.list_grants(request.clone()).await else { return Vec::new() };
        let page = listed.into_inner();
        grants.extend(page.grants);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    grants.sort_by(|one, other| one.grant_id.cmp(&other.grant_id));
    let now = now();
    let states = grants.iter().map(|grant| {
        let valid = grant.token_expire_time.is_some_and(|expires| expires.seconds > now);
        match grant.state() {
            GrantState::ReauthRequired => State::Lost,
            GrantState::Active if valid && grant.last_failure.is_none() => State::Lives,
            _ => State::Waits,
        }
    });
    states.collect()
}

/// Seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "the program under test reads the system clock, too")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}
