//! Clients that do what well-behaved ones do not.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::time::Duration;

use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;

pub(crate) const TOKENS: &str = "/tokenbroker.v1.TokenService/GetToken";
/// `GetToken("kroger/alice")` as it goes over the wire.
pub(crate) const ASK: &[u8] = b"\0\0\0\0\x0e\x0a\x0ckroger/alice";
/// Longest wait for what must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A client that does what well-behaved ones do not.
pub(crate) struct Rude {
    pub(crate) requests: SendRequest<bytes::Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Rude {
    pub(crate) async fn connect(address: &str) -> Self {
        Self::with_window(address, 65_535).await
    }

    /// Takes no more than `window` bytes of an answer.
    pub(crate) async fn with_window(address: &str, window: u32) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), window).await.unwrap()
    }

    /// Comes from this address of loopback.
    pub(crate) async fn from(source: Ipv4Addr, address: &str) -> Result<Self, h2::Error> {
        Self::over(tcp_from(source, address).await, 65_535).await
    }

    async fn over(tcp: TcpStream, window: u32) -> Result<Self, h2::Error> {
        let mut builder = h2::client::Builder::new();
        let (requests, connection): (_, Connection<_, _>) =
            builder.initial_window_size(window).handshake(tcp).await?;
        #[expect(clippy::disallowed_methods, reason = "ends with its connection")]
        let connection = tokio::spawn(connection);
        Ok(Self { requests, connection })
    }

    /// Sends headers, and nothing after them.
    pub(crate) async fn open(
        &mut self,
        path: &str,
    ) -> Result<(ResponseFuture, SendStream<bytes::Bytes>), h2::Error> {
        let request = Request::post(format!("http://broker{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await?;
        requests.send_request(request, false)
    }

    /// Asks for the token of alice, wholly.
    pub(crate) async fn ask(&mut self) -> Result<ResponseFuture, h2::Error> {
        let (answer, mut request) = self.open(TOKENS).await?;
        request.send_data(bytes::Bytes::from_static(ASK), true)?;
        Ok(answer)
    }

    /// The broker has ended the connection.
    pub(crate) fn is_cut(&self) -> bool {
        self.connection.is_finished()
    }

    /// Waits until the broker ends the connection.
    pub(crate) async fn ended(self) -> Result<(), h2::Error> {
        let Self { requests, connection } = self;
        let ended = timeout(SOON, connection).await.expect("the broker keeps it open").unwrap();
        drop(requests);
        ended
    }
}

/// The status of an answer, wherever it stands.
async fn status(answer: ResponseFuture) -> Result<HeaderMap, h2::Error> {
    let answer = answer.await?;
    if answer.headers().contains_key("grpc-status") {
        return Ok(answer.headers().clone());
    }
    let mut body: RecvStream = answer.into_body();
    while let Some(data) = body.data().await {
        let _ = body.flow_control().release_capacity(data?.len());
    }
    Ok(poll_fn(|cx| body.poll_trailers(cx)).await?.unwrap_or_default())
}

pub(crate) async fn code(answer: ResponseFuture) -> Code {
    let headers = timeout(SOON, status(answer)).await.expect("an answer").unwrap();
    Code::from_bytes(headers["grpc-status"].as_bytes())
}

/// A connection from this address of loopback.
pub(crate) async fn tcp_from(source: Ipv4Addr, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}
