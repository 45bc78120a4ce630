//! Claims, and when grants are due: what is compared lies open, and what came of it is sealed.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::broker::model::{
    Answer, Doubt, Fence, Generation, Grant, GrantId, Intent, Owner, Pair, Position, Verdict,
};
use crate::broker::store::{Claim, Claims, DueIndex, Grants as _, Stored};
use crate::clock::unix_ms;
use crate::store::backend::{Change, Claiming, Hold, Over, StoreResult};
use crate::store::record::{StoredAnswer, StoredDoubt, millis};
use crate::store::vault::Vault;

#[async_trait]
impl Claims for Vault {
    async fn claim(
        &self,
        id: &GrantId,
        generation: Generation,
        owner: Owner,
        takeover: Option<Duration>,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let over = takeover.map_or(Over::Nothing, |lease| Over::Older(millis(lease)));
        let (generation, watch) = (generation.0, millis(watch));
        let claiming = Claiming { generation, owner: owner.into(), over, watch };
        self.backend.claim(id, claiming).await
    }

    async fn take_over(
        &self,
        id: &GrantId,
        held: &Intent,
        owner: Owner,
        watch: Duration,
    ) -> StoreResult<Claim> {
        let (generation, over) = (held.generation.0, Over::Held(held.fence.0));
        let claiming = Claiming { generation, owner: owner.into(), over, watch: millis(watch) };
        self.backend.claim(id, claiming).await
    }

    async fn doubt(
        &self,
        id: &GrantId,
        intent: &Intent,
        doubt: &Doubt,
        due_at: Option<SystemTime>,
    ) -> StoreResult<bool> {
        let (hold, doubt) = (hold(intent), StoredDoubt::new(doubt, intent.fence));
        self.backend.change(id, Change::Doubt { hold, doubt, due_at: due_at.map(unix_ms) }).await
    }

    async fn release(
        &self,
        id: &GrantId,
        intent: &Intent,
        answer: Option<&Answer>,
    ) -> StoreResult<bool> {
        let (hold, answer) = (hold(intent), answer.map(StoredAnswer::from));
        self.backend.change(id, Change::Release { hold, answer }).await
    }

    async fn refuse(&self, id: &GrantId, intent: &Intent, verdict: &Verdict) -> StoreResult<bool> {
        let at = Position { generation: intent.generation, fence: intent.fence };
        let (hold, refusal) = (hold(intent), self.seal.verdict(id, at, verdict));
        self.backend.change(id, Change::Refuse { hold, refusal }).await
    }

    async fn promote(&self, id: &GrantId, intent: &Intent) -> StoreResult<Option<Grant>> {
        let Some(record) = self.backend.read(id).await? else { return Ok(None) };
        let opened = record.siblings.iter().rev().find_map(|(fence, blob)| {
            // What cannot be opened cannot be tried.
            Some((*fence, self.open_sibling(id, &record, Fence(*fence), blob).ok()?))
        });
        let Some((sibling, pair)) = opened else { return Ok(None) };
        let Grant { descriptor, pair: refused, .. } = self.open_grant(id, &record)?;
        let pair = Pair { token: refused.token, published_at: self.clock.now(), ..pair };
        let at = Position { generation: intent.generation, fence: intent.fence };
        let pair = self.seal_pair(id, at, &descriptor, &pair);
        let promoted =
            self.backend.change(id, Change::Promote { hold: hold(intent), sibling, pair }).await?;
        if promoted { Ok(self.load(id).await?.and_then(Stored::grant)) } else { Ok(None) }
    }
}

#[async_trait]
impl DueIndex for Vault {
    async fn schedule(
        &self,
        id: &GrantId,
        generation: Generation,
        due_at: SystemTime,
    ) -> StoreResult<()> {
        let (generation, due_at) = (generation.0, unix_ms(due_at));
        self.backend.change(id, Change::Schedule { generation, due_at }).await.map(drop)
    }

    async fn take_due(&self, limit: usize, visibility: Duration) -> StoreResult<Vec<GrantId>> {
        self.backend.take_due(limit, visibility).await
    }
}

fn hold(intent: &Intent) -> Hold {
    Hold { generation: intent.generation.0, fence: intent.fence.0 }
}
