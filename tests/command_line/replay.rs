//! `quartermaster replay`.

use serde_json::{Value, json};

use super::{run, vllm};

/// A rollout in which a new pod has found no node for 30 seconds, recorded then.
fn rollout_in_its_first_minute() -> Value {
    let label = |name: &str| format!("nvidia.com/gpu.{name}");
    let node = json!({
        "name": "l4-0", "allocatable": { "nvidia.com/gpu": 1 },
        "labels": { label("product"): "NVIDIA-L4", label("memory"): "23034", label("count"): "1" },
    });
    let mut backend: Value = serde_json::from_str(&vllm(json!({ "model": "Qwen/Qwen3-4B" }))).unwrap();
    backend["metadata"] = json!({ "name": "model", "namespace": "team", "uid": "u-1", "generation": 1 });
    let mut observation =
        json!({ "observedAt": "2026-11-25T12:00:30Z", "backend": backend, "nodes": [node], "apiKeyExists": true });
    let decision = run(&["replay", "--output=json", "-"], &observation.to_string()).json();
    let annotations = &deployment(&decision)["metadata"]["annotations"];
    observation["deployment"] = json!({
        "annotations": annotations, "generation": 2, "observedGeneration": 2, "replicas": 1, "statusReplicas": 2,
        "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1,
    });
    let waits = json!({ "since": "2026-11-25T12:00:00Z", "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." });
    observation["pods"] = json!([
        { "name": "old", "templateHash": "a", "node": "l4-0", "requests": { "nvidia.com/gpu": 1 }, "ready": true, "started": true },
        { "name": "new", "templateHash": "b", "requests": { "nvidia.com/gpu": 1 }, "unschedulable": waits },
    ]);
    observation
}

fn deployment(decision: &Value) -> &Value {
    let children = decision["children"]["exactly"].as_array().unwrap_or_else(|| panic!("{decision:#}"));
    &children.iter().find(|child| child["identity"]["kind"] == "Deployment").unwrap()["object"]
}

#[test]
fn a_recorded_observation_is_decided_at_its_own_time() {
    let observation = rollout_in_its_first_minute().to_string();
    let unavailable = |arguments: &[&str]| {
        let decision = run(&[&["replay", "--output=json"][..], arguments, &["-"]].concat(), &observation).json();
        deployment(&decision)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"].clone()
    };
    assert_eq!(unavailable(&["--at=2026-11-25T12:00:30Z"]), 0);
    assert_eq!(unavailable(&["--at=2026-11-25T13:00:00Z"]), 1);
    assert_eq!(unavailable(&[]), 0);
}

#[test]
fn a_recorded_observation_of_a_budget_is_recognised_and_decided() {
    let budget = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "TokenBudget",
        "metadata": { "name": "sprint", "namespace": "team", "uid": "u-1", "generation": 1 },
        "spec": { "tokens": 1000, "period": { "type": "Monthly" }, "appliesTo": {} },
    });
    // The accounts are those of November.
    let observation = json!({
        "observedAt": "2026-11-25T12:00:00Z", "budget": budget, "pools": [{ "name": "coder", "routes": ["smart-router"] }],
        "accounts": { "period": 1_793_491_200, "units": { "tokens": { "limit": 1000, "used": 850 } } },
    });
    let decided = |arguments: &[&str]| {
        let decision = run(&[&["replay", "--output=json"][..], arguments, &["-"]].concat(), &observation.to_string()).json();
        let status = &decision["status"];
        (status["phase"].clone(), status["percentUsed"].clone(), status["period"]["end"].clone())
    };
    assert_eq!(decided(&[]), (json!("Warning"), json!(85), json!("2026-12-01T00:00:00Z")));
    // In another month nothing is known of what was used.
    assert_eq!(decided(&["--at=2026-12-01T00:00:00Z"]).1, json!(null));
}
