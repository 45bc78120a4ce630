//! Messages to domain types and back. Requests are checked whole: all violations at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message as _;
use tokio::time::Instant;

use crate::broker::advice::advice;
use crate::broker::error::{Error, Violation};
use crate::broker::model::{Cause, Doubt, DoubtKind, Generation, GrantId, GrantKind, ProviderId};
use crate::broker::serving::{Degraded, Rejected, Want};
use crate::broker::standing::Trouble as ProviderTrouble;
use crate::broker::store::{Finding, Grade, JournalCondition, Said};
use crate::broker::view::{Encoded, Trouble, View};
use crate::broker::{NewGrant, Overview, Resolution, State, endpoint};
use crate::clock::{Clock, between};
use crate::proto;
use crate::secret::RefreshToken;
use crate::service::status::{classify, contract_reason};

mod enrolment;

pub(super) use enrolment::{answer, asked, enrolment, enrolment_id, standing};

/// Longest refresh token that is accepted; providers stay below 4 KiB.
const REFRESH_TOKEN_LEN_MAX: usize = 16 * 1024;
/// Characters of a fingerprint: base64url of 12 bytes.
const FINGERPRINT_LEN: usize = 16;
/// Most labels of a grant.
const LABELS_MAX: usize = 32;
/// Longest name or value of a label.
const LABEL_LEN_MAX: usize = 256;
/// Bytes of all labels of a grant together.
const LABELS_LEN_MAX: usize = 4 * 1024;
/// Most scopes of a grant.
const SCOPES_MAX: usize = 100;
/// Bytes of all scopes of a grant together: they are asked for in one URL.
const SCOPES_LEN_MAX: usize = 6 * 1024;
/// Page size where none is asked for, and the largest.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// Collects what is wrong with a request.
#[derive(Default)]
pub(super) struct Checks(Vec<Violation>);

impl Checks {
    pub(super) fn fail(&mut self, field: &'static str, description: impl Into<String>) {
        self.0.push(Violation { field, description: description.into() });
    }

    pub(super) fn done<T>(self, value: Option<T>) -> Result<T, Error> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(Error::Invalid(self.0)),
        }
    }

    pub(super) fn grant_id(&mut self, text: &str) -> Option<GrantId> {
        GrantId::parse(text).map_err(|why| self.fail("grant_id", why)).ok()
    }

    fn generation(&mut self, field: &'static str, number: i64) -> Option<Generation> {
        let number = u64::try_from(number).ok();
        if number.is_none() {
            self.fail(field, "must not be negative");
        }
        number.map(Generation)
    }

    fn common(&mut self, provider: &str, scopes: &[String], labels: &BTreeMap<String, String>) {
        if provider.is_empty() {
            self.fail("provider_id", "is required; `token-broker provider list` lists them");
        }
        self.described(scopes, labels);
    }

    fn described(&mut self, scopes: &[String], labels: &BTreeMap<String, String>) {
        let word = |scope: &String| {
            !scope.is_empty()
                && scope.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\')
        };
        let length: usize = scopes.iter().map(String::len).sum();
        if scopes.len() > SCOPES_MAX || length > SCOPES_LEN_MAX || !scopes.iter().all(word) {
            self.fail(
                "scopes",
                "must be at most 100 words of visible ASCII (RFC 6749 section 3.3), of 6 KiB together",
            );
        }
        let long = |text: &String| text.len() > LABEL_LEN_MAX;
        let length: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels.len() > LABELS_MAX
            || length > LABELS_LEN_MAX
            || labels.iter().any(|(name, value)| name.is_empty() || long(name) || long(value))
        {
            self.fail(
                "labels",
                "must be at most 32, each with a name; names and values at most 256 bytes long, \
                 and of 4 KiB together",
            );
        }
    }
}

/// A request that only names a grant.
pub(super) fn grant_id(text: &str) -> Result<GrantId, Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(text);
    checks.done(id)
}

