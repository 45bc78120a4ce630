//! A strict authorization server: a refresh token is good for one use, a second use revokes the
//! family, and every use is written into a ledger that tests read as the judge.
//!
//! It shares no code with the broker. It is asked in process (paused time) or over HTTP.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use token_broker::broker::endpoint::{
    Consent, Disposition, Failure, Habits, Issued, NotRevoked, Proof, ProviderSummary, Question,
    Reply, Request, Revocable, TokenEndpoint,
};
use token_broker::broker::model::{ClientFingerprint, DoubtKind, ProviderId, Reason};
use token_broker::secret::{AccessToken, RefreshToken};
use token_broker::upstream::assertion::JWT_BEARER;

use crate::support::signer::Signer;

const SECOND: Duration = Duration::from_secs(1);

/// What goes wrong with the next request, in order.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection is refused: nothing arrives.
    Unreachable,
    /// The request is processed and the answer lost.
    LostAnswer,
    /// The answer is this instead, and nothing is processed.
    Answer(u16, &'static str),
    /// The same, and it says when to come back.
    AnswerLater(u16, Duration),
    /// The request is processed, but the answer holds no refresh token.
    KeepsRefreshToken,
    /// The request is processed, and of the answer only the refresh token can be read.
    OnlyRefreshToken,
    /// The request leaves and the task that sent it falls over. In process only.
    Panic,
    /// It goes wrong before the request is processed. Over HTTP only.
    Before(Way),
    /// It goes wrong after the request was processed. Over HTTP only.
    After(Way),
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The answer is this status.
    Status(u16),
    /// The connection ends without an answer.
    Reset,
    /// No answer comes.
    Hang,
}

impl Way {
    async fn answer(self) -> Response {
        match self {
            Self::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
            // The task of the connection ends, and with it the connection.
            Self::Reset => std::panic::resume_unwind(Box::new("reset")),
            Self::Hang => std::future::pending().await,
        }
    }
}

#[derive(Default)]
struct Books {
    /// The good refresh token of each person.
    current: HashMap<String, String>,
    /// Whose each refresh token is or was.
    owner: HashMap<String, String>,
    /// What codes stand for that were not spent yet.
    codes: HashMap<String, Code>,
    /// Codes that arrived, in order.
    exchanged: Vec<String>,
    /// Every refresh token that arrived, in order.
    presented: Vec<String>,
    /// Requests of any kind that arrived.
    posts: usize,
    /// In process, what stands for the client that asks; another one after a change.
    asks: u8,
    /// Requests that were processed.
    rotations: usize,
    revoked: Vec<String>,
    /// A spent token brings its pair again for so long.
    again_for: Option<Duration>,
    /// What each spent token brought, and when.
    brought: HashMap<String, (tokio::time::Instant, String, Option<String>)>,
    /// When each access token was made.
    issued: HashMap<String, tokio::time::Instant>,
    faults: VecDeque<Fault>,
    /// What goes wrong with every request for as long as it lasts.
    outage: Option<Fault>,
    /// What goes wrong with every request for these people.
    dead: HashMap<String, Fault>,
    /// What goes wrong with one request in so many.
    refuses_every: Option<(usize, Fault)>,
    /// What goes wrong with requests of the client for itself.
    refuses_services: Option<Fault>,
    habits: Habits,
    arrivals: Vec<tokio::time::Instant>,
    /// Requests in any second that it bears, and how many it has turned away.
    allowed: Option<usize>,
    turned_away: usize,
    /// In process, answers of this provider take longer.
    slow: Option<(ProviderId, Duration)>,
    serial: usize,
    lifetime_s: u64,
    refresh_lifetime: Option<Duration>,
    delay: Duration,
    secrets: Vec<String>,
    /// Tokens that were taken back, in order.
    taken_back: Vec<String>,
    /// What comes of taking one back, if not success.
    keeps: Option<(u16, &'static str)>,
    /// What the server says of itself.
    document: Option<serde_json::Value>,
    /// It signs who consented.
    signer: Option<Signer>,
    /// What stands in that, instead of what should.
    lies: serde_json::Map<String, serde_json::Value>,
    /// The only client that it knows signs who it is.
    client: Option<Signer>,
    /// Passwords of clients that it takes, if it looks at them.
    passwords: Option<Vec<String>>,
    /// What it says of others.
    refusal: Option<(u16, &'static str)>,
    /// Words that were used once, in assertions.
    words: std::collections::BTreeSet<String>,
}

/// A person's consent to a question.
#[derive(Clone)]
struct Code {
    person: String,
    redirect_uri: String,
    challenge: Option<String>,
    nonce: Option<String>,
}

/// The server.
#[derive(Clone)]
pub(crate) struct Authority(Arc<Mutex<Books>>);

/// A processed request: access token and, if rotated, refresh token.
enum Answer {
    Pair(String, Option<String>),
    /// With the person, and the nonce.
    Consent(String, String, Code),
    InvalidGrant,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let books = Books { lifetime_s: 3600, ..Books::default() };
        Self(Arc::new(Mutex::new(books)))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap()
    }

    pub(crate) fn lifetime(self, lifetime: Duration) -> Self {
        self.books().lifetime_s = lifetime.as_secs();
        self
    }

    /// Replies say that refresh tokens live so long.
    pub(crate) fn refresh_lifetime(self, lifetime: Duration) -> Self {
        self.books().refresh_lifetime = Some(lifetime);
        self
    }

    pub(crate) fn habits(self, habits: Habits) -> Self {
        self.books().habits = habits;
        self
    }

    /// Requests above so many in a second are turned away.
    pub(crate) fn allows(self, requests: usize) -> Self {
        self.books().allowed = Some(requests);
        self
    }

    /// Requests that were turned away.
    pub(crate) fn turned_away(&self) -> usize {
        self.books().turned_away
    }

    /// Answers of this provider take so long. In process only.
    pub(crate) fn slow(&self, provider: &str, delay: Duration) {
        self.books().slow = Some((ProviderId::new(provider), delay));
    }

    /// When requests arrived.
    pub(crate) fn arrivals(&self) -> Vec<tokio::time::Instant> {
        self.books().arrivals.clone()
    }

    /// Every answer takes this long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.books().delay = delay;
    }

