//! `token-broker policy`: what a policy means, without a broker.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::caller::Caller;
use crate::cli::{Failure, out, view};
use crate::policy::{self, Action, Decision, Explained};

#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Say whether a caller may do something; exits with 1 if not.
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
}

impl Policy {
    pub(super) fn run(self) -> Result<(), Failure> {
        let explains = matches!(self, Self::Explain(_));
        let (Self::Test(question) | Self::Explain(question)) = self;
        let Question { file, subject, action, grant } = question;
        let policy = policy::load(&file).map_err(|error| error.to_string())?;
        Caller::named(&subject).ok_or_else(|| {
            format!("{subject:?} is nobody: kubernetes:NAMESPACE/SERVICEACCOUNT, spiffe://DOMAIN/PATH, static:NAME or anyone")
        })?;
        let action = Action::from_name(&action).ok_or_else(|| {
            let known = Action::ALL.map(Action::name);
            format!("there is no action {action:?}; there are {}", known.join(", "))
        })?;
        if explains {
            out::line(table(&policy.explain(&subject, action, grant.as_deref())));
        }
        let decision = policy.decide(&subject, action, grant.as_deref());
        match decision {
            Decision::Allowed(_) => {
                out::line(decision);
                Ok(())
            }
            Decision::Denied => Err(decision.to_string()),
        }
    }
}

fn table(rules: &[Explained<'_>]) -> String {
    let fits = |fits: bool| if fits { "fits" } else { "-" }.to_owned();
    let head = ["RULE", "SUBJECT", "ACTION", "GRANT"].map(str::to_owned);
    let rows = rules.iter().map(|rule| {
        [rule.rule.to_owned(), fits(rule.subject), fits(rule.action), fits(rule.grant)]
    });
    view::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}
