//! `token-broker grant`.

use std::collections::HashMap;
use std::fs;
use std::io::{IsTerminal as _, Read as _, stdin};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cli::enroll::Enroll;
use crate::cli::token::connect;
use crate::cli::update::Update;
use crate::cli::{Failure, Target, grants, out, resolve, view};
use crate::clock::Clock;
use crate::proto::{
    self, CreateGrantRequest, DeleteGrantRequest, DisableGrantRequest, EnableGrantRequest,
    GetGrantRequest, GrantKind, ImportGrantRequest, RevokeGrantRequest, RotateGrantRequest,
};

/// Most bytes of a refresh token that are read.
const TOKEN_MAX: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Grant {
    /// Store a refresh token that was obtained elsewhere.
    Import(Import),
    /// Let a person consent in a browser; also to mend a grant whose refresh token is dead.
    Enroll(Enroll),
    /// Create a grant that needs no refresh token (client credentials).
    Create(Create),
    /// List grants.
    List {
        /// Only grants of this provider.
        #[arg(long)]
        provider: Option<String>,
        /// Only grants whose refresh token ends within this time, such as 7d, as far as providers said.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expiring: Option<Duration>,
        #[command(flatten)]
        target: Target,
    },
    /// Show one grant.
    Show(One),
    /// Change labels, scopes or `keep-warm` of a grant.
    Update(Update),
    /// Refresh a grant now.
    Rotate(One),
    /// Decide about a grant that is in doubt or was refused.
    Resolve(resolve::Resolve),
    /// Hand out no token of a grant and fetch none, until it is enabled. What it holds is kept.
    Disable(One),
    /// Undo `disable`.
    Enable(One),
    /// Take the tokens of a grant back at its provider, and end it; a person must consent again.
    Revoke(One),
    /// Delete a grant. Its tokens are not revoked at the provider, unless you say so.
    Delete {
        #[command(flatten)]
        one: One,
        /// Revoke the tokens at the provider first.
        #[arg(long)]
        revoke: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The grant, such as kroger/alice.
    grant_id: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct New {
    /// The grant to be, such as kroger/alice.
    grant_id: String,
    /// The provider, as the configuration names it.
    #[arg(long)]
    provider: String,
    /// A scope; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A label NAME=VALUE; may be given several times.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = grants::label)]
    labels: Vec<(String, String)>,
    /// Refresh before expiry even if nobody asks for it.
    #[arg(long)]
    keep_warm: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    #[command(flatten)]
    new: New,
    /// File with the refresh token. Left out, or `-`: standard input.
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
    /// Refresh once right away, to see that it works. Whoever has the old token loses it.
    #[arg(long)]
    verify: bool,
    /// Replace a grant of this name that is still usable.
    #[arg(long)]
    replace: bool,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    new: New,
}

impl Grant {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Import(import) => import.run().await,
            Self::Enroll(enroll) => enroll.run().await,
            Self::Create(create) => create.run().await,
            Self::List { provider, expiring, target } => list(provider, expiring, &target).await,
            Self::Show(one) => one.show().await,
            Self::Update(update) => update.run().await,
            Self::Rotate(one) => one.rotate().await,
            Self::Resolve(resolve) => resolve.run().await,
            Self::Disable(one) => one.disable().await,
            Self::Enable(one) => one.enable().await,
            Self::Revoke(one) => one.revoke().await,
            Self::Delete { one, revoke } => one.delete(revoke).await,
        }
    }
}

impl Import {
    async fn run(self) -> Result<(), Failure> {
        let refresh_token = self.refresh_token()?;
        let new = self.new;
        let mut client = connect(&new.target).await?;
        let request = ImportGrantRequest {
            grant_id: new.grant_id,
            provider_id: new.provider,
            refresh_token,
            scopes: new.scopes,
            labels: new.labels.into_iter().collect(),
            verify: self.verify,
            replace: self.replace,
            keep_warm: new.keep_warm,
        };
        let response = client.admin.import_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, new.target.json);
        Ok(())
    }

    /// Never from the arguments: those are visible to every user of the machine.
    fn refresh_token(&self) -> Result<String, Failure> {
        let mut text = String::new();
        let file = self.refresh_token_file.as_ref().filter(|path| path.as_os_str() != "-");
        let read = if let Some(path) = file {
            let file = fs::File::open(path);
            file.and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut text))
                .map_err(|error| format!("{}: {error}", path.display()))
        } else {
            if stdin().is_terminal() {
                out::note("paste the refresh token, then press Enter and Ctrl-D:");
            }
            stdin()
                .take(TOKEN_MAX)
                .read_to_string(&mut text)
                .map_err(|error| format!("standard input: {error}"))
        };
        read?;
        match token_in(&text)?.as_str() {
            "" => Err("the refresh token is empty; give it on standard input or with --refresh-token-file".to_owned()),
            token => Ok(token.to_owned()),
        }
    }
}

