//! Which rule of a route a call falls under.

use super::labels::{self, Labels};
use crate::api::model_route::When;
use crate::decide::gateway::plan::Rule;

/// What rules ask about a call.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Its labels.
    pub labels: &'a Labels<'a>,
    /// The AgentPool that calls.
    pub caller: &'a str,
    /// Length of the prompt, estimated from its bytes.
    pub prompt_tokens: u64,
    /// How much of the caller's budgets is used, in percent: of several the highest. None: no budget covers the call, which counts
    /// as nothing used.
    pub budget_used_percent: Option<u32>,
}

/// The member of `when` that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch<'a> {
    /// The prompt is shorter than the lower end.
    #[error("the prompt has about {tokens} tokens, and when.promptTokens asks for at least {at_least}")]
    TooShort {
        /// Its estimated length.
        tokens: u64,
        /// The lower end.
        at_least: u64,
    },
    /// The prompt is longer than the upper end.
    #[error("the prompt has about {tokens} tokens, and when.promptTokens asks for at most {at_most}")]
    TooLong {
        /// Its estimated length.
        tokens: u64,
        /// The upper end.
        at_most: u64,
    },
    /// Less of the caller's budgets is used than the lower end.
    #[error("{percent} % of its caller's budgets is used, and when.budgetUsedPercent asks for at least {at_least}")]
    LessUsed {
        /// How much is used.
        percent: u64,
        /// The lower end.
        at_least: u64,
    },
    /// More of the caller's budgets is used than the upper end.
    #[error("{percent} % of its caller's budgets is used, and when.budgetUsedPercent asks for at most {at_most}")]
    MoreUsed {
        /// How much is used.
        percent: u64,
        /// The upper end.
        at_most: u64,
    },
    /// A label that is asked about is missing.
    #[error("it has no label {0}")]
    NoLabel(&'a str),
    /// A label has another value than those that are asked for.
    #[error("its label {0} has another value")]
    Label(&'a str),
    /// Another AgentPool calls.
    #[error("another AgentPool calls")]
    AgentPool,
}

/// The first rule whose members all hold.
pub fn first_match<'a>(rules: &'a [Rule], asked: &Asked<'_>) -> Option<&'a Rule> {
    rules.iter().find(|rule| mismatch(&rule.when, asked).is_none())
}

/// The first member that does not hold. Members must all hold, of a list one value, and an absent member asks for nothing.
pub fn mismatch<'a>(when: &'a When, asked: &Asked<'_>) -> Option<Mismatch<'a>> {
    let tokens = asked.prompt_tokens;
    if let Some(range) = when.prompt_tokens {
        if let Some(at_least) = range.at_least.filter(|at_least| tokens < *at_least) {
            return Some(Mismatch::TooShort { tokens, at_least });
        }
        if let Some(at_most) = range.at_most.filter(|at_most| tokens > *at_most) {
            return Some(Mismatch::TooLong { tokens, at_most });
        }
    }
    let percent = u64::from(asked.budget_used_percent.unwrap_or(0));
    if let Some(range) = when.budget_used_percent {
        if let Some(at_least) = range.at_least.filter(|at_least| percent < *at_least) {
            return Some(Mismatch::LessUsed { percent, at_least });
        }
        if let Some(at_most) = range.at_most.filter(|at_most| percent > *at_most) {
            return Some(Mismatch::MoreUsed { percent, at_most });
        }
    }
    if !when.agent_pools.is_empty() && !when.agent_pools.iter().any(|pool| pool == asked.caller) {
        return Some(Mismatch::AgentPool);
    }
    let lists =
        [(labels::TASK_TYPE, &when.task_types), (labels::USER_TIER, &when.user_tiers), (labels::COMPLEXITY, &when.complexity)];
    let lists = lists.into_iter().filter(|(_, values)| !values.is_empty());
    let free = when.labels.iter().map(|(name, values)| (name.as_str(), values));
    let of_label = |name: &'a str, holds: &dyn Fn(&str) -> bool| match asked.labels.get(name) {
        None => Some(Mismatch::NoLabel(name)),
        Some(value) if !holds(value) => Some(Mismatch::Label(name)),
        Some(_) => None,
    };
    let of_list = |(name, values): (&'a str, &'a Vec<String>)| of_label(name, &|value| values.iter().any(|one| one == value));
    let of_priority = || {
        let among = |value: &str| labels::priority(value).is_some_and(|priority| when.priorities.contains(&priority));
        if when.priorities.is_empty() { None } else { of_label(labels::PRIORITY, &among) }
    };
    lists.chain(free).find_map(of_list).or_else(of_priority)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::model_route::Strategy;

    fn labels() -> Labels<'static> {
        [("taskType", "qa"), ("priority", "P1"), ("userTier", "premium"), ("data", "pii")].into()
    }

    fn found(when: &When) -> Option<Mismatch<'_>> {
        let asked = Asked { labels: &labels(), caller: "coder", prompt_tokens: 3000, budget_used_percent: Some(80) };
        mismatch(when, &asked)
    }

    #[rstest]
    #[case(json!({}))]
    #[case(json!({ "promptTokens": { "atLeast": 3000 } }))]
    #[case(json!({ "promptTokens": { "atMost": 3000 } }))]
    #[case(json!({ "promptTokens": { "atLeast": 1, "atMost": 5000 } }))]
    #[case(json!({ "promptTokens": {} }))]
    #[case(json!({ "budgetUsedPercent": { "atLeast": 80 } }))]
    #[case(json!({ "budgetUsedPercent": { "atMost": 80 } }))]
    #[case(json!({ "budgetUsedPercent": {} }))]
    #[case(json!({ "taskTypes": ["refactor", "qa"] }))]
    #[case(json!({ "priorities": ["P0", "P1"] }))]
    #[case(json!({ "userTiers": ["premium"] }))]
    #[case(json!({ "agentPools": ["planner", "coder"] }))]
    #[case(json!({ "labels": { "data": ["phi", "pii"], "taskType": ["qa"] } }))]
    #[case(json!({ "taskTypes": ["qa"], "priorities": ["P1"], "labels": { "data": ["pii"] }, "promptTokens": { "atLeast": 2 } }))]
    fn a_rule_matches_when_all_members_hold_and_of_a_list_one(#[case] when: Value) {
        let when: When = serde_json::from_value(when).unwrap();
        assert_eq!(found(&when), None);
    }

    #[rstest]
    #[case(json!({ "promptTokens": { "atLeast": 3001 } }), Mismatch::TooShort { tokens: 3000, at_least: 3001 })]
    #[case(json!({ "promptTokens": { "atMost": 2999 } }), Mismatch::TooLong { tokens: 3000, at_most: 2999 })]
    #[case(json!({ "budgetUsedPercent": { "atLeast": 81 } }), Mismatch::LessUsed { percent: 80, at_least: 81 })]
    #[case(json!({ "budgetUsedPercent": { "atMost": 79 } }), Mismatch::MoreUsed { percent: 80, at_most: 79 })]
    #[case(json!({ "taskTypes": ["refactor"] }), Mismatch::Label("taskType"))]
    #[case(json!({ "priorities": ["P0", "P2"] }), Mismatch::Label("priority"))]
    #[case(json!({ "complexity": ["High"] }), Mismatch::NoLabel("complexity"))]
    #[case(json!({ "agentPools": ["planner"] }), Mismatch::AgentPool)]
    #[case(json!({ "labels": { "data": ["phi"] } }), Mismatch::Label("data"))]
    #[case(json!({ "labels": { "region": ["eu"] } }), Mismatch::NoLabel("region"))]
    #[case(json!({ "labels": { "data": [] } }), Mismatch::Label("data"))]
    #[case(json!({ "taskTypes": ["qa"], "labels": { "data": ["phi"] } }), Mismatch::Label("data"))]
    fn a_member_that_does_not_hold_is_named(#[case] when: Value, #[case] mismatch: Mismatch<'static>) {
        let when: When = serde_json::from_value(when).unwrap();
        assert_eq!(found(&when), Some(mismatch));
    }

    #[test]
    fn a_call_without_a_priority_has_none() {
        let asked = Asked { labels: &Labels::new(), caller: "coder", prompt_tokens: 0, budget_used_percent: None };
        let when = serde_json::from_value(json!({ "priorities": ["P0", "P1", "P2", "P3", "P4"] })).unwrap();
        assert_eq!(mismatch(&when, &asked), Some(Mismatch::NoLabel("priority")));
    }

    #[rstest]
    #[case(json!({ "atLeast": 0 }), None)]
    #[case(json!({ "atMost": 0 }), None)]
    #[case(json!({ "atLeast": 0, "atMost": 50 }), None)]
    #[case(json!({ "atLeast": 1 }), Some(Mismatch::LessUsed { percent: 0, at_least: 1 }))]
    fn where_no_budget_covers_a_call_nothing_is_used(#[case] range: Value, #[case] expected: Option<Mismatch<'static>>) {
        let asked = Asked { labels: &Labels::new(), caller: "coder", prompt_tokens: 0, budget_used_percent: None };
        let when: When = serde_json::from_value(json!({ "budgetUsedPercent": range })).unwrap();
        assert_eq!(mismatch(&when, &asked), expected);
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |name: &str, when: Value| Rule {
            name: name.to_owned(),
            when: serde_json::from_value(when).unwrap(),
            strategy: Strategy::Priority,
            backends: Vec::new(),
        };
        let rules = [
            rule("long", json!({ "promptTokens": { "atLeast": 3001 } })),
            rule("qa", json!({ "taskTypes": ["qa"] })),
            rule("all", json!({})),
        ];
        let labels = labels();
        let asked = |tokens| Asked { labels: &labels, caller: "coder", prompt_tokens: tokens, budget_used_percent: None };
        assert_eq!(first_match(&rules, &asked(5000)).map(|rule| rule.name.as_str()), Some("long"));
        assert_eq!(first_match(&rules, &asked(10)).map(|rule| rule.name.as_str()), Some("qa"));
        assert_eq!(first_match(&rules[..1], &asked(10)), None);
    }
}
