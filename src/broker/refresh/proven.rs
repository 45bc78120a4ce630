//! Whether anything has succeeded yet under what our client is now: another id, secret, key, address or
//! profile may be wrong, and refuse everybody. The store remembers, so that this holds over a restart.

use std::sync::Arc;

use tracing::{debug, info};

use crate::broker::error::chain;
use crate::broker::model::{ClientFingerprint, Evidence};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::troubles::Client;
use crate::broker::store::{StoreError, When};

impl Rotations {
    /// The client has changed, and nothing has succeeded since: no refusal is believed yet.
    pub(super) async fn is_unproven(&self, client: &Client) -> bool {
        let now = self.endpoint.client(&client.provider);
        if self.troubles.proven(client) == now {
            return false;
        }
        match self.store.client_was(&client.to_string(), When::Proven).await {
            Ok(before) if before == now => {
                self.troubles.prove(client, now);
                false
            }
            // Nothing is known of before; but what this process saw itself counts.
            Ok(None) => self.troubles.changed_since_success(client),
            // What cannot be looked up costs a grant less than a verdict.
            Ok(Some(_)) | Err(_) => true,
        }
    }

    /// A request of the client has succeeded.
    pub(super) async fn keep_proof(&self, client: &Client, now: ClientFingerprint) {
        match self.store.client_is(&client.to_string(), When::Proven, now).await {
            Ok(()) => self.troubles.prove(client, Some(now)),
            // The next success is as good.
            Err(failure) => {
                debug!(%client, error = chain(&failure), "what the client is now is not kept yet");
            }
        }
    }

    /// Changes over a restart end holds, too: asked before anything is sent, and once for each change,
    /// however often processes start.
    pub(in crate::broker) async fn compare_clients(&self) {
        for client in self.habits.keys().flat_map(Client::all_of) {
            if let Err(failure) = self.compare_client(&client).await {
                debug!(%client, error = chain(&failure), "what the client was is not known");
            }
        }
    }

    async fn compare_client(&self, client: &Client) -> Result<(), StoreError> {
        let Some(now) = self.endpoint.client(&client.provider) else { return Ok(()) };
        let name = client.to_string();
        let begun = self.store.client_was(&name, When::Begun).await?;
        if begun == Some(now) {
            return Ok(());
        }
        let proven = self.store.client_was(&name, When::Proven).await?;
        if proven.is_some_and(|proven| proven != now) {
            info!(%client,
                "our client has changed since a request of it last succeeded: until one does, refusals are provisional");
            self.agree(client, Evidence::release).await;
        }
        self.store.client_is(&name, When::Begun, now).await
    }

    /// Our client has changed while the program runs.
    pub(in crate::broker) async fn client_changed(self: &Arc<Self>, client: &Client) {
        self.troubles.change_client(client);
        self.agree(client, Evidence::release).await;
    }
}
