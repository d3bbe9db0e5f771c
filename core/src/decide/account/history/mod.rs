//! The caller table: what the callers of a namespace used, by route and backend, in hours, days and months of UTC.
//!
//! It is what charts, chargeback, forecasts and the opening of a budget are made of. What a budget may still spend does not
//! hang on it: that is the ledger's.
//!
//! * [`bucket`]: the spans of time.
//! * `reports`: what processes report goes into the table, once, whoever leads.
//! * `compaction`: hours become days, days months, and the long tail one row.
//! * `burn`: how fast it goes.
//! * `shards`: the table as text that outlives the leader.
//! * `figures`: arithmetic with counts.
//!
//! **Once.** Beside its rows a caller has, for each process of a gateway that lives, what of the process' cumulative counters
//! is part of the rows. Both are written together, so that a leader that reads an old table adds all that came since, and
//! nothing twice.
//!
//! **The tail.** A bucket has at most [`SERIES_OF_BUCKET`] series apart from the tail. In the tail a caller's smallest series
//! are one, with [`OTHER`] for route and backend; it is still known whose they are. Only of more than [`CALLERS_OF_BUCKET`]
//! callers in one bucket the smallest become a caller named [`OTHER`]. What a budget is asked about can be part of either: it
//! counts as used, among what is uncertain, and never silently as nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use crate::decide::gateway::exchange::usage::{Counts, Hour, Series};

pub mod bucket;
mod burn;
mod compaction;
mod figures;
mod reports;
mod shards;

pub use bucket::Bucket;
pub use burn::Burn;
pub use figures::counted_tokens;
pub use reports::Included;
pub use shards::Shard;

/// Stands for the route and the backend of a caller's smallest series, and for the smallest callers. No object can have this
/// name.
pub const OTHER: &str = "(other)";

/// Series of a bucket that are kept apart: beyond them the smallest of each caller are summed.
pub const SERIES_OF_BUCKET: usize = 2_000;

/// Callers of a bucket that are kept apart: beyond them the smallest are summed.
pub const CALLERS_OF_BUCKET: usize = 2_000;

/// Rows of a caller, over all buckets, beyond which its smallest are summed: about 50 series in each of the 150 buckets that
/// there can be. At 50 to 130 bytes a row they fill a shard, which a caller cannot be split over.
pub const ROWS_OF_CALLER: usize = 8_000;

/// Callers, and the routes whose calls are meant; none: all of its calls.
pub type Covers = BTreeMap<String, Option<BTreeSet<String>>>;

/// The caller table of a namespace. The default is that of a namespace in which nobody has used anything.
#[derive(Clone, Debug, Default)]
pub struct History {
    callers: BTreeMap<String, Caller>,
    /// The smallest callers, by the class of their names: a caller and what is summed of it are in the same shard.
    others: BTreeMap<u8, Caller>,
    /// The first hour that a process keeps apart.
    first_hours: BTreeMap<u64, Hour>,
    /// Processes that are gone. What is heard of one afterwards is part of the table already.
    ended: BTreeSet<u64>,
    /// How often the table has changed.
    changes: u64,
    /// The change in which a caller was last forgotten.
    forgotten: u64,
    /// The hour in which it was last looked for what has become old.
    compacted: Option<i64>,
    /// Buckets that have got a row since it was last looked for a tail.
    grown: BTreeSet<Bucket>,
    /// Some of what was used before this second is missing: a shard was, or could not be read, when the table was read. [`i64::MAX`]
    /// until it is known when that was.
    missing_until: Option<i64>,
}

/// Rows of a bucket.
type Rows = BTreeMap<Arc<Series>, Counts>;

/// What is kept of a caller.
#[derive(Clone, Debug, Default)]
struct Caller {
    buckets: BTreeMap<Bucket, Rows>,
    /// By epoch of the process.
    processes: BTreeMap<u64, BTreeMap<Arc<Series>, reports::Reported>>,
    /// Each series once in memory, however many buckets it is in.
    names: BTreeSet<Arc<Series>>,
    /// The change of the table that it was last part of.
    changed: u64,
    /// It as text, where that was made since: a write costs what has changed.
    text: OnceLock<String>,
}

/// What was used in a span of time that need not begin and end with a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// What was used in the span for certain.
    pub whole: Counts,
    /// What may have been used in it: of buckets that are only in part within the span, and of rows of the tail.
    pub partial: Counts,
}

impl Overlap {
    /// The most that can have been used.
    pub fn most(&self) -> Counts {
        figures::sum(&self.whole, &self.partial)
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The span of time.
    pub bucket: Bucket,
    /// Who, by which route, of which backend.
    pub series: &'a Series,
    /// What was used.
    pub counts: &'a Counts,
    /// Whether all of it is meant. Else it is of the tail, and nobody knows how much of it is.
    pub certain: bool,
}

impl History {
    /// All rows, by caller. The rows of [`OTHER`] callers are several of the same bucket.
    pub fn rows(&self) -> impl Iterator<Item = (Bucket, &Series, &Counts)> {
        self.callers.values().chain(self.others.values()).flat_map(Caller::rows)
    }

