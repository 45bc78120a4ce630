//! Evidence of troubles, as it is sealed. Times are milliseconds from the moment of its writing.

use serde::{Deserialize, Serialize};

use crate::broker::model::{Cause, Evidence, GrantId, Hold, Millis, Piece, Reading, Reason};

#[derive(Serialize, Deserialize)]
pub(crate) struct PlainEvidence {
    pieces: Vec<PlainPiece>,
    succeeded: Option<Millis>,
    hold: Option<PlainHold>,
    ended: Option<Millis>,
    refused: Vec<(GrantId, Millis)>,
    /// Versions before 0.2.0 cannot read it without; each process knows by itself now.
    #[serde(default)]
    unproven: bool,
}

#[derive(Serialize, Deserialize)]
struct PlainPiece {
    grant: GrantId,
    reading: String,
    sent: Millis,
    tried: bool,
}

#[derive(Serialize, Deserialize)]
struct PlainHold {
    reading: String,
    reason: String,
    status: Option<u16>,
    said: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    since: Millis,
    grants: Vec<GrantId>,
    probes: u32,
    next_probe: Millis,
}

impl From<Evidence> for PlainEvidence {
    fn from(evidence: Evidence) -> Self {
        let Evidence { pieces, succeeded, hold, ended, refused } = evidence;
        let pieces = pieces.into_iter().map(|Piece { grant, reading, sent, tried }| {
            let reading = reading.name().to_owned();
            PlainPiece { grant, reading, sent, tried }
        });
        let hold = hold.map(|hold| {
            let Hold { reading, cause, since, grants, probes, next_probe } = hold;
            let (reading, reason) = (reading.name().to_owned(), cause.reason.name().to_owned());
            let Cause { status, said, detail, .. } = cause;
            PlainHold { reading, reason, status, said, detail, since, grants, probes, next_probe }
        });
        let (pieces, unproven) = (pieces.collect(), false);
        Self { pieces, succeeded, hold, ended, refused, unproven }
    }
}

/// What a later version knows and this one does not is left out.
impl From<PlainEvidence> for Evidence {
    fn from(plain: PlainEvidence) -> Self {
        let PlainEvidence { pieces, succeeded, hold, ended, refused, .. } = plain;
        let pieces = pieces.into_iter().filter_map(|PlainPiece { grant, reading, sent, tried }| {
            Some(Piece { grant, reading: Reading::from_name(&reading)?, sent, tried })
        });
        let hold = hold.and_then(|hold| {
            let PlainHold { status, said, detail, since, grants, probes, next_probe, .. } = hold;
            let cause = Cause { reason: Reason::from_name(&hold.reason)?, status, said, detail };
            let reading = Reading::from_name(&hold.reading)?;
            Some(Hold { reading, cause, since, grants, probes, next_probe })
        });
        Self { pieces: pieces.collect(), succeeded, hold, ended, refused }
    }
}
