//! What the statuses of budgets show, in whole steps: a budget is told when it comes to another one.

use std::collections::BTreeMap;

use quartermaster_core::decide::account::PeriodId;
use quartermaster_core::decide::account::granting::{BudgetTerms, Granting, Known, Snapshot};

/// What a budget is told of when it changes.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    period: PeriodId,
    known: (u8, u32),
    refused: u64,
    /// Of the budget and of each share, in whole percent of the limit.
    percents: Vec<u64>,
}

/// What the budgets of a namespace were told of last.
#[derive(Debug, Default)]
pub(super) struct Edges {
    /// By uid.
    told: BTreeMap<String, Edge>,
    /// The changes of accounts until which they were looked at; 0: all of them are to be looked at.
    seen: u64,
}

impl Edges {
    /// Something has happened that may have changed all of them.
    pub(super) fn note(&mut self) {
        self.seen = 0;
    }

    /// These are all budgets from now on, by uid.
    pub(super) fn retain(&mut self, budgets: &BTreeMap<String, BudgetTerms>) {
        self.told.retain(|uid, _| budgets.contains_key(uid));
    }

    /// The budgets that are to be told of something. `second`: the wall clock, in seconds since 1970.
    pub(super) fn changed(&mut self, budgets: &BTreeMap<String, BudgetTerms>, granting: &Granting, second: i64) -> Vec<String> {
        let (news, seen) = granting.changed(self.seen);
        self.seen = seen;
        let is_news = |uid: &String| news.as_ref().is_none_or(|news| news.contains(uid));
        // Without news only the clock can have changed something.
        let is_over = |terms: &BudgetTerms| terms.period.end.is_some_and(|end| end <= second);
        let mut changed = Vec::new();
        for (uid, _) in budgets.iter().filter(|(uid, terms)| is_news(uid) || is_over(terms)) {
            let Some(edge) = granting.snapshot(uid).as_ref().map(edge) else { continue };
            if self.told.get(uid) != Some(&edge) {
                self.told.insert(uid.clone(), edge);
                changed.push(uid.clone());
            }
        }
        changed
    }
}

fn edge(snapshot: &Snapshot) -> Edge {
    let known = match snapshot.known {
        Known::Yes => (0, 0),
        Known::Opening => (1, 0),
        Known::LedgerLost => (2, 0),
        Known::NotHeard(processes) => (3, processes),
    };
    let units = snapshot.units.values().chain(snapshot.shares.values().flat_map(BTreeMap::values));
    let percent = |used: u64, limit: u64| {
        let percent = (u128::from(used) * 100).checked_div(u128::from(limit)).unwrap_or(100);
        u64::try_from(percent).unwrap_or(u64::MAX)
    };
    let percents = units.map(|unit| percent(unit.used, unit.limit)).collect();
    Edge { period: snapshot.period, known, refused: snapshot.refused, percents }
}
