//! The one request, over real sockets: what counts as sent, and that it is sent once.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use token_broker::broker::endpoint::{
    Disposition, Habits, Proof, Reply, Request, TokenEndpoint as _,
};
use token_broker::broker::model::{DoubtKind, ProviderId, Reason};
use token_broker::clock::Clock;
use token_broker::secret::{ClientSecret, RefreshToken};
use token_broker::upstream::{
    BasicEncoding, ClientAuth, Credentials, Endpoints, ErrorMap, Http, Provider,
};

use crate::support::redis::free_port;

/// Serves raw answers, and counts the connections that brought a request.
struct Wire {
    url: String,
    requests: Arc<AtomicUsize>,
}

impl Wire {
    /// Answers every request with `answer` and closes.
    fn answering(answer: &'static str) -> Self {
        Self::with(move |stream| {
            let _ = stream.write_all(answer.as_bytes());
        })
    }

    fn with(act: impl Fn(&mut std::net::TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                if stream.read(&mut request).unwrap_or(0) > 0 {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                act(&mut stream);
            }
        });
        Self { url, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn what_arrived_before_the_deadline_is_read_even_if_nobody_looked() {
    // The head comes at once, the body just before the deadline, and the end never.
    let wire = Wire::with(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n");
        thread::sleep(Duration::from_millis(400));
        let _ = stream.write_all(br#"{"refresh_token":"new","access_token":"a""#);
        thread::sleep(Duration::from_millis(1_500));
    });
    let stopped = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The process is stopped until well after the deadline of 600 ms.
        thread::sleep(Duration::from_millis(800));
    };
    let (reply, ()) = tokio::join!(exchange(&wire.url), stopped);
    assert_eq!(reply.refresh_token, Some(RefreshToken::new("new")));
}

#[tokio::test]
async fn an_answer_that_drips_is_not_listened_to_for_ever() {
    let wire = Wire::with(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let reply = tokio::time::timeout(Duration::from_secs(5), exchange(&wire.url)).await;
    assert!(reply.expect("it comes back by its deadline").issued.is_err());
}

async fn exchange(url: &str) -> Reply {
    let provider = Provider {
        account_field: None,
        id: ProviderId::new("kroger"),
        profile: "kroger".to_owned(),
        endpoints: Endpoints { token: Some(url.to_owned()), ..Endpoints::default() },
        discovery: false,
        authorize_parameters: std::collections::BTreeMap::new(),
        redirect_url: None,
        pkce: true,
        issuer: None,
        client_id: "id".to_owned(),
        credentials: Arc::new(Credentials::new(
            ClientAuth::Basic {
                secret: ClientSecret::new("secret"),
                encoding: BasicEncoding::Rfc6749,
            },
            Vec::new(),
        )),
        default_lifetime: Duration::from_secs(600),
        lifetime_max: Duration::from_secs(86_400),
        connect_timeout: Duration::from_millis(300),
        habits: Habits { listen_max: Duration::from_millis(600), ..Habits::default() },
        attributes: Vec::new(),
        error_map: ErrorMap::default(),
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = Http::new(vec![provider], Clock::system()).unwrap();
    http.exchange(
        &ProviderId::new("kroger"),
        Request::RefreshToken(RefreshToken::new("r")),
        Proof::InUse,
    )
    .await
}

async fn failure(url: &str) -> (Reason, Disposition) {
    let failure = exchange(url).await.issued.unwrap_err();
    (failure.reason, failure.disposition)
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let url = format!("http://127.0.0.1:{}/token", free_port());
    assert_eq!(failure(&url).await, (Reason::ProviderUnreachable, Disposition::NotSent));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_sent_nothing() {
    let url = "http://no-such-host.invalid/token";
    assert_eq!(failure(url).await, (Reason::ProviderUnreachable, Disposition::NotSent));
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_leaves_the_outcome_unknown() {
    let wire = Wire::answering("");
    assert_eq!(
        failure(&wire.url).await,
        (Reason::RefreshOutcomeUnknown, Disposition::Unknown(DoubtKind::Ended))
    );
    assert_eq!(wire.requests(), 1);
}

#[tokio::test]
async fn silence_until_the_deadline_leaves_the_outcome_unknown() {
    let wire = Wire::with(|_| thread::park_timeout(Duration::from_secs(5)));
    assert_eq!(
        failure(&wire.url).await,
        (Reason::RefreshOutcomeUnknown, Disposition::Unknown(DoubtKind::Unheard))
    );
    assert_eq!(wire.requests(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Wire::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let location = target.url.clone();
    let wire = Wire::with(move |stream| {
        let head =
            format!("HTTP/1.1 307 Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    });
    let moved = failure(&wire.url).await;
    assert_eq!(moved, (Reason::ProviderEndpointMisconfigured, Disposition::NotProcessed));
    assert_eq!((wire.requests(), target.requests()), (1, 0));
}

#[tokio::test]
async fn a_503_is_not_retried() {
    let wire = Wire::answering("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(
        failure(&wire.url).await,
        (Reason::RefreshOutcomeUnknown, Disposition::Unknown(DoubtKind::Answered))
    );
    assert_eq!(wire.requests(), 1);
}

#[tokio::test]
async fn a_refresh_token_is_read_from_an_answer_that_breaks_off() {
    let wire = Wire::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"refresh_token\":\"new\",\"access",
    );
    let reply = exchange(&wire.url).await;
    assert_eq!(reply.refresh_token, Some(RefreshToken::new("new")));
    assert_eq!(reply.issued.unwrap_err().reason, Reason::RefreshReplyUnreadable);
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_still_searched() {
    let wire = Wire::with(|stream| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n{\"refresh_token\":\"new\",\"x\":\"";
        let _ = stream.write_all(head.as_bytes());
        while stream.write_all(&[b'x'; 8_192]).is_ok() {}
    });
    assert_eq!(exchange(&wire.url).await.refresh_token, Some(RefreshToken::new("new")));
}

#[tokio::test]
async fn a_date_in_retry_after_is_read() {
    let wire = Wire::answering(
        "HTTP/1.1 429 Slow\r\nretry-after: Wed, 21 Oct 2015 07:28:00 GMT\r\ncontent-length: 0\r\n\r\n",
    );
    let failure = exchange(&wire.url).await.issued.unwrap_err();
    assert_eq!(failure.retry_after, Some(Duration::ZERO), "that was long ago");
}
