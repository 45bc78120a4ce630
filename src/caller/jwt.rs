//! Tokens of Kubernetes service accounts, checked offline: projected into the pod of a caller for our
//! audience, signed by the cluster.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use crate::caller::Caller;
use crate::caller::claimed::{audience, shown};
use crate::caller::keys::{Found, Keys};
use crate::caller::unproven::Unproven;
use crate::clock::from_unix_ms;

/// What clusters sign with. Never a shared secret, and never nothing.
const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// A token that begins is one of a clock that may be ahead by so much; one that ends has been replaced long before.
const LEEWAY: Duration = Duration::from_secs(10);
/// A token is not checked again for so long.
const BELIEVED: Duration = Duration::from_secs(300);
/// What the subject of a service account begins with.
const SUBJECT: &str = "system:serviceaccount:";

/// Whose tokens are believed, and those meant for whom.
pub struct Kubernetes {
    issuer: String,
    audience: String,
    keys: Arc<Keys>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    exp: f64,
    nbf: Option<f64>,
}

impl Kubernetes {
    /// Tokens of `issuer` for `audience`, signed with one of `keys`.
    pub fn new(issuer: String, audience: String, keys: Arc<Keys>) -> Self {
        Self { issuer, audience, keys }
    }

    /// Whose token it is, and until when it is good.
    pub(super) async fn verify(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<(Caller, SystemTime), Unproven> {
        let because = |why| Err(Unproven::Token(why));
        let claims = self.signed(token).await?;
        if claims.iss != self.issuer {
            let (claimed, ours) = (shown(&claims.iss), self.issuer.clone());
            return Err(Unproven::Issuer { claimed, ours });
        }
        let meant = match &claims.aud {
            Value::String(one) => *one == self.audience,
            Value::Array(all) => all.iter().any(|one| *one == self.audience),
            _ => false,
        };
        if !meant {
            let (claimed, ours) = (audience(&claims.aud), self.audience.clone());
            return Err(Unproven::Audience { claimed, ours });
        }
        let expires_at = moment(claims.exp);
        if expires_at <= now {
            return because("has expired; read the file again for each call");
        }
        if claims.nbf.is_some_and(|from| moment(from) > now + LEEWAY) {
            return because("is not valid yet");
        }
        let named = claims.sub.strip_prefix(SUBJECT).and_then(|name| name.split_once(':'));
        let Some(caller) = named.and_then(|(namespace, name)| Caller::of_pod(namespace, name))
        else {
            return because("is not of a service account");
        };
        // Keys are taken back, too.
        Ok((caller, expires_at.min(now + BELIEVED)))
    }

    async fn signed(&self, token: &str) -> Result<Claims, Unproven> {
        let header = decode_header(token).map_err(|_| Unproven::Token("cannot be read"))?;
        // What must be understood is not (RFC 7515 section 4.1.11).
        if header.crit.is_some() {
            return Err(Unproven::Token("asks for what is not known here (`crit`)"));
        }
        if !ALGORITHMS.contains(&header.alg) {
            return Err(Unproven::Token("is signed in a way that proves nothing"));
        }
        let mut validation = Validation::new(header.alg);
        // All else is compared by our own clock and settings.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        // Clusters name the key always.
        let name = header.kid.ok_or(Unproven::Token("does not name the key that signed it"))?;
        let key = match self.keys.named(&name).await {
            Found::Key(key) => key,
            Found::Unknown => {
                return Err(Unproven::Token(
                    "is signed with a key that the cluster does not publish",
                ));
            }
            Found::NoKeys => return Err(Unproven::NoKeys),
        };
        let read = decode::<Claims>(token, &key, &validation);
        read.map(|read| read.claims).map_err(|error| match error.kind() {
            ErrorKind::Json(_) | ErrorKind::MissingRequiredClaim(_) => {
                Unproven::Token("lacks issuer, subject, audience or end")
            }
            _ => Unproven::Token("has a wrong signature"),
        })
    }
}

/// Three parts, as RFC 7519 has it.
pub(super) fn looks_like_one(token: &str) -> bool {
    token.split('.').count() == 3
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn moment(seconds: f64) -> SystemTime {
    from_unix_ms((seconds * 1_000.0).min(4e15) as u64)
}
