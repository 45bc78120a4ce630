//! Other processes on the same store: after it became another server, each may know what that lacks, and is
//! waited for before anything is spent.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::broker::store::{Peers, REPLICA_WAIT_MAX};

/// So long one that the store has forgotten is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Who was seen, and for whom is waited.
#[derive(Debug, Default)]
pub(super) struct Others {
    seen: BTreeMap<String, Seen>,
    /// Who has not compared with this server; `true`: is waited for no longer.
    behind: BTreeMap<String, bool>,
    /// Which server it is, and when those are given up that have not compared with it.
    server: String,
    end: Option<Instant>,
}

/// When and at which server somebody was listed last.
#[derive(Debug)]
struct Seen {
    at: Instant,
    server: String,
}

impl Others {
    /// Takes note of who is listed there. `whole`: the store has lost nothing, so that who is not listed any
    /// more has left. Says who was given up just now: the store is to forget them.
    pub(super) fn look(&mut self, peers: &Peers, whole: bool) -> Vec<String> {
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
        if self.server != *server {
            self.behind.clear();
            self.server.clone_from(server);
            self.end = None;
        }
        let end = *self.end.get_or_insert(peers.since.unwrap_or(now) + REPLICA_WAIT_MAX);
        self.behind.retain(|name, _| behind.contains(name));
        let mut given_up = Vec::new();
        for name in behind {
            let over = self.behind.entry(name.clone()).or_default();
            if now >= end && !std::mem::replace(over, true) {
                warn!(
                    replica = name,
                    "it has not said what it knows since Redis is another one; refreshes go on without"
                );
                given_up.push(name);
            }
        }
        given_up
    }

    /// There are any.
    pub(super) fn any(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Nobody is waited for any more at this server; says who was.
    pub(super) fn go_on(&mut self) -> Vec<String> {
        let waited = self.waits().into_iter().map(str::to_owned).collect();
        self.behind.values_mut().for_each(|over| *over = true);
        waited
    }

    /// For whom is waited.
    pub(super) fn waits(&self) -> Vec<&str> {
        let waits = self.behind.iter().filter(|(_, over)| !**over);
        waits.map(|(name, _)| name.as_str()).collect()
    }

    /// How long they are waited for at most.
    pub(super) fn left(&self) -> Duration {
        self.end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(server: &str, others: &[(&str, bool)]) -> Peers {
        let others =
            others.iter().map(|(name, compared)| ((*name).to_owned(), *compared)).collect();
        Peers { server: server.to_owned(), since: None, others }
    }

    const NOBODY: [&str; 0] = [];

    #[tokio::test(start_paused = true)]
    async fn who_has_not_compared_is_waited_for_each_at_each_server_for_a_while() {
        let mut others = Others::default();
        others.look(&at("one", &[("a", true), ("x", true)]), true);
        assert_eq!(others.waits(), NOBODY);
        // Another server: both are waited for until they have compared.
        others.look(&at("two", &[("a", false), ("x", false)]), false);
        assert_eq!(others.waits(), ["a", "x"]);
        others.look(&at("two", &[("a", true), ("x", false)]), true);
        assert_eq!((others.waits(), others.left()), (vec!["x"], REPLICA_WAIT_MAX));
        tokio::time::advance(REPLICA_WAIT_MAX).await;
        assert_eq!(others.look(&at("two", &[("a", true), ("x", false)]), true), ["x"]);
        assert_eq!(others.look(&at("two", &[("a", true), ("x", false)]), true), NOBODY, "once");
        assert_eq!(others.waits(), NOBODY);
        // A third: the living one is waited for all the same, unless somebody says that it is enough.
        others.look(&at("three", &[("a", false), ("x", false)]), false);
        assert_eq!(others.waits(), ["a", "x"]);
        assert_eq!(others.go_on(), ["a", "x"]);
        others.look(&at("three", &[("a", false), ("x", false)]), true);
        assert!(others.waits().is_empty() && others.go_on().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_counts_from_the_change_and_not_from_a_start() {
        tokio::time::advance(2 * REPLICA_WAIT_MAX).await;
        let ago = |time| Some(Instant::now() - time);
        let gone = |since| Peers { since, ..at("two", &[("x", false)]) };
        let mut late = Others::default();
        assert_eq!(late.look(&gone(ago(REPLICA_WAIT_MAX)), false), ["x"]);
        assert_eq!(late.waits(), NOBODY);
        let mut sooner = Others::default();
        sooner.look(&gone(ago(REPLICA_WAIT_MAX / 3)), false);
        assert_eq!((sooner.waits(), sooner.left()), (vec!["x"], REPLICA_WAIT_MAX * 2 / 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_not_waited_for_and_who_was_forgotten_is() {
        let mut others = Others::default();
        others.look(&at("one", &[("a", true), ("b", true)]), true);
        others.look(&at("one", &[("a", true)]), true);
        assert_eq!(others.waits(), NOBODY, "b has left");
        // The same server was emptied, or another one never heard of them.
        others.look(&at("one", &[]), false);
        assert_eq!(others.waits(), ["a"]);
        others.look(&at("one", &[]), true);
        assert_eq!(others.waits(), ["a"], "it was not that it left");
        others.look(&at("one", &[("a", true)]), true);
        assert_eq!(others.waits(), NOBODY);
    }
}
