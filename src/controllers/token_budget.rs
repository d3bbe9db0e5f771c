//! TokenBudget: what is observed of a budget. What it gives the accounts and the gateways is told for its whole namespace, by
//! [`super::rationing`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget, TokenBudgetStatus};
use quartermaster_core::decide::account::history::{Covers, History};
use quartermaster_core::decide::budget::confirmation::Confirmation;
use quartermaster_core::decide::budget::forecast::BurnRate;
use quartermaster_core::decide::budget::observation::{Accounts as AccountsFacts, Observation, PoolFacts, RouteFacts};
use quartermaster_core::decide::budget::{self, check, in_force, unreadable};
use quartermaster_core::decide::decision::{Decision, Refusal};
use quartermaster_core::decide::gateway::exchange::usage::Counts;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::gateway::of_namespace;
use crate::exchange::accounts::Accounts;
use crate::operate::cache::Cache;
use crate::operate::children::ChildKind;
use crate::operate::control::{Control, DecideError};
use crate::operate::key::ObjectKey;
use crate::operate::object::Stored;

/// TokenBudgets, as a kind.
pub const TOKEN_BUDGET: ChildKind =
    ChildKind { kind: "TokenBudget", group: "quartermaster.dev", version: "v1alpha1", plural: "tokenbudgets", watched_whole: true };

/// How long what was read of the caller table is gone by: it may have a hundred thousand rows of a budget, and what is shown of
/// it changes at most every half minute.
const TABLE_READ_AGAIN: Duration = Duration::from_secs(20);

/// Has an object looked at after a time.
pub type LookAgain = dyn Fn(&ObjectKey, Duration) + Send + Sync;

/// The controller of TokenBudgets. It makes nothing.
pub struct Budgets {
    /// The AgentPools.
    pub pools: Arc<Cache<Stored<AgentPool>>>,
    /// The ModelRoutes.
    pub routes: Arc<Cache<Stored<ModelRoute>>>,
    /// The InferenceBackends.
    pub backends: Arc<Cache<Stored<InferenceBackend>>>,
    /// What was used.
    pub accounts: Arc<Accounts>,
    /// Has what a budget gives the accounts and the gateways looked at.
    pub ration: Box<dyn Fn(&ObjectKey) + Send + Sync>,
    /// Has a budget looked at after a time.
    pub look_again: Box<LookAgain>,
    /// What is remembered of each budget.
    pub records: Mutex<HashMap<ObjectKey, Record>>,
    /// Fields that the served schema lacks.
    pub outdated_schema: watch::Receiver<Arc<Vec<String>>>,
}

/// What is remembered of a budget between two looks. A new process begins without.
#[derive(Default)]
pub struct Record {
    uid: String,
    /// The figures of the status when it was last looked, and when they became others.
    figures: TokenBudgetStatus,
    figures_changed: Option<Timestamp>,
    /// What the accounts said when it was last looked.
    accounts: Option<AccountsFacts>,
    table: Option<Table>,
    confirmation: Confirmation,
}

/// What the caller table says of a budget.
#[derive(Clone)]
struct Table {
    read: Instant,
    /// What it is about: whom, and since when.
    covers: Covers,
    from: i64,
    by_caller: BTreeMap<String, Counts>,
    burn: BurnRate,
}

impl Control for Budgets {
    type Object = TokenBudget;
    type Observation = Observation;

    const KIND: ChildKind = TOKEN_BUDGET;
    const MANAGER: &'static str = "quartermaster-tokenbudget";
    const CHILDREN: &'static [ChildKind] = &[];
    const CONDITIONS: &'static [&'static str] = budget::CONDITIONS;

    async fn observe(&self, object: Arc<TokenBudget>, _refusals: Vec<Refusal>) -> Observation {
        let key = ObjectKey::of(object.as_ref());
        let now = Timestamp::now();
        // Time alone changes what it gives as well: a period ends, or an extension does.
        (self.ration)(&key);
        let mut record = self.take_record(&key, &object);
        let accounts = self.accounts_of(&key, &object, &mut record.confirmation);
        let pools = pools_of(&self.pools, &key.namespace);
        let table = accounts.as_ref().and_then(|accounts| self.table(&key, &object, &pools, accounts, record.table.take(), now));
        let observation = Observation {
            observed_at: None,
            pools,
            routes: of_namespace(&self.routes, &key.namespace).iter().map(|route| RouteFacts::of(route)).collect(),
            unpriced: self.unpriced(&key.namespace),
            unknown_because: self.accounts.unknown_because(&key.namespace),
            by_caller: table.as_ref().map(|table| table.by_caller.clone()).unwrap_or_default(),
            burn: table.as_ref().map(|table| table.burn),
            figures_changed: record.figures_changed,
            outdated_schema: self.outdated_schema.borrow().clone(),
            budget: TokenBudget::clone(&object),
            accounts: accounts.clone(),
        };
        (record.accounts, record.table) = (accounts, table);
        self.lock_records().insert(key, record);
        observation
    }

    fn decide(observation: &Observation, now: Timestamp) -> Result<Decision<Value>, DecideError> {
        Ok(budget::decide(observation, now).into_json()?)
    }

    fn forget(&self, key: &ObjectKey) {
        self.lock_records().remove(key);
        (self.ration)(key);
    }
}

