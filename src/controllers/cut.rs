//! Cutting objects of the cluster to what decisions read of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Node, Pod, PodSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use quartermaster_core::api::quantity;
use quartermaster_core::decide::backend::children::ollama::{CONTAINER as OLLAMA_CONTAINER, PULL_CONTAINER};
use quartermaster_core::decide::backend::children::{BACKEND_LABEL, CONTAINER};
use quartermaster_core::decide::backend::facts::{
    DeploymentFacts, Failed, NodeFacts, PodFacts, Terminated, Unschedulable, Waiting,
};
use quartermaster_core::decide::pool::act::{CHEAP, DELETION_COST};
use quartermaster_core::decide::pool::children::POOL_LABEL;

use crate::operate::cache::Cached;
use crate::operate::children::ChildFacts;

/// Longest message of the end of a container or pod that is kept: the kubelet keeps no more than 2 KiB of a log.
const MESSAGE_MAX_LENGTH: usize = 4096;

/// A node, if it offers an extended resource.
pub fn node(node: Node) -> Option<CachedNode> {
    let allocatable = node.status.and_then(|status| status.allocatable).unwrap_or_default();
    let extended: BTreeMap<String, u64> = allocatable
        .into_iter()
        .filter(|(name, _)| name.contains('/') && !name.starts_with("kubernetes.io/"))
        .filter_map(|(name, amount)| Some((name, quantity::to_u64(&amount).ok()?)))
        .collect();
    let spec = node.spec.unwrap_or_default();
    (!extended.is_empty()).then(|| {
        CachedNode(NodeFacts {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            allocatable: extended,
            unschedulable: spec.unschedulable.unwrap_or_default(),
        })
    })
}

/// A node as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedNode(pub NodeFacts);

impl Cached for CachedNode {}

/// The addresses of an EndpointSlice, whether they are ready or not. One that is no IP address is no endpoint of the API server.
pub fn endpoints(slice: EndpointSlice) -> Option<CachedEndpoints> {
    let addresses = slice.endpoints.into_iter().flatten().flat_map(|endpoint| endpoint.addresses);
    let mut addresses: Vec<IpAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    Some(CachedEndpoints(addresses))
}

/// The addresses of an EndpointSlice, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedEndpoints(pub Vec<IpAddr>);

impl Cached for CachedEndpoints {}

/// A Deployment, as a child and with what is read of it. One that cannot be decoded counts as not there.
pub fn deployment(object: DynamicObject) -> Option<ChildFacts> {
    let mut facts = ChildFacts::of(&object.metadata, object.data.get("spec"));
    facts.deployment = Some(Arc::new(deployment_facts(object.try_parse().ok()?)));
    Some(facts)
}

/// What is read of a Deployment.
pub fn deployment_facts(deployment: Deployment) -> DeploymentFacts {
    let status = deployment.status.unwrap_or_default();
    let condition = |type_: &str, wanted: &str| {
        let conditions = status.conditions.iter().flatten();
        let mut conditions =
            conditions.filter(|condition| condition.type_.as_deref() == Some(type_) && condition.status.as_deref() == Some(wanted));
        conditions.next().cloned()
    };
    let rolling = deployment.spec.strategy.and_then(|strategy| strategy.rolling_update);
    let surge = rolling.and_then(|rolling| rolling.max_surge);
    DeploymentFacts {
        annotations: deployment.metadata.annotations.unwrap_or_default(),
        generation: deployment.metadata.generation.unwrap_or_default(),
        observed_generation: status.observed_generation.unwrap_or_default(),
        replicas: count(deployment.spec.replicas),
        in_place: surge.is_some_and(|surge| matches!(surge, k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(0))),
        status_replicas: count(status.replicas),
        updated_replicas: count(status.updated_replicas),
        ready_replicas: count(status.ready_replicas),
        available_replicas: count(status.available_replicas),
        replica_failure: condition("ReplicaFailure", "True").map(|condition| condition.message.unwrap_or_default()),
        deadline_exceeded: condition("Progressing", "False").is_some(),
    }
}

/// What is read of a StatefulSet, in the terms of a Deployment. It says nothing of pods that are refused.
pub fn stateful_set_facts(set: StatefulSet) -> DeploymentFacts {
    let status = set.status.unwrap_or_default();
    DeploymentFacts {
        generation: set.metadata.generation.unwrap_or_default(),
        observed_generation: status.observed_generation.unwrap_or_default(),
        // As many as there are of a Deployment that does not say.
        replicas: set.spec.replicas.map_or(1, |replicas| count(Some(replicas))),
        status_replicas: count(Some(status.replicas)),
        updated_replicas: count(status.updated_replicas),
        ready_replicas: count(status.ready_replicas),
        available_replicas: count(status.available_replicas),
        ..DeploymentFacts::default()
    }
}

