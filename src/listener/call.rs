//! One call: a place for it, its request in time, its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower_service::Service;

use crate::listener::answer::Answer;
use crate::listener::arriving::{Arrived, Arriving};
use crate::listener::bounds::Bounds;
use crate::listener::connection::{Connection, Visit};
use crate::listener::places::{Entry, Place, Places};
use crate::service::{Peer, Refusal, refused};

/// Health is asked by few, and often: it keeps places of its own.
const HEALTH_STREAMS_MAX: usize = 1_024;
/// What anybody may ask has places apart for those who have proven nothing.
const STRANGERS_STREAMS_MAX: usize = 1_024;
/// So do operators, whose requests may be long.
const OTHER_STREAMS_MAX: usize = 1_024;

const HEALTH: &str = "/grpc.health.v1.Health/";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const OPERATORS: &str = "/tokenbroker.v1.GrantAdminService/";
const GET_TOKEN: &str = "/tokenbroker.v1.TokenService/GetToken";
const TOKENS: &str = "/tokenbroker.v1.TokenService/";
/// Its requests are streams that may go on.
const REFLECTION: &str = "/grpc.reflection.";

/// Places by kind of call, so that no kind takes those of another.
#[derive(Debug, Clone)]
pub(super) struct Shares {
    tokens: Arc<Places>,
    health: Arc<Places>,
    strangers: Arc<Places>,
    other: Arc<Places>,
    connections: Arc<AtomicUsize>,
}

impl Shares {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let least = |max: usize| Places::new(max.min(bounds.streams), &connections);
        Self {
            tokens: least(bounds.streams),
            health: least(HEALTH_STREAMS_MAX),
            strangers: least(STRANGERS_STREAMS_MAX),
            other: least(OTHER_STREAMS_MAX),
            connections,
        }
    }

    /// So many connections are open.
    pub(super) fn divide_between(&self, connections: usize) {
        self.connections.store(connections, Ordering::Relaxed);
    }

    fn of(&self, path: &str, peer: &Peer) -> &Arc<Places> {
        if path.starts_with(TOKENS) {
            &self.tokens
        } else if is_for_anybody(path) && !peer.has_proven() {
            &self.strangers
        } else if path.starts_with(HEALTH) {
            &self.health
        } else {
            &self.other
        }
    }

    fn of_callers(&self) -> [&Arc<Places>; 3] {
        [&self.tokens, &self.health, &self.other]
    }

    /// Calls under way.
    pub(super) fn taken(&self) -> usize {
        let of_callers: usize = self.of_callers().iter().map(|places| places.taken()).sum();
        of_callers + self.strangers.taken()
    }

    /// Some kind of call of those who are known finds no place.
    pub(super) fn full(&self) -> bool {
        self.of_callers().iter().any(|places| places.full())
    }
}

/// Nobody is asked who they are for it.
fn is_for_anybody(path: &str) -> bool {
    !path.starts_with(TOKENS) && !path.starts_with(OPERATORS)
}

/// What a connection does with its calls.
#[derive(Debug)]
pub(super) struct Calls<S> {
    pub(super) service: Arc<S>,
    pub(super) shares: Shares,
    pub(super) bounds: Bounds,
    pub(super) connection: Arc<Connection>,
}

impl<S> Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    /// Begins a call, if there is a place for it. The service is one that is always ready.
    pub(super) fn begin(&self, request: Request<Incoming>) -> Call<S::Future> {
        let path = request.uri().path();
        let peer = &self.connection.peer;
        let visit = Some(Visit::begin(&self.connection, !is_for_anybody(path)));
        let places = self.shares.of(path, peer);
        let (place, at_once) = match places.enter(self.connection.open()) {
            Entry::Free(place) => (place, None),
            // What begins something is not begun only to be refused.
            Entry::AtOnce(place) if path == GET_TOKEN || path == HEALTH_CHECK => {
                (place, Some(Arrived::default()))
            }
            Entry::AtOnce(_) | Entry::Full => return Call::Refused { visit },
        };
        let within = (!path.starts_with(REFLECTION)).then_some(self.bounds.request);
        let (places, connection) = (Arc::clone(places), Arc::clone(&self.connection));
        let arrived = at_once.clone();
        let mut request =
            request.map(|body| Body::new(Arriving::new(body, places, within, connection, arrived)));
        request.extensions_mut().insert(Arc::clone(peer));
        let answer = S::clone(&self.service).call(request);
        Call::Served { answer, at_once, visit, place: Some(place) }
    }
}

pin_project! {
    /// A call until its answer begins; not boxed, because every call passes here.
    #[project = Step]
    pub(super) enum Call<F> {
        Refused { visit: Option<Visit> },
        Served {
            #[pin]
            answer: F,
            // Once the request is there, the answer must be.
            at_once: Option<Arrived>,
            visit: Option<Visit>,
            place: Option<Place>,
        },
    }
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (response, visit, place) = match self.project() {
            Step::Refused { visit } => (None, visit, None),
            Step::Served { answer, at_once, visit, place } => match answer.poll(cx) {
                Poll::Ready(Ok(response)) => (Some(response), visit, place.take()),
                Poll::Pending if at_once.as_ref().is_some_and(Arrived::already) => {
                    (None, visit, place.take())
                }
                Poll::Pending => return Poll::Pending,
            },
        };
        // A future that has answered is not asked again.
        let Some(visit) = visit.take() else { return Poll::Pending };
        let response = response.unwrap_or_else(|| {
            visit.connection.metrics.refused(Refusal::Overloaded);
            refused(Refusal::Overloaded).into_http()
        });
        Poll::Ready(Ok(response.map(|body| Answer::new(body, visit, place))))
    }
}
