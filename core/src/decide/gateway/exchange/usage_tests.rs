use proptest::prelude::*;

use super::*;

fn series(backend: &str) -> Series {
    Series { caller: "coder".to_owned(), route: "smart-router".to_owned(), backend: backend.to_owned() }
}

fn input(tokens: u64) -> Counts {
    Counts { input: tokens, requests: 1, ..Counts::default() }
}

fn sum(usage: &Usage) -> Counts {
    let mut sum = Counts::default();
    usage.rows().for_each(|(_, _, counts)| sum.add(counts));
    sum
}

#[test]
fn an_hour_is_that_of_utc() {
    let hour = |text: &str| Hour::of(text.parse().unwrap());
    assert_eq!(hour("1970-01-01T00:59:59Z"), Hour(0));
    assert_eq!(hour("2026-11-26T01:30:00Z").back(1), hour("2026-11-26T00:00:00Z"));
    assert_eq!(hour("2026-11-26T01:30:00+01:00"), hour("2026-11-26T00:59:00Z"));
    assert_eq!(hour("1969-12-31T00:00:00Z"), Hour(0), "a clock that was never set");
    let half_past: Timestamp = "2026-11-26T01:30:00Z".parse().unwrap();
    assert_eq!(Hour::of(half_past).start(), half_past.as_second() - 1800);
}

#[test]
fn a_call_is_counted_in_the_hour_that_admitted_it_and_old_hours_become_one_row() {
    let mut usage = UsageCounters::default();
    let now = Hour(1000);
    usage.record(series("qwen"), now, now, &input(5));
    usage.record(series("qwen"), now.back(1), now, &input(7));
    let rows = |usage: &UsageCounters| usage.since(0).rows().map(|(hour, _, counts)| (hour.0, counts.input)).collect::<Vec<_>>();
    assert_eq!(rows(&usage), [(999, 7), (1000, 5)]);
    let later = Hour(1000 + HOURS_KEPT);
    usage.record(series("qwen"), later, later, &input(1));
    assert_eq!(rows(&usage), [(0, 7), (1000, 5), (1048, 1)]);
    assert_eq!(usage.since(0).kept_since(), Hour(1000));
    // A stream that was admitted before the hours that are kept.
    usage.record(series("qwen"), Hour(990), later, &input(2));
    assert_eq!(rows(&usage), [(0, 9), (1000, 5), (1048, 1)]);
    // A clock that goes back opens no old hour again.
    usage.record(series("qwen"), Hour(10), Hour(11), &input(3));
    assert_eq!(rows(&usage), [(0, 12), (1000, 5), (1048, 1)]);
}

#[test]
fn counts_stop_at_the_largest_number() {
    let mut counts = Counts { output: u64::MAX - 1, ..Counts::default() };
    counts.add(&Counts { output: 5, errors: 1, ..Counts::default() });
    assert_eq!(counts, Counts { output: u64::MAX, errors: 1, ..Counts::default() });
}

#[test]
fn every_count_is_summed() {
    let one = Counts { input: 1, output: 2, cached_input: 3, estimated: 4, requests: 5, errors: 6, cost: 7, unpriced: 8 };
    let mut sum = one;
    sum.add(&one);
    let expected = Counts { input: 2, output: 4, cached_input: 6, estimated: 8, requests: 10, errors: 12, cost: 14, unpriced: 16 };
    assert_eq!(sum, expected);
}

#[test]
fn what_costs_nothing_is_written_as_before_there_were_costs() {
    let written = |counts: &Counts| serde_json::to_string(counts).unwrap();
    let free = r#"{"input":1,"output":0,"cachedInput":0,"estimated":0,"requests":1,"errors":0}"#;
    assert_eq!(written(&input(1)), free);
    assert_eq!(serde_json::from_str::<Counts>(free).unwrap(), input(1));
    let priced = Counts { cost: 9, unpriced: 1, ..input(1) };
    assert!(written(&priced).ends_with(r#""errors":0,"cost":9,"unpriced":1}"#), "{}", written(&priced));
    assert_eq!(serde_json::from_str::<Counts>(&written(&priced)).unwrap(), priced);
}

#[test]
fn only_what_has_changed_since_is_told() {
    let mut usage = UsageCounters::default();
    let told = |usage: &UsageCounters, since| {
        usage.since(since).rows().map(|(hour, series, counts)| (hour.0, series.backend.clone(), counts.input)).collect::<Vec<_>>()
    };
    usage.record(series("a"), Hour(1000), Hour(1000), &input(1));
    let one = usage.changes();
    usage.record(series("b"), Hour(1000), Hour(1000), &input(2));
    assert_eq!(told(&usage, one), [(1000, "b".to_owned(), 2)]);
    let two = usage.changes();
    assert_eq!(told(&usage, two), []);
    // Both rows become old, and are told of as what they are now.
    usage.record(series("a"), Hour(2000), Hour(2000), &input(3));
    assert_eq!(told(&usage, two), [(0, "a".to_owned(), 1), (0, "b".to_owned(), 2), (2000, "a".to_owned(), 3)]);
    let three = usage.changes();
    usage.record(series("b"), Hour(3000), Hour(3000), &input(4));
    assert_eq!(told(&usage, three), [(0, "a".to_owned(), 4), (3000, "b".to_owned(), 4)], "the old row of b is the same");
}

proptest! {
    #[test]
    fn rows_grow_old_and_travel_without_losing_a_token(
        calls in prop::collection::vec((0_usize..3, 0_u32..200, 0_u32..60, 0_u64..1000, any::<bool>()), 0..60),
    ) {
        let (mut usage, mut truth, mut copy, mut told) = (UsageCounters::default(), Counts::default(), Usage::default(), 0);
        for (backend, now, ago, tokens, tell) in calls {
            let now = Hour(1000 + now);
            usage.record(series(["a", "b", "c"][backend]), now.back(ago), now, &input(tokens));
            truth.add(&input(tokens));
            if tell {
                let wire = serde_json::to_string(&usage.since(told)).unwrap();
                // Who takes what has changed has the same rows as who was there.
                copy.take(&serde_json::from_str::<Usage>(&wire).unwrap());
                told = usage.changes();
                prop_assert_eq!(&copy, &usage.since(0));
            }
        }
        prop_assert_eq!(sum(&usage.since(0)), truth);
    }
}
