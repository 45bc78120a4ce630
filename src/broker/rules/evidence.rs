//! Whose trouble is a failed refresh: the grant's, or its provider's? Pure.
//!
//! Evidence is a change, and it takes two grants. A grant that fails although its last answer was a
//! success is one piece of evidence; failing again proves nothing. Two pieces of different grants that
//! read alike, with no success sent after them, hold the client: one request at a time goes out, a
//! *probe*, until one succeeds. So a dead grant stops nobody, however often its callers ask.
//!
//! One value of this kind stands for one client at one provider and one kind of grant, for all
//! replicas together.

use std::time::Duration;

use crate::broker::backoff::Backoff;
use crate::broker::endpoint::Failure;
use crate::broker::model::{Cause, Evidence, GrantId, Hold, Millis, Piece, Reading, Reason};

/// Different grants that must fail alike.
const SEVERAL: usize = 2;
/// The same, where nothing ever came of them and others have lived.
const SEVERAL_UNTRIED: usize = 5;
/// Evidence is forgotten after this long.
const PIECE_LIFE: Millis = 10 * 60_000;
/// Most pieces that are kept: they tell of a trouble, and do not count it.
const PIECES_MAX: usize = 32;
/// So long after a hold has ended, one piece holds again.
const RAMP: Millis = 30_000;
/// Grants that are refused within that time before nobody believes it, ...
const MANY_MIN: usize = 5;
/// ... or one in a hundred of the client's, of which so many are enough.
const MANY_MAX: usize = 50;
/// A client with fewer grants than this is refused when all are.
const FEW: usize = 5;
/// Probes that may follow each other quickly; from then on there is a least wait.
const QUICK_PROBES: u32 = 2;
/// Candidates for a probe are waited for this share of the gap, ...
const GRACE_SHARE: u32 = 4;
/// ... and no longer than this: by then whoever is due has come.
const GRACE_MAX: Duration = Duration::from_secs(2);
/// The least wait then, in first waits (of a second): what locks a client out counts tries by the minute.
const SLOW_PROBE: u32 = 10;

/// A failed refresh.
#[derive(Debug, Clone)]
pub struct Failed {
    /// What it would be evidence of.
    pub piece: Piece,
    /// The grant's last answer was a success.
    pub changed: bool,
    /// What the grant met.
    pub cause: Cause,
}

/// Waits between probes.
#[derive(Debug, Clone, Copy)]
pub struct Gaps {
    /// Where each probe is a refusal, of which providers may count only so many.
    pub refused: Backoff,
    /// Where no answer comes: asking costs nothing.
    pub silent: Backoff,
    /// The shortest time between a token's being due and callers' waiting for its successor.
    pub shortest_lead: Option<Duration>,
}

/// Whether a request may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Nothing is in its way.
    Free,
    /// It would be the probe.
    Probe,
    /// Not before this moment.
    Later(Millis),
}

impl Evidence {
    /// Takes note of a failure; `true`: one request at a time goes out from now on.
    pub fn failed(&mut self, failed: Failed, gaps: Gaps, now: Millis) -> bool {
        let Failed { piece, changed, cause } = failed;
        self.forget(now);
        let overtaken = self.succeeded.is_some_and(|succeeded| succeeded > piece.sent);
        if !changed || overtaken {
            return false;
        }
        self.pieces.retain(|known| known.grant != piece.grant || known.reading != piece.reading);
        if self.pieces.len() == PIECES_MAX {
            self.pieces.remove(0);
        }
        self.pieces.push(piece.clone());
        let alike = self.pieces.iter().filter(|known| known.reading == piece.reading);
        let grants: Vec<_> = alike.map(|known| known.grant.clone()).collect();
        if let Some(hold) = &mut self.hold {
            if hold.reading == piece.reading {
                hold.grants = grants;
            }
            return false;
        }
        if piece.reading == Reading::Limited || !self.enough(&piece, now) {
            return false;
        }
        let reading = piece.reading;
        let next_probe = now + gaps.after(reading, 0);
        self.hold = Some(Hold { reading, cause, since: now, grants, probes: 0, next_probe });
        true
    }

    /// What is known holds the client. Chains of which nothing ever came prove little while others live:
    /// anybody may import what is none.
    fn enough(&self, newest: &Piece, now: Millis) -> bool {
        let alike =
            |tried| move |piece: &&Piece| piece.reading == newest.reading && piece.tried == tried;
        let tried = self.pieces.iter().filter(alike(true)).count();
        let all = tried + self.pieces.iter().filter(alike(false)).count();
        let on_the_ramp =
            self.ended.is_some_and(|ended| newest.sent >= ended && now - ended < RAMP);
        let nobody_lives = self.succeeded.is_none();
        tried >= SEVERAL
            || all >= SEVERAL_UNTRIED
            || (nobody_lives && all >= SEVERAL)
            || (on_the_ramp && newest.tried)
    }

    /// Whether another grant than this one was turned away for asking too often, and nothing succeeded
    /// since.
    pub fn limits_others(&self, grant: &GrantId) -> bool {
        let limited = |piece: &&Piece| piece.reading == Reading::Limited && piece.grant != *grant;
        self.pieces.iter().any(|piece| limited(&piece))
    }

    /// A request that was sent then has succeeded; gives the hold that ends with it.
    pub fn succeeded(&mut self, sent: Millis, now: Millis) -> Option<Hold> {
        self.succeeded = self.succeeded.max(Some(sent));
        let newest = self.pieces.iter().map(|piece| piece.sent).max();
        self.pieces.retain(|piece| piece.sent >= sent);
        // What was under way when the trouble began says nothing of it.
        let proves = newest.is_none_or(|newest| sent > newest);
        let ended = self.hold.take_if(|hold| proves || sent >= hold.since);
        if ended.is_some() {
            self.ended = Some(now);
            self.pieces.clear();
        }
        ended
    }

