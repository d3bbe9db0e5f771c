//! A process of a gateway, and what it is told, for tests.

use std::time::Duration;

use jiff::Timestamp;

use super::{Most, Reservation, Settled, Short, Spending, Ticket, Used};
use crate::decide::account::message::{AccountRow, CallerRow, NextPeriod, Report, RouteRow, SpentRow, Told};
use crate::decide::account::{AccountId, Now, PeriodId};

pub(super) const CALLER: &str = "coder";
pub(super) const ROUTE: &str = "smart-router";
/// The account of most tests.
pub(super) const TOKENS: &str = "uid/tokens";
pub(super) const COST: &str = "uid/cost";

pub(super) fn id(text: &str) -> AccountId {
    text.parse().unwrap()
}

/// Of the period from second 1000 to 2000, with a limit of 1000 of which nobody else has used or reserved anything.
pub(super) fn row(allowance: u64) -> AccountRow {
    AccountRow {
        budget: "sprint".to_owned(),
        period: PeriodId(1000),
        period_end: Some(2000),
        allowance,
        limit: 1000,
        free: 1000_u64.saturating_sub(allowance),
        cached_input_percent: 100,
        ..AccountRow::default()
    }
}

/// The period from second 2000 to 3000.
pub(super) fn next(allowance: u64) -> Option<NextPeriod> {
    Some(NextPeriod { period: PeriodId(2000), period_end: Some(3000), allowance })
}

/// These are all accounts, and what they mean for the one caller and route.
pub(super) fn told(accounts: &[(&str, AccountRow)], route: RouteRow) -> Told {
    let routes = [(ROUTE.to_owned(), route)].into();
    Told {
        all: true,
        accounts: accounts.iter().map(|(account, row)| (id(account), Some(row.clone()))).collect(),
        callers: [(CALLER.to_owned(), Some(CallerRow { routes }))].into(),
        ..Told::default()
    }
}

/// Calls need these accounts.
pub(super) fn route(accounts: &[&str]) -> RouteRow {
    RouteRow { accounts: accounts.iter().map(|account| id(account)).collect(), ..RouteRow::default() }
}

pub(super) fn tokens(tokens: u64) -> Most {
    Most { tokens, cost: None }
}

pub(super) fn exactly(input: u64) -> Used {
    Used { input, exact: true, ..Used::default() }
}

/// What has been sent is acknowledged only where a test says so.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) spending: Spending,
    pub(super) wall: i64,
    pub(super) elapsed: u64,
    pub(super) seq: u64,
    pub(super) acknowledged: u64,
    /// The changes until the last report, and until the last one that was acknowledged.
    changes: u64,
    known: u64,
}

impl Process {
    /// One that was told nothing.
    pub(super) fn new() -> Self {
        Self { spending: Spending::default(), wall: 1000, elapsed: 0, seq: 0, acknowledged: 0, changes: 0, known: 0 }
    }

    /// One whose calls need these accounts.
    pub(super) fn with(accounts: &[(&str, AccountRow)]) -> Self {
        let mut process = Self::new();
        let names: Vec<&str> = accounts.iter().map(|(account, _)| *account).collect();
        process.take(&told(accounts, route(&names)));
        process
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: Timestamp::from_second(self.wall).unwrap(), elapsed: Duration::from_secs(self.elapsed) }
    }

    /// What is said holds for 30 s.
    pub(super) fn take(&mut self, told: &Told) {
        self.spending.take(told, self.acknowledged, Duration::from_secs(30), self.now());
    }

    /// One account has changed.
    pub(super) fn tell(&mut self, account: &str, row: AccountRow) {
        self.take(&Told { accounts: [(id(account), Some(row))].into(), ..Told::default() });
    }

    pub(super) fn reserve_most(&mut self, most: Most) -> Result<Reservation, Short> {
        self.spending.reserve(CALLER, ROUTE, most, None, self.now())
    }

    pub(super) fn reserve(&mut self, most: u64) -> Result<Reservation, Short> {
        self.reserve_most(tokens(most))
    }

    pub(super) fn wait(&mut self, most: u64) -> Ticket {
        self.spending.wait(CALLER, ROUTE, tokens(most), self.now())
    }

    pub(super) fn retry(&mut self, most: u64, ticket: Ticket) -> Result<Reservation, Short> {
        self.spending.reserve(CALLER, ROUTE, tokens(most), Some(ticket), self.now())
    }

    pub(super) fn settle(&mut self, reservation: Reservation, used: u64) -> Settled {
        self.spending.settle(reservation, Some(exactly(used)))
    }

    /// What changed since the last report that was acknowledged.
    pub(super) fn report(&mut self) -> Report {
        self.seq += 1;
        let (report, changes) = self.spending.report(self.known, self.seq);
        self.changes = changes;
        report
    }

    /// The operator has taken the last report.
    pub(super) fn acknowledge(&mut self) {
        self.acknowledged = self.seq;
        self.known = self.changes;
        self.spending.heard(self.acknowledged, Duration::from_secs(30), self.now());
    }

    /// Another connection, on which nothing was said yet.
    pub(super) fn reconnect(&mut self) {
        (self.acknowledged, self.known) = (0, 0);
    }

    pub(super) fn spent_in(&self, account: &str, period: i64) -> Option<SpentRow> {
        let slot = self.spending.slots.get(&id(account))?;
        Some(self.spending.accounts.get(*slot)?.spent_in(PeriodId(period))?.row)
    }

    /// What was spent in the first period.
    pub(super) fn spent(&self, account: &str) -> SpentRow {
        self.spent_in(account, 1000).unwrap()
    }
}
