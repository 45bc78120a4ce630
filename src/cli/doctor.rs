//! `token-broker doctor`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::json;

use crate::app::doctor;
use crate::broker::store::{Finding, Grade};
use crate::cli::{ConfigFile, Failure, out, view};
use crate::clock::Clock;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) async fn run(self, config: Config) -> Result<(), Failure> {
        let findings = doctor::examine(&config, Clock::system()).await;
        let text = if self.json {
            let all = findings.iter().map(|finding| {
                json!({
                    "check": finding.check,
                    "state": finding.grade.name(),
                    "found": finding.found,
                    "remedy": finding.remedy,
                })
            });
            json!(all.collect::<Vec<_>>()).to_string()
        } else {
            shown(&findings)
        };
        out::line(text);
        let bad = findings.iter().filter(|finding| finding.grade >= Grade::Waits).count();
        match bad {
            0 => Ok(()),
            1 => Err("one check keeps a broker from working".to_owned()),
            bad => Err(format!("{bad} checks keep a broker from working")),
        }
    }
}

/// A table, and below it what to do.
fn shown(findings: &[Finding]) -> String {
    let head = ["CHECK", "STATE", "FOUND"].map(str::to_owned);
    let row = |finding: &Finding| {
        [finding.check.to_owned(), finding.grade.name().to_owned(), finding.found.clone()]
    };
    let rows: Vec<_> = std::iter::once(head).chain(findings.iter().map(row)).collect();
    let mut text = view::table(&rows);
    let remedies = findings.iter().filter(|finding| !finding.remedy.is_empty());
    for (index, finding) in remedies.enumerate() {
        let gap = if index == 0 { "\n\n" } else { "\n" };
        let _ = write!(text, "{gap}{}: {}", finding.check, finding.remedy);
    }
    text
}
