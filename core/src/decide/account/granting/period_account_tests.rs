use super::*;
use crate::decide::account::message::SpentRow;

const NOW: Duration = Duration::from_secs(100);

fn row(used: u64, reserved: u64, allowance: u64) -> SpentRow {
    SpentRow { used, reserved, allowance, ..SpentRow::default() }
}

fn listening() -> Source {
    Source { listens: true, acknowledged: 0, now: NOW }
}

/// An account without shares that nothing was used of, in which everything may be granted.
fn whole(limit: u64) -> PeriodAccount {
    let mut account = PeriodAccount::new(limit, u64::MAX);
    account.cover(limit, &BTreeMap::from([(None, limit)]), |_| 0);
    account.written(u64::MAX, |_, _| u64::MAX);
    account
}

/// One as a ledger has it, with such a pool and ceilings.
fn inherited(limit: u64, pool: u64, ceilings: &[(u64, u64)]) -> PeriodAccount {
    let mut account = PeriodAccount::new(limit, pool);
    account.cover(limit, &BTreeMap::from([(None, limit)]), |_| 0);
    for (epoch, ceiling) in ceilings {
        account.add(&None, *epoch, Grant::inherited(SpentRow::default(), *ceiling, NOW));
    }
    account
}

#[test]
fn what_is_used_and_promised_is_summed_as_it_changes() {
    let mut account = whole(1000);
    account.report(&None, 1, &row(100, 50, 200), &listening());
    account.report(&None, 2, &row(10, 0, 40), &listening());
    assert_eq!((account.used(), account.busy(), account.committed(), account.room(&None)), (110, 160, 240, (760, 760)));
    account.report(&None, 1, &row(150, 0, 160), &listening());
    assert_eq!((account.used(), account.busy(), account.committed()), (160, 160, 200));
    assert!(account.leave(1, false));
    assert_eq!((account.used(), account.estimated(), account.committed()), (170, 10, 200));
    assert!(account.leave(2, true));
    assert_eq!((account.used(), account.estimated(), account.committed()), (170, 10, 170));
    assert!(!account.leave(2, true));
}

#[test]
fn those_who_are_not_heard_have_no_more_than_the_pool_together() {
    let mut account = inherited(1000, 500, &[(1, 400), (2, 300)]);
    assert_eq!(account.committed(), 500);
    account.report(&None, 1, &row(350, 0, 400), &listening());
    assert_eq!(account.committed(), 500, "400 that are known, and 100 that the pool leaves");
    assert!(account.unheard().eq([2]));
    account.report(&None, 2, &row(20, 0, 80), &listening());
    assert_eq!((account.committed(), account.unheard().count()), (480, 0));
}

#[test]
fn of_those_who_vanished_each_is_charged_at_least_what_it_had_used() {
    let mut account = PeriodAccount::new(1000, 100);
    account.cover(1000, &BTreeMap::from([(None, 1000)]), |_| 0);
    account.add(&None, 1, Grant::inherited(row(60, 0, 0), 500, NOW));
    account.add(&None, 2, Grant::inherited(row(30, 0, 0), 500, NOW));
    account.leave(1, false);
    assert_eq!((account.used(), account.committed()), (90, 100));
    account.leave(2, false);
    assert_eq!((account.used(), account.estimated(), account.committed()), (100, 10, 100));
}

#[test]
fn who_is_not_heard_may_use_at_least_what_it_says_that_it_used_and_reserved() {
    let mut account = inherited(1000, 100, &[(1, 400)]);
    account.report(&None, 1, &row(60, 100, 100), &Source { listens: false, ..listening() });
    assert_eq!(account.committed(), 160, "what was charged without a grant is in no pool");
    account.leave(1, false);
    assert_eq!((account.used(), account.estimated(), account.committed()), (160, 100, 160));
}

