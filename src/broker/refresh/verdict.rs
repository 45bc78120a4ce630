//! Verdicts: the end of a grant that the provider refuses, and how that is taken back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tracing::{error, warn};

use crate::broker::acts::ActKind;
use crate::broker::endpoint::{Disposition, Failure};
use crate::broker::entry::Entry;
use crate::broker::error::{Error, chain};
use crate::broker::model::{
    Answer, Cause, Grant, Intent, Position, ProviderId, Reason, Standing, Verdict,
};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::flight::Refreshed;
use crate::broker::store::{Amendment, PAGE, StoreError};

/// A verdict that was decided is in the store after this long.
const VERDICTS_WRITTEN: Duration = Duration::from_secs(5);

impl Rotations {
    /// Lifts the verdicts on grants that were refused shortly before the provider's trouble was
    /// noticed: nobody is dead yet.
    pub(super) fn lift_refusals(self: &Arc<Self>, provider: ProviderId, since: SystemTime) {
        let rotations = Arc::clone(self);
        self.tasks.spawn(async move {
            let step = || rotations.lift_all(&provider, since);
            let told = |failures, failure: &Error| {
                if failures > 0 {
                    return;
                }
                warn!(%provider, error = chain(failure), "verdicts on its grants are to be lifted once the store answers");
            };
            let lift = async {
                let lifted = rotations.insist(step, told).await;
                // Some were decided before, and written after that was looked for.
                sleep(VERDICTS_WRITTEN).await;
                lifted + rotations.insist(step, told).await
            };
            let lifted = tokio::select! {
                () = rotations.drain.cancelled() => return,
                lifted = lift => lifted,
            };
            warn!(%provider, lifted, "verdicts of the last minutes are lifted: the provider refuses too many grants at once");
        });
    }

    async fn lift_all(&self, provider: &ProviderId, since: SystemTime) -> Result<usize, Error> {
        let (mut cursor, mut lifted) = (None, 0);
        loop {
            let page = self.store.list(cursor.as_deref(), PAGE).await?;
            for grant in page.grants.iter().filter(|grant| grant.descriptor.provider == *provider) {
                match &grant.standing {
                    Standing::Refused(verdict)
                        if verdict.time >= since
                            && verdict.given_up.is_none()
                            && !verdict.is_revocation() =>
                    {
                        if self.lift_provisionally(grant, verdict).await? {
                            self.acts.tell(ActKind::VerdictLifted, grant, None);
                            lifted += 1;
                        }
                    }
                    Standing::Refused(_) | Standing::Usable | Standing::Deleted => {}
                }
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(lifted);
            }
        }
    }

    /// Makes a refused grant usable again, as one that was refused together with many others.
    async fn lift_provisionally(&self, grant: &Grant, verdict: &Verdict) -> Result<bool, Error> {
        let Verdict { provider_status: status, provider_error: said, detail, time, .. } =
            verdict.clone();
        let cause = Cause { reason: Reason::ProviderRefusesMany, status, said, detail };
        let answer = Answer::after(None, cause, None, time);
        let due_at = time + self.pause_after(grant, &answer);
        let (answer, due_at) = (Some(answer), Some(due_at));
        let amendment = Amendment { lift: true, answer, due_at, ..Amendment::default() };
        self.lifted(grant, amendment).await
    }

    async fn lifted(&self, grant: &Grant, amendment: Amendment) -> Result<bool, Error> {
        let Some(lifted) = self.store.amend(&grant.id, grant.position, amendment).await? else {
            return Ok(false);
        };
        if let Some(entry) = self.known.get(&grant.id) {
            entry.adopt(lifted);
        }
        Ok(true)
    }

    /// Makes a refused grant usable again. It is due at once, unless its refresh token was in doubt
    /// when an operator gave it up: then it is in doubt again.
    pub(in crate::broker) async fn lift(&self, grant: &Grant) -> Result<bool, Error> {
        let in_doubt = match &grant.standing {
            Standing::Refused(verdict) => verdict.given_up.clone(),
            Standing::Usable | Standing::Deleted => None,
        };
        let due_at = in_doubt.is_none().then(|| self.clock.now());
        let in_doubt = in_doubt.map(|doubt| (self.next_owner(), doubt));
        let amendment = Amendment { lift: true, due_at, in_doubt, ..Amendment::default() };
        self.lifted(grant, amendment).await
    }

    /// Records the provider's final no, unless the store has moved on meanwhile.
    pub(super) async fn refuse(
        &self,
        entry: &Entry,
        grant: &Grant,
        intent: &Intent,
        failure: &Failure,
    ) -> Refreshed {
        if failure.reason == Reason::GrantReauthRequired
            && let Some(other) = self.try_sibling(entry, intent).await
        {
            let (reason, disposition) = (Reason::RefreshOutcomeUnknown, Disposition::NotProcessed);
            return Err(self.upstream(&other, Failure { reason, disposition, ..failure.clone() }));
        }
        // What is refused now was spent by a request before, whose answer was lost.
        let lost = intent.doubt.as_ref().filter(|_| failure.reason == Reason::GrantReauthRequired);
        let verdict = Verdict {
            reason: lost.map_or(failure.reason, |_| Reason::GrantRefreshTokenLost),
            provider_error: failure.provider_error.clone(),
            detail: failure.detail.clone(),
            provider_status: failure.status,
            time: self.clock.now(),
            token_rejected: entry.token_rejected(grant),
            given_up: None,
        };
        self.end(entry, grant, intent, verdict).await
    }

    /// No grant is dead while there is another pair of its generation, of a holder that was overtaken.
    async fn try_sibling(&self, entry: &Entry, intent: &Intent) -> Option<Grant> {
        let step = || self.store.promote(&entry.id, intent);
        let told = |failures, failure: &StoreError| {
            if failures == 0 {
                error!(grant.id = %entry.id, error = chain(failure), "whether another pair is there is asked again");
            }
        };
        let other = self.insist(step, told).await?;
        entry.answered(intent);
        entry.adopt(other.clone());
        self.acts.tell(ActKind::OtherPairTried, &other, None);
        warn!(grant.id = %entry.id, generation = %other.generation(),
            "the refresh token was refused; another pair of the same generation is tried");
        Some(other)
    }

    /// Ends the grant under this claim; the store is offered that until it takes it.
    pub(super) async fn end(
        &self,
        entry: &Entry,
        grant: &Grant,
        intent: &Intent,
        verdict: Verdict,
    ) -> Refreshed {
        let step = || self.store.refuse(&entry.id, intent, &verdict);
        let told = |failures, failure: &StoreError| {
            if failures == 0 {
                error!(grant.id = %entry.id, error = chain(failure), "the store did not take the end of a grant; it is offered again"
                );
            }
        };
        let ours = self.insist(step, told).await;
        entry.answered(intent);
        if ours {
            let fence = intent.fence.max(entry.view().grant.position.fence);
            let position = Position { generation: intent.generation, fence };
            let standing = Standing::Refused(verdict.clone());
            let refused = Grant { position, standing, intent: None, ..grant.clone() };
            self.acts.tell(ActKind::Refused, &refused, Some(verdict.reason.name()));
            entry.adopt(refused);
            return Err(Error::GrantRefused { grant: grant.id.clone(), verdict });
        }
        self.reload(entry).await
    }
}
