//! What was proven and holds still: checking a signature costs more than everything else about a call.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use dashmap::DashMap;

/// Tokens that are remembered. Each pod has one at a time, and a new one every few minutes.
const KNOWN_MAX: usize = 10_000;

type Digest = [u8; 32];

/// Names of callers by their tokens, of which only digests are kept.
#[derive(Default)]
pub(super) struct Cache(DashMap<Digest, Known>);

struct Known {
    subject: Arc<str>,
    until: SystemTime,
}

impl Cache {
    pub(super) fn get(&self, token: &str, now: impl Fn() -> SystemTime) -> Option<Arc<str>> {
        let known = self.0.get(&of(token))?;
        (now() < known.until).then(|| Arc::clone(&known.subject))
    }

    pub(super) fn put(&self, token: &str, subject: Arc<str>, until: SystemTime, now: SystemTime) {
        if self.0.len() >= KNOWN_MAX {
            self.0.retain(|_, known| now < known.until);
        }
        // Only who has proven something takes a place: more than that are not remembered.
        if self.0.len() < KNOWN_MAX {
            self.0.insert(of(token), Known { subject, until });
        }
    }
}

fn of(token: &str) -> Digest {
    let mut digested = Digest::default();
    digested.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    digested
}