/// The refresh token in what was given: as it is, in quotes, or in the reply that it came with.
fn token_in(text: &str) -> Result<String, Failure> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if !text.starts_with(['"', '{']) {
        return Ok(text.to_owned());
    }
    let value = serde_json::from_str::<Value>(text).ok();
    let token = value.as_ref().and_then(|value| match value {
        Value::String(token) => Some(token),
        value => match value.get("refresh_token")? {
            Value::String(token) => Some(token),
            _ => None,
        },
    });
    let missing = "this is neither a refresh token nor JSON with one; give the token alone, or the whole \
                   reply that it came with";
    token.cloned().ok_or_else(|| missing.to_owned())
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let new = self.new;
        let mut client = connect(&new.target).await?;
        let labels: HashMap<_, _> = new.labels.into_iter().collect();
        let request = CreateGrantRequest {
            grant_id: new.grant_id,
            provider_id: new.provider,
            kind: GrantKind::ClientCredentials.into(),
            scopes: new.scopes,
            labels,
            keep_warm: new.keep_warm,
        };
        let response = client.admin.create_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, new.target.json);
        Ok(())
    }
}

impl One {
    async fn show(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = GetGrantRequest { grant_id: self.grant_id };
        let response = client.admin.get_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, self.target.json);
        Ok(())
    }

    /// Names the generation that it saw, so that a repeated command does not rotate twice.
    async fn rotate(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = GetGrantRequest { grant_id: self.grant_id.clone() };
        let response = client.admin.get_grant(request).await.map_err(view::failure)?;
        let expected_generation = response.into_inner().grant.map_or(0, |grant| grant.generation);
        let request = RotateGrantRequest { grant_id: self.grant_id, expected_generation };
        let response = client.admin.rotate_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, self.target.json);
        Ok(())
    }

    async fn disable(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = DisableGrantRequest { grant_id: self.grant_id };
        let response = client.admin.disable_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, self.target.json);
        Ok(())
    }

    async fn enable(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = EnableGrantRequest { grant_id: self.grant_id };
        let response = client.admin.enable_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, self.target.json);
        Ok(())
    }

    async fn revoke(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = RevokeGrantRequest { grant_id: self.grant_id };
        let response = client.admin.revoke_grant(request).await.map_err(view::failure)?;
        grants::show(response.into_inner().grant, self.target.json);
        Ok(())
    }

    async fn delete(self, revoke: bool) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let grant_id = self.grant_id.clone();
        let request = DeleteGrantRequest { grant_id, revoke, ..DeleteGrantRequest::default() };
        client.admin.delete_grant(request).await.map_err(view::failure)?;
        let tokens = if revoke { "its tokens were revoked" } else { "its tokens were not revoked" };
        out::note(format_args!("deleted {}; {tokens} at the provider", self.grant_id));
        Ok(())
    }
}

async fn list(
    provider: Option<String>,
    expiring: Option<Duration>,
    target: &Target,
) -> Result<(), Failure> {
    let mut client = connect(target).await?;
    let mut grants = grants::all(&mut client, provider.unwrap_or_default(), Vec::new()).await?;
    if grants.is_empty() && !target.json {
        out::note(
            "import one with `token-broker grant import`, or let a person consent with `grant enroll`",
        );
    } else if let Some(within) = expiring {
        let soon = Clock::system().now() + within;
        let end =
            |grant: &proto::Grant| SystemTime::try_from(grant.refresh_token_expire_time?).ok();
        grants.retain(|grant| end(grant).is_some_and(|end| end <= soon));
    }
    out::line(if target.json { view::grants_json(&grants) } else { view::grants(&grants) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::token_in;

    #[test]
    fn a_token_is_taken_out_of_what_it_came_in() {
        for text in [
            "rt-1\n",
            "\u{feff}rt-1",
            "\"rt-1\"\n",
            "{\"access_token\":\"at\",\"refresh_token\":\"rt-1\"}",
        ] {
            assert_eq!(token_in(text).unwrap(), "rt-1", "{text}");
        }
        for text in ["{}", "{\"access_token\":\"at\"}", "\"rt-1", "{\"refresh_token\":7}"] {
            let error = token_in(text).unwrap_err();
            assert!(error.contains("neither") && !error.contains("at\""), "{error}");
        }
    }
}
