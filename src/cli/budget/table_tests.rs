use serde_json::{Value, json};

use super::*;

fn budget(name: &str, status: Value) -> TokenBudget {
    serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
        "metadata": { "name": name, "namespace": "team-a" },
        "spec": { "tokens": 5_000_000, "period": { "type": "Daily" }, "appliesTo": {} },
        "status": status,
    }))
    .unwrap()
}

/// A status in the middle of a sprint.
fn sprint() -> Value {
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "InForce", "message": "", "lastTransitionTime": "2026-11-16T08:00:00Z",
    });
    let unknown = json!({
        "type": "UsageKnown", "status": "False", "reason": "LedgerLost", "message": "look at it",
        "lastTransitionTime": "2026-11-20T08:00:00Z",
    });
    json!({
        "conditions": [ready, unknown], "phase": "Throttled", "enforcement": "Block",
        "period": { "start": "2026-11-16T08:00:00Z", "end": "2026-11-30T08:00:00Z", "resets": "Nov 30 09:00 CET" },
        "limitTokens": 5_000_000, "usedTokens": 4_600_000, "percentUsed": 92, "matches": 3,
        "projectedExhaustion": "2026-11-27T12:00:00Z",
        "summary": { "limit": "5000000", "used": "4600000", "remaining": "400000", "burnRate": "12000" },
        "consumers": [
            { "agentPool": "coder", "tokens": 4_000_000, "share": 4_500_000 },
            { "agentPool": "batch", "tokens": 600_000 },
        ],
        "verdict": {
            "level": "Downgrade",
            "steps": [{ "atPercent": 90, "action": "Downgrade", "since": "2026-11-25T10:00:00Z" }],
            "callers": [{
                "agentPool": "batch", "modelRoute": "smart", "tierCeiling": "Economy", "blocked": false, "newTasksRefused": true,
                "paused": true,
            }],
        },
        "history": [{
            "start": "2026-11-02T08:00:00Z", "end": "2026-11-16T08:00:00Z", "limitTokens": 5_000_000, "usedTokens": 5_000_000,
            "phase": "Exhausted",
        }],
    })
}

#[test]
fn a_table_has_a_row_a_budget_and_says_where_nothing_is_known() {
    let (one, other) = (budget("sprint-42", sprint()), budget("new", Value::Null));
    assert_eq!(
        table(&[&one, &other], false),
        [
            "NAME        PHASE       LIMIT     USED      REMAINING   USED%   BURN/H   EXHAUSTED-AT           RESETS             POOLS   ENFORCEMENT",
            "sprint-42   Throttled   5000000   4600000   400000      92      12000    2026-11-27T12:00:00Z   Nov 30 09:00 CET   3       Block",
            "new         -           -         -         -           -       -        -                      -                  -       -",
        ]
    );
    let with_namespace = table(&[&other], true);
    assert!(with_namespace[0].starts_with("NAMESPACE   NAME") && with_namespace[1].starts_with("team-a      new"));
}

#[test]
fn what_is_wrong_is_told_with_the_name() {
    let (one, other) = (budget("sprint-42", sprint()), budget("new", Value::Null));
    assert_eq!(problems(&[&one, &other]), ["sprint-42: UsageKnown=False LedgerLost: look at it"]);
    let mut stalled = sprint();
    stalled["conditions"][0]["status"] = json!("False");
    assert!(problems(&[&budget("a", stalled)])[0].starts_with("a: Ready=False InForce"));
}

#[test]
fn of_one_budget_more_is_said() {
    assert_eq!(
        details(&budget("sprint-42", sprint())),
        [
            "used by:",
            "  coder   4000000 of 4500000 tokens",
            "  batch   600000 tokens",
            "steps taken:",
            "  90 % Downgrade since 2026-11-25T10:00:00Z",
            "held back:",
            "  batch on smart: backends up to Economy answer, no new tasks, the pool pauses",
            "periods before:",
            "  from 2026-11-02T08:00:00Z   5000000 of 5000000 tokens   Exhausted",
        ]
    );
    let mut tried = budget("tried", sprint());
    tried.spec.enforcement = Some(Enforcement::DryRun);
    assert_eq!(details(&tried)[5], "would be held back:");
    assert!(details(&budget("new", Value::Null)).is_empty());
    let mut many = sprint();
    let pools = (0..13).map(|number| json!({ "agentPool": format!("pool-{number}"), "tokens": 1 }));
    many["consumers"] = pools.collect();
    let lines = details(&budget("many", many));
    assert_eq!((lines[10].trim(), lines[11].trim()), ("pool-9    1 tokens", "and 3 more: see the status"));
}

#[test]
fn a_line_says_how_far_a_budget_is_used() {
    assert_eq!(
        line(&budget("sprint-42", sprint()), true),
        "team-a/sprint-42: Throttled, 4600000 of 5000000 tokens (92 %), 12000 an hour, used up at 2026-11-27T12:00:00Z if that goes \
         on, resets Nov 30 09:00 CET"
    );
    assert_eq!(line(&budget("new", Value::Null), false), "new: nothing is known yet");
    assert_eq!(line(&budget("new", json!({ "phase": "Pending" })), false), "new: Pending");
}
