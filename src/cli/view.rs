//! What the command line shows: tables and plain sentences, or JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::Status;

use crate::cli::Failure;
use crate::client::CallError;
use crate::proto::store_finding::Grade;
use crate::proto::{
    ErrorReason, GetBrokerStatusResponse, Grant, GrantDoubt, Provider, Token, grant_doubt,
};

mod config;
mod providers;

pub(super) use self::config::config;
use self::providers::{because, failure_json, providers_json, stands};
pub(super) use self::providers::{provider, providers};

/// An error of a call: code, reason and what to do.
pub(super) fn failure(status: Status) -> Failure {
    let error = CallError::from(status);
    let reason = match error.reason {
        ErrorReason::Unspecified => format!("{:?}", error.code),
        reason => reason.wire_name().to_owned(),
    };
    let mut text = format!("{reason}: {}", error.message);
    if let Some(wait) = error.retry_after {
        let _ = write!(text, "\ntry again in {}", rounded(wait));
    }
    if error.reason == ErrorReason::Unspecified {
        text.push_str(
            "\nthat is no answer of a broker; one with TLS is named with https:// and --tls-ca, and \
             whatever else listens there is none",
        );
    }
    text
}

pub(super) fn token(token: &Token, outcome: Option<&str>) -> Value {
    let mut shown = json!({
        "access_token": token.access_token,
        "token_type": token.token_type,
        "expire_time": instant(token.expire_time.as_ref()),
        "ttl_s": token.ttl.map_or(0, |ttl| ttl.seconds),
        "generation": token.generation,
        "fingerprint": token.fingerprint,
        "scopes": token.scopes,
        "attributes": token.attributes,
    });
    if token.degraded_reason() != ErrorReason::Unspecified {
        shown["degraded_reason"] = token.degraded_reason().wire_name().into();
        shown["retry_time"] = token.retry_time.as_ref().map(|at| time(Some(at))).into();
    }
    if let Some(outcome) = outcome {
        shown["outcome"] = outcome.into();
    }
    shown
}

pub(super) fn about_token(token: &Token, outcome: Option<&str>) -> String {
    let ttl = token.ttl.and_then(|ttl| Duration::try_from(ttl).ok()).unwrap_or_default();
    let mut text = format!("generation {}, valid for {}", token.generation, rounded(ttl));
    if let Some(outcome) = outcome {
        let _ = write!(text, ", {outcome}");
    }
    if token.degraded_reason() != ErrorReason::Unspecified {
        let _ = write!(text, "; refreshing fails: {}", token.degraded_reason().wire_name());
        if let Some(at) = &token.retry_time {
            let _ = write!(text, ", tried again at {}", time(Some(at)));
        }
    }
    text
}

pub(super) fn grant(grant: &Grant) -> String {
    let mut rows = vec![
        ("grant", grant.grant_id.clone()),
        ("provider", grant.provider_id.clone()),
        ("kind", kind(grant).to_owned()),
        ("state", state(grant).to_owned()),
        ("generation", grant.generation.to_string()),
        ("token expires", time(grant.token_expire_time.as_ref())),
        ("consent ends", time(grant.refresh_token_expire_time.as_ref())),
        ("last refresh", time(grant.last_refresh_time.as_ref())),
        ("next refresh", time(grant.next_refresh_time.as_ref())),
        ("scopes", grant.scopes.join(" ")),
        ("keep warm", if grant.keep_warm { "yes" } else { "no" }.to_owned()),
        ("created", time(grant.create_time.as_ref())),
    ];
    let mut labels: Vec<_> =
        grant.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    rows.push(("labels", labels.join(" ")));
    if let Some(failure) = &grant.last_failure {
        rows.push(("last failure", time(failure.time.as_ref())));
        rows.extend(because(failure));
        rows.push(("in a row", grant.consecutive_failures.to_string()));
        rows.push(("next try", time(failure.retry_time.as_ref())));
    }
    if let Some(doubt) = &grant.doubt {
        rows.push(("in doubt since", time(doubt.since_time.as_ref())));
        rows.push(("sent", sent(doubt)));
        rows.push(("what follows", what_follows(doubt)));
    }
    let rows = rows.iter().filter(|(_, value)| !value.is_empty() && value != "-");
    rows.map(|(name, value)| format!("{name:<14} {value}")).collect::<Vec<_>>().join("\n")
}

