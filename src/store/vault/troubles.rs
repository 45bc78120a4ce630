//! Troubles in the store: sealed, because they name grants and repeat what providers say.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::model::{ClientFingerprint, Evidence, Millis};
use crate::broker::store::{Troubles, Version};
use crate::store::backend::StoreResult;
use crate::store::plain::PlainEvidence;
use crate::store::vault::Vault;

/// What nobody has changed for so long is over, or is found out anew by the next request.
const LIFE: Duration = Duration::from_secs(3_600);

#[async_trait]
impl Troubles for Vault {
    async fn trouble(&self, client: &str, now: Millis) -> StoreResult<(Evidence, Version)> {
        let Some((sealed, version, age)) = self.backend.shared(client).await? else {
            return Ok(Default::default());
        };
        // What cannot be opened is replaced by what is found out next.
        let plain: Option<PlainEvidence> = self.seal.open_trouble(client, &sealed);
        let then = now.saturating_sub_unsigned(age);
        let evidence = plain.map(|plain| Evidence::from(plain).shifted(then));
        Ok((evidence.unwrap_or_default(), Version(version)))
    }

    async fn put_trouble(
        &self,
        client: &str,
        read: Version,
        evidence: &Evidence,
        now: Millis,
    ) -> StoreResult<bool> {
        // Counted from now on, whatever clock reads it.
        let plain = PlainEvidence::from(evidence.clone().shifted(-now));
        let sealed = self.seal.trouble(client, &plain);
        self.backend.share(client, read.0, sealed, LIFE).await
    }

    async fn proven(&self, client: &str) -> StoreResult<Option<ClientFingerprint>> {
        let sealed = self.backend.fact(&proven(client)).await?;
        // What cannot be opened was never said.
        Ok(sealed.and_then(|sealed| self.seal.open_trouble(client, &sealed)).map(ClientFingerprint))
    }

    async fn put_proven(&self, client: &str, fingerprint: ClientFingerprint) -> StoreResult<()> {
        let sealed = self.seal.trouble(client, &fingerprint.0);
        self.backend.put_fact(&proven(client), sealed).await
    }
}

/// The name of the fact.
fn proven(client: &str) -> String {
    format!("client:{client}")
}
