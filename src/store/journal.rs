//! The journal of a replica: pairs that came back are on its own disk before the store is asked to
//! take them.
//!
//! It also says who this process is among several on one store. Whoever has its file knows that every
//! earlier process of its name has ended; and once all entries are in the store, that nothing newer
//! can come from one. What it keeps is sealed, exactly as the store will have it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::broker::model::{Fence, Generation, GrantId, Position};
use crate::broker::store::JournalCondition;
use crate::store::OpenError;
use crate::store::backend::Publishing;
use crate::store::journal::file::Log;
use crate::store::record::{Blob, Sealed};

mod file;

/// How long an entry stays once the store has confirmed it: a failover may take that back, and so
/// long this process and its successor can give it again.
const KEPT: Duration = Duration::from_secs(60);

/// A pair on its way into the store. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) grant: GrantId,
    /// Whose store it is for.
    pub(crate) deployment: String,
    pub(crate) written_at: u64,
    generation: u64,
    fence: u64,
    descriptor: Sealed,
    pair: Blob,
    due_at: Option<u64>,
}

/// Which pair it is.
type Key = (GrantId, Position);

impl Entry {
    pub(crate) fn new(
        grant: &GrantId,
        deployment: &str,
        publishing: Publishing,
        written_at: u64,
    ) -> Self {
        let Publishing { at, descriptor, pair, due_at, .. } = publishing;
        let (generation, fence) = (at.generation.0, at.fence.0);
        let (grant, deployment) = (grant.clone(), deployment.to_owned());
        Self { grant, deployment, written_at, generation, fence, descriptor, pair, due_at }
    }

    pub(crate) fn position(&self) -> Position {
        Position { generation: Generation(self.generation), fence: Fence(self.fence) }
    }

    /// What the store is asked to take. `remake`: also where it has lost the grant.
    pub(crate) fn publishing(&self, remake: bool) -> Publishing {
        let (descriptor, pair) = (self.descriptor.clone(), self.pair.clone());
        let (at, due_at) = (self.position(), self.due_at);
        Publishing { at, descriptor, pair, remake, answer: None, held_by: None, due_at }
    }

    fn key(&self) -> Key {
        (self.grant.clone(), self.position())
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// The journal, for as long as this value lives.
#[derive(Debug)]
pub struct Journal {
    name: String,
    inner: Arc<Inner>,
    /// Somebody makes the file shorter.
    tidying: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Inner {
    /// Held during every write.
    log: Mutex<Log>,
    waiting: Mutex<Vec<Waiting>>,
    kept: Mutex<Kept>,
}

/// An entry to be written, and who waits for it.
type Waiting = (Entry, oneshot::Sender<Result<(), String>>);

/// What the file holds.
#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<Key, State>,
    /// What is being written; and whether the store has it already.
    coming: BTreeMap<Key, bool>,
    /// Lines that are no entries; nobody knows what is lost with them.
    odd: Vec<Vec<u8>>,
    /// Entries that the file holds still and nobody needs.
    dead: usize,
    trouble: Option<String>,
    /// It cannot be made shorter.
    untidy: bool,
}

#[derive(Debug)]
struct State {
    entry: Entry,
    /// Since when the store has it.
    settled: Option<Instant>,
    /// The store cannot be given it.
    stuck: bool,
}

impl Journal {
    /// Takes the file at `path`, or makes it at the first start.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (mut log, lines) = Log::open(path)?;
        log.prove_rewritable(&lines)?;
        let mut kept = Kept::default();
        for line in lines {
            match serde_json::from_slice::<Entry>(&line) {
                Ok(entry) => kept.enter(entry),
                Err(_) => kept.odd.push(line),
            }
        }
        if !kept.odd.is_empty() {
            error!(lines = kept.odd.len(), file = %path.display(),
                "lines of the journal cannot be read, and stay; the pairs in them may be lost. Keep a copy \
                 of the file, remove these lines, and look at grants whose refresh token is in doubt then");
        }
        let name = log.name().to_owned();
        let (log, kept) = (Mutex::new(log), Mutex::new(kept));
        let inner = Arc::new(Inner { log, waiting: Mutex::default(), kept });
        Ok(Self { name, inner, tidying: Arc::default() })
    }

    /// The name of this replica.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a process before this one has left.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.inner.kept.lock().entries.values().map(|state| state.entry.clone()).collect()
    }

    /// Nobody knows what stands in some of its lines.
    pub(crate) fn has_odd_lines(&self) -> bool {
        !self.inner.kept.lock().odd.is_empty()
    }

