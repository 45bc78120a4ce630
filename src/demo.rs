//! The provider of `token-broker dev`: strict, local, and nobody's.
//!
//! It behaves as the worst real ones do: a refresh token is good for one use, and a second use
//! revokes the whole family. Its state is written to a file before it answers, so that stopping
//! and starting `dev` is like a restart of the broker in front of a provider that ran on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tracing::info;

use crate::clock::{Clock, unix_ms};
use crate::secret::{ClientSecret, CodeVerifier, RefreshToken};
use crate::store::keyring;

mod pages;

/// The person of the grant that is made at the start.
const ALICE: &str = "alice";
/// Our client id at the demo provider.
pub const CLIENT_ID: &str = "demo-client";
/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 24;

/// How long a code waits to be exchanged (RFC 6749 section 4.1.2).
const CODE_LIFE: Duration = Duration::from_secs(600);

/// A strict authorization server with one client, for whoever says who they are.
#[derive(Clone)]
pub struct DemoProvider {
    inner: Arc<Inner>,
}

struct Inner {
    file: PathBuf,
    lifetime: Duration,
    clock: Clock,
    state: Mutex<Ledger>,
}

/// What the provider remembers.
#[derive(Default, Serialize, Deserialize)]
struct Ledger {
    client_secret: String,
    /// What came of each consent: a person may give several.
    #[serde(default)]
    consents: Vec<Family>,
    /// Codes that were not exchanged yet.
    #[serde(default)]
    codes: BTreeMap<String, Code>,
    /// Access tokens, and when they expire in ms.
    access: BTreeMap<String, u64>,
    rotations: u64,
}

/// The refresh tokens of one consent.
#[derive(Serialize, Deserialize)]
struct Family {
    person: String,
    /// The one that is good; none once the family is revoked.
    current: Option<String>,
    /// Those that were used.
    spent: Vec<String>,
}

impl Family {
    fn of(person: &str) -> Self {
        Self { person: person.to_owned(), current: None, spent: Vec::new() }
    }
}

/// A person's consent to a question.
#[derive(Serialize, Deserialize)]
struct Code {
    /// Until when, in ms.
    expires_at: u64,
    person: String,
    redirect_uri: String,
    challenge: Option<String>,
}

impl DemoProvider {
    /// Reads what it remembers from `file`, if that exists.
    pub fn open(file: &Path, lifetime: Duration, clock: Clock) -> io::Result<Self> {
        let mut state: Ledger = match fs::read(file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error),
        };
        if state.client_secret.is_empty() {
            state.client_secret = random();
        }
        let inner = Inner { file: file.to_owned(), lifetime, clock, state: Mutex::new(state) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Our password there.
    pub fn client_secret(&self) -> ClientSecret {
        ClientSecret::new(self.inner.state.lock().client_secret.clone())
    }

    /// Alice consents anew: the family begins again.
    pub fn consent(&self) -> io::Result<RefreshToken> {
        let mut state = self.inner.state.lock();
        let token = random();
        state.consents.retain(|family| family.person != ALICE);
        state.consents.push(Family { current: Some(token.clone()), ..Family::of(ALICE) });
        self.inner.save(&state)?;
        Ok(RefreshToken::new(token))
    }

    /// Alice's family has a refresh token that is good.
    pub fn knows_alice(&self) -> bool {
        let state = self.inner.state.lock();
        let mut consents = state.consents.iter();
        consents.any(|family| family.person == ALICE && family.current.is_some())
    }

    /// Answers on `listener` until the program ends.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let router = Router::new()
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .route("/me", get(me))
            .route("/authorize", get(pages::question).post(consented))
            .with_state(self.inner);
        axum::serve(listener, router).await
    }
}

impl Inner {
    /// Written to a second file and renamed, so that a crash leaves the one or the other.
    fn save(&self, state: &Ledger) -> io::Result<()> {
        let beside = self.file.with_extension("new");
        // Left over where a crash came between the two steps.
        let _ = fs::remove_file(&beside);
        keyring::private_file(&beside)?.write_all(&serde_json::to_vec(state)?)?;
        fs::rename(&beside, &self.file)
    }

