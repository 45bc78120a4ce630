//! The wire: one request on a connection of its own, and all that comes back.
//!
//! hyper is asked directly, which is what reqwest stands on: reqwest lets nobody in between its socket and
//! its parser, and what arrives has to be there also where the parser gives up. A connection that was dialled
//! for one request leaves nothing to switch off, either: no pool (a pooled connection that the server closes
//! as we write looks just like a lost answer), no retry, no redirect, no proxy.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

use crate::upstream::http::dial::Line;
use crate::upstream::http::recorder::{Recorder, Recording};

/// How long what had arrived at the deadline may take from the socket to us.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Where the parser gave up or the end is missing, the rest is over when nothing came for so long; ...
const QUIET: Duration = Duration::from_secs(5);
/// ... or for so long after what looks like an end.
const QUIET_AT_THE_END: Duration = Duration::from_millis(500);
/// Most headers of a reply; the library's own limit of 100 would cost the refresh token.
const HEADERS_MAX: usize = 1_000;
/// Most bytes of a reply that are read, and most with its head and with how it is packed.
const BODY_MAX: usize = 1 << 20;
const BYTES_MAX: usize = 2 * BODY_MAX;

/// All that came of one request.
#[derive(Default)]
pub(super) struct Heard {
    /// Status and headers, if they can be read.
    pub(super) head: Option<(u16, HeaderMap)>,
    /// As much of the body as can be read.
    pub(super) body: Vec<u8>,
    /// The end of the body was seen.
    pub(super) whole: bool,
    /// Every byte.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Not because the time was up.
    pub(super) ended: bool,
}

impl Heard {
    /// It is no refusal, as far as can be read: a pair may be in it.
    fn may_be_success(&self) -> bool {
        self.head.as_ref().is_none_or(|(status, _)| (200..300).contains(status))
    }
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

/// Sends a request once. `is_cut`: a body that is whole by its own account lacks its end.
pub(super) async fn exchange(
    line: Box<dyn Line>,
    request: Request<Full<Bytes>>,
    deadline: Instant,
    is_cut: impl Fn(&[u8]) -> bool,
) -> Heard {
    let recording = Recording::default();
    let io = TokioIo::new(Recorder::new(line, BYTES_MAX, recording.clone()));
    let mut heard = Heard::default();
    // It does not touch the connection yet.
    let Ok((mut sender, mut connection)) = parser().handshake(io).await else { return heard };
    let work = ask(&mut sender, request, &mut heard);
    let served = poll_fn(|context| connection.poll_without_shutdown(context));
    let done = listen(deadline, beside(served, work)).await;
    heard.ended = done.is_some();
    // By its own account it is whole, so there is little to wait for.
    let quiet = if heard.whole { QUIET_AT_THE_END } else { QUIET };
    heard.whole &= !(heard.may_be_success() && is_cut(&heard.body));
    let lacks = heard.may_be_success() && !heard.whole && heard.body.len() < BODY_MAX;
    if heard.ended && lacks {
        let line = connection.into_parts().io.into_inner();
        listen(deadline, drain(line, &recording, quiet)).await;
    }
    heard.bytes = recording.take();
    heard
}

/// Reads what still comes; the recording has it.
async fn drain(mut line: Recorder<Box<dyn Line>>, recording: &Recording, quiet: Duration) {
    let mut rest = [0; 4096];
    loop {
        let quiet = if recording.ends_with(b'}') { QUIET_AT_THE_END } else { quiet };
        match timeout(quiet, line.read(&mut rest)).await {
            Ok(Ok(read)) if read > 0 && recording.len() < BYTES_MAX => {}
            _ => return,
        }
    }
}

/// Reads heads that are as odd as they like: a refresh token is behind them. What is no HTTP/1 at all is read
/// again as bytes.
fn parser() -> http1::Builder {
    let mut parser = http1::Builder::new();
    parser
        .max_headers(HEADERS_MAX)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    parser
}

/// Does the work while the connection is served, also after that has ended.
async fn beside<T>(served: impl Future, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        _ = served => {}
    }
    work.await
}

/// Reads as much as comes, up to the limit: what arrived may hold the refresh token even if the
/// rest never does.
async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    heard: &mut Heard,
) {
    let Ok(response) = sender.send_request(request).await else { return };
    let (parts, mut body) = response.into_parts();
    heard.head = Some((parts.status.as_u16(), parts.headers));
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        let Some(chunk) = frame.data_ref() else { continue };
        let room = BODY_MAX - heard.body.len();
        heard.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if heard.body.len() == BODY_MAX {
            return;
        }
    }
    heard.whole = true;
}
