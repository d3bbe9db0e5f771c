//! `quartermaster budget status`.

use kube::api::{Api, ListParams};
use quartermaster_core::api::TokenBudget;
use serde_json::json;

use super::live::{self, Watched};
use super::{LedgerArguments, ScopeArguments, budgets_of, table};
use crate::cli::cluster::{clients, said};
use crate::cli::output::{self, Format};
use crate::cli::{CommandError, block_on};

/// Arguments of `quartermaster budget status`.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// A TokenBudget. Default: all.
    #[arg(conflicts_with = "all_namespaces")]
    name: Option<String>,
    #[command(flatten)]
    scope: ScopeArguments,
    /// Go on and show what changes: on a terminal with the burn curve, of what the operator's ledger knows and what is seen
    /// from now on; elsewhere a line a change.
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    ledger: LedgerArguments,
    /// How the answer is printed. json: one List, as kubectl takes it.
    #[arg(long, short, value_enum, default_value_t = StatusFormat::Table)]
    output: StatusFormat,
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StatusFormat {
    /// For people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Prints budgets.
pub fn print(arguments: StatusArguments) -> Result<(), CommandError> {
    if arguments.watch && arguments.output != StatusFormat::Table {
        return Err(CommandError::Input("--watch shows a table: leave --output out, or use kubectl get --watch".to_owned()));
    }
    block_on(answer(arguments))?
}

async fn answer(arguments: StatusArguments) -> Result<(), CommandError> {
    let clients = clients(arguments.ledger.context).await?;
    let namespace = arguments.scope.namespace(&clients);
    let name = arguments.name.as_deref();
    let mut budgets = list(&budgets_of(&clients.calls, namespace.as_deref()), name).await?;
    if arguments.watch {
        // What cannot be listed was told, and there is no point in waiting for it.
        let operator_namespace = arguments.ledger.operator_namespace;
        return live::show(Watched { clients, namespace, name: arguments.name, operator_namespace }).await;
    }
    for budget in &mut budgets {
        budget.metadata.managed_fields = None;
    }
    match arguments.output {
        StatusFormat::Table => output::text(&text(&budgets, namespace.as_deref(), name)),
        StatusFormat::Json => {
            output::value(Format::Json, &json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": budgets }))
        }
        StatusFormat::Yaml => output::documents(Format::Yaml, &budgets),
    }
}

/// The budgets in the order of their namespaces and names, or the one with the name.
async fn list(api: &Api<TokenBudget>, name: Option<&str>) -> Result<Vec<TokenBudget>, CommandError> {
    let failed = |error: kube::Error| CommandError::Failed(format!("failed to read TokenBudgets: {}", said(&error)));
    match name {
        Some(name) => api.get(name).await.map(|budget| vec![budget]).map_err(failed),
        None => api.list(&ListParams::default()).await.map(|listed| listed.items).map_err(failed),
    }
}

fn text(budgets: &[TokenBudget], namespace: Option<&str>, name: Option<&str>) -> String {
    if budgets.is_empty() {
        return namespace.map_or("no TokenBudgets\n".to_owned(), |namespace| format!("no TokenBudgets in {namespace}\n"));
    }
    let budgets: Vec<&TokenBudget> = budgets.iter().collect();
    let mut lines = table::table(&budgets, namespace.is_none());
    lines.extend(table::problems(&budgets));
    if name.is_some() {
        lines.extend(budgets.iter().flat_map(|budget| table::details(budget)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_said_of_a_budget_that_was_named() {
        let budget: TokenBudget = serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": "daily" },
            "spec": { "tokens": 1000, "period": { "type": "Daily" }, "appliesTo": {} },
            "status": { "consumers": [{ "agentPool": "coder", "tokens": 7 }] },
        }))
        .unwrap();
        let budgets = [budget];
        let (all, one) = (text(&budgets, Some("team-a"), None), text(&budgets, Some("team-a"), Some("daily")));
        assert_eq!((all.lines().count(), one.lines().skip(2).collect::<Vec<_>>()), (2, vec!["used by:", "  coder   7 tokens"]));
        assert!(text(&budgets, None, None).starts_with("NAMESPACE"));
        assert_eq!(text(&[], Some("team-a"), None), "no TokenBudgets in team-a\n");
    }
}
