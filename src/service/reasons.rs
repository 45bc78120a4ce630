//! Errors that the gRPC library makes by itself (oversize or broken messages, unknown methods)
//! get an `ErrorInfo` like all others.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use crate::service::status::foreign;

/// Adds a reason to errors that have none.
#[derive(Debug, Clone, Copy)]
pub struct Reasons;

impl<S> Layer<S> for Reasons {
    type Service = WithReasons<S>;

    fn layer(&self, inner: S) -> WithReasons<S> {
        WithReasons(inner)
    }
}

/// See [`Reasons`].
#[derive(Debug, Clone)]
pub struct WithReasons<S>(S);

impl<S, B> Service<Request<B>> for WithReasons<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Reasoned<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Reasoned { answer: self.0.call(request) }
    }
}

pin_project! {
    /// An answer on its way; not boxed, because every call passes here.
    pub struct Reasoned<F> {
        #[pin]
        answer: F,
    }
}

impl<F, E> Future for Reasoned<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().answer.poll(cx).map_ok(|response| {
            let status = Status::from_header_map(response.headers());
            match status.and_then(|status| foreign(&status)) {
                Some(status) => status.into_http(),
                None => response,
            }
        })
    }
}
