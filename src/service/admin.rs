//! `GrantAdminService`: what operators call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::timeout_at;
use tonic::{Request, Response, Status};

use crate::broker::enrol::Stage;
use crate::broker::error::Error;
use crate::broker::model::{Enrolment, ProviderId};
use crate::broker::{Broker, Overview, endpoint};
use crate::policy::{self, Target};
use crate::proto;
use crate::proto::grant_admin_service_server::GrantAdminService;
use crate::proto::{
    CancelEnrollmentRequest, CancelEnrollmentResponse, CompleteEnrollmentRequest,
    CompleteEnrollmentResponse, ConfirmEmptyStoreRequest, ConfirmEmptyStoreResponse,
    CreateGrantRequest, CreateGrantResponse, DeleteGrantRequest, DeleteGrantResponse,
    DisableGrantRequest, DisableGrantResponse, EnableGrantRequest, EnableGrantResponse,
    GetBrokerStatusRequest, GetBrokerStatusResponse, GetEnrollmentRequest, GetEnrollmentResponse,
    GetGrantRequest, GetGrantResponse, Grant, ImportGrantRequest, ImportGrantResponse,
    ListGrantsRequest, ListGrantsResponse, ListProvidersRequest, ListProvidersResponse,
    ReleaseProviderRequest, ReleaseProviderResponse, ResolveGrantRequest, ResolveGrantResponse,
    RevokeGrantRequest, RevokeGrantResponse, RewrapKeysRequest, RewrapKeysResponse,
    RotateGrantRequest, RotateGrantResponse, StartEnrollmentRequest, StartEnrollmentResponse,
    UpdateGrantRequest, UpdateGrantResponse,
};
use crate::secret::{EnrolmentId, EnrolmentState};
use crate::service::call::{Action, Call};
use crate::service::{Observe, convert};

/// Manages grants.
pub struct Admin {
    broker: Arc<Broker>,
    observe: Arc<Observe>,
    start: SystemTime,
}

impl Admin {
    /// Manages the grants of `broker`, in a process that started at `start`.
    pub fn new(broker: Arc<Broker>, observe: Arc<Observe>, start: SystemTime) -> Self {
        Self { broker, observe, start }
    }

    fn show(&self, overview: &Overview) -> Grant {
        convert::grant(overview, self.broker.clock())
    }

    fn show_provider(&self, provider: endpoint::ProviderSummary) -> proto::Provider {
        let trouble = self.broker.provider_trouble(&provider.id);
        convert::provider(provider, trouble, self.broker.clock())
    }

    /// An enrolment of a grant that the caller may enroll; of others nothing is said.
    async fn enrolment(&self, id: &EnrolmentId, call: &Call) -> Result<(Enrolment, Stage), Error> {
        let (enrolment, stage) = self.broker.show_enrolment(id).await?;
        let enroll = policy::Action::EnrollGrant;
        let may = self.observe.gate().allows(&call.who, enroll, enrolment.grant.as_str());
        if may { Ok((enrolment, stage)) } else { Err(Error::EnrolmentUnknown) }
    }

    /// The rules of the grant count here, too; and what began at the pages ends there, in the browser that it
    /// is bound to. Nothing is taken out by a no.
    async fn may_answer(&self, state: &EnrolmentState, call: &Call) -> Result<(), Error> {
        let waiting = self.broker.waiting_enrolment(state).await?;
        if !self.observe.gate().allows(&call.who, call.action.in_policy(), waiting.grant.as_str()) {
            return Err(Error::EnrolmentUnknown);
        }
        Broker::is_brought(&waiting)
    }

