//! Three brokers on one Redis, with callers at all of them, and everything that goes wrong there. The
//! provider's ledger is the judge.
//!
//! `make test` runs most faults once with waits of milliseconds; `make chaos` runs all of them often and
//! prints the table.

use std::time::Duration;

use crate::support::authority::Way;
use crate::support::workers::{at_a_time, judge, tried};

mod callers;
mod servers;
mod trio;

use trio::Trio;

/// Trials at the same time: each has three brokers, a Redis and callers.
const WORKERS: usize = 3;
/// Set by `make chaos`: how often each fault is tried.
const RUNS: &str = "CHAOS_RUNS";
/// Part of the name of the only faults to try.
const ONLY: &str = "CHAOS_ONLY";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// All want a token that has expired, at the same moment.
    Herd,
    /// A broker is killed at this moment of its refreshes.
    KillAt(&'static str),
    /// The holder is killed with its request at the provider, which fails like this.
    KillInRequest { committed: bool },
    /// The holder is stopped for longer than anybody listens, with the pair in its socket.
    Pause,
    /// The provider processes a request, and its answer is lost.
    AnswerLost,
    /// Redis does not answer.
    RedisHangs,
    /// Redis is killed, and started again with what is on its disk.
    RedisRestarts,
    /// Redis takes nothing.
    RedisFull,
    /// All keys are deleted.
    RedisEmptied,
    /// An older state of all keys is put back.
    RedisGoesBack,
    /// The record of a grant is deleted while its refresh is at the provider.
    RecordDeleted,
    /// Sentinel makes the replica the primary, as an operator asked.
    Failover,
    /// The primary is killed, and Sentinel makes the replica the primary.
    PrimaryKilled,
    /// Whoever listens to events is cut off, again and again.
    EventsCut,
    /// One broker after the other is stopped and started again.
    Rollout,
}

impl Fault {
    fn name(self) -> String {
        match self {
            Self::Herd => "200 callers at once".to_owned(),
            Self::KillAt(moment) => format!("kill {}", moment.replace('_', " ")),
            Self::KillInRequest { committed: false } => "kill before commit".to_owned(),
            Self::KillInRequest { committed: true } => "kill after commit".to_owned(),
            Self::Pause => "holder paused".to_owned(),
            Self::AnswerLost => "answer lost".to_owned(),
            Self::RedisHangs => "redis hangs".to_owned(),
            Self::RedisRestarts => "redis killed".to_owned(),
            Self::RedisFull => "redis full".to_owned(),
            Self::RedisEmptied => "redis emptied".to_owned(),
            Self::RedisGoesBack => "redis goes back".to_owned(),
            Self::RecordDeleted => "record deleted".to_owned(),
            Self::Failover => "planned failover".to_owned(),
            Self::PrimaryKilled => "primary killed".to_owned(),
            Self::EventsCut => "events cut".to_owned(),
            Self::Rollout => "rolling restart".to_owned(),
        }
    }

    /// Why a chain may be lost, if it may.
    fn permits(self) -> Option<&'static str> {
        match self {
            Self::KillInRequest { committed: true } | Self::AnswerLost => Some("reply never came"),
            Self::KillAt("after_reply") => Some("died before anything durable had it"),
            _ => None,
        }
    }

    /// What one broker alone does not meet; the others are tried with each store, one broker at a time
    /// (`crash`), or by a test of their own (`failover`, `continuity`), and here only when there is time.
    fn is_of_several(self) -> bool {
        !matches!(
            self,
            Self::KillAt("before_claim" | "after_reply" | "after_merge")
                | Self::AnswerLost
                | Self::RedisFull
                | Self::RedisGoesBack
                | Self::RedisEmptied
                | Self::Failover
                | Self::PrimaryKilled
                | Self::KillInRequest { committed: true }
        )
    }

    /// There is a replica of Redis, and a Sentinel.
    fn is_of_sentinel(self) -> bool {
        matches!(self, Self::Failover | Self::PrimaryKilled)
    }

    /// It hits a broker in the middle of one refresh.
    fn hits_one(self) -> bool {
        matches!(self, Self::KillAt(_) | Self::KillInRequest { .. } | Self::Pause)
    }

    fn lost_answer(self) -> crate::support::authority::Fault {
        use crate::support::authority::Fault as Of;
        match self {
            Self::KillInRequest { committed: false } => Of::Before(Way::Hang),
            Self::KillInRequest { committed: true } => Of::After(Way::Hang),
            _ => Of::After(Way::Reset),
        }
    }
}

