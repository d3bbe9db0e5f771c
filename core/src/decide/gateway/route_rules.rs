//! Rules of a route that could never do what they are for: without a condition, never met, or behind one that takes all of
//! their calls.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::route_problem::Problem;
use crate::api::model_route::{Range, RouteRule, When};

/// Whether each rule can be the first that matches some call.
///
/// # Errors
///
/// The first rule that cannot.
pub fn check(rules: &[RouteRule]) -> Result<(), Problem> {
    let mut before: Vec<(&str, Conditions)> = Vec::new();
    for rule in rules {
        let field = format!("spec.rules[{}]", rule.name);
        if before.iter().any(|(name, _)| *name == rule.name) {
            return Err(Problem::field(field, "stands there twice: give each rule a name of its own"));
        }
        let conditions = Conditions::of(&rule.when, &field)?;
        if conditions.is_empty() {
            let problem = "is empty, so that the rule takes every call: say which calls it is about, or put its backends into \
                           spec.backends";
            return Err(Problem::field(format!("{field}.when"), problem));
        }
        if let Some((name, _)) = before.iter().find(|(_, earlier)| earlier.cover(&conditions)) {
            let problem =
                format!("never decides, because spec.rules[{name}] before it takes all of its calls: move it up, or remove it");
            return Err(Problem::field(field, problem));
        }
        before.push((&rule.name, conditions));
    }
    Ok(())
}

/// What a call has to be like, with each label once.
struct Conditions {
    /// Length of the prompt.
    tokens: Ends,
    /// How much of the caller's budgets is used.
    used: Ends,
    /// Each label has one of these values.
    labels: BTreeMap<String, BTreeSet<String>>,
    /// The caller is one of these.
    pools: Option<BTreeSet<String>>,
}

impl Conditions {
    fn of(when: &When, field: &str) -> Result<Self, Problem> {
        let tokens = Ends::of(when.prompt_tokens, || format!("{field}.when.promptTokens"))?;
        let used = Ends::of(when.budget_used_percent, || format!("{field}.when.budgetUsedPercent"))?;
        let mut labels = BTreeMap::new();
        for (label, values) in &when.labels {
            if values.is_empty() {
                let problem = "has no value, which no call has: give it one, or remove it";
                return Err(Problem::field(format!("{field}.when.labels[{label}]"), problem));
            }
            labels.insert(label.clone(), values.iter().cloned().collect::<BTreeSet<_>>());
        }
        let priorities = when.priorities.iter().filter_map(word).collect();
        for (label, values) in [
            ("taskType", when.task_types.clone()),
            ("priority", priorities),
            ("userTier", when.user_tiers.clone()),
            ("complexity", when.complexity.clone()),
        ] {
            if values.is_empty() {
                continue;
            }
            let values: BTreeSet<String> = values.into_iter().collect();
            let both = match labels.get(label) {
                Some(other) => other.intersection(&values).cloned().collect(),
                None => values,
            };
            if both.is_empty() {
                let problem =
                    format!("asks for two values of the label {label} at once, which no call has: keep one condition on it");
                return Err(Problem::field(format!("{field}.when"), problem));
            }
            labels.insert(label.to_owned(), both);
        }
        let pools = (!when.agent_pools.is_empty()).then(|| when.agent_pools.iter().cloned().collect());
        Ok(Self { tokens, used, labels, pools })
    }

    fn is_empty(&self) -> bool {
        self.tokens == Ends::ALL && self.used == Ends::ALL && self.labels.is_empty() && self.pools.is_none()
    }

    /// Whether every call that meets `later` meets these as well.
    fn cover(&self, later: &Self) -> bool {
        let pools = match (&self.pools, &later.pools) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(earlier), Some(later)) => later.is_subset(earlier),
        };
        let labels =
            self.labels.iter().all(|(label, earlier)| later.labels.get(label).is_some_and(|later| later.is_subset(earlier)));
        pools && labels && self.tokens.cover(later.tokens) && self.used.cover(later.used)
    }
}

/// The smallest and the largest number that a call may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    least: u64,
    most: u64,
}

impl Ends {
    /// Every number.
    const ALL: Self = Self { least: 0, most: u64::MAX };

    fn of(range: Option<Range>, field: impl Fn() -> String) -> Result<Self, Problem> {
        let range = range.unwrap_or_default();
        let (least, most) = (range.at_least.unwrap_or(Self::ALL.least), range.at_most.unwrap_or(Self::ALL.most));
        if least > most {
            let problem = "asks for at least more than it allows at most, which no call has: swap them";
            return Err(Problem::field(field(), problem));
        }
        Ok(Self { least, most })
    }

    fn cover(self, other: Self) -> bool {
        self.least <= other.least && self.most >= other.most
    }
}

/// The word by which a value stands in YAML.
fn word(value: &impl Serialize) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

#[cfg(test)]
#[path = "route_rules_tests.rs"]
mod tests;