    pub(crate) fn next(&self, fault: Fault) {
        self.books().faults.push_back(fault);
    }

    /// From now on this goes wrong with every request; `None` ends it.
    pub(crate) fn outage(&self, fault: Option<Fault>) {
        self.books().outage = fault;
    }

    /// From now on a spent token brings its pair again for so long.
    pub(crate) fn gives_again(self, within: Duration) -> Self {
        self.books().again_for = Some(within);
        self
    }

    /// How old this access token was at that moment.
    pub(crate) fn age(&self, access: &str, at: tokio::time::Instant) -> Duration {
        at.saturating_duration_since(self.books().issued[access])
    }

    /// In process, whoever starts from now on asks as another client.
    pub(crate) fn ask_as(&self, client: u8) {
        self.books().asks = client;
    }

    /// From now on this goes wrong with every request for this person.
    pub(crate) fn dead(&self, person: &str, fault: Fault) {
        self.books().dead.insert(person.to_owned(), fault);
    }

    /// From now on this goes wrong with one request in so many.
    pub(crate) fn refuses_every(&self, fault: Option<(usize, Fault)>) {
        self.books().refuses_every = fault;
    }

    /// From now on this goes wrong with every request of the client for itself.
    pub(crate) fn refuses_services(&self, fault: Option<Fault>) {
        self.books().refuses_services = fault;
    }

    /// Nothing goes wrong with requests for this person any more.
    pub(crate) fn alive(&self, person: &str) {
        self.books().dead.remove(person);
    }

    /// A person consents; the family begins anew.
    pub(crate) fn consent(&self, person: &str) -> String {
        self.books().refresh_token(person)
    }

    /// A person consents to the question at `url`; gives the address that the browser is sent to.
    pub(crate) fn answer(&self, person: &str, url: &str) -> String {
        let url = url::Url::parse(url).unwrap();
        let question: HashMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(question["response_type"], "code");
        let mut books = self.books();
        books.serial += 1;
        let code = format!("code-canary-{}", books.serial);
        books.secrets.push(code.clone());
        let (redirect_uri, challenge) =
            (question["redirect_uri"].clone(), question.get("code_challenge").cloned());
        let address = format!("{redirect_uri}?code={code}&state={}", question["state"]);
        let person = person.to_owned();
        let nonce = question.get("nonce").cloned();
        books.codes.insert(code, Code { person, redirect_uri, challenge, nonce });
        address
    }

    /// Tokens that were taken back, in order.
    pub(crate) fn taken_back(&self) -> Vec<String> {
        self.books().taken_back.clone()
    }

