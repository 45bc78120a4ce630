//! The wire: one request, sent at most once, and all that comes back.

use std::error::Error as _;
use std::future::Future;
use std::iter::successors;
use std::pin::pin;
use std::time::Duration;

use reqwest::{Client, Response, redirect, retry};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::broker::endpoint::{Disposition, Failure, Unreached};
use crate::broker::error::chain;
use crate::broker::model::{DoubtKind, ProviderId, Reason};
use crate::upstream::provider::Provider;
use crate::upstream::reply::cleaned;

/// How long what had arrived at the deadline may take from the socket to us.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Most headers of a reply; the library's own limit of 100 would cost the refresh token.
const HEADERS_MAX: usize = 1_000;
/// Most bytes of a reply that are read.
const BODY_MAX: usize = 1 << 20;

/// A client that never sends anything twice: no redirect, no retry, no pool (a pooled connection
/// that the server closes as we write looks just like a lost answer), no HTTP/2 replays, and no
/// proxy that the environment slipped in.
#[expect(clippy::disallowed_methods, reason = "the one place that builds the token client")]
pub(super) fn client(provider: &Provider) -> Result<Client, reqwest::Error> {
    Client::builder()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_max_idle_per_host(0)
        .http1_only()
        // The head of a reply may be as odd as it likes: a refresh token is behind it.
        .http1_max_headers(HEADERS_MAX)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http09_responses()
        .no_proxy()
        .connect_timeout(provider.connect_timeout)
        .user_agent(concat!("token-broker/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Waits until the deadline, and a moment longer: what had arrived by then is still read, also if
/// the process itself was stopped meanwhile.
pub(super) async fn listen<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    match timeout_at(deadline, &mut work).await {
        Ok(done) => Some(done),
        Err(_elapsed) => timeout(LAST_LOOK, work).await.ok(),
    }
}

/// Reads as much as comes, up to the limit: what arrived may hold the refresh token even if the
/// rest never does.
pub(super) async fn read(mut response: Response, deadline: Instant) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    let whole = listen(deadline, fill(&mut response, &mut body)).await.unwrap_or(false);
    (body, whole)
}

/// Whether its end came.
async fn fill(response: &mut Response, body: &mut Vec<u8>) -> bool {
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = BODY_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if body.len() == BODY_MAX {
                    return false;
                }
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// No answer came: was anything sent?
pub(super) fn unanswered(id: &ProviderId, error: reqwest::Error) -> Failure {
    let unsent = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let cause = chain(&error);
    debug!(provider = %id, sent = !unsent, error = cause, "the token endpoint gave no answer");
    if !unsent && unreadable_head(&error) {
        warn!(
            provider = %id,
            error = cause,
            "the head of a reply cannot be read; if a refresh token came with it, it is lost"
        );
        return unknown(DoubtKind::Unreadable);
    }
    if !unsent {
        return unknown(DoubtKind::Ended);
    }
    let (unreached, cause) = unreached(&error);
    let failure = Failure::new(Reason::ProviderUnreachable, Disposition::NotSent);
    Failure { unreached: Some(unreached), detail: Some(cleaned(&cause, &[])), ..failure }
}

/// Why no connection came about: its kind, and the innermost cause.
fn unreached(error: &reqwest::Error) -> (Unreached, String) {
    let causes = || successors(error.source(), |&error| error.source());
    let innermost = causes().last().map_or_else(|| error.to_string(), ToString::to_string);
    let tls = causes().any(of_tls);
    // The library keeps the kind of a failed look-up to itself.
    let named = causes().any(|cause| cause.to_string().contains("dns error"));
    match () {
        () if tls => (Unreached::Tls, format!("TLS: {innermost}")),
        () if named => (Unreached::Name, format!("its name is not found: {innermost}")),
        () if error.is_timeout() => {
            (Unreached::Silence, "nothing came back from its address in time".to_owned())
        }
        () => (Unreached::Connection, innermost),
    }
}

/// TLS says no, however deep that is wrapped.
fn of_tls(cause: &(dyn std::error::Error + 'static)) -> bool {
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    cause.is::<rustls::Error>() || inner.is_some_and(|inner| of_tls(inner))
}

/// An answer came, and is no HTTP.
fn unreadable_head(error: &reqwest::Error) -> bool {
    let mut causes = successors(error.source(), |&error| error.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse))
}

pub(super) fn unknown(kind: DoubtKind) -> Failure {
    Failure::new(Reason::RefreshOutcomeUnknown, Disposition::Unknown(kind))
}