    /// The rows of these calls in buckets that overlap `[from, to)`, in seconds since 1970, without those of [`OTHER`] callers.
    pub fn covered<'a>(&'a self, covers: &'a Covers, from: i64, to: i64) -> impl Iterator<Item = Row<'a>> {
        covers.iter().flat_map(move |(name, routes)| {
            let rows = self.callers.get(name).into_iter().flat_map(move |caller| caller.overlapping(from, to));
            rows.filter_map(move |(bucket, series, counts)| {
                let certain = match routes {
                    Some(routes) if routes.contains(&series.route) => true,
                    Some(_) if series.route == OTHER => false,
                    Some(_) => return None,
                    None => true,
                };
                Some(Row { bucket, series, counts, certain })
            })
        })
    }

    /// What these calls used in `[from, to)`, in seconds since 1970. To leave nothing of the present hour uncertain, `to` is
    /// the end of the period rather than now.
    pub fn used(&self, covers: &Covers, from: i64, to: i64) -> Overlap {
        let mut used = Overlap::default();
        for row in self.covered(covers, from, to).chain(self.others(covers, from, to)) {
            let is_whole = row.certain && row.bucket.is_within(from, to);
            (if is_whole { &mut used.whole } else { &mut used.partial }).add(row.counts);
        }
        used
    }

    /// The most that each caller used of these calls in `[from, to)`, in seconds since 1970. What is only known of [`OTHER`]
    /// callers together is nobody's here.
    pub fn by_caller(&self, covers: &Covers, from: i64, to: i64) -> BTreeMap<String, Counts> {
        let mut callers: BTreeMap<String, Counts> = BTreeMap::new();
        for row in self.covered(covers, from, to) {
            callers.entry(row.series.caller.clone()).or_default().add(row.counts);
        }
        callers
    }

    /// Rows that these callers may be part of, but not alone.
    fn others(&self, covers: &Covers, from: i64, to: i64) -> impl Iterator<Item = Row<'_>> {
        // Hardly a namespace ever has any: then no name has to be hashed.
        let names = covers.keys().filter(|_| !self.others.is_empty());
        let classes: BTreeSet<u8> = names.map(|name| shards::class(name)).collect();
        let others = classes.into_iter().filter_map(move |class| self.others.get(&class));
        others.flat_map(move |other| other.overlapping(from, to)).map(|(bucket, series, counts)| Row {
            bucket,
            series,
            counts,
            certain: false,
        })
    }

    /// How often the table has changed: it is to be written, at most once a minute, when this is another number than at the
    /// last write.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether nothing is missing from the table, as a part of it would be that could not be read. Else what callers used may be more
    /// than it says.
    pub fn is_complete(&self) -> bool {
        self.missing_until.is_none()
    }

    /// A part of the table could not be read: what callers used until now may be more than it says.
    pub fn note_loss(&mut self) {
        self.missing_until = Some(i64::MAX);
    }

    /// Whether nothing is missing that was used from this second on.
    pub fn is_complete_since(&self, from: i64) -> bool {
        self.missing_until.is_none_or(|until| until <= from)
    }
}

impl Caller {
    fn rows(&self) -> impl Iterator<Item = (Bucket, &Series, &Counts)> {
        self.buckets.iter().flat_map(|(bucket, rows)| rows.iter().map(move |(series, counts)| (*bucket, &**series, counts)))
    }

    /// The rows of buckets that overlap `[from, to)`.
    fn overlapping(&self, from: i64, to: i64) -> impl Iterator<Item = (Bucket, &Series, &Counts)> {
        // One that begins earlier than its length before has ended by then.
        let span = move |length: i64, kind: fn(i64) -> Bucket| {
            let first = from.saturating_sub(length - 1);
            self.buckets.range(kind(first)..kind(to.max(first)))
        };
        let hours = span(bucket::HOUR, Bucket::Hour);
        let days = span(bucket::DAY, Bucket::Day);
        let months = span(31 * bucket::DAY, Bucket::Month);
        let overlapping = hours.chain(days).chain(months).filter(move |(bucket, _)| bucket.overlaps(from, to));
        overlapping.flat_map(|(bucket, rows)| rows.iter().map(move |(series, counts)| (*bucket, &**series, counts)))
    }

    /// The one copy of the name of a series.
    fn name(&mut self, series: &Series) -> Arc<Series> {
        if let Some(name) = self.names.get(series) {
            return Arc::clone(name);
        }
        let name = Arc::new(series.clone());
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Adds to a row. Whether it is a new one.
    fn add(&mut self, bucket: Bucket, name: &Arc<Series>, counts: &Counts) -> bool {
        let rows = self.buckets.entry(bucket).or_default();
        if let Some(row) = rows.get_mut(name) {
            row.add(counts);
            return false;
        }
        rows.insert(Arc::clone(name), *counts);
        true
    }

    /// It is part of this change of the table.
    fn touch(&mut self, change: u64) {
        self.changed = change;
        self.text = OnceLock::new();
    }

    /// Whether nothing is to be remembered of it.
    fn is_empty(&self) -> bool {
        self.buckets.is_empty() && self.processes.is_empty()
    }
}

#[cfg(test)]
pub(super) mod fixtures;
#[cfg(test)]
mod tests;
