//! The rules by which a record changes. Pure; `redis/rotation.lua` says the same in Redis.

use crate::broker::model::{Fence, Intent, Position};
use crate::broker::store::{Claim, Merged};
use crate::store::backend::{Amend, Change, Claiming, Hold, Over, Publishing};
use crate::store::record::{Blob, Record, Sealed, Stamp, StoredAnswer, StoredDoubt, StoredIntent};

/// Claims the generation, if it is current, usable, and free or to be taken over.
pub(crate) fn claim(slot: &mut Option<Record>, claiming: Claiming, now: u64) -> Claim {
    let current = |record: &&mut Record| usable(record) && record.generation == claiming.generation;
    let Some(record) = slot.as_mut().filter(current) else { return Claim::Moved };
    let doubt = match (claiming.over, &mut record.intent) {
        (Over::Held(fence), held) => match held.take_if(|held| held.fence == fence) {
            Some(taken) => taken.doubt,
            None => return Claim::Moved,
        },
        (Over::Nothing, Some(held)) => return Claim::Busy(Intent::from(&*held)),
        (Over::Older(lease), Some(held)) if now.saturating_sub(held.since) < lease => {
            return Claim::Busy(Intent::from(&*held));
        }
        (Over::Older(_), Some(_)) | (_, None) => None,
    };
    hold(record, claiming, doubt, now)
}

fn usable(record: &Record) -> bool {
    record.deleted_at.is_none() && record.refusal.is_none()
}

fn hold(record: &mut Record, claiming: Claiming, doubt: Option<StoredDoubt>, now: u64) -> Claim {
    let Claiming { generation, owner, watch, .. } = claiming;
    let fence = Fence::after(Fence(record.last_fence), now);
    let intent = StoredIntent { generation, owner, fence: fence.0, since: now, doubt };
    let look_at = now.saturating_add(watch);
    record.last_fence = fence.0;
    record.due_at = Some(record.due_at.map_or(look_at, |due_at| due_at.min(look_at)));
    let granted = Claim::Granted(Intent::from(&intent));
    record.intent = Some(intent);
    granted
}

/// Publishes or heals: the greater (generation, fence) stays. `None`: the grant is missing, and is
/// not to be made again.
pub(crate) fn publish(
    slot: &mut Option<Record>,
    publishing: Publishing,
    now: u64,
) -> Option<Merged> {
    let Publishing { at, descriptor, pair, remake, answer, held_by, due_at } = publishing;
    // A tombstone keeps out whatever is not above it.
    let keeps_out =
        |record: &Record| record.deleted_at.is_some() && record.generation >= at.generation.0;
    if slot.as_ref().is_some_and(keeps_out) {
        return Some(Merged::Old);
    }
    let Some(record) = slot.as_mut().filter(|record| record.deleted_at.is_none()) else {
        // The chain goes on where it was lost.
        return remake.then(|| {
            let mut record = Record { answer, due_at, ..Record::start(at, descriptor, pair) };
            if let Some(owner) = held_by {
                let (generation, fence) = (record.generation, record.last_fence + 1);
                record.last_fence = fence;
                record.intent =
                    Some(StoredIntent { generation, owner, fence, since: now, doubt: None });
            }
            *slot = Some(record);
            Merged::Remade
        });
    };
    let merged = merge(record, (at.generation.0, at.fence.0), pair, answer, due_at);
    if merged != Merged::Old && record.descriptor.fence < descriptor.fence {
        record.descriptor = descriptor;
    }
    Some(merged)
}

fn merge(
    record: &mut Record,
    (generation, fence): (u64, u64),
    pair: Blob,
    answer: Option<StoredAnswer>,
    due_at: Option<u64>,
) -> Merged {
    if record.generation > generation {
        return Merged::Old;
    }
    if record.generation == generation {
        if record.published_fence == fence || record.siblings.contains_key(&fence) {
            return Merged::Same;
        }
        if record.published_fence > fence {
            record.siblings.insert(fence, pair);
            return Merged::Sibling;
        }
        let stored = std::mem::take(&mut record.blob);
        record.siblings.insert(record.published_fence, stored);
        record.refusal.take_if(|refusal| refusal.fence < fence);
    } else {
        record.siblings.clear();
        record.refusal = None;
        record.intent = None;
        record.answer = answer;
    }
    record.generation = generation;
    record.published_fence = fence;
    record.last_fence = record.last_fence.max(fence);
    record.blob = pair;
    record.due_at = due_at;
    Merged::Published
}

