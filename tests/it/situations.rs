//! Situations: some grants are refused, or their provider is in trouble, and nobody else is to notice. On
//! paused time, with one broker, two on one store, or one that is started anew in the middle.
//!
//! `cargo test --test it -- situations:: --nocapture` prints the table.

use std::time::Duration;

use futures_util::future::join_all;
use token_broker::broker::model::ProviderId;
use token_broker::proto::GrantState;

use crate::support::authority::{Authority, Fault};
use crate::support::world::{World, pass};

const HOUR: u64 = 3_600;
/// Seconds between two calls for a grant that lives; a dead one is asked for every second.
const EVERY: u64 = 30;

/// So long the dead ones are asked for every second; after that less often, to save time.
const QUICK: u64 = 600;

/// Atlassian's words for a dead refresh token.
const ATLASSIAN: Fault = Fault::Answer(403, r#"{"error":"unauthorized_client"}"#);
/// Doorkeeper's.
const DOORKEEPER: Fault = Fault::Answer(401, r#"{"error":"invalid_grant"}"#);
const HTML: Fault = Fault::Answer(401, "<html>");
const NOT_FOUND: Fault = Fault::Answer(404, "");
const ODD: Fault = Fault::Answer(400, r#"{"message":"unknown"}"#);
const GONE: Fault = Fault::Answer(400, r#"{"error":"invalid_grant"}"#);

/// What else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// Half of the calls go to another broker on the same store.
    AnotherBroker,
    /// The broker is started anew after half of the time.
    Restart,
    /// The provider answers nobody for ten minutes.
    Outage,
    /// A firewall refuses every twentieth request.
    Firewall,
    /// The client's own grants are refused, too.
    ClientRefused,
}

struct Situation {
    name: &'static str,
    grants: usize,
    dead: usize,
    lifetime: u64,
    lasts: u64,
    fault: Fault,
    beside: Beside,
    /// Where the dead ones end.
    end: GrantState,
}

fn situations() -> Vec<Situation> {
    use Beside::{AnotherBroker, ClientRefused, Firewall, Nothing, Outage, Restart};
    use GrantState::{Active, Degraded, ReauthRequired};
    let row = |name, (grants, dead), lifetime, lasts, fault, beside, end| Situation {
        name,
        grants,
        dead,
        lifetime,
        lasts,
        fault,
        beside,
        end,
    };
    vec![
        row("2 of 6, 403 of client", (6, 2), 60, HOUR, ATLASSIAN, Nothing, ReauthRequired),
        row("2 of 6, 403 of client", (6, 2), 3_600, 2 * HOUR, ATLASSIAN, Nothing, ReauthRequired),
        row("3 of 12, 403 of client", (12, 3), 900, HOUR, ATLASSIAN, Nothing, ReauthRequired),
        row(
            "10 of 100, 403 of client",
            (100, 10),
            600,
            2 * HOUR,
            ATLASSIAN,
            Nothing,
            ReauthRequired,
        ),
        row("2 of 6, 401 of grant", (6, 2), 600, HOUR, DOORKEEPER, Nothing, ReauthRequired),
        row("2 of 6, 401 html", (6, 2), 600, HOUR, HTML, Nothing, ReauthRequired),
        row("1 of 6, 404", (6, 1), 600, HOUR, NOT_FOUND, Nothing, ReauthRequired),
        row("2 of 6, 400 unknown", (6, 2), 600, HOUR, ODD, Nothing, ReauthRequired),
        row("6 of 6, 403 of client", (6, 6), 600, HOUR, ATLASSIAN, Nothing, Degraded),
        row("1 of 1, 403 of client", (1, 1), 600, HOUR, ATLASSIAN, Nothing, Degraded),
        row("20 of 100 closed at once", (100, 20), 600, HOUR / 2, GONE, Nothing, Degraded),
        row("2 of 6, two brokers", (6, 2), 600, HOUR, ATLASSIAN, AnotherBroker, ReauthRequired),
        row("2 of 6, restart", (6, 2), 600, HOUR, ATLASSIAN, Restart, ReauthRequired),
        row("2 of 6, provider down", (6, 2), 600, HOUR, ATLASSIAN, Outage, ReauthRequired),
        row("0 of 100, firewall 5 %", (100, 0), 600, HOUR, HTML, Firewall, Active),
        row("client's own refused", (6, 0), 600, HOUR / 2, ATLASSIAN, ClientRefused, Active),
    ]
}

/// What came of it.
#[derive(Debug, Default)]
struct Seen {
    holds: usize,
    held_s: u64,
    /// Calls for grants that live which got no token.
    failed: usize,
    requests: usize,
}

impl Situation {
    fn person(n: usize) -> String {
        format!("person-{n}")
    }

    async fn run(&self) -> (Seen, Vec<GrantState>) {
        let authority = Authority::new().lifetime(Duration::from_secs(self.lifetime));
        let mut worlds = vec![World::with(authority, |store| store)];
        worlds[0].start_scheduler();
        let calls = worlds[0].calls.clone();
        for n in 0..self.grants {
            let token = worlds[0].authority.consent(&Self::person(n));
            calls.clone().import(&grant(n), &token).await.unwrap();
            calls.clone().get(&grant(n)).await.unwrap();
            // Grants of one moment are rare.
            pass(self.lifetime / 2 / self.grants as u64).await;
        }
        if self.beside == Beside::ClientRefused {
            for n in 0..2 {
                calls.clone().create(&format!("kroger/service-{n}")).await.unwrap();
            }
            worlds[0].authority.refuses_services(Some(self.fault.clone()));
        }
        if self.beside == Beside::AnotherBroker {
            worlds.push(worlds[0].again());
            worlds[1].start_scheduler();
        }
        for n in 0..self.dead {
            worlds[0].authority.dead(&Self::person(n), self.fault.clone());
        }
        if self.beside == Beside::Firewall {
            worlds[0].authority.refuses_every(Some((20, Fault::Answer(403, "<html>"))));
        }
        let before = worlds[0].authority.posts();
        let mut seen = Seen::default();
        let mut held = false;
        let mut second = 0;
        while second < self.lasts {
            // What happens quickly is over by then.
            let step = if second < QUICK { 1 } else { 6 };
            match (self.beside, second * 4 / self.lasts, second % (self.lasts / 4)) {
                (Beside::Restart, 2, 0) => {
                    let next = worlds[0].restarted();
                    worlds[0].broker.drain().await;
                    worlds[0] = next;
                    worlds[0].start_scheduler();
                }
                (Beside::Outage, 1, 0) => {
                    worlds[0].authority.outage(Some(Fault::Answer(503, "")));
                }
                (Beside::Outage, 1, 600) => worlds[0].authority.outage(None),
                _ => {}
            }
            // What a provider that is away costs is not counted here, nor the first moments after it.
            let well = self.beside != Beside::Outage || second * 4 / self.lasts != 1;
            seen.failed += self.ask(&worlds, second, step, well).await;
            let waits =
                worlds[0].broker.provider_trouble(&ProviderId::new("kroger")).hold.is_some();
            seen.holds += usize::from(waits && !held && well);
            seen.held_s += if waits && well { step } else { 0 };
            held = waits;
            pass(step).await;
            second += step;
        }
        seen.requests = worlds[0].authority.posts() - before;
        let mut states = Vec::new();
        for n in 0..self.dead {
            states.push(worlds[0].calls.clone().show(&grant(n)).await.unwrap().state());
        }
        (seen, states)
    }

    /// Everybody asks who is to in this second; gives how many of the living got nothing.
    async fn ask(&self, worlds: &[World], second: u64, step: u64, well: bool) -> usize {
        let dead = |n: usize| n < self.dead;
        let turn = usize::try_from(second).unwrap();
        let due = (0..self.grants).filter(|n| dead(*n) || (second + *n as u64) % EVERY < step);
        let asked = due.map(|n| {
            let mut calls = worlds[(n + turn) % worlds.len()].calls.clone();
            async move {
                // A caller of a dead grant does not wait: there are more where it came from.
                let patience = if dead(n) { 500 } else { 10_000 };
                let answer = calls.get_within(&grant(n), Duration::from_millis(patience)).await;
                well && !dead(n) && answer.is_err()
            }
        });
        let failed = join_all(asked).await.into_iter().filter(|failed| *failed).count();
        if self.beside == Beside::ClientRefused {
            for n in 0..2 {
                let patience = Duration::from_millis(500);
                let _ = worlds[0]
                    .calls
                    .clone()
                    .get_within(&format!("kroger/service-{n}"), patience)
                    .await;
            }
        }
        failed
    }
}

fn grant(n: usize) -> String {
    format!("kroger/person-{n}")
}

#[tokio::test(start_paused = true)]
async fn one_grants_trouble_stays_its_own() {
    println!(
        "{:<26} {:>8} {:>6} {:>6} {:>7} {:>8}  the dead end as",
        "situation", "lifetime", "holds", "held s", "failed", "requests"
    );
    let mut wrong = Vec::new();
    for situation in situations() {
        let (seen, ends) = situation.run().await;
        let Seen { holds, held_s, failed, requests } = seen;
        let end =
            ends.first().map_or("", |end| end.as_str_name().trim_start_matches("GRANT_STATE_"));
        let line = format!(
            "{:<26} {:>8} {holds:>6} {held_s:>6} {failed:>7} {requests:>8}  {end}",
            situation.name, situation.lifetime
        );
        println!("{line}");
        if failed > 0 || ends.iter().any(|end| *end != situation.end) {
            wrong.push(format!("{line} {ends:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
