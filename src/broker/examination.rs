//! Examination: what is found of the store is told once, and shown for as long as it is so.

use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::broker::Broker;
use crate::broker::error::{Error, chain};
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

    /// An operator says that the store of this deployment is as it is to be, empty or not: what other
    /// replicas may know is waited for no longer, by nobody. Says who was waited for.
    pub async fn confirm_store(&self, deployment: &str) -> Result<Vec<String>, Error> {
        let condition = self.store();
        if condition.deployment != deployment {
            let why = "is not the deployment of this store; GetBrokerStatus names that";
            return Err(Error::invalid("deployment_id", why));
        }
        let waited = self.rotations.watch.go_on();
        if !waited.is_empty() {
            warn!(replicas = waited.join(", "), "an operator says that they are not waited for");
            self.rotations.dismiss(&waited).await;
        }
        Ok(waited)
    }

    /// What was found when the store was examined last.
    pub fn findings(&self) -> Arc<Vec<Finding>> {
        Arc::clone(&self.findings.lock())
    }
}
