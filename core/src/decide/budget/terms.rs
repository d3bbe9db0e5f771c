//! What a budget gives the accounts to hold to.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::in_force::{self, State};
use super::observation::{AccountFacts, Accounts, PerUnit, PoolFacts};
use super::period::Period;
use super::{check, share, thresholds, verdict};
use crate::api::TokenBudget;
use crate::api::token_budget::{Enforcement, ThresholdAction};
use crate::decide::account::Limits;
use crate::decide::account::granting::{BudgetTerms, PeriodTerms};

/// The terms of a budget; none: it limits nothing yet, or no more, and has no accounts. They depend on its status: on the steps
/// that were taken, and, while its spec cannot be understood, on what was in force before.
///
/// `accounts`: what the accounts say of it so far; none: nothing yet.
pub fn of(budget: &TokenBudget, pools: &[PoolFacts], accounts: Option<&Accounts>, now: Timestamp) -> Option<BudgetTerms> {
    if budget.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = &budget.spec;
    let checked = check::check(spec).ok();
    let in_force = in_force::of(budget, checked.as_ref(), pools, accounts, now)?;
    if in_force.state == State::Before {
        return None;
    }
    let steps = verdict::remembered(budget, in_force.period.id).map(|remembered| remembered.steps).unwrap_or_default();
    let redistributed = in_force.enforcement != Enforcement::DryRun && thresholds::is_taken(steps, ThresholdAction::Redistribute);
    let used = accounts.filter(|accounts| accounts.period == in_force.period.id).map(used_by_caller).unwrap_or_default();
    let callers: Vec<&str> = in_force.covers.keys().map(String::as_str).collect();
    Some(BudgetTerms {
        name: budget.metadata.name.clone().unwrap_or_default(),
        shares: share::limits(spec.share.as_ref(), in_force.limits, &callers, &used, redistributed),
        period: period_terms(in_force.period, in_force.limits),
        next: in_force.next.map(|(period, limits)| period_terms(period, limits)),
        covers: in_force.covers,
        enforcement: in_force.enforcement,
        when_usage_unknown: check::when_usage_unknown(spec),
        message: spec.message.clone(),
        cached_input_percent: check::cached_input_percent(spec),
    })
}

fn period_terms(period: Period, limits: Limits) -> PeriodTerms {
    PeriodTerms { id: period.id, start: period.start.as_second(), end: period.end.map(Timestamp::as_second), limits }
}

fn used_by_caller(accounts: &Accounts) -> BTreeMap<String, PerUnit<u64>> {
    let used = |share: &PerUnit<AccountFacts>| PerUnit::from_units(|unit| Some(share.of(unit)?.used));
    accounts.shares.iter().map(|(caller, share)| (caller.clone(), used(share))).collect()
}

#[cfg(test)]
#[path = "terms_tests.rs"]
mod tests;
