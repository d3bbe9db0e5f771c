use proptest::prelude::*;

use super::*;
use crate::decide::account::PeriodId;
use crate::decide::account::message::{AccountRow, Ask, Told};
use crate::decide::account::spending::Short;
use crate::decide::account::spending::testing::{COST, Process, TOKENS, id, next, row};

/// An account of which the operator cannot grant more than this beyond the allowance.
fn tight(allowance: u64, free: u64) -> AccountRow {
    AccountRow { free, ..row(allowance) }
}

fn ask(process: &mut Process) -> Option<Ask> {
    process.report().asks.get(&id(TOKENS)).copied()
}

#[test]
fn who_waits_is_not_overtaken_by_whom_comes_later() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let running = process.reserve(60).unwrap();
    assert_eq!(process.reserve(60).unwrap_err(), Short::Wait);
    let first = process.wait(60);
    assert_eq!(process.reserve(40).unwrap_err(), Short::Wait, "40 are there, and are the first call's");
    let second = process.wait(40);
    process.spending.settle(running, None);
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait, "100 are there, and are spoken for");
    // In whatever order they try again.
    let begun = process.retry(40, second).unwrap();
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    let also_begun = process.retry(60, first).unwrap();
    assert_eq!(process.spending.waiting(), 0);
    process.settle(begun, 40);
    process.settle(also_begun, 20);
    assert!(process.reserve(40).is_ok());
}

#[test]
fn a_later_call_begins_where_there_is_room_for_all_before_it_too() {
    let mut process = Process::with(&[(TOKENS, row(100)), ("other/tokens", row(0))]);
    let first = process.wait(60);
    assert_eq!(process.retry(60, first).unwrap_err(), Short::Wait, "the other account has no room");
    process.tell("other/tokens", row(40));
    assert_eq!(process.reserve(41).unwrap_err(), Short::Wait);
    assert_eq!(process.reserve(40).unwrap_err(), Short::Wait, "the first one comes first in the other account");
    process.tell("other/tokens", row(100));
    assert!(process.reserve(40).is_ok());
    assert!(process.retry(60, first).is_ok());
}

#[test]
fn a_call_that_waits_in_one_account_keeps_nobody_from_what_is_left_in_another() {
    let mut process = Process::with(&[(TOKENS, row(100)), (COST, row(0))]);
    let now = process.now();
    let most = Most { tokens: 60, cost: Some(1) };
    let first = process.spending.wait("coder", "smart-router", most, now);
    let free = |tokens| Most { tokens, cost: Some(0) };
    assert_eq!(process.reserve_most(free(41)).unwrap_err(), Short::Wait);
    assert!(process.reserve_most(free(40)).is_ok());
    process.spending.withdraw(first);
    assert!(process.reserve_most(free(60)).is_ok());
}

#[test]
fn a_call_that_is_withdrawn_or_refused_for_good_is_in_nobodys_way() {
    let mut process = Process::with(&[(TOKENS, tight(50, 0))]);
    let (first, second) = (process.wait(60), process.wait(50));
    assert_eq!(process.retry(50, second).unwrap_err(), Short::Wait);
    process.report();
    process.acknowledge();
    assert!(matches!(process.retry(60, first).unwrap_err(), Short::Exceeded(_)));
    assert_eq!(process.spending.waiting(), 1);
    assert_eq!(process.reserve(1).unwrap_err(), Short::Wait);
    process.spending.withdraw(first);
    process.spending.withdraw(second);
    assert_eq!(process.spending.waiting(), 0);
    assert!(process.reserve(50).is_ok());
}

#[test]
fn a_call_that_waits_may_need_something_else_than_before_and_keeps_its_place() {
    let mut process = Process::with(&[(TOKENS, row(10))]);
    let (first, second) = (process.wait(50), process.wait(10));
    assert_eq!(process.retry(20, first).unwrap_err(), Short::Wait);
    assert_eq!(process.retry(10, second).unwrap_err(), Short::Wait);
    assert_eq!(ask(&mut process), Some(Ask { waiting: 20, smallest: 10, ahead: 20 }));
    process.tell(TOKENS, row(20));
    assert_eq!(process.retry(10, second).unwrap_err(), Short::Wait);
    assert!(process.retry(20, first).is_ok());
}

#[test]
fn all_that_waits_is_asked_for_and_what_lets_the_first_begin() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let running = process.reserve(80).unwrap();
    assert_eq!(ask(&mut process), Some(Ask { waiting: 0, smallest: 0, ahead: 60 }), "another call of 80");
    process.reserve(30).unwrap_err();
    let before = process.spending.changes();
    let first = process.wait(30);
    assert!(process.spending.changes() > before, "that is worth a report");
    process.reserve(25).unwrap_err();
    let second = process.wait(25);
    assert_eq!(ask(&mut process), Some(Ask { waiting: 35, smallest: 10, ahead: 80 }));
    // An ask is part of every report while it lasts.
    process.acknowledge();
    assert_eq!(ask(&mut process), Some(Ask { waiting: 35, smallest: 10, ahead: 80 }));
    process.spending.settle(running, None);
    assert_eq!(ask(&mut process), Some(Ask { waiting: 0, smallest: 0, ahead: 35 }));
    let before = process.spending.changes();
    process.spending.withdraw(first);
    process.spending.withdraw(second);
    assert!(process.spending.changes() > before);
    assert_eq!(ask(&mut process), None);
}

