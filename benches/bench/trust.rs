//! A caller that proves who it is, as in a cluster: the token of a service account, a policy, limits that
//! count, and the audit log.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tempfile::TempDir;

const POLICY: &str = "
policies:
  - { name: others, subjects: ['kubernetes:other/*'], grants: ['other/*'], actions: [get_token] }
  - { name: bench, subjects: ['kubernetes:shop/orders'], grants: ['bench/*'], actions: [get_token, admin.*] }
";

/// Files that a broker and its caller share.
pub(crate) struct Trust {
    dir: TempDir,
    pub(crate) token: String,
}

impl Trust {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let key = EncodingKey::from_ec_der(key.unwrap().as_ref());
        let mut public = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        public.common.key_id = Some("bench".to_owned());
        #[expect(clippy::disallowed_methods, reason = "the program reads the system clock, too")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // As long as the tokens of a cluster.
        let claims = json!({
            "aud": ["token-broker"], "exp": now + 3600, "iat": now, "iss": "https://cluster",
            "jti": "7f6cf0b8-4e0a-4a4b-9a53-2d6fe4d0f5a7", "nbf": now,
            "kubernetes.io": {
                "namespace": "shop",
                "node": { "name": "node-1", "uid": "7f6cf0b8-4e0a-4a4b-9a53-2d6fe4d0f5a7" },
                "pod": { "name": "orders-0", "uid": "7f6cf0b8-4e0a-4a4b-9a53-2d6fe4d0f5a7" },
                "serviceaccount": { "name": "orders", "uid": "7f6cf0b8-4e0a-4a4b-9a53-2d6fe4d0f5a7" },
            },
            "sub": "system:serviceaccount:shop:orders",
        });
        let header = Header { kid: Some("bench".to_owned()), ..Header::new(Algorithm::ES256) };
        let token = encode(&header, &claims, &key).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("jwks", &json!({ "keys": [public] }).to_string());
        write("policy", POLICY);
        write("token", &token);
        Self { dir, token }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the broker is told.
    pub(crate) fn settings(&self) -> [(&'static str, String); 6] {
        let at = |name| self.at(name).display().to_string();
        [
            ("TOKEN_BROKER__CALLERS__KUBERNETES__ISSUER", "https://cluster".to_owned()),
            ("TOKEN_BROKER__CALLERS__KUBERNETES__JWKS_FILE", at("jwks")),
            ("TOKEN_BROKER__CALLERS__LIMITS__RATE", "1000000".to_owned()),
            ("TOKEN_BROKER__CALLERS__LIMITS__CONCURRENCY", "100000".to_owned()),
            ("TOKEN_BROKER__POLICY__FILE", at("policy")),
            ("TOKEN_BROKER__AUDIT__SINK", format!("file:{}", at("audit"))),
        ]
    }
}
