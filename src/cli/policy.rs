//! `token-broker policy`: what a policy means, without a broker.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::broker::model::GrantId;
use crate::caller::Caller;
use crate::cli::{Failure, out, view};
use crate::policy::{self, Action, Decision, Explained, Target};

/// It is denied.
const EXIT_DENIED: u8 = 1;
/// The question, or the policy, is wrong.
const EXIT_UNANSWERED: u8 = 2;

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Say whether a caller may do something; exits with 1 if not, and with 2 if that cannot be said.
    Test(Question),
    /// Say of each rule in what it fits.
    Explain(Question),
}

#[derive(Debug, Args)]
pub(super) struct Question {
    /// The policy file.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Who calls: `kubernetes:NAMESPACE/SERVICEACCOUNT`, `spiffe://DOMAIN/PATH`, `static:NAME` or anyone.
    #[arg(long)]
    subject: String,
    /// What they want, such as `get_token`.
    #[arg(long)]
    action: String,
    /// Of which grant, such as kroger/alice. Left out: of any.
    #[arg(long)]
    grant: Option<String>,
    /// At which provider it is made. Left out: at any.
    #[arg(long)]
    provider: Option<String>,
    /// With which scope it is made; may be repeated. Left out: nothing is asked of scopes.
    #[arg(long)]
    scope: Vec<String>,
}

impl Policy {
    /// Exits with 0 where it is allowed, with 1 where it is denied, and with 2 where nobody can say.
    pub(super) fn run(self) -> ExitCode {
        match self.answer() {
            Ok(Ok(allowed)) => {
                out::line(allowed);
                ExitCode::SUCCESS
            }
            Ok(Err(denied)) => {
                out::note(denied);
                ExitCode::from(EXIT_DENIED)
            }
            Err(failure) => {
                out::note(format_args!("error: {failure}"));
                ExitCode::from(EXIT_UNANSWERED)
            }
        }
    }

    /// Why it is allowed, or denied.
    fn answer(self) -> Result<Result<String, String>, Failure> {
        let explains = matches!(self, Self::Explain(_));
        let (Self::Test(question) | Self::Explain(question)) = self;
        let Question { file, subject, action, grant, provider, scope } = question;
        let policy = policy::load(&file).map_err(|error| error.to_string())?;
        Caller::named(&subject).ok_or_else(|| {
            format!("{subject:?} is nobody: kubernetes:NAMESPACE/SERVICEACCOUNT, spiffe://DOMAIN/PATH, static:NAME or anyone")
        })?;
        if let Some(Err(why)) = grant.as_deref().map(GrantId::parse) {
            return Err(format!("{:?} is no name of a grant: {why}", grant.unwrap_or_default()));
        }
        let action = Action::from_name(&action).ok_or_else(|| {
            let known = Action::ALL.map(Action::name);
            format!("there is no action {action:?}; there are {}", known.join(", "))
        })?;
        let scopes = Some(scope.as_slice()).filter(|scopes| !scopes.is_empty());
        let (grant_id, provider) = (grant.as_deref(), provider.as_deref());
        let target = Target { grant: grant_id, provider, scopes };
        if explains {
            out::line(table(&policy.explain(&subject, action, target)));
        }
        for rule in policy.wide().filter(|_| action.makes_grants() && provider.is_none()) {
            out::note(format_args!(
                "warning: the rule {rule} names no `providers`: its callers may use every one"
            ));
        }
        let decision = policy.decide(&subject, action, target);
        let some = if grant.is_none() { ", for some grants: name one with --grant" } else { "" };
        Ok(match decision {
            Decision::Allowed(_) => Ok(format!("{decision}{some}")),
            Decision::Denied => Err(decision.to_string()),
        })
    }
}

fn table(rules: &[Explained<'_>]) -> String {
    let fits = |fits: bool| if fits { "fits" } else { "-" }.to_owned();
    let head = ["RULE", "SUBJECT", "ACTION", "GRANT", "PROVIDER, SCOPES"].map(str::to_owned);
    let rows = rules.iter().map(|rule| {
        let fits = [rule.subject, rule.action, rule.grant, rule.made].map(fits);
        let [subject, action, grant, made] = fits;
        [rule.rule.to_owned(), subject, action, grant, made]
    });
    view::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}
