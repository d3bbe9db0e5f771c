use rstest::rstest;

use super::*;
use crate::decide::account::message::{AccountRow, RouteRow, SpentRow, Told};
use crate::decide::account::spending::testing::{
    CALLER, COST, Process, ROUTE, TOKENS, exactly, id, next, route, row, tokens, told,
};
use crate::decide::account::spending::{Most, Refused};
use crate::decide::account::{PeriodId, Unit};
use crate::decide::gateway::plan::PlannedBudget;

fn walled(when_usage_unknown: WhenUsageUnknown, allowance: u64) -> AccountRow {
    AccountRow { when_usage_unknown, ..row(allowance) }
}

fn with_cost(tokens: u64, cost: u64) -> Most {
    Most { tokens, cost: Some(cost) }
}

#[test]
fn a_call_begins_while_the_allowance_covers_the_most_that_it_can_use() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let first = process.reserve(60).unwrap();
    assert_eq!(process.reserve(41).unwrap_err(), Short::Wait);
    let second = process.reserve(40).unwrap();
    assert_eq!(process.spent(TOKENS), SpentRow { reserved: 100, allowance: 100, ..SpentRow::default() });
    assert!(!process.spending.is_idle());
    assert_eq!(process.settle(first, 10), Settled::default());
    assert_eq!(process.settle(second, 40), Settled::default());
    assert_eq!(process.spent(TOKENS), SpentRow { used: 50, allowance: 100, ..SpentRow::default() });
    assert!(process.spending.is_idle());
    assert_eq!(process.reserve(51).unwrap_err(), Short::Wait);
    let third = process.reserve(50).unwrap();
    process.spending.settle(third, None);
    assert_eq!(process.spent(TOKENS).used, 50, "what was not sent used nothing");
}

#[test]
fn a_call_reserves_in_all_its_accounts_or_in_none() {
    let accounts = [(TOKENS, row(100)), (COST, row(5)), ("other/tokens", row(30))];
    for (most, begins) in [
        (with_cost(10, 6), false),
        (with_cost(31, 5), false),
        (with_cost(101, 5), false),
        (with_cost(30, 5), true),
        (with_cost(30, 0), true),
    ] {
        let mut process = Process::with(&accounts);
        assert_eq!(process.reserve_most(most).is_ok(), begins, "{most:?}");
        let reserved = |account| process.spent(account).reserved;
        let (tokens, cost) = if begins { (most.tokens, most.cost.unwrap()) } else { (0, 0) };
        assert_eq!((reserved(TOKENS), reserved(COST), reserved("other/tokens")), (tokens, cost, tokens), "{most:?}");
    }
}

#[test]
fn a_call_that_costs_nothing_needs_no_room_in_an_account_of_cost() {
    let mut process = Process::with(&[(COST, row(0))]);
    let free = process.reserve_most(with_cost(10, 0)).unwrap();
    assert_eq!(process.reserve_most(with_cost(10, 1)).unwrap_err(), Short::Wait);
    // The price has changed since.
    let used = Used { cost: Some(3), ..exactly(10) };
    assert!(process.spending.settle(free, Some(used)).exceeded);
    assert_eq!(process.spent(COST).used, 3);
}

#[test]
fn a_call_that_no_budget_covers_begins_and_holds_nothing() {
    let mut process = Process::with(&[(TOKENS, row(0))]);
    let now = process.now();
    for (caller, route) in [("planner", ROUTE), (CALLER, "another-route"), ("planner", ROUTE)] {
        let reservation = process.spending.reserve(caller, route, tokens(u64::MAX), None, now).unwrap();
        assert_eq!(reservation.held.capacity(), 0);
        assert!(!process.spending.is_idle());
        assert_eq!(process.spending.settle(reservation, Some(exactly(u64::MAX))), Settled::default());
    }
    assert!(process.spending.is_idle());
    assert_eq!(process.spent(TOKENS), SpentRow::default());
}

#[test]
fn what_can_never_fit_is_refused_at_once_and_counted() {
    let mut process = Process::with(&[(TOKENS, AccountRow { used: 300, message: Some("Ask #platform.".to_owned()), ..row(100) })]);
    let refused = Refused {
        budget: "sprint".to_owned(),
        unit: Unit::Tokens,
        limit: 1000,
        left: 700,
        resets: Some(2000),
        message: Some("Ask #platform.".to_owned()),
    };
    assert_eq!(process.reserve(1001).unwrap_err(), Short::Exceeded(refused));
    assert_eq!(process.reserve(1000).unwrap_err(), Short::Wait, "this could still be granted");
    assert_eq!(process.spent(TOKENS).refused, 1);
}

