//! The gate: who calls, and whether they may. Every call passes it before anything is looked at.

use std::fmt;
use std::mem::discriminant;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tonic::Extensions;
use tonic::metadata::MetadataMap;
use tracing::info;

use crate::broker::error::Error;
use crate::broker::model::GrantId;
use crate::caller::{Authenticators, CallerLimits, Claimed, Credentials, StaticTokens, Unproven};
use crate::clock::Clock;
use crate::policy::{self, Decision, Policy, Target};
use crate::service::limits::{Limits, Place};
use crate::service::lines::Lines;
use crate::service::peer::Peer;

/// Who need not prove anything.
const ANYONE: &str = "anyone";
/// Who has not proven anything, and should.
const NOBODY: &str = "nobody";
/// Names of grants are no longer than this: what is, is nobody's.
const GRANT_LEN_MAX: usize = 200;

/// Lets callers in.
pub struct Gate {
    authenticators: Authenticators,
    policy: ArcSwap<Policy>,
    /// `None`: everybody is the same caller.
    limits: Option<Limits>,
    lines: Lines,
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
pub(super) enum Who {
    /// That was not found out.
    #[default]
    Nobody,
    /// Nobody has to prove who they are.
    Anyone,
    /// Whoever has proven to be this.
    Proven(Arc<str>),
}

impl Who {
    /// What rules call it.
    pub(super) fn subject(&self) -> &str {
        match self {
            Self::Nobody => NOBODY,
            Self::Anyone => ANYONE,
            Self::Proven(name) => name,
        }
    }

    /// The name that was proven, if anybody has to prove one.
    pub(super) fn proven(&self) -> Option<&str> {
        match self {
            Self::Proven(name) => Some(name),
            Self::Nobody | Self::Anyone => None,
        }
    }

    /// It was found out who calls.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Nobody)
    }

    /// Its name, if it was found out.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        match self {
            Self::Nobody => None,
            Self::Anyone => Some(ANYONE.into()),
            Self::Proven(name) => Some(Arc::clone(name)),
        }
    }
}

/// Why a call was let in.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    pub(super) who: Who,
    /// The rule that allows it; `None`: everything is allowed.
    pub(super) rule: Option<Arc<str>>,
    /// Its place among those of its caller, until it ends.
    pub(super) place: Option<Place>,
}