pub(super) fn get_token(request: &proto::GetTokenRequest) -> Result<(GrantId, Want), Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let min_ttl = match request.min_ttl.map(Duration::try_from) {
        None => Duration::ZERO,
        Some(Ok(min_ttl)) => min_ttl,
        Some(Err(_)) => {
            checks.fail("min_ttl", "must not be negative");
            Duration::ZERO
        }
    };
    let min_generation = checks.generation("min_generation", request.min_generation);
    let min_generation = min_generation.filter(|generation| generation.0 > 0);
    checks.done(id.map(|id| (id, Want { min_ttl, min_generation })))
}

pub(super) fn watch_token(
    request: &proto::WatchTokenRequest,
) -> Result<(GrantId, Option<Generation>), Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let last = checks.generation("last_generation", request.last_generation);
    let last = last.filter(|generation| generation.0 > 0);
    checks.done(id.map(|id| (id, last)))
}

pub(super) fn force_refresh(
    request: proto::ForceRefreshRequest,
) -> Result<(GrantId, Rejected), Error> {
    use proto::force_refresh_request::Rejected as Wire;
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let rejected = match request.rejected {
        None => Some(Rejected::Current),
        Some(Wire::RejectedGeneration(0)) => {
            checks.fail("rejected_generation", "must be the `generation` of the rejected token");
            None
        }
        Some(Wire::RejectedGeneration(number)) => {
            checks.generation("rejected_generation", number).map(Rejected::Generation)
        }
        Some(Wire::RejectedFingerprint(text)) if text.len() != FINGERPRINT_LEN => {
            checks.fail("rejected_fingerprint", "must be the `fingerprint` of the rejected token");
            None
        }
        Some(Wire::RejectedFingerprint(text)) => Some(Rejected::Fingerprint(text)),
    };
    checks.done(id.zip(rejected))
}

pub(super) fn import(request: proto::ImportGrantRequest) -> Result<(NewGrant, bool), Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let labels = request.labels.into_iter().collect();
    checks.common(&request.provider_id, &request.scopes, &labels);
    // Editors on Windows begin a file with a byte order mark.
    let token = request.refresh_token.trim_start_matches('\u{feff}').trim();
    if token.is_empty() || token.len() > REFRESH_TOKEN_LEN_MAX {
        checks.fail("refresh_token", "must hold the refresh token, at most 16 KiB of it");
    } else if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        checks.fail(
            "refresh_token",
            "must be one word of visible ASCII; is there more than the token in it?",
        );
    }
    let verify = request.verify;
    let new = id.map(|id| NewGrant {
        id,
        provider: ProviderId::new(&request.provider_id),
        refresh_token: Some(RefreshToken::new(token)),
        scopes: request.scopes,
        labels,
        keep_warm: request.keep_warm,
        replace: request.replace,
    });
    checks.done(new.map(|new| (new, verify)))
}

pub(super) fn create(request: proto::CreateGrantRequest) -> Result<NewGrant, Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let labels = request.labels.clone().into_iter().collect();
    checks.common(&request.provider_id, &request.scopes, &labels);
    if request.kind() != proto::GrantKind::ClientCredentials {
        checks.fail("kind", "must be GRANT_KIND_CLIENT_CREDENTIALS; import refresh tokens instead");
    }
    let new = id.map(|id| NewGrant {
        id,
        provider: ProviderId::new(&request.provider_id),
        refresh_token: None,
        scopes: request.scopes,
        labels,
        keep_warm: request.keep_warm,
        replace: false,
    });
    checks.done(new)
}

/// What is to be said of a grant from now on, as far as the mask names it.
pub(super) fn update(
    request: proto::UpdateGrantRequest,
) -> Result<(GrantId, Option<String>, Said), Error> {
    let mut checks = Checks::default();
    let grant = request.grant.unwrap_or_default();
    let id = checks.grant_id(&grant.grant_id);
    let labels: BTreeMap<_, _> = grant.labels.into_iter().collect();
    checks.described(&grant.scopes, &labels);
    let mut said = Said::default();
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    for path in &paths {
        match path.as_str() {
            "labels" => said.labels = Some(labels.clone()),
            "keep_warm" => said.keep_warm = Some(grant.keep_warm),
            "scopes" => said.scopes = Some(grant.scopes.clone()),
            _ => checks.fail("update_mask", "names labels, keep_warm and scopes only"),
        }
    }
    if paths.is_empty() {
        checks.fail("update_mask", "must say what is to be changed: labels, keep_warm or scopes");
    }
    let etag = Some(grant.etag).filter(|etag| !etag.is_empty());
    checks.done(id.map(|id| (id, etag, said)))
}

