//! What a process is to see of a budget's accounts.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use super::Granting;
use super::budget::Budget;
use super::period_account::{PeriodAccount, Uncertain};
use super::process::Process;
use super::share::{Share, ShareKey};
use super::terms::PeriodTerms;
use crate::decide::account::message::{AccountRow, NextPeriod};
use crate::decide::account::{AccountId, PeriodId, Unit};

/// What a process is to see of accounts, as far as it may be something else than before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountRows {
    /// The budgets, by uid, of whose accounts this is all: those of others are as they were. None: it is all of all accounts.
    pub budgets: Option<BTreeSet<String>>,
    /// A row for each account.
    pub rows: BTreeMap<AccountId, AccountRow>,
    /// How many changes there were by now: whoever knows of these asks for what has changed since. 0: they are not counted.
    pub changes: u64,
}

impl AccountRows {
    /// These are all accounts, whatever has changed.
    pub fn all(rows: BTreeMap<AccountId, AccountRow>) -> Self {
        Self { budgets: None, rows, changes: 0 }
    }

    /// Those of the accounts in `known` that are gone by this.
    pub fn gone<Row>(&self, known: &BTreeMap<AccountId, Row>) -> Vec<AccountId> {
        let is_gone = |account: &&AccountId| !self.rows.contains_key(*account);
        match &self.budgets {
            None => known.keys().filter(is_gone).cloned().collect(),
            Some(budgets) => budgets.iter().flat_map(|uid| of_budget(known, uid)).filter(is_gone).cloned().collect(),
        }
    }
}

/// The accounts of a budget among those of all.
fn of_budget<'a, Row>(accounts: &'a BTreeMap<AccountId, Row>, uid: &'a str) -> impl Iterator<Item = &'a AccountId> {
    let first = AccountId { budget: uid.to_owned(), unit: Unit::Tokens, caller: None };
    accounts.range(first..).map(|(account, _)| account).take_while(move |account| account.budget == uid)
}

impl Granting {
    /// What a process is to see that may be something else than it was when there were so many changes; 0: all of it. It costs as
    /// much as has changed, and nothing at rest.
    ///
    /// The allowances in it count as sent in the message `seq` of this leader, which must not have been sent yet, and what they say
    /// must be in that message, or replaced by later rows.
    pub fn rows(&mut self, epoch: u64, seq: u64, since: u64) -> AccountRows {
        let Self { budgets, changes, processes, reports, .. } = self;
        let (mut known, mut waited) = (0, BTreeSet::new());
        if let Some(process) = processes.get_mut(&epoch) {
            // Who was told nothing by this leader knows of none of its changes.
            known = if process.told { since } else { 0 };
            waited = std::mem::take(&mut process.waits);
            process.tell(seq, *reports);
        }
        let changed = changes.since(known).map(|mut changed| {
            changed.append(&mut waited);
            changed
        });
        let (mut rows, mut waits) = (BTreeMap::new(), BTreeSet::new());
        let mut look = |uid: &String, budget: &mut Budget| {
            rows.extend(budget.rows(uid, epoch, processes));
            budget.tell(epoch, seq);
            if budget.awaits(epoch) {
                waits.insert(uid.clone());
            }
        };
        match &changed {
            None => budgets.iter_mut().for_each(|(uid, budget)| look(uid, budget)),
            Some(changed) => {
                for uid in changed {
                    if let Some(budget) = budgets.get_mut(uid) {
                        look(uid, budget);
                    }
                }
            }
        }
        if let Some(process) = processes.get_mut(&epoch) {
            process.waits = waits;
        }
        AccountRows { budgets: changed, rows, changes: changes.count() }
    }

    /// The budgets, by uid, of which something may have changed that is told or shown since there were so many changes, 0 for all of
    /// them, and how many there are now. None: any may have.
    pub fn changed(&self, since: u64) -> (Option<BTreeSet<String>>, u64) {
        (self.changes.since(since), self.changes.count())
    }
}

/// Whose rows are made of a budget, and what is the same in all of them.
struct View<'a> {
    epoch: u64,
    period: PeriodTerms,
    next: Option<PeriodTerms>,
    processes: &'a BTreeMap<u64, Process>,
}

