//! `token-broker grant resolve`.

use clap::{Args, ValueEnum};

use crate::cli::token::connect;
use crate::cli::{Failure, Target, grants, out, view};
use crate::client::Client;
use crate::proto::resolve_grant_request::Resolution;
use crate::proto::{Grant, GrantState, ListProvidersRequest, ResolveGrantRequest};

#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// The grant, such as kroger/alice; or say `--provider NAME --all`.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    grant_id: Option<String>,
    /// What to do.
    #[arg(long, value_enum)]
    by: By,
    /// With `--all`: grants of this provider.
    #[arg(long, requires = "all")]
    provider: Option<String>,
    /// All grants of the provider that are in doubt; with `--refused` those, too.
    #[arg(long, requires = "provider")]
    all: bool,
    /// With `--all`: also those that the provider refused.
    #[arg(long, requires = "all")]
    refused: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    /// Present the refresh token now, or as soon as its last request is over. If it was spent, the
    /// provider refuses it, and may revoke what is left.
    Retry,
    /// Give the refresh token up; the person consents again.
    Reauthorize,
}

impl From<By> for Resolution {
    fn from(by: By) -> Self {
        match by {
            By::Retry => Self::Retry,
            By::Reauthorize => Self::Reauthorize,
        }
    }
}

impl Resolve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let Some(grant_id) = self.grant_id.clone() else { return self.all(&mut client).await };
        let resolved = resolve(&mut client, &grant_id, self.by).await?;
        grants::show(Some(resolved), self.target.json);
        Ok(())
    }

    async fn all(self, client: &mut Client) -> Result<(), Failure> {
        let mut states = vec![GrantState::OutcomeUnknown.into()];
        if self.refused {
            states.push(GrantState::ReauthRequired.into());
        }
        let provider = self.provider.unwrap_or_default();
        let configured = client.admin.list_providers(ListProvidersRequest {}).await;
        let configured = configured.map_err(view::failure)?.into_inner().providers;
        if configured.iter().all(|one| one.provider_id != provider) {
            return Err(format!(
                "no provider {provider} is configured; `token-broker provider list` lists them"
            ));
        }
        let grants = grants::all(client, provider, states).await?;
        let (count, mut failed) = (grants.len(), 0);
        for (done, Grant { grant_id, .. }) in grants.into_iter().enumerate() {
            let outcome = match resolve(client, &grant_id, self.by).await {
                Ok(resolved) => view::resolved(&resolved),
                Err(failure) => {
                    failed += 1;
                    failure
                }
            };
            out::note(format_args!("{}/{count} {grant_id}: {outcome}", done + 1));
        }
        if failed > 0 {
            return Err(format!("{failed} of {count} grants were not resolved; see above"));
        }
        out::note(format_args!("{count} grants resolved"));
        Ok(())
    }
}

async fn resolve(client: &mut Client, grant_id: &str, by: By) -> Result<Grant, Failure> {
    let resolution = Resolution::from(by).into();
    let request = ResolveGrantRequest { grant_id: grant_id.to_owned(), resolution };
    let response = client.admin.resolve_grant(request).await.map_err(view::failure)?;
    Ok(response.into_inner().grant.unwrap_or_default())
}
