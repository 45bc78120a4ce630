//! What clients may take: floods, silence, answers that nobody takes.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Request;
use token_broker::client::Client;
use token_broker::proto::GetTokenRequest;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::herd::{import, settings};
use crate::support::authority::Authority;
use crate::support::process::Program;
use crate::support::rude::{ASK, Rude, SOON, TOKENS, code};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A broker with a token of alice in memory.
async fn broker(dir: &tempfile::TempDir, bounds: &[(&str, &str)]) -> (Authority, Program) {
    let authority = Authority::new();
    let base = authority.serve().await;
    let mut environment = settings(&base, "redb:store.redb");
    environment.extend_from_slice(bounds);
    let program = Program::start(dir.path(), &["serve"], &environment);
    import(&program, dir.path(), "kroger/alice", &authority.consent("alice"));
    get(&program).await;
    (authority, program)
}

/// What a well-behaved service does.
async fn get(program: &Program) {
    let mut client = Client::connect(&format!("http://{}", program.api)).await.unwrap();
    let request = GetTokenRequest { grant_id: "kroger/alice".to_owned(), ..Default::default() };
    let answer = timeout(SOON, client.tokens.get_token(request)).await.expect("an answer");
    assert!(answer.is_ok(), "{answer:?}");
}

async fn healthy(program: &Program) {
    let channel = Channel::from_shared(format!("http://{}", program.api)).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let asked = timeout(SOON, client.check(HealthCheckRequest::default()));
    assert!(asked.await.expect("an answer").is_ok());
    assert!(program.page("/readyz").contains("200 OK"));
}

/// Memory that does not come back is lost; and others are answered meanwhile.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_half_open_streams_ends_in_bounded_memory() {
    const RSS_MAX_KB: u64 = 250_000;
    /// Once the clients have gone.
    const RSS_AFTER_KB: u64 = 125_000;
    let dir = tempfile::tempdir().unwrap();
    let (_authority, program) = broker(&dir, &[]).await;
    let mut peaks = Vec::new();
    for _ in 0..2 {
        let mut peak = 0;
        let mut held = Vec::new();
        for number in 0..200 {
            held.push(flood(&program.api).await);
            if number % 20 == 0 {
                get(&program).await;
                healthy(&program).await;
                peak = peak.max(program.resident_kb());
            }
        }
        get(&program).await;
        peaks.push(peak.max(program.resident_kb()));
        let metrics = program.page("/metrics");
        assert!(metrics.contains("tokenbroker_streams_refused_total{port=\"api\""), "{metrics}");
    }
    println!("{peaks:?} kB at most in each of two floods");
    assert!(peaks.iter().all(|peak| *peak <= RSS_MAX_KB), "{peaks:?} kB");
    // The allocator gives back within ten seconds what nobody uses.
    until(|| program.resident_kb() <= RSS_AFTER_KB).await;
}

