//! `token-broker grant enroll`: a person consents in a browser, and the answer is pasted here.

use std::io::{IsTerminal as _, Read as _, stdin};

use clap::Args;
use url::Url;
use zeroize::Zeroizing;

use crate::cli::token::connect;
use crate::cli::{Failure, Target, grants, out, view};
use crate::proto::{CompleteEnrollmentRequest, StartEnrollmentRequest};

/// Longest address that is read.
const ADDRESS_MAX: u64 = 16 * 1024;

#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// Name of the grant. A grant of this name goes on with the new consent.
    grant_id: String,
    /// The provider, as the configuration names it.
    #[arg(long)]
    provider: String,
    /// A scope; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A label NAME=VALUE; may be given several times. None: those that the grant has stay.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = grants::label)]
    labels: Vec<(String, String)>,
    /// Where the provider sends the browser, as it is registered there; left out: `redirect_url` of
    /// the provider's settings. Nothing needs to listen there.
    #[arg(long, value_name = "URL")]
    redirect_uri: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Enroll {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = connect(&self.target).await?;
        let request = StartEnrollmentRequest {
            grant_id: self.grant_id,
            provider_id: self.provider,
            scopes: self.scopes,
            redirect_uri: self.redirect_uri.unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
            request_id: String::new(),
        };
        let started = client.admin.start_enrollment(request).await.map_err(view::failure)?;
        let started = started.into_inner();
        out::note("Open this address in a browser, sign in there and consent:");
        out::note(format_args!("\n{}\n", started.authorization_url));
        out::note(
            "The browser is then sent to another address, which may well show an error. Paste that \
             whole address here within ten minutes:",
        );
        let request = answer(&pasted()?, &started.state)?;
        let ended = client.admin.complete_enrollment(request).await.map_err(view::failure)?;
        grants::show(ended.into_inner().grant, self.target.json);
        Ok(())
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
fn answer(pasted: &str, state: &str) -> Result<CompleteEnrollmentRequest, Failure> {
    let address = Url::parse(pasted.trim()).map_err(|_| {
        "this is no address; paste all of what the address bar of the browser shows, from https:// on"
            .to_owned()
    })?;
    let part = |name: &str| {
        let mut pairs = address.query_pairs();
        pairs.find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
    };
    if let Some(error) = part("error") {
        let why = part("error_description").map_or(String::new(), |why| format!(" ({why})"));
        return Err(format!("the provider says no: {error}{why}; nothing was changed"));
    }
    let (Some(code), Some(given)) = (part("code"), part("state")) else {
        return Err(
            "this address holds no `code` and `state`; paste the one that the browser was \
                    sent to after consent"
                .to_owned(),
        );
    };
    if given != state {
        return Err(
            "this address answers another question; begin again, and paste the address that \
                    the browser is sent to then"
                .to_owned(),
        );
    }
    Ok(CompleteEnrollmentRequest { state: given, code, iss: part("iss").unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_from_the_address() {
        let read = answer(" https://b.example/cb?code=a%2Bb&state=s&iss=https%3A%2F%2Fp \n", "s");
        let read = read.unwrap();
        assert_eq!((read.code.as_str(), read.iss.as_str()), ("a+b", "https://p"));
        for (pasted, why) in [
            ("what?", "no address"),
            ("https://b.example/cb?error=access_denied&state=s", "access_denied"),
            ("https://b.example/cb?state=s", "no `code`"),
            ("https://b.example/cb?code=c&state=t", "another question"),
        ] {
            assert!(answer(pasted, "s").unwrap_err().contains(why), "{pasted}");
        }
    }
}
