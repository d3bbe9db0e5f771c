//! What was used, in rows for spreadsheets and programs: who is to pay for what, and how budgets ended.
//!
//! * [`recorded`]: rows that were exported, as tables again.
//! * [`covered`]: whom a budget covers of those who used something.
//! * [`what_if`]: what a budget would have done to what was used.
//! * [`curve`]: how it grew over a period.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::{Bucket, History};
use crate::api::token_budget_status::{PastPeriod, Phase, amount};
use crate::decide::gateway::exchange::usage::{Counts, Series};

pub mod covered;
pub mod curve;
pub mod recorded;
pub mod what_if;

/// What rows tell apart. What none of them names is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// Hours. Where no more is known of when it was, it is a day or a month, as with the next two.
    Hour,
    /// Days.
    Day,
    /// Months.
    Month,
    /// AgentPools.
    Pool,
    /// ModelRoutes.
    Route,
    /// InferenceBackends.
    Backend,
}

/// What was used of a backend, by a pool and a route, in an hour, on a day or in a month. Of these, what was not asked for is
/// none, and the row is the sum of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargebackRow {
    /// The namespace of the AgentPool, and of route and backend.
    pub namespace: String,
    /// The hour in UTC, such as `2026-11-26T13`, the day, such as `2026-11-26`, or the month, such as `2026-10`.
    pub date: Option<String>,
    /// Name of the AgentPool. [`super::history::OTHER`] stands for the smallest of very many.
    pub agent_pool: Option<String>,
    /// Name of the ModelRoute. [`super::history::OTHER`] stands for the smallest of very many, as for the backend.
    pub model_route: Option<String>,
    /// Name of the InferenceBackend.
    pub inference_backend: Option<String>,
    /// Calls that were sent to the backend: one that was tried twice counts twice.
    pub requests: u64,
    /// Those of `requests` that failed.
    pub errors: u64,
    /// Tokens of input, also those that a prefix cache served.
    pub input_tokens: u64,
    /// The part of `input_tokens` that the backend's prefix cache served.
    pub cached_input_tokens: u64,
    /// Tokens of output, reasoning included.
    pub output_tokens: u64,
    /// The part of both together that is an upper bound.
    pub estimated_tokens: u64,
    /// What it cost in the operator's currency, without `unpriced_requests`.
    pub cost: String,
    /// Those of `requests` of which nobody knows what they cost.
    pub unpriced_requests: u64,
}

/// How a period of a budget ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeriodRow {
    /// The namespace of the TokenBudget.
    pub namespace: String,
    /// Name of the TokenBudget.
    pub token_budget: String,
    /// When it started.
    pub start: Timestamp,
    /// When it ended.
    pub end: Option<Timestamp>,
    /// Its limit in tokens; none where tokens were not limited.
    pub limit_tokens: Option<u64>,
    /// Tokens that were used.
    pub used_tokens: Option<u64>,
    /// The part of `used_tokens` that is an upper bound.
    pub estimated_tokens: Option<u64>,
    /// Its limit in the operator's currency; none where money was not limited.
    pub limit_cost: Option<String>,
    /// What its calls cost.
    pub used_cost: Option<String>,
    /// How far it was used.
    pub phase: Option<Phase>,
}

/// A row of a table with a head.
pub trait Columns: Serialize {
    /// The names of its columns: those of the members in JSON, in their order.
    const COLUMNS: &'static [&'static str];
}

impl Columns for ChargebackRow {
    const COLUMNS: &'static [&'static str] = &[
        "namespace",
        "date",
        "agentPool",
        "modelRoute",
        "inferenceBackend",
        "requests",
        "errors",
        "inputTokens",
        "cachedInputTokens",
        "outputTokens",
        "estimatedTokens",
        "cost",
        "unpricedRequests",
    ];
}

impl Columns for PeriodRow {
    const COLUMNS: &'static [&'static str] = &[
        "namespace",
        "tokenBudget",
        "start",
        "end",
        "limitTokens",
        "usedTokens",
        "estimatedTokens",
        "limitCost",
        "usedCost",
        "phase",
    ];
}

