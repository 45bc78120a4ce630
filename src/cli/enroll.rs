//! `token-broker grant enroll`: a person consents in a browser, and the broker's pages do the rest;
//! where they cannot be reached, the answer is pasted here.

use std::io::{IsTerminal as _, Read as _, stdin};
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use url::Url;
use zeroize::Zeroizing;

use crate::cli::token::connect;
use crate::cli::{Failure, Target, environment, grants, out, view};
use crate::client::Client;
use crate::clock::Clock;
use crate::proto::{
    CancelEnrollmentRequest, CompleteEnrollmentRequest, Enrollment, EnrollmentState,
    GetEnrollmentRequest, GetGrantRequest, Grant, ListProvidersRequest, StartEnrollmentRequest,
    StartEnrollmentResponse,
};

/// Longest address that is read.
const ADDRESS_MAX: u64 = 16 * 1024;
/// How often it is asked how far the person is.
const POLL: Duration = Duration::from_secs(1);
/// Longest wait for the broker to hear that nobody waits any more.
const CANCEL_MAX: Duration = Duration::from_secs(2);
/// The broker may be silent for so long after the last moment for an answer.
const LATE: Duration = Duration::from_secs(60);
/// What is said if nobody knows how it ended.
const UNHEARD: &str = "the broker did not tell how it ended; `token-broker grant show` says whether \
                       the grant lives";
/// What is said of an enrolment that was stopped before its answer came.
const CANCELLED: &str = "the enrolment was cancelled; nothing was changed";
/// What is said of an address without an answer.
const EMPTY: &str = "this address holds no `code` and `state`; paste the one that the browser was \
                     sent to after consent";
/// What shells expect of a command that was interrupted.
const EXIT_INTERRUPTED: i32 = 130;

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// Name of the grant. A grant of this name goes on with the new consent.
    grant_id: String,
    /// The provider, as the configuration names it. Left out: that of the grant; or the one that the
    /// name begins with, as in kroger/alice; or the only one.
    #[arg(long)]
    provider: Option<String>,
    /// A scope; may be given several times. None: those that the grant has stay.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A label NAME=VALUE; may be given several times. None: those that the grant has stay.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = grants::label)]
    labels: Vec<(String, String)>,
    /// Read the address that the browser is sent to from standard input: for brokers whose pages no
    /// browser reaches.
    #[arg(long)]
    paste: bool,
    /// Take the consent of another account than the one that the grant stands on.
    #[arg(long)]
    other_account: bool,
    /// Take the place of a grant of another kind or of another provider.
    #[arg(long)]
    replace: bool,
    /// Where the provider sends the browser, as it is registered there. With an address that is not
    /// the broker's the answer has to be pasted; nothing needs to listen there.
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Enroll {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let provider = match self.provider {
            Some(provider) => provider,
            None => provider_of(&mut client, &self.grant_id).await?,
        };
        let request = StartEnrollmentRequest {
            grant_id: self.grant_id,
            provider_id: provider,
            scopes: self.scopes,
            redirect_uri: self.redirect_uri.unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
            request_id: String::new(),
            started_by: who(),
            paste: self.paste,
            allow_other_account: self.other_account,
            replace: self.replace,
        };
        let started = client.admin.start_enrollment(request).await.map_err(view::failure)?;
        let started = started.into_inner();
        let id = started.enrollment_id.clone();
        let mut asking = client.clone();
        let ended = tokio::select! {
            ended = finish(&mut asking, started) => ended,
            () = stopped() => {
                let cancelled = cancel(&mut client, id).await;
                out::note(if cancelled { CANCELLED } else { UNHEARD });
                // Whoever reads from a terminal cannot be told to stop.
                std::process::exit(EXIT_INTERRUPTED);
            }
        };
        match ended {
            Ok(grant) => grants::show(grant, self.target.json),
            Err(failure) => {
                cancel(&mut client, id).await;
                return Err(failure);
            }
        }
        Ok(())
    }
}

