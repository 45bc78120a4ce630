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
        // They cannot be counted without the store, and the rest matters most then.
        let grants = match grants::all(&mut client, String::new(), Vec::new()).await {
            Ok(grants) => Some(grants),
            Err(_) if !status.store_available => None,
            Err(failure) => return Err(failure),
        };
        let text = if self.target.json {
            view::status_json(&status, &providers, grants.as_deref()).to_string()
        } else {
            view::status(&status, &providers, grants.as_deref())
        };
        out::line(text);
        Ok(())
    }
}
