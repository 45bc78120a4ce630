//! What is sealed, before it is: the stored forms of a descriptor, a pair and a verdict.
//!
//! Times are milliseconds since the Unix epoch. A form is never changed so that an older record
//! could not be read.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::model::{
    Descriptor, Doubt, Fence, Generation, GrantKind, Pair, ProviderId, Reason, Token, Verdict,
};
use crate::clock::{from_unix_ms, unix_ms};
use crate::secret::{AccessToken, Account, RefreshToken};
use crate::store::record::{StoredDoubt, millis};

mod enrolment;
mod evidence;

pub(crate) use enrolment::{PlainEnding, PlainEnrolment};
pub(crate) use evidence::PlainEvidence;

/// What operators say about the grant.
#[derive(Serialize, Deserialize)]
pub(crate) struct PlainDescriptor {
    provider: String,
    kind: Kind,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    keep_warm: bool,
    #[serde(default)]
    disabled: bool,
    create_time: u64,
    #[serde(default)]
    account: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    RefreshToken,
    ClientCredentials,
}

/// The provider's no.
#[derive(Serialize, Deserialize)]
pub(crate) struct PlainVerdict {
    reason: String,
    provider_error: Option<String>,
    #[serde(default)]
    detail: Option<String>,
    provider_status: Option<u16>,
    time: u64,
    #[serde(default)]
    token_rejected: bool,
    #[serde(default)]
    given_up: Option<StoredDoubt>,
}

/// The secrets of one generation.
#[derive(Serialize, Deserialize)]
pub(crate) struct PlainPair {
    refresh_token: Option<String>,
    refresh_token_expires_at: Option<u64>,
    published_at: u64,
    token: Option<PlainToken>,
}

#[derive(Serialize, Deserialize)]
struct PlainToken {
    access_token: String,
    token_type: String,
    generation: u64,
    issued_at: u64,
    lifetime_ms: u64,
    refresh_in_ms: Option<u64>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl From<&Descriptor> for PlainDescriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            provider: descriptor.provider.as_str().to_owned(),
            kind: match descriptor.kind {
                GrantKind::RefreshToken => Kind::RefreshToken,
                GrantKind::ClientCredentials => Kind::ClientCredentials,
            },
            scopes: descriptor.scopes.clone(),
            labels: descriptor.labels.clone(),
            keep_warm: descriptor.keep_warm,
            disabled: descriptor.disabled,
            create_time: unix_ms(descriptor.create_time),
            account: descriptor.account.as_ref().map(|account| account.expose().to_owned()),
        }
    }
}

impl From<PlainDescriptor> for Descriptor {
    fn from(plain: PlainDescriptor) -> Self {
        Self {
            provider: ProviderId::new(&plain.provider),
            kind: match plain.kind {
                Kind::RefreshToken => GrantKind::RefreshToken,
                Kind::ClientCredentials => GrantKind::ClientCredentials,
            },
            scopes: plain.scopes,
            labels: plain.labels,
            keep_warm: plain.keep_warm,
            disabled: plain.disabled,
            create_time: from_unix_ms(plain.create_time),
            account: plain.account.map(Account::new),
        }
    }
}

impl PlainVerdict {
    /// The verdict under the claim that has this fence.
    pub(crate) fn new(fence: Fence, verdict: &Verdict) -> Self {
        Self {
            reason: verdict.reason.name().to_owned(),
            provider_error: verdict.provider_error.clone(),
            detail: verdict.detail.clone(),
            provider_status: verdict.provider_status,
            time: unix_ms(verdict.time),
            token_rejected: verdict.token_rejected,
            given_up: verdict.given_up.as_ref().map(|doubt| StoredDoubt::new(doubt, fence)),
        }
    }
}

impl From<PlainVerdict> for Verdict {
    fn from(plain: PlainVerdict) -> Self {
        Self {
            // A reason of a later version means re-authorization all the same.
            reason: Reason::from_name(&plain.reason).unwrap_or(Reason::GrantReauthRequired),
            provider_error: plain.provider_error,
            detail: plain.detail,
            provider_status: plain.provider_status,
            time: from_unix_ms(plain.time),
            token_rejected: plain.token_rejected,
            given_up: plain.given_up.as_ref().map(Doubt::from),
        }
    }
}

impl From<&Pair> for PlainPair {
    fn from(pair: &Pair) -> Self {
        Self {
            refresh_token: pair.refresh_token.as_ref().map(|token| token.expose().to_owned()),
            refresh_token_expires_at: pair.refresh_token_expires_at.map(unix_ms),
            published_at: unix_ms(pair.published_at),
            token: pair.token.as_ref().map(PlainToken::from),
        }
    }
}

impl From<&Token> for PlainToken {
    fn from(token: &Token) -> Self {
        Self {
            access_token: token.access_token.expose().to_owned(),
            token_type: token.token_type.clone(),
            generation: token.generation.0,
            issued_at: unix_ms(token.issued_at),
            lifetime_ms: millis(token.lifetime),
            refresh_in_ms: token.refresh_in.map(millis),
            scopes: token.scopes.clone(),
            attributes: token.attributes.clone(),
        }
    }
}

impl From<PlainPair> for Pair {
    fn from(plain: PlainPair) -> Self {
        Self {
            refresh_token: plain.refresh_token.map(RefreshToken::new),
            refresh_token_expires_at: plain.refresh_token_expires_at.map(from_unix_ms),
            published_at: from_unix_ms(plain.published_at),
            token: plain.token.map(Token::from),
        }
    }
}

impl From<PlainToken> for Token {
    fn from(plain: PlainToken) -> Self {
        Self {
            access_token: AccessToken::new(plain.access_token),
            token_type: plain.token_type,
            generation: Generation(plain.generation),
            issued_at: from_unix_ms(plain.issued_at),
            lifetime: Duration::from_millis(plain.lifetime_ms),
            refresh_in: plain.refresh_in_ms.map(Duration::from_millis),
            scopes: plain.scopes,
            attributes: plain.attributes,
        }
    }
}
