//! A restart, a lost status or a better choice changes no pod.

use std::time::Duration;

use quartermaster_dev::nodes;
use serde_json::{Value, json};

use crate::harness::{Team, condition};

const NEWER: &str = "vllm: {image: \"vllm/vllm-openai:v0.34.0\"}";

/// A status without the times of its conditions.
fn said(backend: &Value) -> Value {
    let mut status = backend["status"].clone();
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        condition.as_object_mut().unwrap().remove("lastTransitionTime");
    }
    status
}

async fn deployment(team: &Team, name: &str) -> Value {
    team.until_in(&team.deployments(), name, "exist", Value::is_object).await
}

fn image(deployment: &Value) -> &str {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

async fn until_update(team: &Team, name: &str, status: &str) -> Value {
    team.until(name, &format!("UpdateAvailable={status}"), |backend| {
        condition(backend, "UpdateAvailable").is_some_and(|condition| {
            condition["status"] == status && condition["observedGeneration"] == backend["metadata"]["generation"]
        })
    })
    .await
}

fn wipe(team: &Team) {
    let wiped = team.kubectl(&["patch", "ib", "model", "--subresource=status", "--type=merge", "-p", r#"{"status": null}"#]);
    assert!(wiped.contains("patched"), "{wiped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_a_lost_status_change_no_pod_template() {
    let team = Team::new("restart").await;
    team.excuse_statuses();
    let mut operator = team.operator().await;
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" } })).await;
    let ready = team.until_ready("model", "True", "Available").await;
    let before = deployment(&team, "model-backend").await;
    let pods = team.kubectl(&["get", "pods", "-o", "name"]);

    for (wiped, restarted) in [(true, false), (false, true), (true, true)] {
        if restarted {
            operator.kill();
        }
        if wiped {
            wipe(&team);
        }
        if restarted {
            operator = team.operator().await;
        }
        team.until("model", "say the same again", |backend| said(backend) == said(&ready)).await;
        team.until_quiet(Duration::from_secs(1)).await;
        let after = deployment(&team, "model-backend").await;
        assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"], "wiped {wiped}, restarted {restarted}");
        assert_eq!(after["spec"]["template"], before["spec"]["template"]);
        assert_eq!(team.kubectl(&["get", "pods", "-o", "name"]), pods);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_default_image_is_taken_when_the_upgrade_type_says() {
    let team = Team::new("upgrade").await;
    let mut operator = team.operator().await;
    for (name, upgrade) in
        [("waits", "OnSpecChange"), ("changes", "OnSpecChange"), ("manual", "Manual"), ("automatic", "Automatic")]
    {
        team.apply(name, json!({ "vllm": { "model": "Qwen/Qwen3-0.6B", "upgrade": { "type": upgrade } }, "replicas": 0 })).await;
        team.until_ready(name, "True", "ScaledToZero").await;
    }
    assert!(operator.terminate().success());
    let _operator = team.operator_with(NEWER, &[]).await;
    let newer = |deployment: &Value| image(deployment).ends_with(":v0.34.0");

    team.until_in(&team.deployments(), "automatic-backend", "have the new image", newer).await;
    until_update(&team, "automatic", "False").await;

    let waiting = until_update(&team, "waits", "True").await;
    assert!(!newer(&deployment(&team, "waits-backend").await));
    assert_eq!(condition(&waiting, "Ready").unwrap()["status"], "True");
    let message = condition(&waiting, "UpdateAvailable").unwrap()["message"].as_str().unwrap();
    assert!(message.contains("v0.34.0") && message.contains("quartermaster.dev/upgrade"), "{message}");
    // Scaling is no change of what runs.
    team.kubectl(&["scale", "ib/waits", "--replicas=1"]);
    team.until_ready("waits", "True", "Available").await;
    assert!(!newer(&deployment(&team, "waits-backend").await));
    let generation = until_update(&team, "waits", "True").await["metadata"]["generation"].as_i64().unwrap();
    team.kubectl(&["annotate", "ib/waits", &format!("quartermaster.dev/upgrade={}", generation - 1)]);
    let changed = json!({ "vllm": { "model": "Qwen/Qwen3-0.6B", "upgrade": { "type": "OnSpecChange" }, "extraArgs": ["--enable-prefix-caching"] }, "replicas": 0 });
    team.apply("changes", changed).await;
    team.until_in(&team.deployments(), "changes-backend", "have the new image", newer).await;
    assert!(!newer(&deployment(&team, "waits-backend").await), "the annotation of another generation asks for nothing");
    team.kubectl(&["annotate", "--overwrite", "ib/waits", &format!("quartermaster.dev/upgrade={generation}")]);
    team.until_in(&team.deployments(), "waits-backend", "have the new image", newer).await;
    until_update(&team, "waits", "False").await;

    let changed = json!({ "vllm": { "model": "Qwen/Qwen3-0.6B", "upgrade": { "type": "Manual" }, "extraArgs": ["--enable-prefix-caching"] }, "replicas": 0 });
    let generation = team.apply("manual", changed).await.metadata.generation.unwrap();
    team.until_ready("manual", "True", "ScaledToZero").await;
    assert!(!newer(&deployment(&team, "manual-backend").await), "a change of the spec takes no upgrade that is Manual");
    until_update(&team, "manual", "True").await;
    team.kubectl(&["annotate", "ib/manual", &format!("quartermaster.dev/upgrade={generation}")]);
    team.until_in(&team.deployments(), "manual-backend", "have the new image", newer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_better_accelerators_changes_no_pod_until_it_is_asked_for() {
    let team = Team::new("better").await;
    let node = |like: &str, name: &str| {
        let mut node = nodes::fleet().into_iter().find(|node| node.name == like).unwrap();
        node.name = format!("{name}-{}", team.namespace);
        node.labels.insert("example.com/team".to_owned(), team.namespace.clone());
        node
    };
    // The smallest accelerators that do are the better ones.
    let (first, better) = (node("h100-0", "h100"), node("l4-0", "l4"));
    nodes::create(&team.connection, std::slice::from_ref(&first)).await.unwrap();
    let _operator = team.operator().await;
    let spec = json!({ "vllm": {
        "model": "Qwen/Qwen3-8B", "contextLength": 8192,
        "accelerator": { "nodeSelector": { "example.com/team": team.namespace } },
    } });
    team.apply("model", spec).await;
    let ready = team.until_ready("model", "True", "Available").await;
    assert!(ready["status"]["summary"]["gpus"].as_str().unwrap().contains("H100"), "{}", ready["status"]["summary"]);
    let pods = team.kubectl(&["get", "pods", "-o", "name"]);

    nodes::create(&team.connection, std::slice::from_ref(&better)).await.unwrap();
    let waiting = until_update(&team, "model", "True").await;
    assert_eq!(waiting["status"]["summary"], ready["status"]["summary"]);
    assert_eq!(condition(&waiting, "Ready").unwrap()["status"], "True");
    team.until_quiet(Duration::from_secs(1)).await;
    assert_eq!(team.kubectl(&["get", "pods", "-o", "name"]), pods);

    team.kubectl(&["annotate", "ib/model", &format!("quartermaster.dev/upgrade={}", waiting["metadata"]["generation"])]);
    team.until("model", "run on the better accelerator", |backend| {
        backend["status"]["summary"]["gpus"].as_str().is_some_and(|gpus| gpus.contains("L4"))
    })
    .await;
    team.until_ready("model", "True", "Available").await;
    let on = team.kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"]);
    assert!(on.contains(&better.name), "{on}");
    for node in [first, better] {
        team.kubectl(&["delete", "node", &node.name]);
    }
}