#[test]
fn each_share_is_charged_what_who_vanished_may_have_used_of_it_and_the_account_once() {
    let (coder, planner) = (Some("coder".to_owned()), Some("planner".to_owned()));
    let mut account = PeriodAccount::new(1000, 300);
    account.cover(1000, &BTreeMap::from([(coder.clone(), 600), (planner.clone(), 400)]), |_| 0);
    account.add(&coder, 1, Grant::inherited(SpentRow::default(), 250, NOW));
    account.add(&coder, 2, Grant::inherited(SpentRow::default(), 200, NOW));
    account.add(&planner, 1, Grant::inherited(row(20, 0, 0), 280, NOW));
    account.leave(1, false);
    account.leave(2, false);
    assert_eq!((account.used(), account.estimated(), account.committed()), (300, 280, 300));
    let used = |share: &ShareKey| account.shares()[share].used();
    assert_eq!((used(&coder), used(&planner)), (280, 280), "all that the pool left may have been of either");
    assert_eq!((account.room(&coder), account.room(&planner)), ((700, 320), (700, 120)));
}

#[test]
fn where_nothing_bounds_them_each_is_charged_its_ceiling() {
    let mut account = inherited(1000, u64::MAX, &[(1, 700), (2, 800)]);
    account.leave(1, false);
    account.leave(2, false);
    assert_eq!((account.used(), account.estimated()), (1500, 1500));
}

#[test]
fn a_process_that_comes_to_listen_is_heard_by_what_it_said_before() {
    let mut account = inherited(1000, 500, &[(1, 400)]);
    account.report(&None, 1, &row(10, 5, 100), &Source { listens: false, ..listening() });
    assert_eq!((account.committed(), account.used()), (400, 10), "an earlier leader may have told it more");
    account.hear(1);
    assert_eq!((account.committed(), account.used()), (100, 10));
}

#[test]
fn the_room_of_a_share_is_the_smaller_of_two() {
    let (coder, planner) = (Some("coder".to_owned()), Some("planner".to_owned()));
    let shares = BTreeMap::from([(coder.clone(), 600), (planner.clone(), 500)]);
    let mut account = PeriodAccount::new(1000, u64::MAX);
    account.cover(1000, &shares, |_| 0);
    account.report(&coder, 1, &row(500, 0, 550), &listening());
    assert_eq!((account.room(&coder), account.room(&planner)), ((450, 50), (450, 500)));
    let certain = Uncertain::default();
    assert_eq!(
        account.free(&planner, 1, certain),
        500,
        "less is neither used nor reserved of the budget: 500, and of the share 500"
    );
    assert_eq!(account.free(&coder, 2, certain), 100);
    assert_eq!(account.free(&coder, 1, certain), 50, "beyond its allowance");
    account.cover(1000, &BTreeMap::from([(planner.clone(), 1000)]), |_| 0);
    assert_eq!((account.room(&coder).1, account.room(&planner)), (0, (450, 1000)));
    assert!(account.is_over(&account.shares()[&coder]));
    assert_eq!(account.open_shares().count(), 1);
}

#[test]
fn what_others_may_not_need_any_more_is_free() {
    let (coder, planner) = (Some("coder".to_owned()), Some("planner".to_owned()));
    let mut account = PeriodAccount::new(1000, u64::MAX);
    account.cover(1000, &BTreeMap::from([(coder.clone(), 600), (planner.clone(), 400)]), |_| 0);
    account.report(&coder, 1, &row(0, 300, 300), &listening());
    account.report(&planner, 1, &row(0, 200, 200), &listening());
    account.report(&coder, 2, &row(0, 10, 10), &listening());
    assert_eq!(account.reserved(), BTreeMap::from([(1, 500), (2, 10)]));
    assert_eq!(account.free(&coder, 2, Uncertain::default()), 290);
    assert_eq!(account.free(&coder, 2, Uncertain { of_budget: 500, of_share: 300 }), 590);
    assert_eq!(account.free(&coder, 2, Uncertain { of_budget: 0, of_share: 300 }), 490, "of the budget there is no more");
}

#[test]
fn those_who_wait_keep_their_order_while_they_wait() {
    let mut account = whole(1000);
    for epoch in [1, 2] {
        account.report(&None, epoch, &row(0, 0, 0), &listening());
    }
    let waiting = Ask { waiting: 5, smallest: 5, ahead: 0 };
    account.ask(&None, 2, waiting, 10, NOW);
    account.ask(&None, 1, waiting, 11, NOW);
    account.ask(&None, 2, waiting, 12, NOW);
    assert!(account.queue().map(|(_, epoch)| epoch).eq([2, 1]));
    account.ask(&None, 2, Ask::default(), 13, NOW);
    account.ask(&None, 2, waiting, 14, NOW);
    assert!(account.queue().map(|(_, epoch)| epoch).eq([1, 2]));
    account.leave(1, false);
    assert!(account.queue().map(|(_, epoch)| epoch).eq([2]));
    account.ask(&None, 9, waiting, 15, NOW);
    assert_eq!(account.queue().count(), 1, "a process that has not said that it knows the account");
}