async fn finish(
    client: &mut Client,
    started: StartEnrollmentResponse,
) -> Result<Option<Grant>, Failure> {
    if !started.start_url.is_empty() {
        return watch(client, started).await;
    }
    out::note("Open this address in a browser, sign in there and consent:");
    out::note(format_args!("\n  {}\n", started.authorization_url));
    out::note(
        "The browser is then sent to another address, which may well show an error. Paste that \
         whole address here within ten minutes:",
    );
    let pasted = spawn_blocking(pasted).await.map_err(|error| error.to_string())??;
    let request = answer(&pasted, &started)?;
    let ended = client.admin.complete_enrollment(request).await.map_err(view::failure)?;
    Ok(ended.into_inner().grant)
}

/// Waits until the person is through, and says how far they are.
async fn watch(
    client: &mut Client,
    started: StartEnrollmentResponse,
) -> Result<Option<Grant>, Failure> {
    out::note("Open this page in a browser:");
    out::note(format_args!("\n  {}\n", started.start_url));
    out::note(format_args!("and enter this code there:  {}\n", started.user_code));
    let clock = Clock::system();
    let lapses = started.expire_time.and_then(|time| SystemTime::try_from(time).ok());
    let end = lapses.unwrap_or(clock.now()) + LATE;
    let mut told = EnrollmentState::Unspecified;
    let mut heard = true;
    loop {
        let enrollment = match shown(client, &started.enrollment_id).await {
            Ok(enrollment) => enrollment,
            Err(status) if status.code() == Code::NotFound && told == EnrollmentState::Answered => {
                return Err(UNHEARD.to_owned());
            }
            Err(status) if status.code() == Code::NotFound => {
                return Err(
                    "nobody consented within ten minutes; nothing was changed. Begin again"
                        .to_owned(),
                );
            }
            // A broker that is restarted goes on with it.
            Err(status) if passes(status.code()) && clock.now() < end => {
                if std::mem::take(&mut heard) {
                    out::note("the broker does not answer; it is asked again until it does ...");
                }
                sleep(POLL).await;
                continue;
            }
            Err(status) if passes(status.code()) => return Err(UNHEARD.to_owned()),
            Err(status) => return Err(view::failure(status)),
        };
        if !std::mem::replace(&mut heard, true) {
            out::note("the broker answers again");
        }
        let state = enrollment.state();
        if state != told && !progress(state).is_empty() {
            out::note(progress(state));
            told = state;
        }
        match state {
            EnrollmentState::Granted => {
                let request = GetGrantRequest { grant_id: enrollment.grant_id };
                let shown = client.admin.get_grant(request).await.map_err(view::failure)?;
                return Ok(shown.into_inner().grant);
            }
            EnrollmentState::Failed => return Err(enrollment.failure),
            EnrollmentState::Cancelled => {
                return Err(CANCELLED.to_owned());
            }
            _ => sleep(POLL).await,
        }
    }
}

async fn shown(client: &mut Client, id: &str) -> Result<Enrollment, Status> {
    let request = GetEnrollmentRequest { enrollment_id: id.to_owned() };
    let shown = client.admin.get_enrollment(request).await?.into_inner();
    Ok(shown.enrollment.unwrap_or_default())
}

/// It may be otherwise in a moment.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted
    )
}

fn progress(state: EnrollmentState) -> &'static str {
    match state {
        EnrollmentState::Waiting => "waiting for the browser (Ctrl-C cancels) ...",
        EnrollmentState::Opened => "the code is entered; waiting for consent at the provider ...",
        EnrollmentState::Answered => "consent is there; the provider is asked for the tokens ...",
        EnrollmentState::Granted => "connected",
        EnrollmentState::Failed | EnrollmentState::Cancelled | EnrollmentState::Unspecified => "",
    }
}

/// Somebody stops the command, by Ctrl-C or as programs are stopped.
async fn stopped() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return drop(ctrl_c().await) };
    tokio::select! {
        _ = ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Best effort: what nobody answers lapses by itself. `false` if it may end otherwise.
async fn cancel(client: &mut Client, enrollment_id: String) -> bool {
    let request = CancelEnrollmentRequest { enrollment_id };
    let cancelled = timeout(CANCEL_MAX, client.admin.cancel_enrollment(request)).await;
    let Ok(Ok(cancelled)) = cancelled else { return false };
    let enrollment = cancelled.into_inner().enrollment.unwrap_or_default();
    enrollment.state() == EnrollmentState::Cancelled
}

/// The provider that goes without saying.
async fn provider_of(client: &mut Client, grant_id: &str) -> Result<String, Failure> {
    let request = GetGrantRequest { grant_id: grant_id.to_owned() };
    match client.admin.get_grant(request).await {
        Ok(shown) => return Ok(shown.into_inner().grant.unwrap_or_default().provider_id),
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) => return Err(view::failure(status)),
    }
    let listed = client.admin.list_providers(ListProvidersRequest {}).await;
    let listed = listed.map_err(view::failure)?.into_inner().providers;
    let names: Vec<_> = listed.into_iter().map(|provider| provider.provider_id).collect();
    let head = grant_id.split('/').next().unwrap_or_default();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        names if names.iter().any(|name| name == head) => Ok(head.to_owned()),
        [] => Err("no provider is configured".to_owned()),
        names => Err(format!("say which provider: --provider {}", names.join(" | "))),
    }
}

