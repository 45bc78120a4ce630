//! What other processes change, as the backend hears it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc::Sender;

use crate::broker::store::{Events, Heard};
use crate::store::backend::StoreResult;
use crate::store::vault::Vault;

#[async_trait]
impl Events for Vault {
    async fn listen(&self, heard: Sender<Heard>, silence: Duration) -> StoreResult<()> {
        self.backend.listen(heard, silence).await
    }
}
