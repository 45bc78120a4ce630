//! The other end of a connection; its calls bring it along.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::caller::Certificate;

/// Where a connection comes from, and what is known of whoever is there.
#[derive(Debug)]
pub struct Peer {
    /// Its address, or that of the last proxy before us.
    pub address: IpAddr,
    /// Whom its certificate names, or why it names nobody.
    certificate: OnceLock<Result<Certificate, &'static str>>,
    proven: AtomicBool,
}

impl Peer {
    /// Nothing is known of it yet.
    pub fn new(address: IpAddr) -> Self {
        Self { address, certificate: OnceLock::new(), proven: AtomicBool::new(false) }
    }

    /// It came with a certificate that we trust.
    pub fn presents(&self, certificate: Result<Certificate, &'static str>) {
        self.proven.store(certificate.is_ok(), Ordering::Relaxed);
        // A connection has one handshake.
        let _ = self.certificate.set(certificate);
    }

    /// A call on it was of somebody who is known.
    pub fn has_its_caller(&self) {
        if !self.has_proven() {
            self.proven.store(true, Ordering::Relaxed);
        }
    }

    /// Somebody who is known has been on it.
    pub fn has_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    pub(super) fn certificate(&self) -> Option<&Result<Certificate, &'static str>> {
        self.certificate.get()
    }
}