/// Who asks, for the page; nobody checks it.
fn who() -> String {
    let environment = environment();
    let user = environment.get("USER").or_else(|| environment.get("LOGNAME"));
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    match user {
        Some(user) => format!("{user}@{host}"),
        None => host,
    }
}

/// One line from a terminal, all there is from elsewhere.
fn pasted() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = if stdin().is_terminal() {
        stdin().read_line(&mut text).map(drop)
    } else {
        stdin().take(ADDRESS_MAX).read_to_string(&mut text).map(drop)
    };
    read.map_err(|error| format!("standard input: {error}"))?;
    Ok(text)
}

/// What the provider appended to the redirect address (RFC 6749 section 4.1.2).
fn answer(
    pasted: &str,
    asked: &StartEnrollmentResponse,
) -> Result<CompleteEnrollmentRequest, Failure> {
    let address = Url::parse(pasted.trim()).map_err(|_| {
        "this is no address; paste all of what the address bar of the browser shows, with what \
         stands before ://"
    })?;
    let back = Url::parse(&asked.authorization_url).ok().and_then(|url| part(&url, "redirect_uri"));
    let back = back.and_then(|back| Url::parse(&back).ok());
    if let Some(back) = back.filter(|back| place(back) != place(&address)) {
        return Err(format!(
            "this address is not where the provider sends people back to; paste the one that begins \
             with {back}"
        ));
    }
    let no = part(&address, "error").map(|error| {
        let why = part(&address, "error_description");
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        format!("the provider says no: {error}{why}; nothing was changed")
    });
    let Some(state) = part(&address, "state") else {
        return Err(no.unwrap_or_else(|| EMPTY.to_owned()));
    };
    if state != asked.state {
        return Err(
            "this address answers another question; begin again, and paste the address that \
                    the browser is sent to then"
                .to_owned(),
        );
    }
    if let Some(no) = no {
        return Err(no);
    }
    let code = part(&address, "code").ok_or(EMPTY)?;
    Ok(CompleteEnrollmentRequest { state, code, iss: part(&address, "iss").unwrap_or_default() })
}

/// What an address says under a name.
fn part(address: &Url, name: &str) -> Option<String> {
    let mut pairs = address.query_pairs();
    pairs.find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

/// An address without what was appended to it.
fn place(address: &Url) -> &str {
    &address[..url::Position::AfterPath]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_from_the_address() {
        let asked = StartEnrollmentResponse {
            state: "s".to_owned(),
            authorization_url: "https://p/authorize?redirect_uri=https%3A%2F%2Fb.example%2Fcb"
                .to_owned(),
            ..StartEnrollmentResponse::default()
        };
        let read =
            answer(" https://b.example/cb?code=a%2Bb&state=s&iss=https%3A%2F%2Fp \n", &asked);
        let read = read.unwrap();
        assert_eq!((read.code.as_str(), read.iss.as_str()), ("a+b", "https://p"));
        for (pasted, why) in [
            ("what?", "no address"),
            ("https://b.example/cb?error=access_denied&state=s", "access_denied"),
            ("https://b.example/cb?state=s", "no `code`"),
            ("https://b.example/cb?code=c&state=t", "another question"),
            ("https://b.example/cb?error=access_denied&state=t", "another question"),
            ("https://elsewhere.example/cb?code=c&state=s", "begins with https://b.example/cb"),
        ] {
            assert!(answer(pasted, &asked).unwrap_err().contains(why), "{pasted}");
        }
    }
}
