//! `quartermaster budget export`: who used what, and how periods ended.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::ListParams;
use quartermaster_core::decide::account::export::{Columns, Dimension, PeriodRow, chargeback, periods, to_csv};

use super::history::{self, Tables};
use super::{HistoryArguments, ScopeArguments, budgets_of, time};
use crate::cli::cluster::{clients, said};
use crate::cli::output::{self, Format};
use crate::cli::{CommandError, block_on};

/// Arguments of `quartermaster budget export`.
#[derive(Debug, clap::Args)]
pub struct ExportArguments {
    #[command(flatten)]
    scope: ScopeArguments,
    #[command(flatten)]
    history: HistoryArguments,
    /// From when on: a date, which begins in UTC, or a time. Default: all that is known.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Until when, without that date or time itself. Default: now.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// What rows tell apart, separated by commas; the rest is summed. Hours are known for two days, days for 35, months for 13
    /// months.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "WHAT", default_values_t = BY)]
    by: Vec<By>,
    /// In place of what pools used, how the last periods of TokenBudgets ended.
    #[arg(long, conflicts_with_all = ["by", "history"])]
    periods: bool,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = RowFormat::Csv)]
    output: RowFormat,
}

/// What rows tell apart where nobody says otherwise.
const BY: [By; 4] = [By::Day, By::Pool, By::Route, By::Backend];

/// What rows tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// Hours, as far as they are known.
    Hour,
    /// Days of UTC, as far as they are known.
    Day,
    /// Months of UTC.
    Month,
    /// AgentPools.
    Pool,
    /// ModelRoutes.
    Route,
    /// InferenceBackends.
    Backend,
}

impl From<By> for Dimension {
    fn from(by: By) -> Self {
        match by {
            By::Hour => Self::Hour,
            By::Day => Self::Day,
            By::Month => Self::Month,
            By::Pool => Self::Pool,
            By::Route => Self::Route,
            By::Backend => Self::Backend,
        }
    }
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RowFormat {
    /// For spreadsheets: a line for the names of the columns, and one for each row.
    Csv,
    /// For programs: an array.
    Json,
}

/// Prints rows.
pub fn print(arguments: ExportArguments) -> Result<(), CommandError> {
    let second = |time: Option<Timestamp>, otherwise: i64| time.map_or(otherwise, Timestamp::as_second);
    let (from, to) = (second(arguments.from, i64::MIN), second(arguments.to, i64::MAX));
    if from >= to {
        return Err(CommandError::Input("--from has to be before --to".to_owned()));
    }
    let output = arguments.output;
    if arguments.periods {
        let mut rows = block_on(ended(arguments))??;
        rows.retain(|row| (from..to).contains(&row.start.as_second()));
        return write(&rows, output);
    }
    let by: BTreeSet<Dimension> = arguments.by.iter().copied().map(Dimension::from).collect();
    let tables = tables(arguments)?;
    for (namespace, table) in &tables {
        if let Some(gap) = history::gap(namespace, table) {
            output::warn(&gap);
        }
    }
    let rows = tables.iter().flat_map(|(namespace, table)| chargeback(namespace, table, &by, from, to));
    write(&rows.collect::<Vec<_>>(), output)
}

/// The tables that are asked for.
fn tables(arguments: ExportArguments) -> Result<Tables, CommandError> {
    let ExportArguments { scope, history: HistoryArguments { history: files, ledger }, .. } = arguments;
    if files.is_empty() {
        return block_on(async {
            let clients = clients(ledger.context).await?;
            let namespace = scope.namespace(&clients);
            history::of_cluster(&clients.calls, &ledger.operator_namespace, namespace.as_deref()).await
        })?;
    }
    let tables = history::of_files(&files)?;
    match scope.namespace.as_deref() {
        Some(namespace) => Ok(Tables::from([history::of_namespace(tables, Some(namespace))?])),
        None => Ok(tables),
    }
}

/// The periods of all budgets that have ended, as far as their statuses say.
async fn ended(arguments: ExportArguments) -> Result<Vec<PeriodRow>, CommandError> {
    let clients = clients(arguments.history.ledger.context).await?;
    let namespace = arguments.scope.namespace(&clients);
    let listed = budgets_of(&clients.calls, namespace.as_deref()).list(&ListParams::default()).await;
    let listed = listed.map_err(|error| CommandError::Failed(format!("failed to read TokenBudgets: {}", said(&error))))?;
    let rows = listed.items.iter().flat_map(|budget| {
        let past = budget.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
        periods(&budget.namespace().unwrap_or_default(), &budget.name_any(), past)
    });
    Ok(rows.collect())
}

fn write<Row: Columns>(rows: &[Row], format: RowFormat) -> Result<(), CommandError> {
    match format {
        RowFormat::Json => output::value(Format::Json, &rows),
        RowFormat::Csv => {
            let text = to_csv(rows).map_err(|error| CommandError::Failed(format!("failed to write the rows: {error}")))?;
            output::text(&text)
        }
    }
}
