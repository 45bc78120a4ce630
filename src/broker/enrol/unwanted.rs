//! Unwanted: what a consent brought that is not kept. It would live on at the provider, so it is taken back,
//! unless that might end another grant of the same person: many providers end them all together (RFC 7009
//! section 2.1 lets them).

use std::sync::Arc;

use tracing::{info, warn};

use crate::broker::Broker;
use crate::broker::endpoint::{NotRevoked, Revocable};
use crate::broker::model::{Grant, GrantKind, ProviderId, Standing};
use crate::broker::store::{PAGE, StoreError};
use crate::secret::{Account, RefreshToken};

impl Broker {
    /// Takes a refresh token back that nobody has. `account`: whose it is, if that is known.
    pub(super) fn take_back_unwanted(
        self: &Arc<Self>,
        provider: ProviderId,
        token: RefreshToken,
        account: Option<Account>,
    ) {
        let broker = Arc::clone(self);
        self.rotations.tasks.spawn(async move {
            match broker.is_alone(&provider, account.as_ref()).await {
                Ok(true) => broker.revoke_unwanted(&provider, token).await,
                Ok(false) => info!(%provider,
                    "what an unwanted consent brought is left to the provider: to revoke it might end another grant of that person"),
                Err(error) => warn!(%provider, %error, "what an unwanted consent brought is left to the provider"),
            }
        });
    }

    async fn revoke_unwanted(&self, provider: &ProviderId, token: RefreshToken) {
        let endpoint = &self.rotations.endpoint;
        let revoked = match endpoint.ready_to_revoke(provider).await {
            Ok(()) => endpoint.revoke(provider, Revocable::Refresh(token)).await,
            Err(failed) => Err(failed),
        };
        match revoked {
            Ok(()) => info!(%provider, "what an unwanted consent brought is revoked"),
            Err(NotRevoked::Unsupported) => {}
            Err(NotRevoked::Failed(failure)) => warn!(%provider, reason = failure.reason.name(),
                "what an unwanted consent brought could not be revoked, and lives on at the provider"),
        }
    }

    /// No grant here may be of the same person.
    async fn is_alone(
        &self,
        provider: &ProviderId,
        account: Option<&Account>,
    ) -> Result<bool, StoreError> {
        let mut cursor = None;
        loop {
            let page = self.rotations.store.list(cursor.as_deref(), PAGE).await?;
            if page.grants.iter().any(|grant| may_be_of(grant, provider, account)) {
                return Ok(false);
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(true);
            }
        }
    }
}

/// It is alive, and nothing says that it is another person's.
fn may_be_of(grant: &Grant, provider: &ProviderId, account: Option<&Account>) -> bool {
    let alive = grant.standing == Standing::Usable
        && grant.descriptor.kind == GrantKind::RefreshToken
        && grant.descriptor.provider == *provider;
    let others = grant.descriptor.account.as_ref().zip(account);
    alive && others.is_none_or(|(theirs, this)| theirs == this)
}