#[test]
fn a_budget_that_refuses_everything_does_so_until_its_period_ends() {
    let refusing = RouteRow { refused: Some(id(TOKENS)), ..route(&[TOKENS]) };
    let mut process = Process::new();
    process.take(&told(&[(TOKENS, AccountRow { next: next(40), ..row(100) })], refusing.clone()));
    assert!(matches!(process.reserve(1).unwrap_err(), Short::Exceeded(refused) if refused.resets == Some(2000)));
    // Also when nothing is heard any more: that it was used up is known.
    process.elapsed = 100;
    assert!(matches!(process.reserve(1).unwrap_err(), Short::Exceeded(_)));
    assert_eq!(process.spent(TOKENS).refused, 2);
    process.wall = 2000;
    let reservation = process.reserve(40).unwrap();
    assert_eq!(process.spent_in(TOKENS, 2000).unwrap().reserved, 40);
    process.settle(reservation, 40);

    // Where no next period was told, it is believed for as long as it is heard.
    let mut process = Process::new();
    process.wall = 2000;
    process.take(&told(&[(TOKENS, row(100))], refusing));
    assert!(matches!(process.reserve(1).unwrap_err(), Short::Exceeded(_)));
    process.elapsed = 30;
    assert!(matches!(process.reserve(1).unwrap_err(), Short::Unknown(_)));
}

#[rstest]
#[case(Enforcement::Alert)]
#[case(Enforcement::DryRun)]
fn a_budget_without_a_wall_refuses_nobody_and_counts_whom_it_would_have(#[case] enforcement: Enforcement) {
    let lenient = |used| AccountRow { enforcement, used, when_usage_unknown: WhenUsageUnknown::Block, ..row(0) };
    let refusing = RouteRow { refused: Some(id(TOKENS)), ..route(&[TOKENS]) };
    let mut process = Process::new();
    process.take(&told(&[(TOKENS, lenient(900))], refusing));
    let first = process.reserve(100).unwrap();
    assert_eq!(process.spent(TOKENS).refused, 0);
    let second = process.reserve(1).unwrap();
    assert_eq!(process.spent(TOKENS).refused, 1, "the first call can use all that was left");
    process.settle(first, 70);
    process.settle(second, 1);
    process.report();
    process.acknowledge();
    let third = process.reserve(30).unwrap();
    assert_eq!(process.spent(TOKENS).refused, 2, "29 are left");
    process.settle(third, 30);
    // What was reported until the last acknowledgement is part of what all have used.
    process.tell(TOKENS, lenient(971));
    assert_eq!(process.spent(TOKENS).used, 101);
    let (one, two) = (process.reserve(1000).unwrap(), process.reserve_most(with_cost(1, 1)).unwrap());
    assert_eq!(process.spent(TOKENS).refused, 4);
    process.settle(one, 0);
    process.settle(two, 0);
    // Nor when nothing is heard, nor when the period is over.
    (process.elapsed, process.wall) = (1000, 5000);
    let late = process.reserve(5).unwrap();
    process.settle(late, 5);
    assert_eq!(process.spent(TOKENS).used, 106);
    assert!(process.report().asks.is_empty(), "whoever is never refused asks for nothing");
}

#[test]
fn what_would_have_been_refused_is_counted_as_if_output_had_the_limit_that_a_wall_gives_it() {
    let mut process = Process::with(&[(TOKENS, AccountRow { enforcement: Enforcement::DryRun, used: 900, ..row(0) })]);
    let unlimited = |if_walled| Need { most: tokens(1_000_000), if_walled: tokens(if_walled) };
    let reserve = |process: &mut Process, if_walled| {
        let now = process.now();
        process.spending.reserve(CALLER, ROUTE, unlimited(if_walled), None, now).unwrap()
    };
    let (first, second) = (reserve(&mut process, 60), reserve(&mut process, 40));
    assert_eq!(process.spent(TOKENS), SpentRow { reserved: 100, ..SpentRow::default() }, "both would have had room");
    let third = reserve(&mut process, 1);
    assert_eq!(process.spent(TOKENS).refused, 1);
    // What it used with more output than it would have had was within what it could use.
    assert_eq!(process.settle(first, 70), Settled::default());
    process.settle(second, 0);
    process.settle(third, 0);
    let (fits, does_not) = (reserve(&mut process, 30), reserve(&mut process, 1));
    assert_eq!(process.spent(TOKENS), SpentRow { used: 70, reserved: 31, refused: 2, ..SpentRow::default() });
    process.settle(fits, 0);
    process.settle(does_not, 0);
    assert!(process.spending.is_idle());
}

