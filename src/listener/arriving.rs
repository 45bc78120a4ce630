//! The request of a call while it arrives.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::codegen::Bytes;

use crate::listener::connection::Connection;
use crate::listener::places::{Places, Unfinished};
use crate::service::{Refusal, refused};

/// A request that must be there in time, and that gives way while it is not.
pub(super) struct Arriving {
    body: Incoming,
    places: Arc<Places>,
    /// None for a stream, which may go on.
    within: Option<Duration>,
    connection: Arc<Connection>,
    arrived: Option<Arrived>,
    wait: Option<Wait>,
}

/// Whether a request has arrived, for those who must know.
#[derive(Debug, Clone, Default)]
pub(super) struct Arrived(Arc<AtomicBool>);

impl Arrived {
    pub(super) fn already(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Made only for a request that is not there at once.
struct Wait {
    place: Unfinished,
    end: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    pub(super) fn new(
        body: Incoming,
        places: Arc<Places>,
        within: Option<Duration>,
        connection: Arc<Connection>,
        arrived: Option<Arrived>,
    ) -> Self {
        Self { body, places, within, connection, arrived, wait: None }
    }

    /// Why it is waited for no longer.
    fn given_up(&mut self, cx: &mut Context<'_>) -> Option<Refusal> {
        let wait = self.wait.get_or_insert_with(|| Wait {
            place: self.places.unfinished(),
            end: self.within.map(|within| Box::pin(sleep(within))),
        });
        if Pin::new(&mut wait.place.needed).poll(cx).is_ready() {
            return Some(Refusal::Overloaded);
        }
        let end = wait.end.as_mut()?;
        end.as_mut().poll(cx).is_ready().then_some(Refusal::Unfinished)
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(None) => {
                self.wait = None;
                self.connection.arrived();
                if let Some(Arrived(flag)) = &self.arrived {
                    flag.store(true, Ordering::Relaxed);
                }
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                Poll::Ready(Some(frame.map_err(|error| Status::from_error(error.into()))))
            }
            Poll::Pending => match self.given_up(cx) {
                None => Poll::Pending,
                Some(refusal) => {
                    self.connection.given_up(refusal);
                    self.wait = None;
                    Poll::Ready(Some(Err(refused(refusal))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
