//! When a token is fresh, when to refresh it, and what a caller gets meanwhile. Pure functions.
//!
//! A token is *fresh* until `soft_at`; from then on it is served while one refresh runs; from
//! `hard_at` on callers wait for that refresh; at expiry it is never served again.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};

use crate::broker::model::{Generation, Grant, GrantId, Token};
use crate::clock::between;

/// Least time before expiry at which callers begin to wait for a refresh.
const HARD_LEAD_MIN: Duration = Duration::from_secs(5);
/// Most time before expiry at which callers begin to wait for a refresh.
const HARD_LEAD_MAX: Duration = Duration::from_secs(60);
/// Share of the lifetime at which callers begin to wait, between those two.
const HARD_LEAD_SHARE: f64 = 0.02;
/// Allowance for clocks that disagree and for the way of the token to the API.
const SKEW: Duration = Duration::from_secs(5);
/// Callers never wait during more than this share of the lifetime.
const HARD_LEAD_SHARE_MAX: f64 = 0.25;

/// Least time before expiry at which a refresh starts in the background.
const SOFT_LEAD_MIN: Duration = Duration::from_secs(30);
/// Most time before expiry at which a refresh starts in the background.
const SOFT_LEAD_MAX: Duration = Duration::from_secs(900);
/// Share of the lifetime at which a refresh starts in the background, between those two.
const SOFT_LEAD_SHARE: f64 = 0.20;
/// The refresh never starts in the first half of the lifetime.
const SOFT_LEAD_SHARE_MAX: f64 = 0.5;
/// The hash of grant and generation spreads refreshes over this share of the lead.
const SOFT_JITTER_SHARE: f64 = 0.25;
/// The same where the provider itself says when to refresh.
const REFRESH_IN_JITTER_SHARE: f64 = 0.1;

/// The hash of grant and generation brings refreshes of idle grants forward by up to this share.
const IDLE_JITTER_SHARE: f64 = 0.1;

/// A refresh token that ends is used after this share of its life.
const END_SHARE: f64 = 0.75;
/// One that lives less than this is left alone: where a provider counts its end from the consent on, a
/// refresh does not move it, and each finds less of it left.
const END_LIFE_MIN: Duration = Duration::from_secs(20);

/// The moments that matter in the life of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// From now on one refresh runs in the background.
    pub soft_at: SystemTime,
    /// From now on callers wait for it.
    pub hard_at: SystemTime,
    /// From now on the token is worthless.
    pub expires_at: SystemTime,
}

/// Where a token is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serve it.
    Fresh,
    /// Serve it and refresh.
    Soft,
    /// Refresh, wait for it, and serve the old one if that fails.
    Hard,
    /// Refresh and wait for it.
    Expired,
}

impl Window {
    /// Computes the moments for `token`; the same on every replica.
    pub fn of(id: &GrantId, token: &Token) -> Self {
        let lifetime = token.lifetime;
        let spread = spread(id, token.generation);
        let hard_lead = (lifetime.mul_f64(HARD_LEAD_SHARE).clamp(HARD_LEAD_MIN, HARD_LEAD_MAX)
            + SKEW)
            .min(lifetime.mul_f64(HARD_LEAD_SHARE_MAX));
        let half = lifetime.mul_f64(SOFT_LEAD_SHARE_MAX);
        let soft_lead = lifetime
            .mul_f64(SOFT_LEAD_SHARE)
            .clamp(SOFT_LEAD_MIN, SOFT_LEAD_MAX)
            .mul_f64(1.0 + SOFT_JITTER_SHARE * spread)
            .min(half);
        let expires_at = token.expires_at();
        let hard_at = expires_at - hard_lead;
        let soft_at = match token.refresh_in {
            Some(wanted) => {
                let wanted = wanted.mul_f64(1.0 + REFRESH_IN_JITTER_SHARE * spread);
                (token.issued_at + wanted).min(hard_at)
            }
            None => expires_at - soft_lead,
        };
        Self { soft_at, hard_at, expires_at }
    }

    /// Where the token is at `now`.
    pub fn stage(&self, now: SystemTime) -> Stage {
        if now < self.soft_at {
            Stage::Fresh
        } else if now < self.hard_at {
            Stage::Soft
        } else if now < self.expires_at {
            Stage::Hard
        } else {
            Stage::Expired
        }
    }

    /// Time left at `now`.
    pub fn ttl(&self, now: SystemTime) -> Duration {
        between(now, self.expires_at)
    }
}

/// When a grant in use is due for a refresh; at once if it has no token.
pub(super) fn soft_due(grant: &Grant) -> SystemTime {
    let token = grant.pair.token.as_ref();
    token.map_or(grant.pair.published_at, |token| Window::of(&grant.id, token).soft_at)
}

/// When a grant that nobody asks for is refreshed to keep its refresh token alive: `every` after the
/// last refresh, or a little earlier, so that grants are spread.
pub(super) fn idle_due(
    id: &GrantId,
    generation: Generation,
    published_at: SystemTime,
    every: Duration,
) -> SystemTime {
    published_at + every.mul_f64(1.0 - IDLE_JITTER_SHARE * spread(id, generation))
}

/// When a grant whose refresh token ends is refreshed, so that it gets another: at three quarters of
/// its life, or a little earlier. `None`: so little is left that a refresh does not move the end, as
/// where a provider counts it from the consent on.
pub(super) fn end_due(
    id: &GrantId,
    generation: Generation,
    published_at: SystemTime,
    end: SystemTime,
) -> Option<SystemTime> {
    let life = between(published_at, end);
    let every = life.mul_f64(END_SHARE);
    (life >= END_LIFE_MIN).then(|| idle_due(id, generation, published_at, every))
}

