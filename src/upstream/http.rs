//! Requests to providers: what is sent to a token endpoint is sent at most once, whatever happens.
//!
//! `dial` makes a connection, `wire` asks on it, `recorder` and `reread` keep and read what a parser gives up
//! on, `arrived` chooses; `metadata` is what providers say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT,
};
use reqwest::Client;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};
use url::{Position, Url};

use crate::broker::endpoint::{
    self, Consent, Disposition, Failure, NotRevoked, Proof, Question, Reply, Request, Revocable,
    TokenEndpoint,
};
use crate::broker::model::{ClientFingerprint, DoubtKind, ProviderId, Reason};
use crate::clock::Clock;
use crate::secret::{Account, Nonce};
use crate::upstream::authorize::authorization_url;
use crate::upstream::form::Form;
use crate::upstream::http::arrived::{arrivals, fullest};
use crate::upstream::http::dial::{Dialer, NotReached};
use crate::upstream::http::metadata::{Freshness, Metadata};
use crate::upstream::http::wire::{Heard, exchange};
use crate::upstream::id_token::{self, Expected, Untrusted};
use crate::upstream::provider::{Endpoints, Provider};
use crate::upstream::reply::{Person, cleaned, is_cut, judge, person};

mod arrived;
mod asked;
pub(crate) mod dial;
pub(crate) mod metadata;
mod recorder;
mod reread;
mod wire;

/// The scope for which a provider says who the person is.
const OPENID: &str = "openid";

/// Talks to the token endpoints of the configured providers.
pub struct Http {
    providers: BTreeMap<ProviderId, Upstream>,
    dialer: Dialer,
    clock: Clock,
}

/// One provider, and what it said of itself.
struct Upstream {
    provider: Arc<Provider>,
    /// Where it is, as far as that is configured.
    configured: Arc<Endpoints>,
    /// Reads what it says of itself.
    client: Client,
    metadata: Metadata,
}

