use proptest::prelude::*;

use super::super::fixtures::{at, covers, input, report, rows, second, series, table, total};
use super::*;

const QWEN: [&str; 3] = ["coder", "smart", "qwen"];

fn buckets(history: &History) -> Vec<(String, u64)> {
    rows(history).into_iter().map(|(bucket, _, tokens)| (bucket, tokens)).collect()
}

/// An hour in which this many series were used: by caller and by how many of the first ones, more and more tokens.
fn crowded(names: impl IntoIterator<Item = (String, String)>) -> History {
    let mut history = History::default();
    let bucket = Bucket::hour_of(at("2026-11-26T09:00:00Z"));
    for (tokens, (caller, backend)) in (1..).zip(names) {
        let series = series([&caller, "smart", &backend]);
        let kept = history.callers.entry(caller).or_default();
        let name = kept.name(&series);
        kept.add(bucket, &name, &input(tokens));
    }
    history.grown.insert(bucket);
    history
}

fn length(history: &History) -> usize {
    history.rows().count()
}

#[test]
fn a_bucket_moves_up_only_when_the_whole_day_or_month_is_old() {
    let mut history = table([
        ("2026-10-31T00:30:00Z", QWEN, input(1)),
        ("2026-10-31T23:30:00Z", QWEN, input(2)),
        ("2026-11-01T05:30:00Z", QWEN, input(4)),
        ("2026-11-03T05:30:00Z", QWEN, input(8)),
    ]);
    let at_time = |history: &mut History, time: &str| {
        history.compact(at(time));
        buckets(history)
    };
    let expected = |buckets: &[(&str, u64)]| -> Vec<(String, u64)> {
        buckets.iter().map(|(bucket, tokens)| ((*bucket).to_owned(), *tokens)).collect()
    };
    let hours = [("2026-10-31T00", 1), ("2026-10-31T23", 2), ("2026-11-01T05", 4), ("2026-11-03T05", 8)];
    assert_eq!(at_time(&mut history, "2026-11-02T23:59:59Z"), expected(&hours));
    let changes = history.changes();
    assert_eq!(
        at_time(&mut history, "2026-11-03T00:00:00Z"),
        expected(&[("2026-11-01T05", 4), ("2026-11-03T05", 8), ("2026-10-31", 3)])
    );
    assert_eq!(history.changes(), changes + 1, "once, however many rows move");
    at_time(&mut history, "2026-11-03T01:00:00Z");
    assert_eq!(history.changes(), changes + 1, "nothing moves: nothing is to be written");
    let later = at_time(&mut history, "2026-12-06T00:00:00Z");
    assert_eq!(later, expected(&[("2026-11-01", 4), ("2026-11-03", 8), ("2026-10", 3)]));
    assert_eq!(at_time(&mut history, "2027-03-01T00:00:00Z"), expected(&[("2026-10", 3), ("2026-11", 12)]));
    // Whoever was away for long finds hours become months at once.
    let mut history = table([("2026-10-31T00:30:00Z", QWEN, input(1)), ("2026-10-01T00:30:00Z", QWEN, input(2))]);
    assert_eq!(at_time(&mut history, "2027-03-01T00:00:00Z"), expected(&[("2026-10", 3)]));
}

#[test]
fn what_comes_late_joins_the_day_that_its_hour_has_become_part_of() {
    let mut history = table([("2026-10-20T00:30:00Z", QWEN, input(1))]);
    history.compact(at("2026-10-25T00:00:00Z"));
    history.take(100, &report("2026-10-20T07:30:00Z", QWEN, &input(2)));
    history.compact(at("2026-10-25T01:00:00Z"));
    assert_eq!(buckets(&history), [("2026-10-20".to_owned(), 3)]);
}

#[test]
fn months_are_forgotten_after_a_year_and_the_caller_with_the_last() {
    let last = ["planner", "smart", "qwen"];
    let mut history = table([
        ("2025-09-30T09:30:00Z", QWEN, input(1)),
        ("2025-10-01T09:30:00Z", last, input(2)),
        ("2026-11-26T09:30:00Z", last, input(4)),
    ]);
    history.compact(at("2026-11-26T10:00:00Z"));
    assert_eq!(buckets(&history), [("2026-11-26T09".to_owned(), 4), ("2025-10".to_owned(), 2)]);
    assert_eq!((history.callers.len(), history.forgotten), (1, history.changes()));
}

#[test]
fn a_clock_that_is_ahead_ends_no_history() {
    let mut history = table([("2025-10-01T09:30:00Z", QWEN, input(2)), ("2026-10-26T09:30:00Z", QWEN, input(4))]);
    history.compact(at("2096-11-26T10:00:00Z"));
    assert_eq!(buckets(&history), [("2025-10".to_owned(), 2), ("2026-10".to_owned(), 4)]);
    // A gateway whose clock is ahead neither.
    let mut history = table([("2025-10-01T09:30:00Z", QWEN, input(2)), ("2096-10-26T09:30:00Z", QWEN, input(4))]);
    history.compact(at("2026-11-26T10:00:00Z"));
    assert_eq!(buckets(&history), [("2096-10-26T09".to_owned(), 4), ("2025-10".to_owned(), 2)]);
}

