//! Providers, for people and for scripts.

use serde_json::{Value, json};

use crate::cli::view::{instant, table, time};
use crate::proto::{GrantFailure, Provider};

pub(in crate::cli) fn providers(providers: &[Provider], as_json: bool) -> String {
    if as_json {
        return providers_json(providers).to_string();
    }
    let head = ["PROVIDER", "PROFILE", "TOKEN ENDPOINT", "STANDS"].map(str::to_owned);
    let rows = providers.iter().map(|provider| {
        let stands = match (&provider.hold, &provider.last_failure) {
            (Some(hold), _) => format!("held: {}", hold.reason().wire_name()),
            (None, Some(failure)) => format!("trouble: {}", failure.reason().wire_name()),
            (None, None) => "well".to_owned(),
        };
        [
            provider.provider_id.clone(),
            provider.profile.clone(),
            provider.token_endpoint.clone(),
            stands,
        ]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

/// One provider.
pub(in crate::cli) fn provider(provider: &Provider, as_json: bool) -> String {
    if as_json {
        return provider_json(provider).to_string();
    }
    let mut rows = vec![
        ("provider", provider.provider_id.clone()),
        ("profile", provider.profile.clone()),
        ("token endpoint", provider.token_endpoint.clone()),
        ("client id", provider.client_id.clone()),
    ];
    if let Some(hold) = &provider.hold {
        rows.push(("held since", time(hold.time.as_ref())));
        rows.extend(because(hold));
        rows.push(("grants", provider.held_grant_ids.join(", ")));
        rows.push(("requests", format!("{} since, none succeeded", provider.probes)));
        rows.push((
            "next request",
            format!(
                "from {} on, by whichever grant needs one; a success ends it",
                time(hold.retry_time.as_ref())
            ),
        ));
        if !provider.next_due_grant_id.is_empty() {
            let due_at = time(provider.next_due_time.as_ref());
            rows.push(("due next", format!("{} at {due_at}", provider.next_due_grant_id)));
        }
        rows.push(("to end it", format!("token-broker provider release {}", provider.provider_id)));
    } else if let Some(failure) = &provider.last_failure {
        rows.push(("last failure", time(failure.time.as_ref())));
        rows.extend(because(failure));
        rows.push(("", "nothing has succeeded since".to_owned()));
    } else {
        rows.push(("stands", "well".to_owned()));
    }
    rows.iter().map(|(name, value)| format!("{name:<14} {value}")).collect::<Vec<_>>().join("\n")
}

/// How a provider stands, in one line.
pub(super) fn stands(provider: &Provider) -> String {
    let told = |failure: &GrantFailure| {
        let said = Some(failure.provider_detail.as_str()).filter(|said| !said.is_empty());
        let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
        format!("{}: {}{said}", failure.reason().wire_name(), failure.message)
    };
    match (&provider.hold, &provider.last_failure) {
        (Some(hold), _) => {
            let next = time(hold.retry_time.as_ref());
            format!("one request at a time, the next from {next} on; {}", told(hold))
        }
        (None, Some(failure)) => {
            format!("in trouble since {}; {}", time(failure.time.as_ref()), told(failure))
        }
        (None, None) => "well".to_owned(),
    }
}

/// Why, in our words and in the provider's.
pub(super) fn because(failure: &GrantFailure) -> Vec<(&'static str, String)> {
    let answered = match (failure.provider_status, failure.provider_error.as_str()) {
        (0, _) => String::new(),
        (status, code) => format!("{status} {code}").trim_end().to_owned(),
    };
    let rows = [
        ("because", failure.reason().wire_name().to_owned()),
        ("", failure.message.clone()),
        ("it answered", answered),
        ("it said", failure.provider_detail.clone()),
    ];
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    // What was not reached said nothing.
    rows.map(|(name, value)| match name {
        "it said" if failure.provider_status == 0 => ("cause", value),
        name => (name, value),
    })
    .collect()
}

pub(super) fn failure_json(failure: &GrantFailure) -> Value {
    json!({
        "reason": failure.reason().wire_name(),
        "message": failure.message,
        "provider_error": failure.provider_error,
        "provider_status": failure.provider_status,
        "provider_detail": failure.provider_detail,
        "time": failure.time.as_ref().map(|at| time(Some(at))),
        "retry_time": failure.retry_time.as_ref().map(|at| time(Some(at))),
    })
}

pub(super) fn providers_json(providers: &[Provider]) -> Value {
    Value::Array(providers.iter().map(provider_json).collect())
}

fn provider_json(provider: &Provider) -> Value {
    json!({
        "provider_id": provider.provider_id,
        "profile": provider.profile,
        "token_endpoint": provider.token_endpoint,
        "client_id": provider.client_id,
        "hold": provider.hold.as_ref().map(failure_json),
        "held_grant_ids": provider.held_grant_ids,
        "probes": provider.probes,
        "next_due_grant_id": provider.next_due_grant_id,
        "next_due_time": instant(provider.next_due_time.as_ref()),
        "last_failure": provider.last_failure.as_ref().map(failure_json),
    })
}
