//! `token-broker provider`.

use clap::Subcommand;

use crate::cli::token::connect;
use crate::cli::{Failure, Target, out, view};
use crate::config;
use crate::proto::{ListProvidersRequest, Provider as Message, ReleaseProviderRequest};

#[derive(Debug, Subcommand)]
pub(super) enum Provider {
    /// List the providers that grants can belong to.
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show one of them, and whether it is asked at present.
    Show {
        /// The provider, as the configuration names it.
        provider_id: String,
        #[command(flatten)]
        target: Target,
    },
    /// End the hold of a provider, at all replicas: refreshes go out again.
    Release {
        /// The provider, as the configuration names it.
        provider_id: String,
        /// Believe that the grants which it refused together are dead, instead of presenting them again.
        #[arg(long)]
        believe: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Print a built-in profile with the source of each setting, or the names of all.
    Profile {
        /// The profile, such as kroger.
        name: Option<String>,
    },
}

impl Provider {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { target } => {
                out::line(view::providers(&fetch(&target).await?, target.json));
                Ok(())
            }
            Self::Show { provider_id, target } => {
                let providers = fetch(&target).await?;
                let named = providers.into_iter().find(|one| one.provider_id == provider_id);
                let named = named.ok_or_else(|| {
                    format!("no provider {provider_id} is configured; `token-broker provider list` lists them")
                })?;
                out::line(view::provider(&named, target.json));
                Ok(())
            }
            Self::Release { provider_id, believe, target } => {
                let mut client = connect(&target).await?;
                let request = ReleaseProviderRequest { provider_id, believe };
                let released = client.admin.release_provider(request).await;
                let released = released.map_err(view::failure)?.into_inner();
                if believe {
                    let count = released.believed;
                    out::note(format_args!(
                        "{count} grants are taken for dead; people must consent again"
                    ));
                }
                out::line(view::provider(&released.provider.unwrap_or_default(), target.json));
                Ok(())
            }
            Self::Profile { name: None } => {
                out::line(config::profile_names().join("\n"));
                Ok(())
            }
            Self::Profile { name: Some(name) } => {
                let text = config::profile(&name).ok_or_else(|| {
                    let names = config::profile_names().join(", ");
                    format!("there is no profile {name}; there are: {names}")
                })?;
                out::line(text.trim_end());
                Ok(())
            }
        }
    }
}

async fn fetch(target: &Target) -> Result<Vec<Message>, Failure> {
    let mut client = connect(target).await?;
    let response = client.admin.list_providers(ListProvidersRequest {}).await;
    Ok(response.map_err(view::failure)?.into_inner().providers)
}
