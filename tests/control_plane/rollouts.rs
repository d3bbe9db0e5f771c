//! Rollouts on a node whose accelerators are all in use, with the real scheduler and the Deployment's own controller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use quartermaster_dev::nodes::{FakeNode, manifest};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, Team, condition, resource};
use crate::operator::Operator;

/// A moment before every patience: what waits since then has waited long enough.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";
const NAME: &str = "full-backend";

/// A node with one accelerator, for pods of this namespace alone.
async fn reserve_a_node(team: &Team) -> Api<Node> {
    let nodes = Api::<Node>::all(team.client.clone());
    let fake = FakeNode {
        name: format!("node-{}", team.namespace),
        cpu: "16",
        memory: "64Gi",
        labels: BTreeMap::from([
            ("nvidia.com/gpu.product".to_owned(), "NVIDIA-L4".to_owned()),
            ("nvidia.com/gpu.memory".to_owned(), "23034".to_owned()),
            ("nvidia.com/gpu.count".to_owned(), "1".to_owned()),
            ("reserved-for".to_owned(), team.namespace.clone()),
        ]),
        accelerators: BTreeMap::from([("nvidia.com/gpu".to_owned(), 1)]),
    };
    let mut node = manifest(&fake);
    let reserved =
        Taint { key: "reserved-for".into(), value: Some(team.namespace.clone()), effect: "NoSchedule".into(), ..Taint::default() };
    node.spec.get_or_insert_default().taints.get_or_insert_default().push(reserved);
    nodes.create(&PostParams::default(), &node).await.unwrap();
    nodes
}

fn spec(team: &Team, more: Value) -> Value {
    let mut vllm = json!({
        "model": "Qwen/Qwen3-0.6B", "drainTimeout": "0s",
        "accelerator": {
            "products": ["NVIDIA-L4"], "nodeSelector": { "reserved-for": team.namespace },
            "tolerations": [{ "key": "reserved-for", "operator": "Exists" }],
        },
        "resources": { "requests": { "cpu": "100m", "memory": "1Gi" } },
    });
    vllm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "vllm": vllm })
}

fn pods(team: &Team) -> Api<DynamicObject> {
    team.api(&resource("", "v1", "Pod", "pods"))
}

/// Waits until the scheduler says this of a pod, and lets that have been so for long. Returns once the operator has looked.
async fn has_waited_for_long(team: &Team, operator: &Operator, words: &str) {
    let started = Instant::now();
    let refused = |pod: &DynamicObject| {
        let pod = serde_json::to_value(pod).unwrap();
        condition(&pod, "PodScheduled")
            .is_some_and(|scheduled| scheduled["message"].as_str().is_some_and(|message| message.contains(words)))
    };
    let name = loop {
        let waiting = pods(team).list(&ListParams::default()).await.unwrap().items.into_iter().find(refused);
        if let Some(pod) = waiting {
            break pod.metadata.name.unwrap();
        }
        assert!(
            started.elapsed() < DEADLINE,
            "the scheduler never says {words}:\n{}",
            team.kubectl(&["get", "pods", "-o", "yaml"])
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let scheduled = json!({ "type": "PodScheduled", "status": "False", "lastTransitionTime": LONG_AGO });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [scheduled] } }));
    pods(team).patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
    let path = format!("debug/observations/InferenceBackend/{}/full", team.namespace);
    while !operator.get(&path).await.is_some_and(|observation| observation.contains(LONG_AGO)) {
        assert!(started.elapsed() < DEADLINE, "the operator never looks at {name}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_node_an_old_pod_ends_only_for_a_new_one_that_its_accelerators_help() {
    let team = Team::new("rollout").await;
    let nodes = reserve_a_node(&team).await;
    let operator = team.operator().await;
    team.apply("full", spec(&team, json!({}))).await;
    team.until_ready("full", "True", "Available").await;
    let first = pods(&team).list(&ListParams::default()).await.unwrap().items.remove(0).metadata;

    // A typo: no accelerator helps this pod.
    team.apply("full", spec(&team, json!({ "cache": { "persistentVolumeClaim": { "claimName": "typo" } } }))).await;
    has_waited_for_long(&team, &operator, "persistentvolumeclaim \"typo\" not found").await;
    let told = team.until_ready("full", "False", "Unschedulable").await;
    assert!(condition(&told, "Reconciling").unwrap()["message"].as_str().unwrap().contains("\"typo\" not found"), "{told}");
    team.until_quiet(Duration::from_secs(2)).await;
    let deployment = serde_json::to_value(team.deployments().get(NAME).await.unwrap()).unwrap();
    assert_eq!(deployment.pointer("/spec/strategy/rollingUpdate/maxSurge"), Some(&json!(1)));
    let still = pods(&team).get(first.name.as_deref().unwrap()).await.unwrap().metadata;
    assert_eq!((still.uid, still.deletion_timestamp), (first.uid, None));
    let told = team.until("full", "available", |backend| condition(backend, "Available").is_some()).await;
    assert_eq!(condition(&told, "Available").unwrap()["status"], "True");

    // A change that only needs the accelerator comes through.
    team.apply("full", spec(&team, json!({ "extraArgs": ["--seed=1"] }))).await;
    has_waited_for_long(&team, &operator, "Insufficient nvidia.com/gpu").await;
    team.until_ready("full", "True", "Available").await;
    let pods = pods(&team).list(&ListParams::default()).await.unwrap().items;
    let args: Vec<_> = pods.iter().map(|pod| pod.data["spec"]["containers"][0]["args"].to_string().contains("--seed=1")).collect();
    assert_eq!(args, [true]);
    // The next rollout begins with the new pod again.
    team.until_in(&team.deployments(), NAME, "surge", |deployment| {
        deployment.pointer("/spec/strategy/rollingUpdate/maxSurge") == Some(&json!(1))
    })
    .await;
    nodes.delete(&format!("node-{}", team.namespace), &DeleteParams::default()).await.unwrap();
}
