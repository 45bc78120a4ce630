//! Entries: who did what with which grant, under which rule, and what came of it.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

/// What is written down. What is empty is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Entry {
    /// What was asked for, as rules name it; of the broker itself `broker.` and what it did.
    pub action: &'static str,
    /// Of what is written down before and after it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Arc<str>>,
    /// The rule of the policy that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// Of which grant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub grant: String,
    /// The provider of the grant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Number of the token pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Fingerprint of the access token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// How it ended: `OK`, or a code of gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Why it failed, as the contract names it; or more of what the broker did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The trace that it belongs to (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Where something is that takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It is allowed, and about to be done.
    Begin,
    /// It was done, or failed.
    End,
}

/// An entry with the time at which it is written, and by whom.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a Entry,
    /// How often it came up after its first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    replica: &'a str,
}

impl<'a> Line<'a> {
    pub(super) fn new(
        entry: &'a Entry,
        repeated: Option<u64>,
        replica: &'a str,
        now: SystemTime,
    ) -> Self {
        let time = humantime::format_rfc3339_millis(now).to_string();
        Self { time, entry, repeated, replica }
    }

    /// One line, with its end.
    pub(super) fn to_json(&self) -> String {
        // Text and numbers are always JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_there_is_and_nothing_else() {
        let entry = Entry {
            action: "get_token",
            caller: Some("kubernetes:shop/orders".into()),
            grant: "kroger/\n\"alice".to_owned(),
            generation: Some(7),
            outcome: Some("OK"),
            ..Entry::default()
        };
        let line = Line::new(&entry, Some(3), "broker-0", SystemTime::UNIX_EPOCH).to_json();
        assert_eq!(
            line,
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"action\":\"get_token\",\
             \"caller\":\"kubernetes:shop/orders\",\"grant\":\"kroger/\\n\\\"alice\",\
             \"generation\":7,\"outcome\":\"OK\",\"repeated\":3,\"replica\":\"broker-0\"}\n"
        );
    }
}
