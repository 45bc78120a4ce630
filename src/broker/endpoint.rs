//! The seam to providers: what the domain asks of a token endpoint, and what it may answer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::broker::model::{Cause, ClientFingerprint, DoubtKind, ProviderId, Reason};
use crate::secret::{
    AccessToken, Account, AuthorizationCode, CodeVerifier, EnrolmentState, Nonce, RefreshToken,
};
use async_trait::async_trait;

/// Exchanges what a grant holds for an access token.
///
/// Contract: one call makes at most one request. It follows no redirect, retries nothing, and
/// comes back within the provider's deadline. A refresh token found in any reply is handed over,
/// whatever else is wrong with the reply.
#[async_trait]
pub trait TokenEndpoint: Send + Sync + 'static {
    /// Sends `request` to `provider` once.
    async fn exchange(&self, provider: &ProviderId, request: Request, proof: Proof) -> Reply;

    /// Sees to it that `exchange` knows where to send: asked before anything is claimed, because it
    /// may take a while.
    async fn ready(&self, provider: &ProviderId) -> Result<(), Failure>;

    /// The same for `revoke`.
    async fn ready_to_revoke(&self, provider: &ProviderId) -> Result<(), NotRevoked>;

    /// Takes a token back (RFC 7009): what a provider does not know counts as taken back. May be
    /// asked again.
    async fn revoke(&self, provider: &ProviderId, token: Revocable) -> Result<(), NotRevoked>;

    /// Says who the providers are.
    fn providers(&self) -> Vec<ProviderSummary>;

    /// What our client is at this provider now; `None`: there is no such provider.
    fn client(&self, provider: &ProviderId) -> Option<ClientFingerprint>;

    /// How people are asked for these scopes, as configured and as the provider itself says. What is
    /// needed to read its answer is there then.
    async fn consent(&self, provider: &ProviderId, scopes: &[String]) -> Result<Consent, Failure>;

    /// The URL at which a person is asked; `None`: this provider asks nobody.
    async fn authorization_url(
        &self,
        provider: &ProviderId,
        question: Question<'_>,
    ) -> Result<Option<String>, Failure>;
}

/// What we prove ourselves by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Proof {
    /// What was taken last.
    #[default]
    InUse,
    /// The other secret, where that was refused.
    Other,
}

/// What can be taken back.
#[derive(Debug, Clone)]
pub enum Revocable {
    /// And with it all that was got for it, at most providers.
    Refresh(RefreshToken),
    /// Where there is no refresh token.
    Access(AccessToken),
}

/// Why a token was not taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRevoked {
    /// The provider has no endpoint for that.
    Unsupported,
    /// It failed.
    Failed(Failure),
}

/// What operators see of a provider.
#[derive(Debug, Clone)]
pub struct ProviderSummary {
    /// Its name.
    pub id: ProviderId,
    /// Its habits.
    pub profile: String,
    /// Where tokens are fetched.
    pub token_endpoint: String,
    /// Our client id.
    pub client_id: String,
    /// How it treats refresh tokens.
    pub habits: Habits,
}

/// How a provider asks people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Consent {
    /// Where answers go if nothing else is said.
    pub redirect_uri: Option<String>,
    /// The code is bound to a verifier (RFC 7636).
    pub pkce: bool,
    /// Who must have answered, where answers say it (RFC 9207).
    pub issuer: Option<String>,
    /// Its answers always say it.
    pub names_issuer: bool,
    /// It says who the person is, signed, and repeats a nonce in that (OpenID Connect).
    pub signs_people: bool,
}

/// What a person is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Comes back with the answer.
    pub state: &'a EnrolmentState,
    /// Binds the code; its hash is shown.
    pub verifier: Option<&'a CodeVerifier>,
    /// Comes back within what is said of the person.
    pub nonce: Option<&'a Nonce>,
    /// Where the answer goes.
    pub redirect_uri: &'a str,
    /// What is asked for.
    pub scopes: &'a [String],
}

/// How a provider treats requests and refresh tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Habits {
    /// For how long an answer is listened for; a request is over by then.
    pub listen_max: Duration,
    /// A use may spend a refresh token.
    pub single_use: bool,
    /// A spent one still works for a while, as the provider documents it.
    pub replay: Option<Replay>,
    /// Statuses that the server itself sends which processes the request, so that nothing of it
    /// is under way any more. Gateways answer before the server behind them has finished.
    pub settled_statuses: Vec<u16>,
    /// A refresh token that is not used for longer than this may die of it, so that also grants
    /// which nobody asks for are refreshed.
    pub keep_warm_every: Option<Duration>,
    /// Refresh tokens in doubt are presented again unasked.
    pub resends: bool,
    /// Most of them in a second, once the provider is well again.
    pub resend_rate: u32,
    /// Most refreshes in a second, of all replicas together.
    pub rate: u32,
    /// Most refreshes of one replica that wait for an answer.
    pub concurrency: usize,
    /// Longest wait that it can ask for (`Retry-After`).
    pub retry_after_max: Duration,
}

/// A spent refresh token still works for a while: what is lost of an answer can be fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// For so long, counted from its first use.
    pub within: Duration,
    /// What another use brings.
    pub again: Again,
    /// Where the rules leave no moment for it, it is presented all the same: a request that is processed
    /// very late may then end the grant (I2 of the invariants).
    pub early: bool,
}

/// What another use of a spent refresh token brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// The pair of the first use.
    Same,
    /// Another pair; both are good.
    Both,
    /// Another pair; the one before is dead.
    OlderDies,
}

/// Callers give up far sooner. A provider that has become slow commits what it answers late, and
/// who has hung up by then has lost a chain.
pub const LISTEN_MAX: Duration = Duration::from_secs(60);

