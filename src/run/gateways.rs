//! ModelRoutes and the gateways of their namespaces under control: what they are observed by, and whom each change wakes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget};
use quartermaster_core::decide::gateway::children::{GATEWAY_LABEL, NAME};
use quartermaster_core::decide::gateway::exchange::usage_totals::CallerSeries;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::accounts;
use super::backends::OfGateways;
use super::exchange::{self, Exchange};
use super::shared::{Lacks, Shared};
use super::watches::{FirstLists, Watches};
use crate::controllers::cut::{self, CachedAgent, CachedGatewayPod, CachedPod};
use crate::controllers::gateway::Gateways;
use crate::controllers::gateway_certificates::Certificates;
use crate::controllers::model_route::{MODEL_ROUTE, Routes, names};
use crate::controllers::referrers::Referrers;
use crate::exchange::accounts::{Accounts, Beginning};
use crate::exchange::client::Fleet;
use crate::operate::act::{Actor, ChildCaches};
use crate::operate::cache::{Cache, Change};
use crate::operate::calls::Calls;
use crate::operate::children::{ChildFacts, DEPLOYMENT, SECRET};
use crate::operate::driver::{Driver, Observations};
use crate::operate::key::ObjectKey;
use crate::operate::ledger::Store;
use crate::operate::namespaces::{NamespaceControl as _, NamespaceDriver};
use crate::operate::object::Stored;
use crate::operate::queue::Queue;
use crate::operate::watch::Selection;
use crate::sources::secrets::Secrets;

/// What other kinds know of a namespace.
pub struct Others {
    /// The metadata of Secrets.
    pub secrets: Arc<Cache<ChildFacts>>,
    /// The InferenceBackends.
    pub backends: Arc<Cache<Stored<InferenceBackend>>>,
    /// The queue of those that are to be looked at.
    pub backend_queue: Arc<Queue>,
    /// Their pods.
    pub backend_pods: Arc<Cache<CachedPod>>,
    /// The AgentPools.
    pub pools: Arc<Cache<Stored<AgentPool>>>,
    /// Their pods.
    pub agents: Arc<Cache<CachedAgent>>,
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// What may be spent, and what was used.
    pub accounts: Arc<Accounts>,
    /// What gateways tell of backends.
    pub told: OfGateways,
}

/// The drivers of routes and gateways, and the exchange.
pub struct Driven {
    /// The routes.
    pub routes: Arc<Driver<Routes>>,
    /// The gateways.
    pub gateways: Arc<NamespaceDriver<Gateways>>,
    budgets: Arc<Cache<Stored<TokenBudget>>>,
    exchange: Exchange,
}

