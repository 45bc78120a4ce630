//! What this process knows: the grants that somebody asked for lately.

use std::sync::Arc;

use dashmap::{DashMap, Entry as Slot};

use crate::broker::entry::Entry;
use crate::broker::model::{Grant, GrantId, ProviderId};
use crate::broker::view::View;

/// Rounds of letting go after which a grant that nobody asked for is let go.
pub(super) const IDLE_ROUNDS: u32 = 24;

/// The grants in memory.
#[derive(Debug, Default)]
pub(super) struct Known {
    entries: DashMap<GrantId, Arc<Entry>>,
}

impl Known {
    pub(super) fn get(&self, id: &GrantId) -> Option<Arc<Entry>> {
        self.entries.get(id).map(|entry| Arc::clone(&entry))
    }

    /// Looks at an entry in its place. `look` must neither wait nor come back here.
    pub(super) fn look<R>(
        &self,
        id: &GrantId,
        look: impl FnOnce(&Arc<Entry>) -> Option<R>,
    ) -> Option<R> {
        look(&*self.entries.get(id)?)
    }

    /// The entry of a grant that the store has.
    pub(super) fn enter(&self, grant: Grant) -> Arc<Entry> {
        let entry = match self.entries.entry(grant.id.clone()) {
            Slot::Vacant(slot) => return Arc::clone(&slot.insert(Arc::new(Entry::new(grant)))),
            Slot::Occupied(slot) => Arc::clone(slot.get()),
        };
        entry.adopt(grant);
        entry
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    /// All that are there, and what is left of deleted ones.
    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.entries.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// Whether one of them looks like that.
    pub(super) fn any(&self, like: impl Fn(&View) -> bool) -> bool {
        self.entries.iter().any(|entry| !entry.deleted() && like(&entry.view()))
    }

    /// Those of one provider.
    pub(super) fn of(&self, provider: &ProviderId) -> impl Iterator<Item = Arc<Entry>> {
        let entries = self.entries.iter().map(|entry| Arc::clone(&entry));
        entries.filter(|entry| entry.provider() == *provider)
    }

    /// Lets go of grants that nobody asked for in [`IDLE_ROUNDS`] calls of this, and of what is left
    /// of deleted ones. The store has them, should somebody ask.
    pub(super) fn let_go(&self) {
        let idle = |entry: &Entry| entry.idle_for(IDLE_ROUNDS);
        let idle: Vec<_> =
            self.entries.iter().filter(|entry| idle(entry)).map(|entry| entry.id.clone()).collect();
        for id in idle {
            // Who still holds it would change what nobody sees.
            let unheld = |entry: &Arc<Entry>| Arc::strong_count(entry) == 1;
            self.entries.remove_if(&id, |_, entry| unheld(entry) && entry.holds_nothing());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::entry::tests::grant;

    #[test]
    fn grants_that_nobody_asks_for_are_let_go() {
        let known = Known::default();
        let entry = known.enter(grant());
        for _ in 0..2 * IDLE_ROUNDS {
            entry.ask();
            known.let_go();
        }
        assert_eq!(known.count(), 1, "it was asked for");
        for _ in 0..2 * IDLE_ROUNDS {
            known.let_go();
        }
        assert_eq!(known.count(), 1, "somebody holds it");
        drop(entry);
        known.let_go();
        assert_eq!(known.count(), 0);
    }
}
