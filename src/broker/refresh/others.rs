//! Other processes on the same store: after it became another server, each may know what that lacks, and is
//! waited for before anything is spent.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::broker::store::Peers;

/// So long one is waited for: it may have crashed, and come back with a pair in its journal.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// So long one that the store has forgotten is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Who was seen, and for whom is waited.
#[derive(Debug, Default)]
pub(super) struct Others {
    seen: BTreeMap<String, Seen>,
    /// Since when, by server and name; `true`: that is over.
    waits: BTreeMap<(String, String), (Instant, bool)>,
}

/// When and at which server somebody was listed last.
#[derive(Debug)]
struct Seen {
    at: Instant,
    server: String,
}

impl Others {
    /// Takes note of who is listed there; says for whom is waited. `whole`: the store has lost nothing, so
    /// that who is not listed any more has left.
    pub(super) fn look(&mut self, peers: &Peers, whole: bool) -> Option<String> {
        let (now, server) = (Instant::now(), &peers.server);
        let listed = |name: &String| peers.others.iter().any(|(other, _)| other == name);
        self.seen.retain(|name, seen| {
            let left = whole && seen.server == *server && !listed(name);
            listed(name) || (!left && seen.at.elapsed() < REMEMBERED)
        });
        // What the store has lost of them is no leave.
        for (_, seen) in self.seen.iter_mut().filter(|(name, _)| !whole && !listed(name)) {
            seen.server.clear();
        }
        let mut behind: Vec<String> =
            self.seen.keys().filter(|name| !listed(name)).cloned().collect();
        for (name, compared) in &peers.others {
            self.seen.insert(name.clone(), Seen { at: now, server: server.clone() });
            if !compared {
                behind.push(name.clone());
            }
        }
        self.waits.retain(|(at, name), _| at == server && behind.contains(name));
        for name in behind {
            self.waits.entry((server.clone(), name)).or_insert((now, false));
        }
        for ((_, name), (since, over)) in &mut self.waits {
            if since.elapsed() >= WAIT_MAX && !std::mem::replace(over, true) {
                warn!(
                    replica = name,
                    "it has not said what it knows since Redis is another one; refreshes go on without"
                );
            }
        }
        let waits = self.waits();
        (!waits.is_empty()).then(|| format!("{}: {}", super::continuity::OTHERS, waits.join(", ")))
    }

    /// There are any.
    pub(super) fn any(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Nobody is waited for any more at this server; says who was.
    pub(super) fn go_on(&mut self) -> Vec<String> {
        let waited = self.waits().into_iter().map(str::to_owned).collect();
        self.waits.values_mut().for_each(|(_, over)| *over = true);
        waited
    }

    /// For whom is waited.
    pub(super) fn waits(&self) -> Vec<&str> {
        let waits =
            self.waits.iter().filter(|(_, (since, over))| !over && since.elapsed() < WAIT_MAX);
        waits.map(|((_, name), _)| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(server: &str, others: &[(&str, bool)]) -> Peers {
        let others =
            others.iter().map(|(name, compared)| ((*name).to_owned(), *compared)).collect();
        Peers { server: server.to_owned(), others }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_compared_is_waited_for_each_at_each_server_for_a_while() {
        let mut others = Others::default();
        assert_eq!(others.look(&at("one", &[("a", true), ("x", true)]), true), None);
        // Another server: both are waited for until they have compared.
        others.look(&at("two", &[("a", false), ("x", false)]), false);
        assert_eq!(others.waits(), ["a", "x"]);
        others.look(&at("two", &[("a", true), ("x", false)]), true);
        assert_eq!(others.waits(), ["x"]);
        tokio::time::advance(WAIT_MAX).await;
        assert_eq!(others.look(&at("two", &[("a", true), ("x", false)]), true), None);
        // A third: the living one is waited for all the same, unless somebody says that it is enough.
        others.look(&at("three", &[("a", false), ("x", false)]), false);
        assert_eq!(others.waits(), ["a", "x"]);
        assert_eq!(others.go_on(), ["a", "x"]);
        others.look(&at("three", &[("a", false), ("x", false)]), true);
        assert!(others.waits().is_empty() && others.go_on().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_not_waited_for_and_who_was_forgotten_is() {
        let mut others = Others::default();
        others.look(&at("one", &[("a", true), ("b", true)]), true);
        assert_eq!(others.look(&at("one", &[("a", true)]), true), None, "b has left");
        // The same server was emptied, or another one never heard of them.
        others.look(&at("one", &[]), false);
        assert_eq!(others.waits(), ["a"]);
        others.look(&at("one", &[]), true);
        assert_eq!(others.waits(), ["a"], "it was not that it left");
        others.look(&at("one", &[("a", true)]), true);
        assert!(others.waits().is_empty());
    }
}
