//! The gate: who calls, and whether they may. Every call passes it before anything is looked at.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tonic::Extensions;
use tonic::metadata::MetadataMap;

use crate::broker::error::Error;
use crate::caller::{Authenticators, Credentials, Unproven};
use crate::clock::Clock;
use crate::policy::{self, Decision, Policy};

/// Whom the certificate of a connection names, or why it names nobody; its calls bring it along.
#[derive(Debug, Clone)]
pub struct Peer(pub Arc<Result<Arc<str>, &'static str>>);

/// Who need not prove anything.
const ANYONE: &str = "anyone";
/// Names of grants are no longer than this: what is, is nobody's.
const GRANT_LEN_MAX: usize = 200;

/// Lets callers in.
pub struct Gate {
    authenticators: Authenticators,
    policy: ArcSwap<Policy>,
    /// Nobody has to prove anything, and everybody may do everything.
    open: bool,
    clock: Clock,
    decisions: Family<Decided, Counter>,
    /// Those that are counted at every call, found once.
    allowed: [OnceLock<Counter>; policy::Action::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decided {
    decision: &'static str,
    action: &'static str,
}

/// Who called; cheap to hand around.
#[derive(Debug, Clone, Default)]
pub(super) struct Who(Option<Arc<str>>);

impl Who {
    fn subject(&self) -> &str {
        self.0.as_deref().unwrap_or(ANYONE)
    }

    /// The name that was proven, if anybody has to prove one.
    pub(super) fn proven(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.subject())
    }
}

impl Gate {
    /// Open to everybody, for everything.
    pub fn open(clock: Clock) -> Self {
        Self {
            authenticators: Authenticators::default(),
            policy: ArcSwap::default(),
            open: true,
            clock,
            decisions: Family::default(),
            allowed: Default::default(),
        }
    }

    /// For those who prove who they are, for what the policy allows.
    pub fn new(
        authenticators: Authenticators,
        policy: Policy,
        clock: Clock,
        registry: &mut Registry,
    ) -> Self {
        let gate = Self { authenticators, open: false, ..Self::open(clock) };
        gate.policy.store(Arc::new(policy));
        registry.register(
            "authz_decisions",
            "Calls that were let in, denied by policy, or of nobody who is known",
            gate.decisions.clone(),
        );
        gate
    }

    /// From now on this policy decides.
    pub fn decide_by(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Lets a call in, or says why not. `grant`: of which one it is, where it says so.
    pub(super) async fn admit(
        &self,
        action: policy::Action,
        metadata: &MetadataMap,
        extensions: &Extensions,
        grant: Option<&str>,
    ) -> Result<Who, Error> {
        if self.open {
            return Ok(Who::default());
        }
        let who = self.identify(metadata, extensions).await.inspect_err(|_| {
            self.counter("unauthenticated", action).inc();
        })?;
        self.require(&who, action, grant)?;
        Ok(who)
    }

    /// Says no to what the policy does not allow.
    pub(super) fn require(
        &self,
        who: &Who,
        action: policy::Action,
        grant: Option<&str>,
    ) -> Result<(), Error> {
        if self.open {
            return Ok(());
        }
        let grant = grant.map(|grant| if grant.len() > GRANT_LEN_MAX { "" } else { grant });
        match self.policy.load().decide(who.subject(), action, grant) {
            Decision::Allowed(_) => {
                let counter =
                    self.allowed[action as usize].get_or_init(|| self.counter("allowed", action));
                counter.inc();
                Ok(())
            }
            Decision::Denied => {
                self.counter("denied", action).inc();
                let (caller, grant) = (who.to_string(), grant.unwrap_or_default().to_owned());
                Err(Error::Denied { caller, action: action.name(), grant })
            }
        }
    }

    /// Whether the policy allows it; nothing is counted.
    pub(super) fn allows(&self, who: &Who, action: policy::Action, grant: &str) -> bool {
        let decide =
            || self.policy.load().decide(who.subject(), action, Some(grant)) != Decision::Denied;
        self.open || decide()
    }

    async fn identify(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
    ) -> Result<Who, Error> {
        if self.authenticators.is_empty() {
            return Ok(Who::default());
        }
        let mut headers = metadata.get_all("authorization").iter();
        let authorization = headers.next().map(|one| match headers.next() {
            None => one.to_str().map_err(|_| ()),
            Some(_) => Err(()),
        });
        let certificate = extensions.get::<Peer>().map(|peer| peer.0.as_ref());
        let credentials = Credentials { authorization, certificate };
        if let Some(known) = self.authenticators.recall(credentials, self.clock) {
            return Ok(Who(Some(known)));
        }
        let found = self.authenticators.authenticate(credentials, self.clock).await;
        found.map(|subject| Who(Some(subject))).map_err(|why| match why {
            Unproven::NoKeys => Error::CallersUnknown(why.to_string()),
            _ => Error::Unauthenticated(why.to_string()),
        })
    }

    fn counter(&self, decision: &'static str, action: policy::Action) -> Counter {
        let labels = Decided { decision, action: action.name() };
        self.decisions.get_or_create(&labels).clone()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("open", &self.open).finish_non_exhaustive()
    }
}
