//! Lets connections in, and watches over those that are there.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower_service::Service;
use tracing::{debug, info, warn};

use crate::listener::bounds::{Bounds, Cause};
use crate::listener::call::{Calls, Shares};
use crate::listener::connection::{Connection, Order, Watched};
use crate::listener::metrics::{Metrics, Ports};
use crate::listener::strangers::Strangers;
use crate::listener::tls::{self, Tls};

/// A dead peer is noticed after these two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests are small: what a stream, and a whole connection, may send ahead of being read.
const STREAM_WINDOW: u32 = 64 * 1024;
/// See [`STREAM_WINDOW`].
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Answers are small: what is kept of one for a client that reads slowly.
const SEND_BUFFER: usize = 64 * 1024;
/// How often connections are looked at, if no bound asks for more.
const WATCH: Duration = Duration::from_secs(1);
/// And if one does: this often within it.
const WATCH_SHARE: u32 = 4;
/// Connections may together keep memory for so many times the calls that may be under way, 1 to 2 kB
/// for each.
const KEPT_SHARE: usize = 2;
/// This part of the connections goes where there is no room for another.
const CROWD_SHARE: usize = 64;
/// Out of file descriptors: time for some to be given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The age of connections is spread by a tenth to both sides.
const AGE_SPREAD: u32 = 10;

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 alone, as gRPC does.
    Http2,
    /// HTTP/1.1 too, for browsers, curl and probes.
    Http1And2,
}

/// A bound port with its bounds.
#[derive(Debug)]
pub struct Listener {
    /// None once nobody is let in any more: who comes then is to hear of it at once.
    port: Option<TcpListener>,
    protocol: Protocol,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    tls: Option<Arc<Tls>>,
}

impl Listener {
    /// Not serving yet; it is counted as `name`.
    pub fn new(
        port: TcpListener,
        protocol: Protocol,
        bounds: Bounds,
        ports: &Ports,
        name: &'static str,
    ) -> Self {
        let metrics = Arc::new(ports.of(name));
        Self { port: Some(port), protocol, bounds, metrics, tls: None }
    }

    /// Connections begin with TLS, if there is any.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// Serves until `stop`, and then until every connection has ended: calls are answered, streams
    /// are ended with a reason.
    pub async fn serve<S>(self, service: S, stop: CancellationToken)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        Accept::new(self, stop).run(Arc::new(service)).await;
    }
}

/// The open door of a port.
struct Accept {
    listener: Listener,
    stop: CancellationToken,
    shares: Shares,
    http: Arc<Builder<TokioExecutor>>,
    connections: JoinSet<()>,
    watched: HashMap<Id, Watched>,
    strangers: Strangers,
    /// Connections that came so far.
    came: u64,
    /// Whether accepting failed at the last try.
    failing: bool,
    /// Whether a bound was reached at the last look.
    full: bool,
}

impl Accept {
    fn new(listener: Listener, stop: CancellationToken) -> Self {
        let shares = Shares::new(&listener.bounds);
        let http = Arc::new(http(listener.protocol, &listener.bounds));
        let Bounds { unproven, unproven_per_address, .. } = listener.bounds;
        Self {
            listener,
            stop,
            shares,
            http,
            connections: JoinSet::new(),
            watched: HashMap::new(),
            strangers: Strangers::new(unproven, unproven_per_address),
            came: 0,
            failing: false,
            full: false,
        }
    }