impl Budget {
    /// The rows of a process.
    ///
    /// They depend on nothing but the budget, and, while the process waits in it, on what other processes have heard: see
    /// [`Self::awaits`]. Whoever changes anything of a budget has to note so, or the process is not told.
    pub(super) fn rows(&self, uid: &str, epoch: u64, processes: &BTreeMap<u64, Process>) -> Vec<(AccountId, AccountRow)> {
        let mut rows = Vec::new();
        let Some(period) = self.periods.get(&self.told) else { return rows };
        let view = View { epoch, period: period.terms, next: self.next_told(), processes };
        for (unit, account) in period.accounts.each() {
            let reserved = OnceCell::new();
            for (key, share) in account.shares() {
                // What is no share any more is said until the period is over, so that what it holds is given back, and what
                // was used of it stays known.
                if share.limit.is_some() || share.grants.contains_key(&epoch) {
                    let row = self.row((unit, account), (key, share), &reserved, &view);
                    rows.push((AccountId { budget: uid.to_owned(), unit, caller: key.clone() }, row));
                }
            }
        }
        rows
    }

    /// Message `seq` says a process the allowances of its rows.
    pub(super) fn tell(&mut self, epoch: u64, seq: u64) {
        for period in self.periods_told() {
            for unit in Unit::ALL {
                if let Some(account) = self.account_mut(period, unit) {
                    account.tell(epoch, seq);
                }
            }
        }
    }

    /// Whether a process waits in an account of which it is told.
    pub(super) fn awaits(&self, epoch: u64) -> bool {
        let accounts = self.periods.get(&self.told).into_iter().flat_map(|period| period.accounts.each());
        let mut shares = accounts.flat_map(|(_, account)| account.shares().values());
        shares.any(|share| share.grants.get(&epoch).is_some_and(|grant| grant.asked.is_some()))
    }

    /// The periods of which rows tell: the one that processes are told to be open, and the one after it.
    pub(super) fn periods_told(&self) -> Vec<PeriodId> {
        [Some(self.told), self.next_told().map(|next| next.id)].into_iter().flatten().collect()
    }

    /// The period after the one that processes are told to be open.
    fn next_told(&self) -> Option<PeriodTerms> {
        if self.told == self.open {
            return self.terms.next.filter(|next| next.id > self.open);
        }
        let told = self.periods.get(&self.told)?.terms;
        self.periods.values().map(|period| period.terms).find(|next| Some(next.start) == told.end && next.id > told.id)
    }

    /// `reserved`: what each process has reserved of the account, once somebody has asked for it.
    fn row(
        &self,
        (unit, account): (Unit, &PeriodAccount),
        (key, share): (&ShareKey, &Share),
        reserved: &OnceCell<BTreeMap<u64, u64>>,
        view: &View<'_>,
    ) -> AccountRow {
        let View { epoch, period, next, processes } = *view;
        let grant = share.grants.get(&epoch).copied().unwrap_or_default();
        let is_recalled = share.limit.is_none() || grant.is_recalled();
        let limit = share.limit.unwrap_or(0);
        let terms = &self.terms;
        // Who waits is told that there is no room by what the others have said since, as they may have settled for less.
        let uncertain = grant.asked.map_or_else(Uncertain::default, |asked| {
            let has_settled = |other: u64| other != epoch && processes.get(&other).is_some_and(|process| process.answers < asked);
            let of_budget = reserved.get_or_init(|| account.reserved()).iter().filter(|(other, _)| has_settled(**other));
            let of_share = share.grants.iter().filter(|(other, _)| has_settled(**other));
            Uncertain {
                of_budget: of_budget.map(|(_, reserved)| *reserved).fold(0, u64::saturating_add),
                of_share: of_share.map(|(_, grant)| grant.reported.reserved).fold(0, u64::saturating_add),
            }
        });
        let next = next.filter(|_| share.limit.is_some()).map(|next| {
            let account = self.account(next.id, unit);
            let grant = account.and_then(|account| account.grant(key, epoch)).filter(|grant| grant.heard);
            NextPeriod { period: next.id, period_end: next.end, allowance: grant.map_or(0, |grant| grant.sent) }
        });
        AccountRow {
            budget: terms.name.clone(),
            period: period.id,
            period_end: period.end,
            allowance: if grant.heard { grant.sent } else { 0 },
            recall: is_recalled.then_some(0),
            next,
            limit,
            used: share.used(),
            free: account.free(key, epoch, uncertain),
            percent: percent(share.used(), limit),
            enforcement: terms.enforcement,
            when_usage_unknown: terms.when_usage_unknown,
            message: terms.message.clone(),
            cached_input_percent: terms.cached_input_percent,
        }
    }
}

/// How much of a limit is used, in percent, rounded down. Of a limit of 0 all is.
fn percent(used: u64, limit: u64) -> u32 {
    let percent = (u128::from(used) * 100).checked_div(u128::from(limit)).unwrap_or(100);
    u32::try_from(percent).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
