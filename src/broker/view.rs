//! Views: a grant as this process last saw it.

use std::sync::OnceLock;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;

use crate::broker::freshness::Window;
use crate::broker::model::{Grant, Token};

/// A grant as last seen, with the moments of its token.
#[derive(Debug)]
pub struct View {
    /// The grant.
    pub grant: Grant,
    /// The moments of its token, if it has one.
    pub window: Option<Window>,
    /// The fingerprint of its token; empty if it has none.
    pub fingerprint: String,
    /// Counts the calls that it answers.
    pub(super) hits: OnceLock<Counter>,
}

impl View {
    /// Computes what serving needs, once for each change.
    pub fn new(grant: Grant) -> Self {
        let window = grant.pair.token.as_ref().map(|token| Window::of(&grant.id, token));
        let fingerprint = grant.pair.token.as_ref().map(|token| token.access_token.fingerprint());
        let fingerprint = fingerprint.unwrap_or_default();
        Self { grant, window, fingerprint, hits: OnceLock::new() }
    }

    /// The token and its moments.
    pub fn token(&self) -> Option<(&Token, Window)> {
        self.grant.pair.token.as_ref().zip(self.window)
    }

    /// When the grant is due for a refresh; at once if it has no token.
    pub fn due_at(&self) -> SystemTime {
        self.window.map_or(self.grant.pair.published_at, |window| window.soft_at)
    }
}
