//! What the broker does by itself, written down in the audit log.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::audit::{Audit, Entry};
use crate::broker::acts::Act;

/// Writes down what is done until `stop`, and then what is left to write.
pub(super) async fn keep_account(audit: Arc<Audit>, acts: Receiver<Act>, stop: CancellationToken) {
    tokio::join!(write_down(&audit, acts, &stop), audit.count(stop.clone()));
    audit.finish().await;
}

/// Writes acts down until `stop`, and those that are told then.
async fn write_down(audit: &Audit, mut acts: Receiver<Act>, stop: &CancellationToken) {
    loop {
        tokio::select! {
            biased;
            told = acts.recv() => match told {
                Ok(act) => audit.tell(&entry(act)),
                Err(RecvError::Lagged(missed)) => {
                    audit.lost(missed);
                    warn!(missed, "the audit log does not keep up with what the broker does");
                }
                Err(RecvError::Closed) => return stop.cancelled().await,
            },
            () = stop.cancelled() => return,
        }
    }
}

fn entry(act: Act) -> Entry {
    let Act { kind, grant, provider, generation, fingerprint, detail } = act;
    Entry {
        action: kind.name(),
        grant: grant.to_string(),
        provider: provider.to_string(),
        generation,
        fingerprint,
        reason: detail,
        ..Entry::default()
    }
}