fn sent(doubt: &GrantDoubt) -> String {
    if doubt.kind() == grant_doubt::Kind::Restored {
        return "perhaps, by somebody, after the copy of this store was made".to_owned();
    }
    let times = match doubt.attempts {
        1 => "once".to_owned(),
        more => format!("{more} times"),
    };
    let end = match doubt.kind() {
        grant_doubt::Kind::Answered => {
            format!("the provider answered with status {}", doubt.provider_status)
        }
        grant_doubt::Kind::Unreadable => "the answer could not be read".to_owned(),
        grant_doubt::Kind::Ended => "the connection ended without an answer".to_owned(),
        grant_doubt::Kind::Unheard => "no answer came".to_owned(),
        grant_doubt::Kind::Died => "the process that sent it is gone".to_owned(),
        grant_doubt::Kind::Silent if doubt.holder.is_empty() => {
            "by a replica that gave no sign for long, and is taken for gone".to_owned()
        }
        grant_doubt::Kind::Silent => {
            return format!(
                "perhaps, since {}, by replica {} (the first line of its journal), which gives no sign",
                time(doubt.since_time.as_ref()),
                doubt.holder
            );
        }
        grant_doubt::Kind::Restored | grant_doubt::Kind::Unspecified => "unknown".to_owned(),
    };
    format!("{times}, last at {}: {end}", time(doubt.last_sent_time.as_ref()))
}

fn what_follows(doubt: &GrantDoubt) -> String {
    if !doubt.holder.is_empty() {
        let then = doubt.retry_time.as_ref().map_or_else(
            || "then an operator decides: `token-broker grant resolve`".to_owned(),
            |at| format!("at {} it is taken for gone", time(Some(at))),
        );
        return format!(
            "start that replica again: it may have the new pair in its journal; {then}"
        );
    }
    match &doubt.retry_time {
        Some(at) => format!(
            "the refresh token is presented again at {}, or sooner if an API rejects the access \
             token; until then the old access token is served while it is valid",
            time(Some(at))
        ),
        None => "an operator decides: `token-broker grant resolve`; until then the old access \
                 token is served while it is valid"
            .to_owned(),
    }
}

pub(super) fn grant_json(grant: &Grant) -> Value {
    json!({
        "grant_id": grant.grant_id,
        "provider_id": grant.provider_id,
        "kind": kind(grant),
        "state": state(grant),
        "generation": grant.generation,
        "token_fingerprint": grant.token_fingerprint,
        "token_expire_time": instant(grant.token_expire_time.as_ref()),
        "refresh_token_expire_time": instant(grant.refresh_token_expire_time.as_ref()),
        "last_refresh_time": instant(grant.last_refresh_time.as_ref()),
        "next_refresh_time": instant(grant.next_refresh_time.as_ref()),
        "scopes": grant.scopes,
        "labels": grant.labels,
        "keep_warm": grant.keep_warm,
        "etag": grant.etag,
        "consecutive_failures": grant.consecutive_failures,
        "doubt": grant.doubt.as_ref().map(|doubt| json!({
            "kind": doubt.kind().as_str_name().trim_start_matches("KIND_"),
            "provider_status": doubt.provider_status,
            "since_time": instant(doubt.since_time.as_ref()),
            "last_sent_time": instant(doubt.last_sent_time.as_ref()),
            "attempts": doubt.attempts,
            "retry_time": doubt.retry_time.as_ref().map(|at| time(Some(at))),
        })),
        "last_failure": grant.last_failure.as_ref().map(failure_json),
    })
}

/// What became of a grant that was resolved, in a few words.
pub(super) fn resolved(grant: &Grant) -> String {
    let due = grant.doubt.as_ref().and_then(|doubt| doubt.retry_time.as_ref());
    match due {
        Some(at) => format!("presented again at {}, when its last request is over", time(Some(at))),
        None => state(grant).to_owned(),
    }
}

/// Grants by state, the states in the order of the contract.
fn by_state(grants: &[Grant]) -> BTreeMap<i32, (&'static str, usize)> {
    let mut counts = BTreeMap::new();
    for grant in grants {
        counts.entry(grant.state).or_insert((state(grant), 0)).1 += 1;
    }
    counts
}

