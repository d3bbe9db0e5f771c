//! Whether the spec of a TokenBudget can come into force, and what it says with all defaults. Much of it the schema refuses
//! already: what was written under another schema is checked all the same.

use super::matches;
use super::period::{Calendar, PeriodError};
use super::thresholds;
use crate::api::conditions::reasons;
use crate::api::model_route::Tier;
use crate::api::price::Amount;
use crate::api::token_budget::{
    AppliesTo, Enforcement, MAX_TOKENS, PeriodSpec, Share, ShareType, Threshold, ThresholdAction, TokenBudgetSpec, WhenUsageUnknown,
};

/// What happens before the limit where the spec does not say.
const THRESHOLDS: [Threshold; 1] =
    [Threshold { at_percent: 80, action: ThresholdAction::Alert, severity: None, tier: None, below_criticality: None }];

/// How much of an input token counts that a prefix cache served, in percent, where the spec does not say: all of it.
const CACHED_INPUT_PERCENT: u32 = 100;

/// A spec that can come into force.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Its periods.
    pub calendar: Calendar,
    /// What happens before the limit, in the order in which it does.
    pub thresholds: Vec<Threshold>,
}

/// Something that keeps a spec from coming into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One of [`reasons`].
    pub reason: &'static str,
    /// The field.
    pub field: &'static str,
    /// What is wrong, and what to do: with the field's name.
    pub message: String,
}

/// Checks a spec.
///
/// # Errors
///
/// All that is wrong with it, in the order of its fields.
pub fn check(spec: &TokenBudgetSpec) -> Result<Checked, Vec<Problem>> {
    let mut problems = Vec::new();
    limits(spec, &mut problems);
    let calendar = period(&spec.period, &mut problems);
    applies_to(&spec.applies_to, &mut problems);
    let thresholds = thresholds_of(spec);
    ladder(&thresholds, spec.share.as_ref(), &mut problems);
    share(spec.share.as_ref(), &mut problems);
    extensions(spec, &mut problems);
    match calendar {
        Some(calendar) if problems.is_empty() => Ok(Checked { calendar, thresholds }),
        _ => Err(problems),
    }
}

/// What happens before the limit, in the order in which it does, as far as it can be understood: of a spec that cannot come
/// into force as well.
pub fn usable_thresholds(spec: &TokenBudgetSpec) -> Vec<Threshold> {
    let mut thresholds = thresholds_of(spec);
    thresholds.retain(|threshold| wrong(threshold).is_none());
    thresholds.dedup_by_key(|threshold| (threshold.at_percent, threshold.action));
    thresholds
}

/// What happens at the limit: nothing while the budget is suspended.
pub fn enforcement(spec: &TokenBudgetSpec) -> Enforcement {
    if spec.suspend == Some(true) { Enforcement::DryRun } else { spec.enforcement.unwrap_or_default() }
}

/// What the gateway does when it hears nothing of the operator.
pub fn when_usage_unknown(spec: &TokenBudgetSpec) -> WhenUsageUnknown {
    spec.when_usage_unknown.unwrap_or_default()
}

/// How much of an input token counts that a prefix cache served, in percent.
pub fn cached_input_percent(spec: &TokenBudgetSpec) -> u32 {
    spec.counting.and_then(|counting| counting.cached_input_percent).map_or(CACHED_INPUT_PERCENT, |percent| percent.min(100))
}

fn thresholds_of(spec: &TokenBudgetSpec) -> Vec<Threshold> {
    thresholds::order(spec.thresholds.clone().unwrap_or_else(|| THRESHOLDS.to_vec()))
}

fn invalid(reason: &'static str, field: &'static str, message: impl Into<String>) -> Problem {
    Problem { reason, field, message: message.into() }
}

fn limits(spec: &TokenBudgetSpec, problems: &mut Vec<Problem>) {
    if spec.tokens.is_none() && spec.cost.is_none() {
        let message = "spec.tokens or spec.cost is required: a budget without either limits nothing";
        problems.push(invalid(reasons::INVALID_SPEC, "spec.tokens", message));
    }
    if let Some(tokens) = spec.tokens.filter(|tokens| !(1..=MAX_TOKENS).contains(tokens)) {
        let message = format!("spec.tokens is {tokens}: write a number from 1 to {MAX_TOKENS}");
        problems.push(invalid(reasons::INVALID_SPEC, "spec.tokens", message));
    }
    if let Some(problem) = spec.cost.as_ref().and_then(wrong_amount) {
        problems.push(invalid(reasons::INVALID_SPEC, "spec.cost", format!("spec.cost: {problem}")));
    }
}

