//! What the broker does by itself, written down in the audit log.

use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::audit::{Audit, Entry};
use crate::broker::acts::Act;

/// Writes acts down until `stop`, and those that are told then.
pub(super) async fn write_down(
    audit: Arc<Audit>,
    mut acts: Receiver<Act>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            told = acts.recv() => match told {
                Ok(act) => audit.tell(&entry(act)),
                Err(RecvError::Lagged(missed)) => {
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
        generation: Some(generation),
        fingerprint,
        reason: detail,
        ..Entry::default()
    }
}
