//! What was spent in one period of an account.

use std::collections::VecDeque;

use crate::decide::account::PeriodId;
use crate::decide::account::message::SpentRow;

/// Reports that are followed until they are answered. There are at most ten a second, and each is answered within a second.
const REPORTS_FOLLOWED: usize = 16;

/// What this process spent in one period of an account, and how much it may spend there.
#[derive(Debug)]
pub(super) struct Spent {
    pub(super) period: PeriodId,
    /// When it ends, in seconds since 1970; none: never.
    pub(super) end: Option<i64>,
    pub(super) row: SpentRow,
    /// The calls that hold a reservation here, also one of nothing.
    pub(super) running: u64,
    /// What the allowance is to be lowered to as soon as calls leave room for it.
    pub(super) recall: Option<u64>,
    /// The change that `row` was last part of.
    pub(super) change: u64,
    /// The first report that said `row` as it is; none: there was none yet.
    reported: Option<u64>,
    /// Whether an operator has taken a report that said it as it is.
    pub(super) heard: bool,
    /// How much of `row.used` is part of what the operator last said that all have used.
    included: u64,
    /// Reports that were not yet seen to be taken, and what each said to be used: in their order, at most [`REPORTS_FOLLOWED`].
    said: VecDeque<(u64, u64)>,
}

impl Spent {
    pub(super) fn new(period: PeriodId) -> Self {
        Self {
            period,
            end: None,
            row: SpentRow::default(),
            running: 0,
            recall: None,
            change: 0,
            reported: None,
            heard: false,
            included: 0,
            said: VecDeque::new(),
        }
    }

    /// What was used, and what running calls can use.
    pub(super) fn committed(&self) -> u64 {
        self.row.used.saturating_add(self.row.reserved)
    }

    /// What another call may reserve.
    pub(super) fn available(&self) -> u64 {
        self.row.allowance.saturating_sub(self.committed())
    }

    /// What was used beside what the operator last said that all have used.
    pub(super) fn unreported(&self) -> u64 {
        self.row.used.saturating_sub(self.included)
    }

    /// Whether it has ended by the wall clock.
    pub(super) fn is_over(&self, wall: i64) -> bool {
        self.end.is_some_and(|end| wall >= end)
    }

    /// What the operator says. An allowance that was once said stays, until it is recalled. Whether that is to be reported: also
    /// where a higher one is recalled in the same breath and nothing has changed, as the operator counts on the higher one until it
    /// hears that it was given back.
    pub(super) fn grant(&mut self, allowance: u64, recall: Option<u64>) -> bool {
        let is_raised = allowance > self.row.allowance;
        self.row.allowance = self.row.allowance.max(allowance);
        self.recall = recall;
        self.give_back() || is_raised
    }

    /// Lowers the allowance as far as it is recalled, and as calls leave room for it. Whether anything changed.
    pub(super) fn give_back(&mut self) -> bool {
        let Some(recall) = self.recall else { return false };
        let kept = recall.max(self.committed());
        let lowered = kept < self.row.allowance;
        self.row.allowance = self.row.allowance.min(kept);
        lowered
    }

    /// So much was used.
    pub(super) fn charge(&mut self, amount: u64, is_exact: bool) {
        self.row.used = self.row.used.saturating_add(amount);
        if !is_exact {
            self.row.estimated = self.row.estimated.saturating_add(amount);
        }
    }

    /// Something else is to be reported.
    pub(super) fn changed(&mut self, change: u64) {
        self.change = change;
        self.reported = None;
        self.heard = false;
    }

    /// Report `seq` says the row.
    pub(super) fn say(&mut self, seq: u64) -> SpentRow {
        self.reported.get_or_insert(seq);
        if self.said.len() >= REPORTS_FOLLOWED {
            // The latest is followed in place of the one before it: what the operator has heard counts a moment later.
            self.said.pop_back();
        }
        if self.said.back().is_none_or(|(_, used)| *used != self.row.used) {
            self.said.push_back((seq, self.row.used));
        }
        self.row
    }

    /// The operator has taken the reports up to this one.
    pub(super) fn hear(&mut self, acknowledged: u64) {
        self.heard |= self.reported.is_some_and(|seq| seq <= acknowledged);
    }

    /// What the operator says to be used has all that the reports up to this one said.
    pub(super) fn include(&mut self, acknowledged: u64) {
        while let Some((_, used)) = self.said.front().copied().filter(|(seq, _)| *seq <= acknowledged) {
            self.said.pop_front();
            self.included = used;
        }
    }
}
