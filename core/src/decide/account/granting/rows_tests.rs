use super::super::Heard;
use super::super::testing::{FIRST, SECOND, World, account, daily};
use super::percent;
use crate::decide::account::message::{Report, SpentRow};
use crate::decide::gateway::exchange::usage::Usage;

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

/// A gateway reports no more than this, after it has taken this message.
fn report(world: &mut World, epoch: u64, acknowledged: u64, report: &Report) {
    let now = world.now();
    let heard = Heard { listens: true, acknowledged, draining: false };
    world.granting.receive(epoch, heard, report, &Usage::default(), now);
    world.granting.tick(now);
}

/// What process 1 is told that has changed since: of which budgets, and of which accounts; and how many changes there are now.
fn told(world: &mut World, seq: u64, since: u64) -> (Option<Vec<String>>, Vec<String>, u64) {
    let rows = world.granting.rows(1, seq, since);
    let budgets = rows.budgets.map(|budgets| budgets.into_iter().collect());
    (budgets, rows.rows.keys().map(ToString::to_string).collect(), rows.changes)
}

#[test]
fn a_budget_of_which_nothing_has_changed_is_not_told_again() {
    let mut world = World::with(1000, &[1, 2]);
    world.configure("b", daily(500));
    world.settle();
    let text = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    let (budgets, accounts, known) = told(&mut world, 1001, 0);
    assert_eq!((budgets, accounts), (None, text(&["a/tokens", "b/tokens"])));
    for epoch in [1, 2] {
        report(&mut world, epoch, 1001, &Report::default());
    }
    assert_eq!(told(&mut world, 1002, known), (Some(vec![]), vec![], known), "at rest there is nothing to tell");
    let used = SpentRow { used: 5, ..SpentRow::default() };
    let accounts = [(account("a/tokens"), [(FIRST, used)].into())].into();
    report(&mut world, 2, 1002, &Report { accounts, ..Report::default() });
    let (budgets, accounts, later) = told(&mut world, 1003, known);
    assert_eq!((budgets, accounts), (Some(text(&["a"])), text(&["a/tokens"])));
    // That one is gone nobody could see by the others.
    world.budgets.remove("a");
    let now = world.now();
    world.granting.configure(&world.budgets, &world.history, now);
    let (budgets, accounts, _) = told(&mut world, 1004, later);
    assert_eq!((budgets, accounts), (None, text(&["b/tokens"])));
}

#[test]
fn who_waits_is_told_what_others_have_heard_though_nothing_of_the_budget_has_changed() {
    let mut world = World::with(1000, &[1, 2]);
    *world.row(2, "a/tokens", FIRST) = SpentRow { reserved: 1000, allowance: 1000, ..SpentRow::default() };
    world.report(2);
    world.ask(1, "a/tokens", 100, 100);
    world.report(1);
    let free = |world: &mut World| world.message(1).1[&account("a/tokens")].free;
    assert_eq!(free(&mut world), 1000, "the other one may have settled for less since");
    let (heard, _) = world.message(2);
    assert_eq!(free(&mut world), 1000);
    let now = world.now();
    let listening = Heard { listens: true, acknowledged: heard, draining: false };
    world.granting.receive(2, listening, &Report::default(), &Usage::default(), now);
    assert_eq!(free(&mut world), 0, "it has not");
}
