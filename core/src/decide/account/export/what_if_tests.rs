use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decide::account::history::fixtures::{at, covers, input, second, table};

const CODER: [&str; 3] = ["coder", "smart", "qwen"];
const PLANNER: [&str; 3] = ["planner", "smart", "qwen"];

/// A budget of a day in UTC with these fields beside.
fn spec(fields: &Value) -> TokenBudgetSpec {
    let mut spec = json!({ "period": { "type": "Daily" }, "appliesTo": {} });
    let fields = fields.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(fields);
    serde_json::from_value(spec).unwrap()
}

fn of_coder() -> Covers {
    covers(&[("coder", &[])])
}

fn span(earliest: &str, latest: &str) -> Span {
    Span { earliest: at(earliest), latest: at(latest) }
}

/// What would have happened until the end of the 26th.
fn outcomes(history: &History, fields: &Value) -> Vec<PeriodOutcome> {
    what_if(history, &spec(fields), &of_coder(), at("2026-11-20T00:00:00Z"), at("2026-11-27T00:00:00Z")).unwrap()
}

fn morning() -> History {
    table([
        ("2026-11-26T09:10:00Z", CODER, input(600)),
        ("2026-11-26T10:10:00Z", CODER, input(300)),
        ("2026-11-26T11:10:00Z", CODER, input(300)),
        ("2026-11-26T11:10:00Z", PLANNER, input(5_000)),
    ])
}

#[test]
fn steps_are_taken_in_the_hour_in_which_so_much_was_used_and_the_rest_is_refused() {
    let thresholds = json!([
        { "atPercent": 95, "action": "PausePools" },
        { "atPercent": 80, "action": "Alert" },
        { "atPercent": 50, "action": "Downgrade", "tier": "Economy" },
    ]);
    let outcomes = outcomes(&morning(), &json!({ "tokens": 1000, "thresholds": thresholds }));
    let step = |at_percent, action, span| StepOutcome { at_percent, action, span };
    let (nine, ten) = (span("2026-11-26T09:00:00Z", "2026-11-26T10:00:00Z"), span("2026-11-26T10:00:00Z", "2026-11-26T11:00:00Z"));
    let eleven = span("2026-11-26T11:00:00Z", "2026-11-26T12:00:00Z");
    let expected = PeriodOutcome {
        start: at("2026-11-26T00:00:00Z"),
        end: Some(at("2026-11-27T00:00:00Z")),
        limit_tokens: Some(1000),
        limit_cost: None,
        used_tokens: 1000,
        used_cost: "0.00".to_owned(),
        percent_used: 100,
        steps: vec![
            step(50, ThresholdAction::Downgrade, nine),
            step(80, ThresholdAction::Alert, ten),
            step(95, ThresholdAction::PausePools, eleven),
        ],
        exhausted: Some(eleven),
        refused_tokens: 200,
        refused_cost: "0.00".to_owned(),
        refused_requests: 1,
        spread_tokens: 0,
        uncertain_tokens: 0,
        unpriced_requests: 0,
    };
    assert_eq!(outcomes, [expected]);
    let shown = serde_json::to_value(&outcomes[0].steps[0]).unwrap();
    let expected = json!({
        "atPercent": 50, "action": "Downgrade", "earliest": "2026-11-26T09:00:00Z", "latest": "2026-11-26T10:00:00Z",
    });
    assert_eq!(shown, expected);
}

#[test]
fn a_budget_that_refuses_nothing_shows_what_block_would_have_refused() {
    for fields in [
        json!({ "tokens": 1000, "enforcement": "Alert" }),
        json!({ "tokens": 1000, "enforcement": "DryRun" }),
        json!({ "tokens": 1000, "suspend": true }),
    ] {
        let outcomes = outcomes(&morning(), &fields);
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        assert_eq!((outcome.used_tokens, outcome.percent_used, outcome.refused_tokens), (1200, 120, 200), "{fields}");
        assert_eq!(outcome.exhausted, Some(span("2026-11-26T11:00:00Z", "2026-11-26T12:00:00Z")));
    }
}

#[test]
fn a_budget_that_is_large_enough_refuses_nothing() {
    let outcomes = outcomes(&morning(), &json!({ "tokens": 1500, "counting": { "cachedInputPercent": 50 } }));
    let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert_eq!((outcome.percent_used, outcome.refused_requests, outcome.exhausted), (80, 0, None));
    assert_eq!(outcome.steps.len(), 1, "the default: an alert at 80 percent");
}

