//! A route from its first version to its last, and the objects that all routes of a namespace own together.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::gateway::{answered, call, chat};
use super::harness::{answered_by, calls, message, server, to, with};
use crate::columns::row;
use crate::harness::{DEADLINE, Team, condition, resource};

/// The objects of a gateway: group, version, kind, plural, name.
const OBJECTS: [(&str, &str, &str, &str, &str); 8] = [
    ("", "v1", "ServiceAccount", "serviceaccounts", "quartermaster-gateway"),
    ("", "v1", "Secret", "secrets", "quartermaster-gateway"),
    ("", "v1", "Secret", "secrets", "quartermaster-gateway-certificate"),
    ("", "v1", "ConfigMap", "configmaps", "quartermaster-gateway-plan"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "quartermaster-gateway"),
    ("", "v1", "Service", "services", "quartermaster-gateway"),
    ("apps", "v1", "Deployment", "deployments", "quartermaster-gateway"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "quartermaster-gateway"),
];

/// The names of the owners of every object of the gateway, none of whom controls it.
async fn until_owned_by(team: &Team, names: &[&str]) {
    for (group, version, kind, plural, name) in OBJECTS {
        let owned = |object: &Value| {
            let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default();
            let alike = |owner: &Value| owner["kind"] == "ModelRoute" && owner.get("controller").is_none_or(|one| *one == false);
            let mut found: Vec<_> = owners.iter().map(|owner| owner["name"].as_str().unwrap()).collect();
            found.sort_unstable();
            found == names && owners.iter().all(alike)
        };
        let what = format!("{kind} {name} belongs to {names:?}");
        team.until_in(&team.api(&resource(group, version, kind, plural)), name, &what, owned).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_comes_before_its_backends_is_ready_when_one_answers_and_shows_what_it_is() {
    let (team, server) = (Team::new("route-life").await, server().await);
    team.run_gateways(2);
    team.apply_route("router", with(to(&["one", "two"]), json!({ "modelName": "gpt-5", "strategy": "Priority" }))).await;
    // Before the operator has seen it, nothing is claimed.
    let cells = row(&team.kubectl(&["get", "mroute"]));
    let names: Vec<&str> = cells.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["NAME", "READY", "MODEL-NAME", "STRATEGY", "BACKENDS", "BUDGET", "AGE"]);
    assert!(cells[1..6].iter().all(|(_, cell)| cell.is_empty()), "{cells:?}");

    let _operator = team.operator_of_routes().await;
    let waiting = team.until_route_says("router", "Ready", "False", "BackendNotFound").await;
    assert_eq!(condition(&waiting, "Reconciling").unwrap()["status"], "True", "somebody may make the backend: {waiting:#}");
    assert_eq!(condition(&waiting, "ResolvedRefs").unwrap()["status"], "False");
    assert_eq!(waiting["status"]["readyBackends"], "0/2");
    assert!(team.deployments().get_opt("quartermaster-gateway").await.unwrap().is_none(), "a gateway with nothing to do");

    team.apply("one", answered_by(&server, &[])).await;
    let partly = team.until_route_says("router", "Ready", "True", "PartiallyAvailable").await;
    assert_eq!(partly["status"]["readyBackends"], "1/2");
    assert!(message(&partly, "Ready").contains("two (BackendNotFound)"), "{partly:#}");
    team.until_programmed("router").await;
    team.apply("two", answered_by(&server, &[])).await;
    let ready = team.until_route_says("router", "Ready", "True", "Available").await;
    let endpoint = format!("http://quartermaster-gateway.{}.svc:4000", team.namespace);
    assert_eq!(ready["status"]["endpoint"], json!(endpoint));
    let cells = row(&team.kubectl(&["get", "mroute", "router", "-o", "wide"]));
    let cell = |name: &str| cells.iter().find(|(column, _)| column == name).map(|(_, cell)| cell.as_str());
    for (column, expected) in [
        ("READY", "True"),
        ("MODEL-NAME", "gpt-5"),
        ("STRATEGY", "Priority"),
        ("BACKENDS", "2/2"),
        ("BUDGET", ""),
        ("ENDPOINT", endpoint.as_str()),
        ("REASON", "Available"),
    ] {
        assert_eq!(cell(column), Some(expected), "{cells:?}");
    }
    let (code, said) = team.kubectl_with_input(&["wait", "--for=condition=Programmed", "mroute/router", "--timeout=10s"], "");
    assert_eq!(code, 0, "{said}");
    // It was never said to be live before a replica was.
    let versions = team.route_versions_of("router");
    let programmed = |version: &Value| condition(version, "Programmed").is_some_and(|one| one["status"] == "True");
    let first = versions.iter().position(programmed).unwrap();
    assert!(versions[..first].iter().any(|version| condition(version, "Programmed").is_some()), "{versions:#?}");
    assert!(versions[..first].iter().all(|version| condition(version, "Ready").is_none_or(|ready| ready["status"] == "False")));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_routes_own_the_gateway_and_the_last_takes_it_along() {
    let (team, server) = (Team::new("owners").await, server().await);
    team.run_gateways(2);
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    for name in ["a", "b", "c"] {
        team.apply_route(name, to(&["one"])).await;
    }
    team.apply_route("bad", to(&["nothing"])).await;
    team.apply_pool("people", calls(&["a", "b"])).await;
    until_owned_by(&team, &["a", "b", "bad", "c"]).await;
    let before = team.until_gateways(2).await;
    for name in ["b", "bad"] {
        team.routes().delete(name, &Default::default()).await.unwrap();
    }
    until_owned_by(&team, &["a", "c"]).await;
    assert_eq!(team.until_gateways(2).await, before, "no replica has ended with one of several routes");
    // What is deleted is gone at once.
    let key = team.key_of("people").await;
    team.until_programmed("a").await;
    for replica in &before {
        let started = Instant::now();
        while call(replica, &key, &chat("b", "hello")).await.status() != 404 {
            assert!(started.elapsed() < DEADLINE, "the deleted route answers still");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(answered(replica, &key, "a").await, "one");
    }

    team.kubectl(&["delete", "modelroutes", "--all"]);
    for (group, version, kind, plural, name) in OBJECTS {
        team.until_in(&team.api(&resource(group, version, kind, plural)), name, "go with the last route", Value::is_null).await;
    }
    let settings = team.config_maps().get_opt("quartermaster-gateway").await.unwrap();
    assert!(settings.is_some(), "what the users have made is theirs");
    team.until_in(&team.secrets(), "people-caller", "stay with its pool", Value::is_object).await;
    // The first route after that begins anew.
    team.apply_route("d", to(&["one"])).await;
    team.until_programmed("d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_route_stays_as_it_is_shows_its_state_and_follows_its_spec_again_later() {
    let (team, server) = (Team::new("suspended").await, server().await);
    team.run_gateways(1);
    let _operator = team.operator_of_routes().await;
    for name in ["one", "two"] {
        team.apply(name, answered_by(&server, &[])).await;
    }
    team.apply_pool("people", calls(&["router", "late"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    let (key, replica) = (team.key_of("people").await, team.until_gateways(1).await.remove(0));
    team.until_known(&key, true).await;
    assert_eq!(answered(&replica, &key, "router").await, "one");

    team.apply_route("router", with(to(&["two"]), json!({ "suspend": true }))).await;
    let suspended = team.until_route_says("router", "Programmed", "False", "Suspended").await;
    assert_eq!(condition(&suspended, "Suspended").unwrap()["status"], "True");
    assert!(message(&suspended, "Programmed").ends_with("; generation 1 stays in force"), "{suspended:#}");
    // One that begins suspended is not in force at all, and one that is made meanwhile is.
    team.apply_route("late", with(to(&["two"]), json!({ "suspend": true }))).await;
    let late = team.until_route_says("late", "Ready", "False", "Suspended").await;
    assert!(late.pointer("/status/endpoint").is_none(), "{late:#}");
    team.apply_route("other", to(&["two"])).await;
    team.until_programmed("other").await;
    assert_eq!(answered(&replica, &key, "router").await, "one", "the suspended edit is not in force");
    assert_eq!(call(&replica, &key, &chat("late", "hello")).await.status(), 404);

    team.apply_route("router", to(&["two"])).await;
    team.until_programmed("router").await;
    assert_eq!(answered(&replica, &key, "router").await, "two");
    team.apply_route("late", to(&["two"])).await;
    team.until_programmed("late").await;
    assert_eq!(answered(&replica, &key, "late").await, "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_has_is_told_and_left_alone_and_taken_when_it_is_free() {
    let (team, server) = (Team::new("taken-gateway").await, server().await);
    team.kubectl(&["create", "service", "clusterip", "quartermaster-gateway", "--tcp=80"]);
    let services = team.api(&resource("", "v1", "Service", "services"));
    let theirs = team.until_in(&services, "quartermaster-gateway", "exist", Value::is_object).await;
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    let stalled = team.until_route_says("router", "Ready", "False", "NameInUse").await;
    assert_eq!(condition(&stalled, "Stalled").unwrap()["status"], "True");
    for part in ["Service quartermaster-gateway exists and does not belong to this object", "rename one of the two, or delete it"] {
        assert!(message(&stalled, "Ready").contains(part), "{stalled:#}");
    }
    team.until_route_told_once("router", "NameInUse").await;
    let after = team.until_in(&services, "quartermaster-gateway", "exist", Value::is_object).await;
    assert_eq!((&theirs["spec"], &theirs["metadata"]["uid"]), (&after["spec"], &after["metadata"]["uid"]));
    assert!(team.deployments().get_opt("quartermaster-gateway").await.unwrap().is_none(), "nothing that would use it is made");

    team.kubectl(&["delete", "service", "quartermaster-gateway"]);
    // A name is tried again after a while, or at once where what is wanted of it changes: another route is another owner.
    team.apply_route("second", to(&["one"])).await;
    team.until_in(&team.deployments(), "quartermaster-gateway", "exist", Value::is_object).await;
    let healed = |route: &Value| condition(route, "Ready").is_some_and(|ready| ready["reason"] != "NameInUse");
    team.until_route("router", "no word of the name", healed).await;
}
