//! The whole decision about the gateway of a namespace.

use serde_json::json;

use super::assemble::Resources;
use super::testing::{backends, edited, route};
use super::*;
use crate::decide::decision::Child;

fn observe() -> Observation {
    let routes = vec![route("a", 1, json!({ "backends": [{ "name": "small" }] }))];
    Observation {
        resources: Resources { namespace: "team".to_owned(), routes, backends: backends(), ..Resources::default() },
        image: "registry.example/quartermaster:1.0".to_owned(),
        operator_namespace: "quartermaster-system".to_owned(),
        ..Observation::default()
    }
}

fn made(observation: &Observation) -> Vec<Child> {
    match decide(observation).unwrap().children {
        Children::Exactly(children) => children,
        Children::Keep => Vec::new(),
    }
}

fn modes(observation: &Observation) -> Vec<(String, ApplyMode)> {
    made(observation).into_iter().map(|child| (child.identity.kind, child.mode)).collect()
}

#[test]
fn a_namespace_has_a_gateway_while_a_route_is_in_force() {
    let mut observation = observe();
    assert_eq!(made(&observation).len(), 6);
    observation.resources.backends.clear();
    assert_eq!(decide(&observation).unwrap().children, Children::Keep, "of a route that was never accepted nothing is made");
}

#[test]
fn a_gateway_without_a_route_in_force_stays_with_an_empty_plan_while_it_has_an_owner() {
    let mut observation = observe();
    observation.resources.backends.clear();
    observation.has_gateway = true;
    let decided = decide(&observation).unwrap();
    assert!(decided.assembled.plan.routes.is_empty());
    assert_eq!(made(&observation).len(), 6, "what was in force before is taken back");
    observation.resources.routes.clear();
    assert_eq!(decide(&observation).unwrap().children, Children::Keep, "the garbage collector takes it");
}

#[test]
fn a_refused_edit_changes_no_object() {
    let mut observation = observe();
    let before = decide(&observation).unwrap();
    let bad = edited(&observation.resources.routes[0], json!({ "backends": [{ "name": "nothing" }] }));
    observation.resources.routes = vec![bad];
    observation.resources.accepted = before.assembled.accepted.clone();
    let after = decide(&observation).unwrap();
    assert_eq!(after.children, before.children);
    assert!(after.assembled.routes["a"].refused.is_some());
}

#[test]
fn settings_that_cannot_be_understood_leave_the_pods_as_they_are_and_the_plan_goes_on() {
    let mut observation = observe();
    observation.settings.insert("replicas".into(), "many".into());
    let problem = decide(&observation).unwrap().settings_problem.unwrap();
    assert!(problem.starts_with("data.replicas "), "{problem}");
    let kept: Vec<_> = modes(&observation).into_iter().filter(|(_, mode)| *mode == ApplyMode::Keep).map(|(kind, _)| kind).collect();
    assert_eq!(kept, ["Deployment", "PodDisruptionBudget"]);
    observation.settings.insert("replicas".into(), "3".into());
    assert_eq!(decide(&observation).unwrap().settings_problem, None);
    assert!(modes(&observation).iter().all(|(_, mode)| *mode == ApplyMode::Apply));
}

#[test]
fn an_observation_is_written_and_read_back() {
    let observation = observe();
    let text = serde_json::to_string(&observation).unwrap();
    assert_eq!(serde_json::from_str::<Observation>(&text).unwrap(), observation);
}
