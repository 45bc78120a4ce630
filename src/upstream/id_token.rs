//! Who consented, as the provider signs it (OpenID Connect Core section 3.1.3.7). Pure.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::verify;
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::clock::unix_ms;
use crate::secret::{Account, ClientSecret, IdToken, Nonce};

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
/// Signatures that only the provider and we can make, with the client secret (section 10.1 of the same).
const SHARED: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
/// What RFC 9864 calls `EdDSA` with this curve.
const ED25519: &str = "Ed25519";
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
    /// What it may be signed with that is ours.
    pub(crate) secrets: &'a [ClientSecret],
}

/// Whether what is signed so can be checked at all.
pub(crate) fn is_readable(algorithm: &str, secret: bool) -> bool {
    let known = named(algorithm);
    known.is_some_and(|it| ALGORITHMS.contains(&it) || (secret && SHARED.contains(&it)))
}

fn named(algorithm: &str) -> Option<Algorithm> {
    if algorithm == ED25519 { Some(Algorithm::EdDSA) } else { algorithm.parse().ok() }
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
            Self::UnknownKey => {
                "the signature of its id_token fits none of the keys that it publishes"
            }
            Self::Because(why) => why,
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// What must be understood (RFC 7515 section 4.1.11); nothing of it is.
    crit: Option<Value>,
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
    let claims = signed(id_token.expose(), keys, expected.secrets)?;
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

fn signed(id_token: &str, keys: &JwkSet, secrets: &[ClientSecret]) -> Result<Claims, Untrusted> {
    let broken = || Untrusted::Because("its id_token cannot be read");
    let [head, body, signature] = parts(id_token)?;
    let header: Header = json(head).ok_or_else(broken)?;
    if header.crit.is_some() {
        return Err(Untrusted::Because("its id_token demands what is not understood (`crit`)"));
    }
    let algorithm = named(&header.alg).ok_or_else(proves_nothing)?;
    let message = &id_token.as_bytes()[..=head.len() + body.len()];
    let fits = |key: &DecodingKey| verify(signature, message, key, algorithm).unwrap_or(false);
    if SHARED.contains(&algorithm) {
        if secrets.is_empty() {
            return Err(proves_nothing());
        }
        let ours =
            |secret: &ClientSecret| fits(&DecodingKey::from_secret(secret.expose().as_bytes()));
        let why = "its id_token is not signed with our client secret";
        let fits = secrets.iter().any(ours);
        return if fits { json(body).ok_or_else(broken) } else { Err(Untrusted::Because(why)) };
    }
    if !ALGORITHMS.contains(&algorithm) {
        return Err(proves_nothing());
    }
    let of_name = |key: &&Jwk| match (&header.kid, &key.common.key_id) {
        (Some(wanted), Some(found)) => wanted == found,
        _ => true,
    };
    let mut named =
        keys.keys.iter().filter(of_name).filter_map(|key| DecodingKey::from_jwk(key).ok());
    // There may be a new key, also under the name of an old one.
    if named.any(|key| fits(&key)) {
        json(body).ok_or_else(broken)
    } else {
        Err(Untrusted::UnknownKey)
    }
}

fn proves_nothing() -> Untrusted {
    Untrusted::Because("its id_token is signed in a way that proves nothing")
}

/// Head, claims and signature (RFC 7515 section 7.1).
fn parts(id_token: &str) -> Result<[&str; 3], Untrusted> {
    let parts: Vec<&str> = id_token.split('.').collect();
    match parts[..] {
        [head, body, signature] => Ok([head, body, signature]),
        [_, _, _, _, _] => Err(Untrusted::Because(
            "its id_token is encrypted, which cannot be read here: register the client without \
             `id_token_encrypted_response_alg`",
        )),
        _ => Err(Untrusted::Because("its id_token cannot be read")),
    }
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
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
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
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
        let secrets = [ClientSecret::new("secret"), ClientSecret::new("the one before")];
        let expected =
            Expected { issuer: "https://p", client_id: "id", nonce: &nonce, secrets: &secrets };
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
    fn what_is_signed_with_our_secret_or_by_another_name_is_believed() {
        let keys = JwkSet { keys: Vec::new() };
        for secret in ["secret", "the one before"] {
            let shared = EncodingKey::from_secret(secret.as_bytes());
            let header = Header { kid: Some("any".to_owned()), ..Header::new(Algorithm::HS256) };
            let token = encode(&header, &claims(&json!({})), &shared).unwrap();
            assert_eq!(judged(&token, &keys), Ok(Account::new("https://p alice")));
        }
        // EdDSA as RFC 9864 names it.
        let pair = Ed25519KeyPair::generate().unwrap();
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(json!({"alg": "Ed25519"})), part(claims(&json!({}))));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()));
        let public = URL_SAFE_NO_PAD.encode(pair.public_key());
        let public = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public}]});
        let keys: JwkSet = serde_json::from_value(public).unwrap();
        let token = format!("{message}.{signature}");
        assert_eq!(judged(&token, &keys), Ok(Account::new("https://p alice")));
        assert!(is_readable("Ed25519", false) && is_readable("HS256", true));
        assert!(
            !is_readable("HS256", false) && !is_readable("none", true) && !is_readable("ML", true)
        );
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
        // Also under the name of a key that is known: keys are exchanged under their names.
        for unknown in [es256(Some("k")), es256(Some("new")), es256(None)] {
            let token = encode(&unknown, &claims(&json!({})), &other).unwrap();
            assert_eq!(judged(&token, &keys), Err(Untrusted::UnknownKey));
        }
        // Whoever knows a public key could make this one.
        let shared = EncodingKey::from_secret(b"public");
        let token = encode(&Header::new(Algorithm::HS256), &claims(&json!({})), &shared).unwrap();
        assert!(judged(&token, &keys).unwrap_err().why().contains("our client secret"));
        for (token, why) in
            [("a.b.c.d.e", "encrypted"), ("eyJhbGciOiJub25lIn0..", "proves nothing")]
        {
            assert!(judged(token, &keys).unwrap_err().why().contains(why), "{token}");
        }
        let crit = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k","crit":["exp"]}"#);
        assert!(judged(&format!("{crit}.e30.x"), &keys).unwrap_err().why().contains("crit"));
        // {"alg":"none"}
        let body = token.split('.').nth(1).unwrap();
        for broken in [format!("eyJhbGciOiJub25lIn0.{body}."), "a.b.c".into(), String::new()] {
            assert!(judged(&broken, &keys).is_err(), "{broken}");
        }
    }
}
