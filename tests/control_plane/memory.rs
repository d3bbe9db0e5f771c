//! A restart, a lost status or a better choice changes no pod.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Team, condition};

fn spec() -> Value {
    json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_lost_status_change_no_pod_template() {
    let team = Team::new("restart").await;
    let mut operator = team.operator().await;
    team.apply("model", spec()).await;
    let ready = team.until_ready("model", "True", "ScaledToZero").await;
    let deployment = team.until_in(&team.deployments(), "model-backend", "exist", |deployment| deployment.is_object()).await;

    operator.kill();
    let operator = team.operator().await;
    team.kubectl(&["patch", "ib", "model", "--subresource=status", "--type=merge", "-p", r#"{"status": null}"#]);
    let again =
        team.until("model", "have its sizing back", |backend| backend["status"]["sizing"] == ready["status"]["sizing"]).await;
    assert_eq!(again["status"]["summary"], ready["status"]["summary"]);
    team.until_quiet(Duration::from_secs(2)).await;
    let after = team.until_in(&team.deployments(), "model-backend", "exist", |deployment| deployment.is_object()).await;
    assert_eq!(after["metadata"]["generation"], deployment["metadata"]["generation"]);
    assert_eq!(after["spec"]["template"], deployment["spec"]["template"]);
    drop(operator);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_default_image_waits_until_it_is_asked_for() {
    let team = Team::new("upgrade").await;
    let mut operator = team.operator().await;
    team.apply("model", spec()).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    assert!(operator.terminate().success());

    let _operator = team.operator_with("vllm: {image: \"vllm/vllm-openai:v0.34.0\"}", &[]).await;
    let waiting = team
        .until("model", "UpdateAvailable=True", |backend| {
            condition(backend, "UpdateAvailable").is_some_and(|it| it["status"] == "True")
        })
        .await;
    let image = |deployment: &Value| deployment["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let deployment = team.until_in(&team.deployments(), "model-backend", "exist", |deployment| deployment.is_object()).await;
    assert_eq!(image(&deployment), "vllm/vllm-openai:v0.33.0");
    assert_eq!(condition(&waiting, "Ready").unwrap()["status"], "True");

    let generation = waiting["metadata"]["generation"].to_string();
    team.kubectl(&["annotate", "ib", "model", &format!("quartermaster.dev/upgrade={generation}")]);
    team.until_in(&team.deployments(), "model-backend", "have the new image", |it| image(it) == "vllm/vllm-openai:v0.34.0").await;
}
