use rstest::rstest;

use super::*;
use crate::api::token_budget::WhenUsageUnknown;
use crate::decide::account::message::{CallerRow, NextPeriod, RouteRow, SpentRow};
use crate::decide::account::spending::testing::{CALLER, Process, ROUTE, TOKENS, id, next, route, row, tokens, told};
use crate::decide::account::spending::{Refused, Short};
use crate::decide::account::{PeriodId, Unit};

fn recalled(allowance: u64, recall: u64) -> AccountRow {
    AccountRow { recall: Some(recall), ..row(allowance) }
}

/// The same account in the period from second 2000 to 3000.
fn later(allowance: u64) -> AccountRow {
    AccountRow { period: PeriodId(2000), period_end: Some(3000), ..row(allowance) }
}

fn gone(account: &str) -> Told {
    Told { accounts: [(id(account), None)].into(), ..Told::default() }
}

#[test]
fn an_allowance_rises_and_never_falls_by_itself() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    for (said, allowance) in [(70, 100), (130, 130), (0, 130)] {
        process.tell(TOKENS, row(said));
        assert_eq!(process.spent(TOKENS).allowance, allowance);
    }
    assert!(process.reserve(130).is_ok());
}

#[test]
fn what_is_recalled_is_given_back_as_calls_leave_room_for_it() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let (one, two) = (process.reserve(40).unwrap(), process.reserve(30).unwrap());
    process.tell(TOKENS, recalled(100, 20));
    assert_eq!(process.spent(TOKENS).allowance, 70);
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    process.settle(one, 5);
    assert_eq!(process.spent(TOKENS).allowance, 35);
    // The same again changes nothing, though it says the allowance of before.
    process.tell(TOKENS, recalled(100, 20));
    assert_eq!(process.spent(TOKENS).allowance, 35);
    process.settle(two, 0);
    assert_eq!(process.spent(TOKENS), SpentRow { used: 5, allowance: 20, ..SpentRow::default() });
    let three = process.reserve(15).unwrap();
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    process.settle(three, 1);
    // A row without it ends it.
    process.tell(TOKENS, row(90));
    assert_eq!(process.spent(TOKENS).allowance, 90);
    let four = process.reserve(84).unwrap();
    process.settle(four, 0);
    assert_eq!(process.spent(TOKENS).allowance, 90);
}

#[test]
fn a_recall_takes_nothing_that_a_call_may_still_use() {
    for recall in [0, 59, 60, 61, 100, 500] {
        let mut process = Process::with(&[(TOKENS, row(100))]);
        let running = process.reserve(60).unwrap();
        process.tell(TOKENS, recalled(100, recall));
        assert_eq!(process.spent(TOKENS).allowance, recall.clamp(60, 100), "{recall}");
        process.settle(running, 60);
        assert_eq!(process.spent(TOKENS).allowance, recall.clamp(60, 100), "{recall}");
    }
}

#[test]
fn the_next_period_opens_by_the_wall_clock_and_a_call_is_charged_to_the_one_that_let_it_in() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(40), ..row(100) })]);
    process.wall = 1999;
    let early = process.reserve(100).unwrap();
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    process.wall = 2000;
    let late = process.reserve(30).unwrap();
    assert_eq!(process.reserve(11).unwrap_err(), Short::Wait);
    process.settle(early, 80);
    process.settle(late, 30);
    assert_eq!(process.spent(TOKENS), SpentRow { used: 80, allowance: 100, ..SpentRow::default() });
    assert_eq!(process.spent_in(TOKENS, 2000), Some(SpentRow { used: 30, allowance: 40, ..SpentRow::default() }));
    // The operator's clock comes to it.
    process.tell(TOKENS, later(70));
    assert!(process.reserve(40).is_ok());
}

#[test]
fn a_clock_that_goes_back_opens_no_period_again() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(40), ..row(100) })]);
    process.wall = 2500;
    let running = process.reserve(10).unwrap();
    process.wall = 1200;
    assert_eq!(process.reserve(31).unwrap_err(), Short::Wait);
    process.settle(running, 10);
    // Nor if it is the operator's.
    process.tell(TOKENS, AccountRow { next: next(40), ..row(500) });
    assert_eq!(process.reserve(31).unwrap_err(), Short::Wait);
    let running = process.reserve(30).unwrap();
    process.settle(running, 30);
    assert_eq!((process.spent(TOKENS).used, process.spent_in(TOKENS, 2000).unwrap().used), (0, 40));
    // More of the next period may come meanwhile.
    process.tell(TOKENS, AccountRow { next: next(45), ..row(500) });
    assert!(process.reserve(5).is_ok());
}

