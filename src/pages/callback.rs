//! Where providers send browsers back to: it says what happened, and what to do.

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use crate::audit::{Entry, Phase, Unwritten};
use crate::broker::enrol::{Landing, Told};
use crate::broker::error::Error;
use crate::broker::model::{Ending, Enrolment};
use crate::pages::query::one;
use crate::pages::{Pages, browser, failure, page, text};
use crate::secret::{AuthorizationCode, EnrolmentState};

/// Longest part of a provider's own words that is shown, in characters.
const WORDS_MAX: usize = 200;

/// A browser is back (RFC 6749 section 4.1.2).
pub(super) async fn landed(
    State(pages): State<Pages>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query.unwrap_or_default();
    let Some(state) = one(&query, "state") else {
        return page(StatusCode::BAD_REQUEST, &text::no_answer());
    };
    let told = match (one(&query, "error"), one(&query, "code")) {
        (Some(error), _) => {
            let why = one(&query, "error_description");
            Told::Refusal(refusal(&error, why.as_deref()))
        }
        (None, Some(code)) => {
            let issuer = one(&query, "iss").map(Into::into);
            Told::Code { code: AuthorizationCode::new(code), issuer }
        }
        (None, None) => return page(StatusCode::BAD_REQUEST, &text::no_answer()),
    };
    let browser = browser::known(&headers, pages.secure);
    let mut begun = None;
    let may = async |enrolment: &Enrolment| {
        let entry = begun.insert(begins(enrolment));
        pages.audit.begin(entry).await.map_err(|Unwritten| Error::NotAudited)
    };
    let landed = pages.broker.land(EnrolmentState::new(state), browser.as_ref(), told, may).await;
    if let Some(begun) = begun {
        let outcome = Some(outcome(&landed));
        pages.audit.tell(&Entry { phase: Some(Phase::End), outcome, ..begun });
    }
    match landed {
        Ok(Landing::Ended(Ending::Granted(grant))) => page(StatusCode::OK, &text::granted(&grant)),
        Ok(Landing::Ended(Ending::Failed(why))) => {
            page(StatusCode::OK, &text::failed(&why, Some("Nothing was changed.")))
        }
        Ok(Landing::Ended(Ending::Cancelled)) => page(StatusCode::OK, &text::cancelled()),
        Ok(Landing::UnderWay) => page(StatusCode::ACCEPTED, &text::under_way()),
        Ok(Landing::OtherBrowser) => page(StatusCode::FORBIDDEN, &text::other_browser()),
        Ok(Landing::ToBePasted) => page(StatusCode::OK, &text::to_be_pasted()),
        Err(error) => failure(&error),
    }
}

/// A consent is about to be exchanged for tokens.
fn begins(enrolment: &Enrolment) -> Entry {
    Entry {
        action: "admin.enroll",
        phase: Some(Phase::Begin),
        caller: Some("browser".into()),
        grant: enrolment.grant.to_string(),
        provider: enrolment.provider.to_string(),
        ..Entry::default()
    }
}

fn outcome(landed: &Result<Landing, Error>) -> &'static str {
    match landed {
        Ok(Landing::Ended(Ending::Granted(_))) => "OK",
        Ok(Landing::Ended(Ending::Cancelled | Ending::Failed(_))) => "FAILED_PRECONDITION",
        Ok(_) => "UNKNOWN",
        Err(_) => "UNAVAILABLE",
    }
}

/// What the provider says, without what could pass for ours.
fn refusal(error: &str, why: Option<&str>) -> String {
    let words = |text: &str| -> String {
        text.chars().filter(|character| !character.is_control()).take(WORDS_MAX).collect()
    };
    match why {
        Some(why) => format!("the provider says no: {} ({})", words(error), words(why)),
        None => format!("the provider says no: {}", words(error)),
    }
}