    fn status(&self) -> GetBrokerStatusResponse {
        let store = self.broker.store();
        let metrics = self.broker.metrics();
        let count = |number: i64| i32::try_from(number).unwrap_or(i32::MAX);
        GetBrokerStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(self.start.into()),
            store: store.kind.to_owned(),
            store_available: store.trouble.is_none(),
            store_trouble: store.trouble.clone().unwrap_or_default(),
            deployment_id: store.deployment.clone(),
            flights: count(metrics.flights.get()),
            unpublished_pairs: count(metrics.unpublished_pairs.get()),
            draining: self.broker.draining(),
            journal: store.journal.as_ref().map(convert::journal),
            findings: self.broker.findings().iter().map(convert::finding).collect(),
            uptime: convert::uptime(self.start, self.broker.clock().now()),
        }
    }
}

/// Answers UNIMPLEMENTED for methods of the contract that are not built yet. Written out as
/// `async_trait` would, because that macro does not see what this one makes.
macro_rules! later {
    ($($method:ident($request:ty) -> $response:ty, $action:ident;)*) => {
        $(fn $method<'a, 'b>(
            &'a self,
            request: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            let run = |_, call: Call| async move { Err(Error::NotImplemented(call.action.name())) };
            Box::pin(self.observe.call(Action::$action, request, run))
        })*
    };
}

#[tonic::async_trait]
impl GrantAdminService for Admin {
    async fn start_enrollment(
        &self,
        request: Request<StartEnrollmentRequest>,
    ) -> Result<Response<StartEnrollmentResponse>, Status> {
        let run = |request, call: Call| async move {
            let mut new = convert::enrolment(request)?;
            if let Some(proven) = call.who.proven() {
                // Whoever consents reads who asked: not what they say, but what they have proven.
                proven.clone_into(&mut new.started_by);
                new.caller = Some(proven.to_owned());
            }
            let asked = self.broker.start_enrolment(new, call.deadline).await?;
            Ok(convert::asked(asked))
        };
        self.observe.call(Action::StartEnrollment, request, run).await
    }

