//! Examination: what is found of the store is told once, and shown for as long as it is so.

use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::broker::Broker;
use crate::broker::error::chain;
use crate::broker::metrics::Found;
use crate::broker::store::{Finding, Grade};

impl Broker {
    /// Looks at everything that decides whether grants are safe in the store. One caller at a time.
    pub async fn examine_store(&self) {
        let findings = match self.rotations.store.examine().await {
            Ok(findings) => findings,
            // Whoever watches over it tells of that.
            Err(error) => return debug!(error = %chain(&error), "the store cannot be examined"),
        };
        let before = self.findings();
        for finding in &findings {
            let labels = Found { check: finding.check };
            let bad = finding.grade >= Grade::Risk;
            self.metrics().store_findings.get_or_create(&labels).set(i64::from(bad));
            let known = before.iter().find(|known| known.check == finding.check);
            let was_bad = known.is_some_and(|known| known.grade >= Grade::Risk);
            match (was_bad, bad) {
                (false, true) => warn!(check = finding.check, "{finding}"),
                (true, false) => info!(check = finding.check, "well again: {finding}"),
                _ => {}
            }
        }
        *self.findings.lock() = Arc::new(findings);
    }

    /// What was found when the store was examined last.
    pub fn findings(&self) -> Arc<Vec<Finding>> {
        Arc::clone(&self.findings.lock())
    }
}
