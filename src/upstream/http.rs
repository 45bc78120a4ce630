//! Requests to providers: what is sent to a token endpoint is sent at most once, whatever happens.
//!
//! `wire` is how, `metadata` what providers say of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue,
    RETRY_AFTER,
};
use reqwest::{Client, Response};
use thiserror::Error;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::broker::endpoint::{
    self, Consent, Disposition, Failure, NotRevoked, Proof, Question, Reply, Request, Revocable,
    TokenEndpoint,
};
use crate::broker::model::{ClientFingerprint, DoubtKind, ProviderId, Reason};
use crate::clock::{Clock, between};
use crate::secret::{Account, Nonce, RefreshToken};
use crate::upstream::authorize::authorization_url;
use crate::upstream::form::Form;
use crate::upstream::http::metadata::{Freshness, Metadata};
use crate::upstream::http::wire::{listen, read, unanswered, unknown};
use crate::upstream::id_token::{self, Expected, Untrusted};
use crate::upstream::provider::{Endpoints, Provider};
use crate::upstream::reply::{Person, Raw, judge, person};

mod metadata;
mod wire;

/// The scope for which a provider says who the person is.
const OPENID: &str = "openid";

/// Talks to the token endpoints of the configured providers.
pub struct Http {
    providers: BTreeMap<ProviderId, Upstream>,
    clock: Clock,
}

/// One provider, and what it said of itself.
struct Upstream {
    provider: Provider,
    /// Where it is, as far as that is configured.
    configured: Arc<Endpoints>,
    client: Client,
    metadata: Metadata,
}

/// An answer, as far as it came.
struct Arrived {
    status: u16,
    body: Vec<u8>,
    whole: bool,
    deflated: bool,
    retry_after: Option<Duration>,
    at: SystemTime,
}

impl Arrived {
    /// The same, as an answer to `sent`.
    fn raw<'a>(&'a self, sent: Option<&'a RefreshToken>) -> Raw<'a> {
        let Self { status, whole, deflated, retry_after, at: now, .. } = *self;
        Raw { status, body: &self.body, whole, deflated, retry_after, sent, now }
    }
}

/// A provider cannot be talked to.
#[derive(Debug, Error)]
#[error("provider {id}: the HTTP client cannot be made")]
pub struct BuildError {
    id: ProviderId,
    #[source]
    source: reqwest::Error,
}

impl Http {
    /// Prepares a client for each provider.
    pub fn new(providers: Vec<Provider>, clock: Clock) -> Result<Self, BuildError> {
        let each = providers.into_iter().map(|provider| {
            let failed = |source| BuildError { id: provider.id.clone(), source };
            let client = wire::client(&provider).map_err(failed)?;
            let (id, configured) = (provider.id.clone(), Arc::new(provider.endpoints.clone()));
            Ok((id, Upstream { provider, configured, client, metadata: Metadata::default() }))
        });
        Ok(Self { providers: each.collect::<Result<_, _>>()?, clock })
    }

    fn upstream(&self, id: &ProviderId) -> Result<&Upstream, Failure> {
        let missing = || Failure::new(Reason::ProviderEndpointMisconfigured, Disposition::NotSent);
        self.providers.get(id).ok_or_else(missing)
    }

    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        Some(between(self.clock.now(), httpdate::parse_http_date(text).ok()?))
    }

    /// Reads all that comes of an answer.
    async fn arrive(&self, response: Response, deadline: Instant) -> Arrived {
        let status = response.status().as_u16();
        let retry_after = self.retry_after(response.headers());
        let deflated = response.headers().get(CONTENT_ENCODING).is_some_and(|how| how == "deflate");
        let (body, whole) = read(response, deadline).await;
        Arrived { status, body, whole, deflated, retry_after, at: self.clock.now() }
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
        let response = upstream.post(url, form, deadline).await?;
        let sent = match request {
            Request::RefreshToken(token) => Some(token),
            Request::ClientCredentials { .. } | Request::AuthorizationCode { .. } => None,
        };
        let arrived = self.arrive(response, deadline).await;
        let raw = arrived.raw(sent);
        let mut reply = judge(provider, &raw);
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
        let expected = Expected { issuer, client_id: &provider.client_id, nonce };
        let mut believed = Err(Untrusted::UnknownKey);
        for freshness in [Freshness::Known, Freshness::New] {
            let keys = upstream.metadata.keys(&upstream.client, url, freshness).await;
            let keys = keys.map_err(|_| "its keys cannot be read".to_owned())?;
            believed = id_token::account(&id_token, &keys, expected, self.clock.now());
            if believed != Err(Untrusted::UnknownKey) {
                break;
            }
        }
        believed.map(Some).map_err(|untrusted| untrusted.why().to_owned())
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
        let response = upstream.post(url, form, deadline).await.map_err(NotRevoked::Failed)?;
        if response.status().is_success() {
            return Ok(());
        }
        let arrived = self.arrive(response, deadline).await;
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

    /// Sends a form once, and waits for the head of what comes back.
    async fn post(&self, url: &str, form: Form, deadline: Instant) -> Result<Response, Failure> {
        let mut post = self
            .client
            .post(url)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.body);
        if let Some(authorization) = &form.authorization {
            let Ok(mut value) = HeaderValue::from_str(authorization) else {
                return Err(Failure::new(Reason::ClientMisconfigured, Disposition::NotSent));
            };
            value.set_sensitive(true);
            post = post.header(AUTHORIZATION, value);
        }
        match listen(deadline, post.send()).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(unanswered(&self.provider.id, error)),
            None => {
                debug!(provider = %self.provider.id, "no answer came in time");
                Err(unknown(DoubtKind::Unheard))
            }
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
            upstream.metadata.keys(&upstream.client, url, Freshness::Known).await?;
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
