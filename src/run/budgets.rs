//! TokenBudgets under control: what they are observed by, whom each change wakes, and what the accounts are told of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use quartermaster_core::api::conditions::types;
use quartermaster_core::api::token_budget_status::Phase;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget};
use quartermaster_core::decide::budget::concerned::Concerned;
use quartermaster_core::decide::budget::observation::{PoolFacts, RouteFacts};
use quartermaster_core::decide::budget::status::FIGURES;
use quartermaster_core::decide::gateway::exchange::usage::{Counts, Series};
use quartermaster_core::decide::gateway::exchange::usage_totals::CallerSeries;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::shared::{Lacks, Shared};
use super::watches::{FirstLists, Watches};
use crate::controllers::agent_pool::Pools;
use crate::controllers::rationing::Rationing;
use crate::controllers::token_budget::{Budgets, TOKEN_BUDGET, is_priced, readable};
use crate::exchange::accounts::Accounts;
use crate::operate::act::{Actor, ChildCaches};
use crate::operate::budget_figures::BudgetFigures;
use crate::operate::cache::{Cache, Change};
use crate::operate::calls::Calls;
use crate::operate::driver::{Driver, Observations};
use crate::operate::key::ObjectKey;
use crate::operate::namespaces::{NamespaceControl as _, NamespaceDriver};
use crate::operate::object::Stored;
use crate::operate::queue::Queue;
use crate::operate::watch::Selection;

/// What other kinds know of a namespace.
pub struct Others {
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// The AgentPools.
    pub pools: Arc<Cache<Stored<AgentPool>>>,
    /// The ModelRoutes.
    pub routes: Arc<Cache<Stored<ModelRoute>>>,
    /// The InferenceBackends.
    pub backends: Arc<Cache<Stored<InferenceBackend>>>,
    /// What may be spent, and what was used.
    pub accounts: Arc<Accounts>,
}

/// The drivers of budgets, and of what the accounts are told of them.
#[derive(Clone)]
pub struct Driven {
    /// The budgets.
    pub budgets: Arc<Driver<Budgets>>,
    /// What the accounts are told.
    pub rationing: Arc<NamespaceDriver<Rationing>>,
    by_uid: Arc<ByUid>,
}

/// Who finds something about itself in the status of budgets.
pub struct Obedient {
    /// The AgentPools.
    pub pools: Arc<Driver<Pools>>,
    /// The queue of the ModelRoutes.
    pub routes: Arc<Queue>,
    /// The queue of the InferenceBackends.
    pub backends: Arc<Queue>,
}

impl Obedient {
    /// Wakes those of a namespace whom a change concerns.
    fn wake(&self, namespace: &str, concerned: Concerned) {
        let Concerned { pools, routes, backends } = concerned;
        for pool in pools.into_iter().map(|name| ObjectKey::new(namespace, name)) {
            // What a pool that stops leaves of its queues is there for the others.
            let beside = self.pools.control.register.beside(&pool);
            beside.into_iter().chain([pool]).for_each(|pool| self.pools.queue.add(pool));
        }
        for (queue, names) in [(&self.routes, routes), (&self.backends, backends)] {
            names.into_iter().for_each(|name| queue.add(ObjectKey::new(namespace, name)));
        }
    }
}

/// Budgets by uid, which is what the accounts know them by.
#[derive(Default)]
struct ByUid(Mutex<HashMap<String, ObjectKey>>);

impl ByUid {
    fn get(&self, uid: &str) -> Option<ObjectKey> {
        self.lock().get(uid).cloned()
    }

