//! `token-broker get` and `token-broker refresh`.

use std::io::{IsTerminal as _, stdout};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tonic::codegen::http::Uri;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::cli::{Failure, Target, out, view};
use crate::client::{Bearer, Client};
use crate::proto::force_refresh_request::Rejected;
use crate::proto::{ForceRefreshRequest, GetTokenRequest, Token, force_refresh_response};

#[derive(Debug, Args)]
pub(super) struct Get {
    /// The grant, such as kroger/alice.
    grant_id: String,
    /// The token must live at least this long, such as 5m.
    #[arg(long, value_parser = humantime::parse_duration)]
    min_ttl: Option<Duration>,
    /// The token must be of this generation or newer.
    #[arg(long, default_value_t = 0)]
    min_generation: i64,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
pub(super) struct Refresh {
    /// The grant, such as kroger/alice.
    grant_id: String,
    /// The generation that the API rejected. Left out: the current one.
    #[arg(long, value_name = "GENERATION", conflicts_with = "rejected_fingerprint")]
    rejected: Option<i64>,
    /// The fingerprint of the token that the API rejected.
    #[arg(long, value_name = "FINGERPRINT")]
    rejected_fingerprint: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let min_ttl = self.min_ttl.map(TryInto::try_into).transpose();
        let request = GetTokenRequest {
            grant_id: self.grant_id,
            min_ttl: min_ttl.map_err(|_| "--min-ttl is too long".to_owned())?,
            min_generation: self.min_generation,
        };
        let response = client.tokens.get_token(request).await.map_err(view::failure)?;
        print(&response.into_inner().token.unwrap_or_default(), None, self.target.json);
        Ok(())
    }
}

impl Refresh {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let generation = self.rejected.map(Rejected::RejectedGeneration);
        let fingerprint = self.rejected_fingerprint.map(Rejected::RejectedFingerprint);
        let request =
            ForceRefreshRequest { grant_id: self.grant_id, rejected: generation.or(fingerprint) };
        let response = client.tokens.force_refresh(request).await.map_err(view::failure)?;
        let response = response.into_inner();
        let outcome = match response.outcome() {
            force_refresh_response::Outcome::AlreadyReplaced => "already replaced",
            force_refresh_response::Outcome::Rotated => "rotated",
            force_refresh_response::Outcome::Unspecified => "unknown",
        };
        print(&response.token.unwrap_or_default(), Some(outcome), self.target.json);
        Ok(())
    }
}

/// How a certificate begins.
const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

pub(super) async fn connect(target: &Target) -> Result<Client, Failure> {
    let given = target.address.contains("://");
    let address = if given { target.address.clone() } else { format!("http://{}", target.address) };
    if let Some(path) = &target.token_file {
        let token = std::fs::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        if token.trim().is_empty() {
            return Err(format!("{} holds no token", path.display()));
        }
        if token.trim().contains(char::is_whitespace) {
            return Err(format!("{} holds more than a token", path.display()));
        }
    }
    let bearer = target.token_file.clone().map_or_else(Bearer::none, Bearer::from_file);
    let tls = tls(target)?;
    let safe = address.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    if !safe && (target.tls_ca.is_some() || target.tls_cert.is_some()) {
        return Err(format!(
            "{} would be called in plaintext, though --tls-ca or --tls-cert is there; name it with \
             https://, or leave them out",
            target.address
        ));
    }
    if !safe && !is_loopback(&address) && target.token_file.is_some() {
        return Err(format!(
            "the token would travel to {} in the clear; name the broker with https://",
            target.address
        ));
    }
    Client::connect_as(&address, bearer, tls).await.map_err(|error| {
        let cause = crate::broker::error::chain(&error);
        let hint = hint(safe, &cause);
        format!("no broker answers at {}: {cause}\n{hint}", target.address)
    })
}

/// It does not leave this machine.
fn is_loopback(address: &str) -> bool {
    let uri: Option<Uri> = address.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// What to do about a connection that came to nothing.
fn hint(safe: bool, cause: &str) -> &'static str {
    match (safe, cause) {
        (true, cause) if cause.contains("certificate") || cause.contains("UnknownIssuer") => {
            "--tls-ca says who signed its certificate"
        }
        (true, cause)
            if cause.contains("corrupt message") || cause.contains("InvalidContentType") =>
        {
            "it speaks plaintext: name it with http://"
        }
        (true, _) => "look at the address, and at --tls-ca and --tls-cert",
        (false, _) => {
            "start one with `token-broker dev`, or name one with --address; one with TLS is named \
             with https://"
        }
    }
}

/// Whom to trust, and what we prove ourselves by.
fn tls(target: &Target) -> Result<ClientTlsConfig, Failure> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
    };
    let mut tls = match &target.tls_ca {
        Some(path) => {
            let pem = read(path)?;
            if !pem.windows(PEM.len()).any(|part| part == PEM) {
                return Err(format!("{} holds no certificate in PEM", path.display()));
            }
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&target.tls_cert, &target.tls_key) {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

/// The token alone goes to stdout, fit for `$(…)`; what is known of it to a terminal beside it.
fn print(token: &Token, outcome: Option<&str>, json: bool) {
    if json {
        out::line(view::token(token, outcome));
        return;
    }
    out::line(&token.access_token);
    if stdout().is_terminal() {
        out::note(view::about_token(token, outcome));
    }
}
