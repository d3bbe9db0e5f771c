//! What the accounts and the gateways of a namespace are told of its budgets.
//!
//! It is about a namespace, not about an object: what the budgets mean for a call is decided by all of them together, and gateways
//! must not be told of some of them as if they were all. It goes by the statuses as they are stored: a step that is taken is
//! written down before anybody obeys it, so that whoever leads next knows of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use quartermaster_core::api::{AgentPool, TokenBudget};
use quartermaster_core::decide::account::granting::BudgetTerms;
use quartermaster_core::decide::account::history::Covers;
use quartermaster_core::decide::budget::observation::{Accounts as AccountsFacts, PoolFacts};
use quartermaster_core::decide::budget::terms;
use quartermaster_core::decide::budget::verdict::{self, BudgetVerdict};
use quartermaster_core::decide::decision::{Children, Refusal};
use tracing::error;

use super::token_budget::{TOKEN_BUDGET, pools_of, readable};
use crate::exchange::accounts::Accounts;
use crate::operate::cache::Cache;
use crate::operate::children::ChildKind;
use crate::operate::key::ObjectKey;
use crate::operate::metrics::Metrics;
use crate::operate::namespaces::{NamespaceControl, Undecided, Wanted};
use crate::operate::object::Stored;

/// Tells the accounts of budgets.
pub struct Rationing {
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// The AgentPools.
    pub pools: Arc<Cache<Stored<AgentPool>>>,
    /// Who is told.
    pub accounts: Arc<Accounts>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What is to be looked at.
    pub changed: Mutex<HashMap<String, Changed>>,
    /// What each namespace was told.
    pub told: Mutex<HashMap<String, BTreeMap<String, Ration>>>,
}

/// The budgets of a namespace that are to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    all: bool,
    names: BTreeSet<String>,
}

/// What a budget gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Ration {
    uid: String,
    terms: Option<BudgetTerms>,
    verdict: BudgetVerdict,
}

impl NamespaceControl for Rationing {
    const NAME: &'static str = "Rationing";
    const OWNERS: ChildKind = TOKEN_BUDGET;
    const MANAGER: &'static str = "quartermaster-tokenbudget";
    const CHILDREN: &'static [ChildKind] = &[];

    async fn decide(&self, namespace: &str, _refusals: Vec<Refusal>) -> Result<Wanted, Undecided> {
        self.tell(namespace, Timestamp::now())?;
        Ok(Wanted { children: Children::Keep, owner: None, next: None })
    }

    fn acted(&self, _namespace: &str, _refusals: Vec<Refusal>) {}
}

impl Rationing {
    /// A budget is to be looked at in the next pass: it has changed, or what was used of it has, or the time has come.
    pub fn budget_changed(&self, budget: &ObjectKey) {
        let mut changed = lock(&self.changed);
        changed.entry(budget.namespace.clone()).or_default().names.insert(budget.name.clone());
    }

    /// All budgets of a namespace are to be looked at in the next pass: its pools have changed.
    pub fn pools_changed(&self, namespace: &str) {
        lock(&self.changed).entry(namespace.to_owned()).or_default().all = true;
    }

    /// By name of each budget that is in force: its uid, and whose calls it covers.
    pub fn in_force(&self) -> Vec<(ObjectKey, String, Covers)> {
        let told = lock(&self.told);
        let all = told.iter().flat_map(|(namespace, rations)| rations.iter().map(move |(name, ration)| (namespace, name, ration)));
        let in_force = |(namespace, name, ration): (&String, &String, &Ration)| {
            let covers = ration.terms.as_ref()?.covers.clone();
            Some((ObjectKey::new(namespace, name), ration.uid.clone(), covers))
        };
        all.filter_map(in_force).collect()
    }

    /// Looks at what has changed, and tells what is another one than before. The first time it tells all: also that there is no
    /// budget, since there may have been one under another leader.
    ///
    /// # Errors
    ///
    /// One of those that are told the first time meets a defect. Without it the accounts would forget what an earlier leader knew of it.
    fn tell(&self, namespace: &str, now: Timestamp) -> Result<(), Undecided> {
        let Changed { all, mut names } = lock(&self.changed).remove(namespace).unwrap_or_default();
        let is_first = {
            let told = lock(&self.told);
            let known = told.get(namespace);
            if all || known.is_none() {
                names.extend(self.budgets.owned_by(namespace).into_iter().map(|(key, _)| key.name));
                names.extend(known.into_iter().flat_map(BTreeMap::keys).cloned());
            }
            known.is_none()
        };
        let (looked, left_out) = self.look(namespace, names, now);
        if is_first && let Some(left_out) = left_out {
            return Err(Undecided::Defect(format!("the accounts are told of no budget, since {left_out} met a panic")));
        }
        let (terms, verdicts) = {
            let mut told = lock(&self.told);
            let rations = told.entry(namespace.to_owned()).or_default();
            let mut is_news = is_first;
            for (name, ration) in looked {
                is_news |= rations.get(&name) != ration.as_ref();
                match ration {
                    Some(ration) => rations.insert(name, ration),
                    None => rations.remove(&name),
                };
            }
            if !is_news {
                return Ok(());
            }
            let terms = rations.values().filter_map(|ration| Some((ration.uid.clone(), ration.terms.clone()?)));
            let verdicts = rations.values().map(|ration| ration.verdict.clone());
            (terms.collect(), verdicts.collect::<Vec<BudgetVerdict>>())
        };
        // Whoever refers to an account finds it there.
        self.accounts.configure(namespace, terms);
        self.accounts.verdict(namespace, verdict::combine(&verdicts));
        Ok(())
    }

    /// What these budgets give now; none: they are gone. One that meets a defect is left out, and told: it keeps what it gave, and
    /// costs the others nothing.
    fn look(&self, namespace: &str, names: BTreeSet<String>, now: Timestamp) -> (Vec<(String, Option<Ration>)>, Option<String>) {
        let pools = if names.is_empty() { Vec::new() } else { pools_of(&self.pools, namespace) };
        let mut left_out = None;
        let look = |name: String| {
            let key = ObjectKey::new(namespace, name.as_str());
            let stored = self.budgets.get(&key).filter(|stored| stored.meta.deletion_timestamp.is_none());
            let Some(stored) = stored else { return Some((name, None)) };
            match catch_unwind(AssertUnwindSafe(|| self.ration(&key, &readable(&stored), &pools, now))) {
                Ok(ration) => Some((name, Some(ration))),
                Err(_) => {
                    self.metrics.panicked(Self::NAME);
                    error!(%key, "finding out what a budget gives ended in a panic");
                    left_out = Some(name);
                    None
                }
            }
        };
        let looked = names.into_iter().filter_map(look).collect();
        (looked, left_out)
    }

    fn ration(&self, key: &ObjectKey, budget: &TokenBudget, pools: &[PoolFacts], now: Timestamp) -> Ration {
        let uid = budget.metadata.uid.clone().unwrap_or_default();
        let accounts = self.accounts.snapshot(&key.namespace, &uid).as_ref().map(AccountsFacts::from);
        let terms = terms::of(budget, pools, accounts.as_ref(), now);
        let verdict = verdict::of(budget, pools, accounts.as_ref(), now);
        Ration { uid, terms, verdict }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic leaves half done is looked at again.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "rationing_tests.rs"]
mod tests;