/// What the callers of a namespace used in `[from, to)`, in seconds since 1970: a row for each of what is told apart, the
/// earliest time first.
///
/// Where a day or a month is all that is known any more of when it was, it belongs to where that starts: of times that adjoin
/// each has its own rows.
pub fn chargeback(namespace: &str, history: &History, by: &BTreeSet<Dimension>, from: i64, to: i64) -> Vec<ChargebackRow> {
    let mut sums: BTreeMap<Key<'_>, Counts> = BTreeMap::new();
    for (bucket, series, counts) in history.rows() {
        if (from..to).contains(&bucket.start()) {
            sums.entry(Key::of(bucket, series, by)).or_default().add(counts);
        }
    }
    sums.into_iter().map(|(key, counts)| key.row(namespace, &counts)).collect()
}

/// What a row is of. The derived order is that of the rows.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    /// With its start, which comes before the kind of bucket that it is.
    date: Option<(i64, Bucket)>,
    pool: Option<&'a str>,
    route: Option<&'a str>,
    backend: Option<&'a str>,
}

impl<'a> Key<'a> {
    fn of(bucket: Bucket, series: &'a Series, by: &BTreeSet<Dimension>) -> Self {
        let named = |dimension: Dimension, name: &'a str| by.contains(&dimension).then_some(name);
        let finest = by.iter().next();
        let date = finest.and_then(|finest| match (finest, bucket) {
            (Dimension::Day, Bucket::Hour(_)) => Some(bucket.day()),
            (Dimension::Hour | Dimension::Day, _) => Some(bucket),
            (Dimension::Month, _) => Some(bucket.month()),
            (Dimension::Pool | Dimension::Route | Dimension::Backend, _) => None,
        });
        Self {
            date: date.map(|date| (date.start(), date)),
            pool: named(Dimension::Pool, &series.caller),
            route: named(Dimension::Route, &series.route),
            backend: named(Dimension::Backend, &series.backend),
        }
    }

    fn row(&self, namespace: &str, counts: &Counts) -> ChargebackRow {
        ChargebackRow {
            namespace: namespace.to_owned(),
            date: self.date.map(|(_, date)| date.to_string()),
            agent_pool: self.pool.map(str::to_owned),
            model_route: self.route.map(str::to_owned),
            inference_backend: self.backend.map(str::to_owned),
            requests: counts.requests,
            errors: counts.errors,
            input_tokens: counts.input,
            cached_input_tokens: counts.cached_input,
            output_tokens: counts.output,
            estimated_tokens: counts.estimated,
            cost: amount(counts.cost),
            unpriced_requests: counts.unpriced,
        }
    }
}

/// How the last periods of a budget ended, as its status has them: the earliest first.
pub fn periods(namespace: &str, budget: &str, history: &[PastPeriod]) -> Vec<PeriodRow> {
    let mut rows: Vec<PeriodRow> = history
        .iter()
        .map(|period| PeriodRow {
            namespace: namespace.to_owned(),
            token_budget: budget.to_owned(),
            start: period.start.0,
            end: period.end.as_ref().map(|end| end.0),
            limit_tokens: period.limit_tokens,
            used_tokens: period.used_tokens,
            estimated_tokens: period.estimated_tokens,
            limit_cost: period.limit_cost.clone(),
            used_cost: period.used_cost.clone(),
            phase: period.phase,
        })
        .collect();
    rows.sort_by_key(|row| row.start);
    rows
}

/// Rows as CSV, with a line for the names of the columns even where there are no rows. What is not known is empty.
///
/// # Errors
///
/// A row that is not flat.
pub fn to_csv<Row: Columns>(rows: &[Row]) -> Result<String, csv::Error> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    writer.write_record(Row::COLUMNS)?;
    for row in rows {
        writer.serialize(row)?;
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
