//! Watching: a token, and each that follows it, as they come.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::broker::Broker;
use crate::broker::error::Error;
use crate::broker::model::{Generation, GrantId};
use crate::broker::refresh::publish::Counted;
use crate::broker::serving::{Served, Want};
use crate::clock::between;

/// After so long without news a watcher hears that there is none.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A grant is not looked at more often than this,
const LOOK_LEAST: Duration = Duration::from_millis(200);
/// and not more often than this where it gives no token.
const TROUBLE_LEAST: Duration = Duration::from_secs(1);

/// What a watcher hears.
#[derive(Debug)]
pub enum News {
    /// A token; it takes the place of the one before.
    Token(Served),
    /// There is none at present, and why.
    Unavailable(Error),
    /// Nothing has happened.
    Nothing,
}

/// Somebody who watches a grant, and for whom it is kept fresh.
pub struct Watching {
    broker: Arc<Broker>,
    id: GrantId,
    /// The token that is known there.
    last: Option<Generation>,
    /// Why there is none, if that was said.
    told: Option<String>,
    _counted: Counted,
}

impl Broker {
    /// Begins to watch a grant that is there. `last`: the token that the watcher has already.
    pub async fn watch(
        self: &Arc<Self>,
        id: GrantId,
        last: Option<Generation>,
    ) -> Result<Watching, Error> {
        self.rotations.entry(&id).await?;
        let counted = Counted::new(&self.rotations.metrics.watchers);
        Ok(Watching { broker: Arc::clone(self), id, last, told: None, _counted: counted })
    }
}

impl Watching {
    /// Waits for what is new. An error is the end: the grant is gone, or this process is going.
    pub async fn next(&mut self) -> Result<News, Error> {
        let rotations = Arc::clone(&self.broker.rotations);
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let entry = match rotations.entry(&self.id).await {
                Err(Error::Store(failure)) => {
                    return self.unavailable(Error::Store(failure), heartbeat).await;
                }
                entry => entry?,
            };
            let changed = pin!(entry.changed());
            let looked = Instant::now();
            let deadline = looked + rotations.settings.caller_wait_max;
            let (least, due) =
                match self.broker.get_token(&self.id, Want::default(), deadline).await {
                    Ok(served) => match self.newer(served) {
                        Ok(news) => return Ok(news),
                        Err(due) => (LOOK_LEAST, due),
                    },
                    Err(error @ (Error::GrantNotFound(_) | Error::Draining)) => return Err(error),
                    Err(error) => {
                        let due = error.retry_after().map_or(heartbeat, |wait| looked + wait);
                        if let Some(news) = self.new_reason(error) {
                            return Ok(news);
                        }
                        (TROUBLE_LEAST, due)
                    }
                };
            tokio::select! {
                () = rotations.drain.cancelled() => return Err(Error::Draining),
                // Refreshes that fail change the view, too: thousands may watch.
                () = async { changed.await; sleep_until(looked + least).await } => {}
                () = sleep_until(heartbeat.min(due.max(looked + least))) => {}
            }
            if Instant::now() >= heartbeat {
                return Ok(News::Nothing);
            }
        }
    }

    /// The token, if it is another one than was known; or when it is due to be looked at.
    fn newer(&mut self, served: Served) -> Result<News, Instant> {
        let Some((token, window)) = served.view.token() else {
            return Err(Instant::now() + HEARTBEAT);
        };
        let generation = token.generation;
        if self.last != Some(generation) || self.told.is_some() {
            (self.last, self.told) = (Some(generation), None);
            return Ok(News::Token(served));
        }
        let now = self.broker.clock().now();
        // Whoever asks then has it refreshed; what comes of that changes the view.
        let next = [window.soft_at, window.hard_at, window.expires_at];
        let next = next.into_iter().find(|moment| now < *moment);
        let left = next.map_or(TROUBLE_LEAST, |moment| between(now, moment));
        Err(Instant::now() + left.max(LOOK_LEAST))
    }

    /// Why there is no token, if that was not said before.
    fn new_reason(&mut self, error: Error) -> Option<News> {
        let why = error.to_string();
        (self.told.as_ref() != Some(&why)).then(|| {
            self.told = Some(why);
            News::Unavailable(error)
        })
    }

    /// The store is away, and nothing is known of the grant.
    async fn unavailable(&mut self, error: Error, heartbeat: Instant) -> Result<News, Error> {
        if let Some(news) = self.new_reason(error) {
            return Ok(news);
        }
        tokio::select! {
            () = self.broker.rotations.drain.cancelled() => Err(Error::Draining),
            () = sleep_until(heartbeat.min(Instant::now() + TROUBLE_LEAST)) => Ok(News::Nothing),
        }
    }
}
