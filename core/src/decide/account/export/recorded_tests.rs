use std::collections::BTreeSet;

use super::super::{Dimension, chargeback};
use super::*;
use crate::decide::account::history::fixtures::{at, covers, table};
use crate::decide::gateway::exchange::usage::Counts;

fn counts(tokens: u64) -> Counts {
    Counts { input: tokens, output: 20, cached_input: 3, estimated: 4, requests: 5, errors: 1, cost: 1_234_567, unpriced: 2 }
}

fn used() -> History {
    let mut history = table([
        ("2026-09-03T09:10:00Z", ["coder", "smart", "qwen"], counts(100)),
        ("2026-11-20T09:10:00Z", ["coder", "smart", "qwen"], counts(200)),
        ("2026-11-26T09:10:00Z", ["coder", "smart", "gpt"], counts(300)),
        ("2026-11-26T09:20:00Z", ["coder", "cheap", "qwen"], counts(400)),
        ("2026-11-26T10:10:00Z", ["planner", "cheap", "qwen"], counts(500)),
    ]);
    history.compact(at("2026-11-27T10:00:00Z"));
    history
}

fn by_hour() -> BTreeSet<Dimension> {
    BTreeSet::from([Dimension::Hour, Dimension::Pool, Dimension::Route, Dimension::Backend])
}

fn exported(namespace: &str, history: &History) -> Vec<ChargebackRow> {
    chargeback(namespace, history, &by_hour(), i64::MIN, i64::MAX)
}

#[test]
fn a_table_that_was_exported_by_the_hour_is_the_same_again() {
    let history = used();
    let rows = exported("team-a", &history);
    assert_eq!(rows.len(), 5);
    let read = tables(&rows).unwrap();
    assert_eq!(read.keys().collect::<Vec<_>>(), ["team-a"]);
    assert_eq!(read["team-a"].rows().collect::<Vec<_>>(), history.rows().collect::<Vec<_>>());
    assert!(read["team-a"].is_complete());
    let text = serde_json::to_string(&rows).unwrap();
    assert_eq!(serde_json::from_str::<Vec<ChargebackRow>>(&text).unwrap(), rows, "and so is its text");
}

#[test]
fn each_namespace_has_its_own_table_and_rows_that_are_alike_add_up() {
    let history = used();
    let rows = [exported("team-a", &history), exported("team-b", &history), exported("team-b", &history)].concat();
    let read = tables(&rows).unwrap();
    let input = |namespace: &str| read[namespace].rows().map(|(.., counts)| counts.input).sum::<u64>();
    assert_eq!((read.len(), input("team-a"), input("team-b")), (2, 1500, 3000));
    assert!(tables(&[]).unwrap().is_empty());
}

#[test]
fn a_row_of_the_smallest_callers_is_nobodys_and_one_without_backend_counts() {
    let row = |caller: &str, backend: Option<&str>| ChargebackRow {
        agent_pool: Some(caller.to_owned()),
        inference_backend: backend.map(str::to_owned),
        ..exported("team-a", &used()).remove(2)
    };
    let read = tables(&[row(OTHER, Some(OTHER)), row("coder", None)]).unwrap();
    let all = covers(&[("coder", &[]), (OTHER, &[])]);
    let of: Vec<&str> = read["team-a"].covered(&all, i64::MIN, i64::MAX).map(|row| row.series.backend.as_str()).collect();
    assert_eq!(of, [OTHER]);
    assert_eq!(read["team-a"].rows().count(), 2);
}

#[test]
fn a_row_that_does_not_say_what_a_table_tells_apart_is_named() {
    let row = exported("team-a", &used()).remove(0);
    let changed = |change: fn(&mut ChargebackRow)| {
        let mut changed = row.clone();
        change(&mut changed);
        tables(&[row.clone(), changed]).unwrap_err().to_string()
    };
    for (said, words) in [
        (changed(|row| row.date = None), "row 2 has no date"),
        (changed(|row| row.agent_pool = None), "row 2 has no agentPool"),
        (changed(|row| row.model_route = None), "row 2 has no modelRoute"),
        (changed(|row| row.date = Some("yesterday".to_owned())), "row 2: date: `yesterday` is neither an hour"),
        (changed(|row| row.cost = "much".to_owned()), "row 2: cost: `much` is not an amount"),
    ] {
        assert!(said.starts_with(words), "{said}");
    }
}