    /// Writes an entry down. Those that come at the same time share one write.
    pub(crate) async fn write(&self, entry: Entry) -> Result<(), String> {
        let (sender, written) = oneshot::channel();
        self.inner.kept.lock().coming.insert(entry.key(), false);
        self.inner.waiting.lock().push((entry, sender));
        let inner = Arc::clone(&self.inner);
        // Whoever has the file writes for all; the others find nothing to do.
        spawn_blocking(move || inner.write_waiting());
        written.await.unwrap_or_else(|_| Err("the writer is gone".to_owned()))
    }

    /// The store has this pair, or something newer.
    pub(crate) fn settle(&self, grant: &GrantId, at: Position) {
        let (mut kept, key) = (self.inner.kept.lock(), (grant.clone(), at));
        if let Some(state) = kept.entries.get_mut(&key) {
            state.settled = Some(Instant::now());
        }
        // The disk may be slower than the store.
        if let Some(settled) = kept.coming.get_mut(&key) {
            *settled = true;
        }
    }

    /// The store may have lost what it had confirmed: it gets time to find that out.
    pub(crate) fn distrust(&self) {
        for state in self.inner.kept.lock().entries.values_mut() {
            state.settled = state.settled.map(|_| Instant::now());
        }
    }

    /// The store cannot be given this entry, or may not: it stays for whoever mends that.
    pub(crate) fn stick(&self, entry: &Entry) {
        if let Some(state) = self.inner.kept.lock().entries.get_mut(&entry.key()) {
            state.stuck = true;
        }
    }

    /// Nothing of this grant is needed any more, or may be kept; `at`: of that pair.
    pub(crate) async fn forget(&self, grant: &GrantId, at: Option<Position>) {
        let meant = |entry: &Entry| {
            entry.grant == *grant && at.is_none_or(|position| position == entry.position())
        };
        self.inner.kept.lock().drop_where(|state| meant(&state.entry));
        self.tidy().await;
    }

    /// Lets go of this entry; the file has it until it is tidied.
    pub(crate) fn drop_entry(&self, entry: &Entry) {
        let key = entry.key();
        self.inner.kept.lock().drop_where(|state| state.entry.key() == key);
    }

    /// Lets go of what the store has had for a while. The disk may take its time for that.
    pub(crate) fn sweep(&self) {
        let old = |at: Instant| at.elapsed() >= KEPT;
        self.inner.kept.lock().drop_where(|state| state.settled.is_some_and(old));
        if self.tidying.swap(true, Ordering::AcqRel) {
            return;
        }
        let (inner, tidying) = (Arc::clone(&self.inner), Arc::clone(&self.tidying));
        spawn_blocking(move || {
            inner.look_after();
            inner.tidy(false);
            tidying.store(false, Ordering::Release);
        });
    }

    /// Makes the file hold what is needed, and nothing else.
    pub(crate) async fn tidy(&self) {
        let inner = Arc::clone(&self.inner);
        let _ = spawn_blocking(move || inner.tidy(true)).await;
    }

    /// How it is.
    pub(crate) fn condition(&self) -> JournalCondition {
        let kept = self.inner.kept.lock();
        let stuck = kept.entries.values().filter(|state| state.stuck).count() + kept.odd.len();
        JournalCondition { entries: kept.entries.len(), stuck, trouble: kept.trouble.clone() }
    }
}

impl Kept {
    fn enter(&mut self, entry: Entry) {
        let settled = self.coming.remove(&entry.key()).unwrap_or(false);
        let settled = settled.then(Instant::now);
        let state = State { entry, settled, stuck: false };
        // The same pair twice: offered again before the first was confirmed.
        let before = self.entries.insert(state.entry.key(), state);
        self.dead += usize::from(before.is_some());
    }

    fn drop_where(&mut self, gone: impl Fn(&State) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|_, state| !gone(state));
        self.dead += before - self.entries.len();
    }

    /// Half of it may be dead before it is written anew: so each entry costs one more write at most.
    fn tidying_pays(&self) -> bool {
        let moving = self.entries.values().filter(|state| !state.stuck).count();
        self.dead > moving
    }

    fn lines(&self) -> Vec<u8> {
        let odd = self.odd.iter().flat_map(|line| line.iter().chain(b"\n").copied());
        self.entries.values().flat_map(|state| state.entry.line()).chain(odd).collect()
    }

    fn wrote(&mut self, outcome: Result<(), String>) {
        match (&self.trouble, outcome) {
            (None, Err(why)) => {
                error!(error = %why,
                    "the journal takes nothing: until it does, a crash at the wrong moment loses a pair");
                self.trouble = Some(why);
            }
            (Some(_), Ok(())) => {
                info!("the journal takes what is written again");
                self.trouble = None;
            }
            (Some(_), Err(_)) | (None, Ok(())) => {}
        }
    }
}