#[test]
fn what_is_left_goes_into_the_next_period_and_no_further() {
    let history = table([
        ("2026-11-23T09:10:00Z", CODER, input(400)),
        ("2026-11-25T09:10:00Z", CODER, input(1100)),
        ("2026-11-26T09:10:00Z", CODER, input(1100)),
    ]);
    let outcomes = outcomes(&history, &json!({ "tokens": 1000, "carryOver": { "maxPercent": 20 } }));
    let periods: Vec<(i64, Option<u64>, u64, u64)> = outcomes
        .iter()
        .map(|outcome| (outcome.start.as_second(), outcome.limit_tokens, outcome.used_tokens, outcome.refused_tokens))
        .collect();
    let day = |day: &str| second(&format!("2026-11-{day}T00:00:00Z"));
    assert_eq!(
        periods,
        [
            (day("23"), Some(1000), 400, 0),
            (day("24"), Some(1200), 0, 0),
            (day("25"), Some(1200), 1100, 0),
            (day("26"), Some(1000), 1000, 100),
        ]
    );
}

#[test]
fn an_extension_is_one_of_the_period_of_its_until_or_of_the_present_one_where_that_is_earlier() {
    let history = table([
        ("2026-11-24T09:10:00Z", CODER, input(100)),
        ("2026-11-25T09:10:00Z", CODER, input(100)),
        ("2026-11-26T09:10:00Z", CODER, input(100)),
    ]);
    for (until, limits) in [
        ("2026-11-25T23:00:00Z", [1000, 1500, 1000]),
        ("2026-11-26T23:00:00Z", [1000, 1000, 1500]),
        ("2027-06-01T00:00:00Z", [1000, 1000, 1500]),
        ("2026-11-01T00:00:00Z", [1000, 1000, 1000]),
    ] {
        let spec = spec(&json!({ "tokens": 1000, "extensions": [{ "tokens": 500, "until": until }] }));
        let (from, to) = (at("2026-11-24T00:00:00Z"), at("2026-11-26T12:00:00Z"));
        let outcomes = what_if(&history, &spec, &of_coder(), from, to).unwrap();
        assert_eq!(outcomes.iter().filter_map(|outcome| outcome.limit_tokens).collect::<Vec<_>>(), limits, "{until}");
    }
}

#[test]
fn of_tokens_and_money_that_of_which_more_is_used_decides() {
    let paid = Counts { input: 1000, cost: 2_000_000, requests: 4, unpriced: 1, ..Counts::default() };
    let history = table([("2026-11-26T09:10:00Z", CODER, paid)]);
    let outcomes = outcomes(&history, &json!({ "tokens": 4000, "cost": "1.00" }));
    let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert_eq!((outcome.used_tokens, outcome.used_cost.as_str()), (500, "1.00"));
    assert_eq!((outcome.refused_tokens, outcome.refused_cost.as_str(), outcome.refused_requests), (500, "1.00", 2));
    assert_eq!((outcome.percent_used, outcome.unpriced_requests), (100, 1));
}

#[test]
fn each_caller_has_its_share_and_the_rest_is_refused() {
    let history = table([
        ("2026-11-26T09:10:00Z", CODER, input(900)),
        ("2026-11-26T09:10:00Z", PLANNER, input(100)),
        ("2026-11-26T10:10:00Z", PLANNER, input(700)),
    ]);
    let both = covers(&[("coder", &[]), ("planner", &[])]);
    let of = |fields: &Value| {
        let outcomes = what_if(&history, &spec(fields), &both, at("2026-11-26T00:00:00Z"), at("2026-11-27T00:00:00Z")).unwrap();
        let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        (outcome.used_tokens, outcome.refused_tokens, outcome.exhausted.is_some())
    };
    assert_eq!(of(&json!({ "tokens": 1000 })), (1000, 700, true));
    assert_eq!(of(&json!({ "tokens": 1000, "share": { "type": "Equal" } })), (1000, 700, true));
    assert_eq!(
        of(&json!({ "tokens": 4000, "share": { "type": "Weighted", "weights": { "coder": 1, "planner": 9 } } })),
        (1200, 500, false)
    );
}