    fn take(&self, key: &ObjectKey, change: &Change<Stored<TokenBudget>>) {
        let uid = |stored: &Option<Arc<Stored<TokenBudget>>>| stored.as_ref().and_then(|stored| stored.meta.uid.clone());
        let (before, after) = (uid(&change.before), uid(&change.after));
        if before == after {
            return;
        }
        let mut known = self.lock();
        if let Some(before) = before {
            known.remove(&before);
        }
        if let Some(after) = after {
            known.insert(after, key.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, ObjectKey>> {
        // A map is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The drivers of TokenBudgets, and the tasks that they live by.
pub fn driver(shared: &Shared, others: Others, observations: Option<Observations>, tasks: &mut JoinSet<()>) -> Driven {
    let Others { budgets, pools, routes, backends, accounts } = others;
    let rationing = Arc::new(NamespaceDriver {
        control: Arc::new(Rationing {
            budgets: budgets.clone(),
            pools: pools.clone(),
            accounts: accounts.clone(),
            metrics: shared.metrics.clone(),
            changed: Mutex::default(),
            told: Mutex::default(),
        }),
        queue: Arc::new(Queue::default()),
        // It makes no object.
        actor: Actor {
            calls: Calls::new(shared.clients.calls.clone(), shared.leadership.clone()),
            caches: ChildCaches::default(),
            patched: &[],
            manager: Rationing::MANAGER,
            metrics: shared.metrics.clone(),
        },
        metrics: shared.metrics.clone(),
        memories: Mutex::default(),
    });
    shared.metrics.show_queue(Rationing::NAME, rationing.queue.clone());
    let ration = {
        let rationing = rationing.clone();
        move |budget: &ObjectKey| look_at(&rationing, budget)
    };
    // The queue of work comes with the driver, which needs what wakes it.
    let queue: Arc<OnceLock<Arc<Queue>>> = Arc::default();
    let look_again = {
        let queue = queue.clone();
        move |budget: &ObjectKey, after: Duration| {
            if let Some(queue) = queue.get() {
                queue.add_after(budget.clone(), after);
            }
        }
    };
    let lacks = Lacks::default();
    let control = Budgets {
        pools,
        routes,
        backends,
        accounts: accounts.clone(),
        ration: Box::new(ration),
        look_again: Box::new(look_again),
        records: Mutex::default(),
        outdated_schema: lacks.subscribe(),
    };
    let driver = shared.driver(control, budgets, ChildCaches::default(), lacks, observations, tasks);
    let _first = queue.set(driver.queue.clone());
    let driven = Driven { budgets: driver, rationing, by_uid: Arc::default() };
    accounts.on_change({
        let (queue, rationing, by_uid) = (driven.budgets.queue.clone(), driven.rationing.clone(), driven.by_uid.clone());
        move |_: &str, uid: &str| {
            if let Some(budget) = by_uid.get(uid) {
                look_at(&rationing, &budget);
                queue.add(budget);
            }
        }
    });
    show(shared, &driven, accounts);
    driven
}

/// Has what a budget gives looked at.
fn look_at(rationing: &NamespaceDriver<Rationing>, budget: &ObjectKey) {
    rationing.control.budget_changed(budget);
    rationing.wake(&budget.namespace);
}

/// Starts the watch of TokenBudgets. `wake_gateway`: the gateway of a namespace has a plan that names whom budgets cover.
pub fn watch(watches: &mut Watches<'_>, driven: &Driven, obedient: Obedient, wake_gateway: impl Fn(&str) + Clone + Send + 'static) {
    let Driven { budgets, rationing, by_uid } = driven.clone();
    let obedient = Arc::new(obedient);
    let objects = budgets.objects.clone();
    let tell = move |key: &ObjectKey, change: &Change<Stored<TokenBudget>>| {
        by_uid.take(key, change);
        // A status that was just written is in force from now on.
        look_at(&rationing, key);
        budgets.queue.add(key.clone());
        let [before, after] = [&change.before, &change.after].map(|stored| stored.as_ref().map(|stored| readable(stored)));
        obedient.wake(&key.namespace, Concerned::by(before.as_deref(), after.as_deref()));
        if planned(&change.before) != planned(&change.after) {
            wake_gateway(&key.namespace);
        }
    };
    watches.whole(TOKEN_BUDGET, Selection::default(), &objects, |object| Some(Stored::of(object)), tell);
}

/// What of a budget is part of a plan: its spec, whether it has come into force, and that it is not being deleted.
fn planned(stored: &Option<Arc<Stored<TokenBudget>>>) -> Option<(&str, Option<i64>, bool)> {
    let Stored { meta, status, .. } = &**stored.as_ref()?;
    let is_pending = status.get("phase").and_then(Value::as_str) == Some("Pending");
    meta.deletion_timestamp.is_none().then(|| (meta.uid.as_deref().unwrap_or_default(), meta.generation, is_pending))
}

/// Wakes the budgets of a namespace where a pool is another one to them.
pub fn wake_by_pool(driven: &Driven) -> impl Fn(&ObjectKey, &Change<Stored<AgentPool>>) + Clone + Send + 'static {
    let driven = driven.clone();
    move |key: &ObjectKey, change: &Change<Stored<AgentPool>>| {
        if differ(change, PoolFacts::of) {
            driven.rationing.control.pools_changed(&key.namespace);
            driven.rationing.wake(&key.namespace);
            driven.wake_budgets(&key.namespace);
        }
    }
}

/// Wakes the budgets of a namespace where a route leads elsewhere.
pub fn wake_by_route(driven: &Driven) -> impl Fn(&ObjectKey, &Change<Stored<ModelRoute>>) + Clone + Send + 'static {
    let driven = driven.clone();
    move |key: &ObjectKey, change: &Change<Stored<ModelRoute>>| {
        if differ(change, RouteFacts::of) {
            driven.wake_budgets(&key.namespace);
        }
    }
}

/// Wakes the budgets of a namespace where a backend gets its price, or loses it.
pub fn wake_by_backend(driven: &Driven) -> impl Fn(&ObjectKey, &Change<Stored<InferenceBackend>>) + Clone + Send + 'static {
    let driven = driven.clone();
    move |key: &ObjectKey, change: &Change<Stored<InferenceBackend>>| {
        if differ(change, is_priced) {
            driven.wake_budgets(&key.namespace);
        }
    }
}

impl Driven {
    fn wake_budgets(&self, namespace: &str) {
        self.budgets.objects.owned_by(namespace).into_iter().for_each(|(budget, _)| self.budgets.queue.add(budget));
    }
}

/// Whether what is of interest in an object has changed.
fn differ<T, Facts: PartialEq>(change: &Change<Stored<T>>, facts: impl Fn(&T) -> Facts) -> bool {
    let of =
        |stored: &Option<Arc<Stored<T>>>| -> Option<Facts> { stored.as_ref()?.object.as_ref().ok().map(|object| facts(object)) };
    of(&change.before) != of(&change.after)
}

/// Lets the accounts be told of budgets from when their first lists are there and this process leads, until the work ends.
///
/// # Errors
///
/// A worker ended in a panic.
pub fn drive(
    shared: &Shared,
    driven: Driven,
    first_lists: FirstLists,
) -> impl Future<Output = Result<(), JoinError>> + Send + 'static {
    let (leads, working) = (shared.leadership.subscribe(), shared.working.clone());
    let watchdog = shared.health.watch(Rationing::NAME);
    async move {
        tokio::select! {
            () = working.cancelled() => return Ok(()),
            late = first_lists.complete() => drop(late),
        }
        let looking = look(driven.budgets, leads.clone());
        tokio::select! {
            ended = driven.rationing.run(leads, watchdog, working) => ended,
            never = looking => match never {},
        }
    }
}

/// From time to time has those budgets looked at of which less has changed than what wakes them at once. It costs no call.
async fn look(budgets: Arc<Driver<Budgets>>, mut leads: watch::Receiver<bool>) -> std::convert::Infallible {
    let _ = leads.wait_for(|leads| *leads).await;
    loop {
        tokio::time::sleep(FIGURES).await;
        budgets.control.behind().into_iter().for_each(|budget| budgets.queue.add(budget));
    }
}

/// Shows the budgets among the metrics, while this process leads: who does not lead knows nothing of what was used.
fn show(shared: &Shared, driven: &Driven, accounts: Arc<Accounts>) {
    let leadership = shared.leadership.clone();
    let (budgets, rationing): (Weak<Driver<Budgets>>, Weak<NamespaceDriver<Rationing>>) =
        (Arc::downgrade(&driven.budgets), Arc::downgrade(&driven.rationing));
    shared.metrics.show_budgets(move |figures, callers| {
        let Some((budgets, rationing)) = budgets.upgrade().zip(rationing.upgrade()).filter(|_| leadership.leads()) else { return };
        for key in budgets.objects.keys() {
            let Some(stored) = budgets.objects.get(&key) else { continue };
            tell_of_status(figures, &key, &readable(&stored));
        }
        for (key, uid, covers) in rationing.control.in_force() {
            if let Some(snapshot) = accounts.snapshot(&key.namespace, &uid) {
                snapshot.units.iter().for_each(|(unit, account)| figures.limit(&key, *unit, account.limit, account.used));
                figures.exceeded(&key, snapshot.refused);
            }
            for (caller, routes) in &covers {
                if let Some(used) = used_by(callers, &key.namespace, caller, routes.as_ref()) {
                    figures.tokens_used(&key, caller, used.input, used.output);
                }
            }
        }
    });
}

fn tell_of_status(figures: &BudgetFigures, key: &ObjectKey, budget: &TokenBudget) {
    let status = budget.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let mut of_usage = conditions.filter(|condition| condition.type_ == types::USAGE_KNOWN);
    figures.usage_known(key, of_usage.any(|condition| condition.status == "True"));
    figures.exhausted(key, status.and_then(|status| status.phase) == Some(Phase::Exhausted));
    if let Some(at) = status.and_then(|status| status.projected_exhaustion.as_ref()) {
        figures.projected_exhaustion(key, at.0);
    }
}

/// What a caller used of these routes, where it used anything; none: of all routes.
fn used_by(
    totals: &BTreeMap<CallerSeries, Counts>,
    namespace: &str,
    caller: &str,
    routes: Option<&BTreeSet<String>>,
) -> Option<Counts> {
    let first = Series { caller: caller.to_owned(), route: String::new(), backend: String::new() };
    let first = CallerSeries { namespace: namespace.to_owned(), series: first };
    let own = totals.range(first..).take_while(|(known, _)| known.namespace == namespace && known.series.caller == caller);
    let mut counted = own.filter(|(known, _)| routes.is_none_or(|routes| routes.contains(&known.series.route))).peekable();
    counted.peek()?;
    let mut used = Counts::default();
    counted.for_each(|(_, counts)| used.add(counts));
    Some(used)
}

#[cfg(test)]
#[path = "budgets_tests.rs"]
mod tests;
