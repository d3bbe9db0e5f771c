//! Routes that are more than a ConfigMap can hold.

use serde_json::{Value, json};

use super::harness::{answered_by, message, server, to, with};
use crate::harness::{Team, condition};

/// A route whose rules ask for as many bytes as this.
fn large(bytes: usize) -> Value {
    const VALUES: usize = 64;
    const LENGTH: usize = 200;
    let values: Vec<String> = (0..VALUES).map(|number| format!("{number:0LENGTH$}")).collect();
    let number = bytes / (VALUES * LENGTH);
    let rules: Vec<Value> = (0..number)
        .map(|rule| {
            let labels = json!({ format!("label-{rule}"): values });
            json!({ "name": format!("rule-{rule}"), "when": { "labels": labels }, "backends": [{ "name": "one" }] })
        })
        .collect();
    with(to(&["one"]), json!({ "rules": rules }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_without_room_leaves_out_the_newest_says_so_and_takes_it_in_once_there_is_room() {
    let team = Team::new("too-large").await;
    let server = server().await;
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    // The plan has each route twice, as it is asked for and as it is carried out: there is room for one of these, not for two.
    team.apply_route("first", large(300_000)).await;
    team.until_plan("has the first route", |plan| plan["routes"]["first"].is_object()).await;
    team.until_older("first").await;
    team.apply_route("second", large(300_000)).await;
    let left_out = team.until_route_says("second", "Programmed", "False", "PlanTooLarge").await;
    for type_ in ["Programmed", "Ready", "Stalled"] {
        let words = message(&left_out, type_);
        for part in ["more than a ConfigMap can hold", "make the route smaller, remove others, or move some to another namespace"] {
            assert!(words.contains(part), "{type_}: {words}");
        }
    }
    assert_eq!(condition(&left_out, "Accepted").unwrap()["status"], "True", "the spec itself is good: {left_out:#}");
    team.until_route_told_once("second", "PlanTooLarge").await;

    // A small one that is newer still has room, and so has an edit of the first.
    team.apply_route("third", to(&["one"])).await;
    team.apply_route("first", with(large(300_000), json!({ "aliases": ["edited"] }))).await;
    let both = |plan: &Value| plan["routes"]["third"].is_object() && plan["routes"]["first"]["aliases"] == json!(["edited"]);
    let plan = team.until_plan("has the small route and the edit", both).await;
    assert!(plan["routes"].get("second").is_none());

    // An edit that makes a route too large leaves its last form in force.
    team.apply_route("third", large(300_000)).await;
    let too_large = team.until_route_says("third", "Programmed", "False", "PlanTooLarge").await;
    assert!(message(&too_large, "Ready").ends_with("; generation 1 stays in force"), "{too_large:#}");
    assert_eq!(team.plan().await["routes"]["third"]["rules"], Value::Null);

    // Room that another leaves is taken, without anybody's touching the route.
    team.routes().delete("first", &Default::default()).await.unwrap();
    team.until_plan("has the second route", |plan| plan["routes"]["second"].is_object()).await;
    team.until_route("second", "no word of too little room", |route| {
        condition(route, "Programmed").is_some_and(|programmed| programmed["reason"] != "PlanTooLarge")
    })
    .await;
}
