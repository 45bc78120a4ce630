//! The short way: calls of `TokenService` go straight to it, past the router that all others need.
//! Nearly every call is one of these.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService as _;
use tower_layer::Layer;
use tower_service::Service;

use crate::proto::token_service_server::TokenServiceServer;
use crate::service::Tokens;

/// Serves tokens before anything else is looked at.
#[derive(Clone)]
pub struct Direct(pub TokenServiceServer<Tokens>);

impl<S> Layer<S> for Direct {
    type Service = WithDirect<S>;

    fn layer(&self, inner: S) -> WithDirect<S> {
        WithDirect { tokens: self.0.clone(), inner }
    }
}

/// See [`Direct`].
#[derive(Clone)]
pub struct WithDirect<S> {
    tokens: TokenServiceServer<Tokens>,
    inner: S,
}

impl<S> Service<Request<Body>> for WithDirect<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Way<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The tokens are always ready.
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if of_tokens(request.uri().path()) {
            return Way::Short { answer: self.tokens.call(request) };
        }
        Way::Long { answer: self.inner.call(request) }
    }
}

/// `/package.Service/Method` is one of ours.
fn of_tokens(path: &str) -> bool {
    let method = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(TokenServiceServer::<Tokens>::NAME)?.strip_prefix('/'));
    method.is_some()
}

pin_project! {
    /// An answer on its way.
    #[project = OnItsWay]
    #[expect(missing_docs, reason = "the macro takes no comments on fields")]
    pub enum Way<F> {
        Short { answer: BoxFuture<Response<Body>, Infallible> },
        Long {
            #[pin]
            answer: F,
        },
    }
}

impl<F> Future for Way<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            OnItsWay::Short { answer } => answer.as_mut().poll(cx),
            OnItsWay::Long { answer } => answer.poll(cx),
        }
    }
}