    /// Issues an access token, and in a family a refresh token in place of the spent one.
    fn issue(&self, state: &mut Ledger, family: Option<usize>) -> Response {
        let now = unix_ms(self.clock.now());
        let lifetime_ms = u64::try_from(self.lifetime.as_millis()).unwrap_or(u64::MAX);
        let access_token = random();
        state.access.retain(|_, expires_at| *expires_at > now);
        state.access.insert(access_token.clone(), now + lifetime_ms);
        let mut reply = json!({
            "access_token": access_token, "token_type": "Bearer",
            "expires_in": self.lifetime.as_secs(),
        });
        if let Some(family) = family.and_then(|at| state.consents.get_mut(at)) {
            let fresh = random();
            family.spent.extend(family.current.replace(fresh.clone()));
            state.rotations += 1;
            reply["refresh_token"] = fresh.into();
            reply["person"] = family.person.clone().into();
            info!(
                rotations = state.rotations,
                "demo provider: refresh token or code spent, new pair issued"
            );
        }
        if self.save(state).is_err() {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        ([(header::CACHE_CONTROL, "no-store")], axum_json(StatusCode::OK, &reply)).into_response()
    }
}

async fn token(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: String) -> Response {
    let mut state = inner.state.lock();
    if !authenticated(&headers, &state.client_secret) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    let form: BTreeMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let parameter = |name: &str| form.get(name).map(String::as_str);
    let family = match parameter("grant_type") {
        Some("client_credentials") => return inner.issue(&mut state, None),
        Some("refresh_token") => parameter("refresh_token").map(|token| state.spender(token)),
        Some("authorization_code") => {
            let now = unix_ms(inner.clock.now());
            parameter("code").map(|code| state.begin(code, &form, now))
        }
        _ => return refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type"),
    };
    match family {
        None => refusal(StatusCode::BAD_REQUEST, "invalid_request"),
        Some(Some(family)) => inner.issue(&mut state, Some(family)),
        Some(None) => {
            let _ = inner.save(&state);
            refusal(StatusCode::BAD_REQUEST, "invalid_grant")
        }
    }
}

/// RFC 7009: what is not known counts as taken back.
async fn revoke(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: String) -> Response {
    let mut state = inner.state.lock();
    if !authenticated(&headers, &state.client_secret) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    let form: BTreeMap<_, _> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let token = form.get("token");
    for family in &mut state.consents {
        if family.current.as_ref() == token {
            family.current = None;
            info!("demo provider: a refresh token is taken back, and its family ends");
        }
    }
    if inner.save(&state).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    StatusCode::OK.into_response()
}

impl Ledger {
    /// The family that a code begins.
    fn begin(&mut self, code: &str, form: &BTreeMap<String, String>, now: u64) -> Option<usize> {
        let code = self.codes.remove(code)?;
        if code.expires_at <= now || !code.answered_by(form) {
            return None;
        }
        self.consents.push(Family::of(&code.person));
        self.consents.len().checked_sub(1)
    }

    /// The family of a good refresh token. One that was used ends its family.
    fn spender(&mut self, token: &str) -> Option<usize> {
        for (at, family) in self.consents.iter_mut().enumerate() {
            if family.current.as_deref() == Some(token) {
                return Some(at);
            }
            if family.spent.iter().any(|spent| spent == token) {
                family.current = None;
                self.access.clear();
                info!("demo provider: a spent refresh token came again; the family is revoked");
                return None;
            }
        }
        None
    }
}

impl Code {
    /// Whoever spends it asked for it (RFC 7636 section 4.6).
    fn answered_by(&self, form: &BTreeMap<String, String>) -> bool {
        let shown = form.get("code_verifier").map(|text| CodeVerifier::new(text).challenge());
        form.get("redirect_uri") == Some(&self.redirect_uri) && shown == self.challenge
    }
}

/// The person has decided: back to where the question came from.
async fn consented(State(inner): State<Arc<Inner>>, uri: Uri, body: String) -> Response {
    let parts = |text: &str| form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let question: BTreeMap<String, String> = parts(uri.query().unwrap_or_default());
    let decision: BTreeMap<String, String> = parts(&body);
    let Some(redirect_uri) = question.get("redirect_uri") else {
        return refusal(StatusCode::BAD_REQUEST, "invalid_request");
    };
    let mut answer = form_urlencoded::Serializer::new(String::new());
    if decision.get("decision").map(String::as_str) == Some("allow") {
        let code = random();
        let person = decision.get("person").filter(|person| !person.is_empty());
        let now = inner.clock.now();
        let consent = Code {
            expires_at: unix_ms(now + CODE_LIFE),
            person: person.map_or_else(|| "bob".to_owned(), Clone::clone),
            redirect_uri: redirect_uri.clone(),
            challenge: question.get("code_challenge").cloned(),
        };
        let mut state = inner.state.lock();
        state.codes.retain(|_, code| code.expires_at > unix_ms(now));
        state.codes.insert(code.clone(), consent);
        if inner.save(&state).is_err() {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        answer.append_pair("code", &code);
    } else {
        answer.append_pair("error", "access_denied");
    }
    if let Some(state) = question.get("state") {
        answer.append_pair("state", state);
    }
    let joint = if redirect_uri.contains('?') { '&' } else { '?' };
    let address = format!("{redirect_uri}{joint}{}", answer.finish());
    (StatusCode::SEE_OTHER, [(header::LOCATION, address)]).into_response()
}

/// The API that tokens are for: who am I?
async fn me(State(inner): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    let now = unix_ms(inner.clock.now());
    let state = inner.state.lock();
    let live = token.is_some_and(|token| state.access.get(token).is_some_and(|end| *end > now));
    if live {
        axum_json(StatusCode::OK, &json!({ "hello": "from the demo API" }))
    } else {
        refusal(StatusCode::UNAUTHORIZED, "invalid_token")
    }
}

fn authenticated(headers: &HeaderMap, secret: &str) -> bool {
    let wanted = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{secret}")));
    headers.get(header::AUTHORIZATION).is_some_and(|given| given.as_bytes() == wanted.as_bytes())
}

fn refusal(status: StatusCode, error: &str) -> Response {
    axum_json(status, &json!({ "error": error }))
}

fn axum_json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn random() -> String {
    let mut bytes = [0; TOKEN_BYTES];
    keyring::fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}
