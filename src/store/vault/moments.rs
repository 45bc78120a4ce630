//! Moments in pairs: kept by the clock of the store, told by ours.
//!
//! No token lives longer than it was issued for, whatever the clocks of those say who wrote and read it.

use std::time::{Duration, SystemTime};

use crate::broker::model::{Descriptor, Fence, Grant, GrantId, Pair, Position, Token};
use crate::store::backend::StoreResult;
use crate::store::record::{Blob, Record};
use crate::store::vault::Vault;

/// So far clocks may be apart: a token that seems to come from further ahead is not trusted to be as
/// young as it says.
const APART: Duration = Duration::from_secs(30);

impl Vault {
    pub(super) fn seal_pair(
        &self,
        id: &GrantId,
        at: Position,
        descriptor: &Descriptor,
        pair: &Pair,
    ) -> Blob {
        let pair = moved(pair.clone(), |at| self.backend.by_its_clock(at));
        self.seal.pair(id, at, descriptor, &pair)
    }

    pub(super) fn open_grant(&self, id: &GrantId, record: &Record) -> StoreResult<Grant> {
        let grant = self.seal.grant(id, record)?;
        Ok(Grant { pair: self.told(grant.pair), ..grant })
    }

    pub(super) fn open_sibling(
        &self,
        id: &GrantId,
        record: &Record,
        fence: Fence,
        blob: &Blob,
    ) -> StoreResult<Pair> {
        Ok(self.told(self.seal.sibling(id, record, fence, blob)?))
    }

    fn told(&self, pair: Pair) -> Pair {
        let pair = moved(pair, |at| self.backend.by_our_clock(at));
        let now = self.clock.now();
        Pair { token: pair.token.map(|token| not_ahead(token, now)), ..pair }
    }
}

fn moved(pair: Pair, by: impl Fn(SystemTime) -> SystemTime) -> Pair {
    let token = pair.token.map(|token| Token { issued_at: by(token.issued_at), ..token });
    let refresh_token_expires_at = pair.refresh_token_expires_at.map(&by);
    Pair { token, refresh_token_expires_at, published_at: by(pair.published_at), ..pair }
}

/// A token that seems to come from the future is as old as it can be seen to be; from far ahead, it is
/// also due at once.
fn not_ahead(token: Token, now: SystemTime) -> Token {
    if token.issued_at <= now {
        return token;
    }
    let far = token.issued_at > now + APART;
    let refresh_in = if far { Some(Duration::ZERO) } else { token.refresh_in };
    Token { issued_at: now, refresh_in, ..token }
}