impl Budgets {
    /// What the accounts say of a budget. What was made in place of a lost ledger is confirmed first where somebody does.
    fn accounts_of(&self, key: &ObjectKey, object: &TokenBudget, confirmation: &mut Confirmation) -> Option<AccountsFacts> {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let accounts = self.facts(key, uid);
        if !confirmation.is_given(object, accounts.as_ref().map(|accounts| accounts.known)) {
            return accounts;
        }
        self.accounts.confirm(&key.namespace, uid);
        self.facts(key, uid)
    }

    fn facts(&self, key: &ObjectKey, uid: &str) -> Option<AccountsFacts> {
        self.accounts.snapshot(&key.namespace, uid).as_ref().map(AccountsFacts::from)
    }

    /// What the caller table says of those whom a budget covers; `before`: what it said when it was last read.
    fn table(
        &self,
        key: &ObjectKey,
        object: &TokenBudget,
        pools: &[PoolFacts],
        accounts: &AccountsFacts,
        before: Option<Table>,
        now: Timestamp,
    ) -> Option<Table> {
        let checked = check::check(&object.spec).ok();
        let in_force = in_force::of(object, checked.as_ref(), pools, Some(accounts), now)?;
        let (covers, from) = (in_force.covers, accounts.period.0);
        if let Some(before) = before.filter(|before| before.covers == covers && before.from == from) {
            let left = TABLE_READ_AGAIN.saturating_sub(before.read.elapsed());
            if !left.is_zero() {
                (self.look_again)(key, left);
                return Some(before);
            }
        }
        let to = in_force.period.end.map_or(i64::MAX, Timestamp::as_second);
        let read = |history: &History| (history.by_caller(&covers, from, to), history.burn(&covers, now, from));
        let (by_caller, burn) = self.accounts.history(&key.namespace, read)?;
        Some(Table { read: Instant::now(), covers, from, by_caller, burn: burn.into() })
    }

    /// The backends that have no price.
    fn unpriced(&self, namespace: &str) -> BTreeSet<String> {
        let backends = of_namespace(&self.backends, namespace);
        backends.iter().filter(|backend| !is_priced(backend)).map(|backend| backend.name_any()).collect()
    }

    /// The budgets of which the accounts say something else than when they were last looked at.
    pub fn behind(&self) -> Vec<ObjectKey> {
        let records = self.lock_records();
        let behind = records.iter().filter(|(key, record)| self.facts(key, &record.uid) != record.accounts);
        behind.map(|(key, _)| key.clone()).collect()
    }

    /// What is remembered of the budget; nothing of an earlier one of the same name.
    fn take_record(&self, key: &ObjectKey, object: &TokenBudget) -> Record {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let figures = object.status.as_ref().map(figures).unwrap_or_default();
        let known = self.lock_records().remove(key).filter(|record| record.uid == uid);
        let Some(mut record) = known else { return Record { uid, figures, ..Record::default() } };
        if record.figures != figures {
            (record.figures, record.figures_changed) = (figures, Some(Timestamp::now()));
        }
        record
    }

    fn lock_records(&self) -> MutexGuard<'_, HashMap<ObjectKey, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The figures of a status that change with every call, without those that follow from them.
fn figures(status: &TokenBudgetStatus) -> TokenBudgetStatus {
    TokenBudgetStatus {
        used_tokens: status.used_tokens,
        estimated_tokens: status.estimated_tokens,
        used_cost: status.used_cost.clone(),
        burn_rate_per_hour: status.burn_rate_per_hour,
        burn_cost_per_hour: status.burn_cost_per_hour.clone(),
        projected_exhaustion: status.projected_exhaustion.clone(),
        consumers: status.consumers.clone(),
        would_have_refused: status.would_have_refused,
        history: status.history.clone(),
        ..TokenBudgetStatus::default()
    }
}

/// Whether it is known what calls of a backend cost. Pods of one's own cost nothing by the call unless they have a price.
pub fn is_priced(backend: &InferenceBackend) -> bool {
    let spec = &backend.spec;
    spec.price.is_some() || spec.vllm.is_some() || spec.ollama.is_some()
}

/// The AgentPools of a namespace, as budgets look at them.
pub fn pools_of(pools: &Cache<Stored<AgentPool>>, namespace: &str) -> Vec<PoolFacts> {
    of_namespace(pools, namespace).iter().map(|pool| PoolFacts::of(pool)).collect()
}

/// A budget as it is stored, or what stands for it where this version cannot read that.
pub fn readable(stored: &Stored<TokenBudget>) -> Arc<TokenBudget> {
    let stand_in = |_: &String| Arc::new(unreadable::stand_in(&stored.meta, &stored.status));
    stored.object.as_ref().map_or_else(stand_in, Arc::clone)
}

#[cfg(test)]
#[path = "token_budget_tests.rs"]
mod tests;
