//! `quartermaster budget`: how far budgets are used, what others would have done, and who used what.
//!
//! * [`status`]: the budgets of a cluster; [`live`]: the same for as long as somebody looks.
//! * [`what_if`]: what a budget would have done to what was used.
//! * [`export`]: who used what, for spreadsheets and programs.
//! * [`plot`]: a burn curve of what was seen, as SVG.
//! * [`history`]: where it stands what was used: the operator's ledger, or files.
//! * [`table`], [`view`], [`chart`], [`figures`]: how it is shown.

mod chart;
mod export;
mod figures;
mod history;
mod live;
mod plot;
mod status;
mod table;
mod view;
mod what_if;

use std::path::PathBuf;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use kube::api::Api;
use quartermaster_core::api::TokenBudget;

use super::CommandError;
use super::cluster::OPERATOR_NAMESPACE;
use crate::operate::clients::Clients;

/// What can be asked about budgets.
#[derive(Debug, clap::Subcommand)]
pub enum BudgetCommand {
    /// Print how far the TokenBudgets of a cluster are used.
    ///
    /// Of one that is named, it is also said who has used how much, which steps were taken, and whom they hold back where.
    Status(status::StatusArguments),
    /// Print what TokenBudgets would have done to what was used: when each step would have been taken, when they would have
    /// been used up, and what would have been refused.
    ///
    /// What was used comes from the operator's ledger in a cluster, and so do the AgentPools unless some are among the files.
    /// With --history no cluster is asked: a budget that selects pools by labels then needs files with pools.
    ///
    /// The ledger knows hours, days and months, and not each call. So the answer is near the truth and not exact.
    WhatIf(what_if::WhatIfArguments),
    /// Print what pools have used of which backends by which routes, by the hour, day or month.
    ///
    /// With --output json --by hour,pool,route,backend it is what `what-if --history` reads.
    Export(export::ExportArguments),
    /// Draw a burn curve of what was seen, as SVG.
    Plot(plot::PlotArguments),
}

/// Where the operator keeps what was used.
#[derive(Debug, clap::Args)]
pub struct LedgerArguments {
    /// The context of the kubeconfig. Default: the current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The namespace of the operator. Its ConfigMaps say what was used.
    #[arg(long, value_name = "NAME", default_value = OPERATOR_NAMESPACE)]
    operator_namespace: String,
}

/// What was used.
#[derive(Debug, clap::Args)]
pub struct HistoryArguments {
    /// A file with what was used, in place of the ledger of a cluster: JSON of `budget export`, or the ledger's ConfigMaps as
    /// kubectl prints them; - for standard input. Can be given several times.
    #[arg(long, value_name = "FILE", conflicts_with = "context")]
    history: Vec<PathBuf>,
    #[command(flatten)]
    ledger: LedgerArguments,
}

/// Whose budgets.
#[derive(Debug, clap::Args)]
pub struct ScopeArguments {
    /// The namespace. Default: that of the context.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl ScopeArguments {
    /// The namespace that is meant; none: all.
    fn namespace(&self, clients: &Clients) -> Option<String> {
        (!self.all_namespaces).then(|| self.namespace.clone().unwrap_or_else(|| clients.namespace.clone()))
    }
}

/// Runs one of the commands.
pub fn dispatch(command: BudgetCommand) -> Result<(), CommandError> {
    match command {
        BudgetCommand::Status(arguments) => status::print(arguments),
        BudgetCommand::WhatIf(arguments) => what_if::print(arguments),
        BudgetCommand::Export(arguments) => export::print(arguments),
        BudgetCommand::Plot(arguments) => plot::print(arguments),
    }
}

/// Where the TokenBudgets of a namespace are asked for; none: those of all.
fn budgets_of(client: &kube::Client, namespace: Option<&str>) -> Api<TokenBudget> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A time of the command line: a date begins in UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // What has a time of the day as well would lose it.
    let date = text.parse::<Date>().ok().filter(|date| date.to_string() == text);
    let begins = date.and_then(|date| date.to_zoned(TimeZone::UTC).ok());
    let wrong = || format!("write a date such as 2026-11-01, or a time such as 2026-11-01T09:00:00Z, and not {text:?}");
    begins.as_ref().map(Zoned::timestamp).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_that_begins_in_utc_or_has_an_offset() {
        for (text, expected) in [
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2026-11-01T09:00:00Z", "2026-11-01T09:00:00Z"),
            ("2026-11-01T09:00:00+01:00", "2026-11-01T08:00:00Z"),
        ] {
            assert_eq!(time(text).map(|time| time.to_string()), Ok(expected.to_owned()));
        }
        for text in ["2026-11-01T09:00", "2026-13-01", "yesterday", "", "20261101"] {
            assert!(time(text).is_err_and(|error| error.contains("2026-11-01T09:00:00Z")), "{text}");
        }
    }
}
