//! Grants: what is stored for one authorization, and where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::broker::error::Reason;
use crate::secret::{AccessToken, RefreshToken};

/// Longest name of a grant, in characters.
const ID_LEN_MAX: usize = 200;
/// Shortest name of a grant, in characters.
const ID_LEN_MIN: usize = 2;

/// Name of a grant, such as `kroger/alice`. Opaque: the part before the slash implies no provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantId(Arc<str>);

impl GrantId {
    /// Accepts 2 to 200 characters of `a-z 0-9 . _ / -` with a letter or digit at both ends.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let inner = |byte: u8| end(byte) || matches!(byte, b'.' | b'_' | b'/' | b'-');
        let bytes = text.as_bytes();
        let valid = (ID_LEN_MIN..=ID_LEN_MAX).contains(&bytes.len())
            && bytes.iter().all(|&byte| inner(byte))
            && bytes.first().is_some_and(|&byte| end(byte))
            && bytes.last().is_some_and(|&byte| end(byte));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err("must be 2 to 200 characters of a-z, 0-9, '.', '_', '/' and '-', and begin and \
                 end with a letter or digit, such as \"kroger/alice\"")
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of a provider in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderId(Arc<str>);

impl ProviderId {
    /// Wraps the name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Number of a grant's token pair; rises by one at each rotation and jumps ahead at a new chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that a rotation of this one mints.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// First generation of a new chain: above everything before it, also across stores, because
    /// the Unix time outruns any count of rotations. A pair that the old chain has under way is of
    /// the generation after `previous`, so the new chain begins above that one too.
    #[must_use]
    pub fn of_new_chain(previous: Option<Self>, now: SystemTime) -> Self {
        let seconds = crate::clock::unix_ms(now) / 1000;
        Self(previous.map_or(seconds, |previous| seconds.max(previous.0 + 2)))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number that orders the holders of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

impl Fence {
    /// The fence after `last`: at least the time in milliseconds, so that a store which forgot its
    /// last increments in a failover repeats none of them.
    #[must_use]
    pub fn after(last: Self, now_ms: u64) -> Self {
        Self(now_ms.max(last.0 + 1))
    }
}

/// How a grant gets its access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantKind {
    /// By a refresh token that a use may spend (RFC 6749 section 6).
    RefreshToken,
    /// By the client's own right, which nothing spends (RFC 6749 section 4.4).
    ClientCredentials,
}

impl GrantKind {
    /// A second request for the same generation may do harm.
    pub fn spends(self) -> bool {
        match self {
            Self::RefreshToken => true,
            Self::ClientCredentials => false,
        }
    }
}

/// What operators say about a grant; no secrets, unchanged by rotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The provider that it belongs to.
    pub provider: ProviderId,
    /// How it gets access tokens.
    pub kind: GrantKind,
    /// The scopes that it stands for.
    pub scopes: Vec<String>,
    /// Names and values attached by operators.
    pub labels: BTreeMap<String, String>,
    /// Refreshed before expiry even if nobody asks.
    pub keep_warm: bool,
    /// Switched off: no token is handed out and none fetched.
    pub disabled: bool,
    /// When it was imported, created or enrolled.
    pub create_time: SystemTime,
}

/// An access token and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The secret itself.
    pub access_token: AccessToken,
    /// `Bearer`, or what the provider said.
    pub token_type: String,
    /// The generation that minted it; the grant may be further on.
    pub generation: Generation,
    /// Taken before the request was sent.
    pub issued_at: SystemTime,
    /// How long it lives from then on.
    pub lifetime: Duration,
    /// When the provider wants it refreshed, counted like the lifetime.
    pub refresh_in: Option<Duration>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Fields of the reply that the provider's configuration lets through.
    pub attributes: BTreeMap<String, String>,
}

impl Token {
    /// The first moment at which it is no longer valid.
    pub fn expires_at(&self) -> SystemTime {
        self.issued_at + self.lifetime
    }
}

/// The secrets of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What buys the next generation; absent for kinds that spend nothing.
    pub refresh_token: Option<RefreshToken>,
    /// The end of the refresh token, if the provider said so.
    pub refresh_token_expires_at: Option<SystemTime>,
    /// The newest access token; absent before the first refresh.
    pub token: Option<Token>,
    /// When this generation arrived.
    pub published_at: SystemTime,
}

/// The provider's final no to a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// The provider's error code, sanitised.
    pub provider_error: Option<String>,
    /// HTTP status of the reply.
    pub provider_status: Option<u16>,
    /// When.
    pub time: SystemTime,
    /// An API had rejected the access token, too: it is no good until its end.
    pub token_rejected: bool,
    /// It is not the provider's: an operator gave up a refresh token in this doubt.
    pub given_up: Option<Doubt>,
}

