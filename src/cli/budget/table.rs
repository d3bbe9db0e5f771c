//! Budgets as text: a table, what is wrong, the details of one, and one line for a log.

use kube::ResourceExt as _;
use quartermaster_core::api::TokenBudget;
use quartermaster_core::api::conditions::types;
use quartermaster_core::api::token_budget::Enforcement;
use quartermaster_core::api::token_budget_status::{TokenBudgetStatus, VerdictCaller};
use quartermaster_core::decide::budget::check;

use super::figures::Figures;

/// Stands for what is not known, or not limited.
const NOTHING: &str = "-";

/// Consumers, pairs that are held back and past periods that are listed: the status has more.
const LISTED: usize = 10;

/// A line for the names of the columns, and one for each budget.
pub fn table(budgets: &[&TokenBudget], with_namespace: bool) -> Vec<String> {
    let mut head =
        vec!["NAME", "PHASE", "LIMIT", "USED", "REMAINING", "USED%", "BURN/H", "EXHAUSTED-AT", "RESETS", "POOLS", "ENFORCEMENT"];
    if with_namespace {
        head.insert(0, "NAMESPACE");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(budgets.iter().map(|budget| row(budget, with_namespace)));
    aligned(&rows)
}

fn row(budget: &TokenBudget, with_namespace: bool) -> Vec<String> {
    let unknown = TokenBudgetStatus::default();
    let status = budget.status.as_ref().unwrap_or(&unknown);
    let summary = status.summary.clone().unwrap_or_default();
    let cell = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| NOTHING.to_owned());
    let namespace = with_namespace.then(|| cell(budget.namespace()));
    let cells = [
        Some(budget.name_any()),
        status.phase.map(|phase| format!("{phase:?}")),
        summary.limit,
        summary.used,
        summary.remaining,
        status.percent_used.map(|percent| percent.to_string()),
        summary.burn_rate,
        status.projected_exhaustion.as_ref().map(|time| time.0.to_string()),
        status.period.as_ref().and_then(|period| period.resets.clone()),
        status.matches.map(|matches| matches.to_string()),
        status.enforcement.map(|enforcement| format!("{enforcement:?}")),
    ];
    namespace.into_iter().chain(cells.into_iter().map(cell)).collect()
}

/// Rows in columns, of which each is as wide as it has to be.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// What of budgets is not as it should be: a line each.
pub fn problems(budgets: &[&TokenBudget]) -> Vec<String> {
    let of_budget = |budget: &&TokenBudget| {
        let conditions = budget.status.iter().flat_map(|status| &status.conditions);
        let is_wrong = |type_: &str, status: &str| match type_ {
            types::READY => status != "True",
            types::USAGE_KNOWN => status == "False",
            _ => false,
        };
        let wrong = conditions.filter(|condition| is_wrong(&condition.type_, &condition.status));
        let name = budget.name_any();
        let lines = wrong.map(|wrong| format!("{name}: {}={} {}: {}", wrong.type_, wrong.status, wrong.reason, wrong.message));
        lines.collect::<Vec<_>>()
    };
    budgets.iter().flat_map(of_budget).collect()
}

/// What else is to be said of a budget: who has used how much, what was done and whom it holds back, how earlier periods ended.
pub fn details(budget: &TokenBudget) -> Vec<String> {
    let Some(status) = &budget.status else { return Vec::new() };
    let mut lines = Vec::new();
    let mut section = |head: &str, of: Vec<String>| {
        if !of.is_empty() {
            lines.push(format!("{head}:"));
            let left = of.len().saturating_sub(LISTED);
            lines.extend(of.into_iter().take(LISTED).map(|line| format!("  {line}")));
            lines.extend((left > 0).then(|| format!("  and {left} more: see the status")));
        }
    };
    section("used by", consumers(status));
    let verdict = status.verdict.clone().unwrap_or_default();
    let steps = verdict.steps.iter().map(|step| format!("{} % {:?} since {}", step.at_percent, step.action, step.since.0));
    section("steps taken", steps.collect());
    let acts = check::enforcement(&budget.spec) != Enforcement::DryRun;
    section(if acts { "held back" } else { "would be held back" }, verdict.callers.iter().map(held_back).collect());
    section("periods before", before(status));
    lines
}

fn consumers(status: &TokenBudgetStatus) -> Vec<String> {
    let mut rows = Vec::new();
    for consumer in &status.consumers {
        let tokens = match consumer.share {
            Some(share) => format!("{} of {share} tokens", consumer.tokens),
            None => format!("{} tokens", consumer.tokens),
        };
        let cost = match (&consumer.cost, &consumer.share_cost) {
            (Some(cost), Some(share)) => format!("{cost} of {share}"),
            (Some(cost), None) => cost.clone(),
            (None, _) => String::new(),
        };
        rows.push(vec![consumer.agent_pool.clone(), tokens, cost]);
    }
    aligned(&rows)
}

fn held_back(caller: &VerdictCaller) -> String {
    let mut means = Vec::new();
    if caller.blocked {
        means.push("calls are refused".to_owned());
    }
    means.extend(caller.tier_ceiling.map(|tier| format!("backends up to {tier:?} answer")));
    if caller.new_tasks_refused {
        means.push("no new tasks".to_owned());
    }
    if caller.paused {
        means.push("the pool pauses".to_owned());
    }
    format!("{} on {}: {}", caller.agent_pool, caller.model_route, means.join(", "))
}

fn before(status: &TokenBudgetStatus) -> Vec<String> {
    let rows = status.history.iter().map(|period| {
        let tokens = period.limit_tokens.zip(period.used_tokens).map(|(limit, used)| format!("{used} of {limit} tokens"));
        let cost = period.limit_cost.as_ref().zip(period.used_cost.as_ref()).map(|(limit, used)| format!("{used} of {limit}"));
        let amounts = [tokens, cost].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let phase = period.phase.map(|phase| format!("{phase:?}")).unwrap_or_default();
        vec![format!("from {}", period.start.0), amounts, phase]
    });
    aligned(&rows.collect::<Vec<_>>())
}

/// A budget in one line.
pub fn line(budget: &TokenBudget, with_namespace: bool) -> String {
    let name = match budget.namespace().filter(|_| with_namespace) {
        Some(namespace) => format!("{namespace}/{}", budget.name_any()),
        None => budget.name_any(),
    };
    let Some(status) = &budget.status else { return format!("{name}: nothing is known yet") };
    let mut facts: Vec<String> = status.phase.map(|phase| format!("{phase:?}")).into_iter().collect();
    if let Some(figures) = Figures::of(status) {
        let percent = status.percent_used.map_or_else(String::new, |percent| format!(" ({percent} %)"));
        facts.push(format!("{}{percent}", figures.text()));
    }
    let summary = status.summary.as_ref();
    facts.extend(summary.and_then(|summary| summary.burn_rate.as_ref()).map(|rate| format!("{rate} an hour")));
    facts.extend(status.projected_exhaustion.as_ref().map(|time| format!("used up at {} if that goes on", time.0)));
    facts.extend(status.period.as_ref().and_then(|period| period.resets.as_ref()).map(|resets| format!("resets {resets}")));
    format!("{name}: {}", if facts.is_empty() { "nothing is known yet".to_owned() } else { facts.join(", ") })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
