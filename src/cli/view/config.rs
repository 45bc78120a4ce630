//! The configuration, for people.

use std::fmt::Write as _;

use crate::broker::settings::Settings;
use crate::cli::view::rounded;
use crate::config::{Config, StoreConfig};

/// The configuration in effect, without its secrets.
pub(in crate::cli) fn config(config: &Config) -> String {
    let store = match &config.store {
        StoreConfig::Redb(path) => format!("redb:{}", path.display()),
        StoreConfig::Memory => "memory:".to_owned(),
        StoreConfig::Redis { prefix, .. } => format!("redis, prefix {prefix}"),
    };
    let Settings { caller_wait_max, force_cooldown, suspect_after, .. } = &config.settings;
    let mut text = format!(
        "the configuration is valid\n\napi            {}\nops            {}\n{}store          {store}\n\
         wait           callers wait {} at most, a forced refresh is possible every {},\n               \
         a silent holder is suspected after {}",
        config.listen.api,
        config.listen.ops,
        trust(config),
        rounded(*caller_wait_max),
        rounded(*force_cooldown),
        rounded(*suspect_after),
    );
    for provider in &config.providers {
        let _ = write!(
            text,
            "\nprovider       {} ({}): {} as {}",
            provider.id,
            provider.profile,
            provider
                .endpoints
                .token
                .as_ref()
                .or(provider.issuer.as_ref())
                .map_or("", String::as_str),
            provider.client_id
        );
    }
    text
}

/// Who may call, and what is written down of it.
fn trust(config: &Config) -> String {
    let mut lines = Vec::new();
    lines.extend(config.listen.admin.map(|admin| format!("admin          {admin}")));
    lines.push(match &config.listen.tls {
        None => "tls            none: plaintext".to_owned(),
        Some(tls) if tls.asks_clients() => "tls            with certificates of clients".to_owned(),
        Some(_) => "tls            yes".to_owned(),
    });
    let cluster = config.callers.kubernetes.as_ref();
    let cluster =
        cluster.map(|it| format!("service accounts of {} for {}", it.issuer, it.audience));
    let statics = config.callers.tokens.as_ref().map(|_| "static tokens".to_owned());
    let ways: Vec<_> = cluster.into_iter().chain(statics).collect();
    let ways = if ways.is_empty() { "anyone".to_owned() } else { ways.join(", ") };
    lines.push(format!("callers        {ways}"));
    lines.push(match &config.policy {
        None => "policy         none: everything is allowed".to_owned(),
        Some(policy) => format!("policy         {} rules", policy.rules().count()),
    });
    lines.push(match &config.audit {
        None => "audit          none".to_owned(),
        Some(audit) if audit.required => format!("audit          {}, required", audit.place),
        Some(audit) => format!("audit          {}", audit.place),
    });
    lines.iter().fold(String::new(), |text, line| text + line + "\n")
}