    async fn run<S>(mut self, service: Arc<S>)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let mut look = interval(often(&self.listener.bounds));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut open = true;
        while open || !self.connections.is_empty() {
            tokio::select! {
                () = self.stop.cancelled(), if open => {
                    open = false;
                    self.listener.port = None;
                    for watched in self.watched.values() {
                        watched.connection.tell(Order::Leave);
                    }
                }
                accepted = accept(self.listener.port.as_ref()) => match accepted {
                    Ok((tcp, from)) => self.admit(tcp, from.ip(), &service),
                    Err(error) => self.pause(&error).await,
                },
                Some(ended) = self.connections.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(panicked) => panicked.id(),
                    };
                    if let Some(ended) = self.watched.remove(&id) {
                        self.strangers.leave(&ended.connection);
                    }
                    self.shares.divide_between(self.watched.len());
                }
                _ = look.tick() => self.look(),
            }
        }
    }

    fn admit<S>(&mut self, tcp: TcpStream, from: IpAddr, service: &Arc<S>)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        self.failing = false;
        if self.watched.len() >= self.listener.bounds.connections && !self.make_room() {
            self.listener.metrics.not_let_in();
            return;
        }
        self.came += 1;
        let connection = Connection::new(self.came, from, &self.listener.metrics);
        let calls = Calls {
            service: Arc::clone(service),
            shares: self.shares.clone(),
            bounds: self.listener.bounds,
            connection: Arc::clone(&connection),
        };
        let tls = self.listener.tls.as_ref().map(|tls| tls.acceptor());
        let task = self.connections.spawn(serve(tcp, tls, calls, Arc::clone(&self.http)));
        let age = spread(self.listener.bounds.age, self.watched.len());
        for gone in self.strangers.enter(&connection) {
            gone.tell(Order::Cut);
            self.listener.metrics.told(Cause::Unproven);
        }
        self.watched.insert(task.id(), Watched::new(connection, Instant::now(), age));
        self.shares.divide_between(self.watched.len());
    }

    /// Cuts connections that are missed least, some at once: looking for them takes a while. Those
    /// with calls under way stay.
    fn make_room(&mut self) -> bool {
        let least = self.watched.iter().filter_map(|(id, watched)| {
            watched.dispensable().map(|dispensable| (dispensable, *id))
        });
        let mut least: Vec<_> = least.collect();
        let some = (self.watched.len() / CROWD_SHARE).max(1).min(least.len());
        if some == 0 {
            return false;
        }
        least.select_nth_unstable_by_key(some - 1, |(dispensable, _)| *dispensable);
        for (_, id) in least.drain(..some) {
            if let Some(watched) = self.watched.remove(&id) {
                self.strangers.leave(&watched.connection);
                watched.connection.tell(Order::Cut);
                self.listener.metrics.told(Cause::Crowded);
            }
        }
        true
    }

    /// Memory that connections keep from their fullest moments is bounded over all of them.
    fn let_go_of_the_grown(&mut self, now: Instant) {
        let most = self.listener.bounds.streams * KEPT_SHARE;
        let mut kept: usize = self.watched.values().map(Watched::kept).sum();
        if kept <= most {
            return;
        }
        let grown = self.watched.values_mut().filter(|watched| watched.grown());
        let mut grown: Vec<_> = grown.collect();
        grown.sort_by_key(|watched| (watched.dispensable().is_none(), Reverse(watched.kept())));
        for watched in grown {
            if kept <= most {
                return;
            }
            kept -= watched.kept();
            if watched.tell(Order::Leave, now) {
                self.listener.metrics.told(Cause::Grown);
            }
        }
    }

    async fn pause(&mut self, error: &io::Error) {
        if !self.failing {
            warn!(%error, "a connection could not be accepted; it is tried again");
        }
        self.failing = true;
        sleep(ACCEPT_PAUSE).await;
    }

    fn look(&mut self) {
        let (now, full) = (Instant::now(), self.shares.full());
        for watched in self.watched.values_mut() {
            if let Some((order, cause)) = watched.look(&self.listener.bounds, now, full)
                && watched.tell(order, now)
            {
                self.listener.metrics.told(cause);
            }
        }
        self.let_go_of_the_grown(now);
        self.listener.metrics.set(self.watched.len(), self.shares.taken());
        if full && !self.full {
            warn!(
                streams = self.listener.bounds.streams,
                "as many calls are under way as `bounds.streams` allows; those that would have \
                 to wait are refused"
            );
        } else if self.full && !full {
            info!("calls are let in again");
        }
        self.full = full;
    }
}

async fn accept(port: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match port {
        Some(port) => port.accept().await,
        None => pending().await,
    }
}

/// Serves one connection to its end.
async fn serve<S>(
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    calls: Calls<S>,
    http: Arc<Builder<TokioExecutor>>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let connection = Arc::clone(&calls.connection);
    let mut byte = [0];
    let first = tokio::select! {
        first = timeout(calls.bounds.speak, tcp.peek(&mut byte)) => first,
        () = connection.told(Order::Leave) => return,
    };
    match first {
        Ok(Ok(1..)) => connection.spoke(),
        Ok(Ok(0) | Err(_)) => return,
        Err(_elapsed) => return connection.metrics.silent(),
    }
    // Without it small answers wait for the acknowledgement of those before.
    let _ = tcp.set_nodelay(true);
    let Some(tls) = tls else { return speak(tcp, calls, http).await };
    let accepted = tokio::select! {
        accepted = timeout(calls.bounds.speak, tls.accept(tcp)) => accepted,
        () = connection.told(Order::Leave) => return,
    };
    match accepted {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            if let Some(proven) = tls::proven(certificates) {
                connection.peer.presents(proven);
            }
            speak(stream, calls, http).await;
        }
        // Most are scanners, and clients that do not trust us or speak plaintext: they know.
        Ok(Err(error)) => {
            connection.metrics.no_tls();
            debug!(%error, "a connection is no TLS that we can speak");
        }
        Err(_elapsed) => connection.metrics.silent(),
    }
}

/// Speaks HTTP until the connection ends.
async fn speak<S, I>(stream: I, calls: Calls<S>, http: Arc<Builder<TokioExecutor>>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::clone(&calls.connection);
    let service = service_fn(move |request| calls.begin(request));
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that breaks the protocol hears of it from the library.
        _ = served.as_mut() => return,
        () = connection.told(Order::Leave) => served.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = served.as_mut() => {}
        () = connection.told(Order::Cut) => {}
    }
}

fn http(protocol: Protocol, bounds: &Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    if protocol == Protocol::Http2 {
        builder = builder.http2_only();
    }
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(bounds.connection_streams)
        .max_header_list_size(bounds.header_bytes);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.request);
    builder
}

/// How often connections are looked at.
fn often(bounds: &Bounds) -> Duration {
    let least = bounds.idle.min(bounds.answer).min(bounds.age);
    WATCH.min(least / WATCH_SHARE).max(Duration::from_millis(1))
}

/// Connections that came together do not leave together.
fn spread(age: Duration, seed: usize) -> Duration {
    // Steps of the golden ratio fill the range evenly, in whatever order connections come.
    let step = u32::try_from(seed.wrapping_mul(0x9E37_79B9) & 0xFFFF).unwrap_or_default();
    let part = age / AGE_SPREAD;
    part * (AGE_SPREAD - 1) + part * 2 * step / 0x1_0000
}
