//! `token-broker serve`.

use clap::Args;
use tracing::{error, warn};

use crate::app::App;
use crate::cli::{ConfigFile, Failure};
use crate::clock::Clock;
use crate::config::{Config, Problem};
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// The store is a copy from the past, such as a restored backup: no refresh token in it is
    /// presented before an operator says so. Say it at the first start after restoring only.
    #[arg(long)]
    restored: bool,
}

impl Serve {
    pub(super) async fn run(self, config: Config) -> Result<(), Failure> {
        Box::pin(run(Config { restored: self.restored, ..config })).await
    }
}

async fn run(config: Config) -> Result<(), Failure> {
    telemetry::start_log(&config.log);
    for Problem { path, message } in &config.warnings {
        warn!(setting = path, "{path} {message}");
    }
    if config.providers.is_empty() {
        warn!(
            "no provider is configured; add one under `providers`, or set OAUTH2_BASE_URL, CLIENT_ID and CLIENT_SECRET"
        );
    }
    if !config.listen.api.ip().is_loopback() && config.policy.is_none() {
        warn!(api = %config.listen.api, "anyone who reaches this address may take tokens");
    }
    let clock = Clock::system();
    if config.listen.tls.as_ref().is_some_and(|tls| tls.left(clock.now()).is_none()) {
        error!(
            "the certificate of the API has expired: no client that looks will take it; it is read again when it changes"
        );
    }
    let app = App::open(config, clock).await.map_err(|error| error.to_string())?;
    let Some(app) = app else { return Ok(()) };
    app.start().await.until_stopped().await.map_err(|error| error.to_string())
}
