//! Pairs from replies: what a provider's answer makes of the pair that was there before. Pure.

use std::time::SystemTime;

use tokio::time::Instant;

use crate::broker::endpoint::{Failure, Issued, Reply};
use crate::broker::model::{Descriptor, Generation, Intent, Pair, Token};
use crate::clock::between;
use crate::secret::RefreshToken;

/// A request that was sent.
#[derive(Clone, Copy)]
pub(super) struct Presented<'a> {
    /// The claim under which it left.
    pub(super) intent: &'a Intent,
    /// When, as stores keep it.
    pub(super) at: SystemTime,
    /// When, on a clock that nobody turns.
    pub(super) sent: Instant,
}

/// What a request was sent with.
pub(super) struct Sent<'a> {
    /// The pair that it may have spent.
    pub(super) before: &'a Pair,
    /// What the grant is.
    pub(super) descriptor: &'a Descriptor,
    /// The generation that its answer makes current.
    pub(super) generation: Generation,
    /// When it left: lifetimes count from then on.
    pub(super) at: SystemTime,
    /// It was presented again inside a window in which a spent one works; the end of that.
    pub(super) window_end: Option<SystemTime>,
}

/// A pair that came back.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) pair: Pair,
    /// Why it has the old access token still: the refresh token came without a new one.
    pub(super) failure: Option<Failure>,
}

/// The pair in a reply. `Err`: it brought nothing that has to be kept.
pub(super) fn received(
    sent: &Sent<'_>,
    reply: Reply,
    now: SystemTime,
) -> Result<Received, Failure> {
    let before = sent.before;
    // One that is repeated is no new one: whether it lives on, the rest of the reply says.
    let repeated = |token: &RefreshToken| Some(token) == before.refresh_token.as_ref();
    let echoed = reply.refresh_token.as_ref().is_some_and(repeated);
    let fresh = reply.refresh_token.filter(|token| !repeated(token));
    let fresh = fresh.filter(|_| sent.descriptor.kind.spends());
    let (token, failure) = match (reply.issued, &fresh) {
        (Ok(issued), _) => {
            let asked = &sent.descriptor.scopes;
            let mut token = token(issued, sent.generation, sent.at, asked);
            if let Some(end) = sent.window_end.filter(|_| echoed) {
                // One that comes back in the window may be the spent one.
                let soon = between(sent.at, end);
                token.refresh_in = Some(token.refresh_in.map_or(soon, |time| time.min(soon)));
            }
            (Some(no_later(token, before.token.as_ref())), None)
        }
        (Err(failure), Some(_)) => (before.token.clone(), Some(failure)),
        (Err(failure), None) => return Err(failure),
    };
    let end = reply.refresh_token_lifetime.map(|lifetime| sent.at + lifetime);
    // The end of the old refresh token says nothing about a new one.
    let kept_end = before.refresh_token_expires_at.filter(|_| fresh.is_none());
    let pair = Pair {
        refresh_token: fresh.or_else(|| before.refresh_token.clone()),
        refresh_token_expires_at: end.or(kept_end),
        token,
        published_at: now,
    };
    Ok(Received { pair, failure })
}

/// A token that is the one of before ends when that ends.
fn no_later(token: Token, before: Option<&Token>) -> Token {
    let same = before.filter(|before| before.access_token == token.access_token);
    let Some(before) = same else { return token };
    let end = before.expires_at().min(token.expires_at());
    let lifetime = between(token.issued_at, end);
    // Asked at once again, the provider would say the same.
    Token { lifetime, refresh_in: Some(token.refresh_in.unwrap_or(lifetime / 2)), ..token }
}

