//! What came over the wire, and how it becomes text. Pure.

use std::borrow::Cow;
use std::io::Read;
use std::time::{Duration, SystemTime};

use brotli_decompressor::Decompressor;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

#[cfg(test)]
use crate::clock::from_unix_ms;
use crate::secret::RefreshToken;

/// Most that a packed reply may become.
const UNPACKED_MAX: u64 = 1 << 20;
/// Packed, and packed again.
const LAYERS_MAX: usize = 4;
/// What the library for brotli reads at a time.
const BROTLI_BUFFER: usize = 4_096;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A reply as it came.
pub(crate) struct Raw<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// Its end was seen.
    pub(crate) whole: bool,
    /// What the headers `Content-Encoding` say, in their order.
    pub(crate) encodings: &'a [String],
    pub(crate) retry_after: Option<Duration>,
    /// The refresh token that it answers.
    pub(crate) sent: Option<&'a RefreshToken>,
    /// When it came, by the wall clock.
    pub(crate) now: SystemTime,
}

/// The body as text.
pub(super) struct Text<'a> {
    pub(super) text: Cow<'a, str>,
    /// Nothing is missing at its end.
    pub(super) whole: bool,
}

impl<'a> Raw<'a> {
    /// What must not be repeated of it.
    pub(super) fn known(&self) -> Vec<&str> {
        self.sent.iter().map(|token| token.expose()).collect()
    }

    /// A whole reply without headers that matter.
    #[cfg(test)]
    pub(crate) fn answered(status: u16, body: &'a [u8]) -> Self {
        Self {
            status,
            body,
            whole: true,
            encodings: &[],
            retry_after: None,
            sent: None,
            now: from_unix_ms(1_800_000_000_000),
        }
    }

    /// Unpacks what came packed although nobody asked for that, and reads what is not UTF-8 as far
    /// as it goes.
    pub(super) fn text(&self) -> Text<'a> {
        let (mut body, mut whole) = (Cow::Borrowed(self.body), self.whole);
        for _ in 0..LAYERS_MAX {
            let Some((inner, ended)) = unpacked(&body, self.encodings) else { break };
            (body, whole) = (Cow::Owned(inner), whole && ended);
        }
        Text { text: decoded(body), whole }
    }
}

/// What a packed body holds, as far as it can be unpacked, and whether that is all; `None`: it is not packed.
/// The bytes outweigh what the headers say of them.
fn unpacked(body: &[u8], encodings: &[String]) -> Option<(Vec<u8>, bool)> {
    let said = |name: &str| {
        let mut words = encodings.iter().flat_map(|value| value.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(name))
    };
    if body.starts_with(&GZIP) {
        return Some(read(MultiGzDecoder::new(body)));
    }
    // RFC 1950 section 2.2: the method, and a check of both bytes.
    let zlib = matches!(body, [method, flags, ..]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31));
    let nonempty = |(inner, ended): (Vec<u8>, bool)| (!inner.is_empty()).then_some((inner, ended));
    if zlib && let Some(found) = nonempty(read(ZlibDecoder::new(body))) {
        return Some(found);
    }
    let raw = || nonempty(read(DeflateDecoder::new(body)));
    let brotli = || nonempty(read(Decompressor::new(body, BROTLI_BUFFER)));
    if looks_like_text(body) {
        return None;
    }
    let (deflate_said, brotli_said) = (said("deflate"), said("br"));
    // Nothing tells these from other bytes but what becomes of them.
    let sensible = |found: &(Vec<u8>, bool)| {
        let text = String::from_utf8_lossy(&found.0).to_ascii_lowercase();
        text.contains("token") || text.contains("error")
    };
    raw()
        .filter(|found| deflate_said || sensible(found))
        .or_else(|| brotli().filter(|found| brotli_said || sensible(found)))
}

/// What can be unpacked, and whether that is all.
fn read(packed: impl Read) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    let ended = packed.take(UNPACKED_MAX).read_to_end(&mut body).is_ok();
    let whole = ended && (body.len() as u64) < UNPACKED_MAX;
    (body, whole)
}

/// Text begins with text, in any of the encodings that are read.
fn looks_like_text(body: &[u8]) -> bool {
    let begin = &body[..body.len().min(16)];
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n' | 0);
    let begin = [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff"]
        .iter()
        .find_map(|mark| begin.strip_prefix(*mark))
        .unwrap_or(begin);
    begin.iter().all(printable)
}

pub(super) fn decoded(body: Cow<'_, [u8]>) -> Cow<'_, str> {
    let units = |pair: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            body.chunks_exact(2).map(|bytes| pair([bytes[0], bytes[1]])).collect();
        Cow::Owned(String::from_utf16_lossy(&units))
    };
    let letters = |four: fn([u8; 4]) -> u32| {
        let letter = |bytes: &[u8]| char::from_u32(four([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let text = body.chunks_exact(4).map(|bytes| letter(bytes).unwrap_or('\u{fffd}'));
        Cow::Owned(text.collect::<String>())
    };
    match *body.get(..4).unwrap_or_default() {
        [0xff, 0xfe, 0, 0] => return letters(u32::from_le_bytes),
        [0, 0, 0xfe, 0xff] => return letters(u32::from_be_bytes),
        // A text begins with ASCII, whose other bytes are zero.
        [first, 0, 0, 0] if first > 0 => return letters(u32::from_le_bytes),
        [0, 0, 0, last] if last > 0 => return letters(u32::from_be_bytes),
        _ => {}
    }
    match *body.get(..2).unwrap_or_default() {
        [0xff, 0xfe] => units(u16::from_le_bytes),
        [0xfe, 0xff] => units(u16::from_be_bytes),
        [first, 0] if first > 0 => units(u16::from_le_bytes),
        [0, second] if second > 0 => units(u16::from_be_bytes),
        _ => match body {
            Cow::Borrowed(body) => String::from_utf8_lossy(body),
            Cow::Owned(body) => Cow::Owned(String::from_utf8_lossy(&body).into_owned()),
        },
    }
}
