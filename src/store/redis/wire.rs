//! What goes to our functions on the server, and what comes back: text, and what it means.

use std::fmt::Display;

use redis::RedisError;
use serde::Serialize;

use crate::broker::model::{Fence, Generation, GrantId, Intent, Position};
use crate::broker::store::{Claim, Heard, StoreError};
use crate::store::OpenError;
use crate::store::backend::{Claiming, Hold, StoreResult};
use crate::store::record::{Stamp, StoredIntent};
use crate::store::redis::check;
use crate::store::redis::fields::{self, malformed, number};

/// What the function `claim` answered; `ours` tells its times by our clock.
pub(super) fn claimed(
    answer: &[String],
    claiming: Claiming,
    ours: impl Fn(u64) -> u64,
) -> StoreResult<Claim> {
    let parts: Vec<&str> = answer.iter().map(String::as_str).collect();
    let held = |generation, owner, [fence, since, doubt, doubt_fence]: [&str; 4]| {
        let (fence, since) = (number(fence)?, number(since)?);
        let doubt = fields::doubt(doubt, doubt_fence)?;
        let held = StoredIntent { generation, owner, fence, since, doubt };
        Ok(Intent::from(&held.told(&ours)))
    };
    match *parts.as_slice() {
        ["granted", fence, since, doubt, doubt_fence] => {
            let rest = [fence, since, doubt, doubt_fence];
            held(claiming.generation, claiming.owner, rest).map(Claim::Granted)
        }
        ["busy", generation, owner, fence, since, doubt, doubt_fence] => {
            let owner = serde_json::from_str(owner).map_err(|_| malformed())?;
            let rest = [fence, since, doubt, doubt_fence];
            held(number(generation)?, owner, rest).map(Claim::Busy)
        }
        ["moved"] => Ok(Claim::Moved),
        ["unlooked"] => Err(StoreError::Unavailable(
            "Redis has lost what was written last; nothing is claimed before it was compared with what \
             is known here"
                .into(),
        )),
        _ => Err(malformed()),
    }
}

/// Generation and last fence as the functions expect them; empty where there is no grant.
pub(super) fn stamp(stamp: Option<Stamp>) -> [Vec<u8>; 2] {
    stamp.map_or_else(Default::default, |at| [text(at.generation), text(at.last_fence)])
}

pub(super) fn held(hold: Hold) -> [Vec<u8>; 2] {
    [text(hold.generation), text(hold.fence)]
}

pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn text(number: impl Display) -> Vec<u8> {
    number.to_string().into_bytes()
}

/// A failure that may be the record's own.
pub(super) fn of_grant(id: &GrantId, error: RedisError) -> StoreError {
    match error.code() {
        Some("WRONGTYPE") => fields::damaged(id),
        _ => unavailable(error),
    }
}

/// Nothing can be done with it now. What somebody has to mend is told as at the start.
pub(super) fn unavailable(error: RedisError) -> StoreError {
    match check::explain(&error) {
        refused @ OpenError::Refused(_) => StoreError::Unavailable(Box::new(refused)),
        OpenError::Unavailable(_) => StoreError::Unavailable(Box::new(error)),
    }
}

/// `GENERATION FENCE GRANT` or `trouble CLIENT`, as our functions say it; marks and what others say are none.
pub(super) fn event(text: &str) -> Option<Heard> {
    if let Some(client) = text.strip_prefix("trouble ") {
        return Some(Heard::Trouble { client: client.to_owned() });
    }
    let mut parts = text.splitn(3, ' ');
    let generation = Generation(parts.next()?.parse().ok()?);
    let fence = Fence(parts.next()?.parse().ok()?);
    let id = GrantId::parse(parts.next()?).ok()?;
    Some(Heard::Changed { id, position: Position { generation, fence } })
}

pub(super) fn silent() -> StoreError {
    StoreError::Unavailable("nothing was heard for too long".into())
}
