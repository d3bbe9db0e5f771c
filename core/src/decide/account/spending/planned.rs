//! What the plan says of budgets, for a process that no operator has spoken to.

use super::{Refused, Terms};
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::account::Unit;
use crate::decide::gateway::plan::PlannedBudget;

/// What the plan says of budgets, for a process that no operator has spoken to: whom they cover, and what happens to those while
/// nothing is known of their usage.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// All budgets of the namespace.
    pub budgets: Vec<PlannedBudget>,
}

impl Planned {
    /// The budgets that cover a call by now, in seconds since 1970.
    fn covering(&self, caller: &str, route: &str, wall: i64) -> impl Iterator<Item = &PlannedBudget> {
        self.budgets.iter().filter(move |budget| {
            budget.from.is_none_or(|from| from <= wall)
                && budget.callers.contains(caller)
                && budget.routes.as_ref().is_none_or(|routes| routes.contains(route))
        })
    }

    /// Who refuses calls of which no usage is known. No figure of it is known either.
    pub(super) fn refused(&self, caller: &str, route: &str, wall: i64) -> Option<Refused> {
        let refuses = |budget: &&PlannedBudget| {
            budget.enforcement == Enforcement::Block && budget.when_usage_unknown != WhenUsageUnknown::Allow
        };
        let budget = self.covering(caller, route, wall).find(refuses)?;
        Some(Refused { budget: budget.name.clone(), unit: Unit::Tokens, limit: 0, left: 0, resets: None, message: None })
    }

    pub(super) fn terms(&self, caller: &str, route: &str, wall: i64) -> Option<Terms> {
        let mut covering = self.covering(caller, route, wall).peekable();
        covering.peek()?;
        let walled = covering.any(|budget| budget.enforcement == Enforcement::Block);
        Some(Terms { walled, bounded_output: walled, ..Terms::default() })
    }
}
