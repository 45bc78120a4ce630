//! What commands about grants have in common: fetching all of them, and showing one.

use crate::cli::{Failure, out, view};
use crate::client::Client;
use crate::proto::{Grant, ListGrantsRequest};

/// Grants asked for at once.
const PAGE: i32 = 500;

/// All grants of a provider in one of these states, by name; empty stands for any.
pub(super) async fn all(
    client: &mut Client,
    provider_id: String,
    states: Vec<i32>,
) -> Result<Vec<Grant>, Failure> {
    let mut request =
        ListGrantsRequest { page_size: PAGE, provider_id, states, ..ListGrantsRequest::default() };
    let mut grants = Vec::new();
    loop {
        let response = client.admin.list_grants(request.clone()).await.map_err(view::failure)?;
        let response = response.into_inner();
        grants.extend(response.grants);
        if response.next_page_token.is_empty() {
            break;
        }
        request.page_token = response.next_page_token;
    }
    grants.sort_by(|one, other| one.grant_id.cmp(&other.grant_id));
    Ok(grants)
}

/// Prints a grant.
pub(super) fn show(grant: Option<Grant>, json: bool) {
    let grant = grant.unwrap_or_default();
    out::line(if json { view::grant_json(&grant).to_string() } else { view::grant(&grant) });
}

pub(super) fn label(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
