//! Rows that were exported, as the tables of which they were made.
//!
//! They know what [`super::chargeback`] told apart. For a table that is the time, the caller and the route; of the time, what
//! is told by the hour is most useful. The backend may be missing, as no budget asks for it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::ChargebackRow;
use crate::api::price::{Amount, ParsePriceError};
use crate::decide::account::history::bucket::ParseBucketError;
use crate::decide::account::history::{Bucket, History, OTHER};
use crate::decide::account::ledger::{LedgerError, SCHEMA_VERSION};

/// Rows that are no tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordedError {
    /// What a table tells apart was summed.
    #[error("row {row} has no {column}: export rows that are told apart by hour, pool and route")]
    Summed {
        /// Its number, from 1.
        row: usize,
        /// The member that is missing.
        column: &'static str,
    },
    /// Its time is none.
    #[error("row {row}: date: {source}")]
    Date {
        /// Its number, from 1.
        row: usize,
        /// What is wrong.
        source: ParseBucketError,
    },
    /// Its cost is none.
    #[error("row {row}: cost: {source}")]
    Cost {
        /// Its number, from 1.
        row: usize,
        /// What is wrong.
        source: ParsePriceError,
    },
    /// They cannot be put together.
    #[error(transparent)]
    Table(#[from] LedgerError),
}

/// What is known of a caller, as [`History::read`] reads it.
#[derive(Default, Serialize)]
struct Kept<'a> {
    /// Route and backend, in the order of their places.
    series: Vec<(&'a str, &'a str)>,
    /// The place of the series and its figures.
    buckets: BTreeMap<Bucket, Vec<[u64; 9]>>,
    #[serde(skip)]
    places: BTreeMap<(&'a str, &'a str), u64>,
}

impl<'a> Kept<'a> {
    fn place(&mut self, route: &'a str, backend: &'a str) -> u64 {
        let Self { series, places, .. } = self;
        let next = u64::try_from(series.len()).unwrap_or(u64::MAX);
        *places.entry((route, backend)).or_insert_with(|| {
            series.push((route, backend));
            next
        })
    }

    fn add(&mut self, bucket: Bucket, place: u64, row: &ChargebackRow, cost: u64) {
        let ChargebackRow {
            input_tokens,
            output_tokens,
            cached_input_tokens,
            estimated_tokens,
            requests,
            errors,
            unpriced_requests,
            ..
        } = *row;
        let figures =
            [place, input_tokens, output_tokens, cached_input_tokens, estimated_tokens, requests, errors, cost, unpriced_requests];
        self.buckets.entry(bucket).or_default().push(figures);
    }
}

/// The tables of rows, by namespace.
///
/// # Errors
///
/// A row does not say when, by whom or by which route, or says it in a way that nobody reads.
pub fn tables(rows: &[ChargebackRow]) -> Result<BTreeMap<String, History>, RecordedError> {
    let mut namespaces: BTreeMap<&str, BTreeMap<&str, Kept<'_>>> = BTreeMap::new();
    for (number, row) in (1..).zip(rows) {
        let summed = |column: &'static str| RecordedError::Summed { row: number, column };
        let date = row.date.as_deref().ok_or_else(|| summed("date"))?;
        let caller = row.agent_pool.as_deref().ok_or_else(|| summed("agentPool"))?;
        let route = row.model_route.as_deref().ok_or_else(|| summed("modelRoute"))?;
        let backend = row.inference_backend.as_deref().unwrap_or(OTHER);
        let bucket: Bucket = date.parse().map_err(|source| RecordedError::Date { row: number, source })?;
        let cost = Amount(row.cost.clone()).millionths().map_err(|source| RecordedError::Cost { row: number, source })?;
        let kept = namespaces.entry(&row.namespace).or_default().entry(caller).or_default();
        let place = kept.place(route, backend);
        kept.add(bucket, place, row, cost);
    }
    namespaces.into_iter().map(|(namespace, callers)| Ok((namespace.to_owned(), table(callers)?))).collect()
}

/// As a shard of the only part of a table.
fn table(mut callers: BTreeMap<&str, Kept<'_>>) -> Result<History, LedgerError> {
    let others: BTreeMap<u8, Kept<'_>> = callers.remove(OTHER).map(|other| (0, other)).into_iter().collect();
    let text = json!({
        "schemaVersion": SCHEMA_VERSION, "revision": 1, "parts": 1, "part": 0, "callers": callers, "others": others,
    });
    History::read([text.to_string()])
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
