use serde_json::json;

use super::super::testing::{DECEMBER, NOVEMBER, NOW, accounts, at, budget, period, pools, tokens};
use super::*;
use crate::api::token_budget::WhenUsageUnknown;

#[test]
fn the_terms_say_all_that_the_accounts_need() {
    let members = json!({
        "cost": "2.50", "message": "Ask #platform.", "whenUsageUnknown": "Allow", "counting": { "cachedInputPercent": 10 },
        "appliesTo": { "modelRoutes": [{ "name": "assistant" }] }, "enforcement": "Alert",
    });
    let terms = of(&budget(&members), &pools(), None, at(NOW)).unwrap();
    let limits = Limits { tokens: Some(1000), cost: Some(2_500_000) };
    assert_eq!(
        (terms.name.as_str(), terms.enforcement, terms.when_usage_unknown),
        ("sprint", Enforcement::Alert, WhenUsageUnknown::Allow)
    );
    assert_eq!((terms.message.as_deref(), terms.cached_input_percent), (Some("Ask #platform."), 10));
    assert_eq!((terms.period.id, terms.period.start), (period(NOVEMBER), at(NOVEMBER).as_second()));
    assert_eq!((terms.period.end, terms.period.limits), (Some(at(DECEMBER).as_second()), limits));
    let next = terms.next.unwrap();
    assert_eq!((next.id, next.start, next.limits), (period(DECEMBER), at(DECEMBER).as_second(), limits));
    let covers: Vec<_> = terms.covers.into_iter().collect();
    assert_eq!(covers, [("coder".to_owned(), Some(["assistant".to_owned()].into()))]);
    assert_eq!(terms.shares, None);
}

#[test]
fn a_budget_that_has_not_started_or_was_never_understood_has_no_accounts() {
    for members in [
        json!({ "period": { "type": "Sprint", "start": "2026-12-24T00:00", "lengthDays": 7 } }),
        json!({ "period": { "type": "Daily", "timeZone": "Mars/Base" } }),
    ] {
        assert!(of(&budget(&members), &pools(), None, at(NOW)).is_none(), "{members}");
    }
}

#[test]
fn a_budget_that_is_being_deleted_frees_everybody() {
    let mut budget = budget(&json!({}));
    budget.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
    assert!(of(&budget, &pools(), Some(&accounts(1000, 5)), at(NOW)).is_none());
    assert!(verdict::of(&budget, &pools(), Some(&accounts(1000, 1000)), at(NOW)).callers.is_empty());
}

#[test]
fn a_suspended_budget_counts_and_does_nothing() {
    let terms = of(&budget(&json!({ "suspend": true })), &pools(), None, at(NOW)).unwrap();
    assert_eq!(terms.enforcement, Enforcement::DryRun);
}

#[test]
fn shares_move_once_the_status_says_that_they_are_redistributed_and_only_in_that_period() {
    let members = json!({ "share": { "type": "Equal" }, "thresholds": [{ "atPercent": 85, "action": "Redistribute" }] });
    let mut budget = budget(&members);
    let mut known = accounts(1000, 500);
    known.shares = [("batch".to_owned(), tokens(500, 0)), ("coder".to_owned(), tokens(500, 500))].into();
    let of_coder = |budget: &TokenBudget| {
        let shares = of(budget, &pools(), Some(&known), at(NOW)).unwrap().shares.unwrap();
        shares["coder"].tokens
    };
    assert_eq!(of_coder(&budget), Some(500));
    let steps = json!([{ "atPercent": 85, "action": "Redistribute", "since": NOW }]);
    let status = |start: &str| {
        let verdict = json!({ "level": "Redistribute", "steps": steps.clone() });
        let status = json!({ "phase": "Throttled", "limitTokens": 1000, "period": { "start": start }, "verdict": verdict });
        serde_json::from_value(status).unwrap()
    };
    budget.status = Some(status(NOVEMBER));
    assert_eq!(of_coder(&budget), Some(950));
    budget.status = Some(status("2026-10-01T00:00:00Z"));
    assert_eq!(of_coder(&budget), Some(500));
    budget.status = Some(status(NOVEMBER));
    budget.spec.enforcement = Some(Enforcement::DryRun);
    assert_eq!(of_coder(&budget), Some(500), "a dry run moves nothing");
}
