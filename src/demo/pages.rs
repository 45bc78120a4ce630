//! What a person sees of the demo provider: a question. No scripts.

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};

/// The form goes back to the address of the page, which holds the question.
const QUESTION: &str = r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Demo provider</title>
<style>body { font: 1.1em/1.5 system-ui; max-width: 34em; margin: 4em auto; padding: 0 1em }
input, button { font: inherit; padding: .3em .8em }</style>
<h1>Demo provider</h1>
<p><b>demo-client</b> asks for access to your account. It gets tokens, and keeps them alive until
you say no.</p>
<form method="post">
<p><label>You are <input name="person" value="bob" autocomplete="off"></label></p>
<p><button name="decision" value="allow">Allow</button>
<button name="decision" value="deny">Deny</button></p>
</form></html>
"#;

pub(super) async fn question() -> Response {
    page(QUESTION)
}

fn page(text: &'static str) -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, Html(text)).into_response()
}
