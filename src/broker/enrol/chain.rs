//! A new chain: what a consent brought is kept until the store has it, and begins above everything
//! that was there before.

use std::time::SystemTime;

use tracing::{error, info, warn};

use crate::broker::acts::ActKind;
use crate::broker::enrol::exchange::First;
use crate::broker::error::{Error, chain};
use crate::broker::model::{
    Descriptor, Enrolment, Fence, Generation, Grant, GrantId, GrantKind, Pair, Position, Standing,
};
use crate::broker::refresh::pair::token;
use crate::broker::refresh::publish::Counted;
use crate::broker::store::{Merged, Seed, StoreError, Stored};
use crate::broker::{Broker, Overview};
use crate::clock::unix_ms;
use crate::secret::Account;

impl Broker {
    /// Offers the pair to the store until it takes it: the code is spent, and nothing else holds it.
    /// Its place in the history is fixed before, so that what is newer than it stays.
    ///
    /// The pair of another person than before is let go, unless that is welcome.
    pub(super) async fn keep(
        &self,
        enrolment: &Enrolment,
        first: First,
    ) -> Result<Overview, Error> {
        let rotations = &self.rotations;
        let mut waiting = None;
        let mut tell = |failures, failure: &StoreError| {
            waiting.get_or_insert_with(|| Counted::new(&rotations.metrics.unpublished_pairs));
            error!(grant.id = %enrolment.grant, error = %chain(failure), failures,
                "the store did not take the pair of a person's consent; it is kept in memory and offered again");
        };
        let before = rotations.insist(|| self.before(&enrolment.grant), &mut tell).await;
        if !enrolment.other_account && before.is_of_another(enrolment, first.account.as_ref()) {
            warn!(grant.id = %enrolment.grant, "another person consented than before; that is not taken");
            return Err(Error::OtherAccount(enrolment.grant.clone()));
        }
        let grant = chain_of(enrolment, first, before, rotations.clock.now());
        let due_at = rotations.due_at(&grant, grant.descriptor.keep_warm);
        if let Err(failure) = rotations.store.journal(&grant, due_at).await {
            warn!(grant.id = %grant.id, error = failure, "the pair of a consent is not in the journal");
        }
        let step = || self.store_chain(&grant, due_at);
        let taken = rotations.insist(step, |failures, failure| {
            if failures == 0 {
                // Served from here meanwhile, and written back like everything that is known.
                rotations.known.enter(grant.clone());
            }
            tell(failures, failure);
        });
        let newest = taken.await;
        drop(waiting);
        if newest {
            info!(grant.id = %grant.id, provider = %grant.descriptor.provider,
                generation = %grant.generation(), "a new chain begins with a person's consent");
            rotations.acts.tell(ActKind::Enrolled, &grant, None);
        } else {
            warn!(grant.id = %grant.id, "something newer than this consent is there already, and stays");
        }
        let entry = rotations.known.enter(grant);
        entry.forget_trouble();
        Ok(self.overview(&entry))
    }

    /// What the store has under this name.
    async fn before(&self, id: &GrantId) -> Result<Before, StoreError> {
        match self.rotations.load(id).await {
            Ok(Some(Stored::Grant(grant))) => Ok(Before {
                position: Some(grant.position),
                described: grant.described,
                descriptor: Some(grant.descriptor),
            }),
            Ok(Some(Stored::Deleted(position))) => {
                Ok(Before { position: Some(position), ..Before::default() })
            }
            Ok(None) => Ok(Before::default()),
            Err(StoreError::Unreadable { position, .. }) => {
                Ok(Before { position, ..Before::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// `false`: something newer is there.
    async fn store_chain(
        &self,
        grant: &Grant,
        due_at: Option<SystemTime>,
    ) -> Result<bool, StoreError> {
        let store = &self.rotations.store;
        match store.merge(grant, due_at).await {
            Ok(merged) => Ok(!matches!(merged, Merged::Old | Merged::Sibling)),
            Err(StoreError::Unreadable { .. }) => {
                // In its place nothing can be compared.
                let Grant { descriptor, pair, .. } = grant.clone();
                Ok(store.start_over(&grant.id, Seed { descriptor, pair, due_at }).await?.is_some())
            }
            Err(error) => Err(error),
        }
    }
}

/// What was there before a consent.
#[derive(Default)]
struct Before {
    position: Option<Position>,
    described: Fence,
    descriptor: Option<Descriptor>,
}

impl Before {
    /// What consented before is known, and is not what consents now.
    fn is_of_another(&self, enrolment: &Enrolment, account: Option<&Account>) -> bool {
        let before = self.descriptor.as_ref();
        let before = before.filter(|before| before.provider == enrolment.provider);
        before.and_then(|before| before.account.as_ref()).is_some_and(|one| Some(one) != account)
    }
}

/// A new chain, above everything before it. Labels stay where none are given, and so does what
/// operators decided.
fn chain_of(enrolment: &Enrolment, first: First, before: Before, now: SystemTime) -> Grant {
    let generation = Generation::of_new_chain(before.position.map(|at| at.generation), now);
    let last = before.position.map_or(before.described, |at| at.fence.max(before.described));
    let fence = Fence::after(last, unix_ms(now));
    let kept = before.descriptor;
    let labels = match &kept {
        Some(kept) if enrolment.labels.is_empty() => kept.labels.clone(),
        _ => enrolment.labels.clone(),
    };
    let First { refresh_token, refresh_token_expires_at, issued, account, at } = first;
    let token = issued.map(|issued| token(issued, generation, at, &enrolment.scopes));
    Grant {
        id: enrolment.grant.clone(),
        position: Position { generation, fence },
        descriptor: Descriptor {
            provider: enrolment.provider.clone(),
            kind: GrantKind::RefreshToken,
            scopes: enrolment.scopes.clone(),
            labels,
            keep_warm: kept.as_ref().is_some_and(|kept| kept.keep_warm),
            disabled: kept.as_ref().is_some_and(|kept| kept.disabled),
            create_time: kept.map_or(now, |kept| kept.create_time),
            account,
        },
        described: fence,
        pair: Pair {
            refresh_token: Some(refresh_token),
            refresh_token_expires_at,
            token,
            published_at: now,
        },
        standing: Standing::Usable,
        intent: None,
        answer: None,
    }
}
