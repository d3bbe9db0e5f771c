use std::collections::BTreeMap;

use super::testing::{FIRST, Gateway, LENGTH, SECOND, START, World, account, daily, period};
use super::*;
use crate::api::token_budget::Enforcement;
use crate::decide::account::message::{AccountRow, SpentRow};
use crate::decide::account::{Limits, PeriodId};

/// What a gateway would be told of the budget as a whole.
fn told(world: &mut World, epoch: u64) -> AccountRow {
    world.message(epoch).1.remove(&account("a/tokens")).unwrap()
}

fn tick(world: &mut World) {
    let now = world.now();
    world.granting.tick(now);
}

#[test]
fn who_waits_is_granted_what_it_needs_once_a_ledger_stands_that_names_it() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 100, 100);
    world.report(1);
    tick(&mut world);
    assert_eq!(told(&mut world, 1).allowance, 0, "it is beyond the ceiling");
    let now = world.now();
    assert!(world.granting.ledger_due(now).is_some_and(|due| due <= now.elapsed));
    let _ = world.granting.ledger(now);
    assert_eq!(world.granting.ledger_due(now), None, "one write at a time");
    tick(&mut world);
    assert_eq!(told(&mut world, 1).allowance, 0, "it does not stand");
    world.granting.write_failed(now);
    tick(&mut world);
    assert_eq!(told(&mut world, 1).allowance, 0);
    world.settle();
    assert_eq!(world.allowance(1), 100);
    let ledger = world.stored.as_ref().unwrap().budgets["a"].periods[&FIRST].accounts.of(Unit::Tokens).unwrap();
    assert_eq!(ledger.bound, Some(1000));
    assert!(ledger.shares[""].processes[&1].ceiling >= 100);
}

#[test]
fn a_lowered_limit_binds_what_is_granted_next_and_the_rest_is_recalled() {
    let mut world = World::with(1000, &[1, 2]);
    world.ask(1, "a/tokens", 400, 400);
    world.ask(2, "a/tokens", 400, 400);
    world.settle();
    assert_eq!((world.allowance(1), world.allowance(2)), (400, 400));
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 100, reserved: 50, allowance: 400, ..SpentRow::default() };
    world.configure("a", daily(500));
    assert_eq!((world.tokens().limit, world.tokens().committed), (500, 800));
    world.settle();
    assert!(world.tokens().committed <= 500, "{:?}", world.tokens());
    assert_eq!((world.tokens().used, world.allowance(2)), (100, 0));
    assert!(world.allowance(1) >= 150, "what was used and reserved stays");
    world.ask(2, "a/tokens", 450, 450);
    world.settle();
    assert_eq!(world.allowance(2), 0);
    assert_eq!(told(&mut world, 2).free, 350);
    world.configure("a", daily(2000));
    world.settle();
    assert_eq!(world.allowance(2), 450, "a raised one as well");
    assert_eq!(world.granting.limit("a", Unit::Tokens, FIRST), Some(2000));
}

#[test]
fn who_waits_gets_what_others_hold_in_the_order_in_which_they_came() {
    let mut world = World::with(1000, &[1, 2, 3]);
    world.ask(1, "a/tokens", 900, 900);
    world.settle();
    world.ask(2, "a/tokens", 500, 500);
    world.report(2);
    world.ask(3, "a/tokens", 50, 50);
    world.report(3);
    tick(&mut world);
    assert_eq!(told(&mut world, 3).allowance, 0, "there would be room, but another one was first");
    assert_eq!(told(&mut world, 1).recall, Some(0));
    world.settle();
    assert_eq!((world.allowance(1), world.allowance(2), world.allowance(3)), (0, 500, 50));
    assert_eq!(told(&mut world, 1).recall, None, "nobody is short any more");
}

#[test]
fn where_there_is_not_enough_for_all_calls_the_first_of_them_begins() {
    let mut world = World::with(1000, &[1, 2]);
    *world.row(2, "a/tokens", FIRST) = SpentRow { used: 700, ..SpentRow::default() };
    world.ask(1, "a/tokens", 400, 100);
    world.settle();
    assert_eq!(world.allowance(1), 100);
}

#[test]
fn what_lets_the_first_call_begin_is_not_recalled_in_the_message_that_grants_it() {
    let mut world = World::with(100, &[1, 2]);
    world.ask(1, "a/tokens", 150, 60);
    world.ask(2, "a/tokens", 150, 40);
    world.settle();
    assert_eq!((world.allowance(1), world.allowance(2)), (60, 40), "more waits at both than there is, and one call of each begins");
}

