use serde_json::{Value, json};

use super::super::observation::{ClosedFacts, PerUnit};
use super::super::testing::{DECEMBER, NOVEMBER, NOW, accounts, at, budget, period, pools};
use super::*;

fn of(budget: &TokenBudget, accounts: Option<&Accounts>, now: &str) -> Option<InForce> {
    let checked = check::check(&budget.spec).ok();
    super::of(budget, checked.as_ref(), &pools(), accounts, at(now))
}

fn in_force(members: Value, accounts: Option<&Accounts>, now: &str) -> InForce {
    of(&budget(&members), accounts, now).unwrap()
}

/// State, start and end.
fn span(in_force: &InForce) -> (State, String, Option<String>) {
    (in_force.state, in_force.period.start.to_string(), in_force.period.end.map(|end| end.to_string()))
}

fn expect(state: State, start: &str, end: &str) -> (State, String, Option<String>) {
    (state, start.to_owned(), Some(end.to_owned()))
}

#[test]
fn the_period_that_is_open_is_that_of_the_clock_and_never_an_earlier_one() {
    let monthly = |accounts, now| span(&in_force(json!({}), accounts, now));
    let november = accounts(1000, 0);
    assert_eq!(monthly(None, NOW), expect(State::Open, NOVEMBER, DECEMBER));
    assert_eq!(monthly(Some(&november), NOW), expect(State::Open, NOVEMBER, DECEMBER));
    let back = monthly(Some(&november), "2026-10-05T00:00:00Z");
    assert_eq!(back, expect(State::Open, NOVEMBER, DECEMBER), "a clock that goes back opens nothing again");
    assert_eq!(monthly(Some(&november), DECEMBER).1, DECEMBER, "the next one opens whatever the accounts have");
}

#[test]
fn a_calendar_that_would_go_back_keeps_the_open_period_and_gives_it_its_own_end() {
    let sprint = json!({ "period": { "type": "Sprint", "start": "2026-11-20T09:00", "lengthDays": 10 } });
    let open = Accounts { period: period("2026-11-25T09:00:00Z"), ..accounts(1000, 0) };
    let kept = in_force(sprint, Some(&open), NOW);
    assert_eq!(span(&kept), expect(State::Open, "2026-11-25T09:00:00Z", "2026-11-30T09:00:00Z"));
    assert_eq!(kept.period.id, open.period);
    let later = json!({ "period": { "type": "Sprint", "start": "2026-11-26T09:00", "lengthDays": 10 } });
    assert_eq!(in_force(later, Some(&open), NOW).period.id, period("2026-11-26T09:00:00Z"), "a later one opens at once");
}

#[test]
fn before_its_start_a_budget_limits_nothing_and_after_its_end_it_is_over() {
    let once = json!({ "period": { "type": "Once", "start": "2026-11-16T09:00", "end": "2026-11-20T18:00" } });
    let (start, end) = ("2026-11-16T09:00:00Z", "2026-11-20T18:00:00Z");
    for (now, state) in [("2026-11-01T00:00:00Z", State::Before), (start, State::Open), (end, State::Over), (NOW, State::Over)] {
        assert_eq!(span(&in_force(once.clone(), None, now)), expect(state, start, end), "{now}");
    }
    assert_eq!(in_force(once, None, start).next, None);
}

#[test]
fn the_limit_has_what_was_carried_over_and_extensions_and_the_next_one_what_is_known_of_it() {
    let members = json!({
        "cost": "10.00", "carryOver": { "maxPercent": 20 }, "extensions": [
            { "tokens": 70, "until": "2026-11-28T00:00:00Z" }, { "cost": "1.50", "until": "2026-12-24T00:00:00Z" },
            { "tokens": 5, "until": "2026-11-02T00:00:00Z" },
        ],
    });
    let before = |tokens, cost| ClosedFacts {
        id: period("2026-10-01T00:00:00Z"),
        end: Some(at(NOVEMBER).as_second()),
        limits: Limits { tokens: Some(1000), cost: Some(10_000_000) },
        used: PerUnit { tokens: Some(tokens), cost: Some(cost) },
        estimated: PerUnit::default(),
    };
    for (tokens, cost, limits) in [
        // A fifth at most, and what was left of the money.
        (0, 9_000_000, (1000 + 200 + 70, 10_000_000 + 1_000_000 + 1_500_000)),
        // Debts.
        (1300, 10_000_001, (1000 - 300 + 70, 10_000_000 - 1 + 1_500_000)),
    ] {
        let known = Accounts { before: Some(before(tokens, cost)), ..accounts(1000, 1500) };
        let in_force = in_force(members.clone(), Some(&known), NOW);
        assert_eq!((in_force.limits.tokens, in_force.limits.cost), (Some(limits.0), Some(limits.1)));
        let (next, limits) = in_force.next.unwrap();
        assert_eq!(next.start, at(DECEMBER));
        let debt = 1500 - in_force.limits.tokens.unwrap();
        assert_eq!(
            (limits.tokens, limits.cost),
            (Some(1000 - debt), Some(10_000_000)),
            "the debt so far, and nothing that may be left, nor an extension that is longer than the open period"
        );
    }
    let unknown =
        Accounts { before: Some(ClosedFacts { id: period("2026-08-01T00:00:00Z"), ..before(0, 0) }), ..accounts(1000, 0) };
    let in_force = in_force(members, Some(&unknown), NOW);
    assert_eq!(in_force.limits, Limits { tokens: Some(1070), cost: Some(11_500_000) }, "not of the period right before");
}

