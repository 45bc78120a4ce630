//! Connections to Redis as they fail: servers that hang, lie or talk for ever.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::future::join_all;
use token_broker::broker::model::GrantId;
use token_broker::broker::store::{Grants as _, Store as _};
use token_broker::clock::Clock;
use token_broker::secret::ClientSecret;
use token_broker::store::redis::{Address, Admission};
use token_broker::store::{Keyring, OpenError, Vault};
use tokio::time::Instant;

use crate::store_contract::open_redis;
use crate::support::redis::{RedisServer, Sentinel, free_port};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_millis(500);

async fn open(url: String, password: Option<&str>) -> Result<Vault, OpenError> {
    let address =
        Address { url, password: password.map(ClientSecret::new), ca: None, timeout: PATIENCE };
    let ring = Arc::new(Keyring::generate());
    Vault::in_redis(&address, "tb", Admission::default(), false, ring, Clock::system()).await
}

/// Those who come while somebody tries in vain to connect hear of it, and do not each try again.
#[tokio::test]
async fn many_callers_of_a_redis_that_hangs_wait_once() {
    const CALLERS: usize = 40;
    let server = RedisServer::start(&[]);
    let store = open_redis(&server, Arc::new(Keyring::generate())).await;
    let id = GrantId::parse("a/b").unwrap();
    server.signal("STOP");
    let start = Instant::now();
    for _ in 0..2 {
        let answers = join_all((0..CALLERS).map(|_| store.load(&id))).await;
        assert!(answers.iter().all(Result::is_err));
    }
    // Each time one second for an answer, and two for connections at most.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    server.signal("CONT");
    assert!(store.load(&id).await.unwrap().is_none(), "at once");
}

/// A server that says this to whoever asks, again and again.
fn says(words: &'static [u8], again: bool) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let answer = move |mut stream: TcpStream| {
        let _ = stream.read(&mut [0; 1024]);
        while stream.write_all(words).is_ok() && again {
            thread::park_timeout(Duration::from_millis(1));
        }
        let _ = stream.read(&mut [0; 1024]);
        thread::park_timeout(Duration::from_secs(10));
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap()));
        }
    });
    url
}

#[tokio::test]
async fn servers_that_lie_are_given_up_in_time() {
    let lies: [(&[u8], bool); 5] = [
        (b"$9000000000000000000\r\n", false),
        (b"*2000000000\r\n", false),
        (b"+an endless line ", true),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", true),
        (b"", false),
    ];
    for (words, again) in lies {
        let start = Instant::now();
        let opened = open(says(words, again), None).await;
        let shown = String::from_utf8_lossy(words);
        assert!(opened.is_err(), "{shown}");
        assert!(start.elapsed() < 10 * PATIENCE, "{shown}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_is_not_believed() {
    let primary = RedisServer::start(&[]);
    let port = primary.port.to_string();
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &port]);
    replica.follows(&primary).await;
    let sentinel = Sentinel::start(&replica.port.to_string());
    match open(sentinel.url(), None).await {
        Err(OpenError::Unavailable(_)) => {}
        Err(OpenError::Refused(why)) => panic!("refused: {why}"),
        // It has found out by itself.
        Ok(_) => assert!(sentinel.says("get-master-addr-by-name").contains(&port)),
    }
    assert_eq!(replica.cli(&["DBSIZE"]), primary.cli(&["DBSIZE"]));
}

/// Whoever is connected stays so; whoever connects anew is told what to mend.
#[tokio::test]
async fn a_password_that_was_changed_is_told_of_and_healed() {
    let server = RedisServer::start(&["--requirepass", "old"]);
    let store = open(server.url(), Some("old")).await.unwrap();
    assert!(store.health().await.state.is_ok());
    let old = ["-a", "old", "--no-auth-warning"];
    let new = ["-a", "new", "--no-auth-warning"];
    let run = |password: [&'static str; 3], command: &[&'static str]| {
        server.cli(&[&password[..], command].concat())
    };
    assert_eq!(run(old, &["CONFIG", "SET", "requirepass", "new"]), "OK");
    assert!(store.health().await.state.is_ok(), "it is connected");
    run(new, &["CLIENT", "KILL", "TYPE", "normal"]);
    let mut told = String::new();
    for _ in 0..3 {
        if let Err(failure) = store.health().await.state {
            told = format!("{failure:?} {failure}");
        }
    }
    assert!(told.contains("store.password_file"), "{told}");
    assert_eq!(run(new, &["CONFIG", "SET", "requirepass", "old"]), "OK");
    assert!(store.health().await.state.is_ok());
}

/// What bears our name need not be ours.
#[tokio::test]
async fn foreign_functions_under_our_name_are_refused_with_the_remedy() {
    let server = RedisServer::start(&[]);
    assert!(open(server.url(), None).await.is_ok());
    let listed = server.cli(&["FUNCTION", "LIST"]);
    let name = listed.split_whitespace().find(|word| word.starts_with("tokenbroker_")).unwrap();
    server.cli(&["FUNCTION", "FLUSH"]);
    let evil = format!(
        "#!lua name={name}\nredis.register_function('tb_claim_evil', function() return 1 end)"
    );
    server.cli(&["FUNCTION", "LOAD", &evil]);
    match open(server.url(), None).await {
        Err(OpenError::Refused(why)) => {
            assert!(why.contains(&format!("FUNCTION DELETE {name}")), "{why}");
        }
        other => panic!("{:?}", other.err()),
    }
}

/// A Redis whose certificate a private authority signed is believed where that is named, and only there.
#[tokio::test]
async fn a_private_authority_is_believed_where_it_is_named() {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    // Whoever was first has chosen the same provider.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca_file, certificate, key) =
        (write("ca", &ca), write("crt", &certificate), write("key", &key.serialize_pem()));
    let port = free_port().to_string();
    let server = RedisServer::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca_file,
        "--tls-auth-clients",
        "no",
    ]);
    let open = async |ca: Option<String>| {
        let url = format!("rediss://127.0.0.1:{port}/0");
        let address = Address { url, password: None, ca, timeout: PATIENCE };
        let ring = Arc::new(Keyring::generate());
        Vault::in_redis(&address, "tb", Admission::default(), false, ring, Clock::system()).await
    };
    assert!(open(None).await.is_err());
    let store = open(Some(ca)).await.unwrap();
    assert!(store.health().await.state.is_ok());
    drop(server);
}