    /// From now on taking a token back is answered with this.
    pub(crate) fn keeps(&self, answer: Option<(u16, &'static str)>) {
        self.books().keeps = answer;
    }

    /// From now on the server signs who consented, with a new key.
    pub(crate) fn signs(&self) {
        self.books().signer = Some(Signer::new());
    }

    /// The same, under the name of the key before.
    pub(crate) fn signs_anew_under_the_old_name(&self) {
        let mut books = self.books();
        let before = books.signer.take().unwrap();
        books.signer = Some(Signer::new().named_as(&before));
    }

    /// From now on this stands in what it signs.
    pub(crate) fn lies(&self, claims: &serde_json::Value) {
        self.books().lies.clone_from(claims.as_object().unwrap());
    }

    /// From now on the client must sign who it is; gives its key in PEM.
    pub(crate) fn signed_client(&self) -> String {
        let client = Signer::new();
        let pem = client.pem();
        self.books().client = Some(client);
        pem
    }

    /// From now on the server says this of itself.
    pub(crate) fn document(&self, document: serde_json::Value) {
        self.books().document = Some(document);
    }

    /// Requests that were processed so far.
    pub(crate) fn rotations(&self) -> usize {
        self.books().rotations
    }

    /// Requests that arrived so far.
    pub(crate) fn posts(&self) -> usize {
        self.books().posts
    }

    /// From now on clients are known by one of these passwords.
    pub(crate) fn takes(&self, passwords: &[&str]) {
        self.books().passwords = Some(passwords.iter().map(|it| (*it).to_owned()).collect());
    }

    /// What it says of clients with another password, from now on.
    pub(crate) fn says_of_others(&self, status: u16, body: &'static str) {
        self.books().refusal = Some((status, body));
    }

    /// The client comes with another password than those.
    fn refuses(&self, headers: &HeaderMap) -> bool {
        let books = self.books();
        let Some(passwords) = &books.passwords else { return false };
        let given = headers["authorization"].to_str().unwrap().strip_prefix("Basic ").unwrap();
        let given = String::from_utf8(STANDARD.decode(given).unwrap()).unwrap();
        !passwords.iter().any(|password| given == format!("id:{password}"))
    }

    /// All tokens and secrets that ever were.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.books().secrets.clone()
    }

    /// The good refresh token of a person.
    pub(crate) fn head(&self, person: &str) -> Option<String> {
        self.books().current.get(person).cloned()
    }

    /// No family was revoked.
    pub(crate) fn audit_families(&self) {
        let revoked = self.books().revoked.clone();
        assert!(revoked.is_empty(), "families revoked: {revoked:?}");
    }

    /// Each refresh token came once, and no family was revoked.
    pub(crate) fn audit(&self) {
        let books = self.books();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for token in &books.presented {
            *counts.entry(token).or_default() += 1;
        }
        let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "refresh tokens that came more than once: {twice:?}");
        let codes: std::collections::BTreeSet<_> = books.exchanged.iter().collect();
        assert_eq!(codes.len(), books.exchanged.len(), "codes that came more than once");
        assert!(books.revoked.is_empty(), "families revoked: {:?}", books.revoked);
    }

    /// Serves over HTTP; gives the base URL.
    pub(crate) async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let listener = listener.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .route("/keys", get(keys))
            .route("/.well-known/openid-configuration", get(document))
            .with_state(self.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        base
    }

    fn arrive(&self, refresh_token: Option<&str>) -> (Option<Fault>, Duration) {
        let mut books = self.books();
        let person = refresh_token.and_then(|token| books.owner.get(token));
        let dead = person.and_then(|person| books.dead.get(person)).cloned();
        let fault = books.faults.pop_front().or_else(|| books.outage.clone()).or(dead);
        let service = books.refuses_services.clone().filter(|_| refresh_token.is_none());
        let posts = books.posts;
        let one_in = |(every, fault)| (posts % every == every - 1).then_some(fault);
        let fault = fault.or(service).or_else(|| books.refuses_every.clone().and_then(one_in));
        if matches!(fault, Some(Fault::Unreachable)) {
            return (fault, books.delay);
        }
        let now = tokio::time::Instant::now();
        let lately = |at: &&tokio::time::Instant| now.duration_since(**at) < SECOND;
        let before = books.arrivals.iter().rev().take_while(lately).count();
        books.posts += 1;
        books.arrivals.push(now);
        if books.allowed.is_some_and(|allowed| before >= allowed) {
            books.turned_away += 1;
            return (Some(Fault::AnswerLater(429, SECOND)), books.delay);
        }
        (fault, books.delay)
    }
}

