//! What callers used, cumulative since the process began, by the hour in which a request was admitted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Hours that are kept apart. Those before are one row: what keeps hours for longer has written them down by then.
pub const HOURS_KEPT: u32 = 48;

/// An hour of UTC, as the number of hours since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hour(u32);

impl Hour {
    /// Stands for all hours before those that are kept apart.
    pub const EARLIER: Self = Self(0);

    /// The hour of a time.
    pub fn of(at: Timestamp) -> Self {
        Self(u32::try_from(at.as_second().div_euclid(3600)).unwrap_or(0))
    }

    /// The hour that began so many hours before.
    #[must_use]
    pub fn back(self, hours: u32) -> Self {
        Self(self.0.saturating_sub(hours))
    }

    /// When it begins, in seconds since 1970.
    pub fn start(self) -> i64 {
        i64::from(self.0).saturating_mul(3600)
    }
}

/// Who used which backend by which route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Series {
    /// Name of the AgentPool.
    pub caller: String,
    /// Name of the ModelRoute.
    pub route: String,
    /// Name of the InferenceBackend.
    pub backend: String,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Tokens of input, also those that a prefix cache served.
    pub input: u64,
    /// Tokens of output, reasoning included.
    pub output: u64,
    /// The part of `input` that the backend's prefix cache served.
    pub cached_input: u64,
    /// The part of `input` and `output` together that is an upper bound, since the backend reported no final usage.
    pub estimated: u64,
    /// Calls that were sent to the backend: a call that was tried twice counts twice.
    pub requests: u64,
    /// Those of `requests` that failed.
    pub errors: u64,
    /// What those of `requests` cost whose backend has a price, each at the price when it ended, in millionths of the operator's
    /// currency.
    #[serde(skip_serializing_if = "is_zero")]
    pub cost: u64,
    /// Those of `requests` of which nobody knows what they cost, since their backend has no price: `cost` is without them.
    #[serde(skip_serializing_if = "is_zero")]
    pub unpriced: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    /// Adds what was used beside.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.input, other.input),
            (&mut self.output, other.output),
            (&mut self.cached_input, other.cached_input),
            (&mut self.estimated, other.estimated),
            (&mut self.requests, other.requests),
            (&mut self.errors, other.errors),
            (&mut self.cost, other.cost),
            (&mut self.unpriced, other.unpriced),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// What callers used, as it is reported: all rows, or those that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Usage {
    from: Hour,
    rows: BTreeMap<(Hour, Series), Counts>,
}

/// The rows as they travel.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    /// The first hour that is kept apart. The row of the hour 0 has all before it.
    from: Hour,
    /// By caller and hour.
    callers: BTreeMap<String, BTreeMap<Hour, Routes>>,
}

/// By route and backend.
type Routes = BTreeMap<String, BTreeMap<String, Counts>>;

impl From<Usage> for Wire {
    fn from(usage: Usage) -> Self {
        let mut wire = Self { from: usage.from, ..Self::default() };
        for ((hour, series), counts) in usage.rows {
            let hours = wire.callers.entry(series.caller).or_default();
            hours.entry(hour).or_default().entry(series.route).or_default().insert(series.backend, counts);
        }
        wire
    }
}

impl From<Wire> for Usage {
    fn from(wire: Wire) -> Self {
        let mut rows = BTreeMap::new();
        for (caller, hours) in wire.callers {
            for (hour, routes) in hours {
                for (route, backends) in routes {
                    for (backend, counts) in backends {
                        let series = Series { caller: caller.clone(), route: route.clone(), backend };
                        rows.insert((hour, series), counts);
                    }
                }
            }
        }
        Self { from: wire.from, rows }
    }
}

impl Usage {
    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (Hour, &Series, &Counts)> {
        self.rows.iter().map(|((hour, series), counts)| (*hour, series, counts))
    }

    /// The first hour that is kept apart. The row of [`Hour::EARLIER`] has all before it.
    pub fn kept_since(&self) -> Hour {
        self.from
    }

    /// Takes over rows of a later state, of which the missing ones have not changed.
    pub(super) fn take(&mut self, later: &Self) {
        self.from = later.from;
        self.rows.retain(|(hour, _), _| *hour == Hour::EARLIER || *hour >= later.from);
        self.rows.extend(later.rows.iter().map(|(key, counts)| (key.clone(), *counts)));
    }
}

/// What a gateway counts: rows that only grow, and of which old hours become one.
#[derive(Clone, Debug, Default)]
pub struct UsageCounters {
    from: Hour,
    /// Each row, and the change that it was last part of.
    rows: BTreeMap<(Hour, Series), (Counts, u64)>,
    changes: u64,
}

impl UsageCounters {
    /// Counts what a call used that was admitted in this hour. Hours that have become old by `now` become one row.
    pub fn record(&mut self, series: Series, admitted: Hour, now: Hour, used: &Counts) {
        self.changes += 1;
        self.sum_hours_before(now.back(HOURS_KEPT));
        let hour = if admitted < self.from { Hour::EARLIER } else { admitted };
        self.add((hour, series), used);
    }

    fn add(&mut self, row: (Hour, Series), used: &Counts) {
        let (counts, change) = self.rows.entry(row).or_default();
        counts.add(used);
        *change = self.changes;
    }

    fn sum_hours_before(&mut self, from: Hour) {
        if from <= self.from {
            return;
        }
        self.from = from;
        let first = Series { caller: String::new(), route: String::new(), backend: String::new() };
        let kept = self.rows.split_off(&(from, first));
        for ((hour, series), (counts, change)) in std::mem::replace(&mut self.rows, kept) {
            if hour == Hour::EARLIER {
                let (earlier, last) = self.rows.entry((hour, series)).or_default();
                earlier.add(&counts);
                *last = change.max(*last);
            } else {
                self.add((Hour::EARLIER, series), &counts);
            }
        }
    }

    /// The number of changes until now.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The rows that have changed since there were so many changes; 0: all rows.
    pub fn since(&self, changes: u64) -> Usage {
        let rows = self.rows.iter().filter(|(_, (_, change))| *change > changes);
        Usage { from: self.from, rows: rows.map(|(key, (counts, _))| (key.clone(), *counts)).collect() }
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