#[test]
fn two_who_hold_half_of_what_they_need_do_not_wait_for_each_other_for_ever() {
    let mut world = World::with(100, &[1, 2]);
    world.ask(1, "a/tokens", 50, 50);
    world.ask(2, "a/tokens", 50, 50);
    world.settle();
    assert_eq!((world.allowance(1), world.allowance(2)), (50, 50));
    world.ask(1, "a/tokens", 30, 30);
    world.ask(2, "a/tokens", 30, 30);
    for _ in 0..5 {
        world.round();
        world.wait(1);
        if world.allowance(1) == 80 {
            // Its call begins.
            world.row(1, "a/tokens", FIRST).reserved = 80;
        }
    }
    assert_eq!(world.row(1, "a/tokens", FIRST).reserved, 80);
}

#[test]
fn what_runs_beside_what_was_charged_is_granted_to_nobody_else() {
    let mut world = World::with(500, &[1, 2]);
    world.ask(1, "a/tokens", 100, 100);
    world.settle();
    assert_eq!(world.allowance(1), 100);
    // Calls that had begun before the budget covered them have used 60, and others have reserved all that was granted.
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 60, reserved: 100, allowance: 100, ..SpentRow::default() };
    world.ask(2, "a/tokens", 400, 340);
    world.settle();
    assert_eq!((world.allowance(2), world.tokens().committed), (340, 500));
    world.end(1);
    assert_eq!((world.tokens().used, world.tokens().estimated, world.tokens().committed), (160, 100, 500));
}

#[test]
fn who_rests_gives_back_what_it_did_not_use_and_at_rest_nothing_is_written() {
    let mut world = World::with(1000, &[1]);
    world.ask(1, "a/tokens", 300, 300);
    world.settle();
    world.row(1, "a/tokens", FIRST).used = 120;
    world.settle();
    assert_eq!(world.allowance(1), 300);
    world.wait(70);
    world.round();
    world.round();
    world.round();
    assert_eq!((world.allowance(1), world.tokens().committed), (120, 120));
    for _ in 0..40 {
        world.wait(2);
        world.round();
    }
    let writes = world.writes.len();
    for _ in 0..40 {
        world.wait(10);
        world.round();
        assert_eq!(world.granting.ledger_due(world.now()), None);
    }
    assert_eq!(world.writes.len(), writes);
    let ledger = world.stored.as_ref().unwrap().budgets["a"].periods[&FIRST].accounts.of(Unit::Tokens).unwrap();
    assert_eq!(ledger.shares[""].processes[&1].live, 120);
}

#[test]
fn who_vanishes_is_charged_what_it_might_have_used_and_who_leaves_in_order_what_it_did() {
    let mut world = World::with(1000, &[1, 2]);
    world.ask(1, "a/tokens", 200, 200);
    world.ask(2, "a/tokens", 200, 200);
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 50, reserved: 30, allowance: 200, ..SpentRow::default() };
    *world.row(2, "a/tokens", FIRST) = SpentRow { used: 60, allowance: 200, ..SpentRow::default() };
    world.gateways.get_mut(&2).unwrap().draining = true;
    world.report(1);
    world.report(2);
    assert_eq!(world.tokens().used, 110);
    world.end(1);
    world.end(2);
    let tokens = world.tokens();
    assert_eq!((tokens.used, tokens.estimated, tokens.committed), (260, 150, 260));
    let late = Report {
        accounts: [(account("a/tokens"), [(FIRST, SpentRow { used: 500, ..SpentRow::default() })].into())].into(),
        ..Report::default()
    };
    let now = world.now();
    world.granting.receive(1, Heard::default(), &late, &Usage::default(), now);
    world.granting.ended(1, now);
    assert_eq!(world.tokens(), tokens, "what comes late is charged already");
}

#[test]
fn the_next_period_is_granted_of_before_it_begins_and_told_when_a_ledger_says_that_it_has() {
    let mut world = World::with(10_000, &[1, 2]);
    world.ask(1, "a/tokens", 1000, 1000);
    world.settle();
    world.wait(120);
    world.wall = START + LENGTH - 500;
    world.row(1, "a/tokens", FIRST).used = 900;
    world.settle();
    assert_eq!(world.row(1, "a/tokens", SECOND).allowance, 500, "a twentieth");
    assert_eq!(world.row(2, "a/tokens", SECOND).allowance, 0, "it is not at work");
    assert_eq!(world.granting.committed("a", Unit::Tokens, SECOND), 500);
    world.wall = START + LENGTH + 5;
    tick(&mut world);
    assert_eq!(world.snapshot().period, SECOND);
    let row = told(&mut world, 1);
    assert_eq!((row.period, row.next.map(|next| next.allowance)), (FIRST, Some(500)));
    world.settle();
    assert_eq!(told(&mut world, 1).period, SECOND);
    world.wall = START;
    world.settle();
    world.configure("a", daily(8000));
    assert_eq!((world.snapshot().period, world.tokens().limit), (SECOND, 10_000), "a clock that goes back opens nothing again");
}