#[test]
fn an_operator_that_is_ahead_opens_the_period_that_it_says() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let running = process.reserve(10).unwrap();
    process.tell(TOKENS, later(20));
    assert!(process.reserve(20).is_ok());
    process.settle(running, 10);
    assert_eq!((process.spent(TOKENS).used, process.spent_in(TOKENS, 2000).unwrap().reserved), (10, 20));
}

#[rstest]
#[case(WhenUsageUnknown::Hold)]
#[case(WhenUsageUnknown::Block)]
#[case(WhenUsageUnknown::Allow)]
fn without_a_next_period_nothing_is_there_after_the_end(#[case] when_usage_unknown: WhenUsageUnknown) {
    let mut process = Process::with(&[(TOKENS, AccountRow { when_usage_unknown, ..row(100) })]);
    process.wall = 2000;
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    assert_eq!(process.reserve(1001).unwrap_err(), Short::Wait, "the limit of what follows is not known");
    process.elapsed = 30;
    if when_usage_unknown == WhenUsageUnknown::Allow {
        let debt = process.reserve(150).unwrap();
        process.settle(debt, 150);
        assert_eq!(process.spent(TOKENS).used, 150);
    } else {
        let refused =
            Refused { budget: "sprint".to_owned(), unit: Unit::Tokens, limit: 1000, left: 1000, resets: Some(2000), message: None };
        assert_eq!(process.reserve(1).unwrap_err(), Short::Unknown(refused));
    }
    process.tell(TOKENS, later(30));
    assert!(process.reserve(30).is_ok());
}

#[test]
fn the_period_after_the_next_is_not_known_either() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(40), ..row(100) })]);
    process.wall = 3000;
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    process.elapsed = 30;
    assert!(matches!(process.reserve(1).unwrap_err(), Short::Unknown(refused) if refused.resets == Some(3000)));
}

#[test]
fn an_allowance_that_is_recalled_as_it_is_granted_is_said_to_be_given_back() {
    let mut process = Process::with(&[(TOKENS, row(10))]);
    let _running = process.reserve(10).unwrap();
    process.report();
    process.acknowledge();
    // It was granted in a message that was lost, and then recalled.
    process.tell(TOKENS, AccountRow { recall: Some(0), ..row(100) });
    assert_eq!(process.report().accounts[&id(TOKENS)][&PeriodId(1000)].allowance, 10);
    process.acknowledge();
    process.tell(TOKENS, AccountRow { recall: Some(0), ..row(10) });
    assert!(process.report().accounts.is_empty(), "the operator knows");
}

#[test]
fn closed_periods_are_forgotten_when_they_were_reported_except_the_last_four() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let running = process.reserve(10).unwrap();
    process.tell(TOKENS, later(100));
    process.report();
    process.acknowledge();
    for start in [3000, 4000, 5000, 6000] {
        process.tell(TOKENS, AccountRow { period: PeriodId(start), period_end: Some(start + 1000), ..row(100) });
        process.report();
        process.acknowledge();
    }
    for start in [2000, 3000, 4000, 5000] {
        assert!(process.spent_in(TOKENS, start).is_some(), "one of the last four: a new leader may ask for it");
    }
    assert_eq!(process.spent_in(TOKENS, 1000).unwrap().reserved, 10, "a call of it runs");
    process.settle(running, 10);
    process.spending.heard(process.acknowledged, Duration::from_secs(30), process.now());
    assert_eq!(process.spent_in(TOKENS, 1000).unwrap().used, 10, "that was not reported");
    assert_eq!(process.report().accounts[&id(TOKENS)][&PeriodId(1000)].used, 10);
    process.acknowledge();
    assert_eq!(process.spent_in(TOKENS, 1000), None);
    // It does not begin again with nothing spent.
    process.tell(TOKENS, AccountRow { next: Some(NextPeriod::default()), ..row(100) });
    assert_eq!(process.spent_in(TOKENS, 1000), None);
    process.tell(TOKENS, later(120));
    assert_eq!(process.spent_in(TOKENS, 2000).unwrap().allowance, 120);
    assert_eq!(process.report().accounts[&id(TOKENS)].keys().map(|period| period.0).collect::<Vec<_>>(), [2000]);
}

#[test]
fn a_next_period_that_is_another_one_now_is_forgotten() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(40), ..row(100) })]);
    let other = NextPeriod { period: PeriodId(2500), period_end: None, allowance: 7 };
    process.tell(TOKENS, AccountRow { period_end: Some(2500), next: Some(other), ..row(100) });
    assert_eq!((process.spent_in(TOKENS, 2000), process.spent_in(TOKENS, 2500).unwrap().allowance), (None, 7));
    process.wall = 2499;
    let running = process.reserve(100).unwrap();
    process.settle(running, 0);
    process.wall = 2500;
    assert!(process.reserve(7).is_ok());
}

