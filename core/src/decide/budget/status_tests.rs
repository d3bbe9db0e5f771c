use serde_json::json;

use super::super::in_force;
use super::super::testing::{DECEMBER, NOW, account, accounts, after, at, observe, period, pool, tokens};
use super::*;
use crate::api::agent_pool::Criticality;
use crate::decide::account::Limits;
use crate::decide::gateway::exchange::usage::Counts;

fn in_force(observation: &Observation) -> InForce {
    let checked = check::check(&observation.budget.spec).ok();
    let accounts = observation.accounts.as_ref();
    in_force::of(&observation.budget, checked.as_ref(), &observation.pools, accounts, at(NOW)).unwrap()
}

/// The status with figures.
fn shown(observation: &Observation, previous: &TokenBudgetStatus) -> TokenBudgetStatus {
    let in_force = in_force(observation);
    let accounts = observation.accounts.as_ref().unwrap();
    let units = super::super::verdict::units(in_force.limits, accounts).unwrap();
    let status = of_spec(observation, Some(&in_force), &Touched::of(&in_force.covers, observation));
    with_figures(status, observation, accounts, &units, previous, at(NOW))
}

fn fresh(observation: &Observation) -> TokenBudgetStatus {
    shown(observation, &TokenBudgetStatus::default())
}

#[test]
fn a_budget_touches_the_pools_that_it_covers_their_routes_and_what_answers_there() {
    let observation = observe(&json!({ "appliesTo": { "modelRoutes": [{ "name": "assistant" }, { "name": "other" }] } }), 0);
    let touched = Touched::of(&in_force(&observation).covers, &observation);
    let names = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let expected = Touched { pools: names(&["coder"]), routes: names(&["assistant"]), backends: names(&["large"]) };
    assert_eq!(touched, expected, "nobody that it covers calls the other one");
    let mut many = observe(&json!({}), 0);
    many.pools = (0..60).map(|number| pool(&format!("p{number:02}"), &["router"], Criticality::Standard)).collect();
    let status = of_spec(&many, Some(&in_force(&many)), &Touched::of(&in_force(&many).covers, &many));
    assert_eq!((status.matches, status.touches.unwrap().agent_pools.len()), (Some(60), MAX_TOUCHED));
}

#[test]
fn figures_are_exact_and_in_the_unit_of_which_more_is_used() {
    let mut observation = observe(&json!({ "cost": "2.50" }), 400);
    let units =
        PerUnit { tokens: Some(AccountFacts { estimated: 7, ..account(1000, 400) }), cost: Some(account(2_500_000, 1_234_567)) };
    observation.accounts = Some(Accounts { units, ..accounts(1000, 400) });
    let status = fresh(&observation);
    assert_eq!((status.limit_tokens, status.used_tokens, status.remaining_tokens), (Some(1000), Some(400), Some(600)));
    assert_eq!((status.estimated_tokens, status.percent_used), (Some(7), Some(49)));
    let cost = [status.limit_cost, status.used_cost, status.remaining_cost].map(Option::unwrap);
    assert_eq!(cost, ["2.50", "1.234567", "1.265433"]);
    let summary = status.summary.unwrap();
    assert_eq!([summary.limit, summary.used, summary.remaining].map(Option::unwrap), ["2.50", "1.234567", "1.265433"]);
    assert_eq!((summary.burn_rate, status.burn_rate_per_hour, status.would_have_refused), (None, None, None));
    let tokens = fresh(&observe(&json!({}), 1200));
    assert_eq!((tokens.remaining_tokens, tokens.percent_used, tokens.used_cost), (Some(0), Some(120), None));
    assert_eq!(tokens.summary.unwrap().used.as_deref(), Some("1200"));
}

#[test]
fn a_forecast_is_shown_where_it_is_known_how_fast_the_budget_is_used() {
    let mut observation = observe(&json!({}), 0);
    let burn = BurnRate { tokens_per_hour: 1234, cached_input_per_hour: 0, cost_per_hour: 5_678_900 };
    observation.burn = Some(burn);
    let status = fresh(&observation);
    assert_eq!((status.burn_rate_per_hour, status.burn_cost_per_hour), (Some(1200), None));
    assert_eq!(status.projected_exhaustion.map(|time| time.0), Some(at("2026-11-26T12:50:00Z")));
    assert_eq!(status.summary.unwrap().burn_rate.as_deref(), Some("1200"));
    observation.burn = Some(BurnRate { tokens_per_hour: 1, ..burn });
    assert_eq!(fresh(&observation).projected_exhaustion, None);
}

