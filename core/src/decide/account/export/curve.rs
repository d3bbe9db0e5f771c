//! How what was used grew over a period: the burn curve.
//!
//! It is made of the caller table and is for the eye. What a budget counts is in its accounts: that has upper bounds for
//! processes that vanished, of which the table does not know.

use std::collections::BTreeMap;

use super::what_if::spread;
use crate::decide::account::Amounts;
use crate::decide::account::history::{Bucket, Covers, History, counted_tokens};
use crate::decide::gateway::exchange::usage::Counts;

/// What was used up to a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The time, in seconds since 1970.
    pub at: i64,
    /// What was used since the start.
    pub used: Amounts,
}

/// What these calls used in `[start, now)`, in seconds since 1970, summed up to the end of each hour, day or month of the
/// table. The first point is the start. Of a time that the period has only a part of, it has that part of what was used.
pub fn curve(history: &History, covers: &Covers, start: i64, now: i64, cached_input_percent: u32) -> Vec<Point> {
    let mut buckets: BTreeMap<(i64, Bucket), Counts> = BTreeMap::new();
    for row in history.covered(covers, start, now) {
        buckets.entry((row.bucket.end(), row.bucket)).or_default().add(row.counts);
    }
    let mut used = Amounts::default();
    let mut points = vec![Point { at: start, used }];
    for ((end, bucket), counts) in buckets {
        // Nothing of the present hour was used after now.
        let end = end.min(now);
        let from = bucket.start();
        let part = spread(&counts, (start.saturating_sub(from).max(0), end.saturating_sub(from)), end.saturating_sub(from));
        used.tokens = used.tokens.saturating_add(counted_tokens(&part, cached_input_percent));
        used.cost = used.cost.saturating_add(part.cost);
        points.push(Point { at: end, used });
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::account::history::fixtures::{at, covers, input, second, table};

    const CODER: [&str; 3] = ["coder", "smart", "qwen"];

    fn points(history: &History, start: &str, now: &str, cached_input_percent: u32) -> Vec<(i64, u64)> {
        let points = curve(history, &covers(&[("coder", &[])]), second(start), second(now), cached_input_percent);
        points.into_iter().map(|point| (point.at, point.used.tokens)).collect()
    }

    #[test]
    fn it_grows_with_each_hour_in_which_something_was_used_and_ends_now() {
        let paid = Counts { input: 300, cached_input: 100, cost: 5, requests: 1, ..Counts::default() };
        let history = table([
            ("2026-11-26T09:10:00Z", CODER, input(600)),
            ("2026-11-26T09:20:00Z", ["coder", "smart", "gpt"], paid),
            ("2026-11-26T11:10:00Z", CODER, input(50)),
            ("2026-11-26T10:10:00Z", ["planner", "smart", "qwen"], input(5_000)),
        ]);
        let (start, now) = ("2026-11-26T00:00:00Z", "2026-11-26T11:30:00Z");
        let expected = [(second(start), 0), (second("2026-11-26T10:00:00Z"), 900), (second(now), 950)];
        assert_eq!(points(&history, start, now, 100), expected);
        assert_eq!(points(&history, start, now, 50)[1].1, 850, "of cached input a part counts");
        let money = curve(&history, &covers(&[("coder", &[])]), second(start), second(now), 100);
        assert_eq!(money.iter().map(|point| point.used.cost).collect::<Vec<_>>(), [0, 5, 5]);
        assert_eq!(points(&History::default(), start, now, 100), [(second(start), 0)]);
    }

    #[test]
    fn days_come_before_hours_and_a_period_has_its_part_of_the_first() {
        let mut history = table([("2026-11-20T09:10:00Z", CODER, input(2400)), ("2026-11-26T09:10:00Z", CODER, input(100))]);
        history.compact(at("2026-11-26T12:00:00Z"));
        let (start, now) = ("2026-11-20T18:00:00Z", "2026-11-26T12:00:00Z");
        let expected = [(second(start), 0), (second("2026-11-21T00:00:00Z"), 600), (second("2026-11-26T10:00:00Z"), 700)];
        assert_eq!(points(&history, start, now, 100), expected);
    }
}