/// Why a call was not let in, and who it was, as far as that was found out.
pub(super) struct Refused {
    pub(super) who: Who,
    pub(super) error: Error,
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
            limits: None,
            lines: Lines::default(),
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
        limits: CallerLimits,
        clock: Clock,
        registry: &mut Registry,
    ) -> Self {
        let limits = Some(Limits::new(limits, registry));
        let gate = Self { authenticators, limits, open: false, ..Self::open(clock) };
        gate.policy.store(Arc::new(policy));
        registry.register(
            "authz_decisions",
            "Calls that were let in, denied by policy, over a limit, or of nobody who is known",
            gate.decisions.clone(),
        );
        gate
    }

    /// From now on these static tokens are believed, and no others.
    pub fn believe(&self, tokens: StaticTokens) {
        self.authenticators.believe(tokens);
    }

    /// From now on this policy decides.
    pub fn decide_by(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Lets a call in, or says why not.
    pub(super) async fn admit(
        &self,
        action: policy::Action,
        metadata: &MetadataMap,
        extensions: &Extensions,
        target: Target<'_>,
    ) -> Result<Admitted, Refused> {
        let peer = extensions.get::<Arc<Peer>>().map(AsRef::as_ref);
        let who = self.identify(metadata, peer).await.map_err(|why| {
            self.counter("unauthenticated", action).inc();
            self.trace(&why, action, metadata, peer);
            let error = match why {
                Unproven::NoKeys => Error::CallersUnknown(why.to_string()),
                _ => Error::Unauthenticated(why.to_string()),
            };
            Refused { who: Who::Nobody, error }
        })?;
        if let Some(peer) = peer {
            peer.has_its_caller();
        }
        if self.open {
            return Ok(Admitted { who, rule: None, place: None });
        }
        let entered = self.enter(&who, action);
        match entered.and_then(|place| Ok((place, self.require(&who, action, target)?))) {
            Ok((place, rule)) => Ok(Admitted { who, rule, place }),
            Err(error) => Err(Refused { who, error }),
        }
    }

    fn enter(&self, who: &Who, action: policy::Action) -> Result<Option<Place>, Error> {
        let (Some(limits), Who::Proven(name)) = (&self.limits, who) else { return Ok(None) };
        let entered = limits.enter(name, Instant::now());
        entered.map(Some).inspect_err(|_| {
            self.counter("limited", action).inc();
        })
    }

    /// Says no to a caller for whom the token of this grant was replaced too often.
    pub(super) fn may_replace(&self, who: &Who, grant: &GrantId) -> Result<(), Error> {
        match (&self.limits, who) {
            (Some(limits), Who::Proven(name)) => limits.replace(name, grant).inspect_err(|_| {
                self.counter("limited", policy::Action::ForceRefresh).inc();
            }),
            _ => Ok(()),
        }
    }

    /// Nothing was replaced.
    pub(super) fn did_not_replace(&self, who: &Who, grant: &GrantId) {
        if let (Some(limits), Who::Proven(name)) = (&self.limits, who) {
            limits.give_back(name, grant);
        }
    }

    /// Says no to what the policy does not allow; gives the rule that allows it.
    pub(super) fn require(
        &self,
        who: &Who,
        action: policy::Action,
        target: Target<'_>,
    ) -> Result<Option<Arc<str>>, Error> {
        if self.open {
            return Ok(None);
        }
        let short = |grant| if str::len(grant) > GRANT_LEN_MAX { "" } else { grant };
        let grant = target.grant.map(short);
        match self.policy.load().decide(who.subject(), action, Target { grant, ..target }) {
            Decision::Allowed(rule) => {
                let counter =
                    self.allowed[action as usize].get_or_init(|| self.counter("allowed", action));
                counter.inc();
                Ok(Some(Arc::clone(rule)))
            }
            Decision::Denied => {
                self.counter("denied", action).inc();
                // What is no name of a grant may be anything, such as a secret in the wrong place.
                let grant = grant.filter(|grant| GrantId::parse(grant).is_ok()).unwrap_or_default();
                let (caller, grant) = (who.to_string(), grant.to_owned());
                Err(Error::Denied { caller, action: action.name(), grant })
            }
        }
    }

    /// Whether the policy allows it of this grant; nothing is counted.
    pub(super) fn allows(&self, who: &Who, action: policy::Action, grant: &str) -> bool {
        self.allows_of(who, action, Target::grant(grant))
    }

    /// Whether the policy allows it; nothing is counted.
    pub(super) fn allows_of(&self, who: &Who, action: policy::Action, target: Target<'_>) -> bool {
        let decide =
            || self.policy.load().decide(who.subject(), action, target) != Decision::Denied;
        self.open || decide()
    }

    /// Tells whoever looks for it why somebody could not prove who they are: what they claim, and from where.
    fn trace(
        &self,
        why: &Unproven,
        action: policy::Action,
        metadata: &MetadataMap,
        peer: Option<&Peer>,
    ) {
        let from = peer.map(|peer| peer.address);
        let Some(left_out) = self.lines.next((from, discriminant(why))) else { return };
        let header = metadata.get("authorization").and_then(|header| header.to_str().ok());
        let claimed = header.and_then(Claimed::by).map(|claimed| claimed.to_string());
        info!(
            action = action.name(),
            peer = from.map(tracing::field::display),
            claimed,
            cause = %why,
            left_out = Some(left_out).filter(|left_out| *left_out > 0),
            "a caller could not prove who it is"
        );
    }

    async fn identify(&self, metadata: &MetadataMap, peer: Option<&Peer>) -> Result<Who, Unproven> {
        if self.authenticators.is_empty() {
            return Ok(Who::Anyone);
        }
        let mut headers = metadata.get_all("authorization").iter();
        let authorization = headers.next().map(|one| match headers.next() {
            None => one.to_str().map_err(|_| ()),
            Some(_) => Err(()),
        });
        let certificate = peer.and_then(Peer::certificate);
        let credentials = Credentials { authorization, certificate };
        if let Some(known) = self.authenticators.recall(credentials, self.clock) {
            return Ok(Who::Proven(known));
        }
        let found = self.authenticators.authenticate(credentials, self.clock).await;
        found.map(Who::Proven)
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
