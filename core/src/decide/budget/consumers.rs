//! What other kinds find about themselves in the status of budgets: pure functions over the budgets of a namespace. A budget
//! that does nothing, in a dry run, suspended, or being deleted, is none of theirs, though its status lists whom it would hold
//! back.

use super::check;
use crate::api::TokenBudget;
use crate::api::conditions::types;
use crate::api::model_route::Tier;
use crate::api::token_budget::Enforcement;
use crate::api::token_budget_status::{Phase, TokenBudgetStatus, VerdictCaller};

/// A budget that concerns an object, and how far it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetPhase {
    /// Its name.
    pub name: String,
    /// How far it is used.
    pub phase: Phase,
}

/// What budgets mean for an AgentPool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolBudgets {
    /// The budget that pauses it: the first by name, of several. A paused pool makes no agent, and busy ones finish.
    pub paused_by: Option<String>,
    /// Those that cover it, by name.
    pub budgets: Vec<BudgetPhase>,
}

/// What a budget means for the calls of an AgentPool to a ModelRoute, while it holds them back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCallerLine {
    /// Name of the AgentPool.
    pub agent_pool: String,
    /// The highest tier that may answer; none: any.
    pub tier: Option<Tier>,
    /// Whether its calls are refused.
    pub blocked: bool,
    /// Name of the budget.
    pub budget: String,
    /// How far that is used.
    pub phase: Phase,
}

/// What budgets, by name, mean for a pool.
pub fn of_pool(budgets: &[(String, &TokenBudget)], pool: &str) -> PoolBudgets {
    let mut found = PoolBudgets::default();
    for (name, status, phase) in acting(budgets) {
        let mut rows = callers(status).iter().filter(|row| row.agent_pool == pool).peekable();
        let touches = status.touches.as_ref();
        let is_touched = touches.is_some_and(|touches| touches.agent_pools.iter().any(|touched| touched == pool));
        if rows.peek().is_some() || is_touched {
            found.budgets.push(BudgetPhase { name: name.clone(), phase });
        }
        // Whose new tasks are refused is paused: that is known also where an older definition has no place for `paused`.
        if found.paused_by.is_none() && rows.any(|row| row.paused || row.new_tasks_refused) {
            found.paused_by = Some(name.clone());
        }
    }
    found
}

/// The callers of a route that budgets, by name, hold back: by name of the pool, and of the budget.
pub fn of_route(budgets: &[(String, &TokenBudget)], route: &str) -> Vec<RouteCallerLine> {
    let mut lines = Vec::new();
    for (name, status, phase) in acting(budgets) {
        lines.extend(callers(status).iter().filter(|row| row.model_route == route).map(|row| RouteCallerLine {
            agent_pool: row.agent_pool.clone(),
            tier: row.tier_ceiling,
            blocked: row.blocked,
            budget: name.clone(),
            phase,
        }));
    }
    lines.sort_by(|one, other| (&one.agent_pool, &one.budget).cmp(&(&other.agent_pool, &other.budget)));
    lines
}

/// The budgets whose callers can reach a backend, by name, from their first step on: before that they are nothing to a backend.
pub fn of_backend(budgets: &[(String, &TokenBudget)], backend: &str) -> Vec<BudgetPhase> {
    let touches = |status: &TokenBudgetStatus| {
        let touches = status.touches.as_ref();
        touches.is_some_and(|touches| touches.inference_backends.iter().any(|touched| touched == backend))
    };
    let at_a_step = acting(budgets).into_iter().filter(|(_, status, phase)| *phase >= Phase::Warning && touches(status));
    at_a_step.map(|(name, _, phase)| BudgetPhase { name: name.clone(), phase }).collect()
}

/// Whether a budget does what its status says. What was written while it did nothing is what it would have done, and stays that
/// until the budget is looked at again: meanwhile it may have got a higher limit as well.
pub(super) fn acts(budget: &TokenBudget) -> bool {
    let did = |status: &TokenBudgetStatus| {
        let mut conditions = status.conditions.iter();
        let was_suspended = conditions.any(|condition| condition.type_ == types::SUSPENDED && condition.status == "True");
        status.enforcement != Some(Enforcement::DryRun) && !was_suspended
    };
    let does = budget.metadata.deletion_timestamp.is_none() && check::enforcement(&budget.spec) != Enforcement::DryRun;
    does && budget.status.as_ref().is_some_and(did)
}

/// Those that do something, in the order of their names.
fn acting<'a>(budgets: &'a [(String, &'a TokenBudget)]) -> Vec<(&'a String, &'a TokenBudgetStatus, Phase)> {
    let acting = budgets.iter().filter(|(_, budget)| acts(budget)).filter_map(|(name, budget)| {
        let status = budget.status.as_ref()?;
        Some((name, status, status.phase?))
    });
    let mut acting: Vec<_> = acting.collect();
    acting.sort_by_key(|(name, ..)| *name);
    acting
}

fn callers(status: &TokenBudgetStatus) -> &[VerdictCaller] {
    status.verdict.as_ref().map(|verdict| verdict.callers.as_slice()).unwrap_or_default()
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
mod tests;