fn count(number: Option<i32>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
}

/// A HorizontalPodAutoscaler.
pub fn autoscaler(autoscaler: HorizontalPodAutoscaler) -> Option<CachedAutoscaler> {
    let target = autoscaler.spec.scale_target_ref;
    let namespace = autoscaler.metadata.namespace.unwrap_or_default();
    Some(CachedAutoscaler { target: scale_target(&namespace, &target.kind, &target.name) })
}

/// What is scaled, as text by which caches find it.
pub fn scale_target(namespace: &str, kind: &str, name: &str) -> String {
    format!("{namespace}/{kind}/{name}")
}

/// A HorizontalPodAutoscaler as it is kept, found by what it scales.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAutoscaler {
    /// What it scales, as [`scale_target`] names it.
    pub target: String,
}

impl Cached for CachedAutoscaler {
    fn owner_uid(&self) -> Option<&str> {
        Some(&self.target)
    }
}

/// A pod of a backend.
pub fn pod(pod: Pod) -> Option<CachedPod> {
    let backend = pod.metadata.labels.as_ref()?.get(BACKEND_LABEL)?.clone();
    let backend = format!("{}/{backend}", pod.metadata.namespace.as_deref().unwrap_or_default());
    let address = address(&pod);
    let pulls = pulls(&pod);
    let mut facts = pod_facts(pod, |container| container.name == CONTAINER || container.name == OLLAMA_CONTAINER);
    if let Some(pull) = pulls {
        // The container that serves has yet to begin: it is the pull that can go wrong.
        (facts.waiting, facts.terminated) = container(&pull);
        facts.restarts = restarts(&pull);
    }
    Some(CachedPod { backend, address, facts })
}

/// The container that pulls the model, until it has done so.
fn pulls(pod: &Pod) -> Option<ContainerStatus> {
    let mut statuses = pod.status.as_ref()?.init_container_statuses.iter().flatten();
    let pull = statuses.find(|container| container.name == PULL_CONTAINER)?;
    let ended = pull.state.as_ref().and_then(|state| state.terminated.as_ref());
    ended.is_none_or(|ended| ended.exit_code != 0).then(|| pull.clone())
}

/// A pod of a pool that makes its own agents.
pub fn agent(pod: Pod) -> Option<CachedAgent> {
    let pool = pod.metadata.labels.as_ref()?.get(POOL_LABEL)?.clone();
    Some(agent_of(&pool, pod))
}

/// A pod as an agent of this pool, whoever has made it.
pub fn agent_of(pool: &str, pod: Pod) -> CachedAgent {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
    CachedAgent {
        pool: format!("{}/{pool}", pod.metadata.namespace.as_deref().unwrap_or_default()),
        running: phase == "Running",
        ended: matches!(phase, "Succeeded" | "Failed"),
        cheap: cost.is_some_and(|cost| cost == CHEAP),
        // Any container may be the one that does not come up.
        facts: pod_facts(pod, |container| container.state.as_ref().is_some_and(|state| state.waiting.is_some())),
    }
}

/// What is read of a pod. Of its containers, it is about the first that is `meant`.
fn pod_facts(pod: Pod, meant: impl Fn(&ContainerStatus) -> bool) -> PodFacts {
    let metadata = pod.metadata;
    let labels = metadata.labels.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let condition = |type_: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == type_).cloned();
    let unschedulable = condition("PodScheduled")
        .filter(|condition| condition.status == "False" && condition.reason.as_deref() == Some("Unschedulable"))
        .and_then(|condition| {
            Some(Unschedulable { since: condition.last_transition_time?.0, message: condition.message.unwrap_or_default() })
        });
    let false_since = |type_: &str| {
        let condition = condition(type_).filter(|condition| condition.status == "False");
        condition.and_then(|condition| condition.last_transition_time).map(|time| time.0)
    };
    let failed = (status.phase.as_deref() == Some("Failed")).then(|| Failed {
        reason: status.reason.clone().unwrap_or_default(),
        message: cut(status.message.as_deref().unwrap_or_default()),
    });
    let main = status.container_statuses.unwrap_or_default().into_iter().find(|container| meant(container));
    let (waiting, terminated) = main.as_ref().map(container).unwrap_or_default();
    PodFacts {
        name: metadata.name.unwrap_or_default(),
        template_hash: labels.get("pod-template-hash").cloned().unwrap_or_default(),
        created: metadata.creation_timestamp.map(|time| time.0),
        terminating: metadata.deletion_timestamp.is_some(),
        failed,
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        requests: pod.spec.as_ref().map(requests).unwrap_or_default(),
        unschedulable,
        preparing_since: false_since("PodReadyToStartContainers"),
        ready: condition("Ready").is_some_and(|condition| condition.status == "True"),
        unready_since: false_since("Ready"),
        // What is ready has started, whether that is said or not.
        started: main.as_ref().is_some_and(|container| container.started.unwrap_or(container.ready)),
        restarts: main.as_ref().map(restarts).unwrap_or_default(),
        waiting,
        terminated,
    }
}

