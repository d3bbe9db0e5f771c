//! What the accounts say of a budget, for its status.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::{Budget, Period};
use super::period_account::PeriodAccount;
use super::share::Share;
use crate::decide::account::{Amounts, Limits, PeriodId, Unit};

/// Periods that are over and are remembered.
pub(super) const HISTORY: usize = 12;

/// What the accounts say of a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The period that is open.
    pub period: PeriodId,
    /// The budget as a whole, in the units that are limited.
    pub units: BTreeMap<Unit, UnitSnapshot>,
    /// The shares that there are, by name of the AgentPool.
    pub shares: BTreeMap<String, BTreeMap<Unit, UnitSnapshot>>,
    /// Whether that is all that was used.
    pub known: Known,
    /// The period before. Its figures may still grow, as long as calls run that began in it.
    pub before: Option<ClosedPeriod>,
    /// The periods before the open one, the oldest first: at most twelve.
    pub history: Vec<ClosedPeriod>,
    /// Calls of the period that were refused for want of room, or would have been where the budget refuses nothing: in the unit
    /// of which there were more.
    pub refused: u64,
}

/// What one account says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitSnapshot {
    /// Its limit.
    pub limit: u64,
    /// What was used. In a period it never becomes less while one leader leads.
    pub used: u64,
    /// The part of `used` that is an upper bound.
    pub estimated: u64,
    /// What was used, and what may still be used without anybody being asked.
    pub committed: u64,
    /// What was used beyond the limit.
    pub debt: u64,
}

/// Whether accounts say all that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// They do.
    Yes,
    /// Not all processes have said what they used before there was an account. Nothing is granted until then.
    Opening,
    /// The ledger was lost, or a part of the caller table that an account opened by. What is left and what processes say was taken
    /// instead, and nobody has confirmed it.
    LedgerLost,
    /// So many processes that may have used something have not reported to this leader.
    NotHeard(u32),
}

/// A period that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedPeriod {
    /// The period.
    pub id: PeriodId,
    /// When it ended, in seconds since 1970; none: it had no end, and another one was opened.
    pub end: Option<i64>,
    /// The limits that it had in the end.
    pub limits: Limits,
    /// What was used.
    pub used: Amounts,
    /// The part of `used` that is an upper bound.
    pub estimated: Amounts,
}

impl Period {
    /// What was used in it, so far.
    pub(super) fn summary(&self) -> ClosedPeriod {
        let amounts = |amount: fn(&PeriodAccount) -> u64| {
            let of = |unit: Unit| self.accounts.of(unit).map_or(0, amount);
            Amounts { tokens: of(Unit::Tokens), cost: of(Unit::Cost) }
        };
        let (used, estimated) = (amounts(PeriodAccount::used), amounts(PeriodAccount::estimated));
        ClosedPeriod { id: self.terms.id, end: self.terms.end, limits: self.terms.limits, used, estimated }
    }
}

impl UnitSnapshot {
    fn new(limit: u64, used: u64, estimated: u64, committed: u64) -> Self {
        Self { limit, used, estimated: estimated.min(used), committed, debt: used.saturating_sub(limit) }
    }

    fn of_account(account: &PeriodAccount) -> Self {
        Self::new(account.limit, account.used(), account.estimated(), account.committed())
    }

    fn of_share(account: &PeriodAccount, share: &Share) -> Self {
        Self::new(share.limit.unwrap_or(0), share.used(), share.estimated(), account.committed_of(share))
    }
}

impl Budget {
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut units = BTreeMap::new();
        let mut shares: BTreeMap<String, BTreeMap<Unit, UnitSnapshot>> = BTreeMap::new();
        let mut refused = 0;
        for (unit, account) in self.periods.get(&self.open).into_iter().flat_map(|period| period.accounts.each()) {
            units.insert(unit, UnitSnapshot::of_account(account));
            // A call that is refused for want of tokens is most often one that would be for want of money as well.
            refused = account.refused().max(refused);
            for (caller, share) in account.open_shares() {
                if let Some(caller) = caller {
                    shares.entry(caller.clone()).or_default().insert(unit, UnitSnapshot::of_share(account, share));
                }
            }
        }
        let over: BTreeMap<PeriodId, ClosedPeriod> =
            self.periods.range(..self.open).map(|(id, period)| (*id, period.summary())).chain(self.closed.clone()).collect();
        let surplus = over.len().saturating_sub(HISTORY);
        let history: Vec<ClosedPeriod> = over.into_values().skip(surplus).collect();
        Snapshot { period: self.open, units, shares, known: self.known(), before: history.last().cloned(), history, refused }
    }

    fn known(&self) -> Known {
        let period = self.periods.get(&self.open);
        let unheard: BTreeSet<u64> =
            period.into_iter().flat_map(|period| period.accounts.each()).flat_map(|(_, account)| account.unheard()).collect();
        if self.is_opening() {
            Known::Opening
        } else if self.unconfirmed {
            Known::LedgerLost
        } else if unheard.is_empty() {
            Known::Yes
        } else {
            Known::NotHeard(u32::try_from(unheard.len()).unwrap_or(u32::MAX))
        }
    }
}
