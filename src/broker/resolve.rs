//! Ways out: what operators decide about grants that do not go on by themselves.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use crate::broker::admin::CONFLICTS_MAX;
use crate::broker::entry::Entry;
use crate::broker::error::Error;
use crate::broker::model::{
    Doubt, DoubtKind, Grant, GrantId, Owner, Position, Reason, Standing, Verdict,
};
use crate::broker::refresh::doubt::Next;
use crate::broker::refresh::flight::Trigger;
use crate::broker::refresh::rotation::usable;
use crate::broker::store::{Amendment, Claim, PAGE, Said};
use crate::broker::{Broker, Overview};

/// What an operator decides about a grant that is in doubt, or that the provider refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Present the refresh token again.
    Retry,
    /// Give it up: the person consents again.
    Reauthorize,
}

impl Broker {
    /// Carries out what an operator decided about a grant that is in doubt, or that the provider refuses,
    /// for good or again and again.
    pub async fn resolve_grant(
        self: &Arc<Self>,
        id: &GrantId,
        resolution: Resolution,
        deadline: Instant,
    ) -> Result<Overview, Error> {
        let grant = self.stored(id).await?;
        let entry = self.rotations.known.enter(grant.clone());
        if grant.descriptor.disabled {
            return Err(Error::GrantDisabled(id.clone()));
        }
        let doubt = self.rotations.doubt_of(&entry, &grant);
        info!(grant.id = %id, ?resolution, "an operator resolves a grant");
        match (&grant.standing, doubt, resolution) {
            // What was taken back is gone.
            (Standing::Refused(verdict), _, Resolution::Retry) if verdict.is_revocation() => {
                usable(&grant)?;
            }
            (Standing::Refused(_), _, Resolution::Retry) => {
                if !self.rotations.lift(&grant).await? {
                    return Err(Error::EtagMismatch(id.clone()));
                }
                entry.forget_trouble();
                match self.rotations.doubt_of(&entry, &entry.view().grant) {
                    Some(doubt) => self.order_resend(&entry, &doubt, deadline).await?,
                    None => {
                        self.refresh(&entry, &entry.view(), Trigger::Admin, deadline).await?;
                    }
                }
            }
            (Standing::Refused(_), _, Resolution::Reauthorize) => {}
            (_, Some(doubt), Resolution::Retry) => {
                self.order_resend(&entry, &doubt, deadline).await?;
            }
            (_, Some(doubt), Resolution::Reauthorize) => {
                self.give_up(&entry, &grant, &doubt).await?;
            }
            (_, None, _) if grant.keeps_its_pace() => {
                self.resolve_refused(&entry, &grant, resolution, deadline).await?;
            }
            (_, None, _) => self.resolve_silent(&entry, &grant, resolution, deadline).await?,
        }
        Ok(self.overview(&entry))
    }

    /// Presents the refresh token now, or as soon as the last request has come to rest.
    async fn order_resend(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        doubt: &Doubt,
        deadline: Instant,
    ) -> Result<(), Error> {
        let view = entry.view();
        usable(&view.grant)?;
        entry.order(view.grant.generation(), doubt);
        let next = self.rotations.next_try(entry, &view, doubt);
        match &view.grant.intent {
            Some(held) if next != Next::In(Duration::ZERO) => {
                self.rotations.record_doubt(entry, held, doubt, next).await;
                Ok(())
            }
            _ => self.refresh(entry, &view, Trigger::Resolve, deadline).await.map(drop),
        }
    }

    /// The provider refuses it, which is not taken for its end yet.
    async fn resolve_refused(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        resolution: Resolution,
        deadline: Instant,
    ) -> Result<(), Error> {
        match resolution {
            Resolution::Retry => {
                self.refresh(entry, &entry.view(), Trigger::Admin, deadline).await.map(drop)
            }
            Resolution::Reauthorize if self.believe_of(grant).await? => Ok(()),
            Resolution::Reauthorize => Err(Error::EtagMismatch(grant.id.clone())),
        }
    }

