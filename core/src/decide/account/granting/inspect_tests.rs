//! What simulations hold to the truth.

use super::Granting;
use super::period_account::PeriodAccount;
use crate::decide::account::{PeriodId, Unit};

impl Granting {
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

    fn account_in(&self, uid: &str, unit: Unit, period: PeriodId) -> Option<&PeriodAccount> {
        self.budgets.get(uid)?.account(period, unit)
    }
}
