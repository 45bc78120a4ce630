//! `token-broker status`.

use clap::Args;

use crate::cli::token::connect;
use crate::cli::{Failure, Target, grants, out, view};
use crate::proto::{GetBrokerStatusRequest, ListProvidersRequest};

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    target: Target,
}

impl Status {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let status = client.admin.get_broker_status(GetBrokerStatusRequest {}).await;
        let status = status.map_err(view::failure)?.into_inner();
        let providers = client.admin.list_providers(ListProvidersRequest {}).await;
        let providers = providers.map_err(view::failure)?.into_inner().providers;
        let grants = grants::all(&mut client, String::new(), Vec::new()).await?;
        let text = if self.target.json {
            view::status_json(&status, &providers, &grants).to_string()
        } else {
            view::status(&status, &providers, &grants)
        };
        out::line(text);
        Ok(())
    }
}
