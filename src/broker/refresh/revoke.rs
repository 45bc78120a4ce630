//! Revocation: a grant ends on purpose, at its provider first (RFC 7009).
//!
//! It takes the place of a refresh: while it is under way nothing is refreshed, here or elsewhere.

use std::sync::Arc;

use tracing::{info, warn};

use crate::broker::endpoint::{NotRevoked, Revocable};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::model::{Grant, Reason, Standing, Verdict};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::Refreshed;

impl Rotations {
    /// Takes the tokens back and ends the grant; `Ok` says that a newer chain is there, which lives.
    pub(super) async fn revoke(self: &Arc<Self>, entry: &Arc<Entry>) -> Refreshed {
        let view = self.reconcile(entry).await?;
        let grant = view.grant.clone();
        if grant.standing != Standing::Usable {
            return Ok(view);
        }
        self.can_take_back(&grant).await?;
        let claimed = match self.doubt_of(entry, &grant) {
            Some(doubt) => self.claim_to_end(entry, &grant, &doubt).await?,
            None => self.claim(entry, &view, None).await?.map(|claimed| claimed.intent),
        };
        let Some(intent) = claimed else { return self.reload(entry).await };
        if let Err(error) = self.take_back(&grant).await {
            warn!(grant.id = %entry.id, error = chain(&error), "not revoked");
            // What was in doubt still is.
            self.give_back(entry, &grant, &intent, None).await;
            return Err(error);
        }
        info!(grant.id = %entry.id, "revoked at the provider");
        let verdict = Verdict {
            reason: Reason::GrantRevoked,
            provider_error: None,
            detail: None,
            provider_status: None,
            time: self.clock.now(),
            token_rejected: true,
            given_up: None,
        };
        self.end(entry, &grant, &intent, verdict).await
    }

    /// Says no where the provider takes nothing back, before anything is claimed.
    pub(in crate::broker) async fn can_take_back(&self, grant: &Grant) -> Result<(), Error> {
        let ready = self.endpoint.ready_to_revoke(&grant.descriptor.provider).await;
        ready.map_err(|failed| not_revoked(grant, failed))
    }

    /// Sends the tokens back. What was refused already may still be worth something elsewhere.
    pub(in crate::broker) async fn take_back(&self, grant: &Grant) -> Result<(), Error> {
        let token = match (&grant.pair.refresh_token, &grant.pair.token) {
            (Some(token), _) => Revocable::Refresh(token.clone()),
            (None, Some(token)) => Revocable::Access(token.access_token.clone()),
            (None, None) => return Ok(()),
        };
        let revoked = self.endpoint.revoke(&grant.descriptor.provider, token).await;
        revoked.map_err(|failed| not_revoked(grant, failed))
    }
}

fn not_revoked(grant: &Grant, failed: NotRevoked) -> Error {
    let provider = grant.descriptor.provider.clone();
    match failed {
        NotRevoked::Unsupported => Error::CannotRevoke(provider),
        NotRevoked::Failed(failure) => {
            Error::NotRevoked { grant: grant.id.clone(), provider, failure }
        }
    }
}
