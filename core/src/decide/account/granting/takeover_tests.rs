use super::testing::{FIRST, LENGTH, SECOND, START, World, account, daily, period};
use super::*;
use crate::decide::account::message::SpentRow;

/// The gateway hears of the new leader, and says so.
fn hear(world: &mut World, epoch: u64) {
    world.report(epoch);
    world.tell(epoch);
    world.report(epoch);
}

#[test]
fn a_new_leader_writes_first_and_grants_nothing_to_whom_it_has_not_heard() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.settle();
    assert_eq!(world.allowance(1), 100);
    world.take_over();
    assert_eq!(world.snapshot().known, Known::NotHeard(1));
    assert_eq!(world.granting.unheard(), BTreeSet::from([1]));
    assert!(world.tokens().committed >= 100);
    let now = world.now();
    assert!(world.granting.ledger_due(now).is_some_and(|due| due <= now.elapsed));
    world.ask(1, "a/tokens", 50, 50);
    world.report(1);
    assert!(world.write());
    world.granting.tick(now);
    let row = world.message(1).1.remove(&account("a/tokens")).unwrap();
    assert_eq!(row.allowance, 0, "it still goes by what the one before said");
    world.settle();
    assert_eq!((world.allowance(1), world.tokens().committed, world.snapshot().known), (150, 150, Known::Yes));
}

/// Three processes hold 100 each of 1,000, and each has a ceiling of 1,000.
fn three() -> World {
    let mut world = World::with(1000, &[1, 2, 3]);
    for epoch in [1, 2, 3] {
        world.ask(epoch, "a/tokens", 100, 100);
    }
    world.settle();
    let ledger = world.stored.as_ref().unwrap().budgets["a"].periods[&FIRST].accounts.of(Unit::Tokens).unwrap();
    let ceilings: Vec<u64> = ledger.shares[""].processes.values().map(|process| process.ceiling).collect();
    assert_eq!((ceilings, ledger.bound), (vec![1000, 1000, 1000], Some(1000)));
    world.take_over();
    world
}

#[test]
fn who_vanished_is_charged_what_the_bound_leaves_beside_what_the_others_hold() {
    let mut world = three();
    assert_eq!(world.tokens().committed, 1000, "the ceilings together are more than there is");
    hear(&mut world, 1);
    hear(&mut world, 2);
    assert_eq!((world.tokens().used, world.tokens().committed), (0, 1000));
    world.end(3);
    let tokens = world.tokens();
    assert_eq!((tokens.used, tokens.estimated, tokens.committed), (800, 800, 1000));
    assert_eq!(world.snapshot().known, Known::Yes);
}

#[test]
fn who_vanished_is_charged_when_all_others_have_said_what_they_hold() {
    let mut world = three();
    world.end(3);
    assert_eq!((world.tokens().used, world.snapshot().known), (0, Known::NotHeard(3)));
    hear(&mut world, 1);
    assert_eq!(world.tokens().used, 0);
    hear(&mut world, 2);
    assert_eq!((world.tokens().used, world.tokens().committed), (800, 1000));
}

#[test]
fn of_several_who_vanished_each_is_charged_and_together_no_more_than_the_bound() {
    let mut world = three();
    hear(&mut world, 1);
    world.end(2);
    world.end(3);
    assert_eq!((world.tokens().used, world.tokens().committed), (900, 1000));
}

#[test]
fn what_was_written_and_never_told_is_granted_again() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.report(1);
    let now = world.now();
    world.granting.tick(now);
    assert!(world.write());
    world.take_over();
    world.settle();
    assert_eq!((world.allowance(1), world.tokens().used, world.tokens().committed), (100, 0, 100));
}

#[test]
fn without_a_ledger_what_processes_say_is_taken_and_has_to_be_confirmed() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.settle();
    world.row(1, "a/tokens", FIRST).used = 40;
    world.stored = None;
    world.take_over();
    assert_eq!(world.snapshot().known, Known::Yes);
    hear(&mut world, 1);
    assert_eq!((world.tokens().used, world.tokens().committed, world.snapshot().known), (40, 100, Known::LedgerLost));
    world.settle();
    world.take_over();
    hear(&mut world, 1);
    assert_eq!(world.snapshot().known, Known::LedgerLost, "the next leader does not know better");
    world.granting.confirm("a");
    assert_eq!(world.snapshot().known, Known::Yes);
}

#[test]
fn a_report_may_come_before_the_budgets_are_known() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.settle();
    world.row(1, "a/tokens", FIRST).used = 40;
    let (budgets, history) = (std::mem::take(&mut world.budgets), std::mem::take(&mut world.history));
    world.granting = Granting::new(2, world.stored.clone(), world.now());
    world.report(1);
    let now = world.now();
    world.granting.configure(&budgets, &history, now);
    assert_eq!((world.tokens().used, world.tokens().committed, world.snapshot().known), (40, 100, Known::Yes));
}

#[test]
fn a_leader_whose_clock_is_behind_opens_no_earlier_period_and_knows_those_that_are_over() {
    let mut world = World::with(1000, &[1]);
    world.row(1, "a/tokens", FIRST).used = 30;
    world.wall = START + LENGTH;
    let mut terms = daily(1000);
    (terms.period, terms.next) = (period(1, 1000), Some(period(2, 1000)));
    world.configure("a", terms);
    world.settle();
    world.wait(60);
    world.settle();
    world.wall = START + 10;
    world.budgets.insert("a".to_owned(), daily(500));
    world.take_over();
    let snapshot = world.snapshot();
    assert_eq!((snapshot.period, snapshot.units[&Unit::Tokens].limit), (SECOND, 1000));
    let used: Vec<_> = snapshot.history.iter().map(|closed| (closed.id, closed.used.tokens)).collect();
    assert_eq!(used, [(FIRST, 30)]);
}

#[test]
fn a_call_that_began_under_an_earlier_leader_and_in_an_earlier_period_is_charged_once() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 40, reserved: 50, allowance: 100, ..SpentRow::default() };
    world.wall = START + LENGTH;
    let mut terms = daily(1000);
    (terms.period, terms.next) = (period(1, 1000), Some(period(2, 1000)));
    world.configure("a", terms);
    world.settle();
    world.wait(60);
    world.take_over();
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 65, allowance: 100, ..SpentRow::default() };
    world.settle();
    world.wait(60);
    world.settle();
    let before = world.snapshot().before.unwrap();
    assert_eq!((before.used.tokens, before.estimated.tokens, world.tokens().used), (65, 0, 0));
    assert!(!world.stored.as_ref().unwrap().budgets["a"].periods.contains_key(&FIRST));
}

#[test]
fn a_budget_that_is_not_told_any_more_is_not_taken_from_the_ledger() {
    let mut world = World::with(1000, &[1]);
    world.budgets.clear();
    world.take_over();
    assert_eq!(world.granting.snapshot("a"), None);
    world.wait(40);
    world.round();
    assert!(world.stored.as_ref().unwrap().budgets.is_empty());
}
