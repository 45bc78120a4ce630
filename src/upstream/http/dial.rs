//! Dialling: a connection to a provider, or why there is none. Until there is one nothing was sent.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service as _;
use url::Url;

use crate::broker::endpoint::Unreached;

/// Connects to whomever this machine trusts, directly: no proxy that the environment slipped in.
#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    tls: TlsConnector,
}

/// A connection.
pub(crate) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

/// Why no connection came about.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NotReached {
    pub(crate) kind: Unreached,
    pub(crate) why: String,
}

impl Dialer {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let mut config = ClientConfig::with_platform_verifier()?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tcp, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// A connection to the host of `url`, encrypted if that says so.
    pub(crate) async fn dial(
        &self,
        url: &Url,
        within: Duration,
    ) -> Result<Box<dyn Line>, NotReached> {
        let silent = || {
            let why = "nothing came back from its address in time".to_owned();
            NotReached { kind: Unreached::Silence, why }
        };
        timeout(within, self.connect(url, within)).await.unwrap_or_else(|_elapsed| Err(silent()))
    }

    async fn connect(&self, url: &Url, within: Duration) -> Result<Box<dyn Line>, NotReached> {
        let odd = |why: String| NotReached { kind: Unreached::Name, why };
        let uri: Uri = url.as_str().parse().map_err(|_| odd("its address is odd".to_owned()))?;
        let mut tcp = self.tcp.clone();
        // Shared out among its addresses, so that one that is dead leaves time for the next.
        tcp.set_connect_timeout(Some(within));
        let connected = tcp.call(uri).await.map_err(|error| not_reached(&error))?;
        let tcp = connected.into_inner();
        if url.scheme() != "https" {
            return Ok(Box::new(tcp));
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|error| odd(error.to_string()))?;
        let untrusted =
            |error: io::Error| NotReached { kind: Unreached::Tls, why: format!("TLS: {error}") };
        Ok(Box::new(self.tls.connect(name, tcp).await.map_err(untrusted)?))
    }
}

/// Why nobody was reached, by kind, with the innermost cause.
pub(crate) fn not_reached(error: &(dyn Error + 'static)) -> NotReached {
    let causes = || successors(Some(error), |&error| error.source());
    let innermost = causes().last().map(ToString::to_string).unwrap_or_default();
    if causes().any(of_tls) {
        return NotReached { kind: Unreached::Tls, why: format!("TLS: {innermost}") };
    }
    // The library keeps the kind of a failed look-up to itself.
    if causes().any(|cause| cause.to_string().contains("dns error")) {
        let why = format!("its name is not found: {innermost}");
        return NotReached { kind: Unreached::Name, why };
    }
    NotReached { kind: Unreached::Connection, why: innermost }
}

/// TLS says no, however deep that is wrapped.
fn of_tls(cause: &(dyn Error + 'static)) -> bool {
    let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| of_tls(inner))
}