/// Whether a grant can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Usable,
    /// The provider refused its refresh token; only a new chain helps.
    Refused(Verdict),
    /// It was deleted; what is left is a tombstone that keeps late pairs out.
    Deleted,
}

/// Who spends a generation. `attempt` is new for each claim, so that a process never takes an
/// earlier, already sent claim of its own for a fresh one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the replica.
    pub replica: String,
    /// Random number drawn when the process started.
    pub boot: u64,
    /// Number of the claim within the process.
    pub attempt: u64,
}

/// How it came that nobody knows whether a refresh token was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DoubtKind {
    /// The provider answered that something went wrong, before or after it spent the token.
    Answered,
    /// The provider answered with success, and the answer cannot be read.
    Unreadable,
    /// The connection ended without an answer.
    Ended,
    /// No answer came for as long as one is listened for.
    Unheard,
    /// The process that had sent it is gone.
    Died,
    /// The store is a copy from the past: the token may have been spent since.
    Restored,
}

impl DoubtKind {
    /// All values, for tables and tests.
    pub const ALL: [Self; 6] =
        [Self::Answered, Self::Unreadable, Self::Ended, Self::Unheard, Self::Died, Self::Restored];

    /// Stable name: in stored records, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreadable => "unreadable",
            Self::Ended => "ended",
            Self::Unheard => "unheard",
            Self::Died => "died",
            Self::Restored => "restored",
        }
    }

    /// The value of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A refresh token that was sent and got no definite answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// How the newest request ended.
    pub kind: DoubtKind,
    /// HTTP status of the newest answer, if there was one.
    pub status: Option<u16>,
    /// When the token was first sent.
    pub since: SystemTime,
    /// When it was last sent; of a process that is gone, when that was proven.
    pub sent_at: SystemTime,
    /// How often it was sent.
    pub attempts: u32,
    /// The claim that it belongs to. If that is not the one that is held, the doubt is being
    /// resolved under the one that is.
    pub fence: Fence,
}

/// The mark "this generation is being spent". It never expires by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The generation being spent.
    pub generation: Generation,
    /// By whom.
    pub owner: Owner,
    /// Orders holders.
    pub fence: Fence,
    /// When, by the store's clock.
    pub since: SystemTime,
    /// What is known of requests that got no definite answer.
    pub doubt: Option<Doubt>,
}

impl Intent {
    /// The doubt, if nobody is resolving it: its holder has no request under way.
    pub fn in_doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref().filter(|doubt| doubt.fence == self.fence)
    }
}

/// Place of a change in the history of a grant: changes with a greater one win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Decides first.
    pub generation: Generation,
    /// Decides between changes of one generation.
    pub fence: Fence,
}

/// One stored authorization, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its name.
    pub id: GrantId,
    /// Where its newest change stands.
    pub position: Position,
    /// What operators say about it.
    pub descriptor: Descriptor,
    /// Its secrets.
    pub pair: Pair,
    /// Whether it can be used.
    pub standing: Standing,
    /// Set while its generation is being spent.
    pub intent: Option<Intent>,
}

impl Grant {
    /// The current generation.
    pub fn generation(&self) -> Generation {
        self.position.generation
    }

    /// Changes whenever the grant changes.
    pub fn etag(&self) -> String {
        format!("{}-{}", self.position.generation.0, self.position.fence.0)
    }

    /// The grant is of the chain that stood at `spent`, one rotation further at most.
    pub fn continues(&self, spent: Generation) -> bool {
        self.generation() <= spent.next()
    }

    /// The access token, if it is valid at `now`.
    pub fn valid_token(&self, now: SystemTime) -> Option<&Token> {
        self.pair.token.as_ref().filter(|token| now < token.expires_at())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_ms;

    #[test]
    fn names_of_grants() {
        for good in ["a1", "kroger/alice", "a.b_c/d-e", &"a".repeat(200)] {
            assert!(GrantId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "/a", "a/", "Kroger/alice", "a b", "ä1", "a\n", &"a".repeat(201)] {
            assert!(GrantId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_new_chain_is_above_the_old_one_and_the_clock() {
        let now = from_unix_ms(5_000);
        assert_eq!(Generation::of_new_chain(None, now), Generation(5));
        assert_eq!(Generation::of_new_chain(Some(Generation(3)), now), Generation(5));
        assert_eq!(Generation::of_new_chain(Some(Generation(9)), now), Generation(11));
    }

    #[test]
    fn fences_rise_even_when_the_clock_does_not() {
        assert_eq!(Fence::after(Fence(10), 4), Fence(11));
        assert_eq!(Fence::after(Fence(10), 400), Fence(400));
    }
}
