use super::super::testing::{FIRST, Gateway, START, World, account, daily};
use super::super::{BudgetTerms, Known, PeriodTerms};
use crate::decide::account::history::History;
use crate::decide::account::{Limits, PeriodId, Unit};

/// A world in which a call of coder has used 700 tokens before there was a budget, in the first hour of the day.
fn used() -> World {
    let mut world = World::new();
    world.gateways.insert(1, Gateway::default());
    world.call(1, "coder", 0, 700);
    world.report(1);
    world.wait(6);
    world
}

#[test]
fn a_budget_opens_with_what_its_callers_used_when_all_processes_know_of_it() {
    let mut world = used();
    world.configure("a", daily(1000));
    assert_eq!((world.snapshot().known, world.tokens().used), (Known::Opening, 0));
    world.round();
    assert_eq!(world.gateways[&1].told[&account("a/tokens")].allowance, 0);
    assert_eq!(world.snapshot().known, Known::Opening, "it was told, and has not said so");
    // A call that ends now is in the table and in the account.
    world.call(1, "coder", 1, 50);
    world.row(1, "a/tokens", FIRST).used += 50;
    world.settle();
    let tokens = world.tokens();
    assert_eq!((world.snapshot().known, tokens.used, tokens.estimated), (Known::Yes, 750, 0));
    world.ask(1, "a/tokens", 250, 250);
    world.settle();
    assert_eq!(world.allowance(1), 300, "what is left is granted: 250 beside the 50 that were used");
}

#[test]
fn a_budget_that_is_deleted_and_applied_again_is_not_a_new_one() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.settle();
    world.call(1, "coder", 1, 90);
    world.row(1, "a/tokens", FIRST).used = 90;
    world.settle();
    world.budgets.clear();
    world.configure("b", daily(1000));
    world.settle();
    let snapshot = world.granting.snapshot("b").unwrap();
    assert_eq!((snapshot.known, snapshot.units[&Unit::Tokens].used), (Known::Yes, 90));
    assert_eq!(world.granting.snapshot("a"), None);
}

#[test]
fn where_nobody_used_anything_a_budget_opens_at_once() {
    let mut world = World::new();
    world.gateways.insert(1, Gateway::default());
    world.call(1, "somebody-else", 0, 700);
    world.report(1);
    world.configure("a", daily(1000));
    assert_eq!((world.snapshot().known, world.tokens().used), (Known::Yes, 0));
}

#[test]
fn what_a_process_used_before_it_knew_of_a_budget_is_charged_once() {
    let mut world = World::with(1000, &[1]);
    world.gateways.insert(2, Gateway::default());
    world.call(2, "coder", 0, 100);
    world.call(2, "somebody-else", 0, 1000);
    world.settle();
    assert_eq!(world.tokens().used, 100);
    world.call(2, "planner", 1, 20);
    world.row(2, "a/tokens", FIRST).used = 20;
    world.settle();
    assert_eq!(world.tokens().used, 120);
}

#[test]
fn a_process_that_says_nothing_does_not_keep_an_account_closed_for_ever() {
    let mut world = used();
    world.granting.expect(&[99].into());
    world.configure("a", daily(1000));
    world.settle();
    assert_eq!(world.snapshot().known, Known::Opening);
    world.wait(20);
    world.round();
    assert_eq!((world.snapshot().known, world.tokens().used), (Known::Yes, 700));
}

#[test]
fn a_process_that_has_ended_is_not_waited_for() {
    let mut world = used();
    world.granting.expect(&[99].into());
    world.configure("a", daily(1000));
    world.settle();
    let now = world.now();
    world.granting.ended(99, now);
    world.round();
    assert_eq!((world.snapshot().known, world.tokens().used), (Known::Yes, 700));
}

#[test]
fn an_hour_that_is_only_in_part_within_the_period_counts_as_an_estimate() {
    let mut world = used();
    let start = START + 1800;
    let period =
        PeriodTerms { id: PeriodId(start), start, end: Some(start + 86_400), limits: Limits { tokens: Some(1000), cost: None } };
    world.configure("a", BudgetTerms { period, next: None, ..daily(1000) });
    world.settle();
    assert_eq!((world.tokens().used, world.tokens().estimated), (700, 700));
}

#[test]
fn a_period_that_does_not_follow_the_one_before_opens_with_what_was_used_in_it() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 500, 500);
    world.settle();
    world.call(1, "coder", 1, 300);
    world.row(1, "a/tokens", FIRST).used = 300;
    world.settle();
    let start = START + 1800;
    let period =
        PeriodTerms { id: PeriodId(start), start, end: Some(start + 7200), limits: Limits { tokens: Some(1000), cost: None } };
    world.configure("a", BudgetTerms { period, next: None, ..daily(1000) });
    assert_eq!((world.snapshot().period, world.snapshot().known), (PeriodId(start), Known::Opening));
    assert_eq!(world.message(1).1[&account("a/tokens")].period, FIRST, "no ledger says that it is open");
    world.settle();
    assert_eq!(world.message(1).1[&account("a/tokens")].period, PeriodId(start));
    assert_eq!((world.snapshot().known, world.tokens().used), (Known::Yes, 300));
    let before = world.snapshot().before.unwrap();
    assert_eq!((before.id, before.used.tokens), (FIRST, 300));
}

