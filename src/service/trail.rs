//! The trail of a call in the audit log: what it was let in for, and what came of it.

use tokio::time::timeout_at;
use tonic::metadata::{Ascii, MetadataValue};

use crate::audit::{Audit, Entry, Phase, Unwritten};
use crate::broker::error::Error;
use crate::broker::model::GrantId;
use crate::broker::view::View;
use crate::service::call::{Action, Call};
use crate::service::status::{classify, code_name};
use crate::service::told::{Tells, Told};

/// Writes down what a call leads to, also when its caller hangs up.
pub(super) struct Trail<'a> {
    audit: &'a Audit,
    call: &'a Call,
    /// The grant that the request names.
    grant: Option<String>,
    /// A change that was begun, and is written down at both its ends.
    changes: bool,
    /// Its beginning is written down, and its end is not.
    open: bool,
}

impl<'a> Trail<'a> {
    pub(super) fn new(audit: &'a Audit, call: &'a Call, grant: Option<&str>) -> Self {
        // What is no name of a grant is not repeated, however long it is.
        let grant = grant.filter(|name| audit.is_on() && GrantId::parse(name).is_ok());
        let grant = grant.map(str::to_owned);
        Self { audit, call, grant, changes: false, open: false }
    }

    /// Writes down that a change begins, if it is one.
    pub(super) async fn begin(&mut self) -> Result<(), Error> {
        let action = self.call.action;
        // A refresh that was begun goes on without its caller.
        self.open = self.audit.is_on() && (action.changes() || action == Action::ForceRefresh);
        self.changes = self.open && action.changes();
        if !self.changes {
            return Ok(());
        }
        let entry = Entry { phase: Some(Phase::Begin), ..self.entry(Told::default()) };
        let begun = timeout_at(self.call.deadline, self.audit.begin(&entry)).await;
        begun.unwrap_or(Err(Unwritten)).map_err(|Unwritten| Error::NotAudited)
    }

    /// Writes down how it ended. Dropped without that, it is written down that nobody knows.
    pub(super) fn end<T: Tells>(mut self, result: &Result<T, Error>) {
        self.open = false;
        if !self.audit.is_on() {
            return;
        }
        match result {
            Ok(answer) => {
                if let Some(told) = answer.told() {
                    self.write(told, "OK", None);
                }
            }
            Err(error) => {
                let (code, reason, _) = classify(error);
                self.write(Told::default(), code_name(code), Some(reason.wire_name()));
            }
        }
    }

    fn write(&self, told: Told, outcome: &'static str, reason: Option<&'static str>) {
        let outcome = Some(outcome);
        if self.changes {
            let entry = self.entry(told);
            self.audit.tell(&Entry { phase: Some(Phase::End), outcome, reason, ..entry });
            return;
        }
        // Whoever is nobody may name grants as they like.
        let grant = self.grant.as_deref().filter(|_| self.call.who.is_known());
        let Call { who, action, rule, .. } = self.call;
        let what = (who.subject(), action, rule, grant, told.generation, reason);
        let entry = || Entry { outcome, reason, ..self.entry(told) };
        if outcome == Some("OK") {
            self.audit.served(what, entry);
        } else {
            self.audit.refused(who.subject(), what, entry);
        }
    }

    fn entry(&self, told: Told) -> Entry {
        let Told { grant, provider, generation, fingerprint } = told;
        let known = self.call.who.is_known();
        let named = self.grant.clone().filter(|_| grant.is_empty() && known);
        Entry {
            grant: named.unwrap_or(grant),
            provider,
            generation,
            fingerprint,
            ..of_call(self.call)
        }
    }
}

impl Drop for Trail<'_> {
    fn drop(&mut self) {
        if self.open {
            self.write(Told::default(), "UNKNOWN", None);
        }
    }
}

/// Writes down that a caller has got the token of this view; `how`: by what.
pub(super) fn served(audit: &Audit, call: &Call, view: &View, how: Option<&'static str>) {
    let (id, generation) = (&view.grant.id, view.grant.generation());
    let what = (call.who.subject(), call.action, &call.rule, id.as_str(), generation.0, how);
    audit.served(what, || Entry {
        grant: id.to_string(),
        provider: view.grant.descriptor.provider.to_string(),
        generation: Some(generation.0),
        fingerprint: view.fingerprint.clone(),
        outcome: Some("OK"),
        reason: how,
        ..of_call(call)
    });
}

/// Writes down that a caller who had this is let go.
pub(super) fn refused(audit: &Audit, call: &Call, grant: &str, error: &Error) {
    let (code, reason, _) = classify(error);
    let reason = Some(reason.wire_name());
    audit.refused(call.who.subject(), (call.action, grant, reason), || Entry {
        grant: grant.to_owned(),
        outcome: Some(code_name(code)),
        reason,
        rule: None,
        ..of_call(call)
    });
}

fn of_call(call: &Call) -> Entry {
    Entry {
        action: call.action.in_policy().name(),
        caller: call.who.name(),
        rule: call.rule.clone(),
        trace_id: call.trace.as_ref().and_then(trace_id).map(str::to_owned),
        ..Entry::default()
    }
}

/// The trace of a header `traceparent` (W3C Trace Context section 3.2): version, trace, parent, flags.
pub(super) fn trace_id(header: &MetadataValue<Ascii>) -> Option<&str> {
    let mut parts = header.to_str().ok()?.split('-');
    let (_version, trace) = (parts.next()?, parts.next()?);
    let right = trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit());
    (right && parts.next().is_some()).then_some(trace)
}