impl Books {
    fn refresh_token(&mut self, person: &str) -> String {
        self.serial += 1;
        let token = format!("refresh-canary-{person}-{}", self.serial);
        self.current.insert(person.to_owned(), token.clone());
        self.owner.insert(token.clone(), person.to_owned());
        self.secrets.push(token.clone());
        token
    }

    fn access_token(&mut self) -> String {
        self.serial += 1;
        let token = format!("access-canary-{}", self.serial);
        self.secrets.push(token.clone());
        self.issued.insert(token.clone(), tokio::time::Instant::now());
        token
    }

    /// A code is presented.
    fn exchange(&mut self, form: &HashMap<String, String>) -> Answer {
        self.exchanged.push(form["code"].clone());
        let Some(code) = self.codes.remove(&form["code"]) else { return Answer::InvalidGrant };
        let challenge = form
            .get("code_verifier")
            .map(|verifier| token_broker::secret::CodeVerifier::new(verifier).challenge());
        if code.redirect_uri != form["redirect_uri"] || code.challenge != challenge {
            return Answer::InvalidGrant;
        }
        Answer::Consent(self.access_token(), self.refresh_token(&code.person), code)
    }

    fn id_token(&self, person: &str, nonce: &str) -> String {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let document = self.document.as_ref().unwrap();
        let mut claims = serde_json::json!({
            "iss": document["issuer"], "sub": person, "aud": "id", "nonce": nonce,
            "iat": now, "exp": now + 300,
        });
        claims.as_object_mut().unwrap().extend(self.lies.clone());
        self.signer.as_ref().unwrap().sign(&claims)
    }

    /// The client is who it says.
    fn knows(&mut self, headers: &HeaderMap, form: &HashMap<String, String>) {
        let Some(client) = &self.client else {
            assert!(headers.contains_key("authorization"), "the client did not authenticate");
            return;
        };
        assert!(!headers.contains_key("authorization") && !form.contains_key("client_secret"));
        assert_eq!(form["client_assertion_type"], JWT_BEARER);
        let claims = client.opened(&form["client_assertion"]);
        assert_eq!((&claims["iss"], &claims["sub"]), (&"id".into(), &"id".into()));
        assert!(claims["aud"].as_str().unwrap().ends_with("/token"), "{claims}");
        let word = claims["jti"].as_str().unwrap().to_owned();
        assert!(self.words.insert(word), "an assertion came twice");
    }

    /// `token` is taken back, and its family with it.
    fn take_back(&mut self, token: &str) {
        self.taken_back.push(token.to_owned());
        if let Some(person) = self.owner.get(token) {
            self.current.remove(person);
        }
    }

    /// `token` is presented; `rotates` says whether a new one takes its place.
    fn spend(&mut self, token: &str, rotates: bool) -> Answer {
        self.presented.push(token.to_owned());
        let Some(person) = self.owner.get(token).cloned() else { return Answer::InvalidGrant };
        if let Some((at, access, refresh)) = self.brought.get(token)
            && self.again_for.is_some_and(|window| at.elapsed() <= window)
        {
            return Answer::Pair(access.clone(), refresh.clone());
        }
        if self.current.get(&person).map(String::as_str) != Some(token) {
            self.current.remove(&person);
            self.revoked.push(person);
            return Answer::InvalidGrant;
        }
        self.rotations += 1;
        let access = self.access_token();
        let refresh = rotates.then(|| self.refresh_token(&person));
        let brought = (tokio::time::Instant::now(), access.clone(), refresh.clone());
        self.brought.insert(token.to_owned(), brought);
        Answer::Pair(access, refresh)
    }
}

