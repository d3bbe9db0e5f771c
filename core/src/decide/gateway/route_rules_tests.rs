use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn rules(whens: &[Value]) -> Vec<RouteRule> {
    let rule = |(number, when): (usize, &Value)| {
        let rule = json!({ "name": format!("r{number}"), "when": when, "backends": [{ "name": "b" }] });
        serde_json::from_value(rule).unwrap()
    };
    whens.iter().enumerate().map(rule).collect()
}

#[rstest]
#[case(&[json!({ "promptTokens": { "atLeast": 3000 } }), json!({ "promptTokens": { "atLeast": 1000 } })])]
#[case(&[json!({ "taskTypes": ["refactor"] }), json!({ "taskTypes": ["refactor", "qa"] })])]
#[case(&[json!({ "taskTypes": ["refactor"], "priorities": ["P0"] }), json!({ "taskTypes": ["refactor"] })])]
#[case(&[json!({ "labels": { "data": ["pii"] } }), json!({ "labels": { "intent": ["pii"] } })])]
#[case(&[json!({ "agentPools": ["a"] }), json!({ "promptTokens": { "atMost": 5 } })])]
#[case(&[json!({ "promptTokens": { "atLeast": 5, "atMost": 5 } }), json!({ "promptTokens": { "atLeast": 0, "atMost": 5 } })])]
#[case(&[json!({ "budgetUsedPercent": { "atLeast": 90 } }), json!({ "budgetUsedPercent": { "atLeast": 50 } })])]
#[case(&[json!({ "budgetUsedPercent": { "atLeast": 50 } }), json!({ "promptTokens": { "atLeast": 50 } })])]
#[case(&[json!({ "budgetUsedPercent": { "atLeast": 50 }, "taskTypes": ["a"] }), json!({ "budgetUsedPercent": { "atLeast": 90 } })])]
#[case(&[json!({ "taskTypes": ["a", "b"], "labels": { "taskType": ["b", "c"] } }), json!({ "taskTypes": ["a"] })])]
fn rules_that_can_each_decide_are_accepted(#[case] whens: &[Value]) {
    assert_eq!(check(&rules(whens)), Ok(()));
}

#[rstest]
#[case(json!({}), "spec.rules[r0].when is empty")]
#[case(json!({ "promptTokens": {} }), "spec.rules[r0].when is empty")]
#[case(json!({ "taskTypes": [] }), "spec.rules[r0].when is empty")]
#[case(json!({ "labels": { "data": [] } }), "spec.rules[r0].when.labels[data] has no value")]
#[case(json!({ "promptTokens": { "atLeast": 6, "atMost": 5 } }), "spec.rules[r0].when.promptTokens")]
#[case(json!({ "budgetUsedPercent": { "atLeast": 0 } }), "spec.rules[r0].when is empty")]
#[case(json!({ "budgetUsedPercent": { "atLeast": 90, "atMost": 80 } }), "spec.rules[r0].when.budgetUsedPercent")]
#[case(json!({ "taskTypes": ["a"], "labels": { "taskType": ["b"] } }), "two values of the label taskType")]
#[case(json!({ "priorities": ["P0"], "labels": { "priority": ["P1"] } }), "two values of the label priority")]
fn a_rule_that_takes_all_calls_or_none_is_refused(#[case] when: Value, #[case] told: &str) {
    let problem = check(&rules(&[when])).unwrap_err().to_string();
    assert!(problem.contains(told), "{problem}");
}

#[rstest]
#[case(json!({ "promptTokens": { "atLeast": 1000 } }), json!({ "promptTokens": { "atLeast": 3000 } }))]
#[case(json!({ "taskTypes": ["refactor", "qa"] }), json!({ "taskTypes": ["qa"], "userTiers": ["free"] }))]
#[case(json!({ "taskTypes": ["refactor", "qa"] }), json!({ "labels": { "taskType": ["qa"] } }))]
#[case(json!({ "labels": { "priority": ["P0", "P1"] } }), json!({ "priorities": ["P1"] }))]
#[case(json!({ "agentPools": ["a", "b"] }), json!({ "agentPools": ["b"], "promptTokens": { "atMost": 5 } }))]
#[case(json!({ "complexity": ["High"] }), json!({ "complexity": ["High"] }))]
#[case(json!({ "budgetUsedPercent": { "atLeast": 50 } }), json!({ "budgetUsedPercent": { "atLeast": 90 }, "taskTypes": ["a"] }))]
#[case(json!({ "budgetUsedPercent": { "atMost": 90 } }), json!({ "budgetUsedPercent": { "atLeast": 50, "atMost": 90 } }))]
fn a_rule_behind_one_that_takes_all_of_its_calls_is_refused(#[case] earlier: Value, #[case] later: Value) {
    let problem = check(&rules(&[json!({ "labels": { "other": ["x"] } }), earlier, later])).unwrap_err().to_string();
    assert!(problem.starts_with("spec.rules[r2] never decides") && problem.contains("spec.rules[r1]"), "{problem}");
}

#[test]
fn two_rules_of_the_same_name_are_refused() {
    let mut rules = rules(&[json!({ "taskTypes": ["a"] }), json!({ "taskTypes": ["b"] })]);
    rules[1].name = "r0".into();
    assert!(check(&rules).unwrap_err().to_string().contains("spec.rules[r0] stands there twice"));
}