#[test]
fn a_call_counts_in_the_period_in_which_it_began_and_a_period_is_settled_when_all_have_left_it() {
    let mut world = World::with(10_000, &[1]);
    world.ask(1, "a/tokens", 1000, 1000);
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 900, reserved: 80, allowance: 1000, ..SpentRow::default() };
    world.wall = START + LENGTH + 5;
    let mut terms = daily(10_000);
    (terms.period, terms.next) = (period(1, 10_000), Some(period(2, 10_000)));
    world.configure("a", terms);
    world.settle();
    world.wait(60);
    world.settle();
    let before = world.snapshot().before.unwrap();
    assert_eq!((before.id, before.used.tokens, world.tokens().used), (FIRST, 900, 0));
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 950, allowance: 1000, ..SpentRow::default() };
    world.settle();
    world.wait(60);
    world.settle();
    let ledger = &world.stored.as_ref().unwrap().budgets["a"];
    assert!(!ledger.periods.contains_key(&FIRST));
    assert_eq!(ledger.closed[&FIRST].used.tokens, Some(950));
    world.row(1, "a/tokens", FIRST).used = 2000;
    world.settle();
    let used: Vec<u64> = world.snapshot().history.iter().map(|closed| closed.used.tokens).collect();
    assert_eq!(used, [950], "it is settled, whatever is said of it");
}

#[test]
fn a_period_that_is_settled_before_an_earlier_one_makes_nobody_forget_what_runs_in_that() {
    let mut world = World::with(10_000, &[1]);
    world.ask(1, "a/tokens", 1000, 1000);
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 900, reserved: 80, allowance: 1000, ..SpentRow::default() };
    world.ask(1, "a/tokens", 0, 0);
    world.settle();
    // It has been said, and does not change any more.
    world.gateways.get_mut(&1).unwrap().rows.get_mut(&account("a/tokens")).unwrap().remove(&FIRST);
    for number in [1, 2] {
        world.wall = START + number * LENGTH + 5;
        let mut terms = daily(10_000);
        (terms.period, terms.next) = (period(number, 10_000), Some(period(number + 1, 10_000)));
        world.configure("a", terms);
        world.settle();
        world.wait(60);
        world.settle();
    }
    let ledger = &world.stored.as_ref().unwrap().budgets["a"];
    assert!(ledger.closed.contains_key(&SECOND) && ledger.periods.contains_key(&FIRST));
    world.gateways.get_mut(&1).unwrap().draining = true;
    world.settle();
    world.end(1);
    world.settle();
    let first = world.snapshot().history.into_iter().find(|closed| closed.id == FIRST).unwrap();
    assert!(first.used.tokens >= 980 && first.estimated.tokens >= 80, "its call was under way: {first:?}");
}

fn shared(parts: &[(&str, u64)]) -> BudgetTerms {
    let limits = |tokens: u64| Limits { tokens: Some(tokens), cost: None };
    let shares = parts.iter().map(|(caller, tokens)| ((*caller).to_owned(), limits(*tokens))).collect();
    BudgetTerms { shares: Some(shares), ..daily(1000) }
}

/// A world with a budget "a" of which coder has 600 tokens and planner 400, and one gateway.
fn with_shares() -> World {
    let mut world = World::new();
    world.configure("a", shared(&[("coder", 600), ("planner", 400)]));
    world.gateways.insert(1, Gateway::default());
    world.settle();
    world
}

#[test]
fn a_share_is_a_limit_beside_that_of_the_budget_and_may_move() {
    let mut world = with_shares();
    let coder = "a/tokens/coder";
    world.ask(1, coder, 700, 700);
    world.settle();
    assert_eq!(world.row(1, coder, FIRST).allowance, 0);
    assert_eq!(world.gateways[&1].told[&account(coder)].free, 600);
    world.ask(1, coder, 600, 600);
    world.settle();
    assert_eq!(world.row(1, coder, FIRST).allowance, 600);
    world.row(1, coder, FIRST).used = 200;
    world.configure("a", shared(&[("coder", 300), ("planner", 700)]));
    world.ask(1, "a/tokens/planner", 700, 700);
    world.settle();
    assert_eq!(world.granting.share("a", Unit::Tokens, FIRST, "planner"), Some((700, 700)));
    let (committed, limit) = world.granting.share("a", Unit::Tokens, FIRST, "coder").unwrap();
    assert!((200..=limit).contains(&committed), "{committed} of {limit}");
    world.configure("a", shared(&[("planner", 1000)]));
    world.settle();
    let row = &world.gateways[&1].told[&account(coder)];
    assert_eq!((row.recall, row.limit, row.used), (Some(0), 0, 200), "it is told until all is given back and the period is over");
    assert_eq!(world.row(1, coder, FIRST).allowance, 200);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.units[&Unit::Tokens].used, snapshot.shares.len()), (200, 1));
}

