//! Why the program cannot run, or stopped.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::audit::SinkError;
use crate::broker::error::Error as BrokerError;
use crate::store::{OpenError, keyring};

/// Why the program cannot run.
#[derive(Debug, Error)]
pub enum AppError {
    /// A port is taken, or not ours.
    #[error("cannot listen on {address} (`{setting}`): {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// The setting that says so.
        setting: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The store cannot be used.
    #[error("the token store: {0}")]
    Store(#[from] OpenError),
    /// The key ring cannot be used.
    #[error(transparent)]
    Keyring(#[from] keyring::KeyringError),
    /// The HTTP client cannot be made.
    #[error(transparent)]
    Endpoint(#[from] crate::upstream::http::BuildError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] SinkError),
    /// Reflection cannot be offered.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// What a restored store holds cannot be marked.
    #[error("the grants of the restored store could not be put in doubt: {0}")]
    Restored(BrokerError),
    /// Signals cannot be heard.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// A part that runs for ever has ended.
    #[error("{task} has ended unasked ({why}); the process stops, and is to be started again")]
    Ended {
        /// What it did.
        task: &'static str,
        /// How it ended.
        why: String,
    },
    /// The drain took too long.
    #[error(
        "after {waited:?} the store has not taken {unpublished} of the new token pairs (the log names \
         their grants){}. {flights} refreshes, these among them, were under way; their claims stay in \
         the store", if *.kept { ": they are in the journal, so start this replica again with it" } else { ": they are lost with this process" }
    )]
    DrainTimeout {
        /// How long they were waited for.
        waited: Duration,
        /// Pairs that providers had issued.
        unpublished: i64,
        /// The journal has them.
        kept: bool,
        /// Refreshes, those pairs among them.
        flights: i64,
    },
}
