//! The API server, as far as it holds the ledger: one object, with its version as a precondition.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::super::ledger::{BudgetLedger, HotLedger};
use super::{Common, Kind};

/// The most writes in a minute, where none fails, beside those with which a period begins or a limit is another, and one more where there
/// are shares, as they may move.
const WRITES_A_MINUTE: usize = 3;

#[derive(Default)]
pub(super) struct Store {
    version: u64,
    /// That of the leader who wrote last.
    term: u64,
    ledger: Option<Rc<HotLedger>>,
    requests: Vec<Request>,
    /// By number of the request: when the answer is back, and what it says.
    answers: BTreeMap<u64, (u32, Answer)>,
    numbers: u64,
    /// Until when every request fails.
    pub(super) broken: Duration,
    /// When writes were asked for.
    pub(super) writes: Vec<Duration>,
    /// When those were that say of no budget that something else is open.
    of_usage: Vec<Duration>,
    /// What is open, by the last one.
    open: Vec<String>,
}

/// A write under way. Its effect comes whether or not anybody still waits for the answer.
struct Request {
    number: u64,
    version: u64,
    term: u64,
    ledger: Rc<HotLedger>,
    arrives: u32,
    /// Steps until the answer is back; none: it is lost.
    answer: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Written { version: u64 },
    Conflict,
    Refused,
}

impl Store {
    pub(super) fn is_broken(&self, common: &Common) -> bool {
        common.time < self.broken
    }

    /// The version, and the term of who wrote it; none while requests fail.
    pub(super) fn read(&self, common: &Common) -> Option<(u64, u64)> {
        (!self.is_broken(common)).then_some((self.version, self.term))
    }

    /// The version that stands.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What stands in it.
    pub(super) fn ledger(&self) -> Option<&Rc<HotLedger>> {
        self.ledger.as_ref()
    }

    /// Asks for a write over a version. Its number.
    pub(super) fn write(&mut self, version: u64, term: u64, ledger: Rc<HotLedger>, common: &mut Common) -> u64 {
        self.numbers += 1;
        self.writes.push(common.time);
        let open = open(&ledger);
        if self.open == open {
            self.of_usage.push(common.time);
        }
        self.open = open;
        if common.kind == Kind::Gentle {
            let minute = Duration::from_secs(60);
            let recent = self.of_usage.iter().rev().take_while(|at| **at + minute > common.time).count();
            assert!(
                recent <= WRITES_A_MINUTE + usize::from(is_shared(&ledger)),
                "the ledger is written {recent} times in a minute"
            );
        }
        let (arrives, answer) = match common.random.below(20) {
            // Lost, or late, or its answer is lost, or late.
            0 if common.is_stormy && common.faults.store => return self.numbers,
            1 if common.is_stormy && common.faults.store => (common.random.steps(2, 30), Some(0)),
            2..=3 if common.is_stormy && common.faults.store => (1, None),
            4 if common.is_stormy && common.faults.store => (1, Some(common.random.steps(1, 30))),
            _ => (1, Some(0)),
        };
        let arrives = common.step + arrives;
        self.requests.push(Request { number: self.numbers, version, term, ledger, arrives, answer });
        self.numbers
    }

    /// Does what has arrived.
    pub(super) fn serve(&mut self, common: &Common) {
        let requests = std::mem::take(&mut self.requests);
        let (due, later): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| request.arrives <= common.step);
        self.requests = later;
        for request in due {
            let answer = if self.is_broken(common) {
                Answer::Refused
            } else if request.version == self.version {
                self.version += 1;
                (self.term, self.ledger) = (request.term, Some(request.ledger));
                Answer::Written { version: self.version }
            } else {
                Answer::Conflict
            };
            common.tell(|| format!("store: write {} of term {}: {answer:?}", request.number, request.term));
            if let Some(delay) = request.answer {
                self.answers.insert(request.number, (common.step + delay, answer));
            }
        }
    }

    /// The answer to a request, where it is back.
    pub(super) fn answer(&self, number: u64, common: &Common) -> Option<Answer> {
        let (_, answer) = self.answers.get(&number).filter(|(back, _)| *back <= common.step)?;
        Some(*answer)
    }
}

/// Whether any account of a ledger has shares.
fn is_shared(ledger: &HotLedger) -> bool {
    let mut accounts = ledger.budgets.values().flat_map(|budget| budget.periods.values()).flat_map(|period| period.accounts.each());
    accounts.any(|(_, account)| account.shares.keys().any(|share| !share.is_empty()))
}

/// What a ledger says to be open: periods with their limits, accounts, and the processes that may use of them.
fn open(ledger: &HotLedger) -> Vec<String> {
    let of_budget = |(uid, budget): (&String, &BudgetLedger)| {
        let period = budget.periods.get(&budget.open);
        let limits = period.map(|period| period.limits);
        let accounts = period.into_iter().flat_map(|period| period.accounts.each());
        let shares =
            accounts.flat_map(|(unit, account)| account.shares.iter().map(move |(share, of_share)| (unit, share, of_share)));
        let may_use = shares.map(|(unit, share, of_share)| {
            let epochs = of_share.processes.iter().filter(|(_, process)| process.ceiling > 0).map(|(epoch, _)| *epoch);
            (unit, share.clone(), epochs.collect::<Vec<u64>>())
        });
        format!("{uid} {:?} {limits:?} {:?}", budget.open, may_use.collect::<Vec<_>>())
    };
    ledger.budgets.iter().map(of_budget).collect()
}
