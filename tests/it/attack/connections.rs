//! Connections and streams of whoever has proven nothing.

use std::net::Ipv4Addr;

use h2::SendStream;
use h2::client::ResponseFuture;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Callers, Effort, long, many, page};
use crate::callers::World;
use crate::support::rude::{Rude, tcp_from};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// An empty message of gRPC.
const EMPTY: &[u8] = &[0; 5];
/// Bounds that a few hundred connections fill; the long form takes those of the program.
const NARROW: [(&str, &str); 3] = [
    ("TOKEN_BROKER__BOUNDS__CONNECTIONS", "256"),
    ("TOKEN_BROKER__BOUNDS__UNPROVEN", "64"),
    ("TOKEN_BROKER__BOUNDS__UNPROVEN_PER_ADDRESS", "32"),
];
const PAGES: (&str, &str) = ("TOKEN_BROKER__LISTEN__PAGES", "127.0.0.1:0");

async fn world() -> World {
    let narrow = NARROW.into_iter().filter(|_| !long());
    World::with(&narrow.chain([PAGES]).collect::<Vec<_>>()).await
}

/// A connection with one call that never ends.
struct Holds {
    rude: Rude,
    _answer: ResponseFuture,
    _request: SendStream<bytes::Bytes>,
}

async fn holds(source: Ipv4Addr, address: &str, path: &str, ends: bool) -> Option<Holds> {
    let mut rude = Rude::from(source, address).await.ok()?;
    let (answer, mut request) = rude.open(path).await.ok()?;
    request.send_data(bytes::Bytes::from_static(EMPTY), ends).ok()?;
    Some(Holds { rude, _answer: answer, _request: request })
}

/// So many of them are cut.
fn cut(held: Vec<Holds>) -> usize {
    held.into_iter().filter(|held| held.rude.is_cut()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_anybody_may_open_keep_nobody_out() {
    let world = world().await;
    let effort = Effort::new(400, 12_000);
    for (path, ends, addresses, name) in [
        (WATCH, true, 1, "health watches, one address"),
        (WATCH, true, 200, "health watches, 200 addresses"),
        (REFLECTION, false, 3, "reflection streams, 3 addresses"),
    ] {
        let mut callers = Callers::of(&world).await;
        let api = &world.program.api;
        let opened =
            many(effort.held, addresses, async |source| holds(source, api, path, ends).await);
        let (held, mut seen) = tokio::join!(opened, callers.call(effort.during));
        let after = callers.call(effort.during).await;
        seen.add(&after);
        let (opened, cut) = (held.len(), cut(held));
        seen.came_to_nothing(name, &format!("{opened} opened, {cut} cut"));
        assert!(opened + cut > 0);
    }
}

/// Whoever attacks from where callers are, in a mesh, drives out those who have proven nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_the_address_of_callers_keeps_nobody_out() {
    let world = world().await;
    let effort = Effort::new(400, 12_000);
    let mut callers = Callers::of(&world).await;
    let silent = many(effort.held, 1, async |_| {
        Some(tcp_from(Ipv4Addr::LOCALHOST, &world.program.api).await)
    });
    let (held, mut seen) = tokio::join!(silent, callers.call(effort.during));
    seen.add(&callers.call(effort.during).await);
    seen.came_to_nothing("silent, from the address of callers", &format!("{} opened", held.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_requests_close_neither_pages_nor_the_operators_port() {
    let world = world().await;
    let effort = Effort::new(300, 3_000);
    let slow_head = "GET /oauth/start HTTP/1.1\r\nhost: a\r\n";
    let slow_body = "POST /oauth/start HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\
                content-type: application/x-www-form-urlencoded\r\n\r\ncode=";
    let (ops, pages) = (&world.program.ops, &world.program.pages);
    for (port, begin, name) in [
        (ops, slow_head, "slow heads, operators' port"),
        (pages, slow_head, "slow heads, pages"),
        (pages, slow_body, "slow bodies, pages"),
    ] {
        for addresses in [1, 100] {
            let mut callers = Callers::of(&world).await;
            let slow = many(effort.held, addresses, async |source| {
                let mut tcp: TcpStream = tcp_from(source, port).await;
                tcp.write_all(begin.as_bytes()).await.ok()?;
                Some(tcp)
            });
            let (held, mut seen) = tokio::join!(slow, callers.call(effort.during));
            for _ in 0..20 {
                seen.count(page(pages, "/oauth/start").await.map(drop));
            }
            seen.add(&callers.call(effort.during).await);
            let result = format!("{} opened, {addresses} addresses", held.len());
            seen.came_to_nothing(name, &result);
        }
    }
    let mut callers = Callers::of(&world).await;
    let held = many(effort.held, 1, async |source| holds(source, ops, WATCH, true).await).await;
    let seen = callers.call(effort.during).await;
    seen.came_to_nothing("health watches, operators' port", &format!("{} opened", held.len()));
}
