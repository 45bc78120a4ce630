//! What trust rests on: certificate, callers, policy, audit log.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use crate::app::doctor::{folder, writable};
use crate::audit::Place;
use crate::broker::store::{Finding, Grade};
use crate::caller::Keys;
use crate::clock::Clock;
use crate::config::Config;

/// A certificate that ends sooner should have been exchanged.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// Rights of everybody who is neither owner nor of the group.
const OF_OTHERS: u32 = 0o007;

pub(super) async fn examine(config: &Config, clock: Clock) -> Vec<Finding> {
    let mut findings: Vec<_> = certificate(config, clock).into_iter().collect();
    findings.extend(policy(config));
    findings.extend(callers(config).await);
    findings.extend(secret_files(config));
    findings.extend(audit(config));
    findings
}

fn certificate(config: &Config, clock: Clock) -> Option<Finding> {
    let left = config.listen.tls.as_ref()?.left(clock.now());
    let remedy = "have it exchanged; the files are read again when they change";
    Some(match left {
        None => Finding::new("tls", Grade::Wrong, "the certificate has expired", remedy),
        Some(left) => {
            let found = format!("the certificate is good for {} days", left.as_secs() / 86_400);
            let (grade, remedy) =
                if left < SOON { (Grade::Risk, remedy) } else { (Grade::Fine, "") };
            Finding::new("tls", grade, found, remedy)
        }
    })
}

fn policy(config: &Config) -> Option<Finding> {
    let rules = config.policy.as_ref()?.rules().count();
    Some(match rules {
        0 => Finding::new(
            "policy",
            Grade::Risk,
            "there is no rule: everything is denied",
            "`token-broker policy test` says what a rule means",
        ),
        rules => Finding::fine("policy", format!("{rules} rules")),
    })
}

async fn callers(config: &Config) -> Option<Finding> {
    let cluster = config.callers.kubernetes.as_ref()?;
    Some(match Keys::new(cluster.keys.clone()).refresh().await {
        Ok(()) => Finding::fine("callers", format!("the keys of {} are there", cluster.issuer)),
        Err(why) => Finding::new(
            "callers",
            Grade::Waits,
            format!("the keys that sign callers' tokens cannot be had: {why}"),
            "look at `callers.kubernetes`, and whether the broker may read them (RBAC, network)",
        ),
    })
}

/// Files with secrets that everybody on the machine may read.
fn secret_files(config: &Config) -> Vec<Finding> {
    let tls = config.listen.tls.as_ref().map(|tls| tls.key_file().to_owned());
    let files = config.clients.iter().map(|client| client.file.clone());
    let audit = config.audit.as_ref().and_then(|audit| match &audit.place {
        Place::File(path) => Some(path.clone()),
        Place::Stdout => None,
    });
    let files = files.chain(config.tokens_file.clone()).chain(config.keys_file.clone());
    let files = files.chain(tls).chain(audit);
    let open = |path: &Path| {
        path.metadata().is_ok_and(|found| found.permissions().mode() & OF_OTHERS != 0)
    };
    let told = files.filter(|path| open(path)).map(|path| {
        let found = format!("{} can be read by everybody on this machine", path.display());
        Finding::new("secrets", Grade::Risk, found, format!("chmod o= {}", path.display()))
    });
    told.collect()
}

fn audit(config: &Config) -> Option<Finding> {
    Some(match &config.audit.as_ref()?.place {
        Place::Stdout => Finding::fine("audit", "beside the log"),
        Place::File(path) if path.exists() => writable("audit", path),
        Place::File(path) => folder("audit", path, "none yet: the first start makes it"),
    })
}