#[async_trait]
impl TokenEndpoint for Authority {
    async fn exchange(&self, provider: &ProviderId, request: Request, _: Proof) -> Reply {
        let refresh_token = match &request {
            Request::RefreshToken(token) => Some(token.expose()),
            Request::ClientCredentials { .. } | Request::AuthorizationCode { .. } => None,
        };
        let (fault, delay) = self.arrive(refresh_token);
        let slow = self.books().slow.clone().filter(|(of, _)| of == provider);
        tokio::time::sleep(slow.map_or(delay, |(_, delay)| delay)).await;
        if matches!(fault, Some(Fault::Panic)) {
            std::panic::resume_unwind(Box::new("panic"));
        }
        let mut books = self.books();
        let (access, refresh) = match (&fault, request) {
            (Some(Fault::Unreachable), _) => {
                return Failure::new(Reason::ProviderUnreachable, Disposition::NotSent).into();
            }
            (Some(Fault::Answer(status, body)), _) => return answered(*status, body, None).into(),
            (Some(Fault::AnswerLater(status, wait)), _) => {
                return answered(*status, "", Some(*wait)).into();
            }
            (Some(Fault::Before(_) | Fault::After(_)), _) => panic!("over HTTP only"),
            (_, Request::ClientCredentials { .. } | Request::AuthorizationCode { .. }) => {
                (books.access_token(), None)
            }
            (fault, Request::RefreshToken(token)) => {
                let rotates = !matches!(fault, Some(Fault::KeepsRefreshToken));
                match books.spend(token.expose(), rotates) {
                    Answer::Pair(access, refresh) => (access, refresh),
                    Answer::Consent(..) | Answer::InvalidGrant => {
                        return answered(400, "invalid_grant", None).into();
                    }
                }
            }
        };
        if matches!(fault, Some(Fault::LostAnswer)) {
            return Failure::new(
                Reason::RefreshOutcomeUnknown,
                Disposition::Unknown(DoubtKind::Ended),
            )
            .into();
        }
        let issued = match fault {
            Some(Fault::OnlyRefreshToken) => Err(Failure::new(
                Reason::RefreshReplyUnreadable,
                Disposition::Unknown(DoubtKind::Unreadable),
            )),
            _ => Ok(Issued {
                access_token: AccessToken::new(access),
                token_type: "Bearer".to_owned(),
                lifetime: Duration::from_secs(books.lifetime_s),
                refresh_in: None,
                scopes: Vec::new(),
                attributes: BTreeMap::new(),
            }),
        };
        let refresh_token = refresh.map(RefreshToken::new);
        let refresh_token_lifetime = books.refresh_lifetime;
        Reply { refresh_token, refresh_token_lifetime, ..Reply::of(issued) }
    }

    fn client(&self, _: &ProviderId) -> Option<ClientFingerprint> {
        Some(ClientFingerprint([self.books().asks; 32]))
    }

    fn providers(&self) -> Vec<ProviderSummary> {
        ["kroger", "other"]
            .map(|name| ProviderSummary {
                id: ProviderId::new(name),
                profile: "kroger".to_owned(),
                token_endpoint: "in process".to_owned(),
                client_id: "id".to_owned(),
                habits: self.books().habits.clone(),
            })
            .to_vec()
    }

    async fn ready(&self, _: &ProviderId) -> Result<(), Failure> {
        Ok(())
    }

    async fn ready_to_revoke(&self, _: &ProviderId) -> Result<(), NotRevoked> {
        Ok(())
    }

    async fn revoke(&self, _: &ProviderId, token: Revocable) -> Result<(), NotRevoked> {
        if let Revocable::Refresh(token) = token {
            self.books().take_back(token.expose());
        }
        Ok(())
    }

    async fn consent(&self, _: &ProviderId, _: &[String]) -> Result<Consent, Failure> {
        Ok(Consent::default())
    }

    async fn authorization_url(
        &self,
        _: &ProviderId,
        question: Question<'_>,
    ) -> Result<Option<String>, Failure> {
        Ok(Some(format!("https://provider.example/?state={}", question.state.expose())))
    }
}

/// What such an answer means to the domain.
fn answered(status: u16, body: &str, retry_after: Option<Duration>) -> Failure {
    let unknown = Disposition::Unknown(DoubtKind::Answered);
    let (reason, disposition) = match status {
        401 | 403 if body.contains("invalid_grant") => {
            (Reason::GrantReauthRequired, Disposition::Refused)
        }
        403 if body.contains("unauthorized_client") => {
            (Reason::ClientNotAuthorized, Disposition::NotProcessed)
        }
        403 => (Reason::ProviderUnavailable, Disposition::NotProcessed),
        404 => (Reason::ProviderEndpointMisconfigured, Disposition::NotProcessed),
        400 if body.contains("unknown") => {
            (Reason::ProviderUnrecognizedError, Disposition::NotProcessed)
        }
        400 => (Reason::GrantReauthRequired, Disposition::Refused),
        401 => (Reason::ClientCredentialsRejected, Disposition::NotProcessed),
        418 => (Reason::ProviderUnrecognizedError, Disposition::NotProcessed),
        429 => (Reason::ProviderRateLimited, Disposition::NotProcessed),
        _ => (Reason::RefreshOutcomeUnknown, unknown),
    };
    Failure { status: Some(status), retry_after, ..Failure::new(reason, disposition) }
}

