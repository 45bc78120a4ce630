//! Neighbours: what the trouble of some grants, or of their provider, costs the grants that are well; with
//! the real program, one on redb and two on one Redis.
//!
//! `make test` runs each trouble once for seconds; `make chaos` runs them for a minute, with more grants, and
//! prints the table.

use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;
use token_broker::client::Client;
use token_broker::proto::{GetTokenRequest, ImportGrantRequest};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, timeout};

use crate::crash::trial::{State, Waits, states};
use crate::herd::redis_settings;
use crate::support::authority::{Authority, Fault};
use crate::support::process::Program;
use crate::support::redis::RedisServer;
use crate::support::turned_clock::TurnedClock;
use crate::support::workers::{at_a_time, judge, tried};

/// Trials at the same time: most of their time is waiting.
const WORKERS: usize = 4;
/// Set by `make chaos`.
const OFTEN: &str = "CHAOS_RUNS";
/// Part of the name of the only troubles to try.
const ONLY: &str = "CHAOS_ONLY";
/// Between two calls for a grant that is well; those for dead ones come in between.
const EVERY: Duration = Duration::from_millis(400);
/// A caller gives up after this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tokens live so long: everything is due at least once while a trouble lasts.
const LIFE: Duration = Duration::from_secs(7);
/// Imports under way at a time.
const IMPORTS: usize = 32;
/// Requests with a refused secret, however many grants are due: those that were under way when the second
/// was refused, and the probes.
const REFUSED_MAX: usize = 200;
/// What takes longer to live again is stuck. A hold for refusals of the client is tried
/// the less often the longer it lasts.
const LIVE_AGAIN_MAX: Duration = Duration::from_secs(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Each third grant is refused, with words that sound like trouble of the client.
    Dead(&'static str, Reply),
    /// The provider refuses our client, all that time; tokens end meanwhile.
    WrongSecret,
    /// A firewall in front of the provider refuses each third request.
    Partial,
    /// The wall clock of the first broker is set, and set right at the end.
    Clock(&'static str, i64),
}

/// Status and body of an answer.
type Reply = (u16, &'static str);

impl Trouble {
    fn name(self) -> &'static str {
        match self {
            Self::Dead(name, _) | Self::Clock(name, _) => name,
            Self::WrongSecret => "wrong secret, all due",
            Self::Partial => "1 of 3 requests, html",
        }
    }

    fn dead(self, n: usize) -> bool {
        matches!(self, Self::Dead(..)) && n.is_multiple_of(3)
    }
}

const TROUBLES: [Trouble; 7] = [
    Trouble::WrongSecret,
    Trouble::Dead("1 of 3 dead, 403", (403, r#"{"error":"unauthorized_client"}"#)),
    Trouble::Dead("1 of 3 dead, 401 html", (401, "<html>")),
    Trouble::Dead("1 of 3 dead, 503", (503, "")),
    Trouble::Partial,
    Trouble::Clock("clock 1 h back", -3_600),
    Trouble::Clock("clock 1 h ahead", 3_600),
];

/// How large it is.
#[derive(Debug, Clone, Copy)]
struct Size {
    grants: usize,
    lasts: Duration,
}

/// What it cost the grants that are well.
#[derive(Debug, Default)]
struct Cost {
    calls: usize,
    failed: usize,
    /// What the last call heard that failed.
    said: Option<String>,
    worst: Duration,
    /// Requests that reached the provider while it lasted.
    requests: usize,
    live_again: Duration,
}

struct Street {
    trouble: Trouble,
    size: Size,
    runtime: Runtime,
    authority: Authority,
    programs: Vec<Program>,
    /// Of the first.
    clock: TurnedClock,
    _dir: TempDir,
    _redis: Option<RedisServer>,
}

impl Street {
    fn start(trouble: Trouble, size: Size, on_redis: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        // Everything is due at least once while it lasts.
        let authority = Authority::new().lifetime(LIFE);
        let base = runtime.block_on(authority.serve());
        let redis = on_redis.then(|| RedisServer::start(&[]));
        let url = redis.as_ref().map_or_else(|| "redb:store.redb".to_owned(), RedisServer::url);
        let mut environment = redis_settings(dir.path(), &base, &url);
        environment.extend(Waits::Scaled.settings());
        environment.push(("TOKEN_BROKER__PROVIDERS__DEFAULT__RATE", "1000"));
        environment.push(("TOKEN_BROKER__TIMING__CLIENT_PROBE", "100ms"));
        let journals = ["journal-0", "journal-1"];
        let clock = TurnedClock::new(dir.path());
        let programs = journals[..if on_redis { 2 } else { 1 }].iter().map(|journal| {
            let mut environment = environment.clone();
            if *journal == journals[0] {
                environment.extend(clock.environment());
            }
            environment.extend(on_redis.then_some(("TOKEN_BROKER__STORE__JOURNAL", *journal)));
            Program::start(dir.path(), &["serve"], &environment)
        });
        let programs = programs.collect();
        Self { trouble, size, runtime, authority, programs, clock, _dir: dir, _redis: redis }
    }

    fn run(self) -> Cost {
        let runtime = &self.runtime;
        let clients = self.programs.iter().map(|program| {
            runtime.block_on(Client::connect(&format!("http://{}", program.api))).unwrap()
        });
        let clients: Vec<_> = clients.collect();
        runtime.block_on(self.import(&clients));
        let posts = self.authority.posts();
        self.begin();
        let mut cost = runtime.block_on(self.call(&clients));
        cost.requests = self.authority.posts() - posts;
        self.end();
        let begin = Instant::now();
        runtime.block_on(self.lives(&clients[0]));
        cost.live_again = begin.elapsed();
        for (turn, program) in self.programs.into_iter().enumerate() {
            let (code, log) = program.stop();
            assert_eq!(code, Some(0), "{log}");
            let turned = turn == 0 && matches!(self.trouble, Trouble::Clock(..));
            assert_eq!(log.contains("the clock was set"), turned, "{log}");
        }
        self.authority.audit_families();
        cost
    }

    async fn import(&self, clients: &[Client]) {
        let numbers: Vec<_> = (0..self.size.grants).collect();
        for some in numbers.chunks(IMPORTS) {
            let imports = some.iter().map(|n| {
                let mut client = clients[n % clients.len()].clone();
                let request = ImportGrantRequest {
                    grant_id: grant(*n),
                    provider_id: "default".to_owned(),
                    refresh_token: self.authority.consent(&person(*n)),
                    keep_warm: true,
                    ..ImportGrantRequest::default()
                };
                async move {
                    client.admin.import_grant(request).await.unwrap();
                    client.tokens.get_token(wish(*n)).await.unwrap();
                }
            });
            join_all(imports).await;
        }
    }

    fn begin(&self) {
        match self.trouble {
            Trouble::Dead(_, (status, body)) => {
                for n in (0..self.size.grants).filter(|n| self.trouble.dead(*n)) {
                    self.authority.dead(&person(n), Fault::Answer(status, body));
                }
            }
            Trouble::WrongSecret => {
                let refused = Fault::Answer(401, r#"{"error":"invalid_client"}"#);
                self.authority.outage(Some(refused));
            }
            Trouble::Partial => {
                self.authority.refuses_every(Some((3, Fault::Answer(403, "<html>"))));
            }
            Trouble::Clock(_, seconds) => self.clock.turn(seconds),
        }
    }

    fn end(&self) {
        self.authority.outage(None);
        self.authority.refuses_every(None);
        self.clock.turn(0);
    }

    /// Callers of all grants, at each broker in turn.
    async fn call(&self, clients: &[Client]) -> Cost {
        let end = Instant::now() + self.size.lasts;
        let mut cost = Cost::default();
        let mut turn = 0;
        while Instant::now() < end {
            let asked = (0..self.size.grants).map(|n| {
                let mut client = clients[(n + turn) % clients.len()].clone();
                let (well, authority) = (!self.trouble.dead(n), &self.authority);
                async move {
                    let begin = Instant::now();
                    let answer = timeout(PATIENCE, client.tokens.get_token(wish(n))).await;
                    let said = match answer {
                        Ok(Ok(answer)) => {
                            let access = answer.into_inner().token.unwrap().access_token;
                            let over = authority.age(&access, begin) > LIFE;
                            over.then(|| "a token past its end".to_owned())
                        }
                        Ok(Err(status)) => Some(status.message().to_owned()),
                        Err(_) => Some("no answer came".to_owned()),
                    };
                    (well, said, begin.elapsed())
                }
            });
            let next = Instant::now() + EVERY;
            for (_, said, took) in join_all(asked).await.into_iter().filter(|(well, ..)| *well) {
                cost.calls += 1;
                cost.failed += usize::from(said.is_some());
                cost.said = said.or(cost.said);
                cost.worst = cost.worst.max(took);
            }
            turn += 1;
            sleep(next.saturating_duration_since(Instant::now())).await;
        }
        cost
    }

    /// Waits until every grant lives that is not dead.
    async fn lives(&self, client: &Client) {
        let begin = Instant::now();
        loop {
            let states = states(&mut client.clone()).await;
            let lives = |n: &usize| states.get(*n) == Some(&State::Lives);
            let well = (0..self.size.grants).filter(|n| !self.trouble.dead(*n));
            let waiting = well.filter(|n| !lives(n)).count();
            if waiting == 0 {
                return;
            }
            assert!(begin.elapsed() < LIVE_AGAIN_MAX, "{waiting} grants do not live again");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

fn person(n: usize) -> String {
    format!("person-{n:04}")
}

fn grant(n: usize) -> String {
    format!("kroger/{}", person(n))
}

fn wish(n: usize) -> GetTokenRequest {
    GetTokenRequest { grant_id: grant(n), ..GetTokenRequest::default() }
}

/// What a trial must not cost. A refused client stops all of its grants, and is asked seldom.
fn wrong(trouble: Trouble, cost: &Cost) -> Option<String> {
    let too_much = match trouble {
        Trouble::WrongSecret => cost.requests > REFUSED_MAX,
        Trouble::Dead(..) | Trouble::Partial | Trouble::Clock(..) => cost.failed > 0,
    };
    too_much.then(|| format!("{}: {cost:?}", trouble.name()))
}

#[test]
fn what_is_well_does_not_notice_its_neighbours() {
    let often = std::env::var_os(OFTEN).is_some();
    println!(
        "trouble                store  grants  calls  failed requests worst call live again\n{:56}(s)        (s)",
        ""
    );
    let only = std::env::var_os(ONLY).and_then(|text| text.into_string().ok()).unwrap_or_default();
    let rows = TROUBLES
        .into_iter()
        .filter(|trouble| trouble.name().contains(&only))
        .flat_map(|trouble| [(trouble, false), (trouble, true)]);
    let rows = rows.filter(|(trouble, on_redis)| often || *on_redis || *trouble == TROUBLES[0]);
    let failed = at_a_time(WORKERS, rows, |(trouble, on_redis)| {
        let grants = match (often, trouble) {
            (true, Trouble::WrongSecret) => 1_000,
            (true, _) => 90,
            (false, _) => 18,
        };
        let size = Size { grants, lasts: Duration::from_secs(if often { 60 } else { 10 }) };
        let cost = match tried(|| Street::start(trouble, size, on_redis).run()) {
            Ok(cost) => cost,
            Err(said) => return Some(format!("{}: {said}", trouble.name())),
        };
        println!(
            "{:<22} {:<6} {:>6} {:>6} {:>7} {:>8} {:>10.2} {:>10.1}",
            trouble.name(),
            if on_redis { "redis" } else { "redb" },
            size.grants,
            cost.calls,
            cost.failed,
            cost.requests,
            cost.worst.as_secs_f64(),
            cost.live_again.as_secs_f64()
        );
        wrong(trouble, &cost)
    });
    judge(&failed.into_iter().flatten().collect::<Vec<_>>());
}
