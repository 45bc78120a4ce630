//! The stream of `WatchToken`: one event after the other, for as long as the caller may have them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tonic::Status;

use crate::broker::error::Error;
use crate::broker::watching::{News, Watching};
use crate::clock::Clock;
use crate::policy::{self, Target};
use crate::proto::watch_token_response::Event;
use crate::proto::{Heartbeat, TokenUnavailable, WatchTokenResponse};
use crate::service::call::Call;
use crate::service::status::{classify, status};
use crate::service::trail::{refused, served as write_down};
use crate::service::{Observe, convert};

/// What is sent, and what goes on after it.
type Step = Pin<Box<dyn Future<Output = (Watcher, Result<Event, Error>)> + Send>>;

/// Sends events until the watcher may not have them any more, or leaves.
pub(super) struct Events {
    /// `None`: it has ended.
    step: Option<Step>,
}

/// Somebody who stays.
pub(super) struct Watcher {
    pub(super) watching: Watching,
    pub(super) observe: Arc<Observe>,
    pub(super) call: Call,
    pub(super) grant: String,
    pub(super) clock: Clock,
}

impl Events {
    pub(super) fn of(watcher: Watcher) -> Self {
        Self { step: Some(Box::pin(watcher.next())) }
    }
}

impl Watcher {
    async fn next(mut self) -> (Self, Result<Event, Error>) {
        let news = self.watching.next().await;
        let event = news.and_then(|news| self.event(news));
        (self, event)
    }

    /// Says no where the policy has changed meanwhile.
    fn event(&mut self, news: News) -> Result<Event, Error> {
        let gate = self.observe.gate();
        let allowed =
            gate.require(&self.call.who, policy::Action::WatchToken, Target::grant(&self.grant));
        self.call.rule = allowed.inspect_err(|error| {
            refused(self.observe.audit(), &self.call, &self.grant, error);
        })?;
        Ok(match news {
            News::Token(served) => {
                write_down(self.observe.audit(), &self.call, &served.view, None);
                Event::Token(convert::token(&served.view, served.degraded, self.clock))
            }
            News::Unavailable(error) => {
                let (_, reason, _) = classify(&error);
                let over = matches!(error, Error::GrantRefused { .. } | Error::GrantDisabled(_));
                let (message, drop_cached) = (error.to_string(), over);
                Event::Unavailable(TokenUnavailable { reason: reason.into(), message, drop_cached })
            }
            News::Nothing => Event::Heartbeat(Heartbeat {}),
        })
    }
}

impl Stream for Events {
    type Item = Result<WatchTokenResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(step) = &mut self.step else { return Poll::Ready(None) };
        let Poll::Ready((watcher, event)) = step.as_mut().poll(cx) else { return Poll::Pending };
        let event = event.map(|event| WatchTokenResponse { event: Some(event) });
        self.step = event.is_ok().then(|| Box::pin(watcher.next()) as Step);
        Poll::Ready(Some(event.map_err(|error| status(&error))))
    }
}