#[test]
fn an_account_that_is_gone_is_kept_until_what_was_spent_is_reported() {
    let mut process = Process::with(&[(TOKENS, row(100)), ("other/tokens", row(50))]);
    let running = process.reserve(30).unwrap();
    process.report();
    process.acknowledge();
    process.take(&Told { all: true, ..Told::default() });
    assert_eq!(process.spent(TOKENS), SpentRow { reserved: 30, allowance: 30, ..SpentRow::default() });
    assert!(process.reserve(1000).is_ok(), "it covers nobody");
    let said = process.report().accounts;
    assert_eq!(said[&id(TOKENS)][&PeriodId(1000)], process.spent(TOKENS));
    process.acknowledge();
    assert!(process.report().accounts.is_empty());
    process.reconnect();
    assert_eq!(process.report().accounts, said, "a call of it runs: another operator has to know");
    process.settle(running, 30);
    assert_eq!(process.report().accounts[&id(TOKENS)][&PeriodId(1000)].used, 30);
    process.acknowledge();
    process.reconnect();
    assert!(process.report().accounts.is_empty(), "everybody who needs it knows it");
    // It comes back in the same period: what was used stays used.
    process.tell(TOKENS, row(40));
    assert_eq!(
        process.report().accounts[&id(TOKENS)][&PeriodId(1000)],
        SpentRow { used: 30, allowance: 40, ..SpentRow::default() }
    );
    process.acknowledge();
    process.take(&gone(TOKENS));
    process.report();
    process.wall = 2000;
    process.acknowledge();
    assert!(process.spending.slots.is_empty() && process.spent_in(TOKENS, 1000).is_none());
}

#[test]
fn an_account_in_which_nothing_was_spent_is_forgotten_at_once() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(40), ..row(100) })]);
    let nothing = process.spending.reserve(CALLER, ROUTE, tokens(0), None, process.now()).unwrap();
    process.take(&gone(TOKENS));
    assert!(process.spent_in(TOKENS, 1000).is_some(), "a call of it runs");
    process.spending.settle(nothing, None);
    process.take(&Told { callers: [(CALLER.to_owned(), None)].into(), ..gone(TOKENS) });
    assert!(process.spending.slots.is_empty());
    // The number that it had is another one's now.
    process.take(&told(&[("other/tokens", row(5))], route(&["other/tokens"])));
    let running = process.reserve(5).unwrap();
    process.settle(running, 4);
    assert_eq!((process.spent("other/tokens").used, process.spending.slots.len()), (4, 1));
    assert_eq!(process.report().accounts.len(), 1);
}

#[test]
fn callers_that_no_budget_covers_are_forgotten_with_their_last_call() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let other = process.spending.reserve("planner", ROUTE, tokens(1), None, process.now()).unwrap();
    let reservation = process.reserve(10).unwrap();
    process.take(&Told { all: true, ..Told::default() });
    assert_eq!(process.spending.callers.keys().collect::<Vec<_>>(), [CALLER, "planner"], "their calls run");
    process.settle(reservation, 10);
    process.settle(other, 1);
    process.take(&Told { all: true, ..Told::default() });
    assert!(process.spending.callers.is_empty());
}

#[test]
fn a_caller_that_is_not_mentioned_has_not_changed_unless_all_are() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let ceiling = RouteRow { used_percent: 91, ..route(&[TOKENS]) };
    let routes = [("another-route".to_owned(), ceiling)].into();
    let planner = CallerRow { routes };
    process.take(&Told { callers: [("planner".to_owned(), Some(planner))].into(), ..Told::default() });
    let percent =
        |process: &Process, caller, route| process.spending.terms(caller, route, process.now()).map(|terms| terms.used_percent);
    assert_eq!(percent(&process, CALLER, ROUTE), Some(Some(0)));
    assert_eq!(percent(&process, "planner", "another-route"), Some(Some(91)));
    assert_eq!(percent(&process, "planner", ROUTE), None);
    process.take(&told(&[(TOKENS, row(100))], route(&[TOKENS])));
    assert_eq!(percent(&process, CALLER, ROUTE), Some(Some(0)));
    assert_eq!(percent(&process, "planner", "another-route"), None);
    process.take(&Told { callers: [(CALLER.to_owned(), None)].into(), ..Told::default() });
    assert_eq!(percent(&process, CALLER, ROUTE), None);
}
