//! Events: what other processes change, told at once.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;

use crate::broker::model::{GrantId, Position};
use crate::broker::store::error::StoreError;

/// Something that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// From now on everything is heard; what was before is not.
    Linked,
    /// A grant may have changed. Only a hint: anybody can say so, and the record is what counts.
    Changed {
        /// The grant.
        id: GrantId,
        /// Where its newest change stands, they say.
        position: Position,
    },
    /// What is known of a client's trouble may have changed.
    Trouble {
        /// The client.
        client: String,
    },
}

/// Tells of changes; the contract is that of [`Store`](super::Store), but nothing rests on it.
#[async_trait]
pub trait Events {
    /// Listens until nothing can be heard any more, or nothing was for `silence`. A store of one
    /// process is silent for ever.
    async fn listen(&self, heard: Sender<Heard>, silence: Duration) -> Result<(), StoreError>;
}
