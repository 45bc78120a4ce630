//! A provider that answers at once: each refresh token is good for one use, and nothing is checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use serde_json::json;
use tokio::net::TcpListener;

/// Serves `/token`; returns the base URL.
pub(crate) async fn start() -> String {
    let tokens = Arc::new(AtomicU64::new(0));
    let answer = move || {
        let number = tokens.fetch_add(1, Ordering::Relaxed);
        // As long as Kroger's access tokens are.
        let access_token = format!("{number:01000}");
        let refresh_token = format!("refresh-{number}");
        let (token_type, expires_in) = ("Bearer", 1800);
        async move {
            let reply = json!({
                "access_token": access_token,
                "refresh_token": refresh_token,
                "token_type": token_type,
                "expires_in": expires_in,
            });
            ([(CONTENT_TYPE, "application/json")], reply.to_string())
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = Router::new().route("/token", post(answer));
    #[expect(clippy::disallowed_methods, reason = "ends with the benchmark")]
    tokio::spawn(async move { axum::serve(listener, routes).await });
    format!("http://{address}")
}
