//! What simulations hold to the truth.

use std::collections::BTreeMap;

use super::budget::Budget;
use super::period_account::PeriodAccount;
use super::share::ShareKey;
use super::{AccountRows, Granting};
use crate::decide::account::message::{AccountRow, SpentRow};
use crate::decide::account::{AccountId, PeriodId, Unit};

/// What a process holds something of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::decide::account) struct HeldBy {
    pub(in crate::decide::account) period: PeriodId,
    pub(in crate::decide::account) unit: Unit,
    pub(in crate::decide::account) share: ShareKey,
    pub(in crate::decide::account) epoch: u64,
}

/// What a process holds that is heard.
#[derive(Clone, Copy, Debug)]
pub(in crate::decide::account) struct Holding {
    /// What it last said that it used and reserved.
    pub(in crate::decide::account) busy: u64,
    /// What it last said that it may use.
    pub(in crate::decide::account) allowance: u64,
    /// The most that it was told, or is to be.
    pub(in crate::decide::account) sent: u64,
}

impl Granting {
    /// What each process that is heard holds of a budget.
    pub(in crate::decide::account) fn holdings(&self, uid: &str) -> BTreeMap<HeldBy, Holding> {
        self.budgets.get(uid).map(holdings).unwrap_or_default()
    }

    /// What was used of a budget in a period, and what may still be used without anybody being asked; 0 of what is not known.
    pub(in crate::decide::account) fn committed(&self, uid: &str, unit: Unit, period: PeriodId) -> u64 {
        self.account_in(uid, unit, period).map_or(0, PeriodAccount::committed)
    }

    /// The limit of a budget in a period; none of what is not known.
    pub(in crate::decide::account) fn limit(&self, uid: &str, unit: Unit, period: PeriodId) -> Option<u64> {
        self.account_in(uid, unit, period).map(|account| account.limit)
    }

    /// What is promised of a share, and its limit; none of what is not known, or no share any more.
    pub(in crate::decide::account) fn share(&self, uid: &str, unit: Unit, period: PeriodId, caller: &str) -> Option<(u64, u64)> {
        let account = self.account_in(uid, unit, period)?;
        let share = account.shares().get(&Some(caller.to_owned()))?;
        Some((account.committed_of(share), share.limit?))
    }

    /// Holds what a process knows, by all that [`Granting::rows`] has said until now, to what it is to know, made anew.
    pub(in crate::decide::account) fn assert_told(&self, epoch: u64, known: &BTreeMap<AccountId, AccountRow>) {
        let all = self.budgets.iter().flat_map(|(uid, budget)| budget.rows(uid, epoch, &self.processes));
        let all: BTreeMap<AccountId, AccountRow> = all.collect();
        assert_eq!(*known, all, "process {epoch} is not told of a change");
        let told = self.budgets.values().flat_map(|budget| budget.periods_told().into_iter().map(move |period| (budget, period)));
        let accounts = told.flat_map(|(budget, period)| Unit::ALL.map(|unit| budget.account(period, unit))).flatten();
        let mut grants = accounts.flat_map(|account| account.shares().values()).filter_map(|share| share.grants.get(&epoch));
        assert!(grants.all(|grant| !grant.is_raised()), "process {epoch} is not told of an allowance");
    }

    fn account_in(&self, uid: &str, unit: Unit, period: PeriodId) -> Option<&PeriodAccount> {
        self.budgets.get(uid)?.account(period, unit)
    }
}

impl AccountRows {
    /// Lets somebody know of them who knows what there was before.
    pub(in crate::decide::account) fn apply(self, known: &mut BTreeMap<AccountId, AccountRow>) {
        for account in self.gone(known) {
            known.remove(&account);
        }
        known.extend(self.rows);
    }
}

fn holdings(budget: &Budget) -> BTreeMap<HeldBy, Holding> {
    let mut holdings = BTreeMap::new();
    for (period, of_period) in &budget.periods {
        for (unit, account) in of_period.accounts.each() {
            for (share, of_share) in account.shares() {
                for (epoch, grant) in of_share.grants.iter().filter(|(_, grant)| grant.heard) {
                    let SpentRow { used, reserved, allowance, .. } = grant.reported;
                    let held_by = HeldBy { period: *period, unit, share: share.clone(), epoch: *epoch };
                    holdings.insert(held_by, Holding { busy: used + reserved, allowance, sent: grant.sent });
                }
            }
        }
    }
    holdings
}