#[test]
fn who_waits_for_a_share_to_grow_waits_for_no_minute() {
    let mut world = with_shares();
    let coder = "a/tokens/coder";
    world.ask(1, coder, 600, 600);
    world.settle();
    world.row(1, coder, FIRST).used = 600;
    // What is taken over is nothing that grows.
    world.take_over();
    world.settle();
    world.wait(60);
    // What these use takes all writes of the minute.
    for asked in [1, 900] {
        for uid in ["b", "c", "d"] {
            world.configure(uid, daily(1000));
            world.ask(1, &format!("{uid}/tokens"), asked, asked);
            world.settle();
        }
    }
    world.configure("a", shared(&[("coder", 900), ("planner", 100)]));
    world.ask(1, coder, 300, 300);
    world.settle();
    assert_eq!(world.row(1, coder, FIRST).allowance, 900);
}

#[test]
fn a_budget_that_is_deleted_is_forgotten_at_once() {
    let mut world = World::with(1000, &[1]);
    world.budgets.clear();
    let now = world.now();
    world.granting.configure(&BTreeMap::new(), &world.history, now);
    assert_eq!(world.granting.snapshot("a"), None);
    assert!(world.message(1).1.is_empty());
    world.wait(60);
    world.round();
    assert!(world.stored.as_ref().unwrap().budgets.is_empty());
}

#[test]
fn nobody_is_told_that_there_is_no_room_by_what_others_said_before_it_asked() {
    let mut world = World::with(1000, &[1, 2]);
    world.ask(2, "a/tokens", 600, 600);
    world.settle();
    world.row(2, "a/tokens", FIRST).reserved = 600;
    world.settle();
    world.ask(1, "a/tokens", 500, 500);
    world.report(1);
    tick(&mut world);
    assert_eq!(told(&mut world, 1).free, 1000, "they may have settled for nothing by now");
    world.report(2);
    assert_eq!(told(&mut world, 1).free, 1000, "that was said before it could know");
    world.tell(2);
    world.report(2);
    assert_eq!(told(&mut world, 1).free, 400);
}

#[test]
fn under_load_the_ledger_is_written_at_most_three_times_a_minute_and_nobody_waits_for_it() {
    let mut world = World::with(1_000_000, &[1, 2]);
    let mut starved = 0;
    for _ in 0..600 {
        for epoch in [1, 2] {
            let row = world.row(epoch, "a/tokens", FIRST);
            if row.allowance - row.used >= 200 {
                row.used += 200;
            } else {
                starved += 1;
                world.ask(epoch, "a/tokens", 300, 300);
            }
        }
        world.round();
        world.wait(1);
    }
    assert!(world.writes.windows(4).all(|four| four[3] >= four[0] + Duration::from_secs(60)), "{:?}", world.writes);
    assert!(starved <= 6, "{starved} calls had to wait");
    assert!(world.tokens().used >= 230_000, "{:?}", world.tokens());
}

#[test]
fn a_budget_that_refuses_nothing_counts_what_passes_its_limit() {
    let mut world = World::new();
    world.configure("a", BudgetTerms { enforcement: Enforcement::Alert, ..daily(1000) });
    world.gateways.insert(1, Gateway::default());
    world.settle();
    *world.row(1, "a/tokens", FIRST) = SpentRow { used: 1500, refused: 3, ..SpentRow::default() };
    world.settle();
    let row = told(&mut world, 1);
    assert_eq!((row.percent, row.free, row.enforcement), (150, 0, Enforcement::Alert));
    assert_eq!((world.tokens().debt, world.snapshot().refused), (500, 3));
}

#[test]
fn a_unit_that_is_limited_later_opens_and_one_that_is_not_any_more_is_forgotten() {
    let mut world = World::with(1000, &[1]);
    let mut terms = daily(1000);
    terms.period.limits = Limits { tokens: None, cost: Some(70) };
    world.configure("a", terms);
    world.settle();
    let units: Vec<Unit> = world.snapshot().units.into_keys().collect();
    assert_eq!(units, [Unit::Cost]);
    assert_eq!(world.gateways[&1].told.keys().collect::<Vec<_>>(), [&account("a/cost")]);
}

#[test]
fn a_period_without_a_next_one_grants_nothing_when_it_is_over() {
    let mut world = World::new();
    world.configure("a", BudgetTerms { next: None, ..daily(1000) });
    world.gateways.insert(1, Gateway::default());
    world.settle();
    world.wall = START + LENGTH;
    world.ask(1, "a/tokens", 10, 10);
    world.settle();
    assert_eq!((world.allowance(1), world.snapshot().period), (0, PeriodId(START)));
}
