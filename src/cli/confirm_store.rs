//! `token-broker confirm-store`.

use clap::Args;

use crate::cli::token::connect;
use crate::cli::{Failure, Target, out, view};
use crate::proto::ConfirmEmptyStoreRequest;

#[derive(Debug, Args)]
pub(super) struct ConfirmStore {
    /// The deployment, as `token-broker status` names it.
    deployment: String,
    #[command(flatten)]
    target: Target,
}

impl ConfirmStore {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = ConfirmEmptyStoreRequest { deployment_id: self.deployment };
        let confirmed = client.admin.confirm_empty_store(request).await;
        let replicas = confirmed.map_err(view::failure)?.into_inner().replicas;
        out::line(if self.target.json {
            serde_json::json!({ "replicas": replicas }).to_string()
        } else if replicas.is_empty() {
            "nobody was waited for".to_owned()
        } else {
            format!("no replica waits for {} any more", replicas.join(", "))
        });
        Ok(())
    }
}
