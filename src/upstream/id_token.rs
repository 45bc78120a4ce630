//! Who consented, as the provider signs it (OpenID Connect Core section 3.1.3.7). Pure.

use std::time::SystemTime;

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use crate::clock::unix_ms;
use crate::secret::{Account, IdToken, Nonce};

/// Signatures that only the provider can make.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// Clocks may differ by so much, in seconds.
const LEEWAY_S: f64 = 60.0;
/// Longest name of a person (section 2 of the same).
const SUBJECT_MAX: usize = 255;

/// What must stand in it.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a Nonce,
}

/// Why it is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Untrusted {
    /// The key that signed it is not among those known; a provider may have a new one.
    UnknownKey,
    /// For good.
    Because(&'static str),
}

impl Untrusted {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::UnknownKey => "its id_token is signed with a key that it does not publish",
            Self::Because(why) => why,
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    azp: Option<String>,
    exp: f64,
    iat: Option<f64>,
    nonce: Option<String>,
}

/// The account that an `id_token` names, once everything about it is right.
pub(crate) fn account(
    id_token: &IdToken,
    keys: &JwkSet,
    expected: Expected<'_>,
    now: SystemTime,
) -> Result<Account, Untrusted> {
    let claims = signed(id_token.expose(), keys)?;
    let because = |why| Err(Untrusted::Because(why));
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact")]
    let now = (unix_ms(now) / 1_000) as f64;
    if claims.iss != expected.issuer {
        return because("its id_token is of another issuer");
    }
    if !addressed(&claims, expected.client_id) {
        return because("its id_token is for another client");
    }
    if claims.exp + LEEWAY_S <= now {
        return because("its id_token has expired");
    }
    if claims.iat.is_some_and(|iat| iat - LEEWAY_S > now) {
        return because("its id_token is from the future");
    }
    // Of different lengths they are different, and nothing else is learned from the time it takes.
    if claims.nonce.map(Nonce::new).as_ref() != Some(expected.nonce) {
        return because("its id_token answers another question");
    }
    if claims.sub.is_empty() || claims.sub.len() > SUBJECT_MAX {
        return because("its id_token names nobody");
    }
    Ok(Account::new(format!("{} {}", claims.iss, claims.sub)))
}

fn signed(id_token: &str, keys: &JwkSet) -> Result<Claims, Untrusted> {
    let broken = Untrusted::Because("its id_token cannot be read");
    let header = decode_header(id_token).map_err(|_| broken)?;
    if !ALGORITHMS.contains(&header.alg) {
        return Err(Untrusted::Because("its id_token is signed in a way that proves nothing"));
    }
    let mut validation = Validation::new(header.alg);
    // All else is compared by our own clock and settings.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let named = |key: &&Jwk| match (&header.kid, &key.common.key_id) {
        (Some(wanted), Some(found)) => wanted == found,
        _ => true,
    };
    let mut tried = keys.keys.iter().filter(named).peekable();
    if tried.peek().is_none() {
        return Err(Untrusted::UnknownKey);
    }
    let read = tried.find_map(|key| {
        let key = DecodingKey::from_jwk(key).ok()?;
        decode::<Claims>(id_token, &key, &validation).ok()
    });
    // With a name the key was there; without one it may be new.
    let failed = match header.kid {
        Some(_) => Untrusted::Because("the signature of its id_token is wrong"),
        None => Untrusted::UnknownKey,
    };
    read.map(|read| read.claims).ok_or(failed)
}

fn addressed(claims: &Claims, client_id: &str) -> bool {
    match &claims.aud {
        Value::String(one) => one == client_id,
        Value::Array(all) => {
            let ours = all.iter().any(|one| one == client_id);
            ours && (all.len() == 1 || claims.azp.as_deref() == Some(client_id))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> EncodingKey {
        let rng = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        EncodingKey::from_ec_der(der.as_ref())
    }

    fn published(key: &EncodingKey, name: &str) -> Jwk {
        let mut public = Jwk::from_encoding_key(key, Algorithm::ES256).unwrap();
        public.common.key_id = Some(name.to_owned());
        public
    }

    fn claims(change: &Value) -> Value {
        let mut claims = json!({
            "iss": "https://p", "sub": "alice", "aud": "id", "nonce": "n", "iat": NOW, "exp": NOW + 600
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn judged(token: &str, keys: &JwkSet) -> Result<Account, Untrusted> {
        let nonce = Nonce::new("n");
        let expected = Expected { issuer: "https://p", client_id: "id", nonce: &nonce };
        account(
            &IdToken::new(token),
            keys,
            expected,
            SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
        )
    }

    fn es256(name: Option<&str>) -> Header {
        Header { kid: name.map(str::to_owned), ..Header::new(Algorithm::ES256) }
    }

    #[test]
    fn what_a_provider_signs_of_a_person_is_believed() {
        let (own, other) = (key(), key());
        let keys = JwkSet { keys: vec![published(&other, "old"), published(&own, "new")] };
        for (header, change) in [
            (es256(Some("new")), json!({})),
            (es256(None), json!({})),
            (es256(Some("new")), json!({"aud": ["id", "other"], "azp": "id"})),
            (es256(Some("new")), json!({"aud": ["id"], "iat": NOW + 30, "exp": NOW - 30})),
        ] {
            let token = encode(&header, &claims(&change), &own).unwrap();
            assert_eq!(judged(&token, &keys), Ok(Account::new("https://p alice")), "{change}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        let (own, other) = (key(), key());
        let keys = JwkSet { keys: vec![published(&own, "k")] };
        for (change, why) in [
            (json!({"iss": "https://q"}), "another issuer"),
            (json!({"aud": "other"}), "another client"),
            (json!({"aud": ["id", "other"]}), "another client"),
            (json!({"aud": ["id", "other"], "azp": "other"}), "another client"),
            (json!({"aud": 7}), "another client"),
            (json!({"nonce": "m"}), "another question"),
            (json!({"nonce": null}), "another question"),
            (json!({"exp": NOW - 61}), "expired"),
            (json!({"iat": NOW + 61}), "the future"),
            (json!({"sub": ""}), "nobody"),
            (json!({"sub": "a".repeat(256)}), "nobody"),
        ] {
            let token = encode(&es256(Some("k")), &claims(&change), &own).unwrap();
            let untrusted = judged(&token, &keys).unwrap_err();
            assert!(untrusted.why().contains(why), "{change}: {untrusted:?}");
        }
        let forged = encode(&es256(Some("k")), &claims(&json!({})), &other).unwrap();
        assert!(judged(&forged, &keys).unwrap_err().why().contains("signature"));
        for unknown in [es256(Some("new")), es256(None)] {
            let token = encode(&unknown, &claims(&json!({})), &other).unwrap();
            assert_eq!(judged(&token, &keys), Err(Untrusted::UnknownKey));
        }
        // Whoever knows a public key could make this one.
        let shared = EncodingKey::from_secret(b"public");
        let token = encode(&Header::new(Algorithm::HS256), &claims(&json!({})), &shared).unwrap();
        assert!(judged(&token, &keys).unwrap_err().why().contains("proves nothing"));
        // {"alg":"none"}
        let body = token.split('.').nth(1).unwrap();
        for broken in [format!("eyJhbGciOiJub25lIn0.{body}."), "a.b.c".into(), String::new()] {
            assert!(judged(&broken, &keys).is_err(), "{broken}");
        }
    }
}
