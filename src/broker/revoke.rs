//! What operators do to end a grant at its provider.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use crate::broker::error::Error;
use crate::broker::model::{GrantId, Standing};
use crate::broker::refresh::flight::Trigger;
use crate::broker::refresh::join::Joined;
use crate::broker::{Broker, Overview, State};

impl Broker {
    /// Deletes a grant, if it still has the etag, once its tokens are taken back.
    pub async fn revoke_and_delete(
        self: &Arc<Self>,
        id: &GrantId,
        etag: Option<String>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let ended = self.revoke_grant(id, etag.as_deref(), deadline).await?;
        // Not a consent that came meanwhile.
        self.delete_grant(id, Some(ended.view.grant.etag())).await
    }

    /// Takes a grant's tokens back at its provider and ends it, if it has the etag. A refresh that is
    /// under way ends first. May be asked again, also after the deadline: then it goes on by itself.
    pub async fn revoke_grant(
        self: &Arc<Self>,
        id: &GrantId,
        etag: Option<&str>,
        deadline: Instant,
    ) -> Result<Overview, Error> {
        loop {
            let grant = self.stored(id).await?;
            if etag.is_some_and(|etag| etag != grant.etag()) {
                return Err(Error::EtagMismatch(id.clone()));
            }
            if !grant.descriptor.kind.spends() {
                return Err(Error::invalid(
                    "grant_id",
                    "names a grant of the client's own right, which no consent stands behind; \
                     disable or delete it",
                ));
            }
            let entry = self.rotations.known.enter(grant.clone());
            if let Standing::Refused(verdict) = &grant.standing {
                if !verdict.is_revocation() {
                    info!(grant.id = %id, "what is left of a refused grant is taken back");
                    self.rotations.can_take_back(&grant).await?;
                    self.rotations.take_back(&grant).await?;
                }
                return Ok(self.overview(&entry));
            }
            let joined = self.rotations.join_or_start(&entry, grant.generation(), Trigger::Revoke);
            let (ours, flight) = match joined? {
                Joined::Running(flight) => (flight.revokes(), flight),
                Joined::OtherGeneration(flight) => (false, flight),
                Joined::Replaced(_) => continue,
            };
            let ended = flight.wait(id, deadline).await;
            let overview = self.overview(&entry);
            match ended {
                _ if overview.state == State::Revoked => return Ok(overview),
                Err(error @ Error::RefreshInProgress(_)) => return Err(error),
                Err(error) if ours => return Err(error),
                // A refresh has ended, or a newer chain was found: now it is our turn.
                _ => {}
            }
        }
    }
}