/// The drivers of ModelRoutes and of gateways, and the tasks that they live by.
pub fn driver(shared: &Shared, others: Others, observations: Option<Observations>, tasks: &mut JoinSet<()>) -> Driven {
    let mut caches: ChildCaches = Gateways::CHILDREN.iter().map(|kind| (kind.kind, (*kind, Arc::new(Cache::default())))).collect();
    caches.insert(SECRET.kind, (SECRET, others.secrets.clone()));
    let lacks = Lacks::default();
    let routes: Arc<Cache<Stored<ModelRoute>>> = Arc::default();
    let route_queue: Arc<OnceLock<Arc<Queue>>> = Arc::default();
    let fleet: watch::Sender<Option<Arc<Fleet>>> = watch::Sender::default();
    let OfGateways { pods, replicas } = others.told;
    let wake_backends = {
        let (backends, queue) = (others.backends.clone(), others.backend_queue);
        move |namespace: &str| backends.owned_by(namespace).into_iter().for_each(|(backend, _)| queue.add(backend))
    };
    let callers = others.pools.clone();
    let wake_routes = {
        let (routes, queue) = (routes.clone(), route_queue.clone());
        move |namespace: &str| {
            let Some(queue) = queue.get() else { return };
            routes.owned_by(namespace).into_iter().for_each(|(route, _)| queue.add(route));
        }
    };
    let desire = {
        let fleet = fleet.clone();
        move |namespace: &str, desired: Option<_>| {
            fleet.send_if_modified(|fleet| {
                let Some(fleet) = fleet else { return false };
                if fleet.desired.get(namespace) == desired.as_ref() {
                    return false;
                }
                let fleet = Arc::make_mut(fleet);
                match desired {
                    Some(desired) => fleet.desired.insert(namespace.to_owned(), desired),
                    None => fleet.desired.remove(namespace),
                };
                true
            });
        }
    };
    let cache_of = |kind: &str| caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    let gateways = Arc::new(Gateways {
        routes: routes.clone(),
        backends: others.backends.clone(),
        pools: others.pools,
        budgets: others.budgets.clone(),
        backend_pods: others.backend_pods,
        agents: others.agents,
        pods,
        deployments: cache_of(DEPLOYMENT.kind),
        settings: Arc::default(),
        client: shared.clients.calls.clone(),
        secret_metadata: others.secrets,
        secrets: Secrets::new(shared.clients.calls.clone()),
        referrers: Referrers::default(),
        certificates: Certificates::default(),
        replicas: replicas.clone(),
        desire: Box::new(desire),
        wake_routes: Box::new(wake_routes),
        configuration: Arc::new(shared.configuration.clone()),
        operator_namespace: shared.clients.namespace.clone(),
        decided: Mutex::default(),
    });
    let control = Routes {
        gateways: gateways.clone(),
        backends: others.backends,
        budgets: others.budgets.clone(),
        outdated_schema: lacks.subscribe(),
    };
    let of_routes = shared.driver(control, routes, ChildCaches::default(), lacks, observations, tasks);
    let _first = route_queue.set(of_routes.queue.clone());
    let calls = Calls::new(shared.clients.calls.clone(), shared.leadership.clone());
    let of_gateways = Arc::new(NamespaceDriver {
        control: gateways,
        queue: Arc::new(Queue::default()),
        actor: Actor { calls, caches, patched: &[], manager: Gateways::MANAGER, metrics: shared.metrics.clone() },
        metrics: shared.metrics.clone(),
        memories: Mutex::new(HashMap::new()),
    });
    shared.metrics.show_queue(Gateways::NAME, of_gateways.queue.clone());
    shared.metrics.show_callers({
        let accounts = others.accounts.clone();
        let exists = move |caller: &CallerSeries| {
            callers.get(&ObjectKey { namespace: caller.namespace.clone(), name: caller.series.caller.clone() }).is_some()
        };
        // The series of a pool end with it.
        move || accounts.totals().into_iter().filter(|(caller, _)| exists(caller)).collect()
    });
    let exchange = Exchange {
        client: shared.clients.calls.clone(),
        namespace: shared.clients.namespace.clone(),
        leadership: shared.leadership.clone(),
        gateways: of_gateways.clone(),
        fleet,
        any_route: watch::Sender::new(false),
        replicas,
        accounts: others.accounts,
        wake_backends: Arc::new(wake_backends),
    };
    Driven { routes: of_routes, gateways: of_gateways, budgets: others.budgets, exchange }
}

/// Starts the watch of the pods of gateways, by which backends are observed as well.
pub fn watch_pods(watches: &mut Watches<'_>, driven: &Driven) {
    let ours = Selection { labels: Some(GATEWAY_LABEL.to_owned()), fields: None };
    let (routes, gateways) = (&driven.routes, &driven.gateways);
    watches.namespaced::<Pod, _>("pods", ours, &gateways.control.pods, cut::gateway_pod, {
        let (routes, fleet, accounts) = (routes.clone(), driven.exchange.fleet.clone(), driven.exchange.accounts.clone());
        move |key: &ObjectKey, change: &Change<CachedGatewayPod>| {
            exchange::pod_changed(&fleet, key, change);
            if let Some(gone) = gone(change) {
                accounts.gone(&key.namespace, gone);
            }
            routes.objects.owned_by(&key.namespace).into_iter().for_each(|(route, _)| routes.queue.add(route));
        }
    });
}