#[test]
fn a_caller_that_gets_a_share_begins_with_what_it_has_used_of_the_whole() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 300, 300);
    world.settle();
    world.call(1, "coder", 1, 200);
    world.row(1, "a/tokens", FIRST).used = 200;
    world.settle();
    let limits = Limits { tokens: Some(500), cost: None };
    let shares = ["coder", "planner"].map(|caller| (caller.to_owned(), limits)).into();
    world.configure("a", BudgetTerms { shares: Some(shares), ..daily(1000) });
    world.settle();
    let snapshot = world.snapshot();
    let used = |caller: &str| snapshot.shares[caller][&Unit::Tokens].used;
    assert_eq!((used("coder"), used("planner"), snapshot.units[&Unit::Tokens].used), (200, 0, 200));
    world.ask(1, "a/tokens/coder", 300, 300);
    world.settle();
    assert_eq!(world.row(1, "a/tokens/coder", FIRST).allowance, 300);
    world.ask(1, "a/tokens/coder", 1, 1);
    world.settle();
    assert_eq!(world.gateways[&1].told[&account("a/tokens/coder")].free, 0);
}

/// A budget of which each of its callers may use half.
fn halved() -> BudgetTerms {
    let limits = Limits { tokens: Some(500), cost: None };
    BudgetTerms { shares: Some(["coder", "planner"].map(|caller| (caller.to_owned(), limits)).into()), ..daily(1000) }
}

fn of_coder(world: &World) -> u64 {
    world.snapshot().shares["coder"][&Unit::Tokens].used
}

#[test]
fn what_a_process_counts_in_a_share_that_is_no_more_is_charged_once() {
    // It is met by a leader of whose ledger it is no part. What it counts may be of others whom the budget covered before.
    for (others, used, estimated) in [(0, 40, 0), (10, 50, 10)] {
        let mut world = World::with(1000, &[1]);
        world.gateways.insert(2, Gateway::default());
        world.report(2);
        world.tell(2);
        world.call(2, "coder", 1, 40);
        world.call(2, "somebody-else", 1, others);
        world.row(2, "a/tokens", FIRST).used = 40;
        world.budgets.insert("a".to_owned(), halved());
        world.take_over();
        world.settle();
        assert_eq!((world.tokens().used, world.tokens().estimated, of_coder(&world)), (used, estimated, 40));
    }
    // The account opens with it, as there is no ledger.
    let mut world = World::with(1000, &[1]);
    world.call(1, "coder", 1, 40);
    world.row(1, "a/tokens", FIRST).used = 40;
    world.report(1);
    world.budgets.insert("a".to_owned(), halved());
    world.stored = None;
    world.take_over();
    world.settle();
    world.round();
    assert_eq!((world.snapshot().known, world.tokens().used, of_coder(&world)), (Known::Yes, 40, 40));
}

#[test]
fn what_an_account_opened_with_is_not_charged_again_when_its_process_is_back() {
    let mut world = World::new();
    for epoch in [1, 2] {
        world.gateways.insert(epoch, Gateway::default());
    }
    world.call(2, "coder", 0, 500);
    world.report(1);
    world.report(2);
    world.wait(6);
    world.configure("a", daily(1000));
    let away = world.gateways.remove(&2).unwrap();
    for _ in 0..22 {
        world.round();
        world.wait(1);
    }
    assert_eq!((world.snapshot().known, world.tokens().used), (Known::Yes, 500));
    world.gateways.insert(2, away);
    world.call(2, "coder", 1, 30);
    world.settle();
    assert_eq!((world.tokens().used, world.tokens().estimated), (530, 0), "what it used while nobody heard it");
    world.call(2, "coder", 1, 20);
    world.row(2, "a/tokens", FIRST).used = 20;
    world.settle();
    assert_eq!(world.tokens().used, 550);
}

#[test]
fn what_is_charged_beyond_the_bound_of_the_ledger_is_written_at_once() {
    for (used, is_hurried) in [(1000, false), (1001, true)] {
        let mut world = World::with(1000, &[1]);
        world.gateways.insert(2, Gateway::default());
        world.call(2, "coder", 0, used);
        world.report(2);
        world.tell(2);
        world.report(2);
        assert_eq!((world.tokens().used, world.write()), (used, is_hurried));
    }
}

#[test]
fn an_account_that_opens_by_a_table_of_which_a_part_is_missing_has_to_be_confirmed() {
    let known = |world: &World, uid: &str| world.granting.snapshot(uid).unwrap().known;
    let mut world = World::new();
    world.history = History::read([r#"{"schemaVersion":1,"revision":0,"parts":2,"part":0,"callers":{}}"#]).unwrap();
    world.gateways.insert(1, Gateway::default());
    world.configure("a", daily(1000));
    assert_eq!(known(&world, "a"), Known::Opening, "that nothing is known is not nothing");
    world.call(1, "coder", 0, 700);
    world.settle();
    world.wait(2);
    world.settle();
    assert_eq!((known(&world, "a"), world.tokens().used), (Known::LedgerLost, 700));
    // What is used from now on is in the table.
    let wall = world.now().wall;
    world.history.compact(wall);
    let start = START + 7200;
    let period = PeriodTerms { id: PeriodId(start), start, ..daily(1000).period };
    world.configure("b", BudgetTerms { period, next: None, ..daily(1000) });
    assert_eq!(known(&world, "b"), Known::Yes);
    world.take_over();
    world.settle();
    assert_eq!(known(&world, "a"), Known::LedgerLost, "the next leader does not know better");
    world.granting.confirm("a");
    assert_eq!(known(&world, "a"), Known::Yes);
}
