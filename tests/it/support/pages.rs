//! A web server that says what it is told to, by path.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

/// How long it takes, and what comes then.
pub(crate) type Page = (Duration, u16, String);

#[derive(Clone, Default)]
pub(crate) struct Pages {
    pages: Arc<Mutex<HashMap<String, Page>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Pages {
    /// Serves on loopback; nothing is there yet.
    pub(crate) async fn serve() -> (Self, String) {
        let pages = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().fallback(answer).with_state(pages.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (pages, base)
    }

    pub(crate) fn put(&self, path: &str, page: Page) {
        self.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// How often it was asked for a page.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

async fn answer(State(pages): State<Pages>, uri: Uri) -> Response {
    pages.asked.lock().unwrap().push(uri.path().to_owned());
    let page = pages.pages.lock().unwrap().get(uri.path()).cloned();
    let Some((wait, status, body)) = page else { return StatusCode::NOT_FOUND.into_response() };
    tokio::time::sleep(wait).await;
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}