#[rstest]
#[case(Enforcement::Block, WhenUsageUnknown::Hold, false)]
#[case(Enforcement::Block, WhenUsageUnknown::Block, false)]
#[case(Enforcement::Block, WhenUsageUnknown::Allow, true)]
#[case(Enforcement::Alert, WhenUsageUnknown::Hold, true)]
#[case(Enforcement::DryRun, WhenUsageUnknown::Block, true)]
fn a_backend_without_a_price_is_not_called_on_a_budget_of_cost(
    #[case] enforcement: Enforcement,
    #[case] when_usage_unknown: WhenUsageUnknown,
    #[case] begins: bool,
) {
    let cost = AccountRow { enforcement, ..walled(when_usage_unknown, 100) };
    let mut process = Process::with(&[(TOKENS, row(100)), (COST, cost)]);
    match process.reserve(10) {
        Ok(reservation) => {
            assert!(begins);
            assert_eq!(process.settle(reservation, 10), Settled::default());
            assert_eq!(process.spent(COST), SpentRow { allowance: 100, ..SpentRow::default() });
        }
        Err(short) => {
            assert!(matches!(&short, Short::PriceMissing(refused) if refused.unit == Unit::Cost && !begins), "{short:?}");
            assert_eq!(process.spent(TOKENS).reserved, 0);
        }
    }
}

#[test]
fn a_price_that_is_gone_at_settlement_leaves_what_was_reserved() {
    let mut process = Process::with(&[(COST, row(100))]);
    let reservation = process.reserve_most(with_cost(10, 40)).unwrap();
    assert_eq!(process.settle(reservation, 3), Settled::default());
    assert_eq!(process.spent(COST), SpentRow { used: 40, estimated: 40, allowance: 100, ..SpentRow::default() });
}

#[rstest]
#[case(100, 100, 100)]
#[case(100, 25, 25)]
#[case(100, 0, 0)]
#[case(1, 10, 1)]
#[case(3, 50, 2)]
#[case(0, 50, 0)]
#[case(u64::MAX, 100, u64::MAX)]
#[case(u64::MAX, 50, u64::MAX / 2 + 1)]
fn of_cached_input_counts_the_percentage_rounded_up(#[case] cached_input: u64, #[case] percent: u32, #[case] counted: u64) {
    let used = Used { cached_input, exact: true, ..Used::default() };
    assert_eq!(used.of(Unit::Tokens, percent), Some(counted));
}

#[test]
fn the_reservation_counts_all_input_and_the_settlement_counts_cached_input_by_its_percentage() {
    let mut process = Process::with(&[(TOKENS, AccountRow { cached_input_percent: 10, ..row(100) })]);
    let reservation = process.reserve(100).unwrap();
    let used = Used { input: 1, cached_input: 15, cache_write: 4, output: 8, cost: None, exact: true };
    process.spending.settle(reservation, Some(used));
    assert_eq!(process.spent(TOKENS).used, 1 + 2 + 4 + 8);
}

#[test]
fn what_passes_the_reservation_is_charged_in_full_and_told() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let reservation = process.reserve(10).unwrap();
    assert_eq!(process.settle(reservation, 125), Settled { exceeded: true });
    assert_eq!(process.spent(TOKENS), SpentRow { used: 125, allowance: 100, ..SpentRow::default() });
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    // What goes on from there is granted on top.
    process.tell(TOKENS, row(130));
    assert!(process.reserve(5).is_ok());
}

#[test]
fn upper_bounds_are_told_apart() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let (exact, bounded) = (process.reserve(10).unwrap(), process.reserve(20).unwrap());
    process.settle(exact, 7);
    process.spending.settle(bounded, Some(Used { exact: false, ..exactly(20) }));
    assert_eq!(process.spent(TOKENS), SpentRow { used: 27, estimated: 20, allowance: 100, ..SpentRow::default() });
}