pub(super) fn rotate(request: &proto::RotateGrantRequest) -> Result<(GrantId, Generation), Error> {
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    if request.expected_generation <= 0 {
        checks.fail("expected_generation", "is required; `token-broker grant show` has it");
    }
    let generation = checks.generation("expected_generation", request.expected_generation);
    checks.done(id.zip(generation))
}

pub(super) fn resolve(
    request: &proto::ResolveGrantRequest,
) -> Result<(GrantId, Resolution), Error> {
    use proto::resolve_grant_request::Resolution as Wire;
    let mut checks = Checks::default();
    let id = checks.grant_id(&request.grant_id);
    let resolution = match request.resolution() {
        Wire::Retry => Some(Resolution::Retry),
        Wire::Reauthorize => Some(Resolution::Reauthorize),
        Wire::Unspecified => {
            checks.fail("resolution", "must be RESOLUTION_RETRY or RESOLUTION_REAUTHORIZE");
            None
        }
    };
    checks.done(id.zip(resolution))
}

pub(super) fn page_size(request: &proto::ListGrantsRequest) -> Result<usize, Error> {
    let mut checks = Checks::default();
    let size = match usize::try_from(request.page_size) {
        Ok(0) => Some(PAGE_DEFAULT),
        Ok(size @ 1..=PAGE_MAX) => Some(size),
        _ => {
            checks.fail("page_size", "must be 1 to 1000");
            None
        }
    };
    checks.done(size)
}

/// The token; whole, because it is seldom asked for like this.
pub(super) fn token(view: &View, degraded: Option<Degraded>, clock: Clock) -> proto::Token {
    let mut token = lasting(view);
    let rest = changing(view, degraded, clock.now(), clock);
    (token.expire_time, token.ttl) = (rest.expire_time, rest.ttl);
    (token.refresh_after_time, token.refresh_after) = (rest.refresh_after_time, rest.refresh_after);
    (token.degraded_reason, token.retry_time) = (rest.degraded_reason, rest.retry_time);
    token
}

/// The token; what stays the same from answer to answer is encoded once.
pub(super) fn reply(
    view: &View,
    degraded: Option<Degraded>,
    now: SystemTime,
    clock: Clock,
) -> proto::GetTokenResponse {
    let Encoded(encoded) =
        view.encoded.get_or_init(|| Encoded(lasting(view).encode_to_vec().into()));
    proto::GetTokenResponse::of(Arc::clone(encoded), changing(view, degraded, now, clock))
}

/// What is the same in every answer with this token.
fn lasting(view: &View) -> proto::Token {
    let Some((token, _)) = view.token() else { return proto::Token::default() };
    proto::Token {
        access_token: token.access_token.expose().to_owned(),
        token_type: token.token_type.clone(),
        generation: signed(token.generation),
        fingerprint: view.fingerprint.clone(),
        scopes: token.scopes.clone(),
        attributes: token.attributes.clone().into_iter().collect(),
        ..proto::Token::default()
    }
}

/// What is not: all of it comes from the one end of the token, as the clocks stand now.
fn changing(
    view: &View,
    degraded: Option<Degraded>,
    now: SystemTime,
    clock: Clock,
) -> proto::Token {
    let reason = degraded.map(|degraded| contract_reason(degraded.reason));
    let wall = |at| Some(clock.to_wall(at).into());
    let window = view.window;
    proto::Token {
        expire_time: window.and_then(|window| wall(window.expires_at)),
        ttl: window.and_then(|window| window.ttl(now).try_into().ok()),
        refresh_after_time: window.and_then(|window| wall(window.soft_at)),
        refresh_after: window.and_then(|window| between(now, window.soft_at).try_into().ok()),
        degraded_reason: reason.unwrap_or(proto::ErrorReason::Unspecified).into(),
        retry_time: degraded.and_then(|degraded| degraded.retry_at).and_then(wall),
        ..proto::Token::default()
    }
}

