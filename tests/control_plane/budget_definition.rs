//! What the API server makes of the definition of TokenBudgets: what it refuses, in which words, and what kubectl shows.

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::columns::row;
use crate::harness::Team;

/// A budget that is good but for these members; a null removes one.
fn budget(name: &str, members: &Value) -> Value {
    let mut spec = json!({ "tokens": 1000, "period": { "type": "Monthly" }, "appliesTo": {} });
    for (name, value) in members.as_object().unwrap() {
        match value {
            Value::Null => spec.as_object_mut().unwrap().remove(name),
            value => spec.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    json!({ "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget", "metadata": { "name": name }, "spec": spec })
}

/// What the API server says to a new budget, which is never stored.
async fn refusal(team: &Team, name: &str, members: &Value) -> String {
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    match team.budgets().create(&parameters, &serde_json::from_value(budget(name, members)).unwrap()).await {
        Err(kube::Error::Api(status)) if status.code == 422 => status.message.clone(),
        other => panic!("{members} was not refused: {other:?}"),
    }
}

/// Checks that each budget is refused with all of its words.
async fn all_refused(team: &Team, cases: &[(Value, &[&str])]) {
    for (members, words) in cases {
        let message = refusal(team, "bad", members).await;
        for word in *words {
            assert!(message.contains(word), "{members}\nis refused without `{word}`:\n{message}");
        }
    }
}

fn period(period: Value) -> Value {
    json!({ "period": period })
}

fn threshold(threshold: Value) -> Value {
    json!({ "thresholds": [threshold] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_contradicts_itself_is_refused_with_the_field_and_what_to_do() {
    let team = Team::new("budget-rules").await;
    let start = "2026-11-16T09:00";
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({ "tokens": null }), &["spec.tokens or spec.cost is required"]),
        (json!({ "cost": "0.000" }), &["spec.cost: Invalid value", "must be more than 0", "remove it"]),
        (
            json!({ "share": null, "thresholds": [{ "atPercent": 85, "action": "Redistribute" }] }),
            &["spec.thresholds: Invalid value", "needs shares: set spec.share.type to Equal or Weighted, or remove the threshold"],
        ),
        (
            json!({ "extensions": [{ "cost": "5", "until": "2026-11-28T00:00:00Z" }] }),
            &["spec.extensions: Invalid value", "set spec.tokens or spec.cost as well, or remove the extension's"],
        ),
        (
            json!({ "extensions": [{ "until": "2026-11-28T00:00:00Z" }] }),
            &["spec.extensions[0]: Invalid value", "an extension needs tokens or cost"],
        ),
        (
            json!({ "cost": "5", "extensions": [{ "cost": "0", "until": "2026-11-28T00:00:00Z" }] }),
            &["spec.extensions[0].cost: Invalid value", "must be more than 0"],
        ),
        (period(json!({ "type": "Sprint", "start": start })), &["spec.period: Invalid value", "lengthDays: 14"]),
        (period(json!({ "type": "Once", "start": start })), &["spec.period: Invalid value", "needs period.start and period.end"]),
        (period(json!({ "type": "Daily", "start": start })), &["spec.period.start: Invalid value", "remove it"]),
        (
            period(json!({ "type": "Sprint", "start": start, "lengthDays": 14, "end": "2026-11-30T09:00" })),
            &["spec.period.end: Invalid value", "a Sprint ends by period.lengthDays"],
        ),
        (period(json!({ "type": "Weekly", "lengthDays": 7 })), &["spec.period.lengthDays: Invalid value", "the type Sprint"]),
        (period(json!({ "type": "Monthly", "weekStart": "Monday" })), &["spec.period.weekStart: Invalid value", "the type Weekly"]),
        (period(json!({ "type": "Weekly", "dayOfMonth": 1 })), &["spec.period.dayOfMonth: Invalid value", "the type Monthly"]),
        (
            period(json!({ "type": "Once", "start": start, "end": "2026-11-16T08:00" })),
            &["spec.period.end: Invalid value", "period.end must be after period.start"],
        ),
        (
            threshold(json!({ "atPercent": 90, "action": "Downgrade" })),
            &["spec.thresholds[0].tier: Invalid value", "Economy or Standard"],
        ),
        (threshold(json!({ "atPercent": 90, "action": "Alert", "tier": "Economy" })), &["spec.thresholds[0].tier: Invalid value"]),
        (threshold(json!({ "atPercent": 90, "action": "Downgrade", "tier": "Premium" })), &["Premium excludes no backend"]),
        (
            threshold(json!({ "atPercent": 90, "action": "Alert", "belowCriticality": "Critical" })),
            &["spec.thresholds[0].belowCriticality: Invalid value", "belongs to the action PausePools"],
        ),
        (
            threshold(json!({ "atPercent": 90, "action": "PausePools", "belowCriticality": "BestEffort" })),
            &["spec.thresholds[0].belowCriticality: Invalid value", "pauses no pool"],
        ),
        (
            threshold(json!({ "atPercent": 90, "action": "PausePools", "severity": "Info" })),
            &["spec.thresholds[0].severity: Invalid value", "belongs to the action Alert"],
        ),
        (
            json!({ "share": { "type": "Equal", "weights": { "coder": 1 } } }),
            &["spec.share.weights: Invalid value", "remove it, or set share.type to Weighted"],
        ),
        (json!({ "share": { "type": "Weighted" } }), &["spec.share.weights: Invalid value", "weights: {planner: 3, coder: 5}"]),
        (
            json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [{ "key": "team", "operator": "In" }] } } }),
            &["spec.appliesTo.agentPoolSelector.matchExpressions[0].values: Invalid value", "add values, or remove them"],
        ),
    ];
    all_refused(&team, &cases).await;
    let message = refusal(&team, "a.b", &json!({})).await;
    assert!(message.contains("metadata.name must be a DNS label"), "{message}");
    let message = refusal(&team, &"n".repeat(53), &json!({})).await;
    assert!(message.contains("metadata.name must have at most 52 characters"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_no_field_of_a_budget_can_have_is_refused_with_the_field_and_its_bounds() {
    let team = Team::new("budget-values").await;
    let alert = json!({ "atPercent": 80, "action": "Alert" });
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({ "tokens": 0 }), &["spec.tokens", "greater than or equal to 1"]),
        (json!({ "tokens": 9_007_199_254_740_994_u64 }), &["spec.tokens", "less than or equal to"]),
        (json!({ "tokens": "1000" }), &["spec.tokens", "must be of type integer"]),
        (json!({ "cost": 250 }), &["spec.cost", "must be of type string"]),
        (json!({ "cost": "-1" }), &["spec.cost", "should match"]),
        (json!({ "cost": "1e3" }), &["spec.cost", "should match"]),
        (json!({ "period": null }), &["spec.period: Required value"]),
        (json!({ "appliesTo": null }), &["spec.appliesTo: Required value"]),
        (period(json!({})), &["spec.period.type: Required value"]),
        (period(json!({ "type": "Yearly" })), &["spec.period.type: Unsupported value: \"Yearly\"", "\"Monthly\""]),
        (period(json!({ "type": "Monthly", "dayOfMonth": 32 })), &["spec.period.dayOfMonth", "less than or equal to 31"]),
        (
            period(json!({ "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 367 })),
            &["spec.period.lengthDays", "less than or equal to 366"],
        ),
        (period(json!({ "type": "Sprint", "start": "2026-11-16", "lengthDays": 14 })), &["spec.period.start", "should match"]),
        (
            period(json!({ "type": "Sprint", "start": "2026-11-16T09:00Z", "lengthDays": 14 })),
            &["spec.period.start", "should match"],
        ),
        (period(json!({ "type": "Daily", "timeZone": "+02:00" })), &["spec.period.timeZone", "should match"]),
        (period(json!({ "type": "Daily", "timeZone": "Local" })), &["spec.period.timeZone", "should match"]),
        (json!({ "appliesTo": { "modelRoutes": [] } }), &["spec.appliesTo.modelRoutes", "at least 1 items"]),
        (json!({ "appliesTo": { "modelRoutes": [{ "name": "a" }, { "name": "a" }] } }), &["modelRoutes[1]: Duplicate value"]),
        (
            json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [{ "key": "team", "operator": "in" }] } } }),
            &["matchExpressions[0].operator: Unsupported value: \"in\"", "\"NotIn\""],
        ),
        (json!({ "enforcement": "Warn" }), &["spec.enforcement: Unsupported value: \"Warn\"", "\"DryRun\""]),
        (json!({ "thresholds": [alert, alert] }), &["spec.thresholds[1]: Duplicate value"]),
        (threshold(json!({ "atPercent": 101, "action": "Alert" })), &["spec.thresholds[0].atPercent", "less than or equal to 100"]),
        (threshold(json!({ "action": "Alert" })), &["spec.thresholds[0].atPercent: Required value"]),
        (threshold(json!({ "atPercent": 90, "action": "Block" })), &["spec.thresholds[0].action: Unsupported value"]),
        (json!({ "counting": { "cachedInputPercent": 101 } }), &["spec.counting.cachedInputPercent", "less than or equal to 100"]),
        (json!({ "message": "m".repeat(513) }), &["spec.message", "may not be more than 512"]),
        (
            json!({ "share": { "type": "Weighted", "weights": { "coder": 0 } } }),
            &["spec.share.weights.coder", "greater than or equal to 1"],
        ),
        (json!({ "carryOver": { "maxPercent": 0 } }), &["spec.carryOver.maxPercent", "greater than or equal to 1"]),
        (json!({ "extensions": [{ "tokens": 1 }] }), &["spec.extensions[0].until: Required value"]),
        (json!({ "extensions": [{ "tokens": 1, "until": "2026-11-28" }] }), &["spec.extensions[0].until", "date-time"]),
        (json!({ "whenUsageUnknown": "Refuse" }), &["spec.whenUsageUnknown: Unsupported value"]),
    ];
    all_refused(&team, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_type_of_a_period_stays_and_all_else_of_it_may_change() {
    let team = Team::new("budget-period").await;
    let sprint = json!({ "type": "Sprint", "start": "2026-11-16T09:00", "lengthDays": 14 });
    let object = serde_json::from_value(budget("sprint", &period(sprint))).unwrap();
    team.budgets().create(&PostParams::default(), &object).await.unwrap();
    let merge = async |patch: Value| team.budgets().patch("sprint", &PatchParams::default(), &Patch::Merge(&patch)).await;
    for (period, words) in [
        (
            json!({ "type": "Daily", "start": null, "lengthDays": null }),
            "spec.period.type is immutable: create another TokenBudget",
        ),
        (Value::Null, "spec.period: Required value"),
    ] {
        match merge(json!({ "spec": { "period": period } })).await {
            Err(kube::Error::Api(status)) => assert!(status.message.contains(words), "{}", status.message),
            other => panic!("{period} was not refused: {other:?}"),
        }
    }
    merge(json!({ "spec": { "tokens": 5, "period": { "start": "2026-11-17T09:00", "lengthDays": 7 } } })).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_of_a_budget_are_those_of_its_status() {
    let team = Team::new("budget-columns").await;
    // The test itself writes the status.
    team.excuse_statuses();
    let object = serde_json::from_value(budget("sprint-42", &json!({}))).unwrap();
    team.budgets().create(&PostParams::default(), &object).await.unwrap();
    let cells = row(&team.kubectl(&["get", "tb"]));
    let names: Vec<&str> = cells.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["NAME", "PHASE", "LIMIT", "USED", "REMAINING", "USED%", "RESETS", "POOLS", "AGE"]);
    let status = json!({ "status": {
        "observedGeneration": 1, "phase": "Throttled", "enforcement": "Block", "percentUsed": 91, "matches": 3,
        "period": { "start": "2026-11-16T08:00:00Z", "end": "2026-11-30T08:00:00Z", "resets": "Nov 30 09:00 CET" },
        "projectedExhaustion": "2026-11-28T12:00:00Z",
        "summary": { "limit": "5000000", "used": "4551000", "remaining": "449000", "burnRate": "52000" },
        "verdict": {
            "level": "Downgrade", "since": "2026-11-27T10:00:00Z",
            "steps": [
                { "atPercent": 80, "action": "Alert", "since": "2026-11-26T10:00:00Z" },
                { "atPercent": 90, "action": "Downgrade", "since": "2026-11-27T10:00:00Z" },
            ],
            "callers": [
                { "agentPool": "coder", "modelRoute": "a", "tierCeiling": "Economy", "blocked": false, "newTasksRefused": false },
                { "agentPool": "coder", "modelRoute": "b", "tierCeiling": "Economy", "blocked": false, "newTasksRefused": false },
            ],
        },
    } });
    team.budgets().patch_status("sprint-42", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let cells = row(&team.kubectl(&["get", "tb", "-o", "wide"]));
    for (column, shown) in [
        ("PHASE", "Throttled"),
        ("LIMIT", "5000000"),
        ("USED", "4551000"),
        ("REMAINING", "449000"),
        ("USED%", "91"),
        ("RESETS", "Nov 30 09:00 CET"),
        ("POOLS", "3"),
        ("BURN/H", "52000"),
        ("EXHAUSTED-AT", "2026-11-28T12:00:00Z"),
        ("ENFORCEMENT", "Block"),
    ] {
        let cell = cells.iter().find(|(name, _)| name == column).map(|(_, cell)| cell.as_str());
        assert_eq!(cell, Some(shown), "{column}: {cells:?}");
    }
    for name in ["tokenbudgets", "tokenbudget", "quartermaster"] {
        assert!(team.kubectl(&["get", name]).contains("sprint-42"), "{name}");
    }
}
