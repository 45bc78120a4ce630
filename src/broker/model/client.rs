//! Our client at a provider: what tells one registration from another.

use std::fmt;

/// Stands for a client id, what it is proven by, the address and the profile; another one after any of them
/// was changed. A hash, and shown nowhere: secrets may be short.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientFingerprint(pub [u8; 32]);

impl fmt::Debug for ClientFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientFingerprint([redacted])")
    }
}
