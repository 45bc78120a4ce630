//! Sealing: AES-256-GCM under a key derived anew for every record.
//!
//! A sealed value is `version(1) | key id(4) | salt(32) | ciphertext | tag(16)`. The record key is
//! HKDF-SHA256(ring key, salt), so nonces need no book-keeping and no key ever seals two values.
//! The additional data binds the value to deployment, grant, position, provider and key, so it
//! cannot be moved to another record. Keys are named, never tried in turn.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::textfile;

const VERSION: u8 = 1;
const KEY_LEN: usize = 32;
const KEY_ID_LEN: usize = 4;
const SALT_LEN: usize = 32;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + SALT_LEN;
/// Separates these keys from any other use of the ring.
const HKDF_INFO: &[u8] = b"token-broker record 1";

/// Names a key of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hexadecimal(&self.0))
    }
}

/// The keys that open and seal the store; keys are added, and another one is made active, while it is in
/// use.
pub struct Keyring(ArcSwap<Keys>);

struct Keys {
    active: KeyId,
    keys: Vec<(KeyId, Zeroizing<[u8; KEY_LEN]>)>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("active", &self.active()).finish_non_exhaustive()
    }
}

/// Longest file of a key ring.
const RING_LEN_MAX: u64 = 1024 * 1024;

/// Why a key ring cannot be used.
#[derive(Debug, Error)]
pub enum KeyringError {
    /// The file is not there.
    #[error(
        "the key ring {0} does not exist; restore the one that the store was sealed with, or, for a new store, make one with `token-broker keys generate --file {0}`"
    )]
    Missing(String),
    /// The file is there already.
    #[error(
        "{0} exists; a key ring is never overwritten, because the store cannot be opened without it"
    )]
    Exists(String),
    /// The file cannot be read or written.
    #[error("the key ring {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a key ring.
    #[error("{path} is not a key ring: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong, never the content.
        why: &'static str,
    },
    /// The file is a key ring that cannot take the place of the one in use.
    #[error("{path} cannot take the place of the key ring in use: {why}")]
    Unfit {
        /// The file.
        path: String,
        /// Why.
        why: &'static str,
    },
}

/// Why a sealed value cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The ring lacks its key.
    #[error("it is sealed with a key that the key ring lacks")]
    UnknownKey,
    /// It was changed, cut or moved here from another record.
    #[error("it was changed, or copied from another record")]
    Tampered,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    keys: Vec<RingKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingKey {
    id: String,
    state: KeyState,
    key: String,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum KeyState {
    Active,
    DecryptOnly,
}

impl Keyring {
    /// Makes a ring with one random key.
    pub fn generate() -> Self {
        let mut id = [0; KEY_ID_LEN];
        let mut key = Zeroizing::new([0; KEY_LEN]);
        fill(&mut id);
        fill(key.as_mut());
        Self(ArcSwap::from_pointee(Keys { active: KeyId(id), keys: vec![(KeyId(id), key)] }))
    }

    /// Takes what the file holds now. Keys are taken away at a start only: what is sealed with them could
    /// not be opened any more.
    pub fn renew(&self, path: &Path) -> Result<(), KeyringError> {
        let newer = Self::load(path)?.0.into_inner();
        if !self.0.load().keys.iter().all(|(id, key)| newer.key(*id) == Some(&**key)) {
            let path = path.display().to_string();
            let why = "a key that is in use is missing or another one; keys are taken away at a start only";
            return Err(KeyringError::Unfit { path, why });
        }
        if self.0.load().key(newer.active).is_none() {
            let path = path.display().to_string();
            let why = "its active key is new here; other replicas may lack it: add it as decrypt_only everywhere first";
            return Err(KeyringError::Unfit { path, why });
        }
        self.0.store(newer);
        Ok(())
    }

    /// Writes the ring to a new file that only its owner can read.
    pub fn create(&self, path: &Path) -> Result<(), KeyringError> {
        let (name, ring) = (path.display().to_string(), self.0.load());
        let file = RingFile {
            keys: ring
                .keys
                .iter()
                .map(|(id, key)| RingKey {
                    id: id.to_string(),
                    state: if *id == ring.active {
                        KeyState::Active
                    } else {
                        KeyState::DecryptOnly
                    },
                    key: STANDARD.encode(key.as_ref()),
                })
                .collect(),
        };
        let mut text = serde_json::to_string_pretty(&file).unwrap_or_default();
        let written = private_file(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        text.zeroize();
        written.map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => KeyringError::Exists(name),
            _ => KeyringError::Io { path: name, source },
        })
    }

    /// Reads a ring from a file.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        let name = path.display().to_string();
        let text = textfile::read(path, RING_LEN_MAX).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => KeyringError::Missing(name.clone()),
            _ => KeyringError::Io { path: name.clone(), source },
        })?;
        Self::parse(&text).map_err(|why| KeyringError::Malformed { path: name, why })
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let file: RingFile = serde_json::from_str(text)
            .map_err(|_| "expected JSON as `token-broker keys generate` writes it")?;
        let mut active = None;
        let mut keys = Vec::new();
        for one in file.keys {
            let id = parse_id(&one.id).ok_or("a key id must be 8 hexadecimal digits")?;
            let bytes = STANDARD.decode(&one.key).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| "a key must be base64")?;
            let key = bytes.as_slice().try_into().map_err(|_| "a key must have 32 bytes")?;
            if keys.iter().any(|(other, _)| *other == id) {
                return Err("two keys have the same id");
            }
            if one.state == KeyState::Active && active.replace(id).is_some() {
                return Err("two keys are active");
            }
            keys.push((id, Zeroizing::new(key)));
        }
        let active = active.ok_or("no key is active")?;
        Ok(Self(ArcSwap::from_pointee(Keys { active, keys })))
    }

    /// The key that seals.
    pub fn active(&self) -> KeyId {
        self.0.load().active
    }

    /// Seals `plaintext` so that only `context` opens it.
    pub(crate) fn seal(&self, context: &[u8], plaintext: &[u8]) -> Vec<u8> {
        let ring = self.0.load();
        let mut salt = [0; SALT_LEN];
        fill(&mut salt);
        let mut sealed = Vec::with_capacity(HEADER_LEN + plaintext.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&ring.active.0);
        sealed.extend_from_slice(&salt);
        let mut body = plaintext.to_vec();
        let key = ring.key(ring.active).and_then(|key| record_key(key, &salt));
        key.and_then(|key| {
            key.seal_in_place_append_tag(nonce(), aad(ring.active, context), &mut body).ok()
        })
        .expect("the active key is in the ring, and a record is far below the limit of GCM");
        sealed.append(&mut body);
        sealed
    }

    /// Opens what was sealed with the same `context`.
    pub(crate) fn open(
        &self,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if sealed.len() < HEADER_LEN || sealed[0] != VERSION {
            return Err(OpenError::Tampered);
        }
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&sealed[1..=KEY_ID_LEN]);
        let salt = &sealed[1 + KEY_ID_LEN..HEADER_LEN];
        let ring = self.0.load();
        let key = ring.key(KeyId(id)).ok_or(OpenError::UnknownKey)?;
        let key = record_key(key, salt).ok_or(OpenError::Tampered)?;
        let mut body = Zeroizing::new(sealed[HEADER_LEN..].to_vec());
        let opened = key
            .open_in_place(nonce(), aad(KeyId(id), context), &mut body)
            .map_err(|_| OpenError::Tampered)?
            .len();
        body.truncate(opened);
        Ok(body)
    }
}