fn faults() -> Vec<Fault> {
    let moments = ["before_claim", "after_claim", "after_reply", "after_journal", "after_merge"];
    let kills = moments.map(Fault::KillAt).into_iter();
    let requests = [false, true].map(|committed| Fault::KillInRequest { committed });
    kills
        .chain(requests)
        .chain([
            Fault::Herd,
            Fault::Pause,
            Fault::AnswerLost,
            Fault::RedisHangs,
            Fault::RedisRestarts,
            Fault::RedisFull,
            Fault::RedisEmptied,
            Fault::RedisGoesBack,
            Fault::RecordDeleted,
            Fault::Failover,
            Fault::PrimaryKilled,
            Fault::EventsCut,
            Fault::Rollout,
        ])
        .collect()
}

/// What came of a fault.
#[derive(Default)]
struct Outcome {
    /// How often it was tried to the end.
    runs: usize,
    rotations: usize,
    requests: usize,
    lost: usize,
    /// Longest time from wanting a token to having one, at whichever broker.
    worst_wait: Duration,
    /// Longest time until every grant lived again.
    worst_repair: Duration,
    /// What those tries said that failed.
    failed: Vec<String>,
}

impl Outcome {
    /// Tries the fault so often; where a try fails, it is counted, and the next begins in a new world.
    fn of(fault: Fault, runs: usize) -> Self {
        let mut all = Self::default();
        while all.runs + all.failed.len() < runs {
            let left = runs - all.runs - all.failed.len();
            let mut done = Self::default();
            if let Err(said) = tried(|| Trio::start(fault).run(left, &mut done)) {
                all.failed.push(format!("{}: {said}", fault.name()));
            }
            all.add(&done);
        }
        all
    }

    fn add(&mut self, more: &Self) {
        self.runs += more.runs;
        self.rotations += more.rotations;
        self.requests += more.requests;
        self.lost += more.lost;
        self.worst_wait = self.worst_wait.max(more.worst_wait);
        self.worst_repair = self.worst_repair.max(more.worst_repair);
    }
}

fn line(fault: Fault, outcome: &Outcome) -> String {
    let Outcome { runs, rotations, requests, lost, worst_wait, worst_repair, failed } = outcome;
    let permitted = match (lost, fault.permits()) {
        (0, _) => String::new(),
        (_, why) => format!("permitted: {}", why.unwrap_or("nothing")),
    };
    let (name, wait, repair) = (fault.name(), worst_wait.as_secs_f64(), worst_repair.as_secs_f64());
    let failed = failed.len();
    let line = format!(
        "{name:<22} {runs:>5} {failed:>6} {rotations:>9} {requests:>8} {lost:>6} {wait:>10.2} {repair:>10.1}  {permitted}"
    );
    line.trim_end().to_owned()
}

#[test]
fn three_brokers_lose_nothing_that_can_be_kept() {
    let often = std::env::var_os(RUNS).and_then(|text| text.into_string().ok()?.parse().ok());
    let (short, runs) = (often.is_none(), often.unwrap_or(1_usize));
    let only = std::env::var_os(ONLY).and_then(|text| text.into_string().ok()).unwrap_or_default();
    let faults = faults().into_iter().filter(|fault| fault.name().contains(&only));
    let faults = faults.filter(|fault| !short || fault.is_of_several());
    println!(
        "fault                   runs failed rotations requests   lost  worst wait live again\n\
         {:75}(s)        (s)",
        ""
    );
    let outcomes = at_a_time(WORKERS, faults, |fault| {
        let outcome = Outcome::of(fault, runs);
        println!("{}", line(fault, &outcome));
        outcome
    });
    judge(&outcomes.into_iter().flat_map(|outcome| outcome.failed).collect::<Vec<_>>());
}
