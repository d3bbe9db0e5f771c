use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::decide::gateway::assemble::{Resources, assemble};

fn budget(name: &str, mut spec: Value) -> TokenBudget {
    for (field, value) in [("tokens", json!(1000)), ("period", json!({ "type": "Daily" })), ("appliesTo", json!({}))] {
        if spec.get(field).is_none() {
            spec[field] = value;
        }
    }
    serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
        "metadata": { "name": name, "namespace": "team", "uid": format!("uid-of-{name}") }, "spec": spec,
    }))
    .unwrap()
}

fn pool(name: &str, team: &str, routes: &[&str]) -> PoolFacts {
    PoolFacts {
        name: name.to_owned(),
        labels: [("team".to_owned(), team.to_owned())].into(),
        routes: names(routes),
        ..PoolFacts::default()
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn pools() -> Vec<PoolFacts> {
    vec![pool("coder", "dev", &["smart"]), pool("planner", "dev", &["smart", "small"]), pool("clerk", "office", &["small"])]
}

/// Names of budgets and of those whom they cover.
fn covered(planned: &[PlannedBudget]) -> Vec<(&str, Vec<&str>)> {
    planned.iter().map(|budget| (budget.name.as_str(), budget.callers.iter().map(String::as_str).collect())).collect()
}

fn planned(name: &str, callers: &[&str]) -> PlannedBudget {
    PlannedBudget { name: name.to_owned(), callers: names(callers), ..PlannedBudget::default() }
}

fn callers(names: &[&str]) -> BTreeMap<String, Caller> {
    names.iter().map(|name| ((*name).to_owned(), Caller::default())).collect()
}

#[test]
fn a_budget_covers_the_calls_of_the_pools_that_it_selects_of_the_routes_that_it_names() {
    let selector = json!({ "agentPoolSelector": { "matchLabels": { "team": "dev" } } });
    let budgets = [
        budget("everything", json!({})),
        budget("dev", json!({ "appliesTo": selector, "enforcement": "Alert", "whenUsageUnknown": "Allow" })),
        budget("small", json!({ "appliesTo": { "modelRoutes": [{ "name": "small" }] } })),
        budget("nobody", json!({ "appliesTo": { "agentPoolSelector": { "matchLabels": { "team": "none" } } } })),
    ];
    let planned = of(&budgets, &pools());
    assert_eq!(
        covered(&planned),
        [("everything", vec!["clerk", "coder", "planner"]), ("dev", vec!["coder", "planner"]), ("small", vec!["clerk", "planner"]),]
    );
    let routes: Vec<_> = planned.iter().map(|budget| budget.routes.clone()).collect();
    assert_eq!(routes, [None, None, Some(names(&["small"]))]);
    let terms: Vec<_> = planned.iter().map(|budget| (budget.enforcement, budget.when_usage_unknown)).collect();
    let default = (Enforcement::Block, WhenUsageUnknown::Hold);
    assert_eq!(terms, [default, (Enforcement::Alert, WhenUsageUnknown::Allow), default]);
}

#[test]
fn a_budget_that_is_suspended_or_being_deleted_covers_nobody() {
    let mut going = budget("going", json!({}));
    going.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-11-25T12:00:00Z")).unwrap());
    let budgets = [going, budget("suspended", json!({ "suspend": true })), budget("acting", json!({ "suspend": false }))];
    assert_eq!(covered(&of(&budgets, &pools())), [("acting", vec!["clerk", "coder", "planner"])]);
}

#[test]
fn a_budget_covers_nobody_before_its_first_period_starts() {
    let period = |type_: &str, more: Value| {
        let mut period = json!({ "type": type_, "start": "2026-11-26T09:00", "timeZone": "Europe/Madrid" });
        period.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "period": period })
    };
    let budgets = [
        budget("daily", json!({})),
        budget("sprint", period("Sprint", json!({ "lengthDays": 14 }))),
        budget("once", period("Once", json!({ "end": "2026-11-30T18:00" }))),
    ];
    let start = "2026-11-26T08:00:00Z".parse::<Timestamp>().unwrap().as_second();
    assert_eq!(of(&budgets, &pools()).iter().map(|budget| budget.from).collect::<Vec<_>>(), [None, Some(start), Some(start)]);
}