pub(super) fn grant(overview: &Overview, clock: Clock) -> proto::Grant {
    let wall = |at| clock.to_wall(at).into();
    let grant = &overview.view.grant;
    let token = overview.view.token();
    let descriptor = &grant.descriptor;
    let state = match overview.state {
        State::Active => proto::GrantState::Active,
        State::Degraded => proto::GrantState::Degraded,
        State::OutcomeUnknown => proto::GrantState::OutcomeUnknown,
        State::ReauthRequired => proto::GrantState::ReauthRequired,
        State::Revoked => proto::GrantState::Revoked,
        State::Disabled => proto::GrantState::Disabled,
    };
    let kind = match descriptor.kind {
        GrantKind::RefreshToken => proto::GrantKind::RefreshToken,
        GrantKind::ClientCredentials => proto::GrantKind::ClientCredentials,
    };
    let failures = overview.trouble.as_ref().map_or(0, |trouble| trouble.failures);
    proto::Grant {
        grant_id: grant.id.to_string(),
        provider_id: descriptor.provider.to_string(),
        kind: kind.into(),
        state: state.into(),
        scopes: descriptor.scopes.clone(),
        labels: descriptor.labels.clone().into_iter().collect(),
        keep_warm: descriptor.keep_warm,
        generation: signed(grant.generation()),
        token_fingerprint: token.map(|_| overview.view.fingerprint.clone()).unwrap_or_default(),
        token_expire_time: token.map(|(_, window)| wall(window.expires_at)),
        refresh_token_expire_time: grant.pair.refresh_token_expires_at.map(wall),
        last_refresh_time: token.map(|_| wall(grant.pair.published_at)),
        next_refresh_time: overview.due_at.map(wall),
        consecutive_failures: i32::try_from(failures).unwrap_or(i32::MAX),
        last_failure: overview
            .trouble
            .as_ref()
            .map(|trouble| failure(trouble, overview.state, clock)),
        create_time: Some(descriptor.create_time.into()),
        etag: grant.etag(),
        doubt: overview
            .doubt
            .as_ref()
            .map(|(doubt, next)| self::doubt(doubt, *next, overview.holder.as_deref(), clock)),
    }
}

pub(super) fn finding(finding: &Finding) -> proto::StoreFinding {
    use proto::store_finding::Grade as Told;
    let grade = match finding.grade {
        Grade::Fine => Told::Ok,
        Grade::Unseen => Told::Unknown,
        Grade::Risk => Told::Risk,
        Grade::Waits => Told::Waits,
        Grade::Wrong => Told::Wrong,
    };
    proto::StoreFinding {
        check: finding.check.to_owned(),
        grade: grade.into(),
        found: finding.found.clone(),
        remedy: finding.remedy.clone(),
    }
}

pub(super) fn journal(journal: &JournalCondition) -> proto::JournalStatus {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    proto::JournalStatus {
        entries: number(journal.entries),
        stuck: number(journal.stuck),
        trouble: journal.trouble.clone().unwrap_or_default(),
    }
}

fn doubt(
    doubt: &Doubt,
    next: Option<SystemTime>,
    holder: Option<&str>,
    clock: Clock,
) -> proto::GrantDoubt {
    use proto::grant_doubt::Kind;
    let wall = |at| clock.to_wall(at).into();
    let kind = match doubt.kind {
        DoubtKind::Answered => Kind::Answered,
        DoubtKind::Unreadable => Kind::Unreadable,
        DoubtKind::Ended => Kind::Ended,
        DoubtKind::Unheard => Kind::Unheard,
        DoubtKind::Died => Kind::Died,
        DoubtKind::Restored => Kind::Restored,
        DoubtKind::Silent => Kind::Silent,
    };
    proto::GrantDoubt {
        kind: kind.into(),
        provider_status: doubt.status.map_or(0, i32::from),
        since_time: Some(wall(doubt.since)),
        last_sent_time: Some(wall(doubt.sent_at)),
        attempts: i32::try_from(doubt.attempts).unwrap_or(i32::MAX),
        holder: holder.unwrap_or_default().to_owned(),
        retry_time: next.map(wall),
    }
}

