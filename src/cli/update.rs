//! `token-broker grant update`.

use clap::Args;

use crate::cli::token::connect;
use crate::cli::{Failure, Target, grants, view};
use crate::proto::{GetGrantRequest, UpdateGrantRequest};

#[derive(Debug, Args)]
pub(super) struct Update {
    /// The grant, such as kroger/alice.
    grant_id: String,
    /// A label NAME=VALUE to add or to change; may be given several times.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = grants::label)]
    labels: Vec<(String, String)>,
    /// A label to remove; may be given several times.
    #[arg(long = "remove-label", value_name = "NAME")]
    removed: Vec<String>,
    /// Whether it is refreshed before expiry even if nobody asks for it.
    #[arg(long, value_name = "true|false")]
    keep_warm: Option<bool>,
    /// A scope that it asks for from now on; may be given several times. Only of client credentials.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    #[command(flatten)]
    target: Target,
}

impl Update {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = GetGrantRequest { grant_id: self.grant_id };
        let shown = client.admin.get_grant(request).await.map_err(view::failure)?;
        let mut grant = shown.into_inner().grant.unwrap_or_default();
        let mut paths = Vec::new();
        if !self.labels.is_empty() || !self.removed.is_empty() {
            grant.labels.retain(|name, _| !self.removed.contains(name));
            grant.labels.extend(self.labels);
            paths.push("labels".to_owned());
        }
        if let Some(keep_warm) = self.keep_warm {
            grant.keep_warm = keep_warm;
            paths.push("keep_warm".to_owned());
        }
        if !self.scopes.is_empty() {
            grant.scopes = self.scopes;
            paths.push("scopes".to_owned());
        }
        // What has changed since it was shown is not overwritten: the etag goes with it.
        let update_mask = Some(prost_types::FieldMask { paths });
        let request = UpdateGrantRequest { grant: Some(grant), update_mask };
        let updated = client.admin.update_grant(request).await.map_err(view::failure)?;
        grants::show(updated.into_inner().grant, self.target.json);
        Ok(())
    }
}
