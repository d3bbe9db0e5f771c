use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rstest::rstest;
use serde_json::{Value, json};

use super::super::testing::{NOW, at, budget};
use super::*;

/// The budget with a status of a period in which nothing has happened, and these members of the status in place of its own.
fn told(spec: &Value, members: &Value) -> TokenBudget {
    let mut status = json!({
        "phase": "Active", "usedTokens": 10, "percentUsed": 1,
        "touches": { "agentPools": ["batch", "coder"], "modelRoutes": ["assistant", "router"], "inferenceBackends": ["large"] },
        "verdict": { "level": "Free" },
    });
    for (name, value) in members.as_object().unwrap() {
        status[name] = value.clone();
    }
    TokenBudget { status: Some(serde_json::from_value(status).unwrap()), ..budget(spec) }
}

fn row(pool: &str, route: &str, members: &Value) -> Value {
    let mut row = json!({ "agentPool": pool, "modelRoute": route, "blocked": false, "newTasksRefused": false });
    row.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    row
}

fn concerned(pools: &[&str], routes: &[&str], backends: &[&str]) -> Concerned {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Concerned { pools: names(pools), routes: names(routes), backends: names(backends) }
}

fn alerted() -> Value {
    json!({ "phase": "Warning", "verdict": { "level": "Alert" } })
}

fn downgraded() -> Value {
    let callers = [row("coder", "router", &json!({ "tierCeiling": "Economy" }))];
    json!({ "phase": "Throttled", "verdict": { "level": "Downgrade", "callers": callers } })
}

fn paused() -> Value {
    let held = |tier: &str| json!({ "tierCeiling": tier, "newTasksRefused": true, "paused": true });
    let callers = [row("batch", "router", &held("Economy")), row("coder", "router", &json!({ "tierCeiling": "Economy" }))];
    json!({ "phase": "Throttled", "verdict": { "level": "PausePools", "callers": callers } })
}

#[rstest]
#[case::of_figures(json!({ "usedTokens": 20, "percentUsed": 2 }), concerned(&[], &[], &[]))]
#[case::of_the_first_step(alerted(), concerned(&["batch", "coder"], &[], &["large"]))]
#[case::of_a_tier(downgraded(), concerned(&["batch", "coder"], &["router"], &["large"]))]
fn a_change_concerns_whom_the_status_tells_something_else(#[case] members: Value, #[case] whom: Concerned) {
    let (before, after) = (told(&json!({}), &json!({})), told(&json!({}), &members));
    assert_eq!(Concerned::by(Some(&before), Some(&after)), whom);
    assert_eq!(Concerned::by(Some(&after), Some(&before)), whom, "the way back concerns the same");
}

#[test]
fn a_step_of_the_same_phase_concerns_only_whom_it_holds_back() {
    let (before, after) = (told(&json!({}), &downgraded()), told(&json!({}), &paused()));
    assert_eq!(Concerned::by(Some(&before), Some(&after)), concerned(&["batch"], &["router"], &[]));
}

#[test]
fn a_budget_that_comes_or_goes_concerns_all_whom_it_tells_something() {
    let budget = told(&json!({}), &downgraded());
    let all = concerned(&["batch", "coder"], &["router"], &["large"]);
    assert_eq!(Concerned::by(None, Some(&budget)), all);
    assert_eq!(Concerned::by(Some(&budget), None), all);
    let mut going = budget.clone();
    going.metadata.deletion_timestamp = Some(Time(at(NOW)));
    assert_eq!(Concerned::by(Some(&budget), Some(&going)), all, "one that is being deleted frees everybody");
    assert_eq!(Concerned::by(Some(&going), None), Concerned::default());
}

#[test]
fn what_a_budget_does_is_done_no_more_when_it_is_suspended() {
    let (before, after) = (told(&json!({}), &downgraded()), told(&json!({ "suspend": true }), &downgraded()));
    assert_eq!(Concerned::by(Some(&before), Some(&after)), concerned(&["batch", "coder"], &["router"], &["large"]));
    let unseen = told(&json!({ "suspend": true }), &json!({}));
    assert_eq!(Concerned::by(Some(&after), Some(&unseen)), Concerned::default(), "a dry run is nothing to the others");
}

#[test]
fn a_budget_that_was_only_tried_holds_back_whom_it_lists_once_its_status_says_that_it_does_so() {
    let listed = |enforcement: &str| {
        let mut members = paused();
        members["enforcement"] = json!(enforcement);
        members
    };
    let [tried, begun, done] = [("DryRun", "DryRun"), ("Block", "DryRun"), ("Block", "Block")]
        .map(|(spec, status)| told(&json!({ "enforcement": spec }), &listed(status)));
    assert_eq!(Concerned::by(Some(&tried), Some(&begun)), Concerned::default());
    let all = concerned(&["batch", "coder"], &["router"], &["large"]);
    assert_eq!(Concerned::by(Some(&begun), Some(&done)), all);
    assert_eq!(Concerned::by(Some(&done), Some(&tried)), all);
}

#[test]
fn a_budget_without_status_concerns_nobody() {
    assert_eq!(Concerned::by(None, Some(&budget(&json!({})))), Concerned::default());
}
