//! A key that signs: of a server for people, or of a client for itself.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde_json::{Value, json};

pub(crate) struct Signer {
    der: Vec<u8>,
    key: EncodingKey,
    public: Jwk,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let rng = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let key = EncodingKey::from_ec_der(der.as_ref());
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        let name = STANDARD.encode(&der.as_ref()[der.as_ref().len() - 12..]);
        public.common.key_id = Some(name);
        Self { der: der.as_ref().to_vec(), key, public }
    }

    /// The same key under the name of another one.
    pub(crate) fn named_as(mut self, other: &Self) -> Self {
        self.public.common.key_id.clone_from(&other.public.common.key_id);
        self
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_under(&self.header(), claims)
    }

    pub(crate) fn header(&self) -> Header {
        Header { kid: self.public.common.key_id.clone(), ..Header::new(Algorithm::ES256) }
    }

    pub(crate) fn sign_under(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }

    /// What it signed, not expired.
    pub(crate) fn opened(&self, token: &str) -> Value {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_aud = false;
        let key = DecodingKey::from_jwk(&self.public).unwrap();
        decode::<Value>(token, &key, &validation).unwrap().claims
    }

    pub(crate) fn published(&self) -> Value {
        json!({ "keys": [self.public] })
    }

    pub(crate) fn pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    }
}