    async fn complete_enrollment(
        &self,
        request: Request<CompleteEnrollmentRequest>,
    ) -> Result<Response<CompleteEnrollmentResponse>, Status> {
        let run = |request, call: Call| async move {
            let answer = convert::answer(request)?;
            self.may_answer(&answer.state, &call).await?;
            let ended = self.broker.complete_enrolment(answer);
            let ended = timeout_at(call.deadline, ended).await;
            let overview = ended.unwrap_or(Err(Error::EnrolmentGoesOn))?;
            Ok(CompleteEnrollmentResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::CompleteEnrollment, request, run).await
    }

    async fn get_enrollment(
        &self,
        request: Request<GetEnrollmentRequest>,
    ) -> Result<Response<GetEnrollmentResponse>, Status> {
        let run = |request: GetEnrollmentRequest, call: Call| async move {
            let id = convert::enrolment_id(&request.enrollment_id)?;
            let shown = convert::standing(self.enrolment(&id, &call).await?);
            Ok(GetEnrollmentResponse { enrollment: Some(shown) })
        };
        self.observe.call(Action::GetEnrollment, request, run).await
    }

    async fn cancel_enrollment(
        &self,
        request: Request<CancelEnrollmentRequest>,
    ) -> Result<Response<CancelEnrollmentResponse>, Status> {
        let run = |request: CancelEnrollmentRequest, call: Call| async move {
            let id = convert::enrolment_id(&request.enrollment_id)?;
            self.enrolment(&id, &call).await?;
            let shown = convert::standing(self.broker.cancel_enrolment(&id).await?);
            Ok(CancelEnrollmentResponse { enrollment: Some(shown) })
        };
        self.observe.call(Action::CancelEnrollment, request, run).await
    }

    async fn import_grant(
        &self,
        request: Request<ImportGrantRequest>,
    ) -> Result<Response<ImportGrantResponse>, Status> {
        let run = |request, call: Call| async move {
            let (new, verify) = convert::import(request)?;
            let mut overview = self.broker.create_grant(new).await?;
            if verify {
                overview = self.broker.verify_grant(overview, call.deadline).await?;
            }
            Ok(ImportGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::ImportGrant, request, run).await
    }

    async fn create_grant(
        &self,
        request: Request<CreateGrantRequest>,
    ) -> Result<Response<CreateGrantResponse>, Status> {
        let run = |request, _| async move {
            let overview = self.broker.create_grant(convert::create(request)?).await?;
            Ok(CreateGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::CreateGrant, request, run).await
    }

    async fn get_grant(
        &self,
        request: Request<GetGrantRequest>,
    ) -> Result<Response<GetGrantResponse>, Status> {
        let run = |request: GetGrantRequest, _| async move {
            let id = convert::grant_id(&request.grant_id)?;
            let overview = self.broker.show_grant(&id).await?;
            Ok(GetGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::GetGrant, request, run).await
    }

    async fn list_grants(
        &self,
        request: Request<ListGrantsRequest>,
    ) -> Result<Response<ListGrantsResponse>, Status> {
        let run = |request: ListGrantsRequest, call: Call| async move {
            let size = convert::page_size(&request)?;
            let after = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
            let (page, next) = self.broker.list_grants(after, size).await?;
            let gate = self.observe.gate();
            let wanted = |grant: &Grant| {
                gate.allows(&call.who, policy::Action::ListGrants, &grant.grant_id)
                    && (request.provider_id.is_empty() || request.provider_id == grant.provider_id)
                    && (request.states.is_empty() || request.states.contains(&grant.state))
            };
            let grants = page.iter().map(|overview| self.show(overview)).filter(wanted);
            Ok(ListGrantsResponse {
                grants: grants.collect(),
                next_page_token: next.unwrap_or_default(),
            })
        };
        self.observe.call(Action::ListGrants, request, run).await
    }

    async fn rotate_grant(
        &self,
        request: Request<RotateGrantRequest>,
    ) -> Result<Response<RotateGrantResponse>, Status> {
        let run = |request, call: Call| async move {
            let (id, generation) = convert::rotate(&request)?;
            let overview = self.broker.rotate_grant(&id, generation, call.deadline).await?;
            Ok(RotateGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::RotateGrant, request, run).await
    }

    async fn revoke_grant(
        &self,
        request: Request<RevokeGrantRequest>,
    ) -> Result<Response<RevokeGrantResponse>, Status> {
        let run = |request: RevokeGrantRequest, call: Call| async move {
            let id = convert::grant_id(&request.grant_id)?;
            let overview = self.broker.revoke_grant(&id, None, call.deadline).await?;
            Ok(RevokeGrantResponse { grant: Some(self.show(&overview)), revoked_at_provider: true })
        };
        self.observe.call(Action::RevokeGrant, request, run).await
    }

    async fn delete_grant(
        &self,
        request: Request<DeleteGrantRequest>,
    ) -> Result<Response<DeleteGrantResponse>, Status> {
        let run = |request: DeleteGrantRequest, call: Call| async move {
            let id = convert::grant_id(&request.grant_id)?;
            let etag = Some(request.etag).filter(|etag| !etag.is_empty());
            let deleted = if request.revoke {
                let revoke = policy::Action::RevokeGrant;
                self.observe.gate().require(&call.who, revoke, Target::grant(&request.grant_id))?;
                self.broker.revoke_and_delete(&id, etag, call.deadline).await
            } else {
                self.broker.delete_grant(&id, etag).await
            };
            match deleted {
                Err(Error::GrantNotFound(_)) if request.allow_missing => Ok(DeleteGrantResponse {}),
                result => result.map(|()| DeleteGrantResponse {}),
            }
        };
        self.observe.call(Action::DeleteGrant, request, run).await
    }

    async fn resolve_grant(
        &self,
        request: Request<ResolveGrantRequest>,
    ) -> Result<Response<ResolveGrantResponse>, Status> {
        let run = |request, call: Call| async move {
            let (id, resolution) = convert::resolve(&request)?;
            let overview = self.broker.resolve_grant(&id, resolution, call.deadline).await?;
            Ok(ResolveGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::ResolveGrant, request, run).await
    }

    async fn disable_grant(
        &self,
        request: Request<DisableGrantRequest>,
    ) -> Result<Response<DisableGrantResponse>, Status> {
        let run = |request: DisableGrantRequest, _| async move {
            let id = convert::grant_id(&request.grant_id)?;
            let overview = self.broker.switch_grant(&id, true).await?;
            Ok(DisableGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::DisableGrant, request, run).await
    }

    async fn enable_grant(
        &self,
        request: Request<EnableGrantRequest>,
    ) -> Result<Response<EnableGrantResponse>, Status> {
        let run = |request: EnableGrantRequest, _| async move {
            let id = convert::grant_id(&request.grant_id)?;
            let overview = self.broker.switch_grant(&id, false).await?;
            Ok(EnableGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::EnableGrant, request, run).await
    }

    async fn list_providers(
        &self,
        request: Request<ListProvidersRequest>,
    ) -> Result<Response<ListProvidersResponse>, Status> {
        let run = |_, call: Call| async move {
            // Those of which the caller may make a grant, where a rule names any.
            let may = |provider: &endpoint::ProviderSummary| {
                let target = Target { provider: Some(provider.id.as_str()), ..Target::default() };
                self.observe.gate().allows_of(&call.who, policy::Action::ListProviders, target)
            };
            let providers = self.broker.providers().into_iter().filter(may);
            let providers = providers.map(|provider| self.show_provider(provider));
            Ok(ListProvidersResponse { providers: providers.collect() })
        };
        self.observe.call(Action::ListProviders, request, run).await
    }

    async fn get_broker_status(
        &self,
        request: Request<GetBrokerStatusRequest>,
    ) -> Result<Response<GetBrokerStatusResponse>, Status> {
        self.observe
            .call(Action::GetBrokerStatus, request, |_, _| async { Ok(self.status()) })
            .await
    }

    async fn confirm_empty_store(
        &self,
        request: Request<ConfirmEmptyStoreRequest>,
    ) -> Result<Response<ConfirmEmptyStoreResponse>, Status> {
        let run = |request: ConfirmEmptyStoreRequest, _| async move {
            let replicas = self.broker.confirm_store(&request.deployment_id).await?;
            Ok(ConfirmEmptyStoreResponse { replicas })
        };
        self.observe.call(Action::ConfirmEmptyStore, request, run).await
    }

    async fn release_provider(
        &self,
        request: Request<ReleaseProviderRequest>,
    ) -> Result<Response<ReleaseProviderResponse>, Status> {
        let run = |request: ReleaseProviderRequest, _| async move {
            let id = ProviderId::new(&request.provider_id);
            let believed = self.broker.release_provider(&id, request.believe).await?;
            let mut providers = self.broker.providers().into_iter();
            let provider = providers.find(|provider| provider.id == id);
            Ok(ReleaseProviderResponse {
                provider: provider.map(|provider| self.show_provider(provider)),
                believed: i32::try_from(believed).unwrap_or(i32::MAX),
            })
        };
        self.observe.call(Action::ReleaseProvider, request, run).await
    }

    async fn update_grant(
        &self,
        request: Request<UpdateGrantRequest>,
    ) -> Result<Response<UpdateGrantResponse>, Status> {
        let run = |request, _| async move {
            let (id, etag, said) = convert::update(request)?;
            let overview = self.broker.describe_grant(&id, etag, said).await?;
            Ok(UpdateGrantResponse { grant: Some(self.show(&overview)) })
        };
        self.observe.call(Action::UpdateGrant, request, run).await
    }

    later! {
        rewrap_keys(RewrapKeysRequest) -> RewrapKeysResponse, RewrapKeys;
    }
}