/// Makes a change; `false`: what it rests on is no longer so.
pub(crate) fn change(slot: &mut Option<Record>, change: Change, now: u64) -> bool {
    match change {
        Change::Start { expected, at, descriptor, pair, due_at } => {
            if slot.as_ref().map(Record::stamp) != expected {
                return false;
            }
            *slot = Some(Record { due_at, ..Record::start(at, descriptor, pair) });
        }
        Change::Doubt { hold, doubt, due_at } => {
            let Some(record) = held(slot, hold) else { return false };
            if let Some(held) = &mut record.intent {
                held.doubt = Some(doubt);
            }
            record.due_at = due_at;
        }
        Change::Release { hold, answer } => {
            let Some(record) = held(slot, hold) else { return false };
            record.answer = answer.or(record.answer.take());
            match record.intent.as_mut().and_then(|held| held.doubt.as_mut()) {
                // In doubt as before.
                Some(doubt) => doubt.fence = hold.fence,
                None => record.intent = None,
            }
        }
        Change::Refuse { hold, refusal } => {
            if refused(slot.as_ref(), hold) {
                return true;
            }
            let Some(record) = held(slot, hold) else { return false };
            record.refusal = Some(refusal);
            record.intent = None;
            record.due_at = None;
        }
        Change::Promote { hold, sibling, pair } => {
            let Some(record) = held(slot, hold) else { return false };
            if record.siblings.remove(&sibling).is_none() {
                return false;
            }
            record.blob = pair;
            record.published_fence = hold.fence;
            record.intent = None;
        }
        Change::Amend { expected, amend } => {
            let Some(record) = standing(slot, expected) else { return false };
            amended(record, amend, now);
        }
        Change::Delete { expected, at } => {
            let Some(record) = standing(slot, expected) else { return false };
            *record = tombstone(at, now);
        }
        Change::Bury { at } => {
            if slot.as_ref().is_some_and(|record| record.position() >= at) {
                return false;
            }
            *slot = Some(tombstone(at, now));
        }
        // What cannot be read does not come here.
        Change::StartOver { .. } | Change::Discard { .. } if slot.is_some() => return false,
        Change::StartOver { at, descriptor, pair, due_at } => {
            *slot = Some(Record { due_at, ..Record::start(at, descriptor, pair) });
        }
        Change::Discard { at } => {
            *slot = Some(tombstone(at, now));
        }
        Change::Convert { expected, descriptor, refusal } => {
            let Some(record) = standing(slot, expected) else { return false };
            record.descriptor = descriptor;
            record.refusal = refusal;
        }
        Change::Schedule { generation, due_at } => {
            let current = |record: &&mut Record| usable(record) && record.generation == generation;
            let Some(record) = slot.as_mut().filter(current) else { return false };
            record.due_at = Some(due_at);
        }
    }
    true
}

fn tombstone(at: Position, now: u64) -> Record {
    let record = Record::start(at, Sealed::default(), Blob::default());
    Record { deleted_at: Some(now), ..record }
}

fn amended(record: &mut Record, amend: Amend, now: u64) {
    let Amend { fence, lift, answer, descriptor, in_doubt, due_at } = amend;
    record.last_fence = fence;
    record.amended_fence = fence;
    if lift {
        record.refusal = None;
        record.answer = answer;
    }
    if let Some((owner, doubt)) = in_doubt {
        let (generation, doubt) = (record.generation, Some(doubt));
        record.intent = Some(StoredIntent { generation, owner, fence, since: now, doubt });
    }
    if let Some(descriptor) = descriptor {
        record.descriptor = descriptor;
    }
    record.due_at = due_at.or(record.due_at);
}

/// The record, if this claim on it is held.
fn held(slot: &mut Option<Record>, hold: Hold) -> Option<&mut Record> {
    slot.as_mut().filter(|record| {
        let intent = record.intent.as_ref();
        intent.is_some_and(|held| (held.generation, held.fence) == (hold.generation, hold.fence))
    })
}

/// The grant was refused under this claim already.
fn refused(slot: Option<&Record>, hold: Hold) -> bool {
    let refusal = slot.and_then(|record| record.refusal.as_ref());
    refusal.is_some_and(|refusal| refusal.fence == hold.fence)
}

/// The record, if it is no tombstone and stands as expected.
fn standing(slot: &mut Option<Record>, expected: Stamp) -> Option<&mut Record> {
    slot.as_mut().filter(|record| record.deleted_at.is_none() && record.stamp() == expected)
}