#[test]
fn a_budget_that_opens_while_a_call_runs_is_charged_when_it_settles() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let (one, two) = (process.reserve(10).unwrap(), process.reserve(10).unwrap());
    let later = AccountRow { period: PeriodId(1500), ..row(0) };
    process.take(&told(
        &[(TOKENS, row(100)), ("new/tokens", later), ("new/cost", row(0))],
        route(&[TOKENS, "new/tokens", "new/cost"]),
    ));
    process.settle(one, 7);
    assert_eq!(process.spent(TOKENS).used, 7, "where it had a reservation it is charged once");
    assert_eq!(process.spent_in("new/tokens", 1500), Some(SpentRow { used: 7, ..SpentRow::default() }));
    assert_eq!(process.spent("new/cost").used, 0, "nobody knows what it cost");
    // The first budget goes while the other call runs.
    process.take(&told(&[("new/cost", row(0))], route(&["new/cost"])));
    let used = Used { cost: Some(9), exact: false, ..exactly(4) };
    process.spending.settle(two, Some(used));
    assert_eq!(process.spent(TOKENS), SpentRow { used: 11, estimated: 4, allowance: 11, ..SpentRow::default() });
    assert_eq!(process.spent("new/cost"), SpentRow { used: 9, estimated: 9, ..SpentRow::default() });
    assert_eq!(process.spent_in("new/tokens", 1500).unwrap().used, 7, "it covers the call no more");
    assert!(process.spending.is_idle());
}

#[rstest]
#[case("uid/tokens", "uid/tokens/coder")]
#[case("uid/tokens/coder", "uid/tokens")]
fn a_budget_that_is_shared_in_another_way_while_a_call_runs_is_charged_once(#[case] before: &str, #[case] after: &str) {
    let mut process = Process::with(&[(before, row(100)), ("other/tokens", row(100))]);
    let reservation = process.reserve(60).unwrap();
    // Its budget has a limit of cost by now as well.
    let accounts = [(before, row(60)), (after, row(0)), ("uid/cost", row(0)), ("other/tokens", row(100))];
    process.take(&told(&accounts, route(&[after, "uid/cost", "other/tokens"])));
    process.spending.settle(reservation, Some(Used { cost: Some(7), ..exactly(40) }));
    let used = |account| process.spent(account).used;
    assert_eq!((used(before), used(after), used("uid/cost"), used("other/tokens")), (40, 0, 7, 40));
    assert!(process.spending.is_idle());
}

#[rstest]
#[case(WhenUsageUnknown::Hold, 100, true)]
#[case(WhenUsageUnknown::Hold, 101, false)]
#[case(WhenUsageUnknown::Hold, 1001, false)]
#[case(WhenUsageUnknown::Block, 1, false)]
#[case(WhenUsageUnknown::Allow, 5000, true)]
fn when_nothing_is_heard_a_budget_does_what_it_says(#[case] when: WhenUsageUnknown, #[case] most: u64, #[case] begins: bool) {
    let mut process = Process::with(&[(TOKENS, walled(when, 100))]);
    process.elapsed = 29;
    if most <= 100 {
        let reservation = process.reserve(most).unwrap();
        process.spending.settle(reservation, None);
    }
    process.elapsed = 30;
    match process.reserve(most) {
        Ok(reservation) => {
            assert!(begins);
            process.settle(reservation, most);
            assert_eq!(process.spent(TOKENS), SpentRow { used: most, allowance: 100, ..SpentRow::default() });
        }
        Err(short) => {
            assert!(matches!(&short, Short::Unknown(refused) if refused.budget == "sprint" && !begins), "{short:?}");
            assert_eq!(process.spent(TOKENS), SpentRow { allowance: 100, ..SpentRow::default() }, "that is no want of room");
        }
    }
    // A word of the operator ends it, also one that says nothing.
    process.take(&Told::default());
    let short = process.reserve(101).unwrap_err();
    assert_eq!(short, Short::Wait);
}

#[test]
fn of_several_reasons_the_one_that_waiting_changes_least_is_told() {
    let other = "other/tokens";
    let mut process =
        Process::with(&[(TOKENS, walled(WhenUsageUnknown::Block, 100)), (other, AccountRow { limit: 50, ..row(50) })]);
    assert!(matches!(process.reserve(51).unwrap_err(), Short::Exceeded(refused) if refused.limit == 50));
    process.elapsed = 30;
    assert!(matches!(process.reserve(10).unwrap_err(), Short::Unknown(refused) if refused.limit == 1000));
    let mut process = Process::with(&[(TOKENS, row(0)), (COST, row(0))]);
    assert!(matches!(process.reserve(51).unwrap_err(), Short::PriceMissing(_)));
}

