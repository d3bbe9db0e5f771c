use serde_json::{Value, json};

use super::super::testing::spec;
use super::*;
use crate::api::token_budget::Severity;

/// Reason and field of what is wrong.
fn wrong_with(members: &Value) -> Vec<(&'static str, &'static str)> {
    let problems = check(&spec(members)).err().unwrap_or_default();
    for problem in &problems {
        assert!(problem.message.contains(problem.field), "{problem:?}");
    }
    problems.into_iter().map(|problem| (problem.reason, problem.field)).collect()
}

#[test]
fn what_is_wrong_with_a_spec_is_told_with_its_field() {
    let sprint = |start: &str, days: u32| json!({ "period": { "type": "Sprint", "start": start, "lengthDays": days } });
    let thresholds = |thresholds: Value| json!({ "thresholds": thresholds });
    for (members, reason, field) in [
        (json!({ "tokens": null }), reasons::INVALID_SPEC, "spec.tokens"),
        (json!({ "tokens": 0 }), reasons::INVALID_SPEC, "spec.tokens"),
        (json!({ "tokens": -5 }), reasons::INVALID_SPEC, "spec.tokens"),
        (json!({ "tokens": 9_007_199_254_740_993_i64 }), reasons::INVALID_SPEC, "spec.tokens"),
        (json!({ "cost": "0.00" }), reasons::INVALID_SPEC, "spec.cost"),
        (json!({ "cost": "1,50" }), reasons::INVALID_SPEC, "spec.cost"),
        (json!({ "period": { "type": "Daily", "timeZone": "Mars/Base" } }), reasons::INVALID_TIME_ZONE, "spec.period.timeZone"),
        (sprint("2026-02-30T09:00", 14), reasons::INVALID_PERIOD, "spec.period.start"),
        (sprint("2026-11-16T09:00", 0), reasons::INVALID_PERIOD, "spec.period"),
        (json!({ "period": { "type": "Sprint", "lengthDays": 14 } }), reasons::INVALID_PERIOD, "spec.period"),
        (
            json!({ "period": { "type": "Once", "start": "2026-11-16T09:00", "end": "2026-11-16T09:00" } }),
            reasons::INVALID_PERIOD,
            "spec.period.end",
        ),
        (
            json!({ "appliesTo": { "agentPoolSelector": { "matchExpressions": [{ "key": "a", "operator": "Is" }] } } }),
            reasons::INVALID_SELECTOR,
            "spec.appliesTo.agentPoolSelector",
        ),
        (thresholds(json!([{ "atPercent": 0, "action": "Alert" }])), reasons::INVALID_THRESHOLDS, "spec.thresholds"),
        (thresholds(json!([{ "atPercent": 101, "action": "Alert" }])), reasons::INVALID_THRESHOLDS, "spec.thresholds"),
        (thresholds(json!([{ "atPercent": 90, "action": "Downgrade" }])), reasons::INVALID_THRESHOLDS, "spec.thresholds"),
        (
            thresholds(json!([{ "atPercent": 90, "action": "Downgrade", "tier": "Premium" }])),
            reasons::INVALID_THRESHOLDS,
            "spec.thresholds",
        ),
        (thresholds(json!([{ "atPercent": 90, "action": "Redistribute" }])), reasons::INVALID_THRESHOLDS, "spec.thresholds"),
        (
            thresholds(json!([{ "atPercent": 80, "action": "Alert" }, { "atPercent": 80, "action": "Alert", "severity": "Info" }])),
            reasons::INVALID_THRESHOLDS,
            "spec.thresholds",
        ),
        (json!({ "share": { "type": "Weighted" } }), reasons::INVALID_SHARE, "spec.share"),
        (json!({ "share": { "type": "Weighted", "weights": { "coder": 0 } } }), reasons::INVALID_SHARE, "spec.share"),
        (json!({ "extensions": [{ "cost": "free", "until": "2026-11-28T00:00:00Z" }] }), reasons::INVALID_SPEC, "spec.extensions"),
        (json!({ "extensions": [{ "tokens": 0, "until": "2026-11-28T00:00:00Z" }] }), reasons::INVALID_SPEC, "spec.extensions"),
    ] {
        assert_eq!(wrong_with(&members), [(reason, field)], "{members}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let members = json!({
        "tokens": 0, "period": { "type": "Daily", "timeZone": "Mars/Base" }, "thresholds": [{ "atPercent": 0, "action": "Alert" }],
    });
    let reasons: Vec<_> = wrong_with(&members).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, [reasons::INVALID_SPEC, reasons::INVALID_TIME_ZONE, reasons::INVALID_THRESHOLDS]);
}

