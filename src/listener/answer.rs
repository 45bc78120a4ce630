//! The answer of a call until it has left.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::HeaderMap;
use hyper::body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use crate::listener::connection::Visit;
use crate::listener::places::Place;
use crate::service::{Refusal, refused};

pin_project! {
    /// An answer. Holds the place of its call; a stream ends with a reason when its connection leaves.
    pub(super) struct Answer {
        #[pin]
        body: Body,
        visit: Visit,
        // Refused calls have none.
        place: Option<Place>,
        leaving: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        ended: bool,
    }
}

impl Answer {
    pub(super) fn new(body: Body, visit: Visit, place: Option<Place>) -> Self {
        Self { body, visit, place, leaving: None, ended: false }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        // The library asks for more once the client has taken what was there.
        this.visit.taken();
        if *this.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            if frame.as_ref().is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_data)) {
                this.visit.offered();
            }
            return Poll::Ready(frame);
        }
        // Only streams have nothing to say.
        let leaving = this.leaving.get_or_insert_with(|| Box::pin(this.visit.leaving()));
        ready!(leaving.as_mut().poll(cx));
        *this.ended = true;
        let mut trailers = HeaderMap::new();
        // The status is ours: its headers are well formed.
        let _ = refused(Refusal::Leaving).add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