/// Providers cannot be talked to.
#[derive(Debug, Error)]
pub enum BuildError {
    /// There is no trust to begin with.
    #[error("whom this machine trusts cannot be read")]
    Trust(#[from] rustls::Error),
    /// What providers say of themselves cannot be read.
    #[error("the HTTP client cannot be made")]
    Client(#[from] reqwest::Error),
}

impl Http {
    /// Prepares what is needed to talk to each provider.
    pub fn new(providers: Vec<Provider>, clock: Clock) -> Result<Self, BuildError> {
        let each = providers.into_iter().map(|provider| {
            let client = metadata::client(&provider)?;
            let (id, configured) = (provider.id.clone(), Arc::new(provider.endpoints.clone()));
            let (provider, metadata) = (Arc::new(provider), Metadata::default());
            Ok((id, Upstream { provider, configured, client, metadata }))
        });
        let providers = each.collect::<Result<_, BuildError>>()?;
        Ok(Self { providers, dialer: Dialer::new()?, clock })
    }

    fn upstream(&self, id: &ProviderId) -> Result<&Upstream, Failure> {
        let missing = || Failure::new(Reason::ProviderEndpointMisconfigured, Disposition::NotSent);
        self.providers.get(id).ok_or_else(missing)
    }

    /// What a request brings; its refresh token stands apart.
    async fn request(
        &self,
        id: &ProviderId,
        request: &Request,
        proof: Proof,
    ) -> Result<Reply, Failure> {
        let upstream = self.upstream(id)?;
        let provider = &upstream.provider;
        let endpoints = upstream.known();
        // It was asked for before (`ready`): nothing is waited for any more.
        let unknown = || Failure::new(Reason::ProviderUnreachable, Disposition::NotSent);
        let url = endpoints.token.as_deref().ok_or_else(unknown)?;
        let deadline = Instant::now() + provider.habits.listen_max;
        let in_use = match proof {
            Proof::InUse => provider.credentials.current(),
            Proof::Other => provider.credentials.other(),
        };
        let form = Form::exchange(provider, in_use.auth(), request, url, self.clock.now());
        let heard = self.post(provider, url, form, deadline).await?;
        let sent = match request {
            Request::RefreshToken(token) => Some(token),
            Request::ClientCredentials { .. } | Request::AuthorizationCode { .. } => None,
        };
        let readings = arrivals(heard, self.clock.now());
        let (mut reply, arrived) = fullest(provider, &readings, sent);
        let raw = arrived.raw(sent);
        let gone = |failure: &Failure| failure.reason == Reason::ProviderEndpointMisconfigured;
        if reply.issued.as_ref().err().is_some_and(gone) {
            upstream.metadata.forget();
        }
        match &mut reply.issued {
            Ok(_) if in_use.taken() => info!(provider = %id, "the other client secret is taken"),
            Err(failure) if refuses_client(failure) && proof == Proof::InUse => {
                failure.other_secret = in_use.has_other();
            }
            Ok(_) | Err(_) => {}
        }
        if let Request::AuthorizationCode { nonce, .. } = request
            && reply.issued.is_ok()
        {
            let person = person(&raw, provider.account_field.as_deref());
            reply.account = self.account(upstream, &endpoints, person, nonce.as_ref()).await;
        }
        Ok(reply)
    }

    /// Whose consent it was. The pair is here already: what cannot be asked any more is not believed.
    async fn account(
        &self,
        upstream: &Upstream,
        endpoints: &Endpoints,
        person: Person,
        nonce: Option<&Nonce>,
    ) -> Result<Option<Account>, String> {
        let provider = &upstream.provider;
        if let Some(member) = &provider.account_field {
            let missing = || format!("its reply holds no `{member}` (`account_field`)");
            return person.account.ok_or_else(missing).map(Some);
        }
        let (Some(nonce), Some(issuer), Some(url)) = (nonce, &provider.issuer, &endpoints.keys)
        else {
            return Ok(None);
        };
        let missing = || "it sent no id_token although `openid` was asked for".to_owned();
        let id_token = person.id_token.ok_or_else(missing)?;
        let secrets = provider.credentials.secrets();
        let expected =
            Expected { issuer, client_id: &provider.client_id, nonce, secrets: &secrets };
        let mut believed = Err(Untrusted::UnknownKey);
        for freshness in [Freshness::Known, Freshness::New] {
            let keys = upstream.metadata.keys(provider, &upstream.client, url, freshness).await;
            let keys = keys.map_err(|_| "its keys cannot be read".to_owned())?;
            believed = id_token::account(&id_token, &keys, expected, self.clock.now());
            if believed != Err(Untrusted::UnknownKey) {
                break;
            }
        }
        believed.map(Some).map_err(|untrusted| untrusted.why().to_owned())
    }

    /// Sends a form once, and hears all that comes back: something, or it is a failure.
    async fn post(
        &self,
        provider: &Provider,
        url: &str,
        form: Form,
        deadline: Instant,
    ) -> Result<Heard, Failure> {
        let wrong = |reason| Failure::new(reason, Disposition::NotSent);
        let url = Url::parse(url).map_err(|_| wrong(Reason::ProviderEndpointMisconfigured))?;
        let request = request(&url, form).ok_or_else(|| wrong(Reason::ClientMisconfigured))?;
        let dialled = timeout_at(deadline, self.dialer.dial(&url, provider.connect_timeout)).await;
        let line = match dialled {
            // A machine that was stopped meanwhile sends nothing that it could not listen to.
            Ok(Ok(line)) if Instant::now() < deadline => line,
            Ok(Err(NotReached { kind, why })) => {
                debug!(provider = %provider.id, why, "the token endpoint was not reached");
                let detail = Some(cleaned(&why, &[]));
                let failure = wrong(Reason::ProviderUnreachable);
                return Err(Failure { unreached: Some(kind), detail, ..failure });
            }
            Ok(Ok(_)) | Err(_) => return Err(wrong(Reason::ProviderUnreachable)),
        };
        let heard = exchange(line, request, deadline, is_cut).await;
        if heard.head.is_none() && heard.bytes.is_empty() {
            debug!(provider = %provider.id, ended = heard.ended, "the token endpoint gave no answer");
            return Err(unknown(if heard.ended { DoubtKind::Ended } else { DoubtKind::Unheard }));
        }
        if heard.head.is_none() {
            debug!(provider = %provider.id, "the head of a reply cannot be read; it is read as bytes");
        }
        Ok(heard)
    }

    async fn take_back(&self, id: &ProviderId, token: &Revocable) -> Result<(), NotRevoked> {
        let upstream = self.upstream(id).map_err(NotRevoked::Failed)?;
        let provider = &upstream.provider;
        let endpoints = upstream.known();
        let url = endpoints.revoke.as_deref().ok_or(NotRevoked::Unsupported)?;
        let deadline = Instant::now() + provider.habits.listen_max;
        let token_url = endpoints.token.as_deref().unwrap_or(url);
        let form = Form::revocation(
            provider,
            provider.credentials.current().auth(),
            token,
            token_url,
            self.clock.now(),
        );
        let heard = self.post(provider, url, form, deadline).await.map_err(NotRevoked::Failed)?;
        let readings = arrivals(heard, self.clock.now());
        let arrived = &readings[0];
        if !arrived.sure {
            return Err(NotRevoked::Failed(unknown(DoubtKind::Unreadable)));
        }
        if (200..300).contains(&arrived.status) {
            return Ok(());
        }
        match judge(provider, &arrived.raw(None)).issued {
            Err(failure) if is_unknown(&failure) => Ok(()),
            Err(failure) => Err(NotRevoked::Failed(failure)),
            // A status of failure never holds a token.
            Ok(_) => Err(NotRevoked::Failed(unknown(DoubtKind::Answered))),
        }
    }
}

/// Our client is refused, by a code or by what is known of the provider. Whoever answers 401 and says
/// nothing may know nothing of the client.
fn refuses_client(failure: &Failure) -> bool {
    let refused =
        matches!(failure.reason, Reason::ClientCredentialsRejected | Reason::ClientNotAuthorized);
    refused && failure.provider_error.is_some()
}

/// `None`: what proves who we are cannot stand in a header.
fn request(url: &Url, form: Form) -> Option<hyper::Request<Full<Bytes>>> {
    let host = &url[Position::BeforeHost..Position::AfterPort];
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let mut request = hyper::Request::post(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("token-broker/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(authorization) = &form.authorization {
        let mut value = HeaderValue::from_str(authorization).ok()?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Full::new(Bytes::from(form.body))).ok()
}

fn unknown(kind: DoubtKind) -> Failure {
    Failure::new(Reason::RefreshOutcomeUnknown, Disposition::Unknown(kind))
}

/// The token is good for nothing: some providers say so instead of success.
fn is_unknown(failure: &Failure) -> bool {
    failure.disposition == Disposition::Refused
        || failure.provider_error.as_deref() == Some("invalid_token")
}

impl Upstream {
    /// Where it is, as configured and as it said when it was asked.
    fn known(&self) -> Arc<Endpoints> {
        self.metadata.found().unwrap_or_else(|| Arc::clone(&self.configured))
    }

    /// Where it is, as configured and as it says.
    async fn endpoints(&self, freshness: Freshness) -> Result<Arc<Endpoints>, Failure> {
        if self.provider.discovery {
            self.metadata.endpoints(&self.provider, &self.client, freshness).await
        } else {
            Ok(self.known())
        }
    }
}

#[async_trait]
impl TokenEndpoint for Http {
    async fn exchange(&self, provider: &ProviderId, request: Request, proof: Proof) -> Reply {
        self.request(provider, &request, proof).await.unwrap_or_else(Reply::from)
    }

    async fn ready(&self, provider: &ProviderId) -> Result<(), Failure> {
        let upstream = self.upstream(provider)?;
        // What is configured needs nobody's word.
        if upstream.provider.endpoints.token.is_none() {
            upstream.endpoints(Freshness::Known).await?;
        }
        Ok(())
    }

    async fn ready_to_revoke(&self, provider: &ProviderId) -> Result<(), NotRevoked> {
        let upstream = self.upstream(provider).map_err(NotRevoked::Failed)?;
        if upstream.provider.endpoints.revoke.is_some() {
            return Ok(());
        }
        let endpoints = upstream.endpoints(Freshness::Known).await.map_err(NotRevoked::Failed)?;
        if endpoints.revoke.is_some() { Ok(()) } else { Err(NotRevoked::Unsupported) }
    }

    async fn revoke(&self, provider: &ProviderId, token: Revocable) -> Result<(), NotRevoked> {
        self.take_back(provider, &token).await
    }

    fn client(&self, provider: &ProviderId) -> Option<ClientFingerprint> {
        self.providers.get(provider).map(|upstream| upstream.provider.client())
    }

    fn providers(&self) -> Vec<endpoint::ProviderSummary> {
        let each = self.providers.values().map(|upstream| {
            let provider = &upstream.provider;
            let token = upstream.known().token.clone();
            endpoint::ProviderSummary {
                id: provider.id.clone(),
                profile: provider.profile.clone(),
                token_endpoint: token.unwrap_or_default(),
                client_id: provider.client_id.clone(),
                habits: provider.habits.clone(),
            }
        });
        each.collect()
    }

    async fn consent(&self, provider: &ProviderId, scopes: &[String]) -> Result<Consent, Failure> {
        let upstream = self.upstream(provider)?;
        let endpoints = upstream.endpoints(Freshness::New).await?;
        let provider = &upstream.provider;
        let asked = scopes.iter().any(|scope| scope == OPENID);
        let checkable = provider.issuer.is_some() && provider.account_field.is_none();
        let keys = endpoints.keys.as_deref().filter(|_| asked && checkable);
        if asked && checkable && keys.is_none() {
            warn!(provider = %provider.id, "nothing says where the keys of the provider are (`jwks_url`): whose consent it is stays unknown");
        }
        if let Some(url) = keys {
            upstream.metadata.keys(provider, &upstream.client, url, Freshness::Known).await?;
        }
        Ok(Consent {
            redirect_uri: provider.redirect_url.clone(),
            pkce: provider.pkce,
            issuer: provider.issuer.clone(),
            names_issuer: endpoints.names_issuer,
            signs_people: keys.is_some(),
        })
    }

    async fn authorization_url(
        &self,
        provider: &ProviderId,
        question: Question<'_>,
    ) -> Result<Option<String>, Failure> {
        let upstream = self.upstream(provider)?;
        let endpoints = upstream.endpoints(Freshness::Known).await?;
        Ok(authorization_url(&upstream.provider, endpoints.authorize.as_deref(), &question))
    }
}
