//! `token-broker watch`.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::cli::token::connect;
use crate::cli::{Failure, Target, out, view};
use crate::proto::watch_token_response::Event;
use crate::proto::{TokenUnavailable, WatchTokenRequest};

/// Pause before a broker that has gone is called again; another replica answers meanwhile.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Watch {
    /// The grant, such as kroger/alice.
    grant_id: String,
    /// The generation of the token that is there already.
    #[arg(long, value_name = "GENERATION", default_value_t = 0)]
    last: i64,
    #[command(flatten)]
    target: Target,
}

impl Watch {
    /// Prints each token on a line of its own, until the grant may not be watched any more.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        // A broker that was never there is a mistake, and not waited for.
        let mut client = connect(&self.target).await?;
        loop {
            let (grant_id, last_generation) = (self.grant_id.clone(), self.last);
            let request = WatchTokenRequest { grant_id, last_generation };
            let ended = match client.tokens.watch_token(request).await {
                Ok(stream) => self.print(stream.into_inner()).await,
                Err(status) => Err(status),
            };
            match ended {
                Ok(()) => {}
                Err(status) if passes(&status) => {
                    out::note(format_args!("{}; watching again", status.message()));
                }
                Err(status) => return Err(view::failure(status)),
            }
            sleep(AGAIN).await;
            while let Err(why) = connect(&self.target).await.map(|again| client = again) {
                out::note(why);
                sleep(AGAIN).await;
            }
        }
    }

    async fn print(
        &mut self,
        mut stream: tonic::Streaming<crate::proto::WatchTokenResponse>,
    ) -> Result<(), Status> {
        while let Some(response) = stream.message().await? {
            match response.event {
                Some(Event::Token(token)) => {
                    self.last = token.generation;
                    if self.target.json {
                        out::line(view::token(&token, None));
                    } else {
                        out::line(&token.access_token);
                        out::note(view::about_token(&token, None));
                    }
                }
                Some(Event::Unavailable(unavailable)) => {
                    let TokenUnavailable { message, drop_cached, .. } = &unavailable;
                    if self.target.json {
                        let reason = unavailable.reason().wire_name();
                        out::line(json!({ "unavailable": reason, "drop_cached": drop_cached }));
                    }
                    out::note(message);
                }
                Some(Event::Heartbeat(_)) | None => {}
            }
        }
        Ok(())
    }
}

/// The broker is going, or the way to it; another one answers.
fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal)
}
