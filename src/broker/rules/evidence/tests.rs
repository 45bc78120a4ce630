//! The table: what happened, and whether it holds.

use super::*;
use crate::broker::model::Reason;

const SECOND: Millis = 1_000;
const GAPS: Gaps = Gaps {
    refused: Backoff::new(Duration::from_secs(1), Duration::from_secs(300)),
    silent: Backoff::new(Duration::from_secs(1), Duration::from_secs(15)),
    shortest_lead: None,
};

/// What happens, at which second: `Fails(grant, reading)` for the first time, `Again` when it failed
/// before, `Lives` where a success was sent.
#[derive(Debug, Clone, Copy)]
enum Event {
    Fails(&'static str, Reading),
    Again(&'static str, Reading),
    Lives,
    /// A success that was sent so many seconds before.
    Late(Millis),
}
use Event::{Again, Fails, Late, Lives};
use Reading::{Client, Endpoint, Limited, Silent};

fn cause() -> Cause {
    let reason = Reason::ClientCredentialsRejected;
    Cause { reason, status: Some(401), said: None, detail: None }
}

fn fails(grant: &str, reading: Reading, sent: Millis) -> Piece {
    Piece { grant: GrantId::parse(&format!("kroger/{grant}")).unwrap(), reading, sent, tried: true }
}

fn after(events: &[(Millis, Event)]) -> Evidence {
    let mut evidence = Evidence::default();
    for (second, event) in events {
        let now = second * SECOND;
        match *event {
            Fails(grant, reading) | Again(grant, reading) => {
                let changed = matches!(event, Fails(..));
                let piece = fails(grant, reading, now);
                evidence.failed(Failed { piece, changed, cause: cause() }, GAPS, now);
            }
            Lives => drop(evidence.succeeded(now, now)),
            Late(before) => drop(evidence.succeeded(now - before * SECOND, now)),
        }
    }
    evidence
}

#[test]
fn it_takes_two_grants_that_change_alike_with_no_success_after_them() {
    let table: &[(bool, &[(Millis, Event)])] = &[
        (false, &[(1, Fails("a", Client))]),
        (false, &[(1, Fails("a", Client)), (2, Again("a", Client)), (3, Again("a", Client))]),
        (false, &[(1, Fails("a", Client)), (2, Fails("a", Client))]),
        (true, &[(1, Fails("a", Client)), (2, Fails("b", Client))]),
        // A dead grant that is asked every second, and another one that is as dead as it was.
        (false, &[(1, Fails("a", Client)), (2, Again("b", Client)), (3, Again("c", Client))]),
        (false, &[(1, Fails("a", Client)), (2, Fails("b", Endpoint))]),
        (false, &[(1, Fails("a", Client)), (2, Lives), (3, Fails("b", Client))]),
        // What was sent before says nothing.
        (true, &[(5, Fails("a", Client)), (6, Late(3)), (7, Fails("b", Client))]),
        (false, &[(1, Lives), (2, Fails("a", Client)), (3, Lives), (4, Fails("b", Client))]),
        (false, &[(1, Fails("a", Silent)), (602, Fails("b", Silent))]),
        (true, &[(1, Fails("a", Silent)), (600, Fails("b", Silent))]),
        (false, &[(1, Fails("a", Limited)), (2, Fails("b", Limited))]),
        // A success ends it, one that was sent before it began does not.
        (false, &[(1, Fails("a", Client)), (2, Fails("b", Client)), (3, Lives)]),
        (true, &[(5, Fails("a", Client)), (6, Fails("b", Client)), (7, Late(4))]),
        // Dead grants end where they began; on the ramp one change is enough.
        (
            false,
            &[
                (1, Fails("a", Client)),
                (2, Fails("b", Client)),
                (3, Lives),
                (4, Again("a", Client)),
            ],
        ),
        (
            true,
            &[
                (1, Fails("a", Client)),
                (2, Fails("b", Client)),
                (3, Lives),
                (4, Fails("c", Client)),
            ],
        ),
        (
            false,
            &[
                (1, Fails("a", Client)),
                (2, Fails("b", Client)),
                (3, Lives),
                (40, Fails("c", Client)),
            ],
        ),
    ];
    for (holds, events) in table {
        assert_eq!(after(events).hold.is_some(), *holds, "{events:?}");
    }
}

#[test]
fn a_failure_that_was_sent_before_a_success_is_none() {
    let mut evidence = after(&[(5, Lives)]);
    for grant in ["a", "b"] {
        let failed =
            Failed { piece: fails(grant, Client, 4 * SECOND), changed: true, cause: cause() };
        assert!(!evidence.failed(failed, GAPS, 6 * SECOND));
    }
    assert!(evidence.is_quiet());
}

#[test]
fn chains_of_which_nothing_ever_came_prove_little_while_others_live() {
    for (lived, needed) in [(false, 2), (true, 5)] {
        let mut evidence = Evidence { succeeded: lived.then_some(0), ..Evidence::default() };
        for n in 1..=needed {
            let piece = Piece { tried: false, ..fails(&format!("g{n}"), Client, n) };
            let failed = Failed { piece, changed: true, cause: cause() };
            assert_eq!(evidence.failed(failed, GAPS, n), n == needed, "{n} {lived}");
        }
    }
}

fn held() -> Evidence {
    after(&[(1, Fails("a", Client)), (2, Fails("b", Client))])
}

#[test]
fn one_probe_at_a_time_and_who_failed_lets_the_others_go_first() {
    let mut evidence = held();
    let at = |evidence: &Evidence, failures, now| evidence.admits(failures, GAPS, now);
    assert_eq!(at(&evidence, 0, 2_999), Admission::Later(3_000));
    assert_eq!(at(&evidence, 0, 3_000), Admission::Probe);
    assert_eq!(at(&evidence, 1, 3_000), Admission::Later(3_500));
    assert_eq!(at(&evidence, 9, 3_000), Admission::Later(4_000));
    evidence.probe(GAPS, 3_000);
    assert_eq!(at(&evidence, 0, 3_001), Admission::Later(5_000));
    evidence.succeeded(3_000, 3_100);
    assert_eq!(at(&evidence, 9, 3_100), Admission::Free);
}

#[test]
fn gaps_grow_to_what_tokens_bear() {
    let all = |gaps: Gaps, reading| {
        (0..8).map(|probes| gaps.after(reading, probes) / SECOND).collect::<Vec<_>>()
    };
    assert_eq!(all(GAPS, Client), [1, 2, 10, 10, 16, 32, 64, 128]);
    assert_eq!(all(GAPS, Silent), [1, 2, 10, 10, 15, 15, 15, 15]);
    let hourly = Gaps { shortest_lead: Some(Duration::from_secs(720)), ..GAPS };
    assert_eq!(all(hourly, Client), [1, 2, 10, 10, 16, 32, 64, 128]);
    assert_eq!(hourly.after(Client, 20) / SECOND, 180);
    let minutely = Gaps { shortest_lead: Some(Duration::from_secs(30)), ..GAPS };
    assert_eq!(all(minutely, Client), [1, 2, 10, 10, 10, 10, 10, 10]);
    assert_eq!(GAPS.after(Client, 99) / SECOND, 300);
    let quick = Duration::from_millis(300);
    let short = Gaps { refused: Backoff::new(quick, quick), ..GAPS };
    assert_eq!(short.after(Client, 5), 300, "tests are quicker");
}

/// (the client's grants, how many are refused, whether that is not believed)
const REFUSED: [(usize, usize, bool); 11] = [
    (1, 1, false),
    (2, 1, false),
    (2, 2, true),
    (4, 3, false),
    (4, 4, true),
    (10, 4, false),
    (10, 5, true),
    (400, 5, true),
    (1_000, 9, false),
    (1_000, 10, true),
    (100_000, 50, true),
];

#[test]
fn many_refusals_are_not_believed() {
    for (total, count, many) in REFUSED {
        let mut evidence = Evidence::default();
        let grant = |n: usize| GrantId::parse(&format!("kroger/g{n}")).unwrap();
        let mut told = false;
        for n in 0..count {
            told = evidence.refused(&grant(n), 0, total, 1);
        }
        assert_eq!(told, many, "{count} of {total}");
        assert_eq!(evidence.refused(&grant(0), 0, total, 2), many, "again is not another one");
    }
}

#[test]
fn refusals_of_long_ago_do_not_count() {
    let mut evidence = Evidence::default();
    let grant = |n: i64| GrantId::parse(&format!("kroger/g{n}")).unwrap();
    for n in 0..50 {
        let now = n * PIECE_LIFE / 4;
        assert!(!evidence.refused(&grant(n), now, 1_000, now), "four at a time");
    }
}

#[test]
fn where_nothing_succeeds_refusals_hold_too() {
    let mut evidence = Evidence::default();
    let grant = |n: i64| GrantId::parse(&format!("kroger/g{n}")).unwrap();
    for n in 0..5 {
        evidence.refused(&grant(n), n, 10, n);
    }
    let mut lived = evidence.clone();
    lived.succeeded(3, 4);
    assert!(!lived.holds_for_refusals(&cause(), GAPS, 5));
    assert!(evidence.holds_for_refusals(&cause(), GAPS, 5));
}

#[test]
fn another_process_reads_the_same_by_its_own_clock() {
    let evidence = held();
    let there = evidence.clone().shifted(-7_000);
    assert_eq!(there.hold.as_ref().unwrap().next_probe, -4_000);
    assert_eq!(there.shifted(7_000), evidence);
}

#[test]
fn what_is_kept_has_an_end() {
    let mut evidence = Evidence::default();
    for n in 0..1_000 {
        let piece = fails(&format!("g{n}"), Limited, n);
        evidence.failed(Failed { piece, changed: true, cause: cause() }, GAPS, n);
    }
    assert_eq!(evidence.pieces.len(), PIECES_MAX);
}