#[test]
fn a_raise_stays_within_the_bound_of_every_ledger_that_may_stand() {
    let mut account = whole(1000);
    account.report(&None, 1, &row(0, 0, 0), &listening());
    account.written(100, |_, _| 1000);
    assert_eq!(account.raise(&None, 1, 300, 1), 100);
    account.write(500, |_, _, _, _| 1000);
    assert_eq!(account.raise(&None, 1, 300, 1), 0);
    account.write_failed();
    assert_eq!(account.bound(), 100);
    account.written(500, |_, _| 1000);
    assert_eq!((account.raise(&None, 1, 300, 1), account.committed()), (300, 400));
}

#[test]
fn what_was_used_and_never_granted_outruns_a_ceiling_or_the_bound_until_a_ledger_says_so() {
    let mut account = whole(1000);
    for epoch in [1, 2] {
        account.report(&None, epoch, &row(0, 0, 0), &listening());
    }
    let outruns = |account: &PeriodAccount| [1, 2].map(|epoch| (account.outruns(&None, epoch), account.may_outrun(epoch)));
    account.written(1000, |_, _| 600);
    account.report(&None, 1, &row(600, 0, 0), &listening());
    assert_eq!(outruns(&account), [(false, false); 2], "nobody has granted it, and another leader would charge it all the same");
    account.report(&None, 1, &row(601, 0, 0), &listening());
    assert_eq!(outruns(&account), [(true, true), (false, false)]);
    account.write(1000, |_, _, _, _| 800);
    assert_eq!(outruns(&account), [(false, true), (false, false)], "it is being written");
    account.write_failed();
    assert_eq!(outruns(&account), [(true, true), (false, false)]);
    account.write(1000, |_, _, _, _| 800);
    account.written(1000, |_, _| 800);
    assert_eq!(outruns(&account), [(false, false); 2]);
    // Each is within its ceiling, and together they are not within the bound.
    account.report(&None, 2, &row(400, 0, 0), &listening());
    assert_eq!(outruns(&account), [(true, true); 2]);
    account.write(1001, |_, _, _, _| 800);
    account.written(1001, |_, _| 800);
    assert_eq!(outruns(&account), [(false, false); 2]);
    account.report(&None, 1, &row(900, 0, 0), &listening());
    account.opening = Some(Opening::new(NOW));
    assert_eq!(outruns(&account), [(false, false); 2], "another leader opens it again");
}

#[test]
fn what_runs_beside_what_was_charged_outruns_a_ceiling_before_it_has_ended() {
    let mut account = whole(1000);
    account.report(&None, 1, &row(0, 0, 0), &listening());
    account.written(1000, |_, _| 150);
    account.report(&None, 1, &row(50, 100, 100), &listening());
    assert!(!account.outruns(&None, 1), "another leader would charge it all the same");
    account.report(&None, 1, &row(60, 100, 100), &listening());
    assert_eq!((account.outruns(&None, 1), account.may_outrun(1)), (true, false), "who leaves has nothing that runs");
    account.written(155, |_, _| 200);
    assert!(account.outruns(&None, 1) && account.is_beyond());
    account.written(160, |_, _| 200);
    assert!(!account.outruns(&None, 1) && !account.is_beyond());
}

#[test]
fn a_period_is_final_when_all_have_left_it_and_nothing_runs() {
    let mut account = inherited(1000, 500, &[(1, 400)]);
    assert!(!account.is_final(|_| true), "one is not heard");
    account.report(&None, 1, &row(10, 5, 100), &listening());
    assert!(!account.is_final(|_| true), "a call runs");
    account.report(&None, 1, &row(15, 0, 100), &listening());
    assert!(!account.is_final(|_| false) && account.is_final(|_| true));
    let mut account = inherited(1000, 500, &[(1, 400)]);
    account.miss(1);
    assert_eq!((account.used(), account.estimated()), (400, 400), "what it last said was heard by nobody who is still there");
}
