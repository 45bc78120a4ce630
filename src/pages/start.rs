//! Where an enrolment begins: it shows which grant is to be connected, and asks for the code.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use crate::broker::enrol::Entered;
use crate::broker::model::Enrolment;
use crate::pages::query::one;
use crate::pages::{Pages, browser, failure, page, text};
use crate::secret::{Browser, EnrolmentId};

/// Shows the question.
pub(super) async fn ask(
    State(pages): State<Pages>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(id) = named(&query.unwrap_or_default()) else {
        return page(StatusCode::NOT_FOUND, &text::nothing_waits());
    };
    let known = browser::known(&headers, pages.secure);
    let browser = known.clone().unwrap_or_else(Browser::random);
    let mut response = match pages.broker.page(&id).await {
        Ok(enrolment) => question(&pages, &enrolment, &browser, None),
        Err(error) => return failure(&error),
    };
    if known.is_none()
        && let Some(cookie) = browser::cookie(&browser, pages.secure)
    {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Somebody typed a code.
pub(super) async fn entered(
    State(pages): State<Pages>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    form: String,
) -> Response {
    let Some(id) = named(&query.unwrap_or_default()) else {
        return page(StatusCode::NOT_FOUND, &text::nothing_waits());
    };
    let Some(browser) = browser::known(&headers, pages.secure) else {
        return page(StatusCode::BAD_REQUEST, &text::no_cookie());
    };
    // A stranger's page can make a browser send a form, and cannot know this.
    if one(&form, "proof").as_deref() != Some(&browser.form_proof()) {
        return page(StatusCode::BAD_REQUEST, &text::no_cookie());
    }
    let typed = one(&form, "code").unwrap_or_default();
    match pages.broker.enter_code(&id, &typed, &browser).await {
        Ok(Entered::Go { url }) => page(StatusCode::OK, &text::go(&url)),
        Ok(Entered::Wrong(enrolment)) => {
            question(&pages, &enrolment, &browser, Some("That is not the code."))
        }
        Ok(Entered::WrongTooOften) => page(StatusCode::FORBIDDEN, &text::wrong_too_often()),
        Ok(Entered::OtherBrowser) => page(StatusCode::FORBIDDEN, &text::other_browser()),
        Err(error) => failure(&error),
    }
}

fn question(
    pages: &Pages,
    enrolment: &Enrolment,
    browser: &Browser,
    wrong: Option<&str>,
) -> Response {
    let status = if wrong.is_some() { StatusCode::FORBIDDEN } else { StatusCode::OK };
    let now = pages.broker.clock().now();
    page(status, &text::ask(enrolment, &browser.form_proof(), now, wrong))
}

fn named(query: &str) -> Option<EnrolmentId> {
    one(query, "enrollment").map(EnrolmentId::new)
}
