//! Which brokers a Redis knows of, for who looks at it from outside.

use std::collections::HashMap;
use std::time::Duration;

use redis::RedisError;

use crate::broker::store::{Finding, Grade, REPLICA_WAIT_MAX};
use crate::store::redis::Layout;
use crate::store::redis::facts::server;
use crate::store::redis::session::Session;

/// Whether each has said what it knows since the server became this one.
pub(super) async fn examine(session: &Session, layout: &Layout) -> Result<Finding, RedisError> {
    let info: String = session.query(&redis::cmd("INFO")).await?;
    let listed = redis::cmd("ZRANGE").arg(layout.replicas()).arg(0).arg(-1).to_owned();
    let names: Vec<String> = session.query(&listed).await?;
    let compared = redis::cmd("HGETALL").arg(layout.compared()).to_owned();
    let compared: HashMap<String, String> = session.query(&compared).await?;
    let (seconds, _micros): (u64, u64) = session.query(&redis::cmd("TIME")).await?;
    Ok(finding(&names, &compared, &server(&info), Duration::from_secs(seconds)))
}

fn finding(
    names: &[String],
    compared: &HashMap<String, String>,
    server: &str,
    now: Duration,
) -> Finding {
    let at = |name: &str| compared.get(name).map(String::as_str).unwrap_or_default();
    let behind: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| at(name) != server).collect();
    if names.is_empty() {
        return Finding::fine("brokers", "none was there in the last hour");
    }
    if behind.is_empty() {
        return Finding::fine("brokers", format!("{}: {}", names.len(), names.join(", ")));
    }
    // Nobody has seen this server yet: the wait begins when one does.
    let since = at(" since").parse().ok().filter(|_| at(" server") == server);
    let since = since.map_or(now, Duration::from_millis);
    let left = (since + REPLICA_WAIT_MAX).saturating_sub(now);
    let found = format!(
        "Redis is another server than before, or was restarted, and {} did not say yet what they know; \
         refreshes wait for them, {} s at most",
        behind.join(", "),
        left.as_secs()
    );
    let remedy = "start them again; if they are gone for good, `token-broker confirm-store DEPLOYMENT` ends \
                  the wait";
    Finding::new("brokers", Grade::Waits, found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_waited_for_is_named_with_the_end() {
        let names = ["a".to_owned(), "b".to_owned()];
        let compared = |b: &str, server: &str, since: &str| {
            [("a", "two"), ("b", b), (" server", server), (" since", since)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        let now = Duration::from_secs(1_000);
        let found = |compared| finding(&names, &compared, "two", now);
        assert_eq!(found(compared("two", "two", "0")).grade, Grade::Fine);
        let waits = found(compared("one", "two", "900000"));
        assert!(waits.grade == Grade::Waits && waits.found.contains("and b did"), "{waits}");
        assert!(waits.found.contains("500 s") && waits.remedy.contains("confirm-store"), "{waits}");
        assert!(found(compared("one", "one", "0")).found.contains("600 s"), "it begins anew");
    }
}
