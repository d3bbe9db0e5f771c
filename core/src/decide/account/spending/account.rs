//! One account: what the operator says of it, and what this process spent in its periods.

use std::time::Duration;

use super::pending::{Pending, Place};
use super::periods::Spent;
use super::queue::Queue;
use crate::api::token_budget::Enforcement;
use crate::decide::account::message::{AccountRow, Report};
use crate::decide::account::{AccountId, PeriodId};

/// The closed periods of which is kept what was spent, though it was heard. The shortest periods are hours: for so many of them
/// the ledger may be out of the leaders' reach, and whoever leads when it is not charges nobody more than was used.
const CLOSED_KEPT: usize = 4;

/// An account, as this process knows it.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) id: AccountId,
    pub(super) place: Place,
    /// What the operator says of it; none: nothing yet, or nothing any more.
    pub(super) row: Option<AccountRow>,
    /// The operator said that it is gone: nobody is held up by it.
    pub(super) gone: bool,
    /// The period in which calls begin. It only grows, whatever either clock says.
    open: Option<PeriodId>,
    /// By period.
    spent: Vec<Spent>,
    /// How much of an input token counts that a prefix cache served, in percent: as it was last said.
    pub(super) cached_input_percent: u32,
    pub(super) queue: Queue,
    pub(super) largest: Largest,
    /// The first report since when what is needed in the open period is asked for; none: it is not.
    pub(super) asked: Option<u64>,
    /// How often calls of routes are said to need it.
    pub(super) references: u64,
}

/// What becomes of an account of which something may have to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// All that was to be forgotten.
    Done,
    /// Not all: something was not reported yet, or a call is running.
    NotYet,
    /// All of it: the account itself may go.
    Whole,
}

impl Account {
    pub(super) fn new(slot: usize, id: AccountId) -> Self {
        Self {
            id,
            place: Place::new(slot),
            row: None,
            gone: false,
            open: None,
            spent: Vec::new(),
            cached_input_percent: 100,
            queue: Queue::default(),
            largest: Largest::default(),
            asked: None,
            references: 0,
        }
    }

    /// Whether calls are refused for want of room: not known to be otherwise is yes.
    pub(super) fn is_walled(&self) -> bool {
        self.row.as_ref().map_or(!self.gone, |row| row.enforcement == Enforcement::Block)
    }

    #[cfg(test)]
    pub(super) fn periods(&self) -> &[Spent] {
        &self.spent
    }

    pub(super) fn spent_in(&self, period: PeriodId) -> Option<&Spent> {
        let index = self.spent.binary_search_by_key(&period, |spent| spent.period).ok()?;
        self.spent.get(index)
    }

    /// The period in which calls begin, as far as it was looked at.
    pub(super) fn open(&self) -> Option<PeriodId> {
        self.open
    }

    /// Changes what was spent in a period, and reports that.
    pub(super) fn spend<T>(&mut self, period: PeriodId, pending: &mut Pending, change: impl FnOnce(&mut Spent) -> T) -> Option<T> {
        let index = self.spent.binary_search_by_key(&period, |spent| spent.period).ok()?;
        let spent = self.spent.get_mut(index)?;
        let outcome = change(spent);
        spent.give_back();
        pending.touch(&mut self.place, spent);
        Some(outcome)
    }

    /// The period in which a call begins at this time: the next one, once the open one has ended by the wall clock.
    pub(super) fn at(&self, wall: i64) -> Option<&Spent> {
        let spent = self.spent_in(self.open?)?;
        if !spent.is_over(wall) {
            return Some(spent);
        }
        let next = self.row.as_ref().and_then(|row| row.next).filter(|next| next.period > spent.period);
        Some(next.and_then(|next| self.spent_in(next.period)).unwrap_or(spent))
    }

    /// Opens the next period, if the open one has ended.
    pub(super) fn roll(&mut self, wall: i64, pending: &mut Pending) {
        let period = self.at(wall).map(|spent| spent.period);
        if period.is_some() && period != self.open {
            self.open = period;
            self.asked = None;
            pending.close(&mut self.place);
        }
    }

    /// What another call may reserve at this time: nothing in a period that is over.
    pub(super) fn available(&self, wall: i64) -> u64 {
        self.at(wall).filter(|spent| !spent.is_over(wall)).map_or(0, Spent::available)
    }

    /// Whether the operator speaks of the period in which calls begin.
    pub(super) fn is_told(&self, wall: i64) -> bool {
        self.row.as_ref().zip(self.at(wall)).is_some_and(|(row, spent)| row.period == spent.period)
    }

    /// What all processes together could still use of the limit, as far as is known here; none: nothing is known of the period.
    pub(super) fn left(&self, wall: i64) -> Option<u64> {
        let (row, spent) = self.row.as_ref().zip(self.at(wall)).filter(|(row, spent)| row.period == spent.period)?;
        Some(row.limit.saturating_sub(row.used).saturating_sub(spent.unreported()))
    }

