//! Replacements under steady load with streams: of a backend's pods, of the gateway's replicas, of the operator. No call fails.

use std::time::Instant;

use quartermaster_dev::local_node::node;
use quartermaster_dev::model_server::ModelServer;
use serde_json::{Value, json};

use super::gateway::answered;
use super::harness::{answered_by, calls, on_local_node, server, to, with};
use super::load::Load;
use crate::harness::{DEADLINE, Team};

/// `spec.vllm` of a small model that really runs, simulated, on the local node.
fn local_model(context_length: u32) -> Value {
    json!({
        "model": "Qwen/Qwen3-0.6B", "contextLength": context_length, "drainTimeout": "10s",
        "accelerator": { "products": ["NVIDIA-Local"], "tolerations": [{ "key": node::TAINT, "operator": "Exists" }] },
        "resources": { "requests": { "cpu": "100m", "memory": "1Gi" } },
        // Its answers take a while, so that some are on their way whenever a pod ends.
        "env": [{ "name": "MODEL_SERVER_SETTINGS", "value": "{\"firstTokenMilliseconds\": 10, \"tokenMilliseconds\": 20}" }],
    })
}

/// A route `router` to a server of this process, with a gateway of two replicas, and the key of a pool that may call it.
async fn serving(team: &Team) -> (ModelServer, String) {
    let server = server().await;
    server.change(|behaviour| (behaviour.first_token_milliseconds, behaviour.token_milliseconds) = (10, 20));
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["one"])).await;
    team.until_programmed("router").await;
    team.until_gateways(2).await;
    let key = team.key_of("people").await;
    team.until_known(&key, true).await;
    (server, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pods_of_a_backend_are_replaced_without_a_failed_call() {
    let team = Team::new("backend-rollout").await;
    team.run_gateways(2);
    let _operator = team.operator_of_routes().await;
    team.apply("small", json!({ "vllm": local_model(4096), "replicas": 2 })).await;
    team.apply_pool("people", calls(&["router"])).await;
    team.apply_route("router", to(&["small"])).await;
    team.until_ready("small", "True", "Available").await;
    team.until_programmed("router").await;
    team.until_gateways(2).await;
    let key = team.key_of("people").await;
    team.until_known(&key, true).await;
    let selector = "quartermaster.dev/inference-backend=small";
    let before = team.until_pods(selector, 2).await;
    for replica in team.replicas().await {
        assert_eq!(answered(&replica, &key, "router").await, "small");
    }
    let load = Load::begin(&team, &key, "router").await;
    // Another context is another Deployment's template: each pod is replaced, one after the other.
    team.apply("small", json!({ "vllm": local_model(8192), "replicas": 2 })).await;
    team.until_ready("small", "True", "Available").await;
    let started = Instant::now();
    while team.until_pods(selector, 2).await.iter().any(|pod| before.contains(pod)) {
        assert!(started.elapsed() < DEADLINE, "the pods of the backend are never replaced");
    }
    load.until_more(20).await;
    let tally = load.end().await;
    assert_eq!(tally.answered.keys().collect::<Vec<_>>(), ["small"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replicas_of_a_gateway_are_replaced_without_a_failed_call() {
    let team = Team::new("gateway-rollout").await;
    team.run_gateways(2);
    let _operator = team.operator_of_routes().await;
    let (_server, key) = serving(&team).await;
    let before = team.until_gateways(2).await;
    let load = Load::begin(&team, &key, "router").await;
    team.set_gateway(with(on_local_node(2), json!({ "podAnnotations": "{example.com/rollout: \"1\"}" })));
    let rolled = |deployment: &Value| {
        let of_status = |name: &str| deployment.pointer(&format!("/status/{name}")).and_then(Value::as_i64);
        of_status("observedGeneration") == deployment["metadata"]["generation"].as_i64()
            && deployment["spec"]["template"]["metadata"]["annotations"]["example.com/rollout"] == "1"
            && of_status("updatedReplicas") == Some(2)
            && of_status("availableReplicas") == Some(2)
            && of_status("replicas") == Some(2)
    };
    team.until_in(&team.deployments(), "quartermaster-gateway", "be rolled out", rolled).await;
    let after = team.until_gateways(2).await;
    assert!(after.iter().all(|replica| !before.contains(replica)), "{before:?} {after:?}");
    team.until_programmed("router").await;
    load.until_more(20).await;
    load.end().await;
}

/// Restarts the operator this often under load, in good order and not, with an edit after each.
async fn operator_restarts_under_load(name: &str, restarts: usize) {
    let team = Team::new(name).await;
    team.run_gateways(2);
    let mut operator = team.operator_of_routes().await;
    let (_server, key) = serving(&team).await;
    let before = team.until_gateways(2).await;
    let load = Load::begin(&team, &key, "router").await;
    for restart in 0..restarts {
        if restart % 2 == 0 {
            assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
        } else {
            operator.kill();
        }
        load.until_more(10).await;
        operator = team.operator_of_routes().await;
        team.apply_route("router", with(to(&["one"]), json!({ "aliases": [format!("alias-{restart}")] }))).await;
        team.until_programmed("router").await;
        load.until_more(10).await;
    }
    load.end().await;
    assert_eq!(team.until_gateways(2).await, before, "no replica ends with its operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_ends_or_is_killed_costs_no_call_and_the_next_one_goes_on() {
    operator_restarts_under_load("restarts", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: run by `make soak`"]
async fn many_operators_that_end_or_are_killed_cost_no_call() {
    operator_restarts_under_load("restarts-many", 20).await;
}
