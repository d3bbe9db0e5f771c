//! An edit that cannot be accepted leaves the form in force that was accepted last, whatever becomes of the operator.

use serde_json::{Value, json};

use super::harness::{answered_by, message, server, to, with};
use crate::harness::{Team, condition};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_edit_leaves_the_last_good_form_in_force_also_over_a_restart_of_the_operator() {
    let team = Team::new("last-good").await;
    let server = server().await;
    let mut operator = team.operator_of_routes().await;
    for name in ["one", "two"] {
        team.apply(name, answered_by(&server, &[])).await;
    }
    team.apply_route("innocent", to(&["two"])).await;
    team.until_older("innocent").await;
    team.apply_route("edited", with(to(&["one"]), json!({ "aliases": ["good"] }))).await;
    let good = team.until_plan("has both routes", |plan| plan["routes"].as_object().is_some_and(|routes| routes.len() == 2)).await;

    let bad = [
        ("no backend", to(&["nothing"]), "BackendNotFound"),
        ("weights", json!({ "strategy": "Weighted", "backends": [{ "name": "two", "weight": 0 }] }), "InvalidSpec"),
        ("name", with(to(&["two"]), json!({ "modelName": "innocent" })), "ModelNameConflict"),
    ];
    for (what, spec, reason) in bad {
        team.apply_route("edited", spec).await;
        let refused = team.until_route_says("edited", "Accepted", "False", reason).await;
        assert!(message(&refused, "Ready").ends_with("; generation 1 stays in force"), "{what}: {refused:#}");
        assert!(refused.pointer("/status/endpoint").is_some(), "{what}: it still answers: {refused:#}");
        assert_eq!(team.plan().await, good, "{what}");
    }

    // The next operator knows of the good form by the ConfigMap alone.
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    let _operator = team.operator_of_routes().await;
    team.apply_route("later", to(&["two"])).await;
    let after = team.until_plan("has what came later", |plan| plan["routes"]["later"].is_object()).await;
    for route in ["edited", "innocent"] {
        assert_eq!(after["routes"][route], good["routes"][route], "{route}");
    }
    let refused = team.until_route_says("edited", "Accepted", "False", "ModelNameConflict").await;
    assert!(message(&refused, "Ready").ends_with("; generation 1 stays in force"), "{refused:#}");

    // A backend that goes does not take the form with it; what is left of it goes on.
    team.apply_route("both", to(&["one", "two"])).await;
    team.until_plan("has two backends", |plan| plan["routes"]["both"]["backends"].as_array().is_some_and(|all| all.len() == 2))
        .await;
    team.backends().delete("one", &Default::default()).await.unwrap();
    let one_left = |plan: &Value| {
        plan["routes"]["both"]["backends"].as_array().is_some_and(|all| all.len() == 1) && plan["backends"].get("one").is_none()
    };
    team.until_plan("has lost the backend", one_left).await;
    let both = team.until_route_says("both", "ResolvedRefs", "False", "BackendNotFound").await;
    assert_eq!(condition(&both, "Accepted").unwrap()["status"], "True", "{both:#}");

    // What is mended comes into force, with no word of the past.
    team.apply_route("edited", to(&["two"])).await;
    team.until_route_says("edited", "Accepted", "True", "Accepted").await;
    team.until_plan("has the mended form", |plan| plan["routes"]["edited"]["backends"][0]["backend"] == "two").await;
}

/// A route that is gone is gone, though another one, which nobody can accept, keeps the gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_route_is_out_of_the_plan_although_only_a_refused_one_is_left() {
    let team = Team::new("only-refused").await;
    let server = server().await;
    let mut operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("good", to(&["one"])).await;
    team.until_plan("has the good route", |plan| plan["routes"]["good"].is_object()).await;
    team.apply_route("bad", to(&["nothing"])).await;
    team.until_route_says("bad", "Accepted", "False", "BackendNotFound").await;
    // What the other route does not own yet would go with this one, gateway and all.
    let has_both = |gateway: &Value| gateway["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.len() == 2);
    team.until_in(&team.deployments(), "quartermaster-gateway", "belongs to both routes", has_both).await;
    team.routes().delete("good", &Default::default()).await.unwrap();
    let empty = |plan: &Value| plan["routes"] == json!({}) && plan["backends"] == json!({});
    team.until_plan("has no route", empty).await;

    // Nor does a restart bring it back.
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    let _operator = team.operator_of_routes().await;
    team.apply("nothing", answered_by(&server, &[])).await;
    let plan = team.until_plan("has the other route", |plan| plan["routes"]["bad"].is_object()).await;
    assert!(plan["routes"].get("good").is_none(), "{plan:#}");
}
