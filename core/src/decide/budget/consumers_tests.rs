use serde_json::{Value, json};

use super::super::testing::{NOVEMBER, budget};
use super::*;

fn caller(pool: &str, route: &str, tier: Option<&str>, blocked: bool, new_tasks_refused: bool) -> Value {
    let mut row = json!({ "agentPool": pool, "modelRoute": route, "blocked": blocked, "newTasksRefused": new_tasks_refused });
    if let Some(tier) = tier {
        row["tierCeiling"] = json!(tier);
    }
    row
}

/// A budget of two pools with this phase that holds these callers back.
fn with(members: &Value, phase: &str, callers: &[Value]) -> TokenBudget {
    let mut budget = budget(members);
    let status = json!({
        "phase": phase, "period": { "start": NOVEMBER }, "verdict": { "level": "Alert", "callers": callers },
        "touches": { "agentPools": ["batch", "coder"], "inferenceBackends": ["small"] },
    });
    budget.status = Some(serde_json::from_value(status).unwrap());
    budget
}

fn named<'a>(budgets: &'a [(&'a str, TokenBudget)]) -> Vec<(String, &'a TokenBudget)> {
    budgets.iter().map(|(name, budget)| ((*name).to_owned(), budget)).collect()
}

fn phases(budgets: &[BudgetPhase]) -> Vec<(&str, Phase)> {
    budgets.iter().map(|budget| (budget.name.as_str(), budget.phase)).collect()
}

#[test]
fn a_pool_finds_the_budgets_that_cover_it_and_the_one_that_pauses_it() {
    let block = json!({});
    let budgets = [
        ("wall", with(&block, "Exhausted", &[caller("coder", "router", None, true, true)])),
        ("free", with(&block, "Active", &[])),
        (
            "pause",
            with(&block, "Throttled", &[caller("coder", "router", None, false, true), caller("batch", "r", None, false, true)]),
        ),
        ("tier", with(&block, "Throttled", &[caller("batch", "router", Some("Economy"), false, false)])),
    ];
    let of = |pool| of_pool(&named(&budgets), pool);
    let all = [("free", Phase::Active), ("pause", Phase::Throttled), ("tier", Phase::Throttled), ("wall", Phase::Exhausted)];
    for (pool, paused_by) in [("coder", Some("pause")), ("batch", Some("pause"))] {
        let found = of(pool);
        assert_eq!((found.paused_by.as_deref(), phases(&found.budgets)), (paused_by, all.to_vec()), "{pool}: the first by name");
    }
    assert_eq!(of("stranger"), PoolBudgets::default());
    let without_pause: Vec<_> = named(&budgets).into_iter().filter(|(name, _)| name != "pause").collect();
    assert_eq!(of_pool(&without_pause, "coder").paused_by.as_deref(), Some("wall"));
    assert_eq!(of_pool(&without_pause, "batch").paused_by, None, "a lower tier pauses nobody");
}

#[test]
fn a_pool_beyond_those_that_a_status_lists_as_touched_finds_itself_among_those_held_back() {
    let budgets = [("sprint", with(&json!({}), "Exhausted", &[caller("late", "router", None, true, true)]))];
    let found = of_pool(&named(&budgets), "late");
    assert_eq!((found.paused_by.as_deref(), phases(&found.budgets)), (Some("sprint"), vec![("sprint", Phase::Exhausted)]));
}

#[test]
fn a_pool_is_paused_also_where_its_calls_that_fit_are_answered_and_where_an_older_definition_cannot_say_so() {
    let row = |members: Value| {
        let mut row = caller("coder", "router", None, false, false);
        row.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        row
    };
    for (members, is_paused) in [
        (json!({ "paused": true }), true),
        (json!({ "newTasksRefused": true, "paused": true }), true),
        (json!({ "newTasksRefused": true }), true),
        (json!({ "tierCeiling": "Economy", "paused": false }), false),
        (json!({ "tierCeiling": "Economy" }), false),
    ] {
        let budgets = [("sprint", with(&json!({}), "Exhausted", &[row(members.clone())]))];
        assert_eq!(of_pool(&named(&budgets), "coder").paused_by.is_some(), is_paused, "{members}");
    }
}

#[test]
fn a_budget_that_does_nothing_is_nobodys() {
    let held = [caller("coder", "router", None, true, true)];
    let mut deleted = with(&json!({}), "Exhausted", &held);
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!(NOVEMBER)).unwrap();
    let mut fresh = with(&json!({}), "Exhausted", &held);
    fresh.status = None;
    let mut tried = with(&json!({}), "Exhausted", &held);
    tried.status.as_mut().unwrap().enforcement = Some(Enforcement::DryRun);
    let mut resumed = with(&json!({}), "Exhausted", &held);
    let suspended = json!([{
        "type": "Suspended", "status": "True", "reason": "Suspended", "message": "", "lastTransitionTime": NOVEMBER,
    }]);
    resumed.status.as_mut().unwrap().conditions = serde_json::from_value(suspended).unwrap();
    for (why, budget) in [
        ("a dry run", with(&json!({ "enforcement": "DryRun" }), "Exhausted", &held)),
        ("suspended", with(&json!({ "suspend": true }), "Exhausted", &held)),
        ("being deleted", deleted),
        ("without a status", fresh),
        ("with the status of a dry run", tried),
        ("with the status of one that was suspended", resumed),
    ] {
        let budgets = [("sprint", budget)];
        let named = named(&budgets);
        assert_eq!(of_pool(&named, "coder"), PoolBudgets::default(), "{why}");
        assert!(of_route(&named, "router").is_empty() && of_backend(&named, "small").is_empty(), "{why}");
    }
}

#[test]
fn a_route_finds_who_is_held_back_by_which_budget() {
    let block = json!({});
    let budgets = [
        (
            "sprint",
            with(
                &block,
                "Throttled",
                &[
                    caller("coder", "router", Some("Standard"), false, false),
                    caller("coder", "assistant", Some("Standard"), false, false),
                    caller("batch", "router", Some("Economy"), false, true),
                ],
            ),
        ),
        ("day", with(&block, "Exhausted", &[caller("coder", "router", None, true, true)])),
    ];
    let lines = of_route(&named(&budgets), "router");
    let shown: Vec<_> =
        lines.iter().map(|line| (line.agent_pool.as_str(), line.tier, line.blocked, line.budget.as_str())).collect();
    let expected = [
        ("batch", Some(Tier::Economy), false, "sprint"),
        ("coder", None, true, "day"),
        ("coder", Some(Tier::Standard), false, "sprint"),
    ];
    assert_eq!(shown, expected);
    assert_eq!(lines[1].phase, Phase::Exhausted);
    assert_eq!(of_route(&named(&budgets), "elsewhere"), vec![]);
}

#[test]
fn a_backend_finds_budgets_from_their_first_step_on() {
    let block = json!({});
    let phased = ["Pending", "Active", "Warning", "Throttled", "Exhausted"].map(|phase| (phase, with(&block, phase, &[])));
    let found = of_backend(&named(&phased), "small");
    let expected = [("Exhausted", Phase::Exhausted), ("Throttled", Phase::Throttled), ("Warning", Phase::Warning)];
    assert_eq!(phases(&found), expected);
    assert_eq!(of_backend(&named(&phased), "large"), vec![]);
}
