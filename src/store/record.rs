//! The stored form of a grant, the same in every store: what is compared lies open, the rest is sealed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::model::{
    Answer, Cause, Doubt, DoubtKind, Fence, Generation, GrantId, Intent, Owner, Position, Reason,
};
use crate::clock::{from_unix_ms, unix_ms};

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
    /// What operators say; empty on a tombstone.
    #[serde(default)]
    pub(crate) descriptor: Sealed,
    /// The pair; empty on a tombstone.
    pub(crate) blob: Blob,
    /// The provider's no, under the fence of the claim that it answered.
    #[serde(default)]
    pub(crate) refusal: Option<Sealed>,
    pub(crate) intent: Option<StoredIntent>,
    /// What the provider said last, where it was no success and no end.
    #[serde(default)]
    pub(crate) answer: Option<StoredAnswer>,
    /// Sealed pairs of the same generation, by their fences.
    pub(crate) siblings: BTreeMap<u64, Blob>,
    pub(crate) due_at: Option<u64>,
}

/// Where somebody read a record: a claim, a new pair and what people decide give out a fence or move
/// the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) generation: u64,
    pub(crate) last_fence: u64,
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

impl Serialize for GrantId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for GrantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Sealed bytes, and the fence of the change that wrote them: a greater one wins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Sealed {
    pub(crate) fence: u64,
    pub(crate) blob: Blob,
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

/// What a provider said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredAnswer {
    reason: String,
    status: Option<u16>,
    said: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    sent_at: u64,
    since: u64,
    count: u32,
    #[serde(default)]
    asked_ms: Option<u64>,
    #[serde(default)]
    alone: bool,
}

/// Who claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredOwner {
    pub(crate) replica: String,
    pub(crate) boot: u64,
    pub(crate) attempt: u64,
    /// No process has it. Left out by versions that said so by the name of the replica alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) nobody: Option<Nobody>,
}

/// Why no process has a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Nobody {
    Remade,
    Restored,
}

impl Nobody {
    /// The name that stood for it, and that versions without the member still read.
    fn name(self) -> &'static str {
        match self {
            Self::Remade => "remade",
            Self::Restored => "restored",
        }
    }
}

impl Record {
    /// The first record of a chain.
    pub(crate) fn start(at: Position, descriptor: Sealed, blob: Blob) -> Self {
        Self {
            generation: at.generation.0,
            published_fence: at.fence.0,
            amended_fence: 0,
            last_fence: at.fence.0,
            deleted_at: None,
            descriptor,
            blob,
            refusal: None,
            intent: None,
            answer: None,
            siblings: BTreeMap::new(),
            due_at: None,
        }
    }

    /// What whoever changes it must have seen.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { generation: self.generation, last_fence: self.last_fence }
    }

    /// Where its pair was published.
    pub(crate) fn published(&self) -> Position {
        Position { generation: Generation(self.generation), fence: Fence(self.published_fence) }
    }

    /// Where the newest change stands.
    pub(crate) fn position(&self) -> Position {
        let refused = self.refusal.as_ref().map_or(0, |refusal| refusal.fence);
        Position {
            generation: Generation(self.generation),
            fence: Fence(self.published_fence.max(self.amended_fence).max(refused)),
        }
    }
}

impl From<&StoredIntent> for Intent {
    fn from(intent: &StoredIntent) -> Self {
        Self {
            generation: Generation(intent.generation),
            owner: intent.owner.clone().into(),
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

impl From<&Answer> for StoredAnswer {
    fn from(answer: &Answer) -> Self {
        let Answer { cause, sent_at, since, count, asked, alone } = answer;
        let Cause { reason, status, said, detail } = cause;
        Self {
            reason: reason.name().to_owned(),
            status: *status,
            said: said.clone(),
            detail: detail.clone(),
            sent_at: unix_ms(*sent_at),
            since: unix_ms(*since),
            count: *count,
            asked_ms: asked.map(millis),
            alone: *alone,
        }
    }
}

impl From<&StoredAnswer> for Answer {
    fn from(stored: &StoredAnswer) -> Self {
        // A reason of a later version is one that this one does not understand.
        let reason = Reason::from_name(&stored.reason);
        let reason = reason.unwrap_or(Reason::ProviderUnrecognizedError);
        Self {
            cause: Cause {
                reason,
                status: stored.status,
                said: stored.said.clone(),
                detail: stored.detail.clone(),
            },
            sent_at: from_unix_ms(stored.sent_at),
            since: from_unix_ms(stored.since),
            count: stored.count,
            asked: stored.asked_ms.map(Duration::from_millis),
            alone: stored.alone,
        }
    }
}

impl StoredAnswer {
    /// The answer by another clock.
    pub(crate) fn told(self, by: impl Fn(u64) -> u64) -> Self {
        Self { since: by(self.since), sent_at: by(self.sent_at), ..self }
    }
}

impl StoredIntent {
    /// The claim by another clock.
    pub(crate) fn told(self, by: impl Fn(u64) -> u64) -> Self {
        let doubt = self.doubt.map(|doubt| doubt.told(&by));
        Self { since: by(self.since), doubt, ..self }
    }
}

impl StoredDoubt {
    /// The doubt by another clock.
    pub(crate) fn told(self, by: impl Fn(u64) -> u64) -> Self {
        Self { since: by(self.since), sent_at: by(self.sent_at), ..self }
    }
}

impl From<StoredOwner> for Owner {
    fn from(StoredOwner { replica, boot, attempt, nobody }: StoredOwner) -> Self {
        // Claims of processes are counted from 1 on, whatever these are called.
        let named = [Nobody::Remade, Nobody::Restored].into_iter();
        let named = named.filter(|_| attempt == 0).find(|nobody| nobody.name() == replica);
        match nobody.or(named) {
            Some(Nobody::Remade) => Self::Remade,
            Some(Nobody::Restored) => Self::Restored,
            None => Self::Process { replica, boot, attempt },
        }
    }
}

impl From<Owner> for StoredOwner {
    fn from(owner: Owner) -> Self {
        let of_nobody = |nobody: Nobody| {
            let (replica, nobody) = (nobody.name().to_owned(), Some(nobody));
            Self { replica, boot: 0, attempt: 0, nobody }
        };
        match owner {
            Owner::Process { replica, boot, attempt } => {
                Self { replica, boot, attempt, nobody: None }
            }
            Owner::Remade => of_nobody(Nobody::Remade),
            Owner::Restored => of_nobody(Nobody::Restored),
        }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_claim_is_no_question_of_names() {
        let stored =
            |owner: &Owner| serde_json::to_string(&StoredOwner::from(owner.clone())).unwrap();
        let read = |text: &str| Owner::from(serde_json::from_str::<StoredOwner>(text).unwrap());
        let process =
            |replica: &str| Owner::Process { replica: replica.to_owned(), boot: 0, attempt: 1 };
        for owner in [Owner::Remade, Owner::Restored, process("remade"), process("restored")] {
            assert_eq!(read(&stored(&owner)), owner);
        }
        // As versions wrote it that had no other word for it.
        assert_eq!(read(r#"{"replica":"remade","boot":0,"attempt":0}"#), Owner::Remade);
    }
}