/// The token of this generation that was issued to a request sent `at` that time. Scopes that are
/// left out are those that were asked for (RFC 6749 section 5.1).
pub(in crate::broker) fn token(
    issued: Issued,
    generation: Generation,
    at: SystemTime,
    asked: &[String],
) -> Token {
    let granted = Some(issued.scopes).filter(|scopes| !scopes.is_empty());
    Token {
        access_token: issued.access_token,
        token_type: issued.token_type,
        generation,
        issued_at: at,
        lifetime: issued.lifetime,
        refresh_in: issued.refresh_in,
        scopes: granted.unwrap_or_else(|| asked.to_vec()),
        attributes: issued.attributes,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::broker::endpoint::Disposition;
    use crate::broker::entry::tests::grant;
    use crate::broker::model::{DoubtKind, Grant, Reason};
    use crate::clock::from_unix_ms;
    use crate::secret::AccessToken;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn old() -> Grant {
        let mut grant = grant();
        grant.descriptor.scopes = vec!["read".to_owned()];
        grant.pair.refresh_token = Some(RefreshToken::new("old"));
        grant.pair.refresh_token_expires_at = Some(from_unix_ms(9_000));
        grant
    }

    fn reply(refresh_token: Option<&str>, issued: Result<Issued, Failure>) -> Reply {
        let refresh_token = refresh_token.map(RefreshToken::new);
        Reply { refresh_token, ..Reply::of(issued) }
    }

    #[test]
    fn a_repeated_refresh_token_is_no_new_one() {
        let old = old();
        let sent = Sent {
            before: &old.pair,
            descriptor: &old.descriptor,
            generation: old.generation().next(),
            at: from_unix_ms(1_000),
            window_end: None,
        };
        let unread = reply(Some("old"), Err(failure()));
        assert!(received(&sent, unread, from_unix_ms(1_001)).is_err(), "it may be spent");
        let read = reply(Some("old"), Ok(issued(&[])));
        let pair = received(&sent, read, from_unix_ms(1_001)).unwrap().pair;
        assert_eq!(pair.refresh_token, old.pair.refresh_token);
        assert_eq!(pair.refresh_token_expires_at, old.pair.refresh_token_expires_at);
    }

    fn issued(scopes: &[&str]) -> Issued {
        Issued {
            access_token: AccessToken::new("new"),
            token_type: "Bearer".to_owned(),
            lifetime: DAY,
            refresh_in: None,
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            attributes: BTreeMap::new(),
        }
    }

    #[test]
    fn the_same_access_token_is_never_given_a_later_end() {
        let mut grant = old();
        let before = token(issued(&[]), grant.generation(), from_unix_ms(1_000), &[]);
        grant.pair.token = Some(before.clone());
        let sent = Sent {
            before: &grant.pair,
            descriptor: &grant.descriptor,
            generation: grant.generation().next(),
            at: from_unix_ms(5_000),
            window_end: None,
        };
        let again = received(&sent, reply(None, Ok(issued(&[]))), from_unix_ms(5_001)).unwrap();
        assert_eq!(again.pair.token.unwrap().expires_at(), before.expires_at());
        let other = Issued { access_token: AccessToken::new("other"), ..issued(&[]) };
        let other = received(&sent, reply(None, Ok(other)), from_unix_ms(5_001)).unwrap();
        assert!(other.pair.token.unwrap().expires_at() > before.expires_at());
    }

    fn failure() -> Failure {
        let unknown = Disposition::Unknown(DoubtKind::Unreadable);
        Failure { status: Some(200), ..Failure::new(Reason::RefreshReplyUnreadable, unknown) }
    }

    fn receive(reply: Reply) -> Result<Received, Failure> {
        let grant = old();
        let sent = Sent {
            before: &grant.pair,
            descriptor: &grant.descriptor,
            generation: grant.generation().next(),
            at: from_unix_ms(1_000),
            window_end: None,
        };
        received(&sent, reply, from_unix_ms(2_000))
    }

    #[test]
    fn what_a_reply_leaves_out_stays_as_it_was() {
        let kept = receive(reply(None, Ok(issued(&[])))).unwrap().pair;
        assert_eq!(kept.refresh_token, Some(RefreshToken::new("old")));
        assert_eq!(kept.refresh_token_expires_at, Some(from_unix_ms(9_000)));
        let token = kept.token.unwrap();
        assert_eq!((token.scopes, token.generation), (vec!["read".to_owned()], Generation(8)));
        assert_eq!(token.issued_at, from_unix_ms(1_000), "before it was sent, never after");

        let replaced = receive(reply(Some("next"), Ok(issued(&["write"])))).unwrap().pair;
        assert_eq!(replaced.refresh_token, Some(RefreshToken::new("next")));
        assert_eq!(replaced.refresh_token_expires_at, None);
        assert_eq!(replaced.token.unwrap().scopes, ["write"]);
    }

    #[test]
    fn a_refresh_token_that_comes_back_in_a_window_is_used_before_that_ends() {
        let grant = old();
        let (at, end) = (from_unix_ms(1_000), from_unix_ms(49_000));
        let refresh_in = |reply, window_end| {
            let sent = Sent {
                before: &grant.pair,
                descriptor: &grant.descriptor,
                generation: grant.generation().next(),
                at,
                window_end,
            };
            received(&sent, reply, from_unix_ms(2_000)).unwrap().pair.token.unwrap().refresh_in
        };
        let echo = || reply(Some("old"), Ok(issued(&[])));
        assert_eq!(refresh_in(echo(), Some(end)), Some(Duration::from_secs(48)));
        assert_eq!(refresh_in(echo(), None), None);
        assert_eq!(refresh_in(reply(Some("next"), Ok(issued(&[]))), Some(end)), None);
    }

    #[test]
    fn a_refresh_token_is_kept_even_if_nothing_else_can_be_read() {
        let received = receive(reply(Some("next"), Err(failure()))).unwrap();
        assert_eq!(received.pair.refresh_token, Some(RefreshToken::new("next")));
        assert!(received.pair.token.is_none() && received.failure.is_some());
        assert!(receive(reply(None, Err(failure()))).is_err());
    }
}
