use crate::api::model_route::Tier;
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::account::message::{AccountRow, RouteRow, Told};
use crate::decide::account::spending::testing::{CALLER, COST, Process, ROUTE, TOKENS, id, next, route, row, told};
use crate::decide::account::spending::{Most, Terms, Used};
use crate::decide::gateway::plan::PlannedBudget;

fn terms(process: &Process) -> Option<Terms> {
    process.spending.terms(CALLER, ROUTE, process.now())
}

fn of(accounts: &[(&str, AccountRow)], route: RouteRow) -> Terms {
    let mut process = Process::new();
    process.take(&told(accounts, route));
    terms(&process).unwrap()
}

#[test]
fn who_is_covered_by_no_budget_has_no_terms() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    assert_eq!(process.spending.terms("planner", ROUTE, process.now()), None);
    assert_eq!(process.spending.terms(CALLER, "another-route", process.now()), None);
    process.take(&Told { all: true, ..Told::default() });
    assert_eq!(terms(&process), None);
    assert_eq!(terms(&Process::new()), None);
}

#[test]
fn terms_are_what_the_operator_says_of_the_route() {
    let said = RouteRow { tier_ceiling: Some(Tier::Economy), used_percent: 92, ..route(&[TOKENS]) };
    let expected = Terms {
        tier_ceiling: Some(Tier::Economy),
        used_percent: Some(92),
        walled: true,
        bounded_output: true,
        remaining: Some(80),
        ..Terms::default()
    };
    assert_eq!(of(&[(TOKENS, AccountRow { used: 920, ..row(10) })], said), expected);
}

#[test]
fn a_wall_a_price_and_a_bound_are_needed_where_some_budget_refuses_and_nowhere_else() {
    let with = |enforcement, when_usage_unknown| AccountRow { enforcement, when_usage_unknown, ..row(10) };
    let (block, alert, dry_run) = (Enforcement::Block, Enforcement::Alert, Enforcement::DryRun);
    let (hold, allow) = (WhenUsageUnknown::Hold, WhenUsageUnknown::Allow);
    for (accounts, walled, needs_price) in [
        (vec![(TOKENS, with(block, hold))], true, false),
        (vec![(COST, with(block, hold))], true, true),
        (vec![(COST, with(block, allow))], true, false),
        (vec![(COST, with(alert, hold))], false, false),
        (vec![(COST, with(dry_run, hold)), (TOKENS, with(alert, hold))], false, false),
        (vec![(COST, with(alert, hold)), (TOKENS, with(block, hold))], true, false),
        (vec![(COST, with(alert, hold)), ("other/cost", with(block, WhenUsageUnknown::Block))], true, true),
    ] {
        let names: Vec<&str> = accounts.iter().map(|(account, _)| *account).collect();
        let terms = of(&accounts, route(&names));
        assert_eq!((terms.walled, terms.needs_price, terms.bounded_output), (walled, needs_price, walled), "{names:?}");
    }
    let ceiling_alone = of(&[(TOKENS, row(10))], RouteRow { used_percent: 95, ..RouteRow::default() });
    assert!(!ceiling_alone.bounded_output && !ceiling_alone.walled);
}