#[test]
fn calls_that_would_have_been_refused_are_shown_where_none_is() {
    for (members, expected) in [
        (json!({}), None),
        (json!({ "enforcement": "Alert" }), Some(312)),
        (json!({ "enforcement": "DryRun" }), Some(312)),
        (json!({ "suspend": true }), Some(312)),
    ] {
        let mut observation = observe(&members, 0);
        observation.accounts = Some(Accounts { refused: 312, ..accounts(1000, 0) });
        assert_eq!(fresh(&observation).would_have_refused, expected, "{members}");
    }
}

#[test]
fn the_largest_consumers_are_shown_and_with_shares_all_that_have_one() {
    let counts = |input, cached_input| Counts { input, cached_input, output: 10, cost: 1_500_000, ..Counts::default() };
    let mut observation = observe(&json!({ "counting": { "cachedInputPercent": 10 } }), 0);
    observation.by_caller =
        [("batch".to_owned(), counts(50, 0)), ("coder".to_owned(), counts(100, 90)), ("idle".to_owned(), Counts::default())].into();
    let lines = |observation: &Observation| -> Vec<_> {
        fresh(observation).consumers.into_iter().map(|of| (of.agent_pool, of.tokens, of.cost, of.share)).collect()
    };
    let plain = [("batch".to_owned(), 60, None, None), ("coder".to_owned(), 29, None, None)];
    assert_eq!(lines(&observation), plain, "of what a prefix cache served a tenth counts, and who used nothing is not there");
    observation.accounts.as_mut().unwrap().shares =
        [("coder".to_owned(), tokens(500, 70)), ("planner".to_owned(), tokens(500, 0))].into();
    let shared = [
        ("coder".to_owned(), 70, None, Some(500)),
        ("batch".to_owned(), 60, None, None),
        ("planner".to_owned(), 0, None, Some(500)),
    ];
    assert_eq!(lines(&observation), shared, "accounts know better");
    let mut money = observe(&json!({ "tokens": null, "cost": "9" }), 0);
    let units = PerUnit { tokens: None, cost: Some(account(9_000_000, 4_000_000)) };
    money.accounts = Some(Accounts { units, ..accounts(0, 0) });
    money.by_caller =
        [("batch".to_owned(), counts(1000, 0)), ("coder".to_owned(), Counts { cost: 2_500_000, ..counts(1, 0) })].into();
    let names: Vec<_> = lines(&money).into_iter().map(|(name, _, cost, _)| (name, cost.unwrap())).collect();
    assert_eq!(names, [("coder".to_owned(), "2.50".to_owned()), ("batch".to_owned(), "1.50".to_owned())]);
    let mut many = observe(&json!({}), 0);
    many.by_caller = (0..60).map(|number| (format!("p{number:02}"), counts(number, 0))).collect();
    let largest = lines(&many);
    assert_eq!((largest.len(), largest[0].0.as_str(), largest[49].0.as_str()), (MAX_CONSUMERS, "p59", "p10"));
}

