//! When the process stops: one signal asks, a second one insists.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// Exit code after the second signal.
const EXIT_INSISTED: i32 = 130;

/// Listens for SIGTERM, SIGINT, and SIGHUP, which comes when a terminal is closed.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen. From now on the signals no longer kill the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the first signal.
    pub async fn asked(&mut self) {
        let name = self.next().await;
        info!(signal = name, "stopping: refreshes under way are made durable first");
    }

    /// Waits for the second signal and ends the process at once.
    pub async fn insisted(&mut self) {
        let name = self.next().await;
        warn!(signal = name, "stopping at once");
        std::process::exit(EXIT_INSISTED);
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
