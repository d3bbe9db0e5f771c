use super::testing::{FIRST, Gateway, LENGTH, SECOND, START, World, account, daily, period};
use super::*;
use crate::api::token_budget::Enforcement;
use crate::decide::account::Limits;
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
fn who_vanishes_with_the_leader_is_charged_no_more_where_the_budget_has_many_shares() {
    let of_share = Limits { tokens: Some(500), cost: None };
    let shares: BTreeMap<String, Limits> = (0..20).map(|number| (format!("pool-{number}"), of_share)).collect();
    for (shares, charged) in [(None, 100), (Some(shares), 20 * 5)] {
        let mut world = World::new();
        world.configure("a", BudgetTerms { shares, ..daily(10_000) });
        world.gateways.insert(1, Gateway::default());
        world.settle();
        world.take_over();
        world.end(1);
        let tokens = world.tokens();
        assert_eq!((tokens.used, tokens.estimated), (charged, charged), "it may have used a hundredth that nobody knows of");
    }
}

#[test]
fn what_was_used_and_never_granted_stands_in_the_ledger_before_whoever_used_it_may_go() {
    let mut world = World::with(1000, &[1]);
    let ledger = world.stored.as_ref().unwrap().budgets["a"].periods[&FIRST].accounts.of(Unit::Tokens).unwrap();
    let ceiling = ledger.shares[""].processes[&1].ceiling;
    assert!(ceiling < 171);
    // A call ends that had begun before the budget covered it, and with it the process.
    world.row(1, "a/tokens", FIRST).used = 171;
    world.gateways.get_mut(&1).unwrap().draining = true;
    assert!(!world.granting.is_to_stay(1));
    world.report(1);
    let now = world.now();
    world.granting.tick(now);
    assert!(world.granting.is_to_stay(1), "another leader would charge {ceiling}");
    assert!(world.granting.ledger_due(now).is_some_and(|due| due <= now.elapsed), "it is in a hurry");
    let _ = world.granting.ledger(now);
    assert!(world.granting.is_to_stay(1), "it does not stand");
    world.granting.write_failed(now);
    world.wait(1);
    world.report(1);
    assert!(world.write() && !world.granting.is_to_stay(1));
    world.report(1);
    assert!(!world.write(), "the same again is no reason to write");
    world.end(1);
    world.take_over();
    let now = world.now();
    world.granting.ended(1, now);
    assert_eq!((world.tokens().used, world.tokens().estimated, world.snapshot().known), (171, 0, Known::Yes));
}

#[test]
fn however_many_end_who_used_what_they_were_never_granted_three_writes_are_made_in_a_minute() {
    let gateways: Vec<u64> = (1..=30).collect();
    let mut world = World::with(10_000, &gateways);
    for epoch in gateways {
        world.row(epoch, "a/tokens", FIRST).used = 300;
        world.gateways.get_mut(&epoch).unwrap().draining = true;
        world.report(epoch);
        let now = world.now();
        world.granting.tick(now);
        world.write();
        world.end(epoch);
        world.write();
        world.wait(5);
    }
    let times: Vec<u64> = world.writes.iter().map(Duration::as_secs).collect();
    assert!(world.writes.windows(4).all(|four| four[3] >= four[0] + Duration::from_secs(60)), "{times:?}");
    assert!(times.len() >= 6, "{times:?}");
}

#[test]
fn where_nobody_is_bound_nothing_that_was_used_hurries_a_write_or_keeps_anybody() {
    let mut world = World::new();
    world.configure("a", BudgetTerms { enforcement: Enforcement::Alert, ..daily(1000) });
    world.gateways.insert(1, Gateway::default());
    world.settle();
    world.row(1, "a/tokens", FIRST).used = 1500;
    world.gateways.get_mut(&1).unwrap().draining = true;
    world.report(1);
    let now = world.now();
    world.granting.tick(now);
    assert!(!world.write() && !world.granting.is_to_stay(1));
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

#[test]
fn who_has_nothing_of_any_share_is_named_once_and_is_for_the_next_leader_who_it_was() {
    let of_share = Limits { tokens: Some(1000), cost: None };
    let shares: BTreeMap<String, Limits> = ["coder", "planner"].map(|caller| (caller.to_owned(), of_share)).into();
    let mut world = World::new();
    world.configure("a", BudgetTerms { shares: Some(shares), ..daily(1000) });
    world.gateways.insert(1, Gateway::default());
    world.settle();
    // What it used before it knew of the budget is charged once.
    world.gateways.insert(2, Gateway::default());
    world.call(2, "planner", 1, 50);
    world.settle();
    world.ask(1, "a/tokens/coder", 950, 950);
    world.settle();
    world.row(1, "a/tokens/coder", FIRST).used = 950;
    world.settle();
    world.wait(60);
    world.settle();
    let ledger = world.stored.as_ref().unwrap().budgets["a"].periods[&FIRST].accounts.of(Unit::Tokens).unwrap();
    let named = |share: &str| ledger.shares[share].processes.keys().copied().collect::<Vec<_>>();
    assert_eq!((named("coder"), named("planner")), (vec![1, 2], vec![]));
    assert_eq!((ledger.shares["coder"].processes[&2].ceiling, ledger.shares["planner"].settled), (0, 50));
    world.take_over();
    assert_eq!((world.granting.unheard(), world.snapshot().known), (BTreeSet::from([1, 2]), Known::NotHeard(2)));
    hear(&mut world, 1);
    hear(&mut world, 2);
    assert_eq!((world.tokens().used, world.tokens().estimated, world.snapshot().known), (1000, 0, Known::Yes));
}