async fn token(State(authority): State<Authority>, headers: HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> =
        form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    if authority.refuses(&headers) {
        let refusal = authority.books().refusal;
        let (status, body) = refusal.unwrap_or((401, r#"{"error":"invalid_client"}"#));
        return (StatusCode::from_u16(status).unwrap(), body).into_response();
    }
    authority.books().knows(&headers, &form);
    let (fault, delay) = authority.arrive(form.get("refresh_token").map(String::as_str));
    tokio::time::sleep(delay).await;
    if let Some(Fault::Before(way)) = fault {
        return way.answer().await;
    }
    let answer = processed(&authority, fault.as_ref(), &form);
    match fault {
        Some(Fault::After(way)) => way.answer().await,
        _ => answer,
    }
}

async fn revoke(State(authority): State<Authority>, headers: HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> =
        form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    authority.books().knows(&headers, &form);
    let delay = authority.books().delay;
    tokio::time::sleep(delay).await;
    let mut books = authority.books();
    if let Some((status, body)) = books.keeps {
        return (StatusCode::from_u16(status).unwrap(), body).into_response();
    }
    assert_eq!(form["token_type_hint"], "refresh_token");
    books.take_back(&form["token"]);
    StatusCode::OK.into_response()
}

async fn keys(State(authority): State<Authority>) -> String {
    authority.books().signer.as_ref().unwrap().published().to_string()
}

async fn document(State(authority): State<Authority>) -> Response {
    match &authority.books().document {
        Some(document) => document.to_string().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn processed(
    authority: &Authority,
    fault: Option<&Fault>,
    form: &HashMap<String, String>,
) -> Response {
    let mut books = authority.books();
    match fault {
        Some(Fault::Answer(status, body)) => {
            return (StatusCode::from_u16(*status).unwrap(), *body).into_response();
        }
        Some(Fault::AnswerLater(status, wait)) => {
            let wait = [("retry-after", wait.as_secs().to_string())];
            return (StatusCode::from_u16(*status).unwrap(), wait).into_response();
        }
        _ => {}
    }
    let mut consent = None;
    let (access, refresh) = match form["grant_type"].as_str() {
        "client_credentials" => (books.access_token(), None),
        kind => {
            let rotates = !matches!(fault, Some(Fault::KeepsRefreshToken));
            let answer = match kind {
                "authorization_code" => books.exchange(form),
                _ => books.spend(&form["refresh_token"], rotates),
            };
            match answer {
                Answer::Pair(access, refresh) => (access, refresh.filter(|_| rotates)),
                Answer::Consent(access, refresh, code) => {
                    consent = Some(code);
                    (access, Some(refresh).filter(|_| rotates))
                }
                Answer::InvalidGrant => {
                    let body = r#"{"error":"invalid_grant"}"#;
                    return (StatusCode::BAD_REQUEST, body).into_response();
                }
            }
        }
    };
    let mut reply = serde_json::json!({ "access_token": access, "expires_in": books.lifetime_s });
    if let Some(refresh) = refresh {
        reply["refresh_token"] = refresh.into();
    }
    if let Some(Code { person, nonce, .. }) = consent {
        reply["person"] = serde_json::json!({ "id": person });
        if let Some(nonce) = nonce {
            reply["id_token"] = books.id_token(&person, &nonce).into();
        }
    }
    match fault {
        // Promises more than it sends, so the connection ends in the middle of the answer.
        Some(Fault::LostAnswer) => broken(),
        Some(Fault::OnlyRefreshToken) => {
            format!(r#"{{"refresh_token":{},"access_tok"#, reply["refresh_token"]).into_response()
        }
        _ => reply.to_string().into_response(),
    }
}

fn broken() -> Response {
    let chunks = vec![Ok(""), Err(std::io::Error::other("cut"))];
    Response::new(Body::from_stream(tokio_stream::iter(chunks)))
}
