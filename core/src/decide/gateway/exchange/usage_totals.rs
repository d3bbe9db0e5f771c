//! What all replicas reported, summed: the leader's counters. They begin with the leadership and hold what the processes that live
//! since then have used in their whole life.

use std::collections::{BTreeMap, BTreeSet};

use super::message::GatewayMessage;
use super::usage::{Counts, Series, Usage};

/// What callers of a namespace used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallerSeries {
    /// The namespace.
    pub namespace: String,
    /// Who, by which route, of which backend.
    pub series: Series,
}

/// The sums of all reports.
#[derive(Clone, Debug, Default)]
pub struct UsageTotals {
    /// The last state of each process that lives, by namespace and epoch.
    live: BTreeMap<(String, u64), Reported>,
    /// The processes that ended. A report of theirs that comes late is part of `settled`.
    ended: BTreeSet<(String, u64)>,
    /// What they used.
    settled: BTreeMap<CallerSeries, Counts>,
}

#[derive(Clone, Debug, Default)]
struct Reported {
    seq: u64,
    usage: Usage,
}

impl UsageTotals {
    /// Takes a report of a replica in this namespace. One that is older than what is known changes nothing.
    pub fn take(&mut self, namespace: &str, message: &GatewayMessage) {
        let process = (namespace.to_owned(), message.epoch);
        if self.ended.contains(&process) {
            return;
        }
        let reported = self.live.entry(process).or_default();
        if message.seq > reported.seq {
            reported.seq = message.seq;
            reported.usage.take(&message.usage);
        }
    }

    /// The process of this epoch has ended. What it used stays counted.
    pub fn end(&mut self, namespace: &str, epoch: u64) {
        let process = (namespace.to_owned(), epoch);
        if let Some(reported) = self.live.remove(&process) {
            sum(&mut self.settled, namespace, &reported.usage);
        }
        self.ended.insert(process);
    }

    /// What a process that lives has used in its whole life, as far as it has reported it; none of one that has not reported or has
    /// ended.
    pub fn of_epoch(&self, namespace: &str, epoch: u64) -> Option<&Usage> {
        self.live.get(&(namespace.to_owned(), epoch)).map(|reported| &reported.usage)
    }

    /// What was used until now. No sum ever becomes less.
    pub fn totals(&self) -> BTreeMap<CallerSeries, Counts> {
        let mut totals = self.settled.clone();
        for ((namespace, _), reported) in &self.live {
            sum(&mut totals, namespace, &reported.usage);
        }
        totals
    }
}

fn sum(totals: &mut BTreeMap<CallerSeries, Counts>, namespace: &str, usage: &Usage) {
    for (_, series, counts) in usage.rows() {
        let series = CallerSeries { namespace: namespace.to_owned(), series: series.clone() };
        totals.entry(series).or_default().add(counts);
    }
}

#[cfg(test)]
#[path = "usage_totals_tests.rs"]
mod tests;