#[test]
fn what_is_asked_ahead_is_that_of_the_largest_call_of_the_last_minute() {
    let mut process = Process::with(&[(TOKENS, row(100))]);
    let _running = process.reserve(100).unwrap();
    for (elapsed, most, ahead) in [
        (0, None, Some(100)),
        (35, Some(20), Some(100)),
        (59, None, Some(100)),
        (60, None, Some(20)),
        (89, None, Some(20)),
        (90, None, None),
        (91, Some(1001), None),
        (91, Some(7), Some(7)),
        (200, None, None),
    ] {
        process.elapsed = elapsed;
        process.take(&Told::default());
        if let Some(most) = most {
            process.reserve(most).unwrap_err();
        }
        assert_eq!(ask(&mut process).map(|ask| ask.ahead), ahead, "after {elapsed} s");
    }
}

#[test]
fn no_call_is_refused_for_want_of_room_before_the_operator_has_taken_that_it_was_asked_for() {
    let mut process = Process::with(&[(TOKENS, tight(10, 15))]);
    let (fits, does_not) = (process.wait(25), process.wait(26));
    assert_eq!(process.retry(26, does_not).unwrap_err(), Short::Wait, "not asked for");
    process.report();
    assert_eq!(process.retry(26, does_not).unwrap_err(), Short::Wait, "not acknowledged");
    let later = process.wait(26);
    process.acknowledge();
    assert_eq!(process.retry(26, later).unwrap_err(), Short::Wait, "it came after that report");
    assert_eq!(process.spent(TOKENS).refused, 0);
    // What another operator has taken is nothing that this one knows.
    process.reconnect();
    process.take(&Told::default());
    assert_eq!(process.retry(26, does_not).unwrap_err(), Short::Wait);
    process.report();
    process.acknowledge();
    assert!(matches!(process.retry(26, does_not).unwrap_err(), Short::Exceeded(_)));
    assert!(matches!(process.retry(26, later).unwrap_err(), Short::Exceeded(_)));
    assert_eq!(process.retry(25, fits).unwrap_err(), Short::Wait, "that can be granted");
    assert_eq!(process.spent(TOKENS).refused, 2);
    process.tell(TOKENS, tight(25, 0));
    assert!(process.retry(25, fits).is_ok());
}

#[test]
fn what_is_being_given_back_is_still_counted_on() {
    let mut process = Process::with(&[(TOKENS, tight(100, 0))]);
    process.tell(TOKENS, AccountRow { recall: Some(0), ..tight(100, 0) });
    let call = process.wait(100);
    process.report();
    process.acknowledge();
    // The operator reckons with 100 here until it has heard that they were given back.
    assert_eq!(process.retry(100, call).unwrap_err(), Short::Wait);
    process.tell(TOKENS, tight(0, 99));
    assert!(matches!(process.retry(100, call).unwrap_err(), Short::Exceeded(_)));
}

#[test]
fn nothing_is_asked_for_in_a_period_of_which_the_operator_does_not_speak() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(5), free: 0, ..row(10) })]);
    process.wall = 2000;
    let call = process.wait(6);
    assert_eq!(process.retry(6, call).unwrap_err(), Short::Wait);
    assert_eq!(ask(&mut process), None);
    process.acknowledge();
    assert_eq!(process.retry(6, call).unwrap_err(), Short::Wait, "what is free there is not known");
    let opened = AccountRow { period: PeriodId(2000), period_end: Some(3000), ..tight(5, 0) };
    process.tell(TOKENS, opened);
    assert_eq!(process.retry(6, call).unwrap_err(), Short::Wait, "it was not asked for there yet");
    assert_eq!(ask(&mut process), Some(Ask { waiting: 1, smallest: 1, ahead: 6 }));
    process.acknowledge();
    assert!(matches!(process.retry(6, call).unwrap_err(), Short::Exceeded(_)));
}

#[test]
fn who_waits_when_the_operator_falls_silent_is_told_that_nothing_is_known() {
    let mut process = Process::with(&[(TOKENS, row(10))]);
    let call = process.wait(11);
    process.elapsed = 30;
    assert!(matches!(process.retry(11, call).unwrap_err(), Short::Unknown(_)));
    assert_eq!(process.spending.waiting(), 0);
    assert!(process.reserve(10).is_ok());
}

proptest! {
    /// Whoever came first can always begin where one that came later could.
    #[test]
    fn calls_begin_in_the_order_in_which_they_came(
        needs in prop::collection::vec(1_u64..40, 1..20),
        tries in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..60), 1..80),
    ) {
        let mut process = Process::with(&[(TOKENS, AccountRow { limit: 100_000, free: 100_000, ..row(0) })]);
        let mut calls: Vec<(u64, Ticket)> = needs.iter().map(|need| (*need, process.wait(*need))).collect();
        let mut allowance = 0;
        for (index, more) in tries {
            if calls.is_empty() {
                break;
            }
            allowance += more;
            process.tell(TOKENS, AccountRow { limit: 100_000, free: 100_000, ..row(allowance) });
            let index = index.index(calls.len());
            let (need, ticket) = calls[index];
            let before: u64 = calls[..index].iter().map(|(need, _)| need).sum();
            let available = allowance - process.spent(TOKENS).reserved;
            let begun = process.retry(need, ticket);
            prop_assert_eq!(begun.is_ok(), before + need <= available);
            if begun.is_ok() {
                calls.remove(index);
            }
            prop_assert_eq!(process.spending.waiting(), calls.len());
        }
    }
}