#[test]
fn what_remains_is_the_least_of_the_limits_of_tokens_less_what_was_used_since() {
    let accounts = [
        (TOKENS, AccountRow { used: 500, ..row(100) }),
        ("other/tokens", AccountRow { limit: 300, used: 100, ..row(100) }),
        (COST, AccountRow { limit: 1, ..row(1) }),
    ];
    let mut process = Process::with(&accounts);
    let remaining = |process: &Process| terms(process).unwrap().remaining;
    assert_eq!(remaining(&process), Some(200));
    let reservation = process.reserve_most(Most { tokens: 60, cost: Some(0) }).unwrap();
    assert_eq!(remaining(&process), Some(200), "what a call may use it has not used");
    process.spending.settle(reservation, Some(Used { output: 50, exact: true, ..Used::default() }));
    assert_eq!(remaining(&process), Some(150));
    process.report();
    process.acknowledge();
    assert_eq!(remaining(&process), Some(150), "the operator has not said what all have used by then");
    process.tell("other/tokens", AccountRow { limit: 300, used: 160, ..row(100) });
    assert_eq!(remaining(&process), Some(140), "of the 160, 50 were used here");
    process.tell("other/tokens", AccountRow { limit: 300, used: 400, ..row(100) });
    assert_eq!(remaining(&process), Some(0));
    // In the next period nobody knows yet.
    process.wall = 2000;
    process.tell("other/tokens", AccountRow { next: next(5), ..row(100) });
    assert_eq!(remaining(&process), Some(450), "of the first account: it has no next period yet");
    process.tell(TOKENS, AccountRow { next: next(5), ..row(100) });
    assert_eq!(remaining(&process), None);
}

#[test]
fn calls_are_refused_as_the_operator_says_until_the_period_ends() {
    let both =
        RouteRow { refused: Some(id(TOKENS)), new_tasks_refused: Some(id("other/tokens")), ..route(&[TOKENS, "other/tokens"]) };
    let account = |name: &str| AccountRow { budget: name.to_owned(), used: 990, next: next(10), ..row(10) };
    let mut process = Process::new();
    process.take(&told(&[(TOKENS, account("sprint")), ("other/tokens", account("daily"))], both));
    let refusing = |process: &Process| {
        let Terms { refused, new_tasks_refused, .. } = terms(process).unwrap();
        (refused.map(|refused| refused.budget), new_tasks_refused.map(|refused| refused.budget))
    };
    assert_eq!(refusing(&process), (Some("sprint".to_owned()), Some("daily".to_owned())));
    let refused = terms(&process).unwrap().refused.unwrap();
    assert_eq!((refused.limit, refused.left, refused.resets), (1000, 10, Some(2000)));
    process.elapsed = 100;
    assert_eq!(refusing(&process), (Some("sprint".to_owned()), Some("daily".to_owned())), "that is known");
    process.wall = 2000;
    assert_eq!(refusing(&process), (None, None));
    assert_eq!(process.spent_in(TOKENS, 1000).map(|spent| spent.refused), Some(0), "asking counts nothing");
}

#[test]
fn an_alert_refuses_new_tasks_alone_and_a_dry_run_nobody() {
    let said = RouteRow { refused: Some(id(TOKENS)), new_tasks_refused: Some(id(TOKENS)), ..route(&[TOKENS]) };
    for (enforcement, all, new_tasks) in
        [(Enforcement::Block, true, true), (Enforcement::Alert, false, true), (Enforcement::DryRun, false, false)]
    {
        let terms = of(&[(TOKENS, AccountRow { enforcement, ..row(10) })], said.clone());
        assert_eq!((terms.refused.is_some(), terms.new_tasks_refused.is_some()), (all, new_tasks), "{enforcement:?}");
    }
}

#[test]
fn before_an_operator_has_spoken_the_plan_says_who_is_covered() {
    let mut process = Process::new();
    let planned = |enforcement| PlannedBudget {
        name: "sprint".to_owned(),
        callers: [CALLER.to_owned()].into(),
        routes: None,
        from: None,
        enforcement,
        when_usage_unknown: WhenUsageUnknown::Allow,
    };
    process.spending.plan(vec![planned(Enforcement::Alert), planned(Enforcement::Block)]);
    assert_eq!(terms(&process), Some(Terms { walled: true, bounded_output: true, ..Terms::default() }));
    assert_eq!(process.spending.terms("planner", ROUTE, process.now()), None);
    process.spending.plan(vec![planned(Enforcement::DryRun)]);
    assert_eq!(terms(&process), Some(Terms::default()), "who holds nobody back changes no call");
}
