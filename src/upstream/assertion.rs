//! Who we are, signed: an assertion for one request and never for two (RFC 7523). Pure.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::SHA256;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

use crate::clock::unix_ms;
use crate::secret::Nonce;

/// What `client_assertion_type` says.
pub const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// How long an assertion is good: it is used at once, and clocks differ.
const LIFE: Duration = Duration::from_secs(120);

/// The key that signs it.
#[derive(Clone)]
pub struct ClientKey {
    key: EncodingKey,
    /// Tells it from others.
    digest: [u8; 32],
    algorithm: Algorithm,
    id: Option<String>,
    audience: Option<String>,
}

impl PartialEq for ClientKey {
    fn eq(&self, other: &Self) -> bool {
        let described = |key: &Self| (key.id.clone(), key.audience.clone());
        self.digest == other.digest && described(self) == described(other)
    }
}

impl Eq for ClientKey {}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey([redacted])")
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: u64,
    exp: u64,
}

impl ClientKey {
    /// Reads a private key in PEM: RSA (signs RS256), P-256 (ES256), P-384 (ES384), Ed25519 (`EdDSA`).
    /// `id` tells the provider which key it is; `audience` is who is addressed, instead of the token
    /// endpoint.
    pub fn read(pem: &str, id: Option<&str>, audience: Option<&str>) -> Result<Self, &'static str> {
        let pem = pem.as_bytes();
        let mut digest = [0; 32];
        digest.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, pem).as_ref());
        let keys = [
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
            (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::ES384, EncodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
        ];
        let signs = |(algorithm, key): (Algorithm, Result<EncodingKey, _>)| {
            let (id, audience) = (id.map(str::to_owned), audience.map(str::to_owned));
            let key = Self { key: key.ok()?, digest, algorithm, id, audience };
            // A key of the other curve is read, and does not sign.
            key.assertion("", "", SystemTime::UNIX_EPOCH).map(|_| key)
        };
        keys.into_iter().find_map(signs).ok_or(
            "holds no private key that can be used: PEM, PKCS#8 (`openssl pkcs8 -topk8 -nocrypt`), RSA, P-256, \
             P-384 or Ed25519",
        )
    }

    /// Tells which key it is, part by part.
    pub(crate) fn tell(&self, to: &mut impl FnMut(&[u8])) {
        to(b"private_key_jwt");
        to(&self.digest);
        for part in [&self.id, &self.audience] {
            to(part.as_deref().unwrap_or_default().as_bytes());
        }
    }

    /// Says once who we are; `None`: the key does not sign.
    pub(crate) fn assertion(
        &self,
        client_id: &str,
        token_url: &str,
        now: SystemTime,
    ) -> Option<String> {
        let now = unix_ms(now) / 1_000;
        let jti = Nonce::random();
        let claims = Claims {
            iss: client_id,
            sub: client_id,
            aud: self.audience.as_deref().unwrap_or(token_url),
            jti: jti.expose(),
            iat: now,
            exp: now + LIFE.as_secs(),
        };
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        encode(&header, &claims, &self.key).ok()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header, jwk::Jwk};

    use super::*;

    #[test]
    fn an_assertion_is_signed_for_one_request() {
        let rng = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let text = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
        let key = ClientKey::read(&pem, Some("k1"), None).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let made = [(); 2].map(|()| key.assertion("me", "https://p/token", now).unwrap());
        assert_eq!(decode_header(&made[0]).unwrap().kid.as_deref(), Some("k1"));
        let public = EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
        let public = Jwk::from_encoding_key(&public, Algorithm::ES256).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.set_audience(&["https://p/token"]);
        let public = DecodingKey::from_jwk(&public).unwrap();
        let claims =
            made.map(|one| decode::<serde_json::Value>(&one, &public, &validation).unwrap().claims);
        assert_eq!((&claims[0]["iss"], &claims[0]["sub"]), (&"me".into(), &"me".into()));
        assert_eq!((&claims[0]["iat"], &claims[0]["exp"]), (&1_000.into(), &1_120.into()));
        assert_ne!(claims[0]["jti"], claims[1]["jti"], "nobody can use it again");
        assert!(ClientKey::read("-----BEGIN CERTIFICATE-----", None, None).is_err());
        assert_eq!(format!("{key:?}"), "ClientKey([redacted])");
    }
}
