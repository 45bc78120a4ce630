//! How providers stand: what is wrong, since when, and what ends it; and what operators say of that.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use crate::broker::Broker;
use crate::broker::error::Error;
use crate::broker::model::{
    Answer, Cause, Evidence, Grant, GrantId, Hold, ProviderId, Reason, Standing, Verdict,
};
use crate::broker::refresh::troubles::Client;
use crate::broker::store::{Claim, PAGE};

/// What is wrong with a provider, as this process sees it.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    /// One request at a time goes out; the age of that, and how long it is until the next.
    pub hold: Option<(Hold, Duration, Duration)>,
    /// What a grant that was well before met last, where nothing has succeeded since; and how long ago.
    pub last: Option<(Cause, Duration)>,
    /// The grant in memory that is due next.
    pub next_due: Option<(GrantId, SystemTime)>,
}

impl Broker {
    /// What is wrong with a provider; empty where it is well.
    pub fn provider_trouble(&self, provider: &ProviderId) -> Trouble {
        let troubles = &self.rotations.troubles;
        let clients = Client::all_of(provider);
        let hold = clients.iter().find_map(|client| troubles.hold(client));
        let last = clients.iter().find_map(|client| troubles.last(client));
        let next_due = hold.as_ref().and_then(|_| self.next_due(provider));
        let hold = hold.map(|hold| {
            let (since, next) = (troubles.since(hold.since), troubles.until(hold.next_probe));
            (hold, since, next)
        });
        let last = last.map(|(cause, at)| (cause, troubles.since(at)));
        Trouble { hold, last, next_due }
    }

    fn next_due(&self, provider: &ProviderId) -> Option<(GrantId, SystemTime)> {
        let due = self.rotations.known.of(provider).filter_map(|entry| {
            let view = entry.view();
            let grant = &view.grant;
            let wanted = grant.descriptor.keep_warm || entry.in_use(grant.generation());
            let usable = grant.standing == Standing::Usable && !grant.descriptor.disabled;
            let due_at = self.rotations.due_at(grant, wanted).filter(|_| usable)?;
            Some((grant.id.clone(), due_at))
        });
        due.min_by_key(|(_, due_at)| *due_at)
    }

    /// Ends the hold of a provider; with `believe`, also what is provisional about grants that it refused
    /// together: they are dead. Says how many.
    pub async fn release_provider(
        &self,
        provider: &ProviderId,
        believe: bool,
    ) -> Result<usize, Error> {
        self.provider(provider)?;
        info!(%provider, believe, "an operator releases the provider");
        for client in Client::all_of(provider) {
            self.rotations.agree(&client, Evidence::release).await;
        }
        let believed = if believe { self.believe(provider).await? } else { 0 };
        self.rotations.wake(provider.clone());
        Ok(believed)
    }

    async fn believe(&self, provider: &ProviderId) -> Result<usize, Error> {
        let (mut cursor, mut believed) = (None, 0);
        loop {
            let page = self.rotations.store.list(cursor.as_deref(), PAGE).await?;
            let theirs = page.grants.iter().filter(|grant| grant.descriptor.provider == *provider);
            for grant in
                theirs.filter(|grant| grant.answer.as_ref().is_some_and(Answer::is_provisional))
            {
                believed += usize::from(self.believe_of(grant).await?);
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok(believed);
            }
        }
    }

    /// A grant is as dead as its last answer says; `false`: there is none, or it moves just now.
    pub(super) async fn believe_of(&self, grant: &Grant) -> Result<bool, Error> {
        let Some(answer) = &grant.answer else { return Ok(false) };
        let rotations = &self.rotations;
        let (owner, watch) = (rotations.next_owner(), rotations.settings.suspect_after);
        let claim =
            rotations.store.claim(&grant.id, grant.generation(), owner, None, watch).await?;
        let Claim::Granted(intent) = claim else { return Ok(false) };
        let Cause { status, said, detail, .. } = answer.cause.clone();
        let verdict = Verdict {
            reason: Reason::GrantReauthRequired,
            provider_error: said,
            detail,
            provider_status: status,
            time: answer.sent_at,
            token_rejected: false,
            given_up: None,
        };
        let ended = rotations.store.refuse(&grant.id, &intent, &verdict).await?;
        if ended {
            warn!(grant.id = %grant.id, "an operator believes that it is dead: a person must consent again");
        }
        if let Some(entry) = rotations.known.get(&grant.id) {
            rotations.reconcile(&entry).await?;
        }
        Ok(ended)
    }
}