#[test]
fn the_smallest_series_of_a_caller_become_one_that_is_still_its_own() {
    let of_coder = (0..SERIES_OF_BUCKET + 500).map(|backend| ("coder".to_owned(), format!("b{backend:04}")));
    let mut history = crowded(of_coder.chain([("planner".to_owned(), "qwen".to_owned())]));
    let before = total(&history);
    history.compact(at("2026-11-26T10:00:00Z"));
    assert_eq!((total(&history), length(&history)), (before, SERIES_OF_BUCKET + 1));
    let tail = series(["coder", OTHER, OTHER]);
    let (_, _, counts) = history.rows().find(|(_, series, _)| **series == tail).unwrap();
    // The first 501 have the fewest tokens: 1 + 2 + .. + 501.
    assert_eq!((counts.input, counts.requests), (501 * 502 / 2, 501));
    // It counts for a budget over all that the caller does, and may be what a budget over one of its routes asks for.
    let used = |routes: &[&str]| history.used(&covers(&[("coder", routes)]), i64::MIN, i64::MAX);
    assert_eq!(used(&[]).partial, Counts::default());
    assert_eq!((used(&["cheap"]).whole, used(&["cheap"]).partial), (Counts::default(), *counts));
    assert_eq!(used(&["smart"]).most(), used(&[]).whole);
    // A second look finds nothing more to do.
    let changes = history.changes();
    history.compact(at("2026-11-26T10:01:00Z"));
    assert_eq!(history.changes(), changes);
}

#[test]
fn a_series_that_is_the_only_one_of_its_caller_in_the_tail_stays_what_it_is() {
    let mut history = crowded((0..SERIES_OF_BUCKET + 9).map(|caller| (format!("c{caller:04}"), "qwen".to_owned())));
    history.sum_series(Bucket::hour_of(at("2026-11-26T09:00:00Z")));
    assert_eq!((length(&history), history.changes()), (SERIES_OF_BUCKET + 9, 0));
}

#[test]
fn of_too_many_callers_the_smallest_may_be_what_a_budget_asks_for() {
    let mut history = crowded((0..CALLERS_OF_BUCKET + 300).map(|caller| (format!("c{caller:04}"), "qwen".to_owned())));
    let before = total(&history);
    history.compact(at("2026-11-26T10:00:00Z"));
    assert_eq!(total(&history), before);
    assert!(length(&history) <= CALLERS_OF_BUCKET + 256, "{}", length(&history));
    let (smallest, largest) = ("c0000", format!("c{:04}", CALLERS_OF_BUCKET + 299));
    let used = |caller: &str| history.used(&covers(&[(caller, &[])]), i64::MIN, i64::MAX);
    assert_eq!(used(smallest).whole, Counts::default());
    assert!(used(smallest).partial.input >= 1, "it is not silently nothing");
    assert!(used(smallest).partial.input < before.input / 50, "and no more than what shares the class of its name");
    assert_eq!(used(&largest).whole.input, 2300);
    assert!(history.by_caller(&covers(&[(smallest, &[])]), i64::MIN, i64::MAX).is_empty(), "it is nobody's");
    // The caller is forgotten, and its rows stay in a shard of the same class.
    history.compact(at("2026-11-26T11:00:00Z"));
    assert!(!history.callers.contains_key(smallest));
    let read = History::read(history.write().into_iter().map(|shard| shard.json)).unwrap();
    assert_eq!(rows(&read), rows(&history));
}

#[test]
fn a_caller_has_no_more_rows_than_a_shard_can_hold() {
    let mut history = History::default();
    let caller = history.callers.entry("coder".to_owned()).or_default();
    let bucket = |hour: i64| Bucket::Hour(second("2026-11-20T00:00:00Z") + hour * 3600);
    for hour in 0..60 {
        for backend in 0..200_u64 {
            let name = caller.name(&series(["coder", "smart", &format!("b{backend}")]));
            caller.add(bucket(hour), &name, &input(backend + 1));
            history.grown.insert(bucket(hour));
        }
    }
    let before = total(&history);
    // All hours are young enough to stay.
    history.compact(at("2026-11-20T12:00:00Z"));
    assert_eq!(total(&history), before);
    let kept = length(&history);
    assert!((ROWS_OF_CALLER - 60..=ROWS_OF_CALLER).contains(&kept), "{kept}");
    let largest = history.rows().filter(|(_, series, _)| series.backend == "b199").count();
    assert_eq!(largest, 60, "the largest are kept");
}

proptest! {
    #[test]
    fn however_time_passes_no_count_is_lost(
        steps in prop::collection::vec((0_u64..4, 0_i64..400, 0_i64..60, 1_u64..1000, any::<bool>()), 1..60),
    ) {
        let mut history = History::default();
        let (mut now, mut truth) = (second("2026-01-15T00:00:00Z"), 0);
        for (epoch, (caller, pass, ago, tokens, compact)) in (1..).zip(steps) {
            // In all less than a year, so that no month is forgotten.
            now += pass * 3600 / 4;
            let time = |second| jiff::Timestamp::from_second(second).unwrap();
            let name = format!("c{caller}");
            let used = report(&time(now - ago * 3600).to_string(), [&name, "smart", "qwen"], &input(tokens));
            history.take(epoch, &used);
            truth += tokens;
            if compact {
                history.compact(time(now));
                let mut spans: Vec<(i64, i64)> = history.rows().map(|(bucket, ..)| (bucket.start(), bucket.end())).collect();
                spans.sort_unstable();
                spans.dedup();
                let old = now - 72 * 3600;
                prop_assert!(spans.iter().all(|(start, end)| end - start > 3600 || *start >= old), "no hour is old: {spans:?}");
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "no two overlap: {spans:?}");
            }
            prop_assert_eq!(total(&history).input, truth);
        }
    }
}
