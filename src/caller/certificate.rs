//! Certificates: whom one names, and until when. They are checked when a session begins, which may be resumed
//! long after.

use std::sync::Arc;
use std::time::SystemTime;

/// What the certificate of a connection proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whom it names.
    pub subject: Arc<str>,
    /// When it ends, or one of those between it and whom we trust.
    pub ends: SystemTime,
}

impl Certificate {
    /// Whom it names, as long as it has not ended: a proof ends when it ends, however old the session is.
    pub(super) fn subject_at(&self, now: SystemTime) -> Result<Arc<str>, &'static str> {
        if now < self.ends { Ok(Arc::clone(&self.subject)) } else { Err("has expired") }
    }
}
