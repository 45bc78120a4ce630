//! `token-broker serve`.

use tracing::warn;

use crate::app;
use crate::cli::Failure;
use crate::clock::Clock;
use crate::config::Config;
use crate::telemetry;

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    telemetry::start_log(&config.log);
    if config.providers.is_empty() {
        warn!(
            "no provider is configured; add one under `providers`, or set OAUTH2_BASE_URL, CLIENT_ID and CLIENT_SECRET"
        );
    }
    if !config.listen.api.ip().is_loopback() {
        warn!(api = %config.listen.api, "anyone who reaches this address may take tokens");
    }
    app::serve(config, Clock::system(), |_, _| async {}).await.map_err(|error| error.to_string())
}