impl Inner {
    fn write_waiting(&self) {
        let mut log = self.log.lock();
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if waiting.is_empty() {
            return;
        }
        let lines: Vec<u8> = waiting.iter().flat_map(|(entry, _)| entry.line()).collect();
        let written = self.stand(&mut log).and_then(|()| log.append(&lines));
        let written = written.map_err(|error| error.to_string());
        let mut kept = self.kept.lock();
        kept.wrote(written.clone());
        for (entry, sender) in waiting {
            if written.is_ok() {
                kept.enter(entry);
            } else {
                kept.coming.remove(&entry.key());
            }
            let _ = sender.send(written.clone());
        }
    }

    /// It may be gone from its place while nobody writes.
    fn look_after(&self) {
        let mut log = self.log.lock();
        if let Err(error) = self.stand(&mut log) {
            self.kept.lock().wrote(Err(error.to_string()));
        }
    }

    fn stand(&self, log: &mut Log) -> io::Result<()> {
        if log.stand(|| self.kept.lock().lines())? {
            error!("the journal was removed, and is made again with what it held; who does that?");
            self.kept.lock().dead = 0;
        }
        Ok(())
    }

    /// `now`: also where it does not pay.
    fn tidy(&self, now: bool) {
        let mut log = self.log.lock();
        let (lines, dead) = {
            let kept = self.kept.lock();
            if !(kept.tidying_pays() || (now && kept.dead > 0)) {
                return;
            }
            (kept.lines(), kept.dead)
        };
        let rewritten = log.rewrite(&lines);
        let mut kept = self.kept.lock();
        match rewritten {
            // What was let go of meanwhile is still there.
            Ok(()) => (kept.dead, kept.untidy) = (kept.dead - dead, false),
            Err(error) if !kept.untidy => {
                warn!(%error, "the journal cannot be made shorter, and grows");
                kept.untidy = true;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(grant: &str, generation: u64) -> Entry {
        let at = Position { generation: Generation(generation), fence: Fence(generation) };
        let (descriptor, pair) = (Sealed::default(), Blob(vec![7; 100]));
        let (held_by, due_at) = (None, Some(9));
        let publishing =
            Publishing { at, descriptor, pair, remake: false, answer: None, held_by, due_at };
        Entry::new(&GrantId::parse(grant).unwrap(), "ours", publishing, 1)
    }

    /// Writers that found nothing to do may hold the file for a moment longer.
    async fn opened(path: &Path) -> Journal {
        loop {
            match Journal::open(path) {
                Ok(journal) => return journal,
                Err(error) if error.to_string().contains("another token-broker") => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn entries_are_there_after_the_process_until_the_store_has_had_them_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = opened(&path).await;
        let entries = [entry("a/b", 1), entry("a/c", 1), entry("a/b", 2)];
        let [one, two, three] = entries.map(|entry| journal.write(entry));
        let written = tokio::join!(one, two, three);
        assert_eq!(written, (Ok(()), Ok(()), Ok(())));
        drop(journal);
        let journal = opened(&path).await;
        let mut found = journal.entries();
        found.sort_by_key(Entry::key);
        assert_eq!(found, [entry("a/b", 1), entry("a/b", 2), entry("a/c", 1)]);
        journal.settle(&GrantId::parse("a/c").unwrap(), entry("a/c", 1).position());
        journal.sweep();
        assert_eq!(journal.condition().entries, 3, "a failover may take it back");
        tokio::time::pause();
        tokio::time::advance(KEPT).await;
        tokio::time::resume();
        journal.sweep();
        assert_eq!(journal.condition().entries, 2);
        journal.forget(&GrantId::parse("a/b").unwrap(), None).await;
        assert!(!std::fs::read_to_string(&path).unwrap().contains("a/b"), "deleted is deleted");
        drop(journal);
        assert!(opened(&path).await.entries().is_empty());
    }

    #[tokio::test]
    async fn a_line_that_is_none_hides_no_other_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = opened(&path).await;
        journal.write(entry("a/b", 1)).await.unwrap();
        let name = journal.name().to_owned();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once('\n').unwrap();
        std::fs::write(&path, format!("{head}\n{{\"odd\":1\n{rest}")).unwrap();
        let journal = opened(&path).await;
        assert_eq!((journal.name(), journal.entries().len()), (name.as_str(), 1));
        assert_eq!(journal.condition().stuck, 1);
        journal.forget(&GrantId::parse("a/b").unwrap(), None).await;
        assert!(std::fs::read_to_string(&path).unwrap().contains("odd"));
    }
}
