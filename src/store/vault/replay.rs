//! Replay: what a process before this one had received and the store may lack is given to it.

use tracing::{error, info, warn};

use crate::broker::store::{Merged, StoreError, TOMBSTONE_LIFE};
use crate::store::OpenError;
use crate::store::backend::StoreResult;
use crate::store::journal::Entry;
use crate::store::record::{Record, millis};
use crate::store::vault::Vault;

/// What became of an entry.
enum Replayed {
    /// The store has it.
    Taken,
    /// It was replaced or deleted.
    Old,
    /// It is not for this store; there it waits.
    Foreign,
    /// It cannot be given to it, or may not.
    Stuck(&'static str),
}

impl Vault {
    /// Gives the store all that the journal holds, before anything is concluded from the end of the
    /// process that wrote it. `true`: nothing newer can come from that process any more.
    pub async fn replay(&self) -> Result<bool, OpenError> {
        let Some(journal) = &self.journal else { return Ok(false) };
        let (mut taken, mut stuck, mut foreign) = (0_u64, 0_u64, 0_u64);
        for entry in journal.entries() {
            match self.give(&entry).await? {
                Replayed::Taken => {
                    journal.settle(&entry.grant, entry.position());
                    taken += 1;
                }
                Replayed::Old => journal.drop_entry(&entry),
                Replayed::Foreign => {
                    journal.stick(&entry);
                    foreign += 1;
                }
                Replayed::Stuck(why) => {
                    error!(grant.id = %entry.grant, generation = %entry.position().generation, why,
                        "the journal holds a pair that the store cannot be given; it stays there");
                    journal.stick(&entry);
                    stuck += 1;
                }
            }
        }
        journal.tidy().await;
        if foreign > 0 {
            warn!(
                pairs = foreign,
                "the journal holds pairs for the store of another deployment; they wait for that"
            );
        }
        if taken > 0 {
            info!(pairs = taken, "the store has what the process before had received last");
        }
        Ok(stuck == 0 && !journal.has_odd_lines())
    }

    async fn give(&self, entry: &Entry) -> StoreResult<Replayed> {
        if entry.deployment != self.identity.deployment {
            return Ok(Replayed::Foreign);
        }
        let (id, publishing) = (&entry.grant, entry.publishing(false));
        // What cannot be opened here could not be opened there, and would hide what can.
        let record =
            Record::start(publishing.at, publishing.descriptor.clone(), publishing.pair.clone());
        if let Err(StoreError::Unreadable { why, .. }) = self.seal.grant(id, &record) {
            // Where the store is beyond it, nothing is missed.
            return Ok(match self.backend.read(id).await {
                Ok(Some(stored)) if stored.position() >= entry.position() => Replayed::Old,
                Err(StoreError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
                _ => Replayed::Stuck(why),
            });
        }
        match self.backend.publish(id, publishing).await {
            Ok(Some(Merged::Old)) => return Ok(Replayed::Old),
            Ok(Some(_)) => return Ok(Replayed::Taken),
            Ok(None) => {}
            Err(StoreError::Unavailable(why)) => return Err(StoreError::Unavailable(why)),
            Err(_) => return Ok(Replayed::Stuck("the store has something there that is no grant")),
        }
        let age = self.clock.now_ms().checked_sub(entry.written_at);
        if age.is_none_or(|age| age >= millis(TOMBSTONE_LIFE)) {
            return Ok(Replayed::Stuck(
                "the store lacks the grant, and nobody can tell any more whether it was deleted; \
                 import it, or remove the line",
            ));
        }
        self.still_ours().await?;
        let made = self.backend.publish(id, entry.publishing(true)).await?;
        Ok(made.map_or(Replayed::Stuck("the grant could not be made again"), |_| Replayed::Taken))
    }
}
