//! The token stores: sealed records, and the rules by which they change.
//!
//! Reading order: [`keyring`] how values are sealed, `record` what is stored, `transition` how it
//! may change, then the two stores, [`embedded`] and [`redis`]; [`replica`]
//! says who this process is among several.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::store::record::Blob;

pub mod embedded;
pub mod keyring;
mod record;
pub mod redis;
pub mod replica;
mod transition;

pub use embedded::Embedded;
pub use keyring::Keyring;
pub use redis::Redis;
pub use replica::Replica;

/// What the proof of the key ring is sealed to.
const PROOF_CONTEXT: &[u8] = b"token-broker key ring proof";
const DEPLOYMENT_BYTES: usize = 8;

/// Why a store cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It may work later: try again.
    #[error("{0}")]
    Unavailable(String),
    /// Somebody has to mend something first.
    #[error("{0}")]
    Refused(String),
}

/// Whom a store belongs to; written when it is new.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    /// Version of keys and records.
    format: u32,
    /// Random name of the deployment; every record is sealed to it.
    deployment: String,
    /// Proves that a key ring is the right one.
    proof: Blob,
}

/// Version of keys and records that this program reads and writes.
const FORMAT: u32 = 1;

impl Identity {
    fn new(ring: &Keyring) -> Self {
        let mut random = [0; DEPLOYMENT_BYTES];
        keyring::fill(&mut random);
        let deployment = keyring::hexadecimal(&random);
        Self { format: FORMAT, deployment, proof: Blob(ring.seal(PROOF_CONTEXT, b"")) }
    }

    fn check(&self, ring: &Keyring) -> Result<(), OpenError> {
        if self.format != FORMAT {
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
