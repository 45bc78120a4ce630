//! What came over the wire, and how it becomes text. Pure.

use std::borrow::Cow;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use flate2::read::{GzDecoder, ZlibDecoder};

#[cfg(test)]
use crate::clock::from_unix_ms;
use crate::secret::RefreshToken;

/// Most that a packed reply may become.
const UNPACKED_MAX: u64 = 1 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A reply as it came.
pub(crate) struct Raw<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// Its end was seen.
    pub(crate) whole: bool,
    /// The header `Content-Encoding` says zlib, which nothing else tells.
    pub(crate) deflated: bool,
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
            deflated: false,
            retry_after: None,
            sent: None,
            now: from_unix_ms(1_800_000_000_000),
        }
    }

    /// Unpacks what came packed although nobody asked for that, and reads what is not UTF-8 as far
    /// as it goes.
    pub(super) fn text(&self) -> Text<'a> {
        let (body, whole) = if self.body.starts_with(&GZIP) {
            unpacked(GzDecoder::new(self.body))
        } else if self.deflated {
            unpacked(ZlibDecoder::new(self.body))
        } else {
            (Cow::Borrowed(self.body), true)
        };
        Text { text: decoded(body), whole: whole && self.whole }
    }
}

/// What can be unpacked, and whether that is all.
fn unpacked(packed: impl std::io::Read) -> (Cow<'static, [u8]>, bool) {
    let mut body = Vec::new();
    let ended = packed.take(UNPACKED_MAX).read_to_end(&mut body).is_ok();
    let whole = ended && (body.len() as u64) < UNPACKED_MAX;
    (Cow::Owned(body), whole)
}

fn decoded(body: Cow<'_, [u8]>) -> Cow<'_, str> {
    let units = |pair: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            body.chunks_exact(2).map(|bytes| pair([bytes[0], bytes[1]])).collect();
        Cow::Owned(String::from_utf16_lossy(&units))
    };
    match *body.get(..2).unwrap_or_default() {
        [0xff, 0xfe] => units(u16::from_le_bytes),
        [0xfe, 0xff] => units(u16::from_be_bytes),
        // A text begins with ASCII, whose other half is zero.
        [first, 0] if first > 0 => units(u16::from_le_bytes),
        [0, second] if second > 0 => units(u16::from_be_bytes),
        _ => match body {
            Cow::Borrowed(body) => String::from_utf8_lossy(body),
            Cow::Owned(body) => Cow::Owned(String::from_utf8_lossy(&body).into_owned()),
        },
    }
}
