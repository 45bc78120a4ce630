//! The audit log: one JSON line for each decision on a token or a grant, and for each act of the broker
//! itself. Apart from the log of the program, which is for whoever keeps it running.
//!
//! No line holds a token, a secret, or what anybody proved themselves by. What is asked again and again
//! is written at its first time and then counted, in one line a minute ([`Audit::served`]): the answers
//! from memory must not wait for a disk.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

mod entry;
mod repeats;
mod sink;

pub use entry::{Entry, Phase};
pub use sink::{Place, SinkError};

use entry::Line;
use repeats::{Counted, Repeats};
use sink::Sink;

/// How long the same is only counted after it was written.
const EACH: Duration = Duration::from_secs(60);
/// Longest wait for a line that must be there before something is done.
const PROOF_MAX: Duration = Duration::from_secs(2);

/// Where entries go.
pub struct Audit {
    /// `None`: nowhere.
    sink: Option<Sink>,
    /// What operators change is not done unless it is written down first.
    required: bool,
    /// What went well is never left out for what did not.
    served: Repeats,
    refused: Repeats,
    replica: String,
    clock: Clock,
}

/// The entry could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unwritten;

impl Audit {
    /// Writes nothing down.
    pub fn off(clock: Clock) -> Arc<Self> {
        let (sink, required) = (None, false);
        let (served, refused, replica) = (Repeats::new(), Repeats::new(), String::new());
        Arc::new(Self { sink, required, served, refused, replica, clock })
    }

    /// Writes to `place`, as `replica`. `required`: see [`begin`](Self::begin).
    pub fn open(
        place: &Place,
        required: bool,
        replica: String,
        clock: Clock,
        registry: &mut Registry,
    ) -> Result<Arc<Self>, SinkError> {
        let failures = Counter::default();
        registry.register(
            "audit_failures",
            "Lines that the audit log did not take; what they say is lost",
            failures.clone(),
        );
        let sink = Some(Sink::open(place, failures)?);
        let (served, refused) = (Repeats::new(), Repeats::new());
        Ok(Arc::new(Self { sink, required, served, refused, replica, clock }))
    }

    /// Somebody reads it.
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Writes an entry down, soon. Waits for nothing: what cannot be written is counted.
    pub fn tell(&self, entry: &Entry) {
        if let Some(sink) = &self.sink {
            sink.send(self.line(entry, None));
        }
    }

    /// Writes down that something begins which changes a grant. Where the audit log is `required`, it has
    /// the entry when this returns; otherwise nothing is waited for.
    pub async fn begin(&self, entry: &Entry) -> Result<(), Unwritten> {
        let Some(sink) = self.sink.as_ref().filter(|_| self.required) else {
            self.tell(entry);
            return Ok(());
        };
        let written = timeout(PROOF_MAX, sink.write(self.line(entry, None)));
        written.await.ok().flatten().ok_or(Unwritten)
    }

    /// Writes an entry down if `what` did not come up for a minute, and counts it otherwise.
    pub fn served(&self, what: impl Hash, entry: impl FnOnce() -> Entry) {
        if let Err(entry) = self.once(&self.served, what, entry) {
            // Nobody can have so much asked for that it is not written down who has a token.
            self.tell(&entry());
        }
    }

    /// The same of what was refused to a caller. Of one to whom too many different things are refused, the
    /// others are counted together; where that is too much as well, only the number is kept.
    pub fn refused(&self, who: &str, what: impl Hash, entry: impl FnOnce() -> Entry) {
        if !self.refused.is_known((who, &what)) && !self.refused.tells_apart(who) {
            let others =
                || Entry { action: "audit.refused", caller: entry().caller, ..Entry::default() };
            if self.once(&self.refused, (who, "others"), others).is_err() {
                self.refused.leave_out();
            }
        } else if self.once(&self.refused, (who, &what), entry).is_err() {
            self.refused.leave_out();
        }
    }

    /// Writes an entry down at its first time, and counts it then; gives it back where there is no room.
    fn once<E: FnOnce() -> Entry>(
        &self,
        repeats: &Repeats,
        what: impl Hash,
        entry: E,
    ) -> Result<(), E> {
        if !self.is_on() {
            return Ok(());
        }
        match repeats.count(what) {
            Counted::Again => {}
            Counted::First(slot) => self.tell(&slot.keep(entry())),
            Counted::Full => return Err(entry),
        }
        Ok(())
    }

    /// So many entries are lost.
    pub fn lost(&self, entries: u64) {
        if let Some(sink) = &self.sink {
            sink.lost(entries);
        }
    }

    /// Writes down each minute how often the same came up, until `stop`.
    pub async fn count(&self, stop: CancellationToken) {
        if !self.is_on() {
            return stop.cancelled().await;
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(EACH) => {}
            }
            self.tell_repeats();
        }
    }

    /// Nothing comes any more: what was counted is written down, and what waits.
    pub async fn finish(&self) {
        self.tell_repeats();
        if let Some(sink) = &self.sink {
            let _ = timeout(PROOF_MAX, sink.write(String::new())).await;
        }
    }

    fn tell_repeats(&self) {
        let Some(sink) = &self.sink else { return };
        for repeats in [&self.served, &self.refused] {
            let (counted, left_out) = repeats.take();
            for (entry, count) in counted {
                sink.send(self.line(&entry, Some(count)));
            }
            if left_out > 0 {
                let entry = Entry { action: "audit.left_out", ..Entry::default() };
                sink.send(self.line(&entry, Some(left_out)));
                sink.lost(left_out);
            }
        }
    }

    fn line(&self, entry: &Entry, count: Option<u64>) -> String {
        Line::new(entry, count, &self.replica, self.clock.now()).to_json()
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("on", &self.is_on()).finish_non_exhaustive()
    }
}