    /// Takes what the operator says.
    pub(super) fn tell(&mut self, row: &AccountRow, acknowledged: u64, pending: &mut Pending) {
        let open = self.open;
        self.gone = false;
        self.open = open.max(Some(row.period));
        self.grant((row.period, row.period_end), row.allowance, row.recall, pending);
        if let Some(next) = row.next.filter(|next| next.period > row.period) {
            self.grant((next.period, next.period_end), next.allowance, None, pending);
        }
        if let Some(spent) = self.spent.iter_mut().find(|spent| spent.period == row.period) {
            spent.include(acknowledged);
        }
        self.cached_input_percent = row.cached_input_percent;
        if self.open != open || self.row.as_ref().is_none_or(|before| before.period != row.period) {
            self.asked = None;
        }
        self.row = Some(row.clone());
        if self.spent.len() > 1 {
            pending.close(&mut self.place);
        }
    }

    fn grant(&mut self, (period, end): (PeriodId, Option<i64>), allowance: u64, recall: Option<u64>, pending: &mut Pending) {
        let index = match self.spent.binary_search_by_key(&period, |spent| spent.period) {
            Ok(index) => index,
            // It was closed, and what was spent in it is forgotten: it cannot begin again with nothing spent.
            Err(_) if self.open.is_some_and(|open| period < open) => return,
            Err(index) => {
                let mut spent = Spent::new(period);
                // Also that nothing was spent is news: until then the operator has to expect anything.
                pending.touch(&mut self.place, &mut spent);
                self.spent.insert(index, spent);
                index
            }
        };
        if let Some(spent) = self.spent.get_mut(index) {
            spent.end = end;
            if spent.grant(allowance, recall) {
                pending.touch(&mut self.place, spent);
            }
        }
    }

    /// The operator says that it is gone. Nothing begins in it any more, so that all that is not used or reserved is given back.
    pub(super) fn lose(&mut self, pending: &mut Pending) {
        let Self { spent, place, .. } = self;
        for spent in spent {
            spent.recall = Some(0);
            if spent.give_back() {
                pending.touch(place, spent);
            }
        }
        self.row = None;
        self.gone = true;
        self.asked = None;
        pending.close(&mut self.place);
    }

    /// Adds the rows that changed since there were so many changes to report `seq`.
    pub(super) fn say(&mut self, since: u64, seq: u64, report: &mut Report) {
        let is_known = self.row.is_some();
        // Of an account that is gone, what was heard once with nothing reserved was heard for good.
        let is_of_use = |spent: &Spent| is_known || spent.running > 0 || !spent.heard;
        let changed = self.spent.iter_mut().filter(|spent| spent.change > since && is_of_use(spent));
        let mut rows = changed.map(|spent| (spent.period, spent.say(seq))).peekable();
        if rows.peek().is_some() {
            report.accounts.entry(self.id.clone()).or_default().extend(rows);
        }
    }

    /// Forgets what nobody needs any more, when the operator has taken the reports up to this one.
    ///
    /// Of the periods that are closed and were reported, the last [`CLOSED_KEPT`] stay: a leader that ends before it has written
    /// down what it heard leaves that to be heard by the next. Of an account that is gone, what was used stays until the period
    /// is over, and is reported again only if the account comes back: what was used in a period never becomes less.
    pub(super) fn forget(&mut self, acknowledged: u64, wall: i64) -> Forgotten {
        self.spent.iter_mut().for_each(|spent| spent.hear(acknowledged));
        let Some(row) = &self.row else {
            let is_done = |spent: &Spent| {
                let is_unused = spent.row.used == 0 && spent.row.refused == 0;
                spent.running == 0 && (is_unused || spent.heard && spent.is_over(wall))
            };
            if !self.spent.iter().all(is_done) {
                return Forgotten::NotYet;
            }
            self.spent.clear();
            self.open = None;
            let is_needed = self.references > 0 || !self.queue.is_empty();
            return if is_needed { Forgotten::NotYet } else { Forgotten::Whole };
        };
        let (open, named) = (self.open, [Some(row.period), row.next.map(|next| next.period)]);
        let closed = self.spent.iter().rev().map(|spent| spent.period).filter(|period| Some(*period) < open);
        let kept_from = closed.take(CLOSED_KEPT).last();
        let is_kept = |spent: &Spent| Some(spent.period) < open && Some(spent.period) >= kept_from;
        let is_closed = |spent: &Spent| Some(spent.period) < open && !named.contains(&Some(spent.period));
        self.spent.retain(|spent| {
            let period = Some(spent.period);
            let is_open = period == open || named.contains(&period) || spent.running > 0;
            is_open || is_kept(spent) || is_closed(spent) && !spent.heard
        });
        let is_left = self.spent.iter().any(|spent| is_closed(spent) && !is_kept(spent));
        if is_left { Forgotten::NotYet } else { Forgotten::Done }
    }
}

/// The half of a minute, in seconds.
const HALF: u64 = 30;

/// The largest need of the last minute, or at least of the latter half of it.
#[derive(Debug, Default)]
pub(super) struct Largest {
    half: u64,
    current: u64,
    before: u64,
}

impl Largest {
    pub(super) fn note(&mut self, need: u64, elapsed: Duration) {
        self.turn(elapsed);
        self.current = self.current.max(need);
    }

    pub(super) fn at(&mut self, elapsed: Duration) -> u64 {
        self.turn(elapsed);
        self.current.max(self.before)
    }

    fn turn(&mut self, elapsed: Duration) {
        let half = elapsed.as_secs() / HALF;
        // Of two threads the one that read the clock earlier may come later.
        if half <= self.half {
            return;
        }
        let before = std::mem::take(&mut self.current);
        self.before = if half == self.half + 1 { before } else { 0 };
        self.half = half;
    }
}