/// Starts the watches of what else gateways are observed by. `tell`: whom a change of a route concerns beside.
pub fn watch(
    watches: &mut Watches<'_>,
    driven: &Driven,
    tell: impl Fn(&ObjectKey, &Change<Stored<ModelRoute>>) + Clone + Send + 'static,
) {
    let ours = || Selection { labels: Some(GATEWAY_LABEL.to_owned()), fields: None };
    let (routes, gateways) = (&driven.routes, &driven.gateways);
    watches.whole(MODEL_ROUTE, Selection::default(), &routes.objects, |object| Some(Stored::of(object)), {
        let (routes, gateways, any_route) = (routes.clone(), gateways.clone(), driven.exchange.any_route.clone());
        move |key: &ObjectKey, change: &Change<Stored<ModelRoute>>| {
            tell(key, change);
            // Several watches may tell at once: the last one to enter sees what all of them have left.
            any_route.send_if_modified(|any| {
                let now = !routes.objects.is_empty();
                std::mem::replace(any, now) != now
            });
            gateways.wake(&key.namespace);
            routes.queue.add(key.clone());
        }
    });
    let wake = {
        let (routes, gateways) = (routes.clone(), gateways.clone());
        move |key: &ObjectKey, _: &Change<ChildFacts>| {
            gateways.wake(&key.namespace);
            // What a route says of the gateway depends on its Deployment.
            routes.objects.owned_by(&key.namespace).into_iter().for_each(|(route, _)| routes.queue.add(route));
        }
    };
    watches.whole(DEPLOYMENT, ours(), &gateways.control.deployments, cut::deployment, wake.clone());
    let settings = Selection { labels: None, fields: Some(format!("metadata.name={NAME}")) };
    watches.namespaced::<ConfigMap, _>("configmaps", settings, &gateways.control.settings, cut::config_map, {
        let gateways = gateways.clone();
        move |key: &ObjectKey, _: &Change<_>| gateways.wake(&key.namespace)
    });
    let cache_of = |kind: &str| gateways.actor.caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    watches.metadata::<ConfigMap>("configmaps", ours(), &cache_of("ConfigMap"), wake.clone());
    watches.metadata::<NetworkPolicy>("networkpolicies", ours(), &cache_of("NetworkPolicy"), wake.clone());
    watches.metadata::<Service>("services", ours(), &cache_of("Service"), wake.clone());
    watches.metadata::<ServiceAccount>("serviceaccounts", ours(), &cache_of("ServiceAccount"), wake.clone());
    watches.metadata::<PodDisruptionBudget>("poddisruptionbudgets", ours(), &cache_of("PodDisruptionBudget"), wake);
}

/// Wakes whom a change of a Secret concerns: the gateway that it belongs to, and those whose plans need it.
pub fn wake_by_secret(driven: &Driven) -> impl Fn(&ObjectKey, &Change<ChildFacts>) + Clone + Send + 'static {
    let gateways = driven.gateways.clone();
    move |key: &ObjectKey, change: &Change<ChildFacts>| {
        let of_routes = |facts: &Arc<ChildFacts>| facts.owner.as_ref().is_some_and(|(kind, _)| kind == MODEL_ROUTE.kind);
        let of_callers = |facts: &Arc<ChildFacts>| !facts.annotations.is_empty();
        let concerns = |facts: &Arc<ChildFacts>| of_routes(facts) || of_callers(facts);
        let is_needed = !gateways.control.referrers.of(key).is_empty();
        if is_needed || change.before.as_ref().is_some_and(concerns) || change.after.as_ref().is_some_and(concerns) {
            gateways.wake(&key.namespace);
        }
    }
}

/// Wakes the gateway of a namespace, and those of its routes that name this backend.
pub fn wake_by_backend(driven: &Driven) -> impl Fn(&ObjectKey) + Clone + Send + 'static {
    let (routes, gateways) = (driven.routes.clone(), driven.gateways.clone());
    move |backend: &ObjectKey| {
        let in_namespace = routes.objects.owned_by(&backend.namespace);
        if in_namespace.is_empty() {
            return;
        }
        gateways.wake(&backend.namespace);
        for (route, stored) in in_namespace {
            if stored.object.as_ref().is_ok_and(|object| names(&object.spec).contains(backend.name.as_str())) {
                routes.queue.add(route);
            }
        }
    }
}

