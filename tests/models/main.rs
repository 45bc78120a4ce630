//! Small models of what must hold, checked in every order of every step (stateright).
//!
//! Each model has rules that can be left out. All together must hold; without one of them a property
//! must fail, or the rule would not be needed. The verdicts are printed:
//! `cargo test --test models -- --nocapture --test-threads 1`.

use std::fmt::Debug;
use std::hash::Hash;
use std::path::Path;

use stateright::{Checker as _, Expectation, Model};

mod failover;
mod history;
mod spend;
mod windows;

/// `+` holds, `-` fails, in the order of the model's properties.
type Verdicts = &'static str;

/// What is left out, the model without it, and what comes of that.
type Cases<M> = Vec<(&'static str, M, Verdicts)>;

/// Threads of a check; more would take them from the tests beside it.
const THREADS: usize = 2;

fn judge<M>(model: M) -> (String, usize)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + Send + Sync + PartialEq,
    M::Action: Clone + PartialEq + Debug + Hash + Send + Sync,
{
    let properties = model.properties();
    let checker = model.checker().threads(THREADS).spawn_bfs().join();
    let verdict = |name: &'static str, expectation: &Expectation| {
        let found = checker.discovery(name).is_some();
        if found == matches!(expectation, Expectation::Sometimes) { '+' } else { '-' }
    };
    let verdicts =
        properties.iter().map(|property| verdict(property.name, &property.expectation)).collect();
    (verdicts, checker.unique_state_count())
}

fn check<M>(cases: Cases<M>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + Send + Sync + PartialEq,
    M::Action: Clone + PartialEq + Debug + Hash + Send + Sync,
{
    let properties = cases[0].1.properties();
    println!();
    for property in &properties {
        println!("  {}", property.name);
    }
    let mut wrong = Vec::new();
    for (name, model, expected) in cases {
        let (verdicts, states) = judge(model);
        println!("{name:<48} {verdicts:<5} {states:>8} states");
        if verdicts != expected {
            wrong.push(format!("{name}: {verdicts} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_refresh_token_is_spent_once_and_its_pair_is_kept() {
    check(spend::cases());
}

#[test]
fn a_record_is_what_its_history_says_in_whatever_order_it_is_told() {
    check(history::cases());
}

#[test]
fn a_failover_forgets_no_claim_that_was_sent_under() {
    check(failover::cases());
}

#[test]
fn a_replay_window_is_used_where_nothing_can_be_lost_by_it() {
    check(windows::cases());
}

/// `necessity.md` says what each mechanism is for.
#[test]
fn every_row_names_what_is_there() {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let list = |folder: &str| std::fs::read_dir(tests.join(folder)).into_iter().flatten().flatten();
    let sources: String = list("models").chain(list("it")).map(|file| read(&file.path())).collect();
    let ledger = read(&tests.join("necessity.md"));
    let rows: Vec<_> = ledger.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 10, "{ledger}");
    for row in rows {
        // Every second part stands in backquotes.
        for name in row.split('`').skip(1).step_by(2) {
            let there = [format!("(\"{name}\","), format!("fn {name}()")];
            let there = there.iter().any(|form| sources.contains(form))
                || sources.contains(&format!("\"{name}\",\n"));
            assert!(there, "{name} is not there any more: {row}");
        }
    }
}
