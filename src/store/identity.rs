//! Identity: whom a store belongs to, and which key ring opens it.

use serde::{Deserialize, Serialize};

use crate::store::OpenError;
use crate::store::keyring::{self, Keyring};
use crate::store::record::Blob;

/// What the proof of the key ring is sealed to.
const PROOF_CONTEXT: &[u8] = b"token-broker key ring proof";
const DEPLOYMENT_BYTES: usize = 8;
/// Version of keys and records that this program reads and writes.
const FORMAT: u32 = 2;
/// The version before, which is converted.
const FORMAT_BEFORE: u32 = 1;

/// Whom a store belongs to; written when it is new.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Version of keys and records.
    format: u32,
    /// Random name of the deployment; every record is sealed to it.
    pub(crate) deployment: String,
    /// Proves that a key ring is the right one.
    proof: Blob,
    /// Records of the version before may still be among the others.
    #[serde(default)]
    converting: bool,
}

impl Identity {
    /// The identity of a new store.
    pub(crate) fn new(ring: &Keyring) -> Self {
        let mut random = [0; DEPLOYMENT_BYTES];
        keyring::fill(&mut random);
        let deployment = keyring::hexadecimal(&random);
        Self {
            format: FORMAT,
            deployment,
            proof: Blob(ring.seal(PROOF_CONTEXT, b"")),
            converting: false,
        }
    }

    /// Its records are to be converted.
    pub(crate) fn is_old(&self) -> bool {
        self.format == FORMAT_BEFORE || self.converting
    }

    /// The same store while it is converted: an older program refuses it already.
    pub(crate) fn converting(&self) -> Self {
        Self { format: FORMAT, converting: true, ..self.clone() }
    }

    /// The same store, converted.
    pub(crate) fn converted(&self) -> Self {
        Self { converting: false, ..self.converting() }
    }

    /// Says no to a store that this program cannot read with this ring.
    pub(crate) fn check(&self, ring: &Keyring) -> Result<(), OpenError> {
        if self.format != FORMAT && !self.is_old() {
            return Err(OpenError::Refused(format!(
                "the store has format {}, this version reads format {FORMAT}; use the version of \
                 token-broker that wrote it",
                self.format
            )));
        }
        ring.open(PROOF_CONTEXT, &self.proof.0).map(drop).map_err(|error| {
            OpenError::Refused(format!(
                "the key ring does not fit the store: {error}; point `keys.file` at the ring that \
                 the store was sealed with"
            ))
        })
    }
}
