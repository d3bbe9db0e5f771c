use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::decide::account::message::{AccountRow, Ask, Report, SpentRow, Told};
use crate::decide::account::spending::testing::{Process, TOKENS, id, next, row};
use crate::decide::account::{AccountId, PeriodId};

const OTHER: &str = "other/tokens";

/// The rows of a report: account, period, used, reserved, allowance.
fn rows(report: &Report) -> Vec<(String, i64, u64, u64, u64)> {
    let rows =
        report.accounts.iter().flat_map(|(account, periods)| periods.iter().map(move |(period, row)| (account, period, row)));
    rows.map(|(account, period, row)| (account.to_string(), period.0, row.used, row.reserved, row.allowance)).collect()
}

#[test]
fn what_changed_is_reported_until_it_is_acknowledged() {
    let mut process = Process::with(&[(TOKENS, row(100)), (OTHER, row(50))]);
    let (tokens, other) = (TOKENS.to_owned(), OTHER.to_owned());
    // Also that nothing was spent.
    assert_eq!(rows(&process.report()), [(other.clone(), 1000, 0, 0, 50), (tokens.clone(), 1000, 0, 0, 100)]);
    let before = process.spending.changes();
    assert_eq!(process.report().accounts.len(), 2, "the first report may be lost");
    process.acknowledge();
    assert_eq!(rows(&process.report()), []);
    assert_eq!(process.spending.changes(), before, "nothing is no news");

    process.tell(OTHER, row(70));
    assert_eq!(rows(&process.report()), [(other.clone(), 1000, 0, 0, 70)]);
    process.acknowledge();
    let reservation = process.reserve(10).unwrap();
    assert!(process.spending.changes() > before);
    assert_eq!(rows(&process.report()), [(other.clone(), 1000, 0, 10, 70), (tokens.clone(), 1000, 0, 10, 100)]);
    process.settle(reservation, 4);
    // What was sent before is acknowledged, and what changed since is not.
    process.acknowledge();
    assert_eq!(rows(&process.report()), [(other.clone(), 1000, 4, 0, 70), (tokens.clone(), 1000, 4, 0, 100)]);
    process.acknowledge();
    assert_eq!(rows(&process.report()), []);

    process.reserve(71).unwrap_err();
    process.reserve(1001).unwrap_err();
    assert_eq!(rows(&process.report()).len(), 1, "a refusal is counted where the call did not fit");
}

#[test]
fn an_operator_that_knows_nothing_hears_all_of_it() {
    let mut process = Process::with(&[(TOKENS, row(100)), (OTHER, row(50))]);
    let reservation = process.reserve(10).unwrap();
    process.report();
    process.acknowledge();
    process.settle(reservation, 10);
    process.report();
    process.acknowledge();
    process.reconnect();
    assert_eq!(rows(&process.report()), [(OTHER.to_owned(), 1000, 10, 0, 50), (TOKENS.to_owned(), 1000, 10, 0, 100)]);
    process.acknowledge();
    assert_eq!(rows(&process.report()), []);
}

#[test]
fn every_period_is_reported_by_itself() {
    let mut process = Process::with(&[(TOKENS, AccountRow { next: next(40), ..row(100) })]);
    let early = process.reserve(60).unwrap();
    process.wall = 2000;
    let late = process.reserve(40).unwrap();
    process.settle(early, 50);
    assert_eq!(rows(&process.report()), [(TOKENS.to_owned(), 1000, 50, 0, 100), (TOKENS.to_owned(), 2000, 0, 40, 40)]);
    process.acknowledge();
    process.settle(late, 1);
    assert_eq!(rows(&process.report()), [(TOKENS.to_owned(), 2000, 1, 0, 40)]);
}

#[test]
fn asks_are_all_that_is_asked_for() {
    let mut process = Process::with(&[(TOKENS, row(100)), (OTHER, row(5))]);
    let ticket = process.wait(30);
    for _ in 0..2 {
        let asks = process.report().asks;
        assert_eq!(asks, BTreeMap::from([(id(OTHER), Ask { waiting: 25, smallest: 25, ahead: 0 })]));
        process.acknowledge();
    }
    process.spending.withdraw(ticket);
    assert_eq!(process.report().asks, BTreeMap::new());
}

#[derive(Clone, Debug)]
enum Event {
    Reserve(u64),
    Settle(usize, u64),
    Grant(bool, u64),
    /// The clock moves on so far.
    Clock(i64),
    Gone(bool),
    /// A report, and whether it arrives and the answer does.
    Report(bool, bool),
    Reconnect,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0_u64..30).prop_map(Event::Reserve),
        3 => (0_usize..8, 0_u64..40).prop_map(|(call, used)| Event::Settle(call, used)),
        2 => (any::<bool>(), 0_u64..200).prop_map(|(other, allowance)| Event::Grant(other, allowance)),
        1 => (0_i64..300).prop_map(Event::Clock),
        1 => any::<bool>().prop_map(Event::Gone),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(arrives, answered)| Event::Report(arrives, answered)),
        1 => Just(Event::Reconnect),
    ]
}

proptest! {
    /// Who takes the reports that arrive, in order, knows what the process knows, and sees no count become less.
    #[test]
    fn reports_add_up_whatever_of_them_is_lost(events in prop::collection::vec(events(), 1..80)) {
        let of_now = |wall: i64, allowance: u64| {
            let start = wall.div_euclid(1000) * 1000;
            let (period, period_end) = (PeriodId(start), Some(start + 1000));
            AccountRow { period, period_end, next: None, ..row(allowance) }
        };
        let account = |other: bool| if other { OTHER } else { TOKENS };
        let mut process = Process::with(&[(TOKENS, row(50)), (OTHER, row(50))]);
        let mut running = Vec::new();
        let mut copy: BTreeMap<(AccountId, PeriodId), SpentRow> = BTreeMap::new();
        let mut heard = |report: &Report| -> Result<(), TestCaseError> {
            for (id, periods) in &report.accounts {
                for (period, row) in periods {
                    let before = copy.insert((id.clone(), *period), *row).unwrap_or_default();
                    prop_assert!(before.used <= row.used && before.estimated <= row.estimated && before.refused <= row.refused);
                }
            }
            Ok(())
        };
        for event in events {
            match event {
                Event::Reserve(most) => running.extend(process.reserve(most).ok()),
                Event::Settle(call, used) if call < running.len() => {
                    process.settle(running.swap_remove(call), used);
                }
                Event::Grant(other, allowance) => process.tell(account(other), of_now(process.wall, allowance)),
                Event::Clock(seconds) => process.wall += seconds,
                Event::Gone(other) => process.take(&Told { accounts: [(id(account(other)), None)].into(), ..Told::default() }),
                Event::Report(arrives, answered) => {
                    let report = process.report();
                    if arrives {
                        heard(&report)?;
                    }
                    if arrives && answered {
                        process.acknowledge();
                    }
                }
                Event::Reconnect => process.reconnect(),
                Event::Settle(..) => {}
            }
        }
        for reservation in running {
            process.settle(reservation, 1);
        }
        process.reconnect();
        process.wall = process.wall.max(2000);
        heard(&process.report())?;
        process.acknowledge();
        prop_assert!(process.report().accounts.is_empty());
        prop_assert!(process.spending.is_idle());
        for slot in process.spending.slots.values() {
            let known = process.spending.accounts.get(*slot).unwrap();
            for spent in known.periods() {
                let row = copy.get(&(known.id.clone(), spent.period)).copied();
                prop_assert_eq!(row, Some(spent.row));
            }
        }
    }
}