fn failure(trouble: &Trouble, state: State, clock: Clock) -> proto::GrantFailure {
    let (reason, message) = (classify(&trouble.error).1, trouble.error.to_string());
    let (provider_error, detail, status, time) = match &trouble.error {
        Error::Upstream { failure: met, time, .. } => {
            (met.provider_error.clone(), met.detail.clone(), met.status, Some(*time))
        }
        Error::GrantRefused { verdict: no, .. } => {
            (no.provider_error.clone(), no.detail.clone(), no.provider_status, Some(no.time))
        }
        _ => (None, None, None, None),
    };
    let waits = trouble.until.saturating_duration_since(Instant::now());
    let left = match (state, &trouble.error) {
        // One that is refused alone is tried all the same.
        (State::Degraded, _) | (State::ReauthRequired, Error::Upstream { .. }) => Some(waits),
        (State::OutcomeUnknown, error) => error.retry_after(),
        (State::Active | State::ReauthRequired | State::Revoked | State::Disabled, _) => None,
    };
    proto::GrantFailure {
        reason: reason.into(),
        message,
        provider_error: provider_error.unwrap_or_default(),
        provider_status: status.map_or(0, i32::from),
        provider_detail: detail.unwrap_or_default(),
        time: time.map(|at| clock.to_wall(at).into()),
        retry_time: left.map(|left| clock.to_wall(clock.now() + left).into()),
    }
}

pub(super) fn provider(
    provider: endpoint::ProviderSummary,
    trouble: ProviderTrouble,
    clock: Clock,
) -> proto::Provider {
    let now = clock.now();
    let wall = |at| Some(clock.to_wall(at).into());
    let ago = |age: Duration| now.checked_sub(age).and_then(wall);
    let ProviderTrouble { hold, last, next_due } = trouble;
    let (held_grant_ids, probes) = hold.as_ref().map_or_else(Default::default, |(hold, ..)| {
        (hold.grants.iter().map(ToString::to_string).collect(), hold.probes)
    });
    let (next_due_grant_id, next_due_time) =
        next_due.map_or_else(Default::default, |(grant, due_at)| (grant.to_string(), wall(due_at)));
    proto::Provider {
        provider_id: provider.id.to_string(),
        profile: provider.profile,
        token_endpoint: provider.token_endpoint,
        client_id: provider.client_id,
        hold: hold.map(|(hold, age, left)| proto::GrantFailure {
            time: ago(age),
            retry_time: wall(now + left),
            ..cause(&hold.cause)
        }),
        held_grant_ids,
        probes: i32::try_from(probes).unwrap_or(i32::MAX),
        next_due_grant_id,
        next_due_time,
        last_failure: last.map(|(met, age)| proto::GrantFailure { time: ago(age), ..cause(&met) }),
    }
}

fn cause(cause: &Cause) -> proto::GrantFailure {
    proto::GrantFailure {
        reason: contract_reason(cause.reason).into(),
        message: advice(cause.reason).to_owned(),
        provider_error: cause.said.clone().unwrap_or_default(),
        provider_status: cause.status.map_or(0, i32::from),
        provider_detail: cause.detail.clone().unwrap_or_default(),
        ..proto::GrantFailure::default()
    }
}

pub(super) fn signed(generation: Generation) -> i64 {
    i64::try_from(generation.0).unwrap_or(i64::MAX)
}

/// The age of the process.
pub(super) fn uptime(start: SystemTime, now: SystemTime) -> Option<prost_types::Duration> {
    between(start, now).try_into().ok()
}
