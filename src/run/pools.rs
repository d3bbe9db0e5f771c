//! AgentPools under control: what they are observed by, and whom each change wakes.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use quartermaster_core::api::{AgentPool, TokenBudget};
use quartermaster_core::decide::pool::children::POOL_LABEL;
use tokio::task::JoinSet;

use super::shared::{Lacks, Shared};
use super::watches::{Watches, wake_owner};
use crate::controllers::agent_pool::Pools;
use crate::controllers::cut;
use crate::controllers::pool_queues::Register;
use crate::controllers::referrers::Referrers;
use crate::controllers::target::Targets;
use crate::operate::cache::{Cache, Change};
use crate::operate::children::{ChildFacts, DEPLOYMENT, SECRET};
use crate::operate::control::Control as _;
use crate::operate::driver::{Driver, Observations};
use crate::operate::key::ObjectKey;
use crate::operate::object::Stored;
use crate::operate::poller::{Poller, Report, WakePool};
use crate::operate::queue::Queue;
use crate::operate::watch::Selection;
use crate::sources::secrets::Secrets;

/// The driver of AgentPools, and the tasks that it lives by.
pub fn driver(
    shared: &Shared,
    secrets: &Arc<Cache<ChildFacts>>,
    budgets: &Arc<Cache<Stored<TokenBudget>>>,
    observations: Option<Observations>,
    tasks: &mut JoinSet<()>,
) -> Arc<Driver<Pools>> {
    let mut caches = Shared::caches::<Pools>();
    caches.insert(SECRET.kind, (SECRET, secrets.clone()));
    let cache_of = |kind: &str| caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    let lacks = Lacks::default();
    // The queue of work comes with the driver, which needs what wakes it.
    let queue: Arc<OnceLock<Arc<Queue>>> = Arc::default();
    let wake: WakePool = {
        let queue = queue.clone();
        Arc::new(move |pool: &ObjectKey| {
            if let Some(queue) = queue.get() {
                queue.add(pool.clone());
            }
        })
    };
    let report: Report = {
        let metrics = shared.metrics.clone();
        Arc::new(move |report| metrics.polled(report.system.name(), report.failed, report.duration))
    };
    let pools = Pools {
        deployments: cache_of("Deployment"),
        agents: Arc::default(),
        autoscalers: Arc::default(),
        targets: Targets::new(shared.clients.watches.clone(), wake.clone()),
        register: Register::default(),
        secret_metadata: secrets.clone(),
        secrets: Secrets::new(shared.clients.calls.clone()),
        referrers: Referrers::default(),
        budgets: budgets.clone(),
        poller: Poller::new(shared.connector.clone(), wake, report),
        records: Mutex::default(),
        outdated_schema: lacks.subscribe(),
    };
    let driver = shared.driver(pools, Arc::default(), caches, lacks, observations, tasks);
    // Nothing is polled and no target is followed before the first pass.
    let _first = queue.set(driver.queue.clone());
    show(shared, &driver);
    driver
}

/// Starts the watches of what AgentPools are observed by. `tell`: whom a change of a pool, or of its pods, concerns beside, by its
/// namespace. `tell_of_pool`: whom a change of a pool itself concerns.
pub fn watch(
    watches: &mut Watches<'_>,
    driver: &Arc<Driver<Pools>>,
    tell: impl Fn(&str) + Clone + Send + 'static,
    tell_of_pool: impl Fn(&ObjectKey, &Change<Stored<AgentPool>>) + Clone + Send + 'static,
) {
    let ours = || Selection { labels: Some(POOL_LABEL.to_owned()), fields: None };
    let pools = &driver.control;
    watches.whole(Pools::KIND, Selection::default(), &driver.objects, |object| Some(Stored::of(object)), {
        let (driver, tell) = (driver.clone(), tell.clone());
        move |key: &ObjectKey, change: &Change<Stored<AgentPool>>| {
            tell(&key.namespace);
            tell_of_pool(key, change);
            let pool = change.after.as_ref().and_then(|stored| stored.object.as_ref().ok());
            let concerned = driver.control.register.set(key, pool.map(AsRef::as_ref));
            driver.queue.add(key.clone());
            concerned.into_iter().for_each(|other| driver.queue.add(other));
        }
    });
    watches.whole(DEPLOYMENT, ours(), &pools.deployments, cut::deployment, wake_owner(driver));
    watches.namespaced::<Pod, _>("pods", ours(), &pools.agents, cut::agent, {
        let driver = driver.clone();
        move |key, change| {
            for agent in [&change.before, &change.after].into_iter().flatten() {
                if let Some((_, pool)) = agent.pool.split_once('/') {
                    driver.queue.add(ObjectKey::new(key.namespace.clone(), pool));
                }
            }
        }
    });
    watches.namespaced::<HorizontalPodAutoscaler, _>(
        "horizontalpodautoscalers",
        Selection::default(),
        &pools.autoscalers,
        cut::autoscaler,
        {
            let driver = driver.clone();
            move |_, change| {
                for autoscaler in [&change.before, &change.after].into_iter().flatten() {
                    let scaled = driver.control.register.scaling(&autoscaler.target);
                    scaled.into_iter().for_each(|pool| driver.queue.add(pool));
                }
            }
        },
    );
    let cache_of = |kind: &str| driver.actor.caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    watches.metadata::<ServiceAccount>("serviceaccounts", ours(), &cache_of("ServiceAccount"), wake_owner(driver));
    watches.metadata::<PodDisruptionBudget>("poddisruptionbudgets", ours(), &cache_of("PodDisruptionBudget"), wake_owner(driver));
}

/// Wakes whom a change of a Secret concerns: its owner, and the pools that refer to it.
pub fn wake_by_secret(driver: &Arc<Driver<Pools>>) -> impl Fn(&ObjectKey, &Change<ChildFacts>) + Clone + Send + 'static {
    let (driver, wake_owner) = (driver.clone(), wake_owner(driver));
    move |key: &ObjectKey, change: &Change<ChildFacts>| {
        wake_owner(key, change);
        driver.control.referrers.of(key).into_iter().for_each(|pool| driver.queue.add(pool));
    }
}

/// Shows the pools among the metrics.
fn show(shared: &Shared, driver: &Arc<Driver<Pools>>) {
    let driver: Weak<Driver<Pools>> = Arc::downgrade(driver);
    shared.metrics.show_pools(move |figures| {
        let Some(driver) = driver.upgrade() else { return };
        for key in driver.objects.keys() {
            let Some(stored) = driver.objects.get(&key) else { continue };
            let Ok(pool) = &stored.object else { continue };
            let status = pool.status.clone().unwrap_or_default();
            figures.replicas(&key, "wanted", driver.control.wanted(&key));
            figures.replicas(&key, "desired", status.desired_replicas);
            figures.replicas(&key, "current", status.replicas);
            figures.replicas(&key, "ready", status.ready_replicas);
        }
        for (key, facts) in driver.control.poller.known() {
            let reading = facts.reading.filter(|_| facts.failure.is_none());
            figures.oldest(&key, &facts.name, reading.as_ref().and_then(|reading| reading.oldest));
            figures.tasks(&key, &facts.name, "waiting", reading.as_ref().map(|reading| reading.waiting));
            figures.tasks(&key, &facts.name, "in_flight", reading.and_then(|reading| reading.in_flight));
        }
    });
}
