use super::super::testing::{FIRST, SECOND, World, account, daily};
use super::percent;
use crate::decide::account::message::SpentRow;

#[test]
fn percents_are_rounded_down_and_of_nothing_all_is_used() {
    for (used, limit, expected) in
        [(0, 7, 0), (1, 3, 33), (999, 1000, 99), (1000, 1000, 100), (3000, 1000, 300), (0, 0, 100), (5, 0, 100)]
    {
        assert_eq!(percent(used, limit), expected, "{used} of {limit}");
    }
    assert_eq!(percent(u64::MAX, 1), u32::MAX);
    assert_eq!(percent(u64::MAX, u64::MAX), 100);
}

#[test]
fn a_process_is_told_what_all_have_used_and_what_it_may_still_get() {
    let mut world = World::with(1000, &[1, 2]);
    world.ask(1, "a/tokens", 100, 100);
    world.ask(2, "a/tokens", 300, 300);
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 40, reserved: 20, allowance: 100, ..SpentRow::default() };
    *world.row(2, "a/tokens", FIRST) = SpentRow { used: 60, reserved: 10, allowance: 300, ..SpentRow::default() };
    world.report(1);
    world.report(2);
    let rows = world.message(1).1;
    let row = &rows[&account("a/tokens")];
    assert_eq!((row.budget.as_str(), row.period, row.limit, row.used, row.percent), ("daily", FIRST, 1000, 100, 10));
    assert_eq!((row.allowance, row.free), (100, 830), "100 and 830 are all that process 2 neither used nor reserved");
    assert_eq!((row.next.unwrap().period, row.recall), (SECOND, None));
    let rows = world.message(2).1;
    let row = &rows[&account("a/tokens")];
    assert_eq!((row.allowance, row.free), (300, 640));
}

#[test]
fn a_process_of_which_nothing_is_known_is_told_of_all_accounts_and_granted_nothing() {
    let mut world = World::with(1000, &[1]);
    let mut other = daily(500);
    other.name = "other".to_owned();
    world.configure("b", other);
    let rows = world.message(77).1;
    let allowances: Vec<_> = rows.iter().map(|(account, row)| (account.to_string(), row.allowance, row.limit)).collect();
    assert_eq!(allowances, [("a/tokens".to_owned(), 0, 1000), ("b/tokens".to_owned(), 0, 500)]);
}