pub(super) fn status(
    status: &GetBrokerStatusResponse,
    providers: &[Provider],
    grants: Option<&[Grant]>,
) -> String {
    let state = if status.store_available { "well" } else { "NOT AVAILABLE" };
    let counts = grants.map(|grants| {
        let counts = by_state(grants);
        counts.values().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>()
    });
    let counts = match counts.as_deref() {
        None => "cannot be read".to_owned(),
        Some([]) => "none".to_owned(),
        Some(counts) => counts.join(", "),
    };
    let mut rows = vec![
        ("version", status.version.clone()),
        ("running since", time(status.start_time.as_ref())),
        ("store", format!("{}, {state}, deployment {}", status.store, status.deployment_id)),
        ("refreshes", format!("{} under way", status.flights)),
        ("grants", counts),
    ];
    if !status.store_trouble.is_empty() {
        rows.push(("store trouble", status.store_trouble.clone()));
    }
    if status.unpublished_pairs > 0 {
        let journal = status.journal.as_ref().is_some_and(|journal| journal.trouble.is_empty());
        let place = if journal { "memory and journal" } else { "memory only" };
        let lost = format!("in {place}: the store does not take them");
        rows.push(("new pairs", format!("{} {lost}", status.unpublished_pairs)));
    }
    if let Some(journal) = &status.journal {
        let well = if journal.trouble.is_empty() { "well" } else { &journal.trouble };
        let stuck = match journal.stuck {
            0 => String::new(),
            stuck => format!(", {stuck} of them stuck: the log says why"),
        };
        rows.push(("journal", format!("{well}; pairs: {}{stuck}", journal.entries)));
    }
    for finding in &status.findings {
        let remedy =
            if finding.remedy.is_empty() { String::new() } else { format!("; {}", finding.remedy) };
        match finding.grade() {
            Grade::Unspecified | Grade::Ok | Grade::Unknown => {}
            Grade::Risk | Grade::Waits | Grade::Wrong => {
                rows.push(("store risk", format!("{}: {}{remedy}", finding.check, finding.found)));
            }
        }
    }
    if status.draining {
        rows.push(("stopping", "yes".to_owned()));
    }
    for provider in providers {
        rows.push(("provider", format!("{}, {}", provider.provider_id, stands(provider))));
    }
    rows.iter().map(|(name, value)| format!("{name:<14} {value}")).collect::<Vec<_>>().join("\n")
}

pub(super) fn status_json(
    status: &GetBrokerStatusResponse,
    providers: &[Provider],
    grants: Option<&[Grant]>,
) -> Value {
    let counts = grants.map(|grants| {
        let counts = by_state(grants).into_values();
        counts
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect::<serde_json::Map<_, Value>>()
    });
    json!({
        "version": status.version,
        "start_time": instant(status.start_time.as_ref()),
        "store": status.store,
        "store_available": status.store_available,
        "store_trouble": status.store_trouble,
        "deployment_id": status.deployment_id,
        "flights": status.flights,
        "unpublished_pairs": status.unpublished_pairs,
        "journal": status.journal.as_ref().map(|journal| json!({
            "entries": journal.entries, "stuck": journal.stuck, "trouble": journal.trouble,
        })),
        "findings": status.findings.iter().map(|finding| json!({
            "check": finding.check,
            "state": finding.grade().as_str_name().trim_start_matches("GRADE_").to_lowercase(),
            "found": finding.found,
            "remedy": finding.remedy,
        })).collect::<Vec<_>>(),
        "draining": status.draining,
        "grants": counts,
        "providers": providers_json(providers),
    })
}

pub(super) fn grants(grants: &[Grant]) -> String {
    if grants.is_empty() {
        return "no grants".to_owned();
    }
    let head = ["GRANT", "PROVIDER", "STATE", "GENERATION", "TOKEN EXPIRES"].map(str::to_owned);
    let rows = grants.iter().map(|grant| {
        [
            grant.grant_id.clone(),
            grant.provider_id.clone(),
            state(grant).to_owned(),
            grant.generation.to_string(),
            time(grant.token_expire_time.as_ref()),
        ]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

pub(super) fn grants_json(grants: &[Grant]) -> String {
    Value::Array(grants.iter().map(grant_json).collect()).to_string()
}

pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn state(grant: &Grant) -> &'static str {
    let name = grant.state().as_str_name();
    name.strip_prefix("GRANT_STATE_").unwrap_or(name)
}

fn kind(grant: &Grant) -> &'static str {
    let name = grant.kind().as_str_name();
    name.strip_prefix("GRANT_KIND_").unwrap_or(name)
}

/// For people, who want to see that there is none.
fn time(timestamp: Option<&Timestamp>) -> String {
    instant(timestamp).unwrap_or("-".to_owned())
}

/// For scripts: null if there is none.
fn instant(timestamp: Option<&Timestamp>) -> Option<String> {
    let time = SystemTime::try_from(*timestamp?).ok()?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}

/// Milliseconds below a second, seconds above.
fn rounded(duration: Duration) -> String {
    let whole = match duration.as_secs() {
        0 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(0)),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(whole).to_string()
}
