//! Who decides the replicas: the queues, the user by `spec.replicas` or `kubectl scale`, an autoscaler by `/scale`, the bounds, or
//! nobody while the pool is suspended. The operator itself writes no spec.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{at_once, pictures, pool, with};
use super::redis::{Redis, TASKS};
use crate::columns::row;
use crate::harness::{Team, condition, resource};

/// The columns of a pool's row.
fn columns(team: &Team, name: &str) -> impl Fn(&str) -> Option<String> + use<> {
    let cells = row(&team.kubectl(&["get", "apool", name, "-o", "wide"]));
    move |column: &str| cells.iter().find(|(name, _)| name == column).map(|(_, cell)| cell.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_the_spec_and_kubectl_scale_pin_a_pool_until_they_are_taken_away() {
    let (team, redis) = (Team::new("pinned").await, Redis::start().await);
    redis.connect().await.push(TASKS, 3).await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "replicas": 1 }))).await;
    team.until_replicas("coder", 1).await;
    let pinned = team.until_says("coder", "ScalingActive", "False", "Pinned").await;
    assert_eq!(pinned["status"]["limitedBy"], "Pinned");
    assert_eq!(pinned["status"]["decision"], "1 by spec.replicas");
    // Queues are shown, not followed.
    let shown = team.until_pool("coder", "show the queue", |pool| pool["status"]["queueDepth"] == 3).await;
    assert_eq!(shown["status"]["desiredReplicas"], 1);
    team.until_says("coder", "MetricsAvailable", "True", "QueuesRead").await;

    let said = team.kubectl(&["scale", "agentpool/coder", "--replicas=4"]);
    assert!(said.contains("scaled"), "{said}");
    team.until_replicas("coder", 4).await;
    team.until_agents("coder", 4).await;
    let ready = team.until_pool("coder", "four ready", |pool| pool["status"]["readyReplicas"] == 4).await;
    assert_eq!(ready["spec"]["replicas"], 4);
    // A pin above the bound of the queues is a pin all the same; below zero tasks too.
    team.kubectl(&["scale", "apool/coder", "--replicas=0"]);
    team.until_replicas("coder", 0).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;

    team.change_pool("coder", json!({ "replicas": null })).await;
    team.until_replicas("coder", 3).await;
    let followed = team.until_says("coder", "ScalingActive", "True", "QueuesFollowed").await;
    assert!(followed["status"]["limitedBy"].is_null(), "{}", followed["status"]);
    assert_eq!(followed["spec"].get("replicas"), None, "somebody wrote spec.replicas");
    let writes = team.writes();
    assert!(!writes.iter().any(|write| write.contains(" agentpools ")), "the operator wrote the object: {writes:?}");
    let wanted = team.until_pool("coder", "exist", Value::is_object).await;
    let changes: Vec<(u64, u64)> = wanted["status"]["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| (decision["from"].as_u64().unwrap(), decision["to"].as_u64().unwrap()))
        .collect();
    assert_eq!(changes, [(0, 3), (4, 0), (1, 4), (0, 1)], "{}", wanted["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_on_the_scale_subresource_takes_over_and_gives_back_when_the_replicas_are_removed() {
    let (team, redis) = (Team::new("handed-over").await, Redis::start().await);
    redis.connect().await.push(TASKS, 1).await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", pool(redis.list(TASKS))).await;
    team.until_replicas("coder", 1).await;
    team.until_agents("coder", 1).await;

    // An autoscaler begins with the replicas of the spec, and so cannot begin before they have been set once.
    team.kubectl(&["scale", "agentpool/coder", "--replicas=2"]);
    team.until_replicas("coder", 2).await;
    team.until_agents("coder", 2).await;
    let path = format!("/apis/quartermaster.dev/v1alpha1/namespaces/{}/agentpools/coder/scale", team.namespace);
    team.until_pool("coder", "two replicas", |pool| pool["status"]["replicas"] == 2).await;
    let scale: Value = serde_json::from_str(&team.kubectl(&["get", "--raw", &path])).unwrap();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(2), &json!(2)));
    let selector = scale["status"]["selector"].as_str().unwrap();
    assert_eq!(team.kubectl(&["get", "pods", "--selector", selector, "-o", "name"]).lines().count(), 2);

    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "coder" },
        "spec": {
            "scaleTargetRef": { "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool", "name": "coder" },
            "minReplicas": 4, "maxReplicas": 6,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }],
        },
    });
    let (code, said) = team.kubectl_with_input(&["apply", "-f", "-"], &autoscaler.to_string());
    assert_eq!(code, 0, "{said}");
    team.until_replicas("coder", 4).await;
    let taken_over = team.until_says("coder", "ScalingActive", "False", "Pinned").await;
    assert_eq!(taken_over["spec"]["replicas"], 4);
    // It is the pool's autoscaler, and not somebody else's of the pool's Deployment.
    team.until_says("coder", "Ready", "True", "Available").await;

    team.kubectl(&["delete", "hpa", "coder"]);
    team.change_pool("coder", json!({ "replicas": null })).await;
    team.until_says("coder", "ScalingActive", "True", "QueuesFollowed").await;
    team.until_replicas("coder", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_pool_keeps_what_it_has_and_still_shows_its_queue() {
    let (team, redis) = (Team::new("suspended-pool").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.push(TASKS, 2).await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", pool(redis.list(TASKS))).await;
    team.until_replicas("coder", 2).await;
    let agents = team.until_agents("coder", 2).await;
    team.change_pool("coder", json!({ "suspend": true })).await;
    let suspended = team.until_says("coder", "Suspended", "True", "Suspended").await;
    assert_eq!(suspended["status"]["limitedBy"], "Suspended");
    queue.push(TASKS, 3).await;
    // The figures of a queue alone are written once a minute; a change of the spec shows them at once.
    let mut other = pictures();
    other["spec"]["containers"][0]["image"] = json!("registry.example/agent:2.0");
    team.change_pool("coder", json!({ "template": other, "maxReplicas": 5 })).await;
    team.until_pool("coder", "the newest generation observed", |pool| {
        pool["status"]["observedGeneration"] == pool["metadata"]["generation"]
    })
    .await;
    team.until_quiet(Duration::from_secs(3)).await;
    assert_eq!(team.until_agents("coder", 2).await, agents);
    let seen: Vec<u64> = deployments.replicas_of("coder-pool").iter().map(|(_, replicas)| *replicas).collect();
    assert!(seen == [2] || seen == [0, 2], "{seen:?}");

    team.change_pool("coder", json!({ "suspend": null })).await;
    let goes_on = team.until_says("coder", "Suspended", "False", "NotSuspended").await;
    assert_eq!(goes_on["status"]["queueDepth"], 5);
    let changed = team.until_replicas("coder", 5).await;
    assert_eq!(changed.pointer("/spec/template/spec/containers/0/image"), Some(&json!("registry.example/agent:2.0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_hold_at_once_and_the_status_says_that_they_do() {
    let (team, redis) = (Team::new("bounds").await, Redis::start().await);
    redis.connect().await.push(TASKS, 4).await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "maxReplicas": 2 }))).await;
    team.until_replicas("coder", 2).await;
    let limited = team.until_says("coder", "ScalingLimited", "True", "TooManyReplicas").await;
    assert_eq!(limited["status"]["limitedBy"], "MaxReplicas");
    let decision = "4 by queue tasks (4 waiting, in flight not known, 1 per replica), held at 2 by spec.maxReplicas";
    assert_eq!(limited["status"]["decision"], decision);
    team.change_pool("coder", json!({ "maxReplicas": 6, "minReplicas": 5 })).await;
    team.until_replicas("coder", 5).await;
    let limited = team.until_says("coder", "ScalingLimited", "True", "TooFewReplicas").await;
    assert_eq!(limited["status"]["limitedBy"], "MinReplicas");
    team.change_pool("coder", json!({ "maxReplicas": null, "minReplicas": null })).await;
    team.until_replicas("coder", 4).await;
    team.until_says("coder", "ScalingLimited", "False", "DesiredWithinRange").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_say_how_many_agents_there_should_be_and_why() {
    let (team, redis) = (Team::new("pool-columns").await, Redis::start().await);
    redis.connect().await.push(TASKS, 7).await;
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "maxReplicas": 3 }))).await;
    // Before the operator has seen it, nothing is claimed.
    let fresh = columns(&team, "coder");
    for column in ["READY", "DESIRED", "CURRENT", "QUEUE", "IN-FLIGHT", "BUDGET", "LIMITED-BY", "DECISION", "REASON"] {
        assert_eq!(fresh(column).as_deref(), Some(""), "{column}");
    }
    let _operator = team.operator_of_pools().await;
    team.until_says("coder", "Ready", "True", "Available").await;
    team.until_pool("coder", "three ready", |pool| pool["status"]["readyReplicas"] == 3).await;
    let shown = columns(&team, "coder");
    for (column, expected) in [
        ("READY", "True"),
        ("DESIRED", "3"),
        ("CURRENT", "3"),
        ("QUEUE", "7"),
        ("IN-FLIGHT", ""),
        ("BUDGET", ""),
        ("LIMITED-BY", "MaxReplicas"),
        ("REASON", "Available"),
    ] {
        assert_eq!(shown(column).as_deref(), Some(expected), "{column}");
    }
    assert!(shown("DECISION").unwrap().starts_with("7 by queue tasks (7 waiting"), "{:?}", shown("DECISION"));
    for name in ["agentpools", "agentpool", "apool", "quartermaster"] {
        assert!(team.kubectl(&["get", name]).contains("coder"), "{name}");
    }
    let (code, said) = team.kubectl_with_input(&["wait", "--for=condition=Ready", "apool/coder", "--timeout=30s"], "");
    assert_eq!(code, 0, "{said}");
    let described = team.kubectl(&["describe", "apool", "coder"]);
    assert!(described.contains("ScalingActive") && described.contains("SuccessfulRescale"), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_somebody_else_scales_is_brought_back_once() {
    let (team, redis) = (Team::new("pool-drift").await, Redis::start().await);
    redis.connect().await.push(TASKS, 2).await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "scaling": at_once() }))).await;
    team.until_replicas("coder", 2).await;
    team.until_says("coder", "Ready", "True", "Available").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let applies = |team: &Team| team.writes().iter().filter(|write| *write == "patch deployments coder-pool").count();
    let before = applies(&team);
    team.kubectl(&["scale", "deployment/coder-pool", "--replicas=5"]);
    team.until_in(&team.deployments(), "coder-pool", "two replicas again", |deployment| {
        deployment["spec"]["replicas"] == 2 && deployment["metadata"]["generation"].as_i64() > Some(2)
    })
    .await;
    team.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(applies(&team), before + 1, "one drift, one apply");
    let api = team.api(&resource("quartermaster.dev", "v1alpha1", "AgentPool", "agentpools"));
    let steady = team.until_in(&api, "coder", "exist", Value::is_object).await;
    assert_eq!(condition(&steady, "Ready").unwrap()["status"], "True");
}
