use super::*;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn row(used: u64, reserved: u64, allowance: u64) -> SpentRow {
    SpentRow { used, reserved, allowance, ..SpentRow::default() }
}

fn source(acknowledged: u64) -> Source {
    Source { listens: true, acknowledged, now: at(1) }
}

/// A process that was told in message 5 that it may use so much, with a ceiling that allows it.
fn told(allowance: u64) -> Grant {
    let mut grant = Grant::new(at(0));
    grant.take(&row(0, 0, 0), &source(0));
    grant.written(u64::MAX);
    assert_eq!(grant.raise(allowance, 1, u64::MAX), allowance);
    grant.tell(5);
    grant
}

#[test]
fn an_allowance_counts_until_a_report_that_was_made_after_it_was_taken_says_less() {
    let mut grant = told(100);
    grant.take(&row(0, 0, 0), &source(4));
    assert_eq!(grant.sent, 100, "message 5 is under way");
    grant.take(&row(0, 0, 40), &source(5));
    assert_eq!(grant.sent, 40, "what it says after that is all that there is");
    grant.take(&row(0, 0, 60), &Source { listens: false, ..source(9) });
    assert_eq!(grant.sent, 60);
    grant.take(&row(0, 0, 10), &Source { listens: false, ..source(9) });
    assert_eq!(grant.sent, 60, "it goes by what another one says, who may say more");
}

#[test]
fn a_recall_that_is_over_counts_like_a_higher_allowance() {
    let mut grant = told(100);
    grant.set_recall(true);
    grant.tell(6);
    grant.set_recall(false);
    grant.tell(8);
    grant.take(&row(0, 0, 0), &source(6));
    assert_eq!(grant.sent, 100, "message 8 gives back what message 6 took");
    grant.take(&row(0, 0, 100), &source(8));
    assert_eq!(grant.sent, 100);
}

#[test]
fn a_raise_that_no_message_has_said_yet_is_not_lost_by_a_report() {
    let mut grant = told(100);
    grant.raise(50, 1, u64::MAX);
    grant.take(&row(0, 0, 100), &source(5));
    assert_eq!(grant.sent, 150);
}

#[test]
fn what_was_used_never_becomes_less() {
    let mut grant = told(100);
    grant.take(&row(70, 0, 100), &source(5));
    grant.take(&row(30, 5, 100), &source(5));
    assert_eq!((grant.reported.used, grant.busy(), grant.promised(), grant.surplus()), (70, 75, 100, 25));
    grant.take(&row(130, 0, 100), &source(5));
    assert_eq!(grant.promised(), 130, "more than was reserved counts as well");
}

#[test]
fn nothing_is_granted_beyond_the_ceilings_of_all_ledgers_that_may_stand() {
    let mut grant = Grant::new(at(0));
    grant.take(&row(0, 0, 0), &source(0));
    assert_eq!(grant.raise(10, 1, u64::MAX), 0, "no ledger names it");
    grant.write(100);
    assert_eq!(grant.raise(10, 1, u64::MAX), 0, "none that stands");
    grant.written(100);
    grant.write(30);
    assert_eq!(grant.raise(50, 1, u64::MAX), 30, "either may stand");
    grant.write_failed();
    assert_eq!(grant.raise(50, 1, u64::MAX), 0);
    grant.write(90);
    grant.written(90);
    assert_eq!(grant.raise(50, 1, 20), 20, "so much the bound leaves");
    assert_eq!(grant.raise(50, 45, u64::MAX), 0, "40 are possible, and of no use");
    assert_eq!(grant.raise(50, 40, u64::MAX), 40);
}

#[test]
fn who_waits_misses_what_it_was_not_told_yet() {
    let mut grant = told(100);
    grant.take(&row(80, 10, 100), &source(5));
    grant.ask(Ask { waiting: 60, smallest: 20, ahead: 0 }, 7, at(3));
    assert_eq!((grant.missing(), grant.asked), ((60, 20), Some(7)));
    grant.raise(20, 20, u64::MAX);
    grant.ask(Ask { waiting: 60, smallest: 20, ahead: 0 }, 8, at(3));
    assert_eq!((grant.missing(), grant.asked), ((40, 0), Some(7)), "it keeps its turn");
    grant.ask(Ask::default(), 9, at(3));
    assert_eq!((grant.missing(), grant.asked), ((0, 0), None));
}

