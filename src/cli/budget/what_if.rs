//! `quartermaster budget what-if`: what budgets would have done to what was used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use quartermaster_core::api::token_budget::Enforcement;
use quartermaster_core::api::{AgentPool, TokenBudget};
use quartermaster_core::decide::account::export::covered::{CoveredError, covered};
use quartermaster_core::decide::account::export::what_if::{self, PeriodOutcome, Span};
use quartermaster_core::decide::account::history::History;
use quartermaster_core::decide::budget::check;
use quartermaster_core::decide::budget::observation::PoolFacts;
use serde::Serialize;

use super::{HistoryArguments, history, time};
use crate::cli::cluster::{clients, said};
use crate::cli::manifests::Documents;
use crate::cli::output::{self, Format};
use crate::cli::{CommandError, block_on};

/// What is true of every answer.
const APPROXIMATE: &str =
    "near the truth, not exact: usage within an hour counts as even, and nobody behaves otherwise than they did";

/// Arguments of `quartermaster budget what-if`.
#[derive(Debug, clap::Args)]
pub struct WhatIfArguments {
    /// Files with TokenBudgets, and with the AgentPools that they select by labels; - for standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    history: HistoryArguments,
    /// The namespace that has used something. Default: that of the objects in the files, else of the context or of the history.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// From when on: a date, which begins in UTC, or a time; the period in which it is counts from its start. Default: all that
    /// is known.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Until when. Default: now, with --history the end of what it has.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
    /// How the answer is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What a budget would have done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    token_budget: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    /// The AgentPools whose calls count.
    agent_pools: Vec<String>,
    #[serde(skip)]
    enforcement: Enforcement,
    periods: Vec<PeriodOutcome>,
    /// What keeps it from coming into force.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    /// How near the truth that is.
    notes: Vec<String>,
}

/// What was used, and by whom.
struct Used {
    namespace: String,
    table: History,
    pools: Vec<PoolFacts>,
    /// The time that is looked at.
    from: Timestamp,
    to: Timestamp,
}

/// Prints what each budget would have done.
pub fn print(arguments: WhatIfArguments) -> Result<(), CommandError> {
    let is_standard_input = |file: &&PathBuf| file.as_path() == Path::new("-");
    if arguments.files.iter().chain(&arguments.history.history).filter(is_standard_input).count() > 1 {
        return Err(CommandError::Input("only one of the files can come from standard input".to_owned()));
    }
    let documents = Documents::read(&arguments.files)?;
    let budgets = documents.objects::<TokenBudget>()?;
    if budgets.is_empty() {
        return Err(CommandError::Input("no TokenBudget in the files".to_owned()));
    }
    let format = arguments.output;
    let used = used(arguments, &budgets, documents.objects::<AgentPool>()?)?;
    let mut answers = budgets.iter().map(|budget| Answer::of(budget, &used)).collect::<Result<Vec<_>, _>>()?;
    if format == Format::Text {
        output::text(&text(&answers))?;
    } else {
        answers.iter_mut().for_each(|answer| answer.notes.push(format!("all of it is {APPROXIMATE}")));
        output::documents(format, &answers)?;
    }
    let of_answer = |answer: &Answer| {
        let problems = answer.problems.iter().map(|problem| format!("TokenBudget {}: {problem}", answer.token_budget));
        problems.collect::<Vec<_>>()
    };
    let refused: Vec<String> = answers.iter().flat_map(of_answer).collect();
    if refused.is_empty() { Ok(()) } else { Err(CommandError::Refused(refused.join("\n"))) }
}

/// What was used, from where the arguments say.
fn used(arguments: WhatIfArguments, budgets: &[TokenBudget], pools: Vec<AgentPool>) -> Result<Used, CommandError> {
    let namespaces = budgets.iter().map(TokenBudget::namespace).chain(pools.iter().map(AgentPool::namespace));
    let mut namespaces: BTreeSet<String> = namespaces.flatten().collect();
    if namespaces.len() > 1 {
        let names = namespaces.into_iter().collect::<Vec<_>>().join(", ");
        return Err(CommandError::Input(format!("the files have objects of several namespaces ({names}): leave out all but one")));
    }
    let namespace = arguments.namespace.or_else(|| namespaces.pop_first());
    let HistoryArguments { history: files, ledger } = arguments.history;
    let now = Timestamp::now();
    let (namespace, table, pools, end) = if files.is_empty() {
        let (namespace, table, pools) = block_on(async {
            let clients = clients(ledger.context).await?;
            let namespace = namespace.unwrap_or_else(|| clients.namespace.clone());
            let mut tables = history::of_cluster(&clients.calls, &ledger.operator_namespace, Some(&namespace)).await?;
            let pools = if pools.is_empty() { pools_of(&clients.calls, &namespace).await? } else { pools };
            let table = tables.remove(&namespace).unwrap_or_default();
            Ok::<_, CommandError>((namespace, table, pools))
        })??;
        (namespace, table, pools, now)
    } else {
        let (namespace, table) = history::of_namespace(history::of_files(&files)?, namespace.as_deref())?;
        let end = table.rows().map(|(bucket, ..)| bucket.end()).max().and_then(|end| Timestamp::from_second(end).ok());
        (namespace, table, pools, end.unwrap_or(now))
    };
    let begin = table.rows().map(|(bucket, ..)| bucket.start()).min().and_then(|begin| Timestamp::from_second(begin).ok());
    let (from, to) = (arguments.from.or(begin).unwrap_or(end), arguments.to.unwrap_or(end));
    if from > to {
        return Err(CommandError::Input(format!("--from {from} is after {to}, and nothing is to be looked at")));
    }
    Ok(Used { namespace, table, pools: pools.iter().map(PoolFacts::of).collect(), from, to })
}

