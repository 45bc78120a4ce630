//! Format 1: what an older version kept open is sealed.

use crate::broker::model::{Descriptor, Fence, Generation, GrantId, Position};
use crate::store::OpenError;
use crate::store::backend::{Change, Format1};
use crate::store::plain::{PlainDescriptor, PlainVerdict};
use crate::store::record::{Record, Sealed};
use crate::store::seal::Seal;

/// The change that brings a record of format 1 to the format of today.
pub(crate) fn convert(
    seal: &Seal,
    id: &GrantId,
    record: &Record,
    old: &Format1,
) -> Result<Change, OpenError> {
    let malformed = || {
        OpenError::Refused(format!(
            "the record of grant {id} cannot be converted from format 1; use the version of \
             token-broker that wrote it to delete the grant, then start again"
        ))
    };
    let descriptor: PlainDescriptor =
        serde_json::from_slice(&old.descriptor).map_err(|_| malformed())?;
    let descriptor = Descriptor::from(descriptor);
    let refused = old.verdict.as_ref().map(|verdict| -> Result<Sealed, OpenError> {
        let Refused { fence } = serde_json::from_slice(verdict).map_err(|_| malformed())?;
        let plain: PlainVerdict = serde_json::from_slice(verdict).map_err(|_| malformed())?;
        let at = Position { generation: Generation(record.generation), fence: Fence(fence) };
        Ok(seal.verdict(id, at, &plain.into()))
    });
    let described = Fence(record.published_fence.max(record.amended_fence));
    Ok(Change::Convert {
        expected: record.stamp(),
        descriptor: seal.descriptor(id, described, &descriptor),
        refusal: refused.transpose()?,
    })
}

/// Under which claim a verdict of format 1 was given.
#[derive(serde::Deserialize)]
struct Refused {
    fence: u64,
}
