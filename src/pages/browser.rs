//! How one browser is told from all others: a cookie that only it has.

use axum::http::{HeaderMap, HeaderValue, header};

use crate::secret::Browser;

/// Bound to the host; browsers take this name by https alone.
const SECURE: &str = "__Host-token-broker";
/// The name on loopback, without TLS.
const PLAIN: &str = "token-broker";
/// Longest value that is ours.
const VALUE_MAX: usize = 64;

/// The browser that sends these headers, if it was here before.
pub(super) fn known(headers: &HeaderMap, secure: bool) -> Option<Browser> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let mut ours = pairs.filter(|(found, _)| found.trim() == name(secure)).map(|(_, value)| value);
    let value = ours.next()?.trim();
    let right = ours.next().is_none() && !value.is_empty() && value.len() <= VALUE_MAX;
    right.then(|| Browser::new(value))
}

/// Makes a browser known until it is closed. It comes along when a provider sends it back (`Lax`),
/// and with no form of a stranger.
pub(super) fn cookie(browser: &Browser, secure: bool) -> Option<HeaderValue> {
    let secured = if secure { "; Secure" } else { "" };
    let value =
        format!("{}={}; Path=/; HttpOnly; SameSite=Lax{secured}", name(secure), browser.expose());
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn name(secure: bool) -> &'static str {
    if secure { SECURE } else { PLAIN }
}
