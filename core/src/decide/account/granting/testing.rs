//! A small world for tests: gateways that do what they are told, a ledger, and clocks.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{BudgetTerms, Granting, Heard, PeriodTerms, Snapshot, UnitSnapshot};
use crate::decide::account::history::History;
use crate::decide::account::ledger::HotLedger;
use crate::decide::account::message::{AccountRow, Ask, Report, SpentRow};
use crate::decide::account::{AccountId, Limits, Now, PeriodId, Unit};
use crate::decide::gateway::exchange::usage::{Counts, Hour, Series, UsageCounters};

/// A whole hour: 2026-11-26T00:00:00Z.
pub(super) const START: i64 = 1_795_651_200;
/// A day.
pub(super) const LENGTH: i64 = 86_400;
pub(super) const FIRST: PeriodId = PeriodId(START);
pub(super) const SECOND: PeriodId = PeriodId(START + LENGTH);

pub(super) struct World {
    pub(super) granting: Granting,
    pub(super) history: History,
    pub(super) elapsed: Duration,
    pub(super) wall: i64,
    pub(super) budgets: BTreeMap<String, BudgetTerms>,
    pub(super) stored: Option<HotLedger>,
    pub(super) gateways: BTreeMap<u64, Gateway>,
    pub(super) writes: Vec<Duration>,
    /// What was said to each gateway, whether or not it took it, and how many changes there had been by then.
    said: BTreeMap<u64, (BTreeMap<AccountId, AccountRow>, u64)>,
    seq: u64,
    term: u64,
}

#[derive(Default)]
pub(super) struct Gateway {
    pub(super) rows: BTreeMap<AccountId, BTreeMap<PeriodId, SpentRow>>,
    pub(super) asks: BTreeMap<AccountId, Ask>,
    pub(super) told: BTreeMap<AccountId, AccountRow>,
    pub(super) draining: bool,
    usage: UsageCounters,
    term: u64,
    acknowledged: u64,
}

pub(super) fn account(text: &str) -> AccountId {
    text.parse().unwrap()
}

pub(super) fn period(number: i64, tokens: u64) -> PeriodTerms {
    let start = START + number * LENGTH;
    PeriodTerms { id: PeriodId(start), start, end: Some(start + LENGTH), limits: Limits { tokens: Some(tokens), cost: None } }
}

/// A budget of so many tokens a day, for the callers coder and planner.
pub(super) fn daily(tokens: u64) -> BudgetTerms {
    BudgetTerms {
        name: "daily".to_owned(),
        period: period(0, tokens),
        next: Some(period(1, tokens)),
        covers: ["coder", "planner"].map(|caller| (caller.to_owned(), None)).into(),
        cached_input_percent: 100,
        ..BudgetTerms::default()
    }
}

impl World {
    /// One in which nobody has told or said anything, an hour into the first period.
    pub(super) fn new() -> Self {
        let (elapsed, wall) = (Duration::from_secs(1000), START + 3600);
        Self {
            granting: Granting::new(1, None, at(elapsed, wall)),
            history: History::default(),
            elapsed,
            wall,
            budgets: BTreeMap::new(),
            stored: None,
            gateways: BTreeMap::new(),
            writes: Vec::new(),
            said: BTreeMap::new(),
            seq: 0,
            term: 1,
        }
    }

    /// One with a budget "a" of so many tokens, and gateways that know of it and can be granted something.
    pub(super) fn with(tokens: u64, gateways: &[u64]) -> Self {
        let mut world = Self::new();
        world.configure("a", daily(tokens));
        for epoch in gateways {
            world.gateways.insert(*epoch, Gateway::default());
        }
        world.settle();
        world
    }

    pub(super) fn now(&self) -> Now {
        at(self.elapsed, self.wall)
    }

    pub(super) fn wait(&mut self, seconds: u32) {
        self.elapsed += Duration::from_secs(seconds.into());
        self.wall += i64::from(seconds);
    }

    pub(super) fn configure(&mut self, uid: &str, terms: BudgetTerms) {
        let now = self.now();
        self.budgets.insert(uid.to_owned(), terms);
        self.granting.configure(&self.budgets, &self.history, now);
    }

    /// The gateway reports all that it has to say.
    pub(super) fn report(&mut self, epoch: u64) {
        let now = self.now();
        let gateway = &self.gateways[&epoch];
        let heard = Heard { listens: gateway.term == self.term, acknowledged: gateway.acknowledged, draining: gateway.draining };
        let report = Report { accounts: gateway.rows.clone(), asks: gateway.asks.clone(), ..Report::default() };
        let table = gateway.usage.since(0);
        self.history.take(epoch, &table);
        self.granting.receive(epoch, heard, &report, &table, now);
    }

    /// What the leader would tell a gateway now, in the message of this number.
    pub(super) fn message(&mut self, epoch: u64) -> (u64, BTreeMap<AccountId, AccountRow>) {
        self.seq += 1;
        let (said, changes) = self.said.entry(epoch).or_default();
        let rows = self.granting.rows(epoch, self.seq, *changes);
        *changes = rows.changes;
        rows.apply(said);
        self.granting.assert_told(epoch, said);
        (self.seq, said.clone())
    }