/// Opens a thousand streams on one connection, or as many as it is let, and ends none.
async fn flood(address: &str) -> (Rude, Vec<(ResponseFuture, SendStream<bytes::Bytes>)>) {
    const STREAMS: usize = 1_000;
    /// No room for more, for whoever keeps to what it was told.
    const PATIENCE: Duration = Duration::from_millis(10);
    let mut rude = Rude::connect(address).await;
    let mut streams = Vec::new();
    while streams.len() < STREAMS {
        match timeout(PATIENCE, rude.open(TOKENS)).await {
            Ok(Ok(stream)) => streams.push(stream),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    (rude, streams)
}

/// Waits for what must come.
async fn until(mut there: impl FnMut() -> bool) {
    let comes = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, comes).await.expect("it does not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_speak_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = [("TOKEN_BROKER__BOUNDS__SPEAK", "200ms")];
    let (_authority, program) = broker(&dir, &bounds).await;
    let mut silent = TcpStream::connect(&program.api).await.unwrap();
    let closed = timeout(SOON, silent.read(&mut [0])).await.expect("the broker keeps it open");
    assert_eq!(closed.unwrap(), 0);
    assert!(program.page("/metrics").contains("why=\"silent\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_arrives_in_time_or_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = [("TOKEN_BROKER__BOUNDS__REQUEST", "300ms")];
    let (_authority, program) = broker(&dir, &bounds).await;
    let mut rude = Rude::connect(&program.api).await;
    for path in [TOKENS, HEALTH, "/tokenbroker.v1.GrantAdminService/ListGrants"] {
        let (answer, request) = rude.open(path).await.unwrap();
        assert_eq!(code(answer).await, Code::DeadlineExceeded, "{path}");
        drop(request);
    }
    let (answer, mut request) = rude.open(TOKENS).await.unwrap();
    request.send_data(bytes::Bytes::from_static(ASK), false).unwrap();
    assert_eq!(code(answer).await, Code::DeadlineExceeded, "its end is part of it");
    assert_eq!(code(rude.ask().await.unwrap()).await, Code::Ok, "the connection lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_served_while_others_wait_for_a_slow_provider() {
    let dir = tempfile::tempdir().unwrap();
    // None of those who wait is answered before the test is over, however slow the machine is.
    let bounds =
        [("TOKEN_BROKER__BOUNDS__STREAMS", "40"), ("TOKEN_BROKER__TIMING__CALLER_WAIT_MAX", "60s")];
    let (authority, program) = broker(&dir, &bounds).await;
    import(&program, dir.path(), "kroger/bobby", &authority.consent("bobby"));
    authority.delay(Duration::from_secs(60));
    let mut waiting = Rude::connect(&program.api).await;
    let mut held = FuturesUnordered::new();
    for _ in 0..100 {
        let (answer, mut request) = waiting.open(TOKENS).await.unwrap();
        let bobby = bytes::Bytes::from_static(b"\0\0\0\0\x0e\x0a\x0ckroger/bobby");
        request.send_data(bobby, true).unwrap();
        held.push(code(answer));
    }
    // How many exactly depends on how many connections there are besides: each keeps a small part.
    for _ in 0..50 {
        assert_eq!(held.next().await, Some(Code::ResourceExhausted));
    }
    assert_eq!(code(waiting.ask().await.unwrap()).await, Code::Ok, "answered from memory");
    get(&program).await;
    healthy(&program).await;
    authority.delay(Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = [("TOKEN_BROKER__BOUNDS__ANSWER", "500ms")];
    let (_authority, program) = broker(&dir, &bounds).await;
    let mut rude = Rude::with_window(&program.api, 0).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(rude.ask().await.unwrap());
    }
    let _ = rude.ended().await;
    assert!(program.page("/metrics").contains("why=\"untaken\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_takes_the_place_of_the_idlest() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = [("TOKEN_BROKER__BOUNDS__CONNECTIONS", "8")];
    let (_authority, program) = broker(&dir, &bounds).await;
    let mut busy = Rude::connect(&program.api).await;
    let open = busy.open(TOKENS).await.unwrap();
    assert_eq!(code(busy.ask().await.unwrap()).await, Code::Ok, "and so the broker knows of both");
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(&program.api).await.unwrap());
    }
    get(&program).await;
    healthy(&program).await;
    assert_eq!(code(busy.ask().await.unwrap()).await, Code::Ok, "whoever is busy stays");
    drop((open, silent));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_idle_connections_end_without_harm() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = [("TOKEN_BROKER__BOUNDS__IDLE", "300ms"), ("TOKEN_BROKER__BOUNDS__AGE", "2s")];
    let (_authority, program) = broker(&dir, &bounds).await;
    let mut idle = Rude::connect(&program.api).await;
    assert_eq!(code(idle.ask().await.unwrap()).await, Code::Ok);
    assert!(idle.ended().await.is_ok(), "told to go elsewhere");

    let channel = Channel::from_shared(format!("http://{}", program.api)).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let ended = timeout(SOON, watch.message()).await.expect("the broker keeps it open");
    let ended = ended.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(ended.get_details_error_info().unwrap().reason, "DRAINING");
    assert!(program.page("/metrics").contains("why=\"aged\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (_authority, program) = broker(&dir, &[]).await;
    let mut rude = Rude::connect(&program.api).await;
    let request = Request::post(format!("http://broker{TOKENS}"))
        .header("content-type", "application/grpc")
        .header("authorization", "x".repeat(16_000))
        .body(())
        .unwrap();
    let (answer, _request) = rude.requests.send_request(request, false).unwrap();
    let answer = timeout(SOON, answer).await.expect("an answer").unwrap();
    assert_eq!(answer.status(), 431);
    assert_eq!(code(rude.ask().await.unwrap()).await, Code::Ok, "the connection lives");
}
