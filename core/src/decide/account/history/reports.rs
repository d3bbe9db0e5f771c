//! What processes of a gateway report becomes part of the table: once, whoever leads, and however often and in whatever order
//! it is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::bucket::Bucket;
use super::figures::{growth, smaller};
use super::{Covers, History};
use crate::decide::gateway::exchange::usage::{Counts, Hour, Series, Usage};

/// What a process reported of a series, and what of it is part of the table.
#[derive(Clone, Debug, Default)]
pub(super) struct Reported {
    /// What is part of the table. It is written with the table.
    pub(super) included: Counts,
    /// What this operator has heard, by hour. [`Hour::EARLIER`] is all before the first hour that is kept apart.
    hours: BTreeMap<Hour, Counts>,
    /// The sum of `hours`. Where an earlier leader made the table it is less than `included` until all was heard, and never
    /// more.
    heard: Counts,
}

/// What of the counters of a process is part of the table, by series.
#[derive(Clone, Debug, Default)]
pub struct Included(BTreeMap<Arc<Series>, Counts>);

impl Included {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a process has counted of a series beyond that. `counts`: all that it has counted of it.
    #[must_use]
    pub fn beyond(&self, series: &Series, counts: &Counts) -> Counts {
        growth(counts, &self.0.get(series).copied().unwrap_or_default())
    }
}

impl History {
    /// What of the counters of a process is part of the table, of these calls.
    pub fn included(&self, epoch: u64, covers: &Covers) -> Included {
        let mut included = BTreeMap::new();
        for (caller, routes) in covers {
            let reported = self.callers.get(caller).and_then(|caller| caller.processes.get(&epoch));
            let is_meant = |name: &Series| routes.as_ref().is_none_or(|routes| routes.contains(&name.route));
            for (name, reported) in reported.into_iter().flatten().filter(|(name, _)| is_meant(name)) {
                included.insert(Arc::clone(name), reported.included);
            }
        }
        Included(included)
    }

    /// Takes what a process has used since it began: all rows, or those that changed. It may be heard twice, late or in another
    /// order.
    ///
    /// What an earlier leader had not written down is put into the newest hours of the process, as far as it has used so much
    /// in them. What is older than the hours that the process keeps apart goes into the hour before them.
    pub fn take(&mut self, epoch: u64, usage: &Usage) {
        if self.ended.contains(&epoch) {
            return;
        }
        let first = self.first_hour(epoch, usage.kept_since());
        let mut reports: BTreeMap<&Series, Vec<(Hour, &Counts)>> = BTreeMap::new();
        for (hour, series, counts) in usage.rows() {
            // Other rows are of a late report, and part of what has been heard as earlier since.
            if hour == Hour::EARLIER || hour >= first {
                reports.entry(series).or_default().push((hour, counts));
            }
        }
        let change = self.changes.saturating_add(1);
        for (series, hours) in reports {
            let caller = self.callers.entry(series.caller.clone()).or_default();
            let name = caller.name(series);
            let reported = caller.processes.entry(epoch).or_default().entry(Arc::clone(&name)).or_default();
            for (hour, counts) in reported.take(hours) {
                let hour = if hour == Hour::EARLIER { first.back(1) } else { hour };
                let bucket = Bucket::of_reported(hour);
                if caller.add(bucket, &name, &counts) {
                    self.grown.insert(bucket);
                    // An hour of a day that is one bucket already joins it at the next look, and not only in an hour.
                    self.compacted = self.compacted.filter(|hour| bucket.kept_at(*hour) == bucket);
                }
                caller.touch(change);
                self.changes = change;
            }
        }
    }

    /// The process is gone, and so is what was to be remembered of it: what it used stays in the table.
    pub fn ended(&mut self, epoch: u64) {
        self.ended.insert(epoch);
        self.first_hours.remove(&epoch);
        let change = self.changes.saturating_add(1);
        for caller in self.callers.values_mut() {
            if caller.processes.remove(&epoch).is_some() {
                caller.touch(change);
                self.changes = change;
            }
        }
    }

    /// The processes that have used something and have not ended. A new leader says of those [`History::ended`] whose pods are
    /// gone.
    pub fn epochs(&self) -> BTreeSet<u64> {
        self.callers.values().flat_map(|caller| caller.processes.keys().copied()).collect()
    }

    /// The first hour that the process keeps apart. Those before, which are one row from now on, are one here too.
    fn first_hour(&mut self, epoch: u64, kept_since: Hour) -> Hour {
        let first = self.first_hours.entry(epoch).or_default();
        if kept_since > *first {
            *first = kept_since;
            let processes = self.callers.values_mut().filter_map(|caller| caller.processes.get_mut(&epoch));
            processes.flat_map(BTreeMap::values_mut).for_each(|reported| reported.sum_hours_before(kept_since));
        }
        *first
    }
}

impl Reported {
    /// Takes what is reported, from the oldest hour to the newest, and gives what is to be added to the table, the newest
    /// first.
    fn take(&mut self, hours: Vec<(Hour, &Counts)>) -> Vec<(Hour, Counts)> {
        let mut grown = Vec::with_capacity(hours.len());
        for (hour, counts) in hours {
            let heard = self.hours.entry(hour).or_default();
            // Rows only grow: what is less is late.
            let more = growth(counts, heard);
            heard.add(&more);
            self.heard.add(&more);
            grown.push((hour, more));
        }
        let mut missing = growth(&self.heard, &self.included);
        self.included.add(&missing);
        let newest_first = grown.into_iter().rev().map(|(hour, more)| {
            let part = smaller(&more, &missing);
            missing = growth(&missing, &part);
            (hour, part)
        });
        newest_first.filter(|(_, part)| *part != Counts::default()).collect()
    }

    fn sum_hours_before(&mut self, first: Hour) {
        let kept = self.hours.split_off(&first);
        let before = std::mem::replace(&mut self.hours, kept);
        if !before.is_empty() {
            let mut earlier = Counts::default();
            before.values().for_each(|counts| earlier.add(counts));
            self.hours.insert(Hour::EARLIER, earlier);
        }
    }
}

#[cfg(test)]
#[path = "reports_tests.rs"]
mod tests;
