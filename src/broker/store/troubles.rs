//! Troubles of our clients at providers, known to all processes that have the store.

use async_trait::async_trait;

use crate::broker::model::{ClientFingerprint, Evidence, Millis};
use crate::broker::store::error::StoreError;

/// Which change a value is; each is made on top of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Version(pub u64);

/// Keeps what is known of troubles; the contract is that of [`Store`](super::Store), but it ends by
/// itself after an hour, and may be lost with the store's memory. Times are by a clock of the caller's,
/// of which it says the time.
#[async_trait]
pub trait Troubles {
    /// What is known of this client's.
    async fn trouble(&self, client: &str, now: Millis) -> Result<(Evidence, Version), StoreError>;

    /// Puts it in the place of what was read; `false`: another process was quicker.
    async fn put_trouble(
        &self,
        client: &str,
        read: Version,
        evidence: &Evidence,
        now: Millis,
    ) -> Result<bool, StoreError>;

    /// What the client was then; `None`: nobody has said so yet. Unlike troubles, it is kept for good.
    async fn client_was(
        &self,
        client: &str,
        when: When,
    ) -> Result<Option<ClientFingerprint>, StoreError>;

    /// What it is now.
    async fn client_is(
        &self,
        client: &str,
        when: When,
        fingerprint: ClientFingerprint,
    ) -> Result<(), StoreError>;
}

/// When a client was what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// When a request of it last succeeded.
    Proven,
    /// When a process that has the store last began.
    Begun,
}

impl When {
    /// Stable name, in stored values.
    pub fn name(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Begun => "begun",
        }
    }
}
