//! Grants: read and opened, or sealed and written as the history allows.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::broker::model::{Fence, Grant, GrantId, Position, Standing};
use crate::broker::store::{Amendment, Grants, Merged, Page, Said, Seed, StoreError, Stored};
use crate::clock::unix_ms;
use crate::store::backend::{Amend, Change, StoreResult};
use crate::store::journal::Entry;
use crate::store::record::{Record, StoredAnswer, StoredDoubt};
use crate::store::vault::Vault;

/// How long a pair waits for the disk of the journal before the store is asked without it.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// Tries of a change that others keep overtaking.
const CONFLICTS_MAX: u32 = 5;
#[async_trait]
impl Grants for Vault {
    async fn load(&self, id: &GrantId) -> StoreResult<Option<Stored>> {
        let record = self.backend.read(id).await?;
        record.map(|record| self.open_record(id, &record)).transpose()
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> StoreResult<Page> {
        let after = after.map(|token| self.seal.place(token)).transpose()?;
        let page = self.backend.page(after.as_deref(), limit).await?;
        let opened = page.records.into_iter().filter_map(|(id, record)| {
            let grant = record.and_then(|record| self.open_grant(&id, &record));
            grant.inspect_err(|error| self.tell_damaged(&id, error)).ok()
        });
        let next = page.next.map(|place| self.seal.page_token(&place));
        Ok(Page { grants: opened.collect(), next })
    }

    async fn start_chain(
        &self,
        id: &GrantId,
        expected: Option<Position>,
        seed: Seed,
    ) -> StoreResult<Option<Grant>> {
        // In a store that was emptied, a chain would be sealed to a name that nobody finds.
        self.still_ours().await?;
        for _ in 0..CONFLICTS_MAX {
            let known = self.backend.read(id).await?;
            if known.as_ref().map(Record::position) != expected {
                return Ok(None);
            }
            let at = self.above(known.as_ref());
            let Seed { descriptor, pair, due_at } = &seed;
            let start = Change::Start {
                expected: known.as_ref().map(Record::stamp),
                at,
                descriptor: self.seal.descriptor(id, at.fence, descriptor),
                pair: self.seal_pair(id, at, descriptor, pair),
                due_at: due_at.map(unix_ms),
            };
            if self.backend.change(id, start).await? {
                return Ok(Some(begun(id, at, seed)));
            }
        }
        Ok(None)
    }

    async fn bury(&self, id: &GrantId, at: Position) -> StoreResult<bool> {
        self.still_ours().await?;
        self.backend.change(id, Change::Bury { at }).await
    }

    async fn start_over(&self, id: &GrantId, seed: Seed) -> StoreResult<Option<Grant>> {
        self.still_ours().await?;
        if !self.damaged(id).await? {
            return Ok(None);
        }
        let at = self.above(None);
        let Seed { descriptor, pair, due_at } = &seed;
        let start = Change::StartOver {
            at,
            descriptor: self.seal.descriptor(id, at.fence, descriptor),
            pair: self.seal_pair(id, at, descriptor, pair),
            due_at: due_at.map(unix_ms),
        };
        let started = self.backend.change(id, start).await?;
        if let Some(journal) = self.journal.as_ref().filter(|_| started) {
            journal.forget(id, None).await;
        }
        Ok(started.then(|| begun(id, at, seed)))
    }

    async fn discard(&self, id: &GrantId) -> StoreResult<bool> {
        let discard = Change::Discard { at: self.above(None) };
        Ok(self.damaged(id).await? && self.backend.change(id, discard).await?)
    }

    async fn journal(&self, grant: &Grant, due_at: Option<SystemTime>) -> Result<(), String> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let publishing = self.publishing(grant, due_at);
        let deployment = &self.identity.deployment;
        let entry = Entry::new(&grant.id, deployment, publishing, self.clock.now_ms());
        // A disk that hangs must not keep the pair from the store.
        let written = timeout(DISK_PATIENCE, journal.write(entry)).await;
        written.unwrap_or_else(|_| Err("its disk does not answer".to_owned()))
    }

    async fn merge(&self, grant: &Grant, due_at: Option<SystemTime>) -> StoreResult<Merged> {
        let (id, mut publishing) = (&grant.id, self.publishing(grant, due_at));
        let mut merged = self.backend.publish(id, publishing.clone()).await?;
        if merged.is_none() {
            self.still_ours().await?;
            publishing.remake = true;
            merged = self.backend.publish(id, publishing).await?;
        }
        let merged = merged.ok_or_else(|| {
            StoreError::Refused("a missing grant could not be made again".to_owned())
        })?;
        match &self.journal {
            // Replaced or deleted: nothing of it may come back.
            Some(journal) if merged == Merged::Old => {
                journal.forget(id, Some(grant.position)).await;
            }
            Some(journal) => journal.settle(id, grant.position),
            None => {}
        }
        Ok(merged)
    }

    async fn amend(
        &self,
        id: &GrantId,
        expected: Position,
        amendment: Amendment,
    ) -> StoreResult<Option<Grant>> {
        for _ in 0..CONFLICTS_MAX {
            let Some(known) = self.standing(id, expected).await? else { return Ok(None) };
            let fence = Fence::after(Fence(known.last_fence), self.clock.now_ms());
            let Amendment { lift, answer, said, in_doubt, due_at } = &amendment;
            let said = (*said != Said::default()).then_some(said);
            let described = said.map(|said| self.described(id, &known, fence, said));
            let amend = Amend {
                fence: fence.0,
                lift: *lift,
                answer: answer.as_ref().map(StoredAnswer::from),
                descriptor: described.transpose()?,
                in_doubt: in_doubt
                    .as_ref()
                    .map(|(owner, doubt)| (owner.clone().into(), StoredDoubt::new(doubt, fence))),
                due_at: due_at.map(unix_ms),
            };
            let amend = Change::Amend { expected: known.stamp(), amend };
            if self.backend.change(id, amend).await? {
                return Ok(self.load(id).await?.and_then(Stored::grant));
            }
        }
        Ok(None)
    }

    async fn delete(&self, id: &GrantId, expected: Position) -> StoreResult<bool> {
        for _ in 0..CONFLICTS_MAX {
            let Some(known) = self.standing(id, expected).await? else { return Ok(false) };
            let delete = Change::Delete { expected: known.stamp(), at: self.above(Some(&known)) };
            if self.backend.change(id, delete).await? {
                if let Some(journal) = &self.journal {
                    journal.forget(id, None).await;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn begun(id: &GrantId, position: Position, seed: Seed) -> Grant {
    let Seed { descriptor, pair, .. } = seed;
    let (id, standing, described) = (id.clone(), Standing::Usable, position.fence);
    Grant { id, position, descriptor, described, pair, standing, intent: None, answer: None }
}
