use rstest::rstest;

use super::fixtures::{covers, input, second, table, total};
use super::*;

const CODER: [&str; 3] = ["coder", "smart", "qwen"];

fn morning() -> History {
    table([
        ("2026-11-26T09:10:00Z", CODER, input(1)),
        ("2026-11-26T10:10:00Z", CODER, input(2)),
        ("2026-11-26T11:10:00Z", CODER, input(4)),
        ("2026-11-26T10:20:00Z", ["coder", "cheap", "qwen"], input(8)),
        ("2026-11-26T10:30:00Z", ["planner", "smart", "qwen"], input(16)),
    ])
}

#[rstest]
#[case::all_hours("09:00:00", "12:00:00", 15, 0)]
#[case::the_last_hour_is_another_periods("09:00:00", "11:00:00", 11, 0)]
#[case::an_hour_in_which_it_starts("09:30:00", "12:00:00", 14, 1)]
#[case::an_hour_in_which_it_ends("09:00:00", "11:00:01", 11, 4)]
#[case::within_an_hour("10:15:00", "10:45:00", 0, 10)]
#[case::before("08:00:00", "09:00:00", 0, 0)]
#[case::after("12:00:00", "13:00:00", 0, 0)]
#[case::no_time_at_all("10:30:00", "10:30:00", 0, 0)]
#[case::the_wrong_way_round("11:30:00", "10:30:00", 0, 0)]
fn what_was_used_in_hours_that_overlap_in_part_is_uncertain(
    #[case] from: &str,
    #[case] to: &str,
    #[case] whole: u64,
    #[case] partial: u64,
) {
    let day = |time: &str| second(&format!("2026-11-26T{time}Z"));
    let used = morning().used(&covers(&[("coder", &[])]), day(from), day(to));
    assert_eq!((used.whole.input, used.partial.input), (whole, partial));
    assert_eq!(used.most().input, whole + partial);
}

#[test]
fn only_the_callers_and_routes_that_are_meant_count() {
    let history = morning();
    for (callers, expected) in [
        (covers(&[]), 0),
        (covers(&[("coder", &["smart"])]), 7),
        (covers(&[("coder", &["cheap"]), ("planner", &[])]), 24),
        (covers(&[("coder", &["cheap", "smart"]), ("planner", &["cheap"])]), 15),
        (covers(&[("nobody", &[])]), 0),
    ] {
        let used = history.used(&callers, i64::MIN, i64::MAX);
        assert_eq!((used.whole.input, used.partial), (expected, Counts::default()), "{callers:?}");
    }
}

#[test]
fn each_caller_has_its_own_sum() {
    let callers = covers(&[("coder", &["smart"]), ("planner", &[]), ("nobody", &[])]);
    let by_caller = morning().by_caller(&callers, second("2026-11-26T09:30:00Z"), second("2026-11-26T11:00:00Z"));
    let sums: Vec<(&str, u64, u64)> =
        by_caller.iter().map(|(caller, counts)| (caller.as_str(), counts.input, counts.requests)).collect();
    assert_eq!(sums, [("coder", 3, 2), ("planner", 16, 1)], "the hour that overlaps in part is in it as a whole");
}

#[test]
fn a_day_and_a_month_overlap_a_period_as_an_hour_does() {
    let mut history = table([
        ("2026-08-20T09:10:00Z", CODER, input(1)),
        ("2026-10-20T09:10:00Z", CODER, input(2)),
        ("2026-11-26T09:10:00Z", CODER, input(4)),
    ]);
    history.compact("2026-11-26T10:00:00Z".parse().unwrap());
    let used = |from: &str, to: &str| {
        let used = history.used(&covers(&[("coder", &[])]), second(from), second(to));
        (used.whole.input, used.partial.input)
    };
    assert_eq!(used("2026-08-01T00:00:00Z", "2026-12-01T00:00:00Z"), (7, 0));
    assert_eq!(used("2026-08-31T23:00:00Z", "2026-10-20T01:00:00Z"), (0, 3), "the month and the day are cut");
    assert_eq!(used("2026-08-02T00:00:00Z", "2026-10-21T00:00:00Z"), (2, 1));
    assert_eq!(total(&history).input, 7);
}

#[test]
fn a_table_of_nothing_says_so() {
    let history = History::default();
    assert_eq!(history.used(&covers(&[("coder", &[])]), i64::MIN, i64::MAX), Overlap::default());
    assert_eq!((history.rows().count(), history.changes(), history.is_complete()), (0, 0, true));
}
