//! Sealing: what each sealed value is bound to, so that none can stand in for another.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::broker::model::{
    Answer, Descriptor, Fence, Grant, GrantId, Intent, Pair, Position, Standing, Verdict,
};
use crate::broker::store::StoreError;
use crate::store::keyring::{Keyring, OpenError};
use crate::store::plain::{PlainDescriptor, PlainPair, PlainVerdict};
use crate::store::record::{Blob, Record, Sealed};

/// Seals and opens the records of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct Seal {
    pub(crate) ring: Arc<Keyring>,
    pub(crate) deployment: String,
}

impl Seal {
    /// Seals a pair to its place, and to the provider that it may be shown to.
    pub(crate) fn pair(
        &self,
        id: &GrantId,
        at: Position,
        descriptor: &Descriptor,
        pair: &Pair,
    ) -> Blob {
        self.seal(&self.pair_context(id, at, descriptor), &PlainPair::from(pair))
    }

    /// Seals what operators say to the change that said it.
    pub(crate) fn descriptor(&self, id: &GrantId, fence: Fence, descriptor: &Descriptor) -> Sealed {
        let context = self.descriptor_context(id, fence.0);
        Sealed { fence: fence.0, blob: self.seal(&context, &PlainDescriptor::from(descriptor)) }
    }

    /// Seals the provider's no to the claim that it answered.
    pub(crate) fn verdict(&self, id: &GrantId, at: Position, verdict: &Verdict) -> Sealed {
        let context = self.verdict_context(id, at.generation.0, at.fence.0);
        let plain = PlainVerdict::new(at.fence, verdict);
        Sealed { fence: at.fence.0, blob: self.seal(&context, &plain) }
    }

    /// Opens a record that is no tombstone; the grant stands where its newest change stands.
    pub(crate) fn grant(&self, id: &GrantId, record: &Record) -> Result<Grant, StoreError> {
        let opened = self.parts(id, record).map_err(|why| unreadable(id, record, why));
        let (descriptor, pair, standing) = opened?;
        Ok(Grant {
            id: id.clone(),
            position: record.position(),
            descriptor,
            described: Fence(record.descriptor.fence),
            pair,
            standing,
            intent: record.intent.as_ref().map(Intent::from),
            answer: record.answer.as_ref().map(Answer::from),
        })
    }

    /// Opens another pair of the same generation.
    pub(crate) fn sibling(
        &self,
        id: &GrantId,
        record: &Record,
        fence: Fence,
        blob: &Blob,
    ) -> Result<Pair, StoreError> {
        let descriptor = self.described(id, record)?;
        let at = Position { fence, ..record.published() };
        let opened: Result<PlainPair, Why> =
            self.open(&self.pair_context(id, at, &descriptor), blob);
        opened.map(Pair::from).map_err(|why| unreadable(id, record, why))
    }

    /// Opens what operators say, and nothing else of the record.
    pub(crate) fn described(
        &self,
        id: &GrantId,
        record: &Record,
    ) -> Result<Descriptor, StoreError> {
        let opened = self.open_descriptor(id, &record.descriptor);
        opened.map_err(|why| unreadable(id, record, why))
    }

    fn open_descriptor(&self, id: &GrantId, sealed: &Sealed) -> Result<Descriptor, Why> {
        let plain: PlainDescriptor =
            self.open(&self.descriptor_context(id, sealed.fence), &sealed.blob)?;
        Ok(plain.into())
    }

    fn parts(&self, id: &GrantId, record: &Record) -> Result<(Descriptor, Pair, Standing), Why> {
        let descriptor = self.open_descriptor(id, &record.descriptor)?;
        let published = record.published();
        let pair: PlainPair =
            self.open(&self.pair_context(id, published, &descriptor), &record.blob)?;
        let standing = match &record.refusal {
            None => Standing::Usable,
            Some(Sealed { fence, blob }) => {
                let context = self.verdict_context(id, record.generation, *fence);
                let verdict: PlainVerdict = self.open(&context, blob)?;
                Standing::Refused(verdict.into())
            }
        };
        Ok((descriptor, pair.into(), standing))
    }

