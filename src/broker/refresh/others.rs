//! Other processes on the same store: after it became another server, each may know what that lacks, and is
//! waited for before anything is spent.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::broker::store::{Peers, REPLICA_WAIT_MAX};

/// So long one that the store has forgotten is remembered.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How a store was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// It has what it had.
    Whole,
    /// It was connected to anew.
    Anew,
    /// It went back, or was emptied.
    Lacking,
}

/// Who was seen, and for whom is waited.
#[derive(Debug)]
pub(super) struct Others {
    seen: BTreeMap<String, Seen>,
    /// Who has not compared with this server; `true`: is waited for no longer.
    behind: BTreeMap<String, bool>,
    /// Which server it is, and when those are given up that have not compared with it.
    server: String,
    end: Instant,
    /// It went back, and has not been given back all of it yet.
    lacking: bool,
}

/// When and at which server somebody was listed last.
#[derive(Debug)]
struct Seen {
    at: Instant,
    server: String,
}

impl Default for Others {
    fn default() -> Self {
        Self {
            seen: BTreeMap::new(),
            behind: BTreeMap::new(),
            server: String::new(),
            end: Instant::now(),
            lacking: false,
        }
    }
}

impl Others {
    /// Takes note of who is listed there. In a store that is not whole, who is not
    /// listed any more has not left. Says who is given up from now on: the store is to tell everybody.
    pub(super) fn look(&mut self, peers: &Peers, found: Found) -> Vec<String> {
        let (now, server) = (Instant::now(), &peers.server);
        let whole = found == Found::Whole;
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
            self.end = peers.since.unwrap_or(now) + REPLICA_WAIT_MAX;
        }
        if found == Found::Lacking && !std::mem::replace(&mut self.lacking, true) {
            // It went back, be it the same server or not: that is the moment from which it counts.
            self.behind.clear();
            self.end = now + REPLICA_WAIT_MAX;
        }
        self.lacking &= !whole;
        self.behind.retain(|name, _| behind.contains(name));
        let (end, mut given_up) = (self.end, Vec::new());
        for name in behind {
            let over = self.behind.entry(name.clone()).or_default();
            *over |= peers.gone.contains(&name);
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
        self.end.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(server: &str, others: &[(&str, bool)]) -> Peers {
        let others =
            others.iter().map(|(name, compared)| ((*name).to_owned(), *compared)).collect();
        Peers { server: server.to_owned(), others, ..Peers::default() }
    }

    const NOBODY: [&str; 0] = [];

    #[tokio::test(start_paused = true)]
    async fn who_has_not_compared_is_waited_for_each_at_each_server_for_a_while() {
        let mut others = Others::default();
        others.look(&at("one", &[("a", true), ("x", true)]), Found::Whole);
        assert_eq!(others.waits(), NOBODY);
        // Another server: both are waited for until they have compared.
        others.look(&at("two", &[("a", false), ("x", false)]), Found::Lacking);
        assert_eq!(others.waits(), ["a", "x"]);
        others.look(&at("two", &[("a", true), ("x", false)]), Found::Whole);
        assert_eq!((others.waits(), others.left()), (vec!["x"], REPLICA_WAIT_MAX));
        tokio::time::advance(REPLICA_WAIT_MAX).await;
        assert_eq!(others.look(&at("two", &[("a", true), ("x", false)]), Found::Whole), ["x"]);
        assert_eq!(
            others.look(&at("two", &[("a", true), ("x", false)]), Found::Whole),
            NOBODY,
            "once"
        );
        assert_eq!(others.waits(), NOBODY);
        // A third: the living one is waited for all the same, unless somebody says that it is enough.
        others.look(&at("three", &[("a", false), ("x", false)]), Found::Lacking);
        assert_eq!(others.waits(), ["a", "x"]);
        assert_eq!(others.go_on(), ["a", "x"]);
        others.look(&at("three", &[("a", false), ("x", false)]), Found::Whole);
        assert!(others.waits().is_empty() && others.go_on().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_counts_from_the_change_and_not_from_a_start() {
        tokio::time::advance(2 * REPLICA_WAIT_MAX).await;
        let ago = |time| Some(Instant::now() - time);
        let gone = |since| Peers { since, ..at("two", &[("x", false)]) };
        let mut late = Others::default();
        assert_eq!(late.look(&gone(ago(REPLICA_WAIT_MAX)), Found::Anew), ["x"]);
        assert_eq!(late.waits(), NOBODY);
        let mut sooner = Others::default();
        sooner.look(&gone(ago(REPLICA_WAIT_MAX / 3)), Found::Anew);
        assert_eq!((sooner.waits(), sooner.left()), (vec!["x"], REPLICA_WAIT_MAX * 2 / 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_not_waited_for_and_who_was_forgotten_is() {
        let mut others = Others::default();
        others.look(&at("one", &[("a", true), ("b", true)]), Found::Whole);
        others.look(&at("one", &[("a", true)]), Found::Whole);
        assert_eq!(others.waits(), NOBODY, "b has left");
        // The same server was emptied, or another one never heard of them.
        others.look(&at("one", &[]), Found::Lacking);
        assert_eq!(others.waits(), ["a"]);
        others.look(&at("one", &[]), Found::Whole);
        assert_eq!(others.waits(), ["a"], "it was not that it left");
        others.look(&at("one", &[("a", true)]), Found::Whole);
        assert_eq!(others.waits(), NOBODY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_goes_back_after_days_is_a_new_event() {
        tokio::time::advance(100 * REPLICA_WAIT_MAX).await;
        let known = |others: &[(&str, bool)]| Peers {
            since: Some(Instant::now() - 90 * REPLICA_WAIT_MAX),
            ..at("one", others)
        };
        let mut others = Others::default();
        others.look(&known(&[("x", true)]), Found::Whole);
        // It was emptied, and x may have what it lacks.
        assert_eq!(others.look(&known(&[]), Found::Lacking), NOBODY);
        assert_eq!((others.waits(), others.left()), (vec!["x"], REPLICA_WAIT_MAX));
        tokio::time::advance(REPLICA_WAIT_MAX / 2).await;
        others.look(&known(&[]), Found::Lacking);
        assert_eq!(others.left(), REPLICA_WAIT_MAX / 2, "one event");
    }

    #[tokio::test(start_paused = true)]
    async fn whom_another_replica_gave_up_nobody_waits_for() {
        let mut others = Others::default();
        let gone = |gone: &[&str]| Peers {
            gone: gone.iter().map(|name| (*name).to_owned()).collect(),
            ..at("two", &[("x", false)])
        };
        others.look(&gone(&[]), Found::Anew);
        assert_eq!(others.waits(), ["x"]);
        others.look(&gone(&["x"]), Found::Whole);
        assert_eq!(others.waits(), NOBODY);
    }
}
