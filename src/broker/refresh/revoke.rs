//! Revocation: a grant ends on purpose, at its provider first (RFC 7009).
//!
//! It takes the place of a refresh: while it is under way nothing is refreshed, here or elsewhere.

use std::sync::Arc;

use tracing::{info, warn};

use crate::broker::endpoint::{NotRevoked, Revocable};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::model::{Grant, Intent, Reason, Standing, Verdict};
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
        let Some(intent) = self.hold_for_revocation(entry, &grant).await? else {
            return self.reload(entry).await;
        };
        let given_back = intent.in_doubt().is_none();
        if let Err(error) = self.take_back(&grant).await {
            warn!(grant.id = %entry.id, error = chain(&error), "not revoked");
            // What is in doubt is held for as long as it is.
            if given_back {
                self.release(entry, &intent).await;
            }
            return Err(error);
        }
        info!(grant.id = %entry.id, "revoked at the provider");
        let verdict = Verdict {
            reason: Reason::GrantRevoked,
            provider_error: None,
            provider_status: None,
            time: self.clock.now(),
            token_rejected: true,
            given_up: None,
        };
        self.end(entry, &grant, &intent, verdict).await
    }

    /// The claim under which nobody else sends anything; `None`: the grant has moved.
    async fn hold_for_revocation(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
    ) -> Result<Option<Intent>, Error> {
        match self.doubt_of(entry, grant) {
            Some(doubt) => self.held_in_doubt(grant, &doubt).await,
            None => Ok(self.claim(entry, &entry.view()).await?.map(|(intent, _)| intent)),
        }
    }

    /// Sends the tokens back. What was refused already may still be worth something elsewhere.
    pub(in crate::broker) async fn take_back(&self, grant: &Grant) -> Result<(), Error> {
        let provider = &grant.descriptor.provider;
        let token = match (&grant.pair.refresh_token, &grant.pair.token) {
            (Some(token), _) => Revocable::Refresh(token.clone()),
            (None, Some(token)) => Revocable::Access(token.access_token.clone()),
            (None, None) => return Ok(()),
        };
        self.endpoint.revoke(provider, token).await.map_err(|failed| match failed {
            NotRevoked::Unsupported => Error::CannotRevoke(provider.clone()),
            NotRevoked::Failed(failure) => self.upstream(grant, failure),
        })
    }
}
