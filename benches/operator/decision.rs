//! One decision about a backend that has all it should have, in this process: what a reconcile without change costs when
//! nothing but the decision is counted.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DynamicObject, ListParams};
use quartermaster::controllers::cut;
use quartermaster::operate::children::DEPLOYMENT;
use quartermaster_core::decide::backend::children::{self, BACKEND_LABEL};
use quartermaster_core::decide::backend::{self, facts::Observation};
use quartermaster_core::decide::decision::Children;
use quartermaster_core::decide::merge_patch;

use crate::cluster::Cluster;
use crate::process;

/// How long decisions are repeated.
const LONG_ENOUGH: Duration = Duration::from_secs(3);
const BACKEND: &str = "model-0000";

/// What a decision cost.
pub struct Cost {
    /// Decisions that were made.
    pub decisions: u32,
    /// Time of the processor that they took together, in seconds.
    pub processor_seconds: f64,
    /// Nodes that each of them looked at.
    pub nodes: usize,
}

/// Observes one backend once, and decides again and again.
pub async fn measure(cluster: &Cluster) -> Cost {
    let observation = observe(cluster).await;
    let status = serde_json::to_value(&observation.backend.status).unwrap();
    let (mut decisions, started) = (0, Instant::now());
    let before = process::processor_seconds(std::process::id());
    while started.elapsed() < LONG_ENOUGH {
        let decision = backend::decide(black_box(&observation), Timestamp::now());
        let Children::Exactly(children) = &decision.children else { panic!("the backend is not decided") };
        assert!(!children.is_empty());
        // The driver compares the text of every child with what it applied last, and the status with the stored one.
        black_box(children.iter().map(|child| child.object.to_string().len()).sum::<usize>());
        let difference = merge_patch::difference(&status, &serde_json::to_value(decision.status).unwrap());
        assert_eq!(difference, None, "the backend has not come to rest");
        decisions += 1;
    }
    let processor_seconds = process::processor_seconds(std::process::id()) - before;
    Cost { decisions, processor_seconds, nodes: observation.nodes.len() }
}

async fn observe(cluster: &Cluster) -> Observation {
    let (client, namespace) = (&cluster.client, cluster.namespace.as_str());
    let backend = cluster.typed_backends().get(BACKEND).await.unwrap();
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    let mut nodes: Vec<_> = nodes.items.into_iter().filter_map(cut::node).map(|node| node.0).collect();
    nodes.sort_by(|one, other| one.name.cmp(&other.name));
    let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &DEPLOYMENT.resource());
    let deployment = deployments.get(&children::child_name(BACKEND)).await.unwrap();
    let ours = ListParams::default().labels(&format!("{BACKEND_LABEL}={BACKEND}"));
    let pods = Api::<Pod>::namespaced(client.clone(), namespace).list(&ours).await.unwrap();
    let mut observation: Observation = serde_json::from_value(serde_json::json!({ "backend": backend })).unwrap();
    observation.backend.metadata.managed_fields = None;
    observation.nodes = Arc::new(nodes);
    observation.deployment = cut::deployment(deployment).and_then(|facts| facts.deployment.as_deref().cloned());
    observation.pods = pods.items.into_iter().filter_map(cut::pod).map(|pod| pod.facts).collect();
    observation.api_key_exists = true;
    observation.entropy = "0".repeat(64);
    observation
}