/// A number in `[0, 1)` that spreads grants, the same on every replica.
pub(super) fn spread(id: &GrantId, generation: Generation) -> f64 {
    let mut input = id.as_str().as_bytes().to_vec();
    input.extend_from_slice(&generation.0.to_be_bytes());
    let hash = digest(&SHA256, &input);
    let head: [u8; 4] = hash.as_ref()[..4].try_into().unwrap_or_default();
    f64::from(u32::from_be_bytes(head)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::clock::from_unix_ms;
    use crate::secret::AccessToken;

    fn token(lifetime_s: u64, refresh_in_s: Option<u64>) -> Token {
        Token {
            access_token: AccessToken::new("at"),
            token_type: "Bearer".to_owned(),
            generation: Generation(1),
            issued_at: from_unix_ms(0),
            lifetime: Duration::from_secs(lifetime_s),
            refresh_in: refresh_in_s.map(Duration::from_secs),
            scopes: Vec::new(),
            attributes: std::collections::BTreeMap::new(),
        }
    }

    fn leads(id: &str, token: &Token) -> (Duration, Duration) {
        let window = Window::of(&GrantId::parse(id).unwrap(), token);
        (between(window.soft_at, window.expires_at), between(window.hard_at, window.expires_at))
    }

    /// (lifetime, least and most soft lead, hard lead), in seconds.
    const LEADS: [(u64, u64, u64, u64); 6] = [
        (60, 30, 30, 10),
        (300, 60, 75, 11),
        (600, 120, 150, 17),
        (1_800, 360, 450, 41),
        (3_600, 720, 900, 65),
        (43_200, 900, 1_125, 65),
    ];

    #[test]
    fn leads_are_shares_of_the_lifetime_within_bounds() {
        for (lifetime, soft_min, soft_max, hard) in LEADS {
            for name in ["kroger/alice", "kroger/bob", "a1", "demo/x"] {
                let (soft, actual_hard) = leads(name, &token(lifetime, None));
                assert!(soft >= Duration::from_secs(soft_min), "{lifetime}: {soft:?}");
                assert!(soft <= Duration::from_secs(soft_max), "{lifetime}: {soft:?}");
                assert_eq!(actual_hard, Duration::from_secs(hard), "{lifetime}");
            }
        }
    }

    #[test]
    fn very_short_lives_still_have_a_fresh_part() {
        for lifetime in 1..20 {
            let token = token(lifetime, None);
            let window = Window::of(&GrantId::parse("a1").unwrap(), &token);
            assert!(token.issued_at < window.soft_at, "{lifetime}");
            assert!(window.soft_at <= window.hard_at, "{lifetime}");
            assert!(window.hard_at < window.expires_at, "{lifetime}");
        }
    }

    #[test]
    fn the_provider_may_say_when_but_not_too_late() {
        let (soft, hard) = leads("a1", &token(3_600, Some(1_800)));
        assert!(soft <= Duration::from_secs(1_800) && soft >= Duration::from_secs(1_620));
        assert_eq!(leads("a1", &token(3_600, Some(9_000))).0, hard);
    }

    #[test]
    fn grants_of_one_moment_are_spread() {
        let token = token(3_600, None);
        let mut leads: Vec<_> =
            (0..100).map(|n| leads(&format!("kroger/{n}"), &token).0.as_secs() / 60).collect();
        leads.sort_unstable();
        leads.dedup();
        assert!(leads.len() >= 3, "three minutes hold 100 grants: {leads:?}");
    }

    #[test]
    fn stages_follow_each_other() {
        let window = Window::of(&GrantId::parse("a1").unwrap(), &token(60, None));
        let at = |s: u64| window.stage(from_unix_ms(s * 1000));
        assert_eq!(
            (at(29), at(30), at(50), at(60)),
            (Stage::Fresh, Stage::Soft, Stage::Hard, Stage::Expired)
        );
    }

    #[test]
    fn idle_grants_are_refreshed_in_time_and_spread() {
        let every = Duration::from_secs(43_200);
        let due = |name: &str| {
            let id = GrantId::parse(name).unwrap();
            let due = idle_due(&id, Generation(1), UNIX_EPOCH, every);
            due.duration_since(UNIX_EPOCH).unwrap()
        };
        let all: Vec<_> = (0..50).map(|n| due(&format!("kroger/{n}"))).collect();
        assert!(all.iter().all(|due| *due <= every && *due >= every.mul_f64(0.9)));
        assert_ne!(
            all.iter().min().unwrap().as_secs() / 600,
            all.iter().max().unwrap().as_secs() / 600
        );
    }

    #[test]
    fn a_refresh_token_is_used_before_its_end() {
        let id = GrantId::parse("kroger/alice").unwrap();
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let due = |end| end_due(&id, Generation(1), at(1_000), at(end));
        let day = due(1_000 + 86_400).unwrap();
        assert!(day > at(1_000 + 57_000) && day <= at(1_000 + 64_800), "{day:?}");
        let short = due(1_000 + 120).unwrap();
        assert!(short > at(1_000 + 80) && short <= at(1_000 + 90), "{short:?}");
        assert_eq!(due(1_000 + 19), None, "an end that does not move is not run after");
        assert_eq!(due(500), None);
    }
}
