//! What the operator asks of the API server: nothing when nothing changes, and little when something
//! does. The oracle is the audit log of its account.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Team, condition};

fn small() -> Value {
    json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })
}

/// Requests besides the lease's, which is renewed for ever, and watches, which end and begin again every 200 s.
fn asked(team: &Team) -> Vec<String> {
    let about = |entry: &Value| format!("{} {} {}", entry["verb"], entry["objectRef"]["resource"], entry["objectRef"]["name"]);
    let requests = team.requests();
    requests.iter().filter(|entry| entry["objectRef"]["resource"] != "leases" && entry["verb"] != "watch").map(about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_backends_without_change_cost_no_call_for_a_minute() {
    let team = Team::new("quiet").await;
    let _operator = team.operator().await;
    for number in 0..100 {
        team.apply(&format!("model-{number}"), small()).await;
    }
    for number in 0..100 {
        team.until_ready(&format!("model-{number}"), "True", "ScaledToZero").await;
    }
    let settled = team.until_quiet(Duration::from_secs(3)).await;
    // This test proves that nothing happens, so that time has to pass.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let after = asked(&team);
    assert_eq!(after.len(), settled, "{:?}", &after[settled..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_costs_one_apply_per_changed_child_and_one_status_write_a_state() {
    let team = Team::new("cost").await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let before = team.writes().len();
    let mut changed = small();
    changed["vllm"]["upgrade"] = json!({ "type": "Manual" });
    let generation = team.apply("model", changed).await.metadata.generation.unwrap();
    team.until("model", "the new generation", |backend| backend["status"]["observedGeneration"] == generation).await;
    team.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(team.writes().split_off(before), ["patch inferencebackends/status model"], "no child changes");

    let before = team.writes().len();
    let mut changed = small();
    changed["vllm"]["extraArgs"] = json!(["--enable-prefix-caching"]);
    team.apply("model", changed).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let (applies, statuses): (Vec<_>, Vec<_>) =
        team.writes().split_off(before).into_iter().partition(|write| !write.contains("/status"));
    assert_eq!(applies, ["patch deployments model-backend"], "one apply for the only child that changes");
    assert_eq!(statuses.len(), 2, "once that it is under way, once that it is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_child_comes_back_drift_is_reverted_and_foreign_fields_stay() {
    let team = Team::new("drift").await;
    let _operator = team.operator().await;
    team.apply("model", small()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    let deployments = team.deployments();
    let uid = |deployment: &Value| deployment["metadata"]["uid"].clone();
    let before = team.until_in(&deployments, "model-backend", "exist", |deployment| deployment.is_object()).await;
    team.kubectl(&["annotate", "deployment/model-backend", "example.com/note=mine"]);
    team.kubectl(&["scale", "deployment/model-backend", "--replicas=3"]);
    let reverted = team
        .until_in(&deployments, "model-backend", "zero replicas again", |deployment| {
            deployment["spec"]["replicas"] == 0 && deployment["metadata"]["generation"].as_i64() > Some(2)
        })
        .await;
    assert_eq!(reverted["metadata"]["annotations"]["example.com/note"], "mine");
    team.kubectl(&["delete", "deployment/model-backend", "service/model-backend"]);
    team.until_in(&deployments, "model-backend", "come back", |deployment| {
        deployment.is_object() && uid(deployment) != uid(&before)
    })
    .await;
    let service = team.kubectl(&["get", "service", "model-backend", "-o", "name"]);
    assert!(service.contains("service/model-backend"), "{service}");
}
