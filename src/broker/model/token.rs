//! Pairs: an access token and what buys the next one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::broker::model::generation::Generation;
use crate::secret::{AccessToken, RefreshToken};

/// An access token and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The secret itself.
    pub access_token: AccessToken,
    /// `Bearer`, or what the provider said.
    pub token_type: String,
    /// The generation that minted it; the grant may be further on.
    pub generation: Generation,
    /// Taken before the request was sent.
    pub issued_at: SystemTime,
    /// How long it lives from then on.
    pub lifetime: Duration,
    /// When the provider wants it refreshed, counted like the lifetime.
    pub refresh_in: Option<Duration>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Fields of the reply that the provider's configuration lets through.
    pub attributes: BTreeMap<String, String>,
}

impl Token {
    /// The first moment at which it is no longer valid.
    pub fn expires_at(&self) -> SystemTime {
        self.issued_at + self.lifetime
    }
}

/// The secrets of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What buys the next generation; absent for kinds that spend nothing.
    pub refresh_token: Option<RefreshToken>,
    /// The end of the refresh token, if the provider said so.
    pub refresh_token_expires_at: Option<SystemTime>,
    /// The newest access token; absent before the first refresh.
    pub token: Option<Token>,
    /// When this generation arrived.
    pub published_at: SystemTime,
}