    /// The leader tells the gateway what it is to know, and it takes that.
    pub(super) fn tell(&mut self, epoch: u64) {
        let (seq, rows) = self.message(epoch);
        self.take(epoch, seq, rows);
    }

    pub(super) fn take(&mut self, epoch: u64, seq: u64, rows: BTreeMap<AccountId, AccountRow>) {
        let term = self.term;
        let gateway = self.gateways.get_mut(&epoch).unwrap();
        (gateway.term, gateway.acknowledged) = (term, seq);
        for (id, row) in &rows {
            let periods = gateway.rows.entry(id.clone()).or_default();
            let spent = periods.entry(row.period).or_default();
            let more = row.allowance.saturating_sub(spent.allowance);
            spent.allowance += more;
            // Who waits needs so much less beyond what it has.
            if let Some(ask) = gateway.asks.get_mut(id) {
                ask.waiting = ask.waiting.saturating_sub(more);
                ask.smallest = ask.smallest.saturating_sub(more);
            }
            gateway.asks.retain(|_, ask| *ask != Ask::default());
            if let Some(recall) = row.recall {
                spent.allowance = spent.allowance.min(recall.max(spent.used + spent.reserved));
            }
            if let Some(next) = row.next {
                let spent = periods.entry(next.period).or_default();
                spent.allowance = spent.allowance.max(next.allowance);
            }
        }
        gateway.told = rows;
    }

    /// Writes the ledger if it is due. Whether it was.
    pub(super) fn write(&mut self) -> bool {
        let now = self.now();
        if self.granting.ledger_due(now).is_none_or(|due| due > now.elapsed) {
            return false;
        }
        let ledger = self.granting.ledger(now);
        self.stored = Some(HotLedger::read(&ledger.text().unwrap()).unwrap());
        self.granting.written(&ledger, now);
        self.writes.push(now.elapsed);
        true
    }

    /// Everybody says what there is to say, and the ledger is written if it is due.
    pub(super) fn round(&mut self) {
        let epochs: Vec<u64> = self.gateways.keys().copied().collect();
        epochs.iter().for_each(|epoch| self.report(*epoch));
        let now = self.now();
        if self.granting.is_opening() {
            self.granting.open(&self.history, now);
        }
        self.granting.tick(now);
        if self.write() {
            self.granting.tick(now);
        }
        epochs.iter().for_each(|epoch| self.tell(*epoch));
    }

    /// Rounds until all that is asked for was granted, if it can be, and written.
    pub(super) fn settle(&mut self) {
        for _ in 0..5 {
            self.round();
            self.wait(1);
        }
    }

    /// Another leader begins with what stands in the ledger. Nobody has told it anything yet but its budgets.
    pub(super) fn take_over(&mut self) {
        let now = self.now();
        self.term += 1;
        self.granting = Granting::new(self.term, self.stored.clone(), now);
        self.granting.configure(&self.budgets, &self.history, now);
    }

    /// The pod of a gateway is gone.
    pub(super) fn end(&mut self, epoch: u64) {
        let now = self.now();
        self.gateways.remove(&epoch);
        self.granting.ended(epoch, now);
        self.history.ended(epoch);
    }

    pub(super) fn row(&mut self, epoch: u64, id: &str, period: PeriodId) -> &mut SpentRow {
        let gateway = self.gateways.get_mut(&epoch).unwrap();
        gateway.rows.entry(account(id)).or_default().entry(period).or_default()
    }

    /// Calls of a gateway wait for so much in all.
    pub(super) fn ask(&mut self, epoch: u64, id: &str, waiting: u64, smallest: u64) {
        let asks = &mut self.gateways.get_mut(&epoch).unwrap().asks;
        if waiting == 0 {
            asks.remove(&account(id));
        } else {
            asks.insert(account(id), Ask { waiting, smallest, ahead: 0 });
        }
    }

    /// A call of a caller, which its gateway counts in its table of usage: in hours after the start of the first period.
    pub(super) fn call(&mut self, epoch: u64, caller: &str, hour: i64, input: u64) {
        let series = Series { caller: caller.to_owned(), route: "smart-router".to_owned(), backend: "llama-70b".to_owned() };
        let hour = Hour::of(Timestamp::from_second(START + hour * 3600).unwrap());
        let now = Hour::of(self.now().wall);
        let counts = Counts { input, requests: 1, ..Counts::default() };
        self.gateways.get_mut(&epoch).unwrap().usage.record(series, hour, now, &counts);
    }

    /// What a gateway holds.
    pub(super) fn allowance(&mut self, epoch: u64) -> u64 {
        self.row(epoch, "a/tokens", FIRST).allowance
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.granting.snapshot("a").unwrap()
    }

    pub(super) fn tokens(&self) -> UnitSnapshot {
        self.snapshot().units[&Unit::Tokens]
    }
}

fn at(elapsed: Duration, wall: i64) -> Now {
    Now { wall: Timestamp::from_second(wall).unwrap(), elapsed }
}
