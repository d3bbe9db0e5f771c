//! ModelRoutes and the gateways of their namespaces under control: what they are observed by, whom each change wakes, and the exchange
//! with the gateways' replicas.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use quartermaster_core::api::{AgentPool, InferenceBackend, ModelRoute, TokenBudget};
use quartermaster_core::decide::gateway::children::{GATEWAY_LABEL, NAME};
use quartermaster_core::decide::gateway::exchange::usage_totals::CallerSeries;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::accounts;
use super::authority::{self, AuthorityError};
use super::backends::OfGateways;
use super::shared::{Lacks, Shared};
use super::watches::{FirstLists, Watches};
use crate::controllers::cut::{self, CachedAgent, CachedGatewayPod, CachedPod};
use crate::controllers::gateway::Gateways;
use crate::controllers::gateway_certificates::Certificates;
use crate::controllers::model_route::{MODEL_ROUTE, Routes, names};
use crate::controllers::referrers::Referrers;
use crate::exchange::PORT;
use crate::exchange::accounts::{Accounts, Beginning};
use crate::exchange::certificates::{Authority, CertificateError, Certified, Identity};
use crate::exchange::client::{self, Fleet, GatewayPod, Operator, Traffic};
use crate::exchange::replicas::Replicas;
use crate::exchange::tls::client_configuration;
use crate::operate::act::{Actor, ChildCaches};
use crate::operate::cache::{Cache, Change};
use crate::operate::calls::Calls;
use crate::operate::children::{ChildFacts, DEPLOYMENT, SECRET};
use crate::operate::driver::{Driver, Observations};
use crate::operate::key::ObjectKey;
use crate::operate::leadership::Leadership;
use crate::operate::ledger::Store;
use crate::operate::namespaces::{NamespaceControl as _, NamespaceDriver};
use crate::operate::object::Stored;
use crate::operate::queue::Queue;
use crate::operate::watch::Selection;
use crate::sources::secrets::Secrets;

/// Time until the authority is asked for again that could not be had.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the authority's or the operator's own certificate is to be renewed.
const LOOK: Duration = Duration::from_secs(3600);

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
    /// Which gateways there are; none before the operator's own certificate is there.
    fleet: watch::Sender<Option<Arc<Fleet>>>,
    /// Whether any namespace has a route.
    any_route: watch::Sender<bool>,
    replicas: Arc<Replicas>,
    budgets: Arc<Cache<Stored<TokenBudget>>>,
    accounts: Arc<Accounts>,
    /// Wakes the backends of a namespace.
    wake_backends: Arc<dyn Fn(&str) + Send + Sync>,
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
    Driven {
        routes: of_routes,
        gateways: of_gateways,
        fleet,
        any_route: watch::Sender::new(false),
        replicas,
        budgets: others.budgets,
        accounts: others.accounts,
        wake_backends: Arc::new(wake_backends),
    }
}