#[test]
fn what_is_only_known_by_the_day_is_spread_over_its_periods() {
    let mut history = table([("2026-11-20T09:10:00Z", CODER, input(2400))]);
    history.compact(at("2026-11-26T10:00:00Z"));
    let fields = json!({ "tokens": 90, "period": { "type": "Hourly" } });
    let outcomes = outcomes(&history, &fields);
    assert_eq!(outcomes.len(), 24);
    assert!(outcomes.iter().all(|outcome| (outcome.used_tokens, outcome.refused_tokens, outcome.spread_tokens) == (90, 10, 100)));
    // A period that begins in the middle of an hour has its part of it.
    let fields = json!({ "tokens": 5000, "period": { "type": "Daily", "timeZone": "Asia/Kolkata" } });
    let history = table([("2026-11-25T18:10:00Z", CODER, input(1000))]);
    let outcomes = what_if(&history, &spec(&fields), &of_coder(), at("2026-11-26T00:00:00Z"), at("2026-11-27T00:00:00Z"));
    let used: Vec<(u64, u64)> = outcomes.unwrap().iter().map(|outcome| (outcome.used_tokens, outcome.spread_tokens)).collect();
    assert_eq!(used, [(500, 500)]);
}

#[test]
fn all_of_the_present_hour_was_used_until_now() {
    let history = table([("2026-11-26T09:10:00Z", CODER, input(600))]);
    let fields = json!({ "tokens": 5000, "period": { "type": "Hourly" } });
    let outcomes = what_if(&history, &spec(&fields), &of_coder(), at("2026-11-26T09:00:00Z"), at("2026-11-26T09:15:00Z")).unwrap();
    let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert_eq!((outcome.used_tokens, outcome.spread_tokens), (600, 0));
}

#[test]
fn nothing_is_limited_before_the_first_period_and_nothing_is_left_after_once() {
    let period = json!({ "type": "Once", "start": "2026-11-26T10:00", "end": "2026-11-26T11:00" });
    let outcomes = outcomes(&morning(), &json!({ "tokens": 1000, "period": period }));
    let [outcome] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    assert_eq!((outcome.used_tokens, outcome.refused_tokens, outcome.refused_requests), (300, 300, 1));
    assert_eq!(outcome.exhausted, Some(span("2026-11-26T11:00:00Z", "2026-11-26T11:00:00Z")), "when it is over");
    assert_eq!(outcome.percent_used, 30);
}

#[test]
fn what_nobody_used_has_no_outcome_and_what_is_no_budget_is_said() {
    assert_eq!(outcomes(&History::default(), &json!({ "tokens": 1000 })), []);
    let problems = what_if(&morning(), &spec(&json!({})), &of_coder(), at("2026-11-26T00:00:00Z"), at("2026-11-27T00:00:00Z"));
    assert_eq!(problems.unwrap_err().len(), 1, "neither tokens nor cost");
}

#[test]
fn a_time_that_is_cut_has_all_of_it_in_its_parts() {
    let counts = Counts { input: 1000, output: 7, requests: 3, ..Counts::default() };
    let mut sum = Counts::default();
    for (from, to) in [(0, 1234), (1234, 1235), (1235, 3600)] {
        sum.add(&spread(&counts, (from, to), 3600));
    }
    assert_eq!(sum, counts);
    assert_eq!(spread(&counts, (0, 1800), 3600).input, 500);
}

proptest! {
    #[test]
    fn no_limit_is_passed_and_nothing_is_refused_while_there_is_room(
        used in prop::collection::vec((0_i64..100, 0_usize..2, 1_u64..1000), 1..40), tokens in 1_i64..5000, share in any::<bool>(),
    ) {
        let start = second("2026-11-20T00:00:00Z");
        let time = |hour: i64| Timestamp::from_second(start + hour * 3600).unwrap().to_string();
        let rows: Vec<(String, [&str; 3], u64)> =
            used.iter().map(|(hour, caller, tokens)| (time(*hour), [CODER, PLANNER][*caller], *tokens)).collect();
        let history = table(rows.iter().map(|(time, name, tokens)| (time.as_str(), *name, input(*tokens))));
        let both = covers(&[("coder", &[]), ("planner", &[])]);
        let fields = json!({ "tokens": tokens, "share": { "type": if share { "Equal" } else { "None" } } });
        let (from, to) = (Timestamp::from_second(start).unwrap(), at("2026-12-01T00:00:00Z"));
        let outcomes = what_if(&history, &spec(&fields), &both, from, to).unwrap();
        let limit = u64::try_from(tokens).unwrap();
        for outcome in &outcomes {
            prop_assert!(outcome.used_tokens <= limit);
            prop_assert!(share || outcome.refused_tokens == 0 || outcome.used_tokens == limit, "{outcome:?}");
            prop_assert_eq!(outcome.exhausted.is_some(), outcome.used_tokens == limit);
        }
        let all: u64 = outcomes.iter().map(|outcome| outcome.used_tokens + outcome.refused_tokens).sum();
        prop_assert_eq!(all, used.iter().map(|(.., tokens)| *tokens).sum::<u64>());
    }
}