async fn pools_of(client: &kube::Client, namespace: &str) -> Result<Vec<AgentPool>, CommandError> {
    let listed = Api::<AgentPool>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
    let failed = |error: kube::Error| CommandError::Failed(format!("failed to read AgentPools: {}", said(&error)));
    listed.map(|listed| listed.items).map_err(failed)
}

impl Answer {
    fn of(budget: &TokenBudget, used: &Used) -> Result<Self, CommandError> {
        let mut answer = Self {
            token_budget: budget.name_any(),
            namespace: used.namespace.clone(),
            agent_pools: Vec::new(),
            enforcement: check::enforcement(&budget.spec),
            periods: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
        };
        let covered = match covered(&budget.spec.applies_to, &used.pools, &used.table) {
            Ok(covered) => covered,
            Err(error @ CoveredError::PoolsUnknown) => {
                return Err(CommandError::Input(format!("TokenBudget {}: {error}", answer.token_budget)));
            }
            Err(error @ CoveredError::InvalidSelector(_)) => {
                answer.problems.push(error.to_string());
                return Ok(answer);
            }
        };
        match what_if::what_if(&used.table, &budget.spec, &covered.covers, used.from, used.to) {
            Ok(periods) => answer.periods = periods,
            Err(problems) => answer.problems.extend(problems.into_iter().map(|problem| problem.message)),
        }
        answer.agent_pools.extend(covered.covers.into_keys());
        answer.notes = notes(&answer.periods, budget, used);
        if !covered.unknown.is_empty() {
            let names = covered.unknown.join(", ");
            answer.notes.push(format!("nothing is known of the pools {names}, which have used something: they are left out"));
        }
        Ok(answer)
    }

    fn lines(&self) -> Vec<String> {
        let pools = if self.agent_pools.is_empty() { "nobody".to_owned() } else { self.agent_pools.join(", ") };
        let mut lines = vec![format!("{}: calls of {pools}", self.token_budget)];
        lines.extend(self.problems.iter().map(|problem| format!("  does not come into force: {problem}")));
        if self.periods.is_empty() && self.problems.is_empty() {
            lines.push("  nothing was used".to_owned());
        }
        for period in &self.periods {
            let end = period.end.map_or_else(String::new, |end| format!(" to {end}"));
            lines.push(format!("  {}{end}: {} ({} %)", period.start, used_of_limit(period), period.percent_used));
            let span = |span: &Span| match span {
                Span { earliest, latest } if earliest == latest => earliest.to_string(),
                Span { earliest, latest } => format!("{earliest} to {latest}"),
            };
            let step = |step: &what_if::StepOutcome| format!("    {} % {:?}: {}", step.at_percent, step.action, span(&step.span));
            lines.extend(period.steps.iter().map(step));
            lines.extend(period.exhausted.as_ref().map(|exhausted| format!("    used up: {}", span(exhausted))));
            if period.refused_requests > 0 || period.refused_tokens > 0 {
                let (tokens, calls) = (period.refused_tokens, period.refused_requests);
                lines.push(match self.enforcement {
                    Enforcement::Block => format!("    refused: {tokens} tokens in {calls} calls"),
                    _ => format!("    Block would have refused {tokens} tokens in {calls} calls"),
                });
            }
        }
        lines.extend(self.notes.iter().map(|note| format!("  note: {note}")));
        lines
    }
}

/// What was used of what is limited.
fn used_of_limit(period: &PeriodOutcome) -> String {
    let tokens = period.limit_tokens.map(|limit| format!("{} of {limit} tokens", period.used_tokens));
    let cost = period.limit_cost.as_ref().map(|limit| format!("{} of {limit}", period.used_cost));
    [tokens, cost].into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

/// What of these periods is less certain than the rest.
fn notes(periods: &[PeriodOutcome], budget: &TokenBudget, used: &Used) -> Vec<String> {
    let sum = |of: fn(&PeriodOutcome) -> u64| periods.iter().map(of).fold(0, u64::saturating_add);
    let (spread, uncertain) = (sum(|period| period.spread_tokens), sum(|period| period.uncertain_tokens));
    let unpriced = if budget.spec.cost.is_some() { sum(|period| period.unpriced_requests) } else { 0 };
    let spread_note = || format!("of {spread} tokens only a day or a month is known: they count as spread evenly over it");
    let uncertain_note = || format!("of {uncertain} tokens nobody knows the route: they count as if the budget covered it");
    let unpriced_note = || format!("of {unpriced} calls nobody knows what they cost: they count as free");
    let notes = [
        (spread > 0).then(spread_note),
        (uncertain > 0).then(uncertain_note),
        (unpriced > 0).then(unpriced_note),
        history::gap(&used.namespace, &used.table),
    ];
    notes.into_iter().flatten().collect()
}

fn text(answers: &[Answer]) -> String {
    let mut lines: Vec<String> = answers.iter().flat_map(Answer::lines).collect();
    lines.push(format!("note: {APPROXIMATE}"));
    lines.join("\n") + "\n"
}
