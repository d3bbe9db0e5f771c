//! How what the operator says is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Spending;
use super::account::Forgotten;
use crate::decide::account::message::{AccountRow, Told};
use crate::decide::account::{AccountId, Now};

impl Spending {
    /// Takes what the operator says. `acknowledged` is the highest report that it has taken on this connection, 0 before it has said all
    /// that there is to say of accounts, and `valid_for` how long its word holds from now on. Calls that wait should try again.
    ///
    /// An allowance rises, and falls only where it is recalled: to what is recalled, or to what was used and reserved if that is
    /// more, then further with every settlement until a row comes without the recall.
    pub fn take(&mut self, told: &Told, acknowledged: u64, valid_for: Duration, now: Now) {
        self.listen(acknowledged, valid_for, now);
        self.told |= told.all || !told.accounts.is_empty() || !told.callers.is_empty();
        if told.all {
            self.lose_all_but(told);
        }
        for (id, row) in &told.accounts {
            self.take_account(id, row.as_ref());
        }
        let none = BTreeMap::new();
        for (caller, row) in &told.callers {
            self.set_cover(caller, row.as_ref().map_or(&none, |row| &row.routes));
        }
        self.forget();
    }

    /// The operator said something, and nothing about accounts.
    pub fn heard(&mut self, acknowledged: u64, valid_for: Duration, now: Now) {
        self.listen(acknowledged, valid_for, now);
        self.forget();
    }

    fn listen(&mut self, acknowledged: u64, valid_for: Duration, now: Now) {
        self.acknowledged = acknowledged;
        self.valid_until = now.elapsed.saturating_add(valid_for);
        self.latest = self.moment(now);
    }

    /// What is missing is gone.
    fn lose_all_but(&mut self, told: &Told) {
        let Self { accounts, pending, .. } = self;
        for account in accounts.iter_mut().filter(|account| !told.accounts.contains_key(&account.id)) {
            account.lose(pending);
        }
        let missing: Vec<String> = self.callers.keys().filter(|caller| !told.callers.contains_key(*caller)).cloned().collect();
        for caller in missing {
            self.set_cover(&caller, &BTreeMap::new());
        }
    }

    fn take_account(&mut self, id: &AccountId, row: Option<&AccountRow>) {
        match row {
            Some(row) => {
                let slot = self.account(id);
                let Self { accounts, pending, acknowledged, .. } = self;
                if let Some(account) = accounts.get_mut(slot) {
                    account.tell(row, *acknowledged, pending);
                }
            }
            None => {
                let known = self.slots.get(id).and_then(|slot| self.accounts.get_mut(*slot));
                if let Some(account) = known {
                    account.lose(&mut self.pending);
                }
            }
        }
    }

    fn forget(&mut self) {
        let Self { accounts, slots, pending, latest, .. } = self;
        pending.closing.retain(|slot| {
            let Some(account) = accounts.get_mut(*slot) else { return false };
            let forgotten = account.forget(latest.acknowledged, latest.wall);
            account.place.closing = forgotten == Forgotten::NotYet;
            if forgotten == Forgotten::Whole
                && let Some(account) = accounts.remove(*slot)
            {
                slots.remove(&account.id);
            }
            forgotten == Forgotten::NotYet
        });
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
