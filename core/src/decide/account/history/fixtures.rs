//! Tables for tests.

use jiff::Timestamp;

use super::{Covers, History};
use crate::decide::gateway::exchange::usage::{Counts, Hour, Series, Usage, UsageCounters};

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub fn second(text: &str) -> i64 {
    at(text).as_second()
}

pub fn series([caller, route, backend]: [&str; 3]) -> Series {
    Series { caller: caller.to_owned(), route: route.to_owned(), backend: backend.to_owned() }
}

/// A call that took so many tokens in.
pub fn input(tokens: u64) -> Counts {
    Counts { input: tokens, requests: 1, ..Counts::default() }
}

/// What a process reports that began and counted one thing.
pub fn report(time: &str, name: [&str; 3], counts: &Counts) -> Usage {
    let mut counters = UsageCounters::default();
    let hour = Hour::of(at(time));
    counters.record(series(name), hour, hour, counts);
    counters.since(0)
}

/// The table of processes that have ended, each of which counted one row.
pub fn table<'a>(rows: impl IntoIterator<Item = (&'a str, [&'a str; 3], Counts)>) -> History {
    let mut history = History::default();
    for (epoch, (time, name, counts)) in (1..).zip(rows) {
        history.take(epoch, &report(time, name, &counts));
        history.ended(epoch);
    }
    history
}

/// The rows: bucket, series and tokens of input.
pub fn rows(history: &History) -> Vec<(String, String, u64)> {
    let rows = history.rows();
    rows.map(|(bucket, Series { caller, route, backend }, counts)| {
        (bucket.to_string(), format!("{caller}/{route}/{backend}"), counts.input)
    })
    .collect()
}

/// All that was ever used.
pub fn total(history: &History) -> Counts {
    let mut total = Counts::default();
    history.rows().for_each(|(_, _, counts)| total.add(counts));
    total
}

/// Callers, and the routes of each whose calls are meant; without any: all.
pub fn covers(callers: &[(&str, &[&str])]) -> Covers {
    let routes = |routes: &[&str]| (!routes.is_empty()).then(|| routes.iter().map(|route| (*route).to_owned()).collect());
    callers.iter().map(|(caller, of_caller)| ((*caller).to_owned(), routes(of_caller))).collect()
}
