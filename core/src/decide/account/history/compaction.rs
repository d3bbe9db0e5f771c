//! What keeps the table small: hours become days, days become months, months are forgotten after a year, and the long tail is
//! summed. But for what is forgotten, the sum of all rows stays the same.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::bucket::Bucket;
use super::figures::tokens;
use super::{CALLERS_OF_BUCKET, Caller, History, OTHER, ROWS_OF_CALLER, SERIES_OF_BUCKET, shards};
use crate::decide::gateway::exchange::usage::{Counts, Series};

/// Months that are kept, beside the present one: a year, and one to compare the present month with.
const MONTHS_KEPT: i64 = 13;

impl History {
    /// Makes the table small again. It costs next to nothing while nothing has become old and no bucket has got a row.
    ///
    /// Hours are kept for 48 hours and days for 35 days, or a little longer: they become days and months only as a whole.
    /// Months are kept for 13 months. They are counted from the last usage, so that a clock that is ahead does not end a
    /// history.
    pub fn compact(&mut self, now: Timestamp) {
        if self.missing_until == Some(i64::MAX) {
            // It was missing when the table was read, and what is used since then is not.
            self.missing_until = Some(now.as_second());
        }
        let hour = Bucket::hour_of(now).start();
        if self.compacted != Some(hour) {
            self.compacted = Some(hour);
            self.move_up(now.as_second());
            self.forget(now);
        }
        let grown = std::mem::take(&mut self.grown);
        for bucket in &grown {
            self.sum_series(*bucket);
            self.sum_callers(*bucket);
        }
        if !grown.is_empty() {
            self.sum_rows();
        }
    }

    fn move_up(&mut self, now: i64) {
        let change = self.changes.saturating_add(1);
        for caller in self.callers.values_mut().chain(self.others.values_mut()) {
            let kept = caller.buckets.keys().map(|bucket| (*bucket, bucket.kept_at(now)));
            let moves: Vec<(Bucket, Bucket)> = kept.filter(|(from, to)| from != to).collect();
            for (from, to) in moves {
                for (name, counts) in caller.buckets.remove(&from).unwrap_or_default() {
                    caller.add(to, &name, &counts);
                }
                self.grown.insert(to);
                caller.touch(change);
                self.changes = change;
            }
        }
    }

    /// Forgets old months, and callers of whom nothing is left.
    fn forget(&mut self, now: Timestamp) {
        let buckets = self.callers.values().chain(self.others.values()).flat_map(|caller| caller.buckets.keys());
        let last_used = buckets.map(|bucket| bucket.start()).max().unwrap_or(i64::MAX);
        let present = Bucket::Hour(last_used.min(now.as_second())).month_number();
        // Of months that are forgotten nothing is missing.
        self.missing_until = self.missing_until.filter(|until| Bucket::Hour(*until).month_number() >= present - MONTHS_KEPT);
        let change = self.changes.saturating_add(1);
        for caller in self.callers.values_mut().chain(self.others.values_mut()) {
            let before = caller.buckets.len();
            let is_old = |bucket: &Bucket| bucket.month_number() < present - MONTHS_KEPT;
            caller.buckets.retain(|bucket, _| !(matches!(bucket, Bucket::Month(_)) && is_old(bucket)));
            if caller.buckets.len() < before {
                caller.touch(change);
                self.changes = change;
            }
            // A name that no row has any more.
            caller.names.retain(|name| Arc::strong_count(name) > 1);
        }
        let before = self.callers.len() + self.others.len();
        self.callers.retain(|_, caller| !caller.is_empty());
        self.others.retain(|_, caller| !caller.is_empty());
        if self.callers.len() + self.others.len() < before {
            self.forgotten = change;
            self.changes = change;
        }
    }