#[test]
fn periods_that_are_over_are_shown_latest_first_with_how_far_they_were_used() {
    let closed = |start: &str, used: u64| ClosedFacts {
        id: period(start),
        end: None,
        limits: Limits { tokens: Some(1000), cost: None },
        used: PerUnit { tokens: Some(used), cost: Some(9) },
        estimated: PerUnit { tokens: Some(1), cost: Some(0) },
    };
    let mut observation = observe(&json!({}), 0);
    let history = vec![closed("2026-09-01T00:00:00Z", 900), closed("2026-10-01T00:00:00Z", 1000)];
    observation.accounts = Some(Accounts { history, ..accounts(1000, 0) });
    let previous: TokenBudgetStatus = serde_json::from_value(json!({
        "phase": "Exhausted", "period": { "start": "2026-10-01T00:00:00Z" },
        "history": [
            { "start": "2026-09-01T00:00:00Z", "usedTokens": 1, "phase": "Warning" },
            { "start": "2026-08-01T00:00:00Z", "usedTokens": 8, "phase": "Active" },
        ],
    }))
    .unwrap();
    let history = shown(&observation, &previous).history;
    let lines: Vec<_> = history.iter().map(|past| (past.start.0, past.used_tokens, past.phase, past.used_cost.clone())).collect();
    let expected = [
        (at("2026-10-01T00:00:00Z"), Some(1000), Some(Phase::Exhausted), None),
        (at("2026-09-01T00:00:00Z"), Some(900), Some(Phase::Warning), None),
        (at("2026-08-01T00:00:00Z"), Some(8), Some(Phase::Active), None),
    ];
    assert_eq!(lines, expected);
    let year = |number: u32| closed(&format!("20{number:02}-01-01T00:00:00Z"), 1);
    observation.accounts.as_mut().unwrap().history = (10..26).map(year).collect();
    assert_eq!(shown(&observation, &previous).history.len(), MAX_HISTORY);
}

/// What is written of a status so many seconds after the figures of the one before changed.
fn written(fresh: &TokenBudgetStatus, previous: &TokenBudgetStatus, seconds: i64) -> Written {
    throttled(fresh.clone(), previous, Some(after(0)), after(seconds))
}

#[test]
fn figures_alone_are_written_every_half_minute_and_with_anything_else_at_once() {
    let (before, fresh) = (fresh(&observe(&json!({}), 100)), fresh(&observe(&json!({}), 105)));
    for (seconds, shows, next) in [(0, 100, Some(30)), (29, 100, Some(1)), (30, 105, None), (-5, 105, None)] {
        let written = written(&fresh, &before, seconds);
        assert_eq!((written.status.used_tokens, written.next), (Some(shows), next.map(Duration::from_secs)), "{seconds} s");
        assert_eq!(written.status.remaining_tokens, Some(1000 - shows), "all figures are of one time");
    }
    let first = throttled(fresh.clone(), &before, None, after(0));
    assert_eq!(first.status, fresh, "a new process does not know when, and writes");
    for edge in [
        TokenBudgetStatus { phase: Some(Phase::Warning), ..fresh.clone() },
        TokenBudgetStatus { limit_tokens: Some(2000), ..fresh.clone() },
        TokenBudgetStatus { enforcement: Some(Enforcement::Alert), ..fresh.clone() },
        TokenBudgetStatus { verdict: Some(Default::default()), ..fresh.clone() },
        TokenBudgetStatus { period: Some(PeriodStatus { start: Time(at(DECEMBER)), end: None, resets: None }), ..fresh.clone() },
    ] {
        assert_eq!(written(&edge, &before, 1), Written { status: edge, next: None });
    }
    let elsewhere = TokenBudgetStatus { matches: Some(9), ..fresh.clone() };
    let written = written(&elsewhere, &before, 1).status;
    assert_eq!((written.matches, written.used_tokens), (Some(9), Some(100)), "whom it covers is shown, and makes no figures due");
}

#[test]
fn a_forecast_that_changes_by_itself_is_written_seldom_and_what_does_not_change_never() {
    let burning = |tokens_per_hour| {
        let mut observation = observe(&json!({}), 100);
        observation.burn = Some(BurnRate { tokens_per_hour, ..BurnRate::default() });
        fresh(&observation)
    };
    let (before, fading, cold) = (burning(800), burning(400), burning(0));
    for (status, seconds, rate, next) in [
        (&fading, 30, 800, Some(570)),
        (&fading, 600, 400, Some(600)),
        (&cold, 599, 800, Some(1)),
        (&cold, 600, 0, None),
        // Somebody has to look again for it to fade.
        (&before, 30, 800, Some(600)),
    ] {
        let written = written(status, &before, seconds);
        assert_eq!(written.status.burn_rate_per_hour, Some(rate), "{seconds} s");
        assert_eq!(written.next, next.map(Duration::from_secs), "{seconds} s");
    }
    assert_eq!(written(&cold, &cold, 5), Written { status: cold.clone(), next: None }, "at rest nobody looks");
}
