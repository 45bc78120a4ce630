//! The broker's own pages: where a person begins an enrolment, and where it ends.
//!
//! Nothing is loaded from elsewhere, nothing runs in the browser, nothing of an answer is written to
//! a log. `start` asks for the code that a command line shows, `callback` is where providers send
//! browsers back to; `text` is what people read, `browser` how one is told from all others.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use maud::Markup;
use tonic::service::Routes;

use crate::audit::Audit;
use crate::broker::Broker;
use crate::broker::error::Error;
use crate::broker::settings::PageAddresses;

mod browser;
mod callback;
mod query;
mod start;
mod text;

const START: &str = "/oauth/start";
const CALLBACK: &str = "/oauth/callback";
/// Longest form; ours has three short fields.
const FORM_MAX: usize = 4 * 1024;

/// What the pages are made with.
#[derive(Clone)]
struct Pages {
    broker: Arc<Broker>,
    audit: Arc<Audit>,
    /// Browsers reach them by https.
    secure: bool,
}

/// Where the pages are, below what browsers know the broker by.
pub fn addresses(base: &str) -> PageAddresses {
    let base = base.trim_end_matches('/');
    PageAddresses { start: format!("{base}{START}"), callback: format!("{base}{CALLBACK}") }
}

/// The pages of `broker`, which browsers know by `base`.
pub fn routes(broker: Arc<Broker>, audit: Arc<Audit>, base: &str) -> Routes {
    let pages = Pages { broker, audit, secure: base.starts_with("https:") };
    let http = Router::new()
        .route(START, get(start::ask).post(start::entered))
        .route(CALLBACK, get(callback::landed))
        .fallback(|| async { page(StatusCode::NOT_FOUND, &text::nothing_here()) })
        .layer(DefaultBodyLimit::max(FORM_MAX))
        .with_state(pages);
    Routes::from(http)
}

/// The style is named by its hash, so that no other is taken.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; style-src '{}'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        text::style_hash()
    )
});

fn page(status: StatusCode, markup: &Markup) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (status, headers, Html(markup.0.clone())).into_response()
}

/// What went wrong, in the words that operators get, too.
fn failure(error: &Error) -> Response {
    match error {
        Error::EnrolmentUnknown => page(StatusCode::NOT_FOUND, &text::nothing_waits()),
        Error::Draining | Error::Store(_) | Error::NotAudited | Error::EnrolmentFailed { .. } => {
            page(StatusCode::SERVICE_UNAVAILABLE, &text::later(&error.to_string()))
        }
        _ => page(StatusCode::INTERNAL_SERVER_ERROR, &text::failed(&error.to_string(), None)),
    }
}
