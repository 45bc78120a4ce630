//! When the process stops, and when it is to read its files again: one signal asks for an end, a second
//! one insists.

use std::io::{self, IsTerminal as _, stdin};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing::{info, warn};

/// Exit code after the second signal.
const EXIT_INSISTED: i32 = 130;

/// Listens for SIGTERM and SIGINT, which ask for an end; and for SIGHUP, which does so where a terminal
/// is closed, and elsewhere asks for another look at all files.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// There is a terminal that may be closed.
    at_terminal: bool,
    reload: Arc<Notify>,
}

impl Signals {
    /// Begins to listen. From now on the signals no longer kill the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            at_terminal: stdin().is_terminal(),
            reload: Arc::default(),
        })
    }

    /// Told when files are to be looked at.
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Waits for the first signal that asks for an end.
    pub async fn asked(&mut self) {
        let name = self.next().await;
        info!(signal = name, "stopping: refreshes under way are made durable first");
    }

    /// Waits for the second one and ends the process at once.
    pub async fn insisted(&mut self) {
        let name = self.next().await;
        warn!(signal = name, "stopping at once");
        std::process::exit(EXIT_INSISTED);
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    // One that was closed is none any more.
                    if self.at_terminal && !stdin().is_terminal() {
                        return "SIGHUP";
                    }
                    self.reload.notify_one();
                }
            }
        }
    }
}
