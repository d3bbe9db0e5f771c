//! What the operator asks of the API server: nothing when nothing changes, and little when something
//! does. The oracle is the audit log of its account.

use std::time::Duration;

use axum::{Json, Router};
use serde_json::{Value, json};

use crate::harness::{Team, small_model};

fn small() -> Value {
    json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })
}

/// Requests besides the lease's, which is renewed for ever, and watches, which end and begin again every 200 s.
fn asked(team: &Team) -> Vec<String> {
    let about = |entry: &Value| format!("{} {} {}", entry["verb"], entry["objectRef"]["resource"], entry["objectRef"]["name"]);
    let requests = team.requests();
    requests.iter().filter(|entry| entry["objectRef"]["resource"] != "leases" && entry["verb"] != "watch").map(about).collect()
}

/// A provider on this machine that is always well.
async fn provider() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(|| async { Json(json!({ "object": "list", "data": [{ "id": "m", "object": "model" }] })) });
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_backends_without_change_cost_no_call_for_a_minute() {
    let team = Team::new("quiet").await;
    let _operator = team.operator_with("destinations: {allowLoopback: true}", &[]).await;
    for number in 0..80 {
        team.apply(&format!("model-{number}"), small()).await;
    }
    // These have pods, which kubelet, scheduler and controllers write to.
    for number in 0..10 {
        team.apply(&format!("served-{number}"), json!({ "vllm": small_model(json!({})) })).await;
    }
    // These are checked every second, which is no business of the API server.
    let external = json!({ "provider": "OpenAICompatible", "model": "m", "baseURL": provider().await });
    for number in 0..10 {
        team.apply(&format!("hosted-{number}"), json!({ "external": external, "healthCheck": { "interval": "1s" } })).await;
    }
    for number in 0..80 {
        team.until_ready(&format!("model-{number}"), "True", "ScaledToZero").await;
    }
    for number in 0..10 {
        team.until_ready(&format!("served-{number}"), "True", "Available").await;
    }
    for number in 0..10 {
        team.until_ready(&format!("hosted-{number}"), "True", "Healthy").await;
    }
    let settled = team.until_quiet(Duration::from_secs(3)).await;
    // This test proves that nothing happens, so that time has to pass.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = asked(&team);
    assert_eq!(after.len(), settled, "{:?}", &after[settled..]);
}

/// The writes that a change of the backend `model` costs until all is quiet again.
async fn cost(team: &Team, spec: Value) -> Vec<String> {
    team.until_quiet(Duration::from_secs(2)).await;
    let before = team.writes().len();
    team.apply("model", spec).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    team.writes().split_off(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_one_apply_per_changed_child_and_one_status_write_a_state() {
    let team = Team::new("cost").await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    let (apply, status) = ("patch deployments model-backend", "patch inferencebackends/status model");

    let mut manual = small();
    manual["vllm"]["upgrade"] = json!({ "type": "Manual" });
    assert_eq!(cost(&team, manual.clone()).await, [status], "no child changes");

    let mut changed = manual.clone();
    changed["vllm"]["extraArgs"] = json!(["--enable-prefix-caching"]);
    // One child changes; the status says that it is under way, and that it is done.
    assert_eq!(cost(&team, changed.clone()).await, [apply, status, status]);
    assert_eq!(cost(&team, changed).await, [""; 0], "the same again is no change");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_child_comes_back_drift_is_reverted_once_and_foreign_fields_stay() {
    let team = Team::new("drift").await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let deployments = team.deployments();
    let applies = |team: &Team| team.writes().iter().filter(|write| *write == "patch deployments model-backend").count();
    let uid = |deployment: &Value| deployment["metadata"]["uid"].clone();
    let before = team.until_in(&deployments, "model-backend", "exist", Value::is_object).await;

    team.kubectl(&["annotate", "deployment/model-backend", "example.com/note=mine"]);
    team.kubectl(&["label", "deployment/model-backend", "example.com/team=ours"]);
    team.until_quiet(Duration::from_secs(2)).await;
    let applied = applies(&team);
    team.kubectl(&["scale", "deployment/model-backend", "--replicas=3"]);
    let reverted = team
        .until_in(&deployments, "model-backend", "zero replicas again", |deployment| {
            deployment["spec"]["replicas"] == 0 && deployment["metadata"]["generation"].as_i64() > Some(2)
        })
        .await;
    team.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(applies(&team), applied + 1, "one drift, one apply");
    assert_eq!(reverted["metadata"]["annotations"]["example.com/note"], "mine");
    assert_eq!(reverted["metadata"]["labels"]["example.com/team"], "ours");

    let writes = team.writes().len();
    team.kubectl(&["delete", "deployment/model-backend", "service/model-backend"]);
    let is_new = |deployment: &Value| deployment.is_object() && uid(deployment) != uid(&before);
    team.until_in(&deployments, "model-backend", "come back", is_new).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    let service = team.kubectl(&["get", "service", "model-backend", "-o", "name"]);
    assert!(service.contains("service/model-backend"), "{service}");
    team.until_quiet(Duration::from_secs(2)).await;
    let mut applied = team.writes().split_off(writes);
    applied.retain(|write| !write.contains("/status"));
    applied.sort();
    assert_eq!(applied, ["patch deployments model-backend", "patch services model-backend"]);
}