#[test]
fn a_budget_that_never_came_into_force_covers_nobody_and_one_that_did_goes_on() {
    let nowhere = json!({ "period": { "type": "Daily", "timeZone": "Mars/Base" } });
    let of_phase = |spec: &Value, status: Value| {
        let mut budget = budget("sprint", spec.clone());
        budget.status = serde_json::from_value(status).unwrap();
        of(&[budget], &pools()).iter().map(|budget| budget.from).collect::<Vec<_>>()
    };
    for (status, goes_on) in [
        (json!({ "phase": "Pending" }), false),
        (json!({ "phase": "Active" }), true),
        (json!({ "phase": "Exhausted" }), true),
        // Nobody has looked at it, or can read what was found.
        (json!({}), true),
        (Value::Null, true),
    ] {
        assert_eq!(of_phase(&nowhere, status.clone()), if goes_on { vec![None::<i64>] } else { vec![] }, "{status}");
        assert_eq!(of_phase(&json!({}), status), [None::<i64>], "a good spec comes into force");
    }
}

#[test]
fn a_selector_that_cannot_be_understood_covers_everybody() {
    let expression = json!({ "key": "team", "operator": "Near", "values": ["dev"] });
    let odd = budget("odd", json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [expression] } } }));
    assert_eq!(covered(&of(&[odd], &pools())), [("odd", vec!["clerk", "coder", "planner"])]);
}

#[test]
fn the_plan_names_budgets_in_one_order_and_only_those_who_can_call() {
    let resources = Resources {
        namespace: "team".to_owned(),
        callers: callers(&["coder", "planner"]),
        budgets: vec![planned("b", &["coder", "gone"]), planned("a", &["planner"]), planned("c", &["gone"])],
        ..Resources::default()
    };
    assert_eq!(covered(&assemble(&resources).plan.budgets), [("a", vec!["planner"]), ("b", vec!["coder"])]);
}

#[test]
fn budgets_that_are_too_many_are_one_that_refuses_every_call_that_nobody_has_granted() {
    let callers = callers(&["coder", "planner"]);
    let many: Vec<_> = (0..=MOST).map(|number| planned(&format!("b{number}"), &["coder"])).collect();
    assert_eq!(bounded(&many[..MOST], &callers).len(), MOST);
    let all = PlannedBudget {
        name: "*".to_owned(),
        callers: names(&["coder", "planner"]),
        routes: None,
        from: None,
        enforcement: Enforcement::Block,
        when_usage_unknown: WhenUsageUnknown::Hold,
    };
    assert_eq!(bounded(&many, &callers), std::slice::from_ref(&all));
    let later: Vec<_> = (1..).zip(&many).map(|(from, budget)| PlannedBudget { from: Some(from), ..budget.clone() }).collect();
    assert_eq!(bounded(&later, &callers), [PlannedBudget { from: Some(1), ..all.clone() }]);
    // Few, but of many names.
    let routes = (0..40).map(|number| format!("{number}-{}", "x".repeat(40))).collect();
    let large = PlannedBudget { routes: Some(routes), ..planned("large", &["coder"]) };
    let large: Vec<_> = (0..100).map(|number| PlannedBudget { name: format!("b{number}"), ..large.clone() }).collect();
    assert_eq!(bounded(&large, &callers), [all]);
}

#[test]
fn a_plan_without_budgets_is_written_as_before_there_were_any() {
    let resources = Resources { namespace: "team".to_owned(), ..Resources::default() };
    let json = serde_json::to_value(assemble(&resources).plan).unwrap();
    assert_eq!(json.get("budgets"), None);
    let written = serde_json::to_value(planned("a", &["coder"])).unwrap();
    let expected = json!({ "name": "a", "callers": ["coder"], "enforcement": "Block", "whenUsageUnknown": "Hold" });
    assert_eq!(written, expected);
    let later = serde_json::to_value(PlannedBudget { from: Some(1_795_680_000), ..planned("a", &["coder"]) }).unwrap();
    assert_eq!(later["from"], json!(1_795_680_000));
}