    /// Another process holds the claim and gives no sign. An operator may know that it is gone.
    async fn resolve_silent(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        resolution: Resolution,
        deadline: Instant,
    ) -> Result<(), Error> {
        let held = grant.intent.as_ref().filter(|held| self.silent(held));
        let held = held.ok_or_else(|| Error::NotInDoubt(grant.id.clone()))?;
        let doubt = Doubt {
            kind: DoubtKind::Died,
            status: None,
            since: held.since,
            sent_at: held.since,
            attempts: 1,
            fence: held.fence,
        };
        self.rotations.record_doubt(entry, held, &doubt, Next::WhenTold).await;
        let grant = self.stored(&grant.id).await?;
        match resolution {
            Resolution::Retry => self.order_resend(entry, &doubt, deadline).await,
            Resolution::Reauthorize => self.give_up(entry, &grant, &doubt).await,
        }
    }

    /// Ends a grant whose refresh token is in doubt.
    async fn give_up(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        grant: &Grant,
        doubt: &Doubt,
    ) -> Result<(), Error> {
        let (broker, entry) = (Arc::clone(self), Arc::clone(entry));
        let (grant, doubt) = (grant.clone(), doubt.clone());
        self.to_the_end(async move {
            let moved = || Error::EtagMismatch(grant.id.clone());
            let held = broker.rotations.held_in_doubt(&grant, &doubt).await?.ok_or_else(moved)?;
            let verdict = Verdict {
                reason: Reason::GrantRefreshTokenLost,
                provider_error: None,
                detail: None,
                provider_status: doubt.status,
                time: broker.rotations.clock.now(),
                token_rejected: entry.token_rejected(&grant),
                given_up: Some(doubt.clone()),
            };
            if !broker.rotations.store.refuse(&grant.id, &held, &verdict).await? {
                return Err(moved());
            }
            entry.answered(&held);
            let fence = held.fence.max(grant.position.fence);
            let position = Position { generation: held.generation, fence };
            let standing = Standing::Refused(verdict);
            entry.adopt(Grant { position, standing, intent: None, ..grant });
            Ok(())
        })
        .await
    }

    /// Switches a grant off or on. What it holds is kept.
    pub async fn switch_grant(
        self: &Arc<Self>,
        id: &GrantId,
        disabled: bool,
    ) -> Result<Overview, Error> {
        let (broker, id) = (Arc::clone(self), id.clone());
        self.to_the_end(async move {
            for _ in 0..CONFLICTS_MAX {
                let grant = broker.stored(&id).await?;
                let entry = broker.rotations.known.enter(grant.clone());
                if grant.descriptor.disabled == disabled {
                    return Ok(broker.overview(&entry));
                }
                let usable = grant.standing == Standing::Usable;
                // Whoever switches it on again wants to see it work.
                let due_at = (!disabled && usable).then(|| broker.rotations.clock.now());
                let said = Said { disabled: Some(disabled), ..Said::default() };
                let amendment = Amendment { said, due_at, ..Amendment::default() };
                if let Some(amended) =
                    broker.rotations.store.amend(&id, grant.position, amendment).await?
                {
                    info!(grant.id = %id, disabled, "switched by an operator");
                    entry.adopt(broker.rotations.interpret(amended));
                    return Ok(broker.overview(&entry));
                }
            }
            Err(Error::EtagMismatch(id))
        })
        .await
    }

    /// Puts every refresh token that a use may spend in doubt: the store is a copy from the past,
    /// and what it holds may have been spent since. Says how many.
    pub async fn distrust_all(self: &Arc<Self>) -> Result<u64, Error> {
        let (mut cursor, mut doubted) = (None, 0);
        loop {
            let page = self.rotations.store.list(cursor.as_deref(), PAGE).await?;
            for grant in &page.grants {
                if grant.standing == Standing::Usable && self.rotations.spends(grant) {
                    doubted += u64::from(self.distrust(grant).await?);
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(doubted);
            }
        }
    }

    async fn distrust(&self, grant: &Grant) -> Result<bool, Error> {
        let owner = Owner::Restored;
        let held = if let Some(held) = &grant.intent {
            held.clone()
        } else {
            let watch = self.rotations.settings.suspect_after;
            let claim =
                self.rotations.store.claim(&grant.id, grant.generation(), owner, None, watch);
            let Claim::Granted(held) = claim.await? else { return Ok(false) };
            held
        };
        let doubt = Doubt {
            kind: DoubtKind::Restored,
            status: None,
            since: self.rotations.start,
            sent_at: self.rotations.start,
            attempts: 0,
            fence: held.fence,
        };
        Ok(self.rotations.store.doubt(&grant.id, &held, &doubt, None).await?)
    }
}