#[test]
fn an_extension_of_a_period_before_is_remembered_by_the_status() {
    let mut budget = budget(&json!({ "extensions": [{ "tokens": 300, "until": "2027-06-01T00:00:00Z" }] }));
    let first = of(&budget, Some(&accounts(1000, 0)), NOW).unwrap();
    assert_eq!((first.limits.tokens, first.extensions[0].ends.0), (Some(1300), at(DECEMBER)));
    let december = Accounts { period: period(DECEMBER), ..accounts(1000, 0) };
    let tokens = |budget: &TokenBudget| of(budget, Some(&december), "2026-12-05T00:00:00Z").unwrap().limits.tokens;
    assert_eq!(tokens(&budget), Some(1300), "nothing is known of the period before");
    budget.status = Some(TokenBudgetStatus { extensions: first.extensions, ..TokenBudgetStatus::default() });
    assert_eq!(tokens(&budget), Some(1000));
}

#[test]
fn an_extension_that_was_given_in_the_period_before_makes_no_debt_in_the_one_after() {
    let mut budget = budget(&json!({
        "carryOver": { "maxPercent": 20 }, "extensions": [{ "tokens": 300, "until": "2027-06-01T00:00:00Z" }],
    }));
    budget.status = Some(TokenBudgetStatus {
        extensions: of(&budget, Some(&accounts(1000, 0)), NOW).unwrap().extensions,
        ..TokenBudgetStatus::default()
    });
    let before = ClosedFacts {
        id: period(NOVEMBER),
        end: Some(at(DECEMBER).as_second()),
        limits: Limits { tokens: Some(1300), cost: None },
        used: PerUnit { tokens: Some(1310), cost: None },
        estimated: PerUnit::default(),
    };
    let december = Accounts { period: period(DECEMBER), before: Some(before), ..accounts(1000, 0) };
    assert_eq!(of(&budget, Some(&december), "2026-12-05T00:00:00Z").unwrap().limits.tokens, Some(990));
}

#[test]
fn an_extension_that_ended_within_a_period_makes_no_debt_of_what_it_allowed() {
    let members = json!({
        "carryOver": { "maxPercent": 20 }, "extensions": [{ "tokens": 300, "until": "2026-10-20T00:00:00Z" }],
    });
    let before = ClosedFacts {
        id: period("2026-10-01T00:00:00Z"),
        end: None,
        limits: Limits { tokens: Some(1000), cost: None },
        used: PerUnit { tokens: Some(1290), cost: None },
        estimated: PerUnit::default(),
    };
    let known = Accounts { before: Some(before), ..accounts(1000, 0) };
    assert_eq!(in_force(members, Some(&known), NOW).limits.tokens, Some(1000));
}

#[test]
fn a_spec_that_cannot_be_understood_leaves_in_force_what_the_accounts_or_the_status_have() {
    let invalid = json!({ "tokens": 9, "cost": "3", "period": { "type": "Monthly", "timeZone": "Mars/Base" } });
    let mut budget = budget(&invalid);
    assert_eq!(of(&budget, None, NOW), None, "nothing ever was");
    let status = json!({
        "phase": "Warning", "limitTokens": 1000, "limitCost": "2.50",
        "period": { "start": NOVEMBER, "end": DECEMBER, "resets": "Dec 01 00:00 UTC" },
    });
    budget.status = Some(serde_json::from_value(status).unwrap());
    let shown = of(&budget, None, NOW).unwrap();
    assert_eq!(span(&shown), expect(State::Open, NOVEMBER, DECEMBER));
    assert_eq!((shown.limits, shown.next), (Limits { tokens: Some(1000), cost: Some(2_500_000) }, None));
    assert_eq!(shown.resets.as_deref(), Some("Dec 01 00:00 UTC"));
    let known = of(&budget, Some(&accounts(1200, 5)), NOW).unwrap();
    assert_eq!(known.limits, Limits { tokens: Some(1200), cost: None }, "the accounts know better");
    let past_its_end = of(&budget, Some(&accounts(1200, 5)), "2026-12-03T00:00:00Z").unwrap();
    assert_eq!(span(&past_its_end), (State::Open, NOVEMBER.to_owned(), None), "it goes on until the spec is mended");
    assert_eq!(past_its_end.resets, None);
    budget.status.as_mut().unwrap().phase = Some(Phase::Pending);
    assert_eq!(of(&budget, None, NOW), None, "what has not come into force is not in force");
}

#[test]
fn a_selector_that_cannot_be_understood_leaves_those_covered_who_were() {
    let selector = json!({ "matchExpressions": [{ "key": "team", "operator": "Is" }] });
    let mut budget = budget(&json!({ "appliesTo": { "agentPoolSelector": selector } }));
    let status = json!({
        "phase": "Active", "limitTokens": 1000, "period": { "start": NOVEMBER }, "touches": { "agentPools": ["coder", "gone"] },
    });
    budget.status = Some(serde_json::from_value(status).unwrap());
    let covers = of(&budget, Some(&accounts(1000, 0)), NOW).unwrap().covers;
    assert_eq!(covers.into_iter().collect::<Vec<_>>(), [("coder".to_owned(), None)]);
}

#[test]
fn amounts_of_a_status_are_read_as_they_are_shown() {
    for (shown, read) in [
        ("0.00", Some(0)),
        ("250.00", Some(250_000_000)),
        ("0.000001", Some(1)),
        ("18446744073709.551615", Some(u64::MAX)),
        ("18446744073709.551616", None),
        ("3", Some(3_000_000)),
        ("0.0000001", None),
        ("-1.00", None),
        ("many", None),
        ("", None),
    ] {
        assert_eq!(millionths(shown), read, "{shown}");
    }
}
