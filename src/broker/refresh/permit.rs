//! Permits: whoever wants to send asks for one. While a client is held, one probe goes out at a time in all
//! processes together; when a success has ended that, one request goes out here, then two, then four.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::broker::endpoint::Failure;
use crate::broker::model::{Cause, Reason};
use crate::broker::refresh::Rotations;
use crate::broker::refresh::troubles::{Candidate, Client, Troubles};
use crate::broker::rules::evidence::Admission;

/// How long somebody waits for a place on the ramp before looking again.
const RAMP_LOOK: Duration = Duration::from_millis(100);

/// A candidate who waits, for as long as this lives.
struct Waiting<'a> {
    troubles: &'a Troubles,
    client: &'a Client,
    candidate: Candidate,
}

impl<'a> Waiting<'a> {
    fn new(troubles: &'a Troubles, client: &'a Client, candidate: Candidate) -> Self {
        let mut waiting = troubles.waiting.lock();
        waiting.entry(client.clone()).or_default().insert(candidate.clone());
        drop(waiting);
        Self { troubles, client, candidate }
    }

    fn is_first(&self) -> bool {
        let waiting = self.troubles.waiting.lock();
        waiting.get(self.client).and_then(BTreeSet::first) == Some(&self.candidate)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.troubles.waiting.lock().get_mut(self.client) {
            waiting.remove(&self.candidate);
        }
    }
}

/// Leave to send one request.
#[must_use = "it ends when it is dropped"]
pub(super) struct Permit {
    /// Whose ramp it has a place on.
    place: Option<(Arc<Troubles>, Client)>,
}

impl Permit {
    /// Without a place on a ramp.
    pub(super) fn free() -> Self {
        Self { place: None }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((troubles, client)) = &self.place {
            troubles.leave(client);
        }
    }
}

impl Rotations {
    /// Why nothing is sent for a grant that failed so often in a row, and for how long, as far as is known
    /// here.
    pub(super) fn denial(&self, client: &Client, failures: u32) -> Option<(Failure, Duration)> {
        let evidence = self.troubles.known(client);
        let hold = evidence.hold.as_ref()?;
        let gaps = self.troubles.gaps(client, &self.settings);
        match evidence.admits(failures, gaps, self.troubles.now()) {
            Admission::Free | Admission::Probe => None,
            Admission::Later(at) => {
                Some((Failure::of_others(&hold.cause), self.troubles.until(at)))
            }
        }
    }

    /// Leave to send a request, or why there is none and for how long.
    pub(super) async fn permit(
        &self,
        client: &Client,
        candidate: Candidate,
    ) -> Result<Permit, (Failure, Duration)> {
        let Some(hold) = self.troubles.hold(client) else {
            return match self.troubles.place(client) {
                Ok(None) => Ok(Permit::free()),
                Ok(Some(())) => {
                    Ok(Permit { place: Some((Arc::clone(&self.troubles), client.clone())) })
                }
                Err(()) => Err((Failure::of_others(&recovering()), RAMP_LOOK)),
            };
        };
        let failures = candidate.failures;
        if let Some(denied) = self.denial(client, failures) {
            return Err(denied);
        }
        // Whoever is due at the same moment comes a little later or earlier.
        let waiting = Waiting::new(&self.troubles, client, candidate);
        let gaps = self.troubles.gaps(client, &self.settings);
        sleep(hold.grace(gaps)).await;
        let denied = || {
            let denied = self.denial(client, failures);
            Err(denied.unwrap_or((Failure::of_others(&hold.cause), RAMP_LOOK)))
        };
        if !waiting.is_first() {
            return denied();
        }
        let taken =
            self.agree(client, |evidence, now| match evidence.admits(failures, gaps, now) {
                Admission::Free => true,
                Admission::Probe => {
                    evidence.probe(gaps, now);
                    true
                }
                Admission::Later(_) => false,
            });
        if taken.await { Ok(Permit::free()) } else { denied() }
    }
}

/// What those are told who wait for a place behind the first requests after a hold.
fn recovering() -> Cause {
    let reason = Reason::ProviderUnavailable;
    Cause { reason, status: None, said: None, detail: None }
}