fn restarts(container: &ContainerStatus) -> u32 {
    u32::try_from(container.restart_count).unwrap_or_default()
}

/// What all containers request of a node together.
fn requests(spec: &PodSpec) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for container in &spec.containers {
        let requests = container.resources.iter().flat_map(|resources| &resources.requests).flatten();
        for (name, amount) in requests.filter_map(|(name, quantity)| Some((name, quantity::to_u64(quantity).ok()?))) {
            let sum: &mut u64 = sums.entry(name.clone()).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
    sums
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_MAX_LENGTH).collect()
}

fn container(container: &ContainerStatus) -> (Option<Waiting>, Option<Terminated>) {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref()).map(|waiting| Waiting {
        reason: waiting.reason.clone().unwrap_or_default(),
        message: waiting.message.clone().unwrap_or_default(),
    });
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    let terminated = states.into_iter().flatten().find_map(|state| state.terminated.as_ref()).map(|terminated| Terminated {
        reason: terminated.reason.clone().unwrap_or_default(),
        message: cut(terminated.message.as_deref().unwrap_or_default()),
        exit_code: terminated.exit_code,
        started_at: terminated.started_at.as_ref().map(|time| time.0),
    });
    (waiting, terminated)
}

/// A pod as it is kept, found by its backend.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedPod {
    /// Namespace and name of the backend.
    pub backend: String,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// What is read of the pod.
    pub facts: PodFacts,
}

impl Cached for CachedPod {
    /// Pods belong to ReplicaSets; what matters here is the backend that their label names.
    fn owner_uid(&self) -> Option<&str> {
        Some(&self.backend)
    }
}

/// A pod of a gateway.
pub fn gateway_pod(pod: Pod) -> Option<CachedGatewayPod> {
    let namespace = pod.metadata.namespace.clone()?;
    let uid = pod.metadata.uid.clone()?;
    // Nobody runs in a pod that has failed or succeeded: it may stay for long, after an eviction say.
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let address = address(&pod).filter(|_| !matches!(phase, Some("Succeeded" | "Failed")));
    let facts = pod_facts(pod, |_| true);
    Some(CachedGatewayPod { namespace, uid, address, ready: facts.ready, terminating: facts.terminating })
}

/// A pod of a gateway as it is kept, found by its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedGatewayPod {
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Its address, once it has one, and as long as something can run there.
    pub address: Option<IpAddr>,
    /// It is ready.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
}

impl Cached for CachedGatewayPod {
    fn owner_uid(&self) -> Option<&str> {
        Some(&self.namespace)
    }
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// A ConfigMap, with what is in it.
pub fn config_map(map: ConfigMap) -> Option<CachedConfigMap> {
    Some(CachedConfigMap { data: map.data.unwrap_or_default() })
}

/// A ConfigMap as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedConfigMap {
    /// What is in it.
    pub data: BTreeMap<String, String>,
}

impl Cached for CachedConfigMap {}

/// A pod of a pool as it is kept, found by its pool.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAgent {
    /// Namespace and name of the pool.
    pub pool: String,
    /// Its phase is Running.
    pub running: bool,
    /// It has ended, well or not, and is no agent any more.
    pub ended: bool,
    /// Its deletion was made cheap.
    pub cheap: bool,
    /// What else is read of the pod.
    pub facts: PodFacts,
}

impl Cached for CachedAgent {
    fn owner_uid(&self) -> Option<&str> {
        Some(&self.pool)
    }
}

#[cfg(test)]
#[path = "cut_tests.rs"]
mod tests;
