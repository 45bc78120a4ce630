//! What operators say of a grant, said anew.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use crate::broker::admin::CONFLICTS_MAX;
use crate::broker::entry::Entry;
use crate::broker::error::{Error, Violation};
use crate::broker::model::{Grant, GrantId, Standing};
use crate::broker::refresh::flight::Trigger;
use crate::broker::store::{Amendment, Said};
use crate::broker::{Broker, Overview};

impl Broker {
    /// Changes what is said of a grant, if it still has the etag. Its tokens stay; where it asks for other
    /// scopes it is refreshed at once.
    pub async fn describe_grant(
        self: &Arc<Self>,
        id: &GrantId,
        etag: Option<String>,
        said: Said,
    ) -> Result<Overview, Error> {
        let (broker, id) = (Arc::clone(self), id.clone());
        self.to_the_end(async move { broker.try_describe(&id, etag.as_deref(), &said).await }).await
    }

    async fn try_describe(
        &self,
        id: &GrantId,
        etag: Option<&str>,
        said: &Said,
    ) -> Result<Overview, Error> {
        for _ in 0..CONFLICTS_MAX {
            let grant = self.stored(id).await?;
            if etag.is_some_and(|etag| etag != grant.etag()) {
                break;
            }
            let entry = self.rotations.known.enter(grant.clone());
            let descriptor = said.of(&grant.descriptor);
            if descriptor == grant.descriptor {
                return Ok(self.overview(&entry));
            }
            let other_scopes = descriptor.scopes != grant.descriptor.scopes;
            if other_scopes && grant.descriptor.kind.spends() {
                return Err(consented());
            }
            let warmed = descriptor.keep_warm && !grant.descriptor.keep_warm;
            let next = Grant { descriptor, ..grant.clone() };
            let usable = grant.standing == Standing::Usable;
            // What is in doubt, or claimed, has its own time.
            let free = usable && grant.intent.is_none();
            let due_at = (free && warmed).then(|| self.rotations.due_at(&next, true)).flatten();
            let amendment = Amendment { said: said.clone(), due_at, ..Amendment::default() };
            if let Some(amended) = self.rotations.store.amend(id, grant.position, amendment).await?
            {
                info!(grant.id = %id, "described anew by an operator");
                entry.adopt(self.rotations.interpret(amended));
                if usable && other_scopes {
                    self.refresh_anew(&entry).await;
                }
                return Ok(self.overview(&entry));
            }
        }
        Err(Error::EtagMismatch(id.clone()))
    }

    /// Refreshes after whatever refresh runs: that may ask as it was described before. If it cannot be now,
    /// it is when the token that is there is used up.
    async fn refresh_anew(&self, entry: &Arc<Entry>) {
        let deadline = Instant::now() + self.rotations.settings.caller_wait_max;
        // Any that begins later knows the new one.
        if let Some(flight) = self.rotations.flights.of(&entry.id) {
            let _ = flight.wait(&entry.id, deadline).await;
        }
        let generation = entry.view().grant.generation();
        let _ = self.rotations.join_or_start(entry, generation, Trigger::Admin);
    }
}

/// What a person has consented to is not for us to change.
fn consented() -> Error {
    let description =
        "are what a person consented to; enroll the grant again for others".to_owned();
    Error::Invalid(vec![Violation { field: "grant.scopes", description }])
}