    /// Sums the smallest series of each caller, if the bucket has too many. A caller's only one is no larger alone.
    fn sum_series(&mut self, bucket: Bucket) {
        let rows = || self.callers.values().filter_map(move |caller| caller.buckets.get(&bucket));
        if rows().map(BTreeMap::len).sum::<usize>() <= SERIES_OF_BUCKET {
            return;
        }
        let apart = rows().flatten().filter(|(name, _)| name.route != OTHER);
        let mut largest_first: Vec<(Reverse<u64>, Arc<Series>)> =
            apart.map(|(name, counts)| (Reverse(tokens(counts)), Arc::clone(name))).collect();
        largest_first.sort_unstable();
        let mut tail: BTreeMap<String, Vec<Arc<Series>>> = BTreeMap::new();
        for (_, name) in largest_first.into_iter().skip(SERIES_OF_BUCKET) {
            tail.entry(name.caller.clone()).or_default().push(name);
        }
        let change = self.changes.saturating_add(1);
        for (caller, names) in tail {
            let Some(caller) = self.callers.get_mut(&caller) else { continue };
            if names.len() > 1 || caller.has_tail(bucket) {
                names.iter().for_each(|name| caller.sum_into_tail(bucket, name));
                caller.touch(change);
                self.changes = change;
            }
        }
    }

    /// Sums the smallest callers, if the bucket has too many.
    fn sum_callers(&mut self, bucket: Bucket) {
        let sizes = self.callers.iter().filter_map(|(caller, kept)| {
            let rows = kept.buckets.get(&bucket)?;
            Some((Reverse(rows.values().map(tokens).fold(0, u64::saturating_add)), caller.clone()))
        });
        let mut largest_first: Vec<(Reverse<u64>, String)> = sizes.collect();
        if largest_first.len() <= CALLERS_OF_BUCKET {
            return;
        }
        largest_first.sort_unstable();
        let change = self.changes.saturating_add(1);
        for (_, caller) in largest_first.into_iter().skip(CALLERS_OF_BUCKET) {
            let class = shards::class(&caller);
            let Some(caller) = self.callers.get_mut(&caller) else { continue };
            let rows = caller.buckets.remove(&bucket).unwrap_or_default();
            let other = self.others.entry(class).or_default();
            let name = other.name(&tail_of(OTHER));
            rows.values().for_each(|counts| _ = other.add(bucket, &name, counts));
            caller.touch(change);
            other.touch(change);
            self.changes = change;
        }
    }

    /// Sums the smallest rows of each caller that has too many in all.
    fn sum_rows(&mut self) {
        let change = self.changes.saturating_add(1);
        for caller in self.callers.values_mut() {
            let count: usize = caller.buckets.values().map(BTreeMap::len).sum();
            if count <= ROWS_OF_CALLER {
                continue;
            }
            // A bucket may get a row for its tail.
            let wanted = ROWS_OF_CALLER.saturating_sub(caller.buckets.len());
            let apart = caller.rows().filter(|(_, series, _)| series.route != OTHER);
            let mut smallest_first: Vec<(u64, Bucket, Series)> =
                apart.map(|(bucket, series, counts)| (tokens(counts), bucket, series.clone())).collect();
            smallest_first.sort_unstable();
            for (_, bucket, series) in smallest_first.into_iter().take(count - wanted) {
                caller.sum_into_tail(bucket, &series);
            }
            caller.touch(change);
            self.changes = change;
        }
    }
}

impl Caller {
    fn has_tail(&self, bucket: Bucket) -> bool {
        self.buckets.get(&bucket).is_some_and(|rows| rows.keys().any(|name| name.route == OTHER))
    }

    fn sum_into_tail(&mut self, bucket: Bucket, series: &Series) {
        let counts: Option<Counts> = self.buckets.get_mut(&bucket).and_then(|rows| rows.remove(series));
        if let Some(counts) = counts {
            let tail = self.name(&tail_of(&series.caller));
            self.add(bucket, &tail, &counts);
        }
    }
}

/// The series that stands for the smallest ones of a caller.
fn tail_of(caller: &str) -> Series {
    Series { caller: caller.to_owned(), route: OTHER.to_owned(), backend: OTHER.to_owned() }
}

#[cfg(test)]
#[path = "compaction_tests.rs"]
mod tests;