    /// A note of an enrolment under the name that it is kept by.
    pub(crate) fn note<T: Serialize>(&self, name: &str, plain: &T) -> Blob {
        self.seal(&self.note_context(name), plain)
    }

    /// `None`: it was not sealed by this deployment under this name.
    pub(crate) fn open_note<T: DeserializeOwned>(&self, name: &str, blob: &Blob) -> Option<T> {
        self.open(&self.note_context(name), blob).ok()
    }

    /// Where a list goes on, for whoever may not see the grant that stands there.
    pub(crate) fn page_token(&self, place: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.seal(&self.page_context(), &place).0)
    }

    /// The place that a token of ours stands for.
    pub(crate) fn place(&self, page_token: &str) -> Result<String, StoreError> {
        let sealed = URL_SAFE_NO_PAD.decode(page_token).map_err(|_| StoreError::BadCursor)?;
        self.open(&self.page_context(), &Blob(sealed)).map_err(|_| StoreError::BadCursor)
    }

    /// What is known of a client's trouble.
    pub(crate) fn trouble<T: Serialize>(&self, client: &str, plain: &T) -> Blob {
        self.seal(&self.trouble_context(client), plain)
    }

    /// `None`: it was not sealed by this deployment for this client.
    pub(crate) fn open_trouble<T: DeserializeOwned>(&self, client: &str, blob: &Blob) -> Option<T> {
        self.open(&self.trouble_context(client), blob).ok()
    }

    fn trouble_context(&self, client: &str) -> Vec<u8> {
        context(&["tb2 trouble", &self.deployment, client])
    }

    fn page_context(&self) -> Vec<u8> {
        context(&["tb2 page", &self.deployment])
    }

    fn note_context(&self, name: &str) -> Vec<u8> {
        context(&["tb2 enrolment", &self.deployment, name])
    }

    fn seal<T: Serialize>(&self, context: &[u8], plain: &T) -> Blob {
        let plain = Zeroizing::new(serde_json::to_vec(plain).unwrap_or_default());
        Blob(self.ring.seal(context, &plain))
    }

    fn open<T: DeserializeOwned>(&self, context: &[u8], blob: &Blob) -> Result<T, Why> {
        let plain = self.ring.open(context, &blob.0).map_err(|error| match error {
            OpenError::UnknownKey => {
                "it is sealed with a key that the key ring lacks; add that key to `keys.file`"
            }
            OpenError::Tampered => {
                "it was changed, or copied from another record; import the grant again with `--replace`"
            }
        })?;
        serde_json::from_slice(&plain).map_err(|_| "its sealed form is of another version")
    }

    fn pair_context(&self, id: &GrantId, at: Position, descriptor: &Descriptor) -> Vec<u8> {
        let kind = descriptor.kind.name();
        let (generation, fence) = (at.generation.to_string(), at.fence.0.to_string());
        let provider = descriptor.provider.as_str();
        context(&["tb1", &self.deployment, id.as_str(), &generation, &fence, provider, kind])
    }

    fn descriptor_context(&self, id: &GrantId, fence: u64) -> Vec<u8> {
        context(&["tb2 descriptor", &self.deployment, id.as_str(), &fence.to_string()])
    }

    fn verdict_context(&self, id: &GrantId, generation: u64, fence: u64) -> Vec<u8> {
        let (generation, fence) = (generation.to_string(), fence.to_string());
        context(&["tb2 verdict", &self.deployment, id.as_str(), &generation, &fence])
    }
}

/// Why a value cannot be opened, and what to do.
type Why = &'static str;

fn unreadable(id: &GrantId, record: &Record, why: Why) -> StoreError {
    StoreError::Unreadable { grant: id.clone(), why, position: Some(record.position()) }
}

/// Each part preceded by its length, so that no two lists are alike.
fn context(parts: &[&str]) -> Vec<u8> {
    let mut context = Vec::new();
    for part in parts {
        context.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        context.extend_from_slice(part.as_bytes());
    }
    context
}
