//! Errors that the gRPC library makes by itself (oversize or broken messages, unknown methods)
//! get an `ErrorInfo` like all others.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

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
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let status = Status::from_header_map(response.headers());
            Ok(match status.and_then(|status| foreign(&status)) {
                Some(status) => status.into_http(),
                None => response,
            })
        })
    }
}
