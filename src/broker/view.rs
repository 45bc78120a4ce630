//! Views: a grant as this process last saw it, with all that serving needs.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use crate::broker::error::Error;
use crate::broker::freshness::Window;
use crate::broker::model::{Generation, Grant, Token};

/// Bytes that hold a token, so they cannot be printed.
#[derive(Clone)]
pub struct Encoded(pub Arc<[u8]>);

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded([redacted])")
    }
}

/// A failed refresh that has not been overcome.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What happened.
    pub error: Error,
    /// Failures in a row.
    pub failures: u32,
    /// When it was met.
    pub at: Instant,
    /// No refresh before this.
    pub until: Instant,
}

impl Trouble {
    /// A failure met just now, and for the first time.
    pub(super) fn now(error: Error) -> Self {
        let now = Instant::now();
        Self { error, failures: 1, at: now, until: now }
    }
}

/// A grant as last seen, with all that serving needs.
#[derive(Debug, Clone)]
pub struct View {
    /// The grant.
    pub grant: Grant,
    /// The moments of its token, if it has one.
    pub window: Option<Window>,
    /// The failure to refresh it that has not been overcome.
    pub trouble: Option<Arc<Trouble>>,
    /// Generation of the token that a caller reported as rejected by an API.
    pub(super) rejected: Option<Generation>,
    /// The fingerprint of its token; empty if it has none.
    pub fingerprint: String,
    /// What of its answers is always the same, as the edge encodes it.
    pub encoded: OnceLock<Encoded>,
    /// Counts the calls that it answers.
    pub(super) hits: OnceLock<Counter>,
}

impl View {
    /// Computes what serving needs, once for each change.
    pub fn new(grant: Grant) -> Self {
        let window = grant.pair.token.as_ref().map(|token| Window::of(&grant.id, token));
        let fingerprint = grant.pair.token.as_ref().map(|token| token.access_token.fingerprint());
        let fingerprint = fingerprint.unwrap_or_default();
        Self {
            grant,
            window,
            trouble: None,
            rejected: None,
            fingerprint,
            encoded: OnceLock::new(),
            hits: OnceLock::new(),
        }
    }

    /// The view that follows `known`: what is remembered beside the grant stays. A new pair, be it
    /// another process's, is the end of what kept this one from getting it.
    #[must_use]
    pub(super) fn after(self, known: &Self) -> Self {
        let same = self.grant.generation() == known.grant.generation();
        let trouble = known.trouble.clone().filter(|_| same);
        Self { trouble, rejected: known.rejected, ..self }
    }

    /// The token and its moments.
    pub fn token(&self) -> Option<(&Token, Window)> {
        self.grant.pair.token.as_ref().zip(self.window)
    }
}
