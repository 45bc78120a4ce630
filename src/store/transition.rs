//! The rules by which a record changes. Pure; `redis/rotation.lua` says the same in Redis.

use std::time::Duration;

use crate::broker::grant::{Descriptor, Fence, Generation, Intent, Owner, Position, Verdict};
use crate::broker::store::{Amendment, Claim, Merged};
use crate::clock::unix_ms;
use crate::store::record::{Blob, Record, StoredIntent, StoredVerdict};

/// Claims the generation, if it is current, usable and free.
pub(crate) fn claim(
    record: &mut Record,
    generation: Generation,
    owner: Owner,
    takeover: Option<Duration>,
    now_ms: u64,
) -> Claim {
    let usable = record.deleted_at.is_none() && record.verdict.is_none();
    if !usable || record.generation != generation.0 {
        return Claim::Moved;
    }
    if let Some(held) = &record.intent {
        let age = Duration::from_millis(now_ms.saturating_sub(held.since));
        if takeover.is_none_or(|lease| age < lease) {
            return Claim::Busy(Intent::from(held));
        }
    }
    let fence = Fence::after(Fence(record.last_fence), now_ms);
    let intent = StoredIntent {
        generation: generation.0,
        owner: owner.into(),
        fence: fence.0,
        since: now_ms,
    };
    record.last_fence = fence.0;
    record.intent = Some(intent.clone());
    Claim::Granted(Intent::from(&intent))
}

/// Gives the claim back, if it is this one.
pub(crate) fn release(record: &mut Record, intent: &Intent) -> bool {
    let held = holds(record, intent);
    if held {
        record.intent = None;
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
