use super::super::usage::{Hour, UsageCounters};
use super::*;

fn message(epoch: u64, seq: u64, tokens: &[(&str, u64)]) -> GatewayMessage {
    let mut usage = UsageCounters::default();
    let hour = Hour::of("2026-11-26T01:30:00Z".parse().unwrap());
    for (backend, tokens) in tokens {
        let series = Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: (*backend).to_owned() };
        usage.record(series, hour, hour, &Counts { input: *tokens, ..Counts::default() });
    }
    GatewayMessage { epoch, seq, usage: usage.since(0), ..GatewayMessage::default() }
}

/// Namespace, backend and tokens.
fn sums(totals: &UsageTotals) -> Vec<(String, String, u64)> {
    let totals = totals.totals().into_iter();
    totals.map(|(caller, counts)| (caller.namespace, caller.series.backend, counts.input)).collect()
}

fn sum(namespace: &str, backend: &str, tokens: u64) -> (String, String, u64) {
    (namespace.to_owned(), backend.to_owned(), tokens)
}

#[test]
fn replicas_and_namespaces_add_up_and_reports_do_not() {
    let mut totals = UsageTotals::default();
    totals.take("team", &message(1, 1, &[("a", 5)]));
    totals.take("team", &message(1, 2, &[("a", 8)]));
    totals.take("team", &message(2, 1, &[("a", 1), ("b", 2)]));
    // Nothing keeps two namespaces from the same number.
    totals.take("other", &message(1, 1, &[("a", 100)]));
    assert_eq!(sums(&totals), [sum("other", "a", 100), sum("team", "a", 9), sum("team", "b", 2)]);
}

#[test]
fn a_report_that_comes_twice_or_late_changes_nothing() {
    let mut totals = UsageTotals::default();
    totals.take("team", &message(1, 3, &[("a", 8)]));
    totals.take("team", &message(1, 3, &[("a", 8)]));
    totals.take("team", &message(1, 2, &[("a", 5)]));
    assert_eq!(sums(&totals), [sum("team", "a", 8)]);
}

#[test]
fn what_a_process_used_stays_counted_when_it_has_ended_and_only_once() {
    let mut totals = UsageTotals::default();
    totals.take("team", &message(1, 1, &[("a", 5)]));
    totals.end("team", 1);
    totals.end("team", 1);
    totals.take("team", &message(1, 2, &[("a", 50)]));
    totals.take("team", &message(2, 1, &[("a", 1)]));
    assert_eq!(sums(&totals), [sum("team", "a", 6)]);
}

#[test]
fn rows_that_a_report_leaves_out_stay() {
    let mut totals = UsageTotals::default();
    totals.take("team", &message(1, 1, &[("a", 5), ("b", 2)]));
    totals.take("team", &message(1, 2, &[("b", 3)]));
    assert_eq!(sums(&totals), [sum("team", "a", 5), sum("team", "b", 3)]);
}

#[test]
fn what_one_process_used_is_known_while_it_lives() {
    let mut totals = UsageTotals::default();
    totals.take("team", &message(1, 1, &[("a", 5)]));
    totals.take("team", &message(1, 2, &[("b", 3)]));
    totals.take("team", &message(2, 1, &[("a", 1)]));
    let used = |totals: &UsageTotals, namespace: &str, epoch| {
        totals.of_epoch(namespace, epoch).map(|usage| usage.rows().map(|(_, _, counts)| counts.input).sum::<u64>())
    };
    assert_eq!((used(&totals, "team", 1), used(&totals, "team", 2)), (Some(8), Some(1)));
    assert_eq!((used(&totals, "team", 3), used(&totals, "other", 1)), (None, None));
    totals.end("team", 1);
    assert_eq!((used(&totals, "team", 1), used(&totals, "team", 2)), (None, Some(1)));
}
