//! Reloading: files that change while the program runs. What is wrong with one changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::listener::Tls;
use crate::policy::{self, PolicyError};
use crate::service::Gate;

/// How often files are looked at: a volume of Kubernetes itself takes a minute to change.
const LOOK: Duration = Duration::from_secs(2);

/// What is read again when it changes.
pub(super) struct Reloading {
    policy: Option<PathBuf>,
    gate: Arc<Gate>,
    tls: Option<Arc<Tls>>,
    good: Family<What, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    file: &'static str,
}

impl Reloading {
    pub(super) fn new(
        policy: Option<PathBuf>,
        gate: Arc<Gate>,
        tls: Option<Arc<Tls>>,
        registry: &mut Registry,
    ) -> Self {
        let good = Family::<What, Gauge>::default();
        registry.register(
            "config_last_reload_successful",
            "The file that was changed last could be used; 0: what was there before still holds",
            good.clone(),
        );
        Self { policy, gate, tls, good }
    }

    /// Looks at the files until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut seen = self.policy_text();
        let (mut policy_told, mut tls_told) = (None, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(LOOK) => {}
            }
            if let Some(text) = self.policy_text().filter(|text| Some(text) != seen.as_ref()) {
                let parsed = text.clone().and_then(|text| policy::parse(&text));
                let taken = parsed.map(|policy| self.gate.decide_by(policy)).map(|()| true);
                let taken = taken.map_err(|error| error.to_string());
                self.tell("policy.file", taken, &mut policy_told);
                seen = Some(text);
            }
            if let Some(tls) = &self.tls {
                let taken = tls.reload().map_err(|error| error.to_string());
                self.tell("listen.tls", taken, &mut tls_told);
            }
        }
    }

    /// What the policy file holds, or why it cannot be read.
    fn policy_text(&self) -> Option<Result<Zeroizing<String>, PolicyError>> {
        self.policy.as_deref().map(policy::read)
    }

    /// Says what came of it: once for each thing that is wrong.
    fn tell(&self, file: &'static str, taken: Result<bool, String>, told: &mut Option<String>) {
        let good = self.good.get_or_create(&What { file });
        match taken {
            Ok(changed) => {
                good.set(1);
                *told = None;
                if changed {
                    info!(file, "what was changed holds from now on");
                }
            }
            Err(why) => {
                good.set(0);
                if told.as_ref() != Some(&why) {
                    error!(
                        file,
                        error = why,
                        "it cannot be used; what was there before still holds"
                    );
                    *told = Some(why);
                }
            }
        }
    }
}