#[test]
fn before_an_operator_has_spoken_the_plan_says_who_is_refused() {
    let planned = |name: &str, routes: Option<&str>, enforcement, when_usage_unknown| PlannedBudget {
        name: name.to_owned(),
        callers: [CALLER.to_owned()].into(),
        routes: routes.map(|route| [route.to_owned()].into()),
        from: None,
        enforcement,
        when_usage_unknown,
    };
    let (hold, block, allow) = (WhenUsageUnknown::Hold, WhenUsageUnknown::Block, WhenUsageUnknown::Allow);
    for (budgets, refused) in [
        (vec![], None),
        (vec![planned("elsewhere", Some("another-route"), Enforcement::Block, block)], None),
        (vec![planned("allows", None, Enforcement::Block, allow)], None),
        (vec![planned("alerts", None, Enforcement::Alert, block), planned("tries", None, Enforcement::DryRun, hold)], None),
        (vec![planned("allows", None, Enforcement::Block, allow), planned("holds", None, Enforcement::Block, hold)], Some("holds")),
        (vec![planned("blocks", Some(ROUTE), Enforcement::Block, block)], Some("blocks")),
    ] {
        let mut process = Process::new();
        process.spending.plan(budgets.clone());
        // An operator of an older version, or one that does not know yet which process this is.
        process.take(&Told::default());
        let outcome = process.reserve(10);
        match (&outcome, refused) {
            (Ok(_), None) => {}
            (Err(Short::Unknown(by)), Some(name)) => assert_eq!(by.budget, name),
            _ => panic!("{budgets:?}: {outcome:?}"),
        }
        let now = process.now();
        assert!(process.spending.reserve("planner", ROUTE, tokens(1), None, now).is_ok());
        // Once it has spoken, the plan does not count.
        process.take(&Told { all: true, ..Told::default() });
        process.elapsed = 1000;
        assert!(process.reserve(10).is_ok(), "{budgets:?}");
    }
}

#[test]
fn a_budget_of_the_plan_takes_no_notice_of_calls_before_its_first_period_starts() {
    let mut process = Process::new();
    let from = process.wall + 10;
    let callers = [CALLER.to_owned()].into();
    process.spending.plan(vec![PlannedBudget { name: "sprint".to_owned(), callers, from: Some(from), ..PlannedBudget::default() }]);
    for (wall, refused) in [(from - 1, false), (from, true)] {
        process.wall = wall;
        let now = process.now();
        assert_eq!(process.spending.terms(CALLER, ROUTE, now).is_some(), refused, "{wall}");
        let outcome = process.reserve(10);
        assert_eq!(matches!(outcome, Err(Short::Unknown(_))), refused, "{wall}: {outcome:?}");
    }
}

#[test]
fn a_call_that_began_by_the_plan_is_charged_to_what_the_operator_says() {
    let mut process = Process::new();
    let reservation = process.reserve(10).unwrap();
    process.take(&told(&[(TOKENS, row(0))], route(&[TOKENS])));
    process.settle(reservation, 6);
    assert_eq!(process.spent(TOKENS).used, 6);
}

#[test]
fn an_account_of_which_nothing_is_told_yet_has_no_room_and_one_that_is_gone_is_in_nobodys_way() {
    let mut process = Process::new();
    process.take(&told(&[], route(&[TOKENS])));
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    process.elapsed = 30;
    assert!(matches!(process.reserve(1).unwrap_err(), Short::Unknown(refused) if refused.budget == "uid"));
    process.tell(TOKENS, row(5));
    let reservation = process.reserve(5).unwrap();
    process.take(&Told { accounts: [(id(TOKENS), None)].into(), ..Told::default() });
    let free = process.reserve(500).unwrap();
    process.settle(reservation, 5);
    process.settle(free, 500);
    assert_eq!(process.spent(TOKENS).used, 5);
}

#[test]
fn what_was_used_while_nothing_was_heard_takes_nothing_from_what_is_free() {
    let told = |free: u64| AccountRow { used: 400, free, ..walled(WhenUsageUnknown::Allow, 0) };
    let mut process = Process::with(&[(TOKENS, told(1000))]);
    process.elapsed = 30;
    let running = process.reserve(400).unwrap();
    process.settle(running, 400);
    process.report();
    process.acknowledge();
    process.tell(TOKENS, told(600));
    assert_eq!(process.reserve(300).unwrap_err(), Short::Wait);
    let call = process.wait(300);
    process.report();
    process.acknowledge();
    assert_eq!(process.retry(300, call).unwrap_err(), Short::Wait, "600 can be granted beyond the 400 that it used");
    process.tell(TOKENS, told(299));
    assert!(matches!(process.retry(300, call).unwrap_err(), Short::Exceeded(_)));
}