/// Starts the watch of the pods of gateways, by which backends are observed as well.
pub fn watch_pods(watches: &mut Watches<'_>, driven: &Driven) {
    let ours = Selection { labels: Some(GATEWAY_LABEL.to_owned()), fields: None };
    let (routes, gateways) = (&driven.routes, &driven.gateways);
    watches.namespaced::<Pod, _>("pods", ours, &gateways.control.pods, cut::gateway_pod, {
        let (routes, fleet, accounts) = (routes.clone(), driven.fleet.clone(), driven.accounts.clone());
        move |key: &ObjectKey, change: &Change<CachedGatewayPod>| {
            follow(&fleet, key, change);
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
        let (routes, gateways, any_route) = (routes.clone(), gateways.clone(), driven.any_route.clone());
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

/// Takes a change of a gateway's pod into the fleet.
fn follow(fleet: &watch::Sender<Option<Arc<Fleet>>>, key: &ObjectKey, change: &Change<CachedGatewayPod>) {
    fleet.send_if_modified(|fleet| {
        let Some(fleet) = fleet else { return false };
        let fleet = Arc::make_mut(fleet);
        if let Some(before) = &change.before {
            fleet.pods.remove(&before.uid);
        }
        if let Some(after) = &change.after
            && let Some(address) = after.address
        {
            fleet.pods.insert(after.uid.clone(), pod(key, address));
        }
        true
    });
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

fn pod(key: &ObjectKey, address: std::net::IpAddr) -> GatewayPod {
    GatewayPod { namespace: key.namespace.clone(), name: key.name.clone(), address: SocketAddr::new(address, PORT) }
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
    let Driven { routes: _, gateways, fleet, any_route, replicas, budgets, accounts, wake_backends } = driven;
    let calls = Calls::new(shared.clients.calls.clone(), shared.leadership.clone());
    let ledger = Store::new(calls, shared.clients.namespace.clone());
    let exchange = Exchange {
        client: shared.clients.calls.clone(),
        namespace: shared.clients.namespace.clone(),
        leadership: shared.leadership.clone(),
        gateways: gateways.clone(),
        fleet,
        any_route,
        replicas,
        accounts: accounts.clone(),
        wake_backends,
    };
    async move {
        let begin = async {
            drop(first_lists.complete().await);
            let _ = leads.wait_for(|leads| *leads).await;
        };
        tokio::select! {
            () = working.cancelled() => return Ok(()),
            () = begin => {}
        }
        let term = exchange.leadership.term();
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

/// The exchange with all gateways.
struct Exchange {
    client: Client,
    namespace: String,
    leadership: Arc<Leadership>,
    gateways: Arc<NamespaceDriver<Gateways>>,
    fleet: watch::Sender<Option<Arc<Fleet>>>,
    any_route: watch::Sender<bool>,
    replicas: Arc<Replicas>,
    accounts: Arc<Accounts>,
    wake_backends: Arc<dyn Fn(&str) + Send + Sync>,
}

/// The operator's own certificate.
struct Own {
    certified: Certified,
    /// The certificate of the authority that signed it, by which gateways are believed.
    authority: String,
}

impl Own {
    fn issue(authority: &Authority, now: Timestamp) -> Result<Self, CertificateError> {
        let certified = authority.issue(&Identity::Operator, now)?;
        Ok(Self { certified, authority: authority.certified().certificate.clone() })
    }

    /// Whether it can go on being shown, and the same authority be believed.
    fn is_good(&self, authority: &Authority, now: Timestamp) -> bool {
        self.authority == authority.certified().certificate && !authority.must_issue(&self.certified, &Identity::Operator, now)
    }
}

/// The operator's own certificate cannot be had.
#[derive(Debug, thiserror::Error)]
enum BeginError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("failed to make the operator's own certificate: {0}")]
    Certificate(#[from] CertificateError),
}

impl Exchange {
    /// While there is a route: tries until it has the authority and the operator's own certificate, then looks from time to time
    /// whether they are to be renewed. Where it cannot have them, the routes say why. Never returns.
    async fn keep(&self) {
        let (mut any_route, mut own) = (self.any_route.subscribe(), None);
        loop {
            // Its sender is this one's own: it never closes.
            let _ = any_route.wait_for(|any| *any).await;
            let wait = match self.certify(&mut own).await {
                Ok(()) => LOOK,
                Err(error) => {
                    warn!(%error, "no gateway can be made or told; trying again");
                    if let BeginError::Authority(error) = &error {
                        self.gateways.control.certificates.lack(error.refusal());
                        self.wake_all();
                    }
                    ASK_AGAIN
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Wakes every gateway, and every route.
    fn wake_all(&self) {
        let namespaces: BTreeSet<String> = self.gateways.control.routes.keys().into_iter().map(|route| route.namespace).collect();
        for namespace in namespaces {
            self.gateways.wake(&namespace);
            (self.gateways.control.wake_routes)(&namespace);
        }
    }

    /// Reads or makes the authority. Where the operator's own certificate is due, makes it anew, and lets the fleet have it.
    async fn certify(&self, own: &mut Option<Own>) -> Result<(), BeginError> {
        let now = Timestamp::now();
        let authority = authority::keep(&self.client, &self.namespace, now).await?;
        if own.as_ref().is_some_and(|own| own.is_good(&authority, now)) {
            return Ok(());
        }
        let issued = Own::issue(&authority, now)?;
        let tls = client_configuration(&issued.certified, &issued.authority)?;
        *own = Some(issued);
        self.gateways.control.certificates.set(authority);
        let pods = &self.gateways.control.pods;
        self.fleet.send_modify(|fleet| {
            let cached = pods.keys().into_iter().filter_map(|key| Some((pods.get(&key)?, key)));
            let all = cached.filter_map(|(cached, key)| Some((cached.uid.clone(), pod(&key, cached.address?))));
            let desired = fleet.as_deref().map(|fleet| fleet.desired.clone()).unwrap_or_default();
            *fleet = Some(Arc::new(Fleet { tls, desired, pods: all.collect() }));
        });
        // The certificates of gateways are judged by this authority.
        self.wake_all();
        Ok(())
    }

    /// Tells the fleet, and hears it, until cancelled.
    fn follow(&self, cancelled: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let (leadership, control, replicas) = (self.leadership.clone(), self.gateways.control.clone(), self.replicas.clone());
        let (accounts, wake_backends) = (self.accounts.clone(), self.wake_backends.clone());
        let mut fleet = self.fleet.subscribe();
        async move {
            let first = tokio::select! {
                () = cancelled.cancelled() => return,
                first = fleet.wait_for(Option::is_some) => first.ok().and_then(|first| first.clone()),
            };
            let Some(first) = first else { return };
            let (passed_on, receiver) = watch::channel(first);
            let operator = Operator {
                term: leadership.term(),
                leads: Arc::new(move || leadership.leads()),
                fleet: receiver,
                replicas,
                accounts,
                wake: Arc::new(move |namespace| {
                    (control.wake_routes)(namespace);
                    // What calls meet is said of the backends' keys.
                    wake_backends(namespace);
                }),
                traffic: Arc::new(Traffic::default()),
            };
            let pass_on = async {
                while fleet.changed().await.is_ok() {
                    if let Some(now) = fleet.borrow_and_update().clone() {
                        passed_on.send_replace(now);
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = client::run(operator, cancelled) => {}
                () = pass_on => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn the_operators_own_certificate_is_made_anew_only_when_it_is_due_or_the_authority_has_another_one() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let days = |days: i64| now + SignedDuration::from_hours(24 * days);
        let authority = Authority::make(now).unwrap();
        let own = Own::issue(&authority, now).unwrap();
        assert!(own.is_good(&authority, now) && own.is_good(&authority, days(59)));
        assert!(!own.is_good(&authority, days(61)), "two thirds of its 90 days are over");
        assert!(!own.is_good(&authority.renewed(days(1)).unwrap(), days(1)), "gateways are believed by another certificate");
        assert!(!own.is_good(&Authority::make(now).unwrap(), now));
    }
}
