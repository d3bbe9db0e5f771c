//! What holds whatever comes in whatever order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::testing::{Process, TOKENS, row};
use super::{Reservation, Short};
use crate::decide::account::PeriodId;
use crate::decide::account::message::{AccountRow, NextPeriod, SpentRow};

const OTHER: &str = "other/tokens";
const ACCOUNTS: [&str; 2] = [TOKENS, OTHER];

#[derive(Clone, Debug)]
enum Event {
    /// The operator says: account, allowance, recall, allowance of the next period.
    Tell(usize, u64, Option<u64>, Option<u64>),
    Reserve(u64),
    /// A call that waits.
    Wait(u64),
    Retry(usize),
    /// A call uses so many percent of what it reserved.
    Settle(usize, u64),
    /// The clock jumps there.
    Clock(i64),
    /// So many seconds pass without a word of the operator.
    Pass(u64),
    Report(bool),
}

fn events() -> impl Strategy<Value = Event> {
    let recall = prop::option::weighted(0.3, 0_u64..150);
    let next = prop::option::weighted(0.3, 0_u64..60);
    let tells = (0_usize..2, 0_u64..200, recall, next)
        .prop_map(|(account, allowance, recall, next)| Event::Tell(account, allowance, recall, next));
    prop_oneof![
        4 => tells,
        5 => (0_u64..60).prop_map(Event::Reserve),
        2 => (1_u64..60).prop_map(Event::Wait),
        3 => (0_usize..4).prop_map(Event::Retry),
        5 => (0_usize..6, 0_u64..=100).prop_map(|(call, percent)| Event::Settle(call, percent)),
        1 => (900_i64..3100).prop_map(Event::Clock),
        1 => (0_u64..40).prop_map(Event::Pass),
        2 => any::<bool>().prop_map(Event::Report),
    ]
}

/// What of it can be known from outside.
#[derive(Default)]
struct Truth {
    /// The highest allowance that was ever said, by account and period.
    said: BTreeMap<(usize, i64), u64>,
    /// What is recalled, by account and period.
    recalled: BTreeMap<(usize, i64), u64>,
    used: u64,
    reserved: u64,
}

/// What is spent in an account. Of two periods none is forgotten.
fn spent(process: &Process, account: usize) -> Vec<(i64, SpentRow)> {
    let periods = [1000, 2000].into_iter();
    periods.filter_map(|period| process.spent_in(ACCOUNTS[account], period).map(|spent| (period, spent))).collect()
}

fn check(process: &Process, truth: &Truth) -> Result<(), TestCaseError> {
    for account in 0..ACCOUNTS.len() {
        let (mut used, mut reserved) = (0, 0);
        for (period, row) in spent(process, account) {
            let said = truth.said.get(&(account, period)).copied().unwrap_or(0);
            prop_assert!(row.used + row.reserved <= row.allowance, "{row:?}");
            prop_assert!(row.allowance <= said, "{row:?}: {said} was the most that was said");
            if let Some(recall) = truth.recalled.get(&(account, period)) {
                prop_assert!(row.allowance <= (*recall).max(row.used + row.reserved), "{row:?}: {recall} is recalled");
            }
            used += row.used;
            reserved += row.reserved;
        }
        // All or nothing: both accounts have what all calls have.
        prop_assert_eq!((used, reserved), (truth.used, truth.reserved));
    }
    Ok(())
}

fn begins(truth: &mut Truth, calls: &mut Vec<(Reservation, u64)>, reservation: Option<Reservation>, most: u64) {
    if let Some(reservation) = reservation {
        truth.reserved += most;
        calls.push((reservation, most));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Under Block, with backends that keep to what was reserved.
    #[test]
    fn nothing_begins_beyond_an_allowance_and_what_is_recalled_is_given_back(events in prop::collection::vec(events(), 1..100)) {
        let mut process = Process::with(&[(TOKENS, row(0)), (OTHER, row(0))]);
        let mut truth = Truth::default();
        let (mut calls, mut waiting) = (Vec::new(), Vec::new());
        let mut operator_wall = 1000;
        for event in events {
            match event {
                Event::Tell(account, allowance, recall, next_allowance) => {
                    operator_wall = process.wall.clamp(operator_wall, 2999);
                    let start = operator_wall / 1000 * 1000;
                    let following = next_allowance.filter(|_| start == 1000).map(|allowance| NextPeriod {
                        period: PeriodId(2000),
                        period_end: Some(3000),
                        allowance,
                    });
                    let (period, period_end) = (PeriodId(start), Some(start + 1000));
                    let said = AccountRow { period, period_end, recall, next: following, limit: 500, free: 100, ..row(allowance) };
                    let most = truth.said.entry((account, start)).or_default();
                    *most = allowance.max(*most);
                    truth.recalled.remove(&(account, start));
                    if let Some(recall) = recall {
                        truth.recalled.insert((account, start), recall);
                    }
                    if let Some(following) = following {
                        let most = truth.said.entry((account, following.period.0)).or_default();
                        *most = following.allowance.max(*most);
                    }
                    process.tell(ACCOUNTS[account], said);
                }
                Event::Reserve(most) => begins(&mut truth, &mut calls, process.reserve(most).ok(), most),
                Event::Wait(most) => waiting.push((process.wait(most), most)),
                Event::Retry(call) if call < waiting.len() => {
                    let (ticket, most) = waiting[call];
                    let begun = process.retry(most, ticket);
                    if !matches!(begun, Err(Short::Wait)) {
                        waiting.remove(call);
                    }
                    begins(&mut truth, &mut calls, begun.ok(), most);
                }
                Event::Settle(call, percent) if call < calls.len() => {
                    let (reservation, most) = calls.swap_remove(call);
                    let used = most * percent / 100;
                    prop_assert!(!process.settle(reservation, used).exceeded);
                    truth.used += used;
                    truth.reserved -= most;
                }
                Event::Clock(wall) => process.wall = wall,
                Event::Pass(seconds) => process.elapsed += seconds,
                Event::Report(answered) => {
                    process.report();
                    if answered {
                        process.acknowledge();
                    }
                }
                Event::Retry(_) | Event::Settle(..) => {}
            }
            check(&process, &truth)?;
            prop_assert_eq!(process.spending.waiting(), waiting.len());
            prop_assert_eq!(process.spending.is_idle(), calls.is_empty());
        }
        // What all of it leaves behind is nothing.
        for (ticket, _) in waiting {
            process.spending.withdraw(ticket);
        }
        for (reservation, most) in calls {
            process.settle(reservation, most);
            truth.used += most;
            truth.reserved -= most;
        }
        check(&process, &truth)?;
        prop_assert!(process.spending.is_idle() && process.spending.waiting() == 0);
    }
}
