//! Reading again what a parser gave up on, as bytes. Pure.
//!
//! Lengths may contradict each other, chunks be announced and not come, a head be no head: a person who
//! looked at the bytes would still see the answer.

use hyper::header::{CONTENT_ENCODING, RETRY_AFTER};

/// What does not begin like an answer is one all the same (as HTTP/0.9 had it).
const OK: u16 = 200;
/// Heads in a row: hints come before the answer.
const HEADS_MAX: usize = 8;

/// One way to read an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// `None`: it begins like an answer, and its status cannot be read.
    pub(super) status: Option<u16>,
    pub(super) encodings: Vec<String>,
    pub(super) retry_after: Option<String>,
    pub(super) body: Vec<u8>,
}

/// What these bytes may be; the likeliest first. None if there are none. `head_read`: where the head ends is
/// known.
pub(super) fn readings(bytes: &[u8], head_read: bool) -> Vec<Reading> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let (head, body) = head(bytes);
    let of = |body: &[u8]| Reading {
        status: head.status,
        encodings: head.all(CONTENT_ENCODING.as_str()).map(str::to_owned).collect(),
        retry_after: head.all(RETRY_AFTER.as_str()).next().map(str::to_owned),
        body: body.to_vec(),
    };
    let mut readings = vec![of(body)];
    if let Some(joined) = joined(body) {
        readings.insert(0, of(&joined));
    }
    if body.len() != bytes.len() && !head_read {
        // Where the head ends may be wrong, too.
        readings.push(of(bytes));
    }
    readings
}

struct Head {
    status: Option<u16>,
    lines: Vec<(String, String)>,
}

impl Head {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.lines.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }
}

/// The head of the answer itself, and what follows it.
fn head(bytes: &[u8]) -> (Head, &[u8]) {
    let mut rest = bytes;
    for _ in 0..HEADS_MAX {
        let Some((lines, after)) = end_of_head(rest).filter(|_| begins_like_one(rest)) else {
            break;
        };
        let status = status(rest);
        rest = after;
        if !status.is_some_and(|status| (100..200).contains(&status)) {
            let text = String::from_utf8_lossy(lines).into_owned();
            let lines = text.lines().filter_map(|line| line.split_once(':'));
            let named =
                |(name, value): (&str, &str)| (name.trim().to_owned(), value.trim().to_owned());
            return (Head { status, lines: lines.map(named).collect() }, rest);
        }
    }
    let status = if begins_like_one(rest) { status(rest) } else { Some(OK) };
    (Head { status, lines: Vec::new() }, rest)
}

fn begins_like_one(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP") || bytes.starts_with(b"ICY ")
}

/// The number of three digits behind the first space.
fn status(bytes: &[u8]) -> Option<u16> {
    let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let digits = words.nth(1)?.get(..3)?;
    let status = str::from_utf8(digits).ok()?.parse().ok()?;
    (100..1_000).contains(&status).then_some(status)
}

/// The head, and what follows the empty line after it.
fn end_of_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let ends = [b"\r\n\r\n".as_slice(), b"\n\n", b"\r\r", b"\n\r\n"];
    let at = |end: &&[u8]| {
        Some((bytes.windows(end.len()).position(|window| window == *end)?, end.len()))
    };
    let (at, length) = ends.iter().filter_map(at).min()?;
    Some((&bytes[..at], &bytes[at + length..]))
}

/// Chunks joined, as far as they are some (RFC 9112 section 7.1); and the rest as it is.
fn joined(body: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut joined) = (body, Vec::new());
    while let Some((length, after)) = chunk(rest) {
        let length = length.min(after.len());
        joined.extend_from_slice(&after[..length]);
        rest = &after[length..];
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
        if length == 0 {
            break;
        }
    }
    (rest.len() != body.len()).then(|| {
        joined.extend_from_slice(rest);
        joined
    })
}

/// The length in front of a chunk, in hexadecimal digits, and what follows its line.
fn chunk(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(64).position(|byte| *byte == b'\n')?;
    let line = str::from_utf8(&bytes[..end]).ok()?;
    let length = line.split(';').next()?.trim();
    Some((usize::from_str_radix(length, 16).ok()?, &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeliest(bytes: &str) -> (Option<u16>, String) {
        let first = readings(bytes.as_bytes(), false).remove(0);
        (first.status, String::from_utf8(first.body).unwrap())
    }

    #[test]
    fn an_answer_is_seen_whatever_its_head_says() {
        for (bytes, status, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}", 200, "{}"),
            ("HTTP/1.1 400 Bad\nA: b\n\n{}", 400, "{}"),
            ("HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{}", 200, "{}"),
            ("HTTP/1.1\t429\r\r{}", 429, "{}"),
            ("HTTP/2 400 Bad Request\r\n\r\n{}", 400, "{}"),
            ("{}", 200, "{}"),
            ("SSH-2.0-x\r\n", 200, "SSH-2.0-x\r\n"),
            ("HTTP/1.1 200 OK\r\n\r\n2;x=y\r\n{}\r\n0\r\n\r\n", 200, "{}"),
            ("HTTP/1.1 200 OK\r\n\r\n1\r\n{\r\n}", 200, "{}"),
            ("HTTP/1.1 200 OK\r\n\r\nffffffffffffffff\r\n{}", 200, "{}"),
            ("HTTP/1.1 200 OK", 200, "HTTP/1.1 200 OK"),
        ] {
            assert_eq!(likeliest(bytes), (Some(status), body.to_owned()), "{bytes}");
        }
        // A status that cannot be read is none, and no success.
        for bytes in ["HTTP/1.1 5", "HTTP/1.1", "HTTP/1.1 OK\r\n\r\n{}"] {
            assert_eq!(likeliest(bytes).0, None, "{bytes}");
        }
        let latin = b"HTTP/1.1 400 Ung\xfcltig\r\n\r\n{}";
        assert_eq!(readings(latin, false)[0].status, Some(400));
        assert_eq!(readings(b"", false), []);
    }

    #[test]
    fn what_the_head_says_of_the_body_is_kept() {
        let head = "HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-ENCODING: br\r\n\r\n";
        let reading = readings(head.as_bytes(), false).remove(0);
        assert_eq!(reading.retry_after.as_deref(), Some("7"));
        assert_eq!(reading.encodings, ["br"]);
    }
}
