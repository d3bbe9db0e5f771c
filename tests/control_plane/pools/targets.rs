//! Workloads that exist already: only their scale is changed, and only by one.

use std::time::Duration;

use kube::api::{Api, DynamicObject};
use serde_json::{Value, json};

use super::harness::{at_once, message, with};
use super::redis::{Redis, TASKS};
use crate::harness::{Team, condition, resource};
use crate::versions::Watched;

fn stateful_sets(team: &Team) -> Api<DynamicObject> {
    team.api(&resource("apps", "v1", "StatefulSet", "statefulsets"))
}

/// A workload of pictures, made by somebody else.
pub fn workload(kind: &str, name: &str, replicas: u32) -> Value {
    let labels = json!({ "app": name });
    let mut workload = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name, "labels": { "team": "ours" } },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "agent", "image": "registry.example/other:1" }] },
            },
        },
    });
    if kind == "StatefulSet" {
        workload["spec"]["serviceName"] = json!(name);
        workload["spec"]["podManagementPolicy"] = json!("Parallel");
    }
    workload
}

pub fn create(team: &Team, object: &Value) {
    let (code, said) = team.kubectl_with_input(&["create", "-f", "-"], &object.to_string());
    assert_eq!(code, 0, "{said}");
}

/// `spec` of a pool that scales a workload.
pub fn scaling(kind: &str, name: &str, queues: Value) -> Value {
    json!({
        "targetRef": { "apiVersion": "apps/v1", "kind": kind, "name": name },
        "queues": queues, "scaling": at_once(),
    })
}

async fn until_has(team: &Team, kind: &str, name: &str, replicas: u64) -> Value {
    let api = if kind == "StatefulSet" { stateful_sets(team) } else { team.deployments() };
    let what = format!("{replicas} replicas");
    team.until_in(&api, name, &what, |object| object["spec"]["replicas"] == replicas).await
}

