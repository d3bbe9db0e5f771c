//! Whose calls budgets cover, as the plan says it: what a process of the gateway goes by before any operator has spoken to it. What is
//! left of budgets it cannot know then, so that it refuses calls that a budget covers, unless the budget says otherwise.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt as _;

use super::plan::{Caller, PlannedBudget};
use crate::api::TokenBudget;
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::api::token_budget_status::Phase;
use crate::decide::budget::check;
use crate::decide::budget::matches::{self, Covers};
use crate::decide::budget::observation::PoolFacts;

/// The most budgets that a plan names.
pub const MOST: usize = 500;

/// The most bytes of JSON that budgets have in a plan: an eighth of a ConfigMap. The routes have the rest of it.
pub const LIMIT: usize = 128 << 10;

/// The name of what stands for all budgets of a namespace, where they are too many for the plan.
pub const ALL: &str = "*";

/// Whose calls these budgets of a namespace cover, of these pools, and from when: none does before its first period starts. One that is
/// suspended or being deleted holds nobody back, and one that covers nobody is left out. So is one whose spec cannot be understood and
/// whose status says that no earlier one came into force. Otherwise, of one whose selector cannot be understood nobody knows whom it
/// covers: it covers everybody.
pub fn of(budgets: &[TokenBudget], pools: &[PoolFacts]) -> Vec<PlannedBudget> {
    let acts = |budget: &&TokenBudget| budget.metadata.deletion_timestamp.is_none() && budget.spec.suspend != Some(true);
    let planned = budgets.iter().filter(acts).filter_map(|budget| {
        let spec = &budget.spec;
        let from = match check::check(spec) {
            Ok(checked) => checked.calendar.first_start().map(Timestamp::as_second),
            Err(_) if never_came_into_force(budget) => return None,
            Err(_) => None,
        };
        let covers = matches::covers(&spec.applies_to, pools).unwrap_or_else(|_| everybody(pools));
        Some(PlannedBudget {
            name: budget.name_any(),
            callers: covers.into_keys().collect(),
            routes: matches::routes(&spec.applies_to),
            from,
            enforcement: spec.enforcement.unwrap_or_default(),
            when_usage_unknown: spec.when_usage_unknown.unwrap_or_default(),
        })
    });
    planned.filter(|budget| !budget.callers.is_empty()).collect()
}

/// Whether the operator has looked at it and found that neither this spec nor an earlier one limits anything.
fn never_came_into_force(budget: &TokenBudget) -> bool {
    budget.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Pending))
}

fn everybody(pools: &[PoolFacts]) -> Covers {
    pools.iter().map(|pool| (pool.name.clone(), None)).collect()
}

/// What the plan has of these budgets: by name, without those who cannot call. Where that is more than it may have, one budget stands for
/// all of them, which covers every call from when the first of them does: who starts without an operator then refuses more than it has
/// to, and never less.
pub(super) fn bounded(budgets: &[PlannedBudget], callers: &BTreeMap<String, Caller>) -> Vec<PlannedBudget> {
    let known = |budget: &PlannedBudget| PlannedBudget {
        callers: budget.callers.iter().filter(|name| callers.contains_key(*name)).cloned().collect(),
        ..budget.clone()
    };
    let mut planned: Vec<PlannedBudget> = budgets.iter().map(known).filter(|budget| !budget.callers.is_empty()).collect();
    planned.sort_by(|one, other| one.name.cmp(&other.name));
    let has_room = planned.len() <= MOST && serde_json::to_vec(&planned).is_ok_and(|json| json.len() <= LIMIT);
    if has_room { planned } else { vec![for_all(&planned, callers)] }
}

fn for_all(budgets: &[PlannedBudget], callers: &BTreeMap<String, Caller>) -> PlannedBudget {
    PlannedBudget {
        name: ALL.to_owned(),
        callers: callers.keys().cloned().collect(),
        routes: None,
        // One that always covered somebody comes before all others.
        from: budgets.iter().map(|budget| budget.from).min().flatten(),
        enforcement: Enforcement::Block,
        when_usage_unknown: WhenUsageUnknown::Hold,
    }
}

#[cfg(test)]
#[path = "planned_budgets_tests.rs"]
mod tests;
