//! Fields: a record as the hash that Redis keeps; `rotation.lua` lists them.

use std::collections::{BTreeMap, HashMap};

use tracing::warn;

use crate::broker::model::GrantId;
use crate::broker::store::StoreError;
use crate::store::backend::{Format1, StoreResult};
use crate::store::record::{Blob, Record, Sealed, StoredDoubt, StoredIntent};

/// Fields that hold a sibling begin with this.
const SIBLING: &str = "s:";

/// A hash as Redis gives it out; empty if there is none.
pub(super) type Fields = HashMap<String, Vec<u8>>;

/// The record in a hash.
pub(super) fn record(id: &GrantId, fields: &Fields) -> StoreResult<Option<Record>> {
    if fields.is_empty() {
        return Ok(None);
    }
    let unreadable = || damaged(id);
    let as_text = |name: &str| fields.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let as_number = |name: &str| as_text(name).and_then(|text| text.parse().ok());
    let required = |name: &str| as_number(name).ok_or_else(unreadable);
    let blob = |name: &str| Blob(fields.get(name).cloned().unwrap_or_default());
    let descriptor = as_number("mf").map(|fence| Sealed { fence, blob: blob("m") });
    let refusal = as_number("vf").map(|fence| Sealed { fence, blob: blob("v") });
    let intent = match as_text("io") {
        None => None,
        Some(owner) => Some(StoredIntent {
            generation: required("igen")?,
            owner: serde_json::from_str(owner).map_err(|_| unreadable())?,
            fence: required("ifn")?,
            since: required("it")?,
            doubt: doubt(as_text("d").unwrap_or_default(), as_text("df").unwrap_or_default())
                .map_err(|_| unreadable())?,
        }),
    };
    Ok(Some(Record {
        generation: required("gen")?,
        published_fence: required("pf")?,
        amended_fence: as_number("af").unwrap_or(0),
        last_fence: required("f")?,
        deleted_at: as_text("st").and_then(|_| as_number("dt")),
        descriptor: descriptor.unwrap_or_default(),
        blob: blob("b"),
        refusal,
        intent,
        // It only says how long to wait: what cannot be read is none.
        answer: as_text("an").and_then(|text| serde_json::from_str(text).ok()),
        siblings: siblings(fields),
        // The due index has it.
        due_at: None,
    }))
}

/// What lies open in a hash of format 1.
pub(super) fn format_1(mut fields: Fields) -> Option<Format1> {
    if fields.contains_key("mf") {
        return None;
    }
    Some(Format1 { descriptor: fields.remove("m")?, verdict: fields.remove("v") })
}

fn siblings(fields: &Fields) -> BTreeMap<u64, Blob> {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let fence = name.strip_prefix(SIBLING)?.parse().ok()?;
        Some((fence, Blob(bytes.clone())))
    };
    fields.iter().filter_map(sibling).collect()
}

/// A doubt; its fence is kept beside it, because the functions change it.
pub(super) fn doubt(text: &str, fence: &str) -> StoreResult<Option<StoredDoubt>> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut doubt: StoredDoubt = serde_json::from_str(text).map_err(|_| malformed())?;
    doubt.fence = number(fence)?;
    Ok(Some(doubt))
}

pub(super) fn number(text: &str) -> StoreResult<u64> {
    text.parse().map_err(|_| malformed())
}

/// A name that is one of a grant; others are told of, and left out.
pub(super) fn known_name(text: &str, of: &str) -> Option<GrantId> {
    GrantId::parse(text)
        .inspect_err(|_| {
            warn!(member = text.escape_debug().to_string(), "left out of {of}: it names no grant");
        })
        .ok()
}

/// Nothing in the record can be relied on.
pub(super) fn damaged(id: &GrantId) -> StoreError {
    let why = "its stored form is damaged; import the grant again with `--replace`, or delete it";
    StoreError::Unreadable { grant: id.clone(), why, position: None }
}

pub(super) fn malformed() -> StoreError {
    StoreError::Refused("Redis gave an answer that this version does not understand".to_owned())
}
