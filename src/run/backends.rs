//! InferenceBackends under control: what they are observed by, and whom each change wakes.

use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::Api;
use quartermaster_core::api::{InferenceBackend, TokenBudget};
use quartermaster_core::decide::backend::children::BACKEND_LABEL;
use quartermaster_core::decide::backend::facts::Settings;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::shared::{Lacks, Shared};
use super::watches::{Watches, wake_owner};
use crate::controllers::cut::{self, CachedGatewayPod};
use crate::controllers::inference_backend::Backends;
use crate::controllers::referrers::Referrers;
use crate::exchange::replicas::Replicas;
use crate::operate::cache::{Cache, Change};
use crate::operate::children::{ChildFacts, DEPLOYMENT, SECRET};
use crate::operate::control::Control as _;
use crate::operate::driver::{Driver, Observations};
use crate::operate::key::ObjectKey;
use crate::operate::object::Stored;
use crate::operate::queue::Queue;
use crate::operate::watch::Selection;
use crate::sources::secrets::Secrets;
use crate::sources::{BackendRef, engine_health, hub, provider_health};

/// What gateways tell of backends.
#[derive(Clone, Default)]
pub struct OfGateways {
    /// The pods of gateways.
    pub pods: Arc<Cache<CachedGatewayPod>>,
    /// What they report.
    pub replicas: Arc<Replicas>,
}

/// The driver of InferenceBackends, and the tasks that it lives by.
pub fn driver(
    shared: &Shared,
    secrets: &Arc<Cache<ChildFacts>>,
    budgets: &Arc<Cache<Stored<TokenBudget>>>,
    gateways: OfGateways,
    observations: Option<Observations>,
    tasks: &mut JoinSet<()>,
) -> Arc<Driver<Backends>> {
    let mut caches = Shared::caches::<Backends>();
    caches.insert(SECRET.kind, (SECRET, secrets.clone()));
    let cache_of = |kind: &str| caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    let lacks = Lacks::default();
    let (wake, woken) = mpsc::unbounded_channel();
    let configuration = &shared.configuration;
    let backends = Backends {
        nodes: Arc::default(),
        node_snapshot: Mutex::default(),
        deployments: cache_of("Deployment"),
        pods: Arc::default(),
        secret_metadata: secrets.clone(),
        secrets: Secrets::new(shared.clients.calls.clone()),
        referrers: Referrers::default(),
        hub: hub::Hub::new(shared.connector.clone(), wake.clone()),
        health: provider_health::Health::new(shared.connector.clone(), wake.clone()),
        engines: engine_health::Engines::new(shared.connector.clone(), wake),
        gateway_pods: gateways.pods,
        replicas: gateways.replicas,
        budgets: budgets.clone(),
        settings: Arc::new(Settings {
            accelerator_profiles: configuration.accelerator_profiles.clone(),
            vllm: configuration.vllm.clone(),
            ollama: configuration.ollama.clone(),
            network_policies: configuration.network_policies.clone(),
            operator_namespace: shared.clients.namespace.clone(),
        }),
        outdated_schema: lacks.subscribe(),
    };
    let driver = shared.driver(backends, Arc::default(), caches, lacks, observations, tasks);
    tasks.spawn(pass_on(woken, driver.queue.clone()));
    driver
}

/// Starts the watches of what InferenceBackends are observed by. `tell`: whom a change of a backend, or of its pods, concerns beside.
/// `tell_of_backend`: whom a change of a backend itself concerns.
pub fn watch(
    watches: &mut Watches<'_>,
    driver: &Arc<Driver<Backends>>,
    tell: impl Fn(&ObjectKey) + Clone + Send + 'static,
    tell_of_backend: impl Fn(&ObjectKey, &Change<Stored<InferenceBackend>>) + Clone + Send + 'static,
) {
    let ours = || Selection { labels: Some(BACKEND_LABEL.to_owned()), fields: None };
    let backends = &driver.control;
    let wake = {
        let (driver, tell) = (driver.clone(), tell.clone());
        move |key: &ObjectKey, change: &Change<Stored<InferenceBackend>>| {
            driver.queue.add(key.clone());
            tell(key);
            tell_of_backend(key, change);
        }
    };
    watches.whole(Backends::KIND, Selection::default(), &driver.objects, |object| Some(Stored::of(object)), wake);
    let api: Api<Node> = Api::all(watches.client.clone());
    watches.spawn("nodes", api, None, Selection::default(), &backends.nodes, cut::node, {
        let driver = driver.clone();
        move |_: &ObjectKey, _: &Change<cut::CachedNode>| {
            *driver.control.node_snapshot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            driver.wake_all();
        }
    });
    watches.whole(DEPLOYMENT, ours(), &backends.deployments, cut::deployment, wake_owner(driver));
    watches.namespaced::<Pod, _>("pods", ours(), &backends.pods, cut::pod, {
        let driver = driver.clone();
        move |key, change| {
            for pod in [&change.before, &change.after].into_iter().flatten() {
                if let Some((_, backend)) = pod.backend.split_once('/') {
                    let backend = ObjectKey::new(key.namespace.clone(), backend);
                    tell(&backend);
                    driver.queue.add(backend);
                }
            }
        }
    });
    let cache_of = |kind: &str| driver.actor.caches.get(kind).map(|(_, cache)| cache.clone()).unwrap_or_default();
    watches.metadata::<NetworkPolicy>("networkpolicies", ours(), &cache_of("NetworkPolicy"), wake_owner(driver));
    watches.metadata::<Service>("services", ours(), &cache_of("Service"), wake_owner(driver));
    watches.metadata::<ServiceAccount>("serviceaccounts", ours(), &cache_of("ServiceAccount"), wake_owner(driver));
    watches.metadata::<PodDisruptionBudget>("poddisruptionbudgets", ours(), &cache_of("PodDisruptionBudget"), wake_owner(driver));
}

/// Wakes whom a change of a Secret concerns: its owner, and the backends that refer to it.
pub fn wake_by_secret(driver: &Arc<Driver<Backends>>) -> impl Fn(&ObjectKey, &Change<ChildFacts>) + Clone + Send + 'static {
    let (driver, wake_owner) = (driver.clone(), wake_owner(driver));
    move |key: &ObjectKey, change: &Change<ChildFacts>| {
        wake_owner(key, change);
        driver.control.referrers.of(key).into_iter().for_each(|backend| driver.queue.add(backend));
    }
}

/// Passes on the wishes of the sources.
async fn pass_on(mut woken: mpsc::UnboundedReceiver<BackendRef>, queue: Arc<Queue>) {
    while let Some(backend) = woken.recv().await {
        queue.add(ObjectKey::new(backend.namespace.unwrap_or_default(), backend.name));
    }
}
