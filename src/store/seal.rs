//! Sealing: what of a grant is secret, and what each sealed value is bound to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::broker::model::{Descriptor, Generation, Grant, GrantId, Intent, Pair, Position, Token};
use crate::broker::store::StoreError;
use crate::clock::{from_unix_ms, unix_ms};
use crate::secret::{AccessToken, RefreshToken};
use crate::store::keyring::{Keyring, OpenError};
use crate::store::record::{About, Blob, Kind, Record, millis};

/// What is sealed.
#[derive(Serialize, Deserialize)]
struct Secrets {
    refresh_token: Option<String>,
    refresh_token_expires_at: Option<u64>,
    published_at: u64,
    token: Option<SecretToken>,
}

#[derive(Serialize, Deserialize)]
struct SecretToken {
    access_token: String,
    token_type: String,
    generation: u64,
    issued_at: u64,
    lifetime_ms: u64,
    refresh_in_ms: Option<u64>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// Seals and opens the records of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct Codec {
    pub(crate) ring: Arc<Keyring>,
    pub(crate) deployment: String,
}

impl Codec {
    pub(crate) fn seal(
        &self,
        id: &GrantId,
        position: Position,
        descriptor: &Descriptor,
        pair: &Pair,
    ) -> Blob {
        let plain = Zeroizing::new(serde_json::to_vec(&Secrets::from(pair)).unwrap_or_default());
        let context =
            self.context(id, position.generation.0, position.fence.0, &About::from(descriptor));
        Blob(self.ring.seal(&context, &plain))
    }

    /// Opens a record; the grant stands where its newest change stands.
    pub(crate) fn open(&self, id: &GrantId, record: &Record) -> Result<Grant, StoreError> {
        let position = Some(record.position());
        let unreadable = |why| StoreError::Unreadable { grant: id.clone(), why, position };
        let pair = if record.deleted_at.is_some() {
            Pair {
                refresh_token: None,
                refresh_token_expires_at: None,
                token: None,
                published_at: from_unix_ms(record.deleted_at.unwrap_or_default()),
            }
        } else {
            let (generation, fence) = (record.generation, record.published_fence);
            let context = self.context(id, generation, fence, &record.about);
            let plain = self.ring.open(&context, &record.blob.0).map_err(|error| {
                unreadable(match error {
                    OpenError::UnknownKey => {
                        "it is sealed with a key that the key ring lacks; add that key to `keys.file`"
                    }
                    OpenError::Tampered => {
                        "it was changed, or copied from another record; import the grant again with `--replace`"
                    }
                })
            })?;
            let secrets: Secrets = serde_json::from_slice(&plain)
                .map_err(|_| unreadable("its sealed form is of another version"))?;
            Pair::from(secrets)
        };
        Ok(Grant {
            id: id.clone(),
            position: record.position(),
            descriptor: Descriptor::from(&record.about),
            pair,
            standing: record.standing(),
            intent: record.intent.as_ref().map(Intent::from),
        })
    }

    /// What a sealed value is bound to, each part preceded by its length.
    fn context(&self, id: &GrantId, generation: u64, fence: u64, about: &About) -> Vec<u8> {
        let kind = match about.kind {
            Kind::RefreshToken => "refresh_token",
            Kind::ClientCredentials => "client_credentials",
        };
        let (generation, fence) = (generation.to_string(), fence.to_string());
        let parts =
            ["tb1", &self.deployment, id.as_str(), &generation, &fence, &about.provider, kind];
        let mut context = Vec::new();
        for part in parts {
            context.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            context.extend_from_slice(part.as_bytes());
        }
        context
    }
}

impl From<&Pair> for Secrets {
    fn from(pair: &Pair) -> Self {
        Self {
            refresh_token: pair.refresh_token.as_ref().map(|token| token.expose().to_owned()),
            refresh_token_expires_at: pair.refresh_token_expires_at.map(unix_ms),
            published_at: unix_ms(pair.published_at),
            token: pair.token.as_ref().map(SecretToken::from),
        }
    }
}

impl From<&Token> for SecretToken {
    fn from(token: &Token) -> Self {
        Self {
            access_token: token.access_token.expose().to_owned(),
            token_type: token.token_type.clone(),
            generation: token.generation.0,
            issued_at: unix_ms(token.issued_at),
            lifetime_ms: millis(token.lifetime),
            refresh_in_ms: token.refresh_in.map(millis),
            scopes: token.scopes.clone(),
            attributes: token.attributes.clone(),
        }
    }
}

impl From<Secrets> for Pair {
    fn from(secrets: Secrets) -> Self {
        Self {
            refresh_token: secrets.refresh_token.map(RefreshToken::new),
            refresh_token_expires_at: secrets.refresh_token_expires_at.map(from_unix_ms),
            published_at: from_unix_ms(secrets.published_at),
            token: secrets.token.map(|token| Token {
                access_token: AccessToken::new(token.access_token),
                token_type: token.token_type,
                generation: Generation(token.generation),
                issued_at: from_unix_ms(token.issued_at),
                lifetime: Duration::from_millis(token.lifetime_ms),
                refresh_in: token.refresh_in_ms.map(Duration::from_millis),
                scopes: token.scopes,
                attributes: token.attributes,
            }),
        }
    }
}