impl Keys {
    fn key(&self, id: KeyId) -> Option<&[u8; KEY_LEN]> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| &**key)
    }
}

/// Zero, because the key is derived anew for each record.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

fn aad(id: KeyId, context: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([id.0.as_slice(), context].concat())
}

fn record_key(key: &[u8; KEY_LEN], salt: &[u8]) -> Option<LessSafeKey> {
    let prk = Salt::new(HKDF_SHA256, salt).extract(key);
    let okm = prk.expand(&[HKDF_INFO], &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(okm)))
}

fn parse_id(text: &str) -> Option<KeyId> {
    let value = u32::from_str_radix(text, 16).ok().filter(|_| text.len() == 2 * KEY_ID_LEN)?;
    Some(KeyId(value.to_be_bytes()))
}

/// Two digits a byte.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Fills `bytes` from the generator of the operating system.
pub(crate) fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the random number generator of the system works");
}

/// A new file that only its owner can read.
#[cfg(unix)]
pub(crate) fn private_file(path: &Path) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
pub(crate) fn private_file(path: &Path) -> std::io::Result<fs::File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let ring = Keyring::generate();
        let sealed = ring.seal(b"here", b"canary");
        assert_eq!(ring.open(b"here", &sealed).unwrap().as_slice(), b"canary");
        assert_eq!(ring.open(b"there", &sealed).unwrap_err(), OpenError::Tampered);
        assert_eq!(Keyring::generate().open(b"here", &sealed).unwrap_err(), OpenError::UnknownKey);
        for at in (0..sealed.len()).filter(|at| !(1..5).contains(at)) {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert_eq!(ring.open(b"here", &bent).unwrap_err(), OpenError::Tampered, "byte {at}");
        }
        for len in 0..sealed.len() {
            assert!(ring.open(b"here", &sealed[..len]).is_err(), "cut to {len}");
        }
        assert_ne!(ring.seal(b"here", b"canary"), sealed, "each seal has its own salt");
    }

    #[test]
    fn a_file_keeps_the_ring_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let ring = Keyring::generate();
        ring.create(&path).unwrap();
        let sealed = ring.seal(b"", b"canary");
        assert!(Keyring::load(&path).unwrap().open(b"", &sealed).is_ok());
        assert!(matches!(Keyring::generate().create(&path), Err(KeyringError::Exists(_))));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_malformed_ring_is_refused_without_showing_it() {
        let key = STANDARD.encode([7; 32]);
        let one = |id: &str, state: &str, key: &str| {
            format!(r#"{{"id":"{id}","state":"{state}","key":"{key}"}}"#)
        };
        let cases = [
            "canary".to_owned(),
            r#"{"keys":[]}"#.to_owned(),
            format!(r#"{{"keys":[{}]}}"#, one("0a0b0c0d", "decrypt_only", &key)),
            format!(r#"{{"keys":[{}]}}"#, one("xyz", "active", &key)),
            format!(r#"{{"keys":[{}]}}"#, one("0a0b0c0d", "active", "Y2FuYXJ5")),
            format!(
                r#"{{"keys":[{},{}]}}"#,
                one("0a0b0c0d", "active", &key),
                one("0a0b0c0e", "active", &key)
            ),
        ];
        for text in cases {
            let why = Keyring::parse(&text).unwrap_err();
            assert!(!why.contains("canary"), "{why}");
        }
    }
}
