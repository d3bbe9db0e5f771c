use serde_json::{Value, json};

use super::*;

fn facts(spec: Value, status: Value) -> PodFacts {
    let object = json!({
        "metadata": {
            "name": "a", "namespace": "team", "creationTimestamp": "2026-11-25T12:00:00Z",
            "labels": { "quartermaster.dev/inference-backend": "model" },
        },
        "spec": spec, "status": status,
    });
    pod(serde_json::from_value(object).unwrap()).unwrap().facts
}

#[test]
fn a_failed_pod_keeps_the_kubelets_words() {
    let status = json!({ "phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory." });
    let failed = facts(json!({ "containers": [], "nodeName": "l4-0" }), status);
    assert_eq!(failed.failed, Some(Failed { reason: "Evicted".into(), message: "The node was low on resource: memory.".into() }));
    assert_eq!((failed.node.as_deref(), failed.ready), (Some("l4-0"), false));
    assert!(failed.created.is_some());
    assert_eq!(facts(json!({ "containers": [] }), json!({ "phase": "Running" })).failed, None);
}

#[test]
fn the_requests_of_all_containers_are_added_up() {
    let container = |requests: Value| json!({ "name": "a", "resources": { "requests": requests } });
    let containers =
        [container(json!({ "cpu": "1500m", "nvidia.com/gpu": "2" })), container(json!({ "cpu": "1", "memory": "1Gi" }))];
    let requests = facts(json!({ "containers": containers }), json!({})).requests;
    assert_eq!(requests, BTreeMap::from([("cpu".into(), 3), ("memory".into(), 1 << 30), ("nvidia.com/gpu".into(), 2)]));
}

#[test]
fn a_node_that_prepares_volumes_is_told_from_one_that_has() {
    let of = |status: &str| {
        let condition =
            json!({ "type": "PodReadyToStartContainers", "status": status, "lastTransitionTime": "2026-11-25T12:00:00Z" });
        facts(json!({ "containers": [] }), json!({ "conditions": [condition] })).preparing_since
    };
    assert_eq!((of("False"), of("True")), (Some("2026-11-25T12:00:00Z".parse().unwrap()), None));
}

#[test]
fn while_the_model_is_pulled_the_pod_says_what_its_pull_says() {
    let of = |pull: Value| {
        let pull = json!({ "name": "pull", "image": "a", "imageID": "a", "ready": false, "restartCount": 2, "state": pull });
        let waiting = json!({ "waiting": { "reason": "PodInitializing" } });
        let server = json!({
            "name": "ollama", "image": "a", "imageID": "a", "ready": false, "started": false, "restartCount": 0, "state": waiting,
        });
        facts(json!({ "containers": [] }), json!({ "initContainerStatuses": [pull], "containerStatuses": [server] }))
    };
    let ended = |code: i32| json!({ "terminated": { "reason": "Error", "message": "file does not exist", "exitCode": code } });
    let failed = of(ended(1));
    assert_eq!((failed.restarts, failed.started, failed.waiting), (2, false, None));
    assert_eq!(failed.terminated.unwrap().message, "file does not exist");
    let image = of(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } }));
    assert_eq!(image.waiting.unwrap().reason, "ImagePullBackOff");
    let done = of(ended(0));
    assert_eq!((done.restarts, done.waiting.unwrap().reason.as_str(), done.terminated), (0, "PodInitializing", None));
}

#[test]
fn an_engine_that_ended_is_kept_with_when_it_began_and_since_when_the_pod_is_not_ready() {
    let of = |ready: &str| {
        let ended = json!({ "reason": "OOMKilled", "exitCode": 137, "startedAt": "2026-11-25T11:00:00Z" });
        let main = json!({
            "name": "vllm", "image": "a", "imageID": "a", "ready": false, "started": false, "restartCount": 1,
            "state": { "running": {} }, "lastState": { "terminated": ended },
        });
        let condition = json!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-11-25T12:00:00Z" });
        facts(json!({ "containers": [] }), json!({ "conditions": [condition], "containerStatuses": [main] }))
    };
    let facts = of("False");
    assert_eq!(facts.unready_since, Some("2026-11-25T12:00:00Z".parse().unwrap()));
    let ended = facts.terminated.unwrap();
    assert_eq!((ended.reason.as_str(), ended.started_at), ("OOMKilled", Some("2026-11-25T11:00:00Z".parse().unwrap())));
    assert_eq!(of("True").unready_since, None);
}
