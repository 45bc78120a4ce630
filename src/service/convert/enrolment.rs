//! Messages of enrolments to domain types and back.

use crate::broker::enrol::{Answer, Asked, NewEnrolment, Stage};
use crate::broker::error::Error;
use crate::broker::model::{Ending, Enrolment, ProviderId};
use crate::proto;
use crate::secret::{AuthorizationCode, EnrolmentId, EnrolmentState};
use crate::service::convert::{Checks, REFRESH_TOKEN_LEN_MAX};

/// Longest redirect address.
const URI_LEN_MAX: usize = 2 * 1024;
/// Longest id of a request, and longest state.
const REQUEST_ID_LEN_MAX: usize = 128;
/// Longest name of who begins an enrolment, in characters.
const STARTED_BY_MAX: usize = 128;

pub(in crate::service) fn enrolment(
    request: proto::StartEnrollmentRequest,
) -> Result<NewEnrolment, Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let labels = request.labels.into_iter().collect();
    checks.common(&request.provider_id, &request.scopes, &labels);
    let uri = &request.redirect_uri;
    if !uri.is_empty() && (uri.len() > URI_LEN_MAX || !is_redirect(uri)) {
        checks.fail(
            "redirect_uri",
            "must be an absolute URL without a fragment, of 2 KiB at most: http, https, or an app's \
             own scheme such as com.example.app:/",
        );
    }
    if request.request_id.len() > REQUEST_ID_LEN_MAX {
        checks.fail("request_id", "must be at most 128 bytes long");
    }
    if request.started_by.chars().count() > STARTED_BY_MAX {
        checks.fail("started_by", "must be at most 128 characters long");
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let new = id.map(|grant| NewEnrolment {
        grant,
        provider: ProviderId::new(&request.provider_id),
        scopes: request.scopes,
        labels,
        redirect_uri: given(request.redirect_uri),
        request: given(request.request_id),
        caller: None,
        started_by: request.started_by,
        paste: request.paste,
        other_account: request.allow_other_account,
        replace: request.replace,
    });
    checks.done(new)
}

/// A place that providers may send people to. Schemes of apps have a dot (RFC 8252 section 7.1), and
/// those that run or show what the address itself holds have none.
fn is_redirect(uri: &str) -> bool {
    url::Url::parse(uri).is_ok_and(|url| {
        let placed = matches!(url.scheme(), "http" | "https") || url.scheme().contains('.');
        placed && url.fragment().is_none()
    })
}

pub(in crate::service) fn asked(asked: Asked) -> proto::StartEnrollmentResponse {
    let Asked { enrolment, url } = asked;
    let common = proto::StartEnrollmentResponse {
        enrollment_id: enrolment.id.expose().to_owned(),
        expire_time: Some(enrolment.expires_at.into()),
        ..proto::StartEnrollmentResponse::default()
    };
    match enrolment.page {
        Some(page) => proto::StartEnrollmentResponse {
            start_url: url,
            user_code: page.code.expose().to_owned(),
            ..common
        },
        None => proto::StartEnrollmentResponse {
            state: enrolment.state.expose().to_owned(),
            authorization_url: url,
            ..common
        },
    }
}

pub(in crate::service) fn enrolment_id(text: &str) -> Result<EnrolmentId, Error> {
    let mut checks = Checks::default();
    if text.is_empty() || text.len() > REQUEST_ID_LEN_MAX {
        checks.fail("enrollment_id", "is required, as StartEnrollment gave it");
    }
    checks.done(Some(EnrolmentId::new(text)))
}

pub(in crate::service) fn standing((enrolment, at): (Enrolment, Stage)) -> proto::Enrollment {
    use proto::EnrollmentState as Wire;
    let (state, failure) = match at {
        Stage::Waiting => (Wire::Waiting, String::new()),
        Stage::Opened => (Wire::Opened, String::new()),
        Stage::Answered => (Wire::Answered, String::new()),
        Stage::Ended(Ending::Granted(_)) => (Wire::Granted, String::new()),
        Stage::Ended(Ending::Failed(why)) => (Wire::Failed, why),
        Stage::Ended(Ending::Cancelled) => (Wire::Cancelled, String::new()),
    };
    proto::Enrollment {
        enrollment_id: enrolment.id.expose().to_owned(),
        grant_id: enrolment.grant.to_string(),
        provider_id: enrolment.provider.to_string(),
        state: state.into(),
        failure,
        expire_time: Some(enrolment.expires_at.into()),
    }
}

pub(in crate::service) fn answer(
    request: proto::CompleteEnrollmentRequest,
) -> Result<Answer, Error> {
    let mut checks = Checks::default();
    for (field, text, most) in [
        ("state", &request.state, REQUEST_ID_LEN_MAX),
        ("code", &request.code, REFRESH_TOKEN_LEN_MAX),
    ] {
        if text.is_empty() || text.len() > most {
            checks.fail(field, "is required, as the provider sent it to the redirect address");
        }
    }
    let issuer = Some(request.iss).filter(|iss| !iss.is_empty());
    let (state, code) = (EnrolmentState::new(request.state), AuthorizationCode::new(request.code));
    checks.done(Some(Answer { state, code, issuer }))
}
