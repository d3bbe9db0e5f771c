//! What budgets mean for callers, as far as there are accounts for it.

use std::collections::BTreeMap;

use super::AccountId;
use super::granting::BudgetTerms;
use super::message::{CallerRow, RouteRow};

/// The rows of a verdict, without the budgets that are not among these: one that is gone holds nobody back, and one that has no
/// accounts yet would keep calls waiting.
pub fn with_accounts(
    verdict: &BTreeMap<String, CallerRow>,
    budgets: &BTreeMap<String, BudgetTerms>,
) -> BTreeMap<String, CallerRow> {
    let is_there = |account: &AccountId| budgets.contains_key(&account.budget);
    let route = |(name, row): (&String, &RouteRow)| {
        let accounts: Vec<AccountId> = row.accounts.iter().filter(|account| is_there(account)).cloned().collect();
        let row = RouteRow {
            refused: row.refused.clone().filter(is_there),
            new_tasks_refused: row.new_tasks_refused.clone().filter(is_there),
            tier_ceiling: row.tier_ceiling,
            used_percent: row.used_percent,
            accounts,
        };
        (!row.accounts.is_empty()).then(|| (name.clone(), row))
    };
    let caller = |(name, row): (&String, &CallerRow)| {
        let routes: BTreeMap<String, RouteRow> = row.routes.iter().filter_map(route).collect();
        (!routes.is_empty()).then(|| (name.clone(), CallerRow { routes }))
    };
    verdict.iter().filter_map(caller).collect()
}
