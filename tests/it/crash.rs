//! Crashes and outages against the real program: what is lost, and how long it takes until every
//! grant lives again. The provider's ledger is the judge.
//!
//! `make test` runs each fault once with waits of milliseconds; `make crash` runs it often, adds
//! outages with the default waits, and prints the table.

use std::fmt::Write as _;
use std::time::Duration;

use crate::support::authority::Way;
use crate::support::workers::{at_a_time, judge, tried};

pub(crate) mod trial;

use trial::{Trial, Waits};

/// Trials that run at the same time: most of their time is waiting.
const WORKERS: usize = 10;
/// Set by `make crash`: how often each fault is tried.
const RUNS: &str = "CRASH_RUNS";
/// Longest time until every grant lives again that is accepted with the default settings.
const LIVE_AGAIN_MAX: Duration = Duration::from_secs(90);

/// Where grants are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Redb,
    Redis,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// kill -9 at this moment of a refresh.
    KillAt(&'static str),
    /// kill -9 with the request at the provider, which does not process it.
    KillBeforeCommit,
    /// kill -9 when the provider has processed the request and not answered.
    KillAfterCommit,
    /// The provider fails like this for longer than the access token lives.
    OutageBefore(Way),
    /// The same, but it processes the requests.
    OutageAfter(Way),
    /// The store takes no further byte for that long.
    StoreFull,
    /// The store can be read and not written for that long.
    StoreReadOnly,
    /// The store does not answer for that long.
    StoreAway,
}

impl Fault {
    fn name(self) -> String {
        let way = |way| match way {
            Way::Status(status) => format!("{status}"),
            Way::Reset => "reset".to_owned(),
            Way::Hang => "hang".to_owned(),
        };
        match self {
            Self::KillAt(moment) => format!("kill {}", moment.replace('_', " ")),
            Self::KillBeforeCommit => "kill after request left".to_owned(),
            Self::KillAfterCommit => "kill after commit".to_owned(),
            Self::OutageBefore(kind) => format!("{} before commit", way(kind)),
            Self::OutageAfter(kind) => format!("{} after commit", way(kind)),
            Self::StoreFull => "store full".to_owned(),
            Self::StoreReadOnly => "store read-only".to_owned(),
            Self::StoreAway => "store away".to_owned(),
        }
    }

    /// It kills the program.
    fn kills(self) -> bool {
        matches!(self, Self::KillAt(_) | Self::KillBeforeCommit | Self::KillAfterCommit)
    }

    /// Why a chain may be lost, if it may.
    fn permits(self) -> Option<&'static str> {
        match self {
            Self::KillAfterCommit | Self::OutageAfter(_) => Some("reply never came"),
            Self::KillAt("after_reply") => Some("died before the store had it"),
            _ => None,
        }
    }
}

/// What came of a fault.
#[derive(Default)]
struct Outcome {
    /// How often it was tried to the end.
    runs: usize,
    rotations: usize,
    requests: usize,
    lost: usize,
    /// Longest time until every grant lived again.
    worst: Duration,
    /// What a try said that failed; it was the last.
    failed: Option<String>,
}

fn faults() -> Vec<(Store, Fault)> {
    let ways = [500, 502, 503, 504].map(Way::Status).into_iter().chain([Way::Reset, Way::Hang]);
    let mut rows = Vec::new();
    for store in [Store::Redb, Store::Redis] {
        let mut add = |fault| rows.push((store, fault));
        for moment in ["before_claim", "after_claim", "after_reply", "after_merge"] {
            add(Fault::KillAt(moment));
        }
        add(Fault::KillBeforeCommit);
        add(Fault::KillAfterCommit);
        for way in ways.clone() {
            add(Fault::OutageBefore(way));
            add(Fault::OutageAfter(way));
        }
        add(Fault::StoreFull);
    }
    // redb has no journal: its merge is the write to the disk.
    rows.push((Store::Redis, Fault::KillAt("after_journal")));
    // Whoever runs as root may write to any file, so that redb has no such test.
    rows.push((Store::Redis, Fault::StoreReadOnly));
    rows.push((Store::Redis, Fault::StoreAway));
    rows
}

/// Runs all trials, some at a time, and prints what came of each.
fn run_all(trials: Vec<(Store, Fault, Waits, usize)>) {
    let failed = at_a_time(WORKERS, trials, |(store, fault, waits, runs)| {
        let mut outcome = Outcome::default();
        let trial = || {
            Trial::start(store, fault, waits).run(runs, &mut outcome);
            assert!(waits == Waits::Scaled || outcome.worst <= LIVE_AGAIN_MAX, "{fault:?}: late");
        };
        outcome.failed = tried(trial).err();
        println!("{}", line(store, fault, waits, &outcome));
        outcome.failed.map(|said| format!("{} on {store:?}: {said}", fault.name()))
    });
    judge(&failed.into_iter().flatten().collect::<Vec<_>>());
}

fn line(store: Store, fault: Fault, waits: Waits, outcome: &Outcome) -> String {
    let Outcome { runs, rotations, requests, lost, worst, failed } = outcome;
    let permitted = match (lost, fault.permits()) {
        (0, _) => String::new(),
        (_, why) => format!("permitted: {}", why.unwrap_or("nothing")),
    };
    let store = format!("{store:?}").to_lowercase();
    let waits = format!("{waits:?}").to_lowercase();
    let (worst, failed) = (worst.as_secs_f64(), usize::from(failed.is_some()));
    let (name, mut line) = (fault.name(), String::new());
    let _ = write!(
        line,
        "{name:<24} {store:<6} {waits:<8} {runs:>5} {failed:>6} {rotations:>9} {requests:>8} \
         {lost:>6} {worst:>10.1}  {permitted}"
    );
    line.trim_end().to_owned()
}

#[test]
fn crashes_and_outages_cost_no_consent_that_the_provider_did_not_end() {
    let runs = std::env::var_os(RUNS).and_then(|text| text.into_string().ok()?.parse().ok());
    let often = runs.unwrap_or(1);
    let mut trials: Vec<_> = faults()
        .into_iter()
        .map(|(store, fault)| {
            (store, fault, Waits::Scaled, if fault.kills() { often } else { 1 + often / 10 })
        })
        .collect();
    if runs.is_some() {
        let ways = [500, 502, 503, 504].map(Way::Status).into_iter().chain([Way::Reset, Way::Hang]);
        for way in ways {
            trials.insert(0, (Store::Redb, Fault::OutageBefore(way), Waits::Default, 1));
        }
        trials.insert(0, (Store::Redb, Fault::KillBeforeCommit, Waits::Default, 1));
        trials.insert(0, (Store::Redis, Fault::KillBeforeCommit, Waits::Default, 1));
    }
    println!(
        "fault                    store  waits     runs failed rotations requests   lost  live again"
    );
    println!("{:80}(s, worst)", "");
    run_all(trials);
}