/// What the managers of an object's fields own, without those that make and run it in a cluster without the operator.
fn managed(team: &Team, kind: &str, name: &str) -> Vec<(String, Value)> {
    let text = team.kubectl(&["get", kind, name, "-o", "json", "--show-managed-fields"]);
    let object: Value = serde_json::from_str(&text).unwrap();
    let fields = object["metadata"]["managedFields"].as_array().unwrap().clone();
    let manager = |field: &Value| field["manager"].as_str().unwrap().to_owned();
    let others = fields.into_iter().filter(|field| !manager(field).starts_with("kube") && manager(field) != "before-first-apply");
    others.map(|field| (manager(&field), field["fieldsV1"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_deployment_and_a_stateful_set_nothing_but_the_scale_is_touched() {
    let (team, redis) = (Team::new("targets").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let _operator = team.operator_of_pools().await;
    for (kind, name) in [("Deployment", "web"), ("StatefulSet", "set")] {
        create(&team, &workload(kind, name, 1));
        queue.push(name, 3).await;
        team.apply_pool(&format!("pool-of-{name}"), scaling(kind, name, redis.list(name))).await;
    }
    for (kind, name) in [("Deployment", "web"), ("StatefulSet", "set")] {
        let pool = format!("pool-of-{name}");
        let scaled = until_has(&team, kind, name, 3).await;
        team.until_pods(&format!("app={name}"), 3).await;
        let ready = team.until_pool(&pool, "three ready", |pool| pool["status"]["readyReplicas"] == 3).await;
        assert_eq!(ready["status"]["selector"], format!("app={name}"));
        team.until_says(&pool, "Ready", "True", "Available").await;
        assert!(scaled["metadata"]["ownerReferences"].is_null(), "it has become somebody's child: {scaled}");
        assert_eq!(scaled["metadata"]["labels"], json!({ "team": "ours" }));
        assert_eq!(scaled.pointer("/spec/template/spec/containers/0/image"), Some(&json!("registry.example/other:1")));
        let managed = managed(&team, kind, name);
        assert_eq!(managed.len(), 1, "{managed:#?}");
        assert_eq!(managed[0].1, json!({ "f:spec": { "f:replicas": {} } }), "{managed:#?}");
        // Back to none, and the user's own scale counts as little as for a template.
        queue.run(&format!("DEL {name}")).await;
        until_has(&team, kind, name, 0).await;
        team.until_says(&pool, "Ready", "True", "ScaledToZero").await;
    }
    team.until_quiet(Duration::from_secs(2)).await;
    let mut writes = team.writes();
    writes.retain(|write| !write.contains("agentpools/status") && !write.contains(" pods "));
    for (resource, name) in [("deployments", "web"), ("statefulsets", "set")] {
        let scale = format!("patch {resource}/scale {name}");
        // Up, to the last one for the cooldown, and to none.
        assert_eq!(writes.iter().filter(|write| **write == scale).count(), 3, "{writes:?}");
        writes.retain(|write| *write != scale);
    }
    assert_eq!(writes, [""; 0], "something else was written");
    // A pool that goes takes nothing with it.
    team.pools().delete("pool-of-web", &Default::default()).await.unwrap();
    team.until_pool("pool-of-web", "gone", Value::is_null).await;
    team.until_quiet(Duration::from_secs(1)).await;
    assert_eq!(until_has(&team, "Deployment", "web", 0).await["metadata"]["deletionTimestamp"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_does_not_exist_is_waited_for_and_scaled_when_it_comes() {
    let (team, redis) = (Team::new("no-target").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let _operator = team.operator_of_pools().await;
    for (kind, name) in [("Deployment", "web"), ("StatefulSet", "set")] {
        let pool = format!("pool-of-{name}");
        queue.push(name, 2).await;
        team.apply_pool(&pool, scaling(kind, name, redis.list(name))).await;
        let waits = team.until_says(&pool, "Ready", "False", "TargetNotFound").await;
        assert_eq!(condition(&waits, "Reconciling").unwrap()["status"], "True", "it goes on by itself");
        assert_eq!(condition(&waits, "AbleToScale").unwrap()["status"], "False");
        let words = message(&waits, "Ready");
        assert!(words.contains(&format!("spec.targetRef names the {kind} {name}, which does not exist")), "{words}");
        team.until_told_once(&pool, "Ready", "TargetNotFound").await;
    }
    for (kind, name) in [("Deployment", "web"), ("StatefulSet", "set")] {
        create(&team, &workload(kind, name, 1));
        until_has(&team, kind, name, 2).await;
        team.until_says(&format!("pool-of-{name}"), "Ready", "True", "Available").await;
        team.kubectl(&["delete", kind, name]);
        team.until_says(&format!("pool-of-{name}"), "Ready", "False", "TargetNotFound").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_an_autoscaler_scales_is_left_to_it_until_that_is_gone() {
    let (team, redis) = (Team::new("autoscaled").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.push(TASKS, 3).await;
    queue.push("others", 3).await;
    let _operator = team.operator_of_pools().await;
    create(&team, &workload("Deployment", "web", 1));
    create(&team, &workload("Deployment", "free", 1));
    let deployments = team.watch_deployments().await;
    create(
        &team,
        &json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "scaler" },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" }, "minReplicas": 1, "maxReplicas": 2,
                "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }],
            },
        }),
    );
    team.apply_pool("coder", scaling("Deployment", "web", redis.list(TASKS))).await;
    team.apply_pool("innocent", scaling("Deployment", "free", redis.list("others"))).await;
    let stalled = team.until_says("coder", "Ready", "False", "TargetInUse").await;
    assert_eq!(condition(&stalled, "Stalled").unwrap()["status"], "True");
    let words = message(&stalled, "Ready");
    assert!(words.contains("Deployment web") && words.contains("HorizontalPodAutoscaler scaler"), "{words}");
    team.until_told_once("coder", "Ready", "TargetInUse").await;
    until_has(&team, "Deployment", "free", 3).await;
    team.until_quiet(Duration::from_secs(3)).await;
    assert!(deployments.replicas_of("web").iter().all(|(_, replicas)| *replicas == 1), "{:?}", deployments.replicas_of("web"));

    team.kubectl(&["delete", "hpa", "scaler"]);
    until_has(&team, "Deployment", "web", 3).await;
    team.until_says("coder", "Ready", "True", "Available").await;
    // One that comes later takes the target away from the pool in the same way.
    create(
        &team,
        &json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "later" },
            "spec": {
                "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" }, "minReplicas": 3, "maxReplicas": 4,
                "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }],
            },
        }),
    );
    let stalled = team.until_says("coder", "Ready", "False", "TargetInUse").await;
    assert!(message(&stalled, "Ready").contains("HorizontalPodAutoscaler later"), "{stalled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pools_on_one_target_the_earlier_scales_it_and_the_later_says_by_whom_it_is_in_use() {
    let (team, redis) = (Team::new("two-on-one").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.push("first", 2).await;
    queue.push("second", 4).await;
    let _operator = team.operator_of_pools().await;
    create(&team, &workload("StatefulSet", "set", 1));
    let sets = Watched::begin(stateful_sets(&team)).await.unwrap();
    // The names are in the other order than the creation.
    team.apply_pool("z-first", scaling("StatefulSet", "set", redis.list("first"))).await;
    until_has(&team, "StatefulSet", "set", 2).await;
    // Times of creation are whole seconds.
    let first = team.until_pool("z-first", "exist", Value::is_object).await;
    let created = first["metadata"]["creationTimestamp"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    while jiff::Timestamp::now().as_second() <= created.as_second() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    team.apply_pool("a-second", scaling("StatefulSet", "set", redis.list("second"))).await;
    let stalled = team.until_says("a-second", "Ready", "False", "TargetInUse").await;
    assert_eq!(condition(&stalled, "Stalled").unwrap()["status"], "True");
    assert!(message(&stalled, "Ready").contains("AgentPool z-first"), "{stalled}");
    team.until_told_once("a-second", "Ready", "TargetInUse").await;
    team.until_says("z-first", "Ready", "True", "Available").await;
    team.until_quiet(Duration::from_secs(2)).await;
    let seen: Vec<u64> = sets.replicas_of("set").iter().map(|(_, replicas)| *replicas).collect();
    assert!(seen == [1, 2] || seen == [2], "both scaled it: {seen:?}");

    team.pools().delete("z-first", &Default::default()).await.unwrap();
    until_has(&team, "StatefulSet", "set", 4).await;
    team.until_says("a-second", "Ready", "True", "Available").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_on_a_target_follows_a_pin_and_a_suspension_as_one_with_a_template() {
    let (team, redis) = (Team::new("pinned-target").await, Redis::start().await);
    redis.connect().await.push(TASKS, 2).await;
    let _operator = team.operator_of_pools().await;
    create(&team, &workload("Deployment", "web", 1));
    team.apply_pool("coder", with(scaling("Deployment", "web", redis.list(TASKS)), json!({ "suspend": true }))).await;
    team.until_says("coder", "Suspended", "True", "Suspended").await;
    team.until_quiet(Duration::from_secs(2)).await;
    until_has(&team, "Deployment", "web", 1).await;
    team.change_pool("coder", json!({ "suspend": null, "replicas": 4 })).await;
    until_has(&team, "Deployment", "web", 4).await;
    team.change_pool("coder", json!({ "replicas": null })).await;
    until_has(&team, "Deployment", "web", 2).await;
    team.until_says("coder", "Ready", "True", "Available").await;
}