/// Wakes the gateway of a namespace whose callers, or the pods of backends, have changed.
pub fn wake_by_namespace(driven: &Driven) -> impl Fn(&str) + Clone + Send + 'static {
    let (routes, gateways) = (driven.routes.clone(), driven.gateways.clone());
    move |namespace: &str| {
        if !routes.objects.owned_by(namespace).is_empty() {
            gateways.wake(namespace);
        }
    }
}

/// The uid of a pod in which nothing runs any more.
fn gone(change: &Change<CachedGatewayPod>) -> Option<&str> {
    let before = change.before.as_ref().filter(|before| before.address.is_some())?;
    let runs = |after: &Arc<CachedGatewayPod>| after.uid == before.uid && after.address.is_some();
    (!change.after.as_ref().is_some_and(runs)).then_some(before.uid.as_str())
}

/// The pods of gateways in which something may run, by namespace, by uid.
fn running(pods: &Cache<CachedGatewayPod>) -> BTreeMap<String, BTreeSet<String>> {
    let mut running: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pod in pods.values().iter().filter(|pod| pod.address.is_some()) {
        running.entry(pod.namespace.clone()).or_default().insert(pod.uid.clone());
    }
    running
}

/// Lets accounts be kept from now on, when this process begins to lead.
fn take_over(accounts: &Accounts, term: u64, budgets: &Cache<Stored<TokenBudget>>, pods: &Cache<CachedGatewayPod>) {
    let with_budgets = budgets.keys().into_iter().map(|budget| budget.namespace).collect();
    let before = running(pods);
    accounts.begin(Beginning { term, with_budgets, pods: before.clone() });
    // Of those that have gone in between nobody has told.
    let now = running(pods);
    for (namespace, pods) in before {
        let of_namespace = now.get(&namespace);
        let gone = pods.iter().filter(|pod| !of_namespace.is_some_and(|running| running.contains(*pod)));
        gone.for_each(|pod| accounts.gone(&namespace, pod));
    }
}

/// Lets gateways be made and told from when this process leads, until the work ends. None is made before the authority of the exchange
/// is there, and there is none before the first route: an installation without routes writes nothing. They are told of accounts once
/// the ledger is read.
///
/// # Errors
///
/// A worker, or who keeps the ledger, ended in a panic.
pub fn drive(
    shared: &Shared,
    driven: Driven,
    first_lists: FirstLists,
) -> impl Future<Output = Result<(), JoinError>> + Send + 'static {
    let (mut leads, working) = (shared.leadership.subscribe(), shared.working.clone());
    let watchdog = shared.health.watch(Gateways::NAME);
    let Driven { routes: _, gateways, budgets, exchange } = driven;
    let calls = Calls::new(shared.clients.calls.clone(), shared.leadership.clone());
    let ledger = Store::new(calls, shared.clients.namespace.clone());
    async move {
        let begin = async {
            drop(first_lists.complete().await);
            let _ = leads.wait_for(|leads| *leads).await;
        };
        tokio::select! {
            () = working.cancelled() => return Ok(()),
            () = begin => {}
        }
        let (term, accounts) = (exchange.leadership.term(), exchange.accounts.clone());
        take_over(&accounts, term, &budgets, &gateways.control.pods);
        let (leaving, all_heard) = (CancellationToken::new(), CancellationToken::new());
        let mut keeping = tokio::spawn(accounts::keep(accounts, ledger, term, all_heard.clone()));
        let following = tokio::spawn(exchange.follow(leaving.clone()));
        let ended = tokio::select! {
            ended = gateways.run(leads, watchdog, working) => ended,
            () = exchange.keep() => Ok(()),
            // Before it is told that all is heard it ends only in a panic.
            panicked = &mut keeping => return panicked,
        };
        // The last word of every gateway is heard, then written down.
        leaving.cancel();
        let followed = following.await;
        all_heard.cancel();
        keeping.await.and(followed).and(ended)
    }
}