/// What is wrong with an amount that has to be more than nothing.
fn wrong_amount(amount: &Amount) -> Option<String> {
    match amount.millionths() {
        Ok(0) => Some(format!("`{}` is nothing: write an amount above 0, or remove it", amount.0)),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

fn period(spec: &PeriodSpec, problems: &mut Vec<Problem>) -> Option<Calendar> {
    let error = match Calendar::new(spec) {
        Ok(calendar) => return Some(calendar),
        Err(error) => error,
    };
    let (reason, field) = match error {
        PeriodError::UnknownTimeZone { .. } => (reasons::INVALID_TIME_ZONE, "spec.period.timeZone"),
        PeriodError::InvalidStart { .. } => (reasons::INVALID_PERIOD, "spec.period.start"),
        PeriodError::InvalidEnd { .. } | PeriodError::EndNotAfterStart { .. } => (reasons::INVALID_PERIOD, "spec.period.end"),
        PeriodError::Missing { .. } | PeriodError::OutOfRange { .. } => (reasons::INVALID_PERIOD, "spec.period"),
    };
    problems.push(invalid(reason, field, error.to_string()));
    None
}

fn applies_to(applies_to: &AppliesTo, problems: &mut Vec<Problem>) {
    if let Err(error) = matches::covers(applies_to, &[]) {
        problems.push(invalid(reasons::INVALID_SELECTOR, "spec.appliesTo.agentPoolSelector", error.to_string()));
    }
}

fn ladder(thresholds: &[Threshold], share: Option<&Share>, problems: &mut Vec<Problem>) {
    let mut found = |message: String| problems.push(invalid(reasons::INVALID_THRESHOLDS, "spec.thresholds", message));
    let name = |threshold: &Threshold| format!("spec.thresholds: {:?} at {} percent", threshold.action, threshold.at_percent);
    for threshold in thresholds {
        if let Some(problem) = wrong(threshold) {
            found(format!("{} {problem}", name(threshold)));
        }
    }
    // They are in order, so that those that are alike are neighbours.
    for (one, other) in thresholds.iter().zip(thresholds.iter().skip(1)) {
        if (one.at_percent, one.action) == (other.at_percent, other.action) {
            found(format!("{} stands there twice: keep one", name(one)));
        }
    }
    let redistributes = thresholds.iter().find(|threshold| threshold.action == ThresholdAction::Redistribute);
    if let Some(threshold) = redistributes
        && share.is_none_or(|share| share.type_ == ShareType::None)
    {
        let fix = "needs shares: set spec.share.type to Equal or Weighted, or remove the threshold";
        found(format!("{} {fix}", name(threshold)));
    }
}

/// What is wrong with a threshold by itself.
fn wrong(threshold: &Threshold) -> Option<&'static str> {
    let is_downgrade = threshold.action == ThresholdAction::Downgrade;
    match threshold.tier {
        _ if !(1..=100).contains(&threshold.at_percent) => Some("cannot be reached: write a percentage from 1 to 100"),
        None if is_downgrade => Some("has no tier: write the highest that may answer, Economy or Standard"),
        Some(Tier::Premium) if is_downgrade => Some("has tier Premium, which excludes no backend: write Economy or Standard"),
        _ => None,
    }
}

fn share(share: Option<&Share>, problems: &mut Vec<Problem>) {
    let Some(share) = share else { return };
    let weights = share.weights.as_ref();
    let message = match share.type_ {
        ShareType::Weighted if weights.is_none_or(|weights| weights.is_empty()) => {
            "spec.share.type Weighted needs spec.share.weights: write for example weights: {planner: 3, coder: 5}".to_owned()
        }
        ShareType::Weighted => match weights.into_iter().flatten().find(|(_, weight)| **weight == 0) {
            Some((name, _)) => format!("spec.share.weights.{name} is 0: write 1 or more, or remove the pool from spec.appliesTo"),
            None => return,
        },
        ShareType::None | ShareType::Equal => return,
    };
    problems.push(invalid(reasons::INVALID_SHARE, "spec.share", message));
}

fn extensions(spec: &TokenBudgetSpec, problems: &mut Vec<Problem>) {
    for extension in &spec.extensions {
        if let Some(problem) = extension.cost.as_ref().and_then(wrong_amount) {
            problems.push(invalid(reasons::INVALID_SPEC, "spec.extensions", format!("spec.extensions[].cost: {problem}")));
        }
        if let Some(tokens) = extension.tokens.filter(|tokens| !(1..=MAX_TOKENS).contains(tokens)) {
            let message = format!("spec.extensions[].tokens is {tokens}: write a number from 1 to {MAX_TOKENS}");
            problems.push(invalid(reasons::INVALID_SPEC, "spec.extensions", message));
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
