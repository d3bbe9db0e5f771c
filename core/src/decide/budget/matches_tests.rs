use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::testing::pools;
use super::*;
use crate::api::agent_pool::Criticality;

fn of(applies_to: Value) -> Result<Covers, InvalidSelector> {
    let mut pools = pools();
    pools.push(PoolFacts { name: "keyless".into(), routes: BTreeSet::new(), ..pools[0].clone() });
    pools.push(PoolFacts { name: "planner".into(), labels: BTreeMap::new(), ..pools[1].clone() });
    covers(&serde_json::from_value(applies_to).unwrap(), &pools)
}

fn covered(applies_to: Value) -> String {
    let covers = of(applies_to).unwrap();
    let line = |(name, routes): (&String, &Option<BTreeSet<String>>)| match routes {
        Some(routes) => format!("{name}: {}", routes.iter().cloned().collect::<Vec<_>>().join(" ")),
        None => name.clone(),
    };
    covers.iter().map(line).collect::<Vec<_>>().join(", ")
}

#[test]
fn members_that_are_there_must_all_match() {
    let dev = json!({ "matchLabels": { "team": "dev" } });
    let demand = |operator: &str, values: Option<Value>| {
        let mut demand = json!({ "key": "team", "operator": operator });
        if let Some(values) = values {
            demand["values"] = values;
        }
        json!({ "agentPoolSelector": { "matchExpressions": [demand] } })
    };
    for (applies_to, expected) in [
        (json!({}), "batch, coder, planner"),
        (json!({ "agentPoolSelector": {} }), "batch, coder, planner"),
        (json!({ "agentPoolSelector": dev.clone() }), "batch, coder"),
        (json!({ "modelRoutes": [{ "name": "assistant" }] }), "coder: assistant, planner: assistant"),
        (json!({ "modelRoutes": [{ "name": "assistant" }], "agentPoolSelector": dev }), "coder: assistant"),
        (json!({ "modelRoutes": [{ "name": "nobodys" }] }), ""),
        (json!({ "agentPoolSelector": { "matchLabels": { "team": "ops" } } }), ""),
        (demand("In", Some(json!(["dev", "ops"]))), "batch, coder"),
        (demand("NotIn", Some(json!(["dev"]))), "planner"),
        (demand("Exists", None), "batch, coder"),
        (demand("DoesNotExist", None), "planner"),
    ] {
        assert_eq!(covered(applies_to.clone()), expected, "{applies_to}");
    }
}

#[test]
fn a_pool_that_may_call_one_of_the_routes_counts_with_all_that_are_named_and_is_asked_about_its_own() {
    let covers = of(json!({ "modelRoutes": [{ "name": "router" }, { "name": "elsewhere" }] })).unwrap();
    assert_eq!(covers["coder"], Some(["elsewhere".to_owned(), "router".to_owned()].into()));
    let pools = pools();
    let [batch, coder] = &pools[..] else { panic!() };
    assert_eq!(counted(&covers, coder), ["router"]);
    let all = of(json!({})).unwrap();
    assert_eq!((counted(&all, batch), counted(&all, coder)), (vec!["router"], vec!["assistant", "router"]));
    let stranger = PoolFacts { name: "stranger".into(), criticality: Criticality::Critical, ..coder.clone() };
    assert_eq!(counted(&all, &stranger), Vec::<&str>::new());
}

#[test]
fn a_selector_that_kubernetes_would_not_take_is_told() {
    for demand in [json!({ "key": "team", "operator": "Like", "values": ["d"] }), json!({ "key": "team", "operator": "In" })] {
        let error = of(json!({ "agentPoolSelector": { "matchExpressions": [demand] } })).unwrap_err();
        assert!(error.to_string().starts_with("spec.appliesTo.agentPoolSelector"), "{error}");
    }
}
