//! What arrived of an answer, in each way that it can be read, and which of them gives most. Pure.

use std::time::{Duration, SystemTime};

use hyper::header::{CONTENT_ENCODING, RETRY_AFTER};

use crate::broker::endpoint::{Disposition, Failure, Reply};
use crate::broker::model::DoubtKind;
use crate::clock::between;
use crate::secret::RefreshToken;
use crate::upstream::http::reread::{Reading, readings};
use crate::upstream::http::unknown;
use crate::upstream::http::wire::Heard;
use crate::upstream::provider::Provider;
use crate::upstream::reply::{Raw, judge};

/// What an answer is taken for whose status cannot be read: both tokens have to be in it.
const SUCCESS: u16 = 200;

/// An answer, as far as it came.
pub(super) struct Arrived {
    pub(super) status: u16,
    /// It was read, and not taken for granted.
    pub(super) sure: bool,
    body: Vec<u8>,
    whole: bool,
    encodings: Vec<String>,
    retry_after: Option<Duration>,
    at: SystemTime,
}

impl Arrived {
    /// The same, as an answer to `sent`.
    pub(super) fn raw<'a>(&'a self, sent: Option<&'a RefreshToken>) -> Raw<'a> {
        let Self { status, whole, retry_after, at: now, .. } = *self;
        let (body, encodings) = (&self.body, &self.encodings);
        Raw { status, body, whole, encodings, retry_after, sent, now }
    }
}

fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(between(now, httpdate::parse_http_date(text.trim()).ok()?))
}

/// The ways to read what came, each as an answer; the parser's first. At least one, if anything came.
pub(super) fn arrivals(heard: Heard, at: SystemTime) -> Vec<Arrived> {
    let mut arrivals = Vec::new();
    if let Some((status, headers)) = heard.head {
        let texts = |name| {
            let all = headers.get_all(name).into_iter();
            all.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect::<Vec<_>>()
        };
        let retry_after = texts(RETRY_AFTER).first().and_then(|text| self::retry_after(text, at));
        let (encodings, whole) = (texts(CONTENT_ENCODING), heard.whole);
        let body = heard.body;
        let sure = true;
        arrivals.push(Arrived { status, sure, body, whole, encodings, retry_after, at });
    }
    let head_read = !arrivals.is_empty();
    for reading in readings(&heard.bytes, head_read) {
        let Reading { status, encodings, retry_after, body } = reading;
        let (sure, status) = (status.is_some(), status.unwrap_or(SUCCESS));
        let retry_after = retry_after.and_then(|text| self::retry_after(&text, at));
        let whole = false;
        arrivals.push(Arrived { status, sure, body, whole, encodings, retry_after, at });
    }
    arrivals
}

/// What the parser made of an answer; where that is a success that cannot be read, the first way to read the
/// bytes that gives both tokens, or else the refresh token.
pub(super) fn fullest<'a>(
    provider: &Provider,
    arrivals: &'a [Arrived],
    sent: Option<&RefreshToken>,
) -> (Reply, &'a Arrived) {
    let first = &arrivals[0];
    let read = if first.sure { judge(provider, &first.raw(sent)) } else { illegible(first.status) };
    let success = (200..300).contains(&first.status);
    let unread = read.issued.as_ref().is_err_and(is_unread) || !first.whole;
    if !success || !unread || (read.issued.is_ok() && read.refresh_token.is_some()) {
        return (read, first);
    }
    let others = arrivals.iter().map(|other| (judge(provider, &other.raw(sent)), other));
    let mut found: Vec<_> = others
        .filter(|(reply, other)| {
            reply.refresh_token.is_some() && (other.sure || reply.issued.is_ok())
        })
        .collect();
    let both = found.iter().position(|(reply, _)| reply.issued.is_ok());
    match both {
        Some(both) => found.swap_remove(both),
        None if read.refresh_token.is_none() && !found.is_empty() => found.swap_remove(0),
        None => (read, first),
    }
}

/// An answer whose status cannot be read.
fn illegible(status: u16) -> Reply {
    Failure { status: Some(status), ..unknown(DoubtKind::Unreadable) }.into()
}

fn is_unread(failure: &Failure) -> bool {
    failure.disposition == Disposition::Unknown(DoubtKind::Unreadable)
}
