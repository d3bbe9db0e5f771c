//! What budgets take of each call in a gateway, apart from all else that a gateway does: what they mean for it, the room that
//! it reserves, and what it settles.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use quartermaster_core::decide::account::message::{AccountRow, CallerRow, RouteRow, Told};
use quartermaster_core::decide::account::spending::{Most, Spending, Used};
use quartermaster_core::decide::account::{AccountId, Now, PeriodId, Unit};

use crate::fleet::ROUTE;

/// Budgets of the caller.
const BUDGETS: [usize; 3] = [0, 1, 3];
/// Calls of a round.
const CALLS: u32 = 1_000_000;
/// The same in a quick run.
const QUICK: u32 = 50_000;
/// Rounds, in each of which all numbers of budgets have their turn.
const ROUNDS: usize = 5;

const CALLER: &str = "coder";
/// More than is used here.
const LIMIT: u64 = 1 << 53;
const VALID: Duration = Duration::from_secs(3600);
const MOST: Most = Most { tokens: 6_000, cost: None };
const USED: Used = Used { input: 1_000, cached_input: 200, cache_write: 0, output: 500, cost: None, exact: true };

/// What a call costs whose caller has so many budgets.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Budgets.
    pub budgets: usize,
    /// Seconds: the median of the rounds.
    pub seconds: f64,
}

/// Measures callers with no budget, and with more.
pub fn measure(quick: bool) -> Vec<Call> {
    let calls = if quick { QUICK } else { CALLS };
    let mut rounds: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for budgets in BUDGETS {
            rounds.entry(budgets).or_default().push(each(budgets, calls));
        }
    }
    let median = |(budgets, mut seconds): (usize, Vec<f64>)| {
        seconds.sort_by(f64::total_cmp);
        Call { budgets, seconds: seconds[seconds.len() / 2] }
    };
    rounds.into_iter().map(median).collect()
}

fn each(budgets: usize, calls: u32) -> f64 {
    let now = Now { wall: Timestamp::now(), elapsed: VALID };
    let mut spending = Spending::default();
    spending.take(&told(budgets), 0, VALID, now);
    let begun = Instant::now();
    for _ in 0..calls {
        let terms = spending.terms(CALLER, ROUTE, now);
        assert_eq!(black_box(terms).is_some(), budgets > 0);
        let reservation = spending.reserve(CALLER, ROUTE, MOST, None, now).unwrap();
        black_box(spending.settle(reservation, Some(USED)));
    }
    begun.elapsed().as_secs_f64() / f64::from(calls)
}

/// What an operator says of so many budgets of the caller, of which this process may spend all.
fn told(budgets: usize) -> Told {
    let id = |number: usize| AccountId { budget: format!("uid-{number}"), unit: Unit::Tokens, caller: None };
    let accounts: Vec<AccountId> = (0..budgets).map(id).collect();
    let row = AccountRow {
        budget: "sprint".to_owned(),
        period: PeriodId(1),
        allowance: LIMIT,
        limit: LIMIT,
        cached_input_percent: 100,
        ..AccountRow::default()
    };
    let route = RouteRow { accounts: accounts.clone(), ..RouteRow::default() };
    let caller = CallerRow { routes: BTreeMap::from([(ROUTE.to_owned(), route)]) };
    let covered = (budgets > 0).then(|| (CALLER.to_owned(), Some(caller)));
    Told {
        all: true,
        accounts: accounts.into_iter().map(|id| (id, Some(row.clone()))).collect(),
        callers: covered.into_iter().collect(),
        ..Told::default()
    }
}