    /// An operator says that what was seen so far is no trouble; or the client has changed, and what was
    /// refused before says nothing any more.
    pub fn release(&mut self, now: Millis) {
        self.hold = None;
        self.pieces.clear();
        self.refused.clear();
        self.ended = Some(now);
    }

    /// Whether a request of a grant may go out that has failed so often in a row. Who failed lets those
    /// go first who did not.
    pub fn admits(&self, failures: u32, gaps: Gaps, now: Millis) -> Admission {
        let Some(hold) = &self.hold else { return Admission::Free };
        let gap = gaps.after(hold.reading, hold.probes);
        let handicap = match failures {
            0 => 0,
            1 => gap / 2,
            _ => gap,
        };
        let at = hold.next_probe + handicap;
        if now >= at { Admission::Probe } else { Admission::Later(at) }
    }

    /// The probe goes out.
    pub fn probe(&mut self, gaps: Gaps, now: Millis) {
        if let Some(hold) = &mut self.hold {
            hold.probes += 1;
            hold.next_probe = now + gaps.after(hold.reading, hold.probes);
        }
    }

    /// A grant was refused by a code that stands for the grant, and another one than before; `true`: so
    /// many were that none of it is believed yet. `total` counts the client's grants.
    pub fn refused(&mut self, grant: &GrantId, sent: Millis, total: usize, now: Millis) -> bool {
        self.refused.retain(|(known, at)| now - at < PIECE_LIFE && known != grant);
        if self.refused.len() == MANY_MAX {
            self.refused.remove(0);
        }
        self.refused.push((grant.clone(), sent));
        self.refuses_many(total)
    }

    /// Too many grants were refused to believe it of any.
    pub fn refuses_many(&self, total: usize) -> bool {
        let (refused, few) = (self.refused.len(), total < FEW);
        let many = MANY_MIN.max((total / 100).min(MANY_MAX));
        let held = self.hold.as_ref().is_some_and(|hold| hold.reading == Reading::Refusing);
        held || refused >= many || (few && refused >= SEVERAL && refused >= total)
    }

    /// Many are refused, and nothing has succeeded since the first of them: one request at a time goes
    /// out. `true`: from now on.
    pub fn holds_for_refusals(&mut self, cause: &Cause, gaps: Gaps, now: Millis) -> bool {
        let first = self.refused.iter().map(|(_, sent)| *sent).min();
        let lived = first.is_none_or(|first| self.succeeded.is_some_and(|at| at > first));
        if lived || self.hold.is_some() {
            return false;
        }
        let reading = Reading::Refusing;
        let grants = self.refused.iter().map(|(grant, _)| grant.clone()).collect();
        let next_probe = now + gaps.after(reading, 0);
        let cause = cause.clone();
        self.hold = Some(Hold { reading, cause, since: now, grants, probes: 0, next_probe });
        true
    }

    fn forget(&mut self, now: Millis) {
        self.pieces.retain(|piece| now - piece.sent < PIECE_LIFE);
    }
}

impl Hold {
    /// For how long candidates for the next probe are waited for.
    pub fn grace(&self, gaps: Gaps) -> Duration {
        let gap = u64::try_from(gaps.after(self.reading, self.probes)).unwrap_or(0);
        (Duration::from_millis(gap) / GRACE_SHARE).min(GRACE_MAX)
    }
}

impl Gaps {
    /// The wait after so many probes.
    fn after(self, reading: Reading, probes: u32) -> Millis {
        let backoff = match reading {
            Reading::Silent | Reading::Unreachable => self.silent,
            Reading::Client
            | Reading::Endpoint
            | Reading::Puzzling
            | Reading::Refusing
            | Reading::Limited => self.refused,
        };
        let wait = backoff.after(probes);
        let wait = self.shortest_lead.map_or(wait, |lead| wait.min(lead / 4));
        let slow = self.refused.first * SLOW_PROBE;
        let least = if probes < QUICK_PROBES { Duration::ZERO } else { slow };
        let wait = wait.max(least.min(backoff.max));
        Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX / 2)
    }
}

/// How a failure reads; `None`: it says nothing of others.
pub fn reading(failure: &Failure) -> Option<Reading> {
    match failure.reason {
        Reason::ClientCredentialsRejected
        | Reason::ClientNotAuthorized
        | Reason::ClientMisconfigured => Some(Reading::Client),
        Reason::ProviderEndpointMisconfigured => Some(Reading::Endpoint),
        Reason::ProviderUnrecognizedError => Some(Reading::Puzzling),
        Reason::ProviderUnavailable
        | Reason::RefreshOutcomeUnknown
        | Reason::RefreshReplyUnreadable => Some(Reading::Silent),
        Reason::ProviderUnreachable => Some(Reading::Unreachable),
        Reason::ProviderRateLimited => Some(Reading::Limited),
        Reason::GrantReauthRequired
        | Reason::GrantInteractionRequired
        | Reason::GrantRefreshTokenLost
        | Reason::GrantRefreshTokenExpired
        | Reason::GrantNotRefreshable
        | Reason::GrantRevoked
        | Reason::GrantRefusedAlone
        | Reason::ScopeNotGranted
        | Reason::ResourceNotAllowed
        | Reason::ProviderConflict
        | Reason::ProviderRefusesMany
        | Reason::ProviderReplyIncomplete
        | Reason::StoreUnavailable => None,
    }
}

#[cfg(test)]
mod tests;
