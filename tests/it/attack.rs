//! Attacks by whoever reaches a port, and what callers notice of them: nothing.
//!
//! The short form runs with all tests; `make attack` runs the long one, with the bounds that the
//! program has by itself, and prints the table.

use std::future::pending;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use token_broker::client::{Bearer, Client};
use token_broker::proto::GetTokenRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::ClientTlsConfig;

use crate::callers::{STATIC, World};
use crate::support::rude::tcp_from;

mod connections;
mod leftovers;
mod logs;

/// What a caller waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Between two looks of a caller.
const PAUSE: Duration = Duration::from_millis(20);
/// Of all calls that callers make meanwhile, so many in a thousand are answered,
const ANSWERED_MIN: usize = 990;
/// in so much memory.
const RSS_MAX_KB: u64 = 250_000;

/// How hard is tried.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    /// Connections, or streams, that are opened and held.
    held: usize,
    /// How long callers are watched after that.
    during: Duration,
}

/// The long form, if it is asked for.
fn long() -> bool {
    std::env::var_os("ATTACK_LONG").is_some()
}

impl Effort {
    fn new(short: usize, long_form: usize) -> Self {
        let (held, seconds) = if long() { (long_form, 30) } else { (short, 1) };
        Self { held, during: Duration::from_secs(seconds) }
    }
}

/// What callers saw.
#[derive(Default)]
struct Seen {
    asked: usize,
    answered: usize,
    peak_kb: u64,
    first_failure: Option<String>,
}

impl Seen {
    fn count(&mut self, answer: Result<(), String>) {
        self.asked += 1;
        match answer {
            Ok(()) => self.answered += 1,
            Err(why) => _ = self.first_failure.get_or_insert(why),
        }
    }

    fn add(&mut self, more: &Self) {
        (self.asked, self.answered) = (self.asked + more.asked, self.answered + more.answered);
        self.peak_kb = self.peak_kb.max(more.peak_kb);
        self.first_failure = self.first_failure.take().or_else(|| more.first_failure.clone());
    }

    /// A row of the table; the attack came to nothing.
    fn came_to_nothing(&self, attack: &str, result: &str) {
        let Self { asked, answered, peak_kb, first_failure } = self;
        println!("{attack:38} {result:34} {:7} {answered:6} of {asked}", peak_kb / 1_000);
        if let Some(failure) = first_failure {
            println!("  first of those that were not: {failure}");
        }
        let enough = answered * 1_000 >= asked * ANSWERED_MIN;
        assert!(enough, "{attack}: {answered} of {asked} answered; {first_failure:?}");
        assert!(*asked > 0 && *peak_kb <= RSS_MAX_KB, "{attack}: {peak_kb} kB");
    }
}

/// Callers: one that has been there all along, and one that comes anew each time; and the kubelet.
struct Callers<'a> {
    world: &'a World,
    here: Client,
}

impl<'a> Callers<'a> {
    async fn of(world: &'a World) -> Self {
        let mut here = client(world).await.unwrap();
        get(&mut here).await.unwrap();
        Self { world, here }
    }

    /// Calls until `during` is over.
    async fn call(&mut self, during: Duration) -> Seen {
        let (mut seen, begin) = (Seen::default(), Instant::now());
        while begin.elapsed() < during {
            seen.count(get(&mut self.here).await);
            let new = async { get(&mut client(self.world).await?).await };
            seen.count(timeout(ANSWER_MAX, new).await.unwrap_or(Err("a newcomer waits".into())));
            seen.count(alive(&self.world.program.ops).await);
            #[cfg(target_os = "linux")]
            {
                seen.peak_kb = seen.peak_kb.max(self.world.program.resident_kb());
            }
            sleep(PAUSE).await;
        }
        seen
    }
}

async fn client(world: &World) -> Result<Client, String> {
    let file = world.at("static-token");
    std::fs::write(&file, STATIC).unwrap();
    let address = format!("http://{}", world.program.api);
    let connected = Client::connect_as(&address, Bearer::from_file(file), ClientTlsConfig::new());
    connected.await.map_err(|error| format!("{error:?}"))
}

async fn get(client: &mut Client) -> Result<(), String> {
    let request = GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
    let answer = timeout(ANSWER_MAX, client.tokens.get_token(request)).await;
    answer.map_err(|_| "no answer".to_owned())?.map(drop).map_err(|error| error.to_string())
}

/// As the kubelet asks.
async fn alive(ops: &str) -> Result<(), String> {
    page(ops, "/livez").await.and_then(|text| {
        if text.contains("200 OK") { Ok(()) } else { Err(format!("/livez says {text:?}")) }
    })
}

/// Asks for a page by a connection of its own.
async fn page(address: &str, path: &str) -> Result<String, String> {
    let asked = async {
        let mut tcp = tcp_from(Ipv4Addr::LOCALHOST, address).await;
        let ask = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        tcp.write_all(ask.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut text = String::new();
        tcp.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        Ok(text)
    };
    timeout(ANSWER_MAX, asked).await.unwrap_or(Err(format!("{path}: no answer")))
}

/// Many at once, each from the address that its number gives.
async fn many<T>(
    count: usize,
    addresses: usize,
    one: impl AsyncFn(Ipv4Addr) -> Option<T>,
) -> Vec<T> {
    /// Enough to keep the port busy.
    const AT_ONCE: usize = 64;
    /// Whoever is new must prove itself before as many others have come as there is room for; with the narrow
    /// bounds of the short form that is soon.
    const BETWEEN: Duration = Duration::from_millis(5);
    let mut held = Vec::new();
    let mut opening = FuturesUnordered::new();
    for number in 0..count {
        let part = u32::try_from(2 + number % addresses).unwrap();
        opening.push(one(Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) - 1 + part)));
        if !long() {
            let opened = async {
                while let Some(one) = opening.next().await {
                    held.extend(one);
                }
                pending::<()>().await;
            };
            let _ = timeout(BETWEEN, opened).await;
        }
        if opening.len() >= AT_ONCE {
            held.extend(opening.next().await.flatten());
        }
    }
    held.extend(opening.collect::<Vec<_>>().await.into_iter().flatten());
    held
}
