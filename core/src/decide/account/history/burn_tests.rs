use proptest::prelude::*;

use super::super::fixtures::{at, covers, input, second, table};
use super::*;
use crate::decide::gateway::exchange::usage::Counts;

const QWEN: [&str; 3] = ["coder", "smart", "qwen"];

fn coder() -> Covers {
    covers(&[("coder", &[])])
}

/// What was used in these hours of a day.
fn hours(used: &[(u32, u64)]) -> History {
    let times: Vec<(String, u64)> = used.iter().map(|(hour, tokens)| (format!("2026-11-26T{hour:02}:00:00Z"), *tokens)).collect();
    table(times.iter().map(|(time, tokens)| (time.as_str(), QWEN, input(*tokens))))
}

fn tokens_per_hour(history: &History, now: &str, period_start: &str) -> u64 {
    history.burn(&coder(), at(now), second(period_start)).tokens_per_hour
}

#[test]
fn even_use_has_its_own_rate_whenever_it_is_asked_for() {
    let history = hours(&[(6, 3600), (7, 3600), (8, 3600), (9, 3600), (10, 1800)]);
    for period_start in ["2026-11-26T06:00:00Z", "2026-11-26T08:20:00Z", "2026-11-26T09:59:00Z", "2026-11-26T10:30:00Z"] {
        assert_eq!(tokens_per_hour(&history, "2026-11-26T10:30:00Z", period_start), 3600, "{period_start}");
    }
}

#[test]
fn what_was_used_an_hour_ago_weighs_half() {
    let day: Vec<(u32, u64)> = (0..23).map(|hour| (hour, 1000)).collect();
    let history = hours(&day);
    let start = "2026-11-26T00:00:00Z";
    let rates = ["22:59:59", "23:59:59"].map(|time| tokens_per_hour(&history, &format!("2026-11-26T{time}Z"), start));
    assert_eq!(rates, [1000, 500], "nothing was used for an hour");
    assert_eq!(tokens_per_hour(&history, "2026-11-27T00:59:59Z", start), 250);
    assert_eq!(tokens_per_hour(&history, "2026-11-28T23:00:00Z", start), 0, "days later");
}

#[test]
fn what_was_used_before_the_period_does_not_count_when_the_period_is_an_hour_old() {
    let history = hours(&[(8, 1_000_000), (9, 1_000_000), (10, 1000), (11, 1000)]);
    assert_eq!(tokens_per_hour(&history, "2026-11-26T12:00:00Z", "2026-11-26T10:00:00Z"), 1000);
    assert!(tokens_per_hour(&history, "2026-11-26T12:00:00Z", "2026-11-26T09:00:00Z") > 100_000);
}

#[test]
fn a_first_call_in_a_young_period_alarms_nobody() {
    // 600 tokens in a minute are 36,000 an hour, if that goes on; over the last hour they are not much more than they are.
    let history = hours(&[(10, 600)]);
    assert_eq!(tokens_per_hour(&history, "2026-11-26T10:01:00Z", "2026-11-26T10:00:00Z"), 763);
    // In the second in which the hour begins nothing is known of it yet.
    assert_eq!(tokens_per_hour(&history, "2026-11-26T10:00:00Z", "2026-11-26T10:00:00Z"), 0);
    // A period that has not begun yet, and a clock that has gone back.
    assert_eq!(tokens_per_hour(&history, "2026-11-26T10:01:00Z", "2026-12-01T00:00:00Z"), 763);
    assert_eq!(tokens_per_hour(&history, "2026-11-26T08:00:00Z", "2026-11-26T10:00:00Z"), 0);
}

#[test]
fn money_and_cached_input_have_their_rates_too() {
    let used = Counts { input: 900, output: 100, cached_input: 500, cost: 250_000, requests: 3, ..Counts::default() };
    let history = table([("2026-11-26T09:00:00Z", QWEN, used), ("2026-11-26T09:00:00Z", ["planner", "smart", "qwen"], input(77))]);
    let burn = history.burn(&coder(), at("2026-11-26T10:00:00Z"), second("2026-11-26T09:00:00Z"));
    assert_eq!(burn, Burn { tokens_per_hour: 1000, cached_input_per_hour: 500, cost_per_hour: 250_000 });
    assert_eq!(burn.counted(100), burn);
    assert_eq!(burn.counted(10).tokens_per_hour, 550);
    assert_eq!(history.burn(&covers(&[]), at("2026-11-26T10:00:00Z"), 0), Burn::default());
}

#[test]
fn nothing_weighs_more_for_being_older() {
    let weights: Vec<u64> = (0..120_000).step_by(7).map(left_after).collect();
    assert!(weights.is_sorted_by(|earlier, later| earlier >= later));
    assert_eq!([0, 3600, 7200, 30 * 3600, i64::MAX, -5].map(left_after), [FULL, FULL / 2, FULL / 4, 0, 0, FULL]);
}

proptest! {
    #[test]
    fn no_rate_is_above_that_of_the_busiest_hour(
        used in prop::collection::btree_map(0_u32..24, 0_u64..1_000_000, 0..24), minutes in 0_i64..59, ago in 0_i64..100,
    ) {
        let used: Vec<(u32, u64)> = used.into_iter().collect();
        let busiest = used.iter().map(|(_, tokens)| *tokens).max().unwrap_or(0);
        let midnight = second("2026-11-27T00:00:00Z");
        let now = jiff::Timestamp::from_second(midnight + minutes * 60).unwrap();
        let burn = hours(&used).burn(&coder(), now, midnight - ago * 3600);
        prop_assert!(burn.tokens_per_hour <= busiest);
        // No number is too large.
        let most = Counts { input: u64::MAX, output: u64::MAX, cost: u64::MAX, ..Counts::default() };
        table([("2026-11-26T23:00:00Z", QWEN, most)]).burn(&coder(), now, midnight - ago * 3600);
    }
}
