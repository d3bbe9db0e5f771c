//! What budgets mean for the calls of a caller on a route, with accounts by their number.

use std::collections::BTreeMap;

use super::Spending;
use super::account::Account;
use super::slots::Slots;
use crate::api::model_route::Tier;
use crate::decide::account::AccountId;
use crate::decide::account::message::RouteRow;

/// A caller and a route. It is known by its number for as long as one of its calls runs, so that a call need not keep names.
#[derive(Debug, Default)]
pub(super) struct Pair {
    /// The calls that run.
    pub(super) running: u64,
    /// None: no budget covers them.
    pub(super) cover: Option<Cover>,
}

/// What the operator says of the calls of a caller on a route.
#[derive(Debug)]
pub(super) struct Cover {
    /// In order, each once.
    pub(super) accounts: Vec<usize>,
    pub(super) tier_ceiling: Option<Tier>,
    pub(super) refused: Option<usize>,
    pub(super) new_tasks_refused: Option<usize>,
    pub(super) used_percent: u32,
}

impl Cover {
    /// The accounts that it names, as often as it names them.
    fn references(&self) -> impl Iterator<Item = usize> {
        self.accounts.iter().copied().chain(self.refused).chain(self.new_tasks_refused)
    }
}

impl Spending {
    /// What is known of the calls of a caller on a route.
    pub(super) fn cover(&self, caller: &str, route: &str) -> Option<&Cover> {
        let pair = self.callers.get(caller)?.get(route)?;
        self.pairs.get(*pair)?.cover.as_ref()
    }

    /// The number of a caller and route. Only the first call of a pair allocates anything.
    pub(super) fn pair(&mut self, caller: &str, route: &str) -> usize {
        if let Some(pair) = self.callers.get(caller).and_then(|routes| routes.get(route)) {
            return *pair;
        }
        let pair = self.pairs.insert(|_| Pair::default());
        self.callers.entry(caller.to_owned()).or_default().insert(route.to_owned(), pair);
        pair
    }

    /// The number of an account, which may have been heard of for the first time.
    pub(super) fn account(&mut self, id: &AccountId) -> usize {
        if let Some(slot) = self.slots.get(id) {
            return *slot;
        }
        let slot = self.accounts.insert(|slot| Account::new(slot, id.clone()));
        self.slots.insert(id.clone(), slot);
        slot
    }

    /// All that budgets mean for the calls of a caller from now on. Pairs that no budget covers and that have no running call are
    /// forgotten.
    pub(super) fn set_cover(&mut self, caller: &str, rows: &BTreeMap<String, RouteRow>) {
        // What is new is looked up before what was is let go, so that no account goes in between.
        for (route, row) in rows {
            let cover = self.read_cover(row);
            let pair = self.pair(caller, route);
            self.replace_cover(pair, Some(cover));
        }
        let Some(mut routes) = self.callers.remove(caller) else { return };
        routes.retain(|route, pair| {
            let is_covered = rows.contains_key(route);
            if !is_covered {
                self.replace_cover(*pair, None);
            }
            let stays = is_covered || self.pairs.get(*pair).is_some_and(|pair| pair.running > 0);
            if !stays {
                self.pairs.remove(*pair);
            }
            stays
        });
        if !routes.is_empty() {
            self.callers.insert(caller.to_owned(), routes);
        }
    }

    fn read_cover(&mut self, row: &RouteRow) -> Cover {
        let mut accounts: Vec<usize> = row.accounts.iter().map(|id| self.account(id)).collect();
        accounts.sort_unstable();
        accounts.dedup();
        let cover = Cover {
            accounts,
            tier_ceiling: row.tier_ceiling,
            refused: row.refused.as_ref().map(|id| self.account(id)),
            new_tasks_refused: row.new_tasks_refused.as_ref().map(|id| self.account(id)),
            used_percent: row.used_percent,
        };
        for slot in cover.references() {
            if let Some(account) = self.accounts.get_mut(slot) {
                account.references += 1;
                if account.row.is_none() {
                    // What calls are said to need is not gone, only not told of yet.
                    account.gone = false;
                    self.pending.close(&mut account.place);
                }
            }
        }
        cover
    }

    fn replace_cover(&mut self, pair: usize, cover: Option<Cover>) {
        let Some(pair) = self.pairs.get_mut(pair) else { return };
        let Some(before) = std::mem::replace(&mut pair.cover, cover) else { return };
        for slot in before.references() {
            if let Some(account) = self.accounts.get_mut(slot) {
                account.references = account.references.saturating_sub(1);
            }
        }
    }
}

/// The accounts of a cover that are there.
pub(super) fn accounts_of<'a>(cover: &'a Cover, accounts: &'a Slots<Account>) -> impl Iterator<Item = &'a Account> {
    cover.accounts.iter().filter_map(move |slot| accounts.get(*slot))
}