#[test]
fn what_is_unusual_is_not_wrong() {
    for members in [
        json!({}),
        json!({ "tokens": 9_007_199_254_740_992_i64 }),
        json!({ "tokens": null, "cost": "0.000001" }),
        json!({ "thresholds": [] }),
        // Out of order, and several of one action, and of one percentage.
        json!({ "thresholds": [
            { "atPercent": 95, "action": "PausePools", "belowCriticality": "Critical" },
            { "atPercent": 90, "action": "PausePools", "belowCriticality": "Standard" },
            { "atPercent": 90, "action": "Alert" },
        ] }),
        json!({ "share": { "type": "Equal" }, "thresholds": [{ "atPercent": 85, "action": "Redistribute" }] }),
        json!({ "share": { "type": "Weighted", "weights": { "nobody": 3 } } }),
        // Starts that local clocks skip, and that they show twice.
        json!({ "period": { "type": "Sprint", "start": "2026-03-29T02:30", "lengthDays": 14, "timeZone": "Europe/Madrid" } }),
        json!({ "period": { "type": "Sprint", "start": "2026-10-25T02:30", "lengthDays": 14, "timeZone": "Europe/Madrid" } }),
        // It is over.
        json!({ "extensions": [{ "tokens": 5, "until": "2020-01-01T00:00:00Z" }] }),
        json!({ "appliesTo": { "modelRoutes": [{ "name": "nobodys" }] } }),
    ] {
        assert_eq!(wrong_with(&members), Vec::<(&str, &str)>::new(), "{members}");
    }
}

#[test]
fn without_thresholds_eighty_percent_are_told_and_with_an_empty_list_nothing_is() {
    let of = |members: Value| check(&spec(&members)).unwrap().thresholds;
    let [alert] = of(json!({}))[..] else { panic!("one threshold") };
    assert_eq!(
        (alert.at_percent, alert.action, alert.severity.unwrap_or_default()),
        (80, ThresholdAction::Alert, Severity::Warning)
    );
    assert!(of(json!({ "thresholds": [] })).is_empty());
    let of = of(json!({ "thresholds": [{ "atPercent": 90, "action": "Alert" }, { "atPercent": 7, "action": "Alert" }] }));
    assert_eq!(
        of.iter().map(|threshold| threshold.at_percent).collect::<Vec<_>>(),
        [7, 90],
        "in the order in which they are reached"
    );
}

#[test]
fn of_thresholds_that_cannot_come_into_force_those_that_are_understood_are_used() {
    let members = json!({ "thresholds": [
        { "atPercent": 80, "action": "Alert" }, { "atPercent": 80, "action": "Alert" }, { "atPercent": 90, "action": "Downgrade" },
        { "atPercent": 0, "action": "Alert" }, { "atPercent": 95, "action": "PausePools" },
    ] });
    let usable: Vec<_> = usable_thresholds(&spec(&members)).iter().map(|threshold| threshold.at_percent).collect();
    assert_eq!(usable, [80, 95]);
}

#[test]
fn defaults_are_those_of_the_documentation_and_a_suspended_budget_does_nothing() {
    let of = |members: Value| {
        let spec = spec(&members);
        (enforcement(&spec), when_usage_unknown(&spec), cached_input_percent(&spec))
    };
    assert_eq!(of(json!({})), (Enforcement::Block, WhenUsageUnknown::Hold, 100));
    let set = json!({ "enforcement": "Alert", "whenUsageUnknown": "Allow", "counting": { "cachedInputPercent": 0 } });
    assert_eq!(of(set), (Enforcement::Alert, WhenUsageUnknown::Allow, 0));
    assert_eq!(of(json!({ "enforcement": "Alert", "suspend": true })).0, Enforcement::DryRun);
    assert_eq!(of(json!({ "suspend": false })).0, Enforcement::Block);
}
