//! The rules by which a record changes. Pure; `redis/rotation.lua` says the same in Redis.

use std::time::Duration;

use crate::broker::model::{
    Descriptor, Doubt, Fence, Generation, Intent, Owner, Position, Verdict,
};
use crate::broker::store::{Amendment, Claim, Merged};
use crate::clock::unix_ms;
use crate::store::record::{Blob, Record, StoredDoubt, StoredIntent, StoredVerdict, millis};

/// Claims the generation, if it is current, usable and free.
pub(crate) fn claim(
    record: &mut Record,
    generation: Generation,
    owner: Owner,
    takeover: Option<Duration>,
    watch: Duration,
    now_ms: u64,
) -> Claim {
    if !usable(record) || record.generation != generation.0 {
        return Claim::Moved;
    }
    if let Some(held) = &record.intent {
        let age = Duration::from_millis(now_ms.saturating_sub(held.since));
        if takeover.is_none_or(|lease| age < lease) {
            return Claim::Busy(Intent::from(held));
        }
    }
    hold(record, owner, None, watch, now_ms)
}

/// Takes over a claim whose refresh token is in doubt, if it is still this one.
pub(crate) fn take_over(
    record: &mut Record,
    held: &Intent,
    owner: Owner,
    watch: Duration,
    now_ms: u64,
) -> Claim {
    if !usable(record) || !holds(record, held) {
        return Claim::Moved;
    }
    let doubt = record.intent.take().and_then(|intent| intent.doubt);
    hold(record, owner, doubt, watch, now_ms)
}

fn usable(record: &Record) -> bool {
    record.deleted_at.is_none() && record.verdict.is_none()
}

fn hold(
    record: &mut Record,
    owner: Owner,
    doubt: Option<StoredDoubt>,
    watch: Duration,
    now_ms: u64,
) -> Claim {
    let fence = Fence::after(Fence(record.last_fence), now_ms);
    let (generation, owner) = (record.generation, owner.into());
    let intent = StoredIntent { generation, owner, fence: fence.0, since: now_ms, doubt };
    let look_at = now_ms.saturating_add(millis(watch));
    record.last_fence = fence.0;
    record.due_at = Some(record.due_at.map_or(look_at, |due_at| due_at.min(look_at)));
    record.intent = Some(intent.clone());
    Claim::Granted(Intent::from(&intent))
}

/// Records that the request under this claim got no definite answer.
pub(crate) fn doubt(
    record: &mut Record,
    intent: &Intent,
    doubt: &Doubt,
    due_at: Option<u64>,
) -> bool {
    if !holds(record, intent) {
        return false;
    }
    if let Some(held) = &mut record.intent {
        held.doubt = Some(StoredDoubt::new(doubt, intent.fence));
    }
    record.due_at = due_at;
    true
}

/// Gives the claim back, if it is this one: the generation is free, or in doubt as before.
pub(crate) fn release(record: &mut Record, intent: &Intent) -> bool {
    let held = holds(record, intent);
    match record.intent.as_mut().filter(|_| held).and_then(|held| held.doubt.as_mut()) {
        Some(doubt) => doubt.fence = intent.fence.0,
        None if held => record.intent = None,
        None => {}
    }
    held
}

/// Publishes or heals: the greater (generation, fence) stays.
pub(crate) fn merge(
    record: &mut Record,
    position: Position,
    blob: Blob,
    due_at: Option<u64>,
) -> Merged {
    let (generation, fence) = (position.generation.0, position.fence.0);
    // A tombstone keeps out whatever is not above it.
    if record.generation > generation
        || (record.generation == generation && record.deleted_at.is_some())
    {
        return Merged::Old;
    }
    if record.generation == generation {
        if record.published_fence == fence || record.siblings.contains_key(&fence) {
            return Merged::Same;
        }
        if record.published_fence > fence {
            record.siblings.insert(fence, blob);
            return Merged::Sibling;
        }
        let stored = std::mem::take(&mut record.blob);
        record.siblings.insert(record.published_fence, stored);
        if record.verdict.as_ref().is_some_and(|verdict| verdict.fence < fence) {
            record.verdict = None;
        }
    } else {
        record.siblings.clear();
        record.verdict = None;
        record.deleted_at = None;
        record.intent = None;
    }
    record.generation = generation;
    record.published_fence = fence;
    record.last_fence = record.last_fence.max(fence);
    record.blob = blob;
    record.due_at = due_at;
    Merged::Published
}

/// What a publication makes of a missing record: the chain goes on where it was lost.
pub(crate) fn remake(
    position: Position,
    descriptor: &Descriptor,
    blob: Blob,
    due_at: Option<u64>,
) -> Record {
    Record { due_at, ..Record::start(position, descriptor, blob) }
}

/// Records the provider's no, if the claim is still the caller's.
pub(crate) fn refuse(record: &mut Record, intent: &Intent, verdict: &Verdict) -> bool {
    let ours = holds(record, intent) && record.generation == intent.generation.0;
    let same = record.verdict.as_ref().is_some_and(|verdict| verdict.fence == intent.fence.0);
    if ours {
        record.verdict = Some(StoredVerdict::new(intent.fence, verdict));
        record.intent = None;
        record.due_at = None;
    }
    ours || same
}

/// Changes what people decided; its fence tells everybody that it is newer.
pub(crate) fn amend(record: &mut Record, amendment: &Amendment, now_ms: u64) {
    let fence = Fence::after(Fence(record.last_fence), now_ms);
    record.last_fence = fence.0;
    record.amended_fence = fence.0;
    if amendment.lift {
        record.verdict = None;
    }
    if let Some((owner, doubt)) = &amendment.in_doubt {
        record.intent = Some(StoredIntent {
            generation: record.generation,
            owner: owner.clone().into(),
            fence: fence.0,
            since: now_ms,
            doubt: Some(StoredDoubt::new(doubt, fence)),
        });
    }
    if let Some(disabled) = amendment.disabled {
        record.about.disabled = disabled;
    }
    if let Some(due_at) = amendment.due_at {
        record.due_at = Some(unix_ms(due_at));
    }
}

/// Turns the record into a tombstone at `position`.
pub(crate) fn delete(record: &mut Record, position: Position, now_ms: u64) {
    record.generation = position.generation.0;
    record.published_fence = position.fence.0;
    record.last_fence = position.fence.0;
    record.deleted_at = Some(now_ms);
    record.blob = Blob::default();
    record.siblings.clear();
    record.verdict = None;
    record.intent = None;
    record.due_at = None;
}

fn holds(record: &Record, intent: &Intent) -> bool {
    record
        .intent
        .as_ref()
        .is_some_and(|held| held.generation == intent.generation.0 && held.fence == intent.fence.0)
}
