//! The hot path: `GetToken` of a token in memory, beside a bare tonic server on the same runtime and
//! with the same keepalive that answers with the same bytes.

use std::pin::Pin;
use std::time::Duration;

use prost::Message as _;
use token_broker::proto::token_service_server::{TokenService, TokenServiceServer};
use token_broker::proto::{
    ForceRefreshRequest, ForceRefreshResponse, GetTokenRequest, GetTokenResponse,
    WatchTokenRequest, WatchTokenResponse,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::load::{self, Run, Shape};
use crate::program::{Program, Store};
use crate::provider;
use crate::trust::Trust;

const PATH: &str = "tokenbroker.v1.TokenService/GetToken";
const GRANT: &str = "bench/alice";
/// Pairs of runs; the median of their ratios is told.
const PAIRS: usize = 15;
const SHAPES: [Shape; 3] = [
    Shape { connections: 4, streams: 32, requests: 100_000 },
    Shape { connections: 128, streams: 1, requests: 60_000 },
    Shape { connections: 1, streams: 1, requests: 8_000 },
];

/// Prints a table: for each shape, the broker's figures and their ratios to those of bare tonic.
pub(crate) async fn compare() {
    against_bare("anybody may call", None).await;
}

/// The same where callers prove who they are, and what they do is counted and written down.
pub(crate) async fn compare_with_trust() {
    against_bare("service account, policy, limits, audit log", Some(&Trust::new())).await;
}

async fn against_bare(what: &str, trust: Option<&Trust>) {
    let program = Program::start_for(Store::Memory, &provider::start().await, trust).await;
    program.import(GRANT).await;
    let reply = program.get(GRANT).await;
    let bare = bare(reply).await;
    let dir = tempfile::tempdir().unwrap();
    let body = dir.path().join("request");
    std::fs::write(&body, frame()).unwrap();

    let bearer = trust.map(|trust| trust.token.clone());
    println!(
        "\nhot GetToken beside bare tonic, {what}: median of {PAIRS} alternating pairs (least, most)"
    );
    println!("{:>10} {:>10} {:>22} {:>22} {:>22}", "shape", "calls/s", "throughput", "p50", "p99");
    for shape in SHAPES {
        let (broker, bare, body) = (program.address.clone(), bare.clone(), body.clone());
        let bearer = bearer.clone();
        let pairs = tokio::task::spawn_blocking(move || {
            let run = |address: &str| load::run(address, PATH, &body, bearer.as_deref(), shape);
            // Whoever comes second may find the machine warmer: they take turns at that, too.
            let pair = |number: usize| {
                if number.is_multiple_of(2) {
                    let broker = run(&broker);
                    return (broker, run(&bare));
                }
                let bare = run(&bare);
                (run(&broker), bare)
            };
            (0..=PAIRS).map(pair).skip(1).collect::<Vec<_>>()
        });
        print(shape, &pairs.await.unwrap());
    }
}

fn print(shape: Shape, pairs: &[(Run, Run)]) {
    // Lifetimes that count down change a reply by bytes, an error by far more.
    assert!(pairs.iter().all(|(broker, bare)| broker.data.abs_diff(bare.data) < bare.data / 50));
    let ratio = |of: fn(&Run) -> f64| {
        let mut ratios: Vec<f64> =
            pairs.iter().map(|(broker, bare)| of(broker) / of(bare)).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let [least, median, most] = [ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]];
        format!("{median:.3} ({least:.2}, {most:.2})")
    };
    let mut rates: Vec<f64> = pairs.iter().map(|(broker, _)| broker.per_second).collect();
    rates.sort_unstable_by(f64::total_cmp);
    println!(
        "{:>10} {:>10.0} {:>22} {:>22} {:>22}",
        format!("{}x{}", shape.connections, shape.streams),
        rates[rates.len() / 2],
        ratio(|run| run.per_second),
        ratio(|run| run.p50_us),
        ratio(|run| run.p99_us),
    );
}

/// The request as it goes over the wire: not compressed, its length, the message.
fn frame() -> Vec<u8> {
    let request = GetTokenRequest { grant_id: GRANT.to_owned(), ..GetTokenRequest::default() };
    let message = request.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), &message].concat()
}

/// Serves `reply`, and nothing else.
async fn bare(reply: GetTokenResponse) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder()
        // As the broker treats its connections.
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(TokenServiceServer::new(Bare(reply)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    #[expect(clippy::disallowed_methods, reason = "ends with the benchmark")]
    tokio::spawn(server);
    address
}

struct Bare(GetTokenResponse);

type Never = Pin<Box<dyn futures_core::Stream<Item = Result<WatchTokenResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TokenService for Bare {
    type WatchTokenStream = Never;

    async fn get_token(
        &self,
        _: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn force_refresh(
        &self,
        _: Request<ForceRefreshRequest>,
    ) -> Result<Response<ForceRefreshResponse>, Status> {
        unreachable!("the load calls GetToken only")
    }

    async fn watch_token(&self, _: Request<WatchTokenRequest>) -> Result<Response<Never>, Status> {
        unreachable!("the load calls GetToken only")
    }
}