#[test]
fn what_was_used_beyond_the_allowance_is_no_room_for_a_call() {
    let mut grant = told(100);
    grant.take(&row(130, 0, 100), &source(5));
    grant.ask(Ask { waiting: 60, smallest: 60, ahead: 0 }, 7, at(3));
    assert_eq!(grant.missing(), (60, 60));
    assert_eq!((grant.raise(60, 60, 60), grant.sent), (60, 190), "it costs no more than the call");
}

#[test]
fn what_runs_beyond_the_allowance_is_promised_as_well() {
    let mut grant = told(100);
    grant.take(&row(60, 100, 100), &source(5));
    assert_eq!((grant.promised(), grant.surplus()), (160, 0), "60 were charged that nobody had granted, and 100 still run");
    grant.ask(Ask { waiting: 50, smallest: 20, ahead: 0 }, 7, at(3));
    assert_eq!(grant.missing(), (50, 20));
    assert_eq!((grant.raise(50, 50, 50), grant.sent), (50, 210), "it costs no more than the calls that wait");
    assert_eq!((grant.promised(), grant.missing(), grant.is_stinted()), (210, (0, 0), false));
    grant.tell(8);
    grant.take(&row(120, 0, 210), &source(8));
    assert_eq!((grant.promised(), grant.surplus()), (210, 90), "what ended below its reservation is left to it");
}

#[test]
fn at_an_even_rate_as_much_is_held_as_half_a_minute_uses() {
    let mut grant = told(100);
    for second in 2..600 {
        let used = 10 * (second - 1);
        grant.take(&row(used, 0, used), &Source { now: at(second), ..source(5) });
    }
    let recent = grant.recent(at(599));
    assert!((270..=310).contains(&recent), "{recent}");
    assert_eq!(grant.target(at(599)), grant.busy() + recent);
    assert!(grant.recent(at(629)) < recent * 6 / 10, "it fades");
    let before = grant.sent;
    grant.raise(5 * recent, 1, u64::MAX);
    assert_eq!((grant.target(at(599)), grant.sent), (0, before + 5 * recent), "who holds enough needs nothing");
}

#[test]
fn a_ceiling_leaves_room_for_a_part_of_the_limit_the_rate_or_the_largest_ask_and_for_what_is_wanted() {
    let mut grant = told(100);
    assert_eq!(grant.headroom(10, 1, at(1)), 10);
    assert_eq!(grant.headroom(10, 16, at(1)), 160, "more in a hurry");
    grant.ask(Ask { waiting: 50, smallest: 50, ahead: 0 }, 7, at(1));
    assert_eq!(grant.headroom(10, 1, at(1)), 200);
    assert_eq!(grant.headroom(10, 1, at(1)), 100, "an ask is forgotten by and by");
    grant.written(0);
    grant.raise(50, 1, u64::MAX);
    assert_eq!(grant.headroom(10, 1, at(1)), 50 + 48);
}

#[test]
fn numbers_that_cannot_be_are_taken_for_large_ones() {
    let mut grant = Grant::new(at(0));
    let row = SpentRow { used: u64::MAX, estimated: u64::MAX, reserved: u64::MAX, allowance: u64::MAX, refused: u64::MAX };
    grant.take(&row, &source(0));
    grant.ask(Ask { waiting: u64::MAX, smallest: u64::MAX, ahead: u64::MAX }, 1, at(1));
    assert_eq!((grant.busy(), grant.sent), (2 * MOST, MOST));
    assert_eq!((grant.promised(), grant.missing()), (2 * MOST, (MOST, MOST)));
    assert_eq!(grant.target(at(1)), 4 * MOST);
}
