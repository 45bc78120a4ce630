//! `TokenService`: what services call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::broker::Broker;
use crate::broker::freshness::Window;
use crate::broker::serving::{Outcome, Want};
use crate::clock::between;
use crate::policy::{self, Target};
use crate::proto::token_service_server::TokenService;
use crate::proto::{
    ForceRefreshRequest, ForceRefreshResponse, GetTokenRequest, GetTokenResponse,
    WatchTokenRequest, WatchTokenResponse, force_refresh_response,
};
use crate::service::call::{Action, Call};
use crate::service::trail::served as write_down;
use crate::service::watch::{Events, Watcher};
use crate::service::{Observe, convert};

/// Serves tokens.
pub struct Tokens {
    broker: Arc<Broker>,
    observe: Arc<Observe>,
}

impl Tokens {
    /// Serves the tokens of `broker`.
    pub fn new(broker: Arc<Broker>, observe: Arc<Observe>) -> Self {
        Self { broker, observe }
    }
}

type Stream = Pin<Box<dyn futures_core::Stream<Item = Result<WatchTokenResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TokenService for Tokens {
    type WatchTokenStream = Stream;

    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let run = |request, call: Call| async move {
            let (id, want) = convert::get_token(&request)?;
            // To have a token that lives longer than what would be served costs a rotation.
            let force = policy::Action::ForceRefresh;
            let longer = want.min_ttl;
            if !longer.is_zero() && !self.observe.gate().allows(&call.who, force, id.as_str()) {
                let want = Want { min_ttl: Duration::ZERO, ..want };
                let served = Box::pin(self.broker.get_token(&id, want, call.deadline)).await?;
                let now = self.broker.clock().now();
                let long = |(_, window): (_, Window)| between(now, window.expires_at) >= longer;
                if !served.view.token().is_some_and(long) {
                    self.observe.gate().require(&call.who, force, Target::grant(id.as_str()))?;
                }
                write_down(self.observe.audit(), &call, &served.view, None);
                return Ok(convert::reply(&served.view, served.degraded, now, self.broker.clock()));
            }
            let at_once = self.broker.from_memory(&id, want, |view, degraded, now| {
                write_down(self.observe.audit(), &call, view, None);
                convert::reply(view, degraded, now, self.broker.clock())
            });
            if let Some(reply) = at_once {
                return Ok(reply);
            }
            // Boxed, so that answers from memory do not carry what only a wait needs.
            let served = Box::pin(self.broker.get_token(&id, want, call.deadline)).await?;
            write_down(self.observe.audit(), &call, &served.view, None);
            let clock = self.broker.clock();
            Ok(convert::reply(&served.view, served.degraded, clock.now(), clock))
        };
        self.observe.call(Action::GetToken, request, run).await
    }

    async fn force_refresh(
        &self,
        request: Request<ForceRefreshRequest>,
    ) -> Result<Response<ForceRefreshResponse>, Status> {
        let run = |request, call: Call| async move {
            let (id, rejected) = convert::force_refresh(request)?;
            let (gate, charged) = (self.observe.gate(), AtomicBool::new(false));
            let may = || {
                let may = gate.may_replace(&call.who, &id);
                charged.store(may.is_ok(), Ordering::Relaxed);
                may
            };
            let forced = self.broker.force_refresh(&id, rejected, call.deadline, may).await;
            let rotated = matches!(forced, Ok((_, Outcome::Rotated)));
            if charged.load(Ordering::Relaxed) && !rotated {
                gate.did_not_replace(&call.who, &id);
            }
            let (served, outcome) = forced?;
            let (outcome, how) = match outcome {
                Outcome::Rotated => (force_refresh_response::Outcome::Rotated, "ROTATED"),
                Outcome::AlreadyReplaced => {
                    (force_refresh_response::Outcome::AlreadyReplaced, "ALREADY_REPLACED")
                }
            };
            write_down(self.observe.audit(), &call, &served.view, Some(how));
            let token = convert::token(&served.view, served.degraded, self.broker.clock());
            Ok(ForceRefreshResponse { token: Some(token), outcome: outcome.into() })
        };
        self.observe.call(Action::ForceRefresh, request, run).await
    }

    async fn watch_token(
        &self,
        request: Request<WatchTokenRequest>,
    ) -> Result<Response<Self::WatchTokenStream>, Status> {
        let run = |request: WatchTokenRequest, call: Call| async move {
            let (id, last) = convert::watch_token(&request)?;
            let watching = self.broker.watch(id, last).await?;
            let (observe, clock) = (Arc::clone(&self.observe), self.broker.clock());
            let watcher = Watcher { watching, observe, call, grant: request.grant_id, clock };
            Ok(Box::pin(Events::of(watcher)) as Self::WatchTokenStream)
        };
        self.observe.call(Action::WatchToken, request, run).await
    }
}
