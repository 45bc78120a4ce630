//! The stored form of a grant, the same in every store: what is open, and what is sealed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::broker::model::{
    Descriptor, Doubt, DoubtKind, Fence, Generation, Grant, GrantId, GrantKind, Intent, Owner,
    Pair, Position, ProviderId, Reason, Standing, Token, Verdict,
};
use crate::broker::store::StoreError;
use crate::clock::{from_unix_ms, unix_ms};
use crate::secret::{AccessToken, RefreshToken};
use crate::store::keyring::{Keyring, OpenError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A grant as the store holds it. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) generation: u64,
    /// Fence that published this generation.
    pub(crate) published_fence: u64,
    /// Fence of the last change that people made; 0 if they made none.
    #[serde(default)]
    pub(crate) amended_fence: u64,
    /// Last fence given out.
    pub(crate) last_fence: u64,
    /// Set on a tombstone.
    pub(crate) deleted_at: Option<u64>,
    pub(crate) about: About,
    /// The sealed pair; empty on a tombstone.
    pub(crate) blob: Blob,
    pub(crate) verdict: Option<StoredVerdict>,
    pub(crate) intent: Option<StoredIntent>,
    /// Sealed pairs of the same generation, by their fences.
    pub(crate) siblings: BTreeMap<u64, Blob>,
    pub(crate) due_at: Option<u64>,
}

/// Sealed bytes; base64 where the form is text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Blob(pub(crate) Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&self.0);
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        let text = String::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD_NO_PAD
            .decode(text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// What operators say about the grant, open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct About {
    provider: String,
    kind: Kind,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    keep_warm: bool,
    #[serde(default)]
    pub(crate) disabled: bool,
    create_time: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    RefreshToken,
    ClientCredentials,
}

/// The provider's no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredVerdict {
    pub(crate) fence: u64,
    reason: String,
    provider_error: Option<String>,
    provider_status: Option<u16>,
    time: u64,
    #[serde(default)]
    token_rejected: bool,
    #[serde(default)]
    given_up: Option<StoredDoubt>,
}

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredIntent {
    pub(crate) generation: u64,
    pub(crate) owner: StoredOwner,
    pub(crate) fence: u64,
    pub(crate) since: u64,
    #[serde(default)]
    pub(crate) doubt: Option<StoredDoubt>,
}

/// What is known of requests that got no definite answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredDoubt {
    kind: String,
    status: Option<u16>,
    since: u64,
    sent_at: u64,
    attempts: u32,
    /// Redis keeps it apart, because the functions there change it.
    #[serde(default)]
    pub(crate) fence: u64,
}

/// Who claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredOwner {
    pub(crate) replica: String,
    pub(crate) boot: u64,
    pub(crate) attempt: u64,
}

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
    pub(crate) ring: std::sync::Arc<Keyring>,
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

impl Record {
    /// The first record of a chain.
    pub(crate) fn start(position: Position, descriptor: &Descriptor, blob: Blob) -> Self {
        Self {
            generation: position.generation.0,
            published_fence: position.fence.0,
            amended_fence: 0,
            last_fence: position.fence.0,
            deleted_at: None,
            about: About::from(descriptor),
            blob,
            verdict: None,
            intent: None,
            siblings: BTreeMap::new(),
            due_at: None,
        }
    }

    /// Where the newest change stands.
    pub(crate) fn position(&self) -> Position {
        let verdict = self.verdict.as_ref().map_or(0, |verdict| verdict.fence);
        Position {
            generation: Generation(self.generation),
            fence: Fence(self.published_fence.max(self.amended_fence).max(verdict)),
        }
    }

    fn standing(&self) -> Standing {
        if self.deleted_at.is_some() {
            return Standing::Deleted;
        }
        match &self.verdict {
            Some(verdict) => Standing::Refused(Verdict {
                // A reason of a later version means re-authorization all the same.
                reason: Reason::from_name(&verdict.reason).unwrap_or(Reason::GrantReauthRequired),
                provider_error: verdict.provider_error.clone(),
                provider_status: verdict.provider_status,
                time: from_unix_ms(verdict.time),
                token_rejected: verdict.token_rejected,
                given_up: verdict.given_up.as_ref().map(Doubt::from),
            }),
            None => Standing::Usable,
        }
    }
}

impl StoredVerdict {
    pub(crate) fn new(fence: Fence, verdict: &Verdict) -> Self {
        Self {
            fence: fence.0,
            reason: verdict.reason.name().to_owned(),
            provider_error: verdict.provider_error.clone(),
            provider_status: verdict.provider_status,
            time: unix_ms(verdict.time),
            token_rejected: verdict.token_rejected,
            given_up: verdict.given_up.as_ref().map(|doubt| StoredDoubt::new(doubt, fence)),
        }
    }
}

impl From<&Descriptor> for About {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            provider: descriptor.provider.as_str().to_owned(),
            kind: match descriptor.kind {
                GrantKind::RefreshToken => Kind::RefreshToken,
                GrantKind::ClientCredentials => Kind::ClientCredentials,
            },
            scopes: descriptor.scopes.clone(),
            labels: descriptor.labels.clone(),
            keep_warm: descriptor.keep_warm,
            disabled: descriptor.disabled,
            create_time: unix_ms(descriptor.create_time),
        }
    }
}

impl From<&About> for Descriptor {
    fn from(about: &About) -> Self {
        Self {
            provider: ProviderId::new(&about.provider),
            kind: match about.kind {
                Kind::RefreshToken => GrantKind::RefreshToken,
                Kind::ClientCredentials => GrantKind::ClientCredentials,
            },
            scopes: about.scopes.clone(),
            labels: about.labels.clone(),
            keep_warm: about.keep_warm,
            disabled: about.disabled,
            create_time: from_unix_ms(about.create_time),
        }
    }
}

impl From<&StoredIntent> for Intent {
    fn from(intent: &StoredIntent) -> Self {
        Self {
            generation: Generation(intent.generation),
            owner: Owner {
                replica: intent.owner.replica.clone(),
                boot: intent.owner.boot,
                attempt: intent.owner.attempt,
            },
            fence: Fence(intent.fence),
            since: from_unix_ms(intent.since),
            doubt: intent.doubt.as_ref().map(Doubt::from),
        }
    }
}

impl From<&StoredDoubt> for Doubt {
    fn from(doubt: &StoredDoubt) -> Self {
        Self {
            // A kind of a later version is as good as the one of which least is known.
            kind: DoubtKind::from_name(&doubt.kind).unwrap_or(DoubtKind::Unheard),
            status: doubt.status,
            since: from_unix_ms(doubt.since),
            sent_at: from_unix_ms(doubt.sent_at),
            attempts: doubt.attempts,
            fence: Fence(doubt.fence),
        }
    }
}

impl StoredDoubt {
    /// The doubt as one of the claim that has this fence.
    pub(crate) fn new(doubt: &Doubt, fence: Fence) -> Self {
        Self {
            kind: doubt.kind.name().to_owned(),
            status: doubt.status,
            since: unix_ms(doubt.since),
            sent_at: unix_ms(doubt.sent_at),
            attempts: doubt.attempts,
            fence: fence.0,
        }
    }
}

impl From<Owner> for StoredOwner {
    fn from(owner: Owner) -> Self {
        Self { replica: owner.replica, boot: owner.boot, attempt: owner.attempt }
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

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
