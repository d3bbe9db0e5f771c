use serde_json::json;

use super::super::testing::{DECEMBER, NOVEMBER, NOW, accounts, at, budget, period, pools};
use super::super::{terms, verdict};
use super::*;
use crate::api::token_budget::Enforcement;
use crate::decide::account::Limits;
use crate::decide::gateway::planned_budgets;

fn metadata() -> ObjectMeta {
    budget(&json!({})).metadata
}

fn status() -> Value {
    json!({
        "phase": "Active", "enforcement": "Alert", "limitTokens": 1000, "usedTokens": 100,
        "period": { "start": NOVEMBER, "end": DECEMBER },
        "touches": { "agentPools": ["coder", "gone"] },
    })
}

#[test]
fn what_the_status_says_stays_in_force() {
    let budget = stand_in(&metadata(), &status());
    let terms = terms::of(&budget, &pools(), None, at(NOW)).unwrap();
    assert_eq!(terms.name, "sprint");
    assert_eq!((terms.period.id, terms.period.end), (period(NOVEMBER), Some(at(DECEMBER).as_second())));
    assert_eq!(terms.period.limits, Limits { tokens: Some(1000), cost: None });
    assert_eq!(terms.covers.keys().collect::<Vec<_>>(), ["coder"], "those of its pools that are there");
    assert_eq!(terms.enforcement, Enforcement::Alert);
}

#[test]
fn what_the_accounts_hold_to_goes_before_what_the_status_says() {
    let terms = terms::of(&stand_in(&metadata(), &status()), &pools(), Some(&accounts(2000, 100)), at(NOW)).unwrap();
    assert_eq!(terms.period.limits.tokens, Some(2000));
}

#[test]
fn its_callers_are_refused_at_its_limit() {
    let mut status = status();
    status["enforcement"] = json!("Block");
    let budget = stand_in(&metadata(), &status);
    let refused = |used| {
        let verdict = verdict::of(&budget, &pools(), Some(&accounts(1000, used)), at(NOW));
        verdict.callers["coder"].values().all(|route| route.refused.is_some())
    };
    assert!(!refused(999) && refused(1000));
}

#[test]
fn one_that_was_suspended_goes_on_to_do_nothing() {
    let mut status = status();
    let condition = json!({
        "type": "Suspended", "status": "True", "reason": "Suspended", "message": "", "lastTransitionTime": NOVEMBER,
    });
    status["conditions"] = json!([condition]);
    let terms = terms::of(&stand_in(&metadata(), &status), &pools(), None, at(NOW)).unwrap();
    assert_eq!(terms.enforcement, Enforcement::DryRun);
}

#[test]
fn one_of_which_nothing_can_be_read_gives_no_terms_and_covers_everybody_in_the_plan() {
    for status in [json!(null), json!({}), json!({ "phase": 7 })] {
        let budget = stand_in(&metadata(), &status);
        assert!(terms::of(&budget, &pools(), None, at(NOW)).is_none(), "{status}");
        let planned = planned_budgets::of(&[budget], &pools());
        assert_eq!(planned.iter().flat_map(|budget| &budget.callers).collect::<Vec<_>>(), ["batch", "coder"], "{status}");
    }
}
