//! Calls as a service would make them, over any transport.

use std::error::Error;
use std::time::Duration;

use token_broker::client::CallError;
use token_broker::proto::force_refresh_request::Rejected;
use token_broker::proto::grant_admin_service_client::GrantAdminServiceClient;
use token_broker::proto::token_service_client::TokenServiceClient;
use token_broker::proto::{
    CreateGrantRequest, ForceRefreshRequest, ForceRefreshResponse, GetGrantRequest,
    GetTokenRequest, Grant, GrantKind, ImportGrantRequest, Token,
};
use tonic::Request;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, Bytes};

#[derive(Clone)]
pub(crate) struct Calls<T, A> {
    pub(crate) tokens: TokenServiceClient<T>,
    pub(crate) admin: GrantAdminServiceClient<A>,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl<T, A> Calls<T, A>
where
    T: GrpcService<
            Body,
            Error: Into<BoxError>,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
        >,
    A: GrpcService<
            Body,
            Error: Into<BoxError>,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<BoxError> + Send> + Send + 'static,
        >,
{
    pub(crate) async fn get(&mut self, id: &str) -> Result<Token, CallError> {
        self.ask(GetTokenRequest { grant_id: id.to_owned(), ..GetTokenRequest::default() }).await
    }

    pub(crate) async fn ask(&mut self, request: GetTokenRequest) -> Result<Token, CallError> {
        Ok(self.tokens.get_token(request).await?.into_inner().token.unwrap())
    }

    pub(crate) async fn get_within(
        &mut self,
        id: &str,
        limit: Duration,
    ) -> Result<Token, CallError> {
        let grant_id = id.to_owned();
        let mut request = Request::new(GetTokenRequest { grant_id, ..GetTokenRequest::default() });
        request.set_timeout(limit);
        Ok(self.tokens.get_token(request).await?.into_inner().token.unwrap())
    }

    pub(crate) async fn refresh(
        &mut self,
        id: &str,
        rejected: Option<Rejected>,
    ) -> Result<ForceRefreshResponse, CallError> {
        let request = ForceRefreshRequest { grant_id: id.to_owned(), rejected };
        Ok(self.tokens.force_refresh(request).await?.into_inner())
    }

    pub(crate) async fn reject(
        &mut self,
        id: &str,
        generation: i64,
    ) -> Result<ForceRefreshResponse, CallError> {
        self.refresh(id, Some(Rejected::RejectedGeneration(generation))).await
    }

    pub(crate) async fn import(&mut self, id: &str, token: &str) -> Result<Grant, CallError> {
        self.import_with(id, token, false, false).await
    }

    pub(crate) async fn import_with(
        &mut self,
        id: &str,
        token: &str,
        replace: bool,
        keep_warm: bool,
    ) -> Result<Grant, CallError> {
        let request = ImportGrantRequest {
            grant_id: id.to_owned(),
            provider_id: "kroger".to_owned(),
            refresh_token: token.to_owned(),
            replace,
            keep_warm,
            ..ImportGrantRequest::default()
        };
        Ok(self.admin.import_grant(request).await?.into_inner().grant.unwrap())
    }

    pub(crate) async fn create(&mut self, id: &str) -> Result<Grant, CallError> {
        let request = CreateGrantRequest {
            grant_id: id.to_owned(),
            provider_id: "kroger".to_owned(),
            kind: GrantKind::ClientCredentials.into(),
            ..CreateGrantRequest::default()
        };
        Ok(self.admin.create_grant(request).await?.into_inner().grant.unwrap())
    }

    pub(crate) async fn show(&mut self, id: &str) -> Result<Grant, CallError> {
        let request = GetGrantRequest { grant_id: id.to_owned() };
        Ok(self.admin.get_grant(request).await?.into_inner().grant.unwrap())
    }
}
