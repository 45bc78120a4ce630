//! Troubles in the store: sealed, because they name grants and repeat what providers say.

use std::time::Duration;

use async_trait::async_trait;

use crate::broker::model::{ClientFingerprint, Evidence, Millis};
use crate::broker::store::{Troubles, Version, When};
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

    async fn client_was(&self, client: &str, when: When) -> StoreResult<Option<ClientFingerprint>> {
        let name = fact(client, when);
        let sealed = self.backend.fact(&name).await?;
        // What cannot be opened was never said.
        Ok(sealed.and_then(|sealed| self.seal.open_trouble(&name, &sealed)).map(ClientFingerprint))
    }

    async fn client_is(
        &self,
        client: &str,
        when: When,
        fingerprint: ClientFingerprint,
    ) -> StoreResult<()> {
        let name = fact(client, when);
        let sealed = self.seal.trouble(&name, &fingerprint.0);
        self.backend.put_fact(&name, sealed).await
    }
}

/// The name of what is known of it.
fn fact(client: &str, when: When) -> String {
    format!("client:{client}:{}", when.name())
}