/// Resends in a second where nothing else is said: far below any limit that was ever documented.
pub const RESEND_RATE: u32 = 20;

/// Refreshes in a second where nothing else is said: 360,000 grants with tokens of an hour.
pub const RATE: u32 = 100;

/// Refreshes under way where nothing else is said: as many connections, and no more.
pub const CONCURRENCY: usize = 128;

/// Milliseconds are sent as seconds, and whoever means a day is asked again before it is over: a
/// refusal costs nothing.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

impl Default for Habits {
    fn default() -> Self {
        Self {
            listen_max: LISTEN_MAX,
            single_use: true,
            replay: None,
            settled_statuses: Vec::new(),
            keep_warm_every: None,
            resends: true,
            resend_rate: RESEND_RATE,
            rate: RATE,
            concurrency: CONCURRENCY,
            retry_after_max: RETRY_AFTER_MAX,
        }
    }
}

/// What to exchange.
#[derive(Debug, Clone)]
pub enum Request {
    /// RFC 6749 section 6. Scopes are not sent: leaving them out means "as granted".
    RefreshToken(RefreshToken),
    /// RFC 6749 section 4.1.3; a code is good for one use, whatever comes of it.
    AuthorizationCode {
        /// What the person's consent brought.
        code: AuthorizationCode,
        /// Exactly as it was sent with the question.
        redirect_uri: String,
        /// What the code is bound to.
        verifier: Option<CodeVerifier>,
        /// What the provider must repeat where it says who the person is; `None`: it need not say.
        nonce: Option<Nonce>,
    },
    /// RFC 6749 section 4.4.
    ClientCredentials {
        /// Scopes to ask for.
        scopes: Vec<String>,
    },
}

/// What came back. The refresh token stands apart, because it must be made durable before
/// anything else of the reply is judged.
#[derive(Debug, Clone)]
pub struct Reply {
    /// A new refresh token; absent if the old one stays.
    pub refresh_token: Option<RefreshToken>,
    /// How long the new refresh token lives, if the reply says so.
    pub refresh_token_lifetime: Option<Duration>,
    /// The access token, or why there is none.
    pub issued: Result<Issued, Failure>,
    /// Whose consent a code stood for, if the provider says so; or why that is not believed.
    pub account: Result<Option<Account>, String>,
}

impl Reply {
    /// One that brings nothing else.
    pub fn of(issued: Result<Issued, Failure>) -> Self {
        Self { refresh_token: None, refresh_token_lifetime: None, issued, account: Ok(None) }
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        Self::of(Err(failure))
    }
}

/// A new access token.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The secret.
    pub access_token: AccessToken,
    /// `Bearer` if the reply does not say.
    pub token_type: String,
    /// Counted from before the request was sent.
    pub lifetime: Duration,
    /// When to refresh, if the reply says so.
    pub refresh_in: Option<Duration>,
    /// Empty if the reply does not say, which means "as asked".
    pub scopes: Vec<String>,
    /// Further fields of the reply that the configuration lets through.
    pub attributes: BTreeMap<String, String>,
}

/// What a failure means for the refresh token that was to be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// No byte of the request left: try again at will.
    NotSent,
    /// The provider answered that it did not process the request: the token is as good as before.
    NotProcessed,
    /// The provider refused the token for good.
    Refused,
    /// The request left and its effect is not known: the token may be spent.
    Unknown(DoubtKind),
}

/// Why a provider was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreached {
    /// Its name leads nowhere.
    Name,
    /// No connection came about.
    Connection,
    /// It came about, and TLS did not.
    Tls,
    /// Nothing came back in time.
    Silence,
}

impl Unreached {
    /// All values, for tables and tests.
    pub const ALL: [Self; 4] = [Self::Name, Self::Connection, Self::Tls, Self::Silence];

    /// Label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Silence => "silence",
        }
    }
}

/// Whose request met a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// Its own.
    Itself,
    /// Those of others; nothing was sent for this one.
    Others,
    /// Nobody's: the queue is too long, and the provider knows nothing of it.
    Queue,
}

/// Why there is no access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub reason: Reason,
    /// What it means for the refresh token.
    pub disposition: Disposition,
    /// Whose request met it.
    pub met: Met,
    /// What we prove ourselves by was refused, and there is something else to try at once.
    pub other_secret: bool,
    /// HTTP status, if there was a reply.
    pub status: Option<u16>,
    /// The provider's error code, cut and cleaned.
    pub provider_error: Option<String>,
    /// What else it said, for operators, or why it was not reached; cut and cleaned.
    pub detail: Option<String>,
    /// Why it was not reached, if it was not.
    pub unreached: Option<Unreached>,
    /// How long the provider asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of a grant's own request of which nothing else is known.
    pub fn new(reason: Reason, disposition: Disposition) -> Self {
        Self {
            reason,
            disposition,
            met: Met::Itself,
            other_secret: false,
            status: None,
            provider_error: None,
            detail: None,
            unreached: None,
            retry_after: None,
        }
    }

    /// What those are told for whom nothing is sent, because others met this.
    pub fn of_others(cause: &Cause) -> Self {
        let Cause { reason, status, said, detail } = cause.clone();
        let failure = Self::new(reason, Disposition::NotProcessed);
        Self { met: Met::Others, status, provider_error: said, detail, ..failure }
    }

    /// The provider has answered this grant's request, and did not process it.
    pub fn is_answer(&self) -> bool {
        self.disposition == Disposition::NotProcessed
            && self.met == Met::Itself
            && self.status.is_some()
    }

    /// The same, as it is kept.
    pub fn cause(&self) -> Cause {
        let Self { reason, status, provider_error: said, detail, .. } = self.clone();
        Cause { reason, status, said, detail }
    }
}
