//! How pools use the rights of deploy/rbac.yaml.

use serde_json::{Value, json};

use super::agents::add;
use super::harness::{message, pictures, pool, with};
use super::redis::{GROUP, Redis, TASKS};
use super::targets::{create, scaling, workload};
use crate::harness::{Team, condition, resource};
use crate::rights::{change_rules, is_about};

/// Has a running operator that may reach loopback use every right that it has for pools.
pub async fn use_every_right_on_pools(team: &Team) {
    let redis = Redis::start().await;
    let mut queue = redis.connect().await;
    queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
    for (kind, name) in [("Deployment", "web"), ("StatefulSet", "set")] {
        create(team, &workload(kind, name, 1));
        let mut spec = scaling(kind, name, redis.list(TASKS));
        spec["replicas"] = json!(2);
        spec["queues"] = json!([]);
        team.apply_pool(name, spec).await;
        team.until_says(name, "Ready", "True", "Available").await;
    }
    team.apply_pool("coder", pool(redis.stream(TASKS))).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    // Agents that end are marked before: pods are patched.
    add(&mut queue, 0, 1).await;
    add(&mut queue, 1, 1).await;
    let agents = team.until_agents("coder", 2).await;
    let budgets = team.api(&resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"));
    team.until_in(&budgets, "coder-pool", "exist", |budget| budget.is_object()).await;
    let done = queue.take(&agents[0]).await;
    queue.take(&agents[1]).await;
    queue.run(&format!("XACK {TASKS} {GROUP} {done}")).await;
    assert_eq!(team.until_agents("coder", 1).await, agents[1..]);
    team.apply_pool("coder", with(pool(redis.stream(TASKS)), json!({ "maxReplicas": 1 }))).await;
    team.until_in(&budgets, "coder-pool", "go", |budget| budget.is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_scale_a_target_the_pool_names_it_and_goes_on_when_it_returns() {
    let (team, redis) = (Team::new("no-scale").await, Redis::start().await);
    redis.connect().await.push(TASKS, 2).await;
    let mut taken = Value::Null;
    change_rules(&team, |rules| {
        let place = rules.iter().position(|rule| is_about(rule, "deployments/scale")).unwrap();
        taken = rules.remove(place);
    })
    .await;
    let _operator = team.operator_of_pools().await;
    create(&team, &workload("Deployment", "web", 1));
    team.apply_pool("coder", scaling("Deployment", "web", redis.list(TASKS))).await;
    let refused = team.until_says("coder", "Ready", "False", "Forbidden").await;
    let words = message(&refused, "Ready");
    for part in ["deployments/scale", "API group \"apps\"", "deploy/rbac.yaml"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(condition(&refused, "Reconciling").unwrap()["status"], "True", "it goes on by itself");
    assert_eq!(condition(&refused, "AbleToScale").unwrap()["status"], "False");
    change_rules(&team, |rules| rules.push(taken)).await;
    team.until_says("coder", "Ready", "True", "Available").await;
    let scaled = |deployment: &Value| deployment["spec"]["replicas"] == 2;
    team.until_in(&team.deployments(), "web", "two replicas", scaled).await;
}

/// No request carries the right to update finalizers: admission asks for it when a child names its owner.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_on_finalizers_no_child_of_a_pool_can_name_its_owner() {
    let team = Team::new("pool-finalizers").await;
    let mut taken = Value::Null;
    change_rules(&team, |rules| {
        let rule = rules.iter_mut().find(|rule| is_about(rule, "agentpools/finalizers")).unwrap();
        taken = rule["verbs"].take();
        rule["verbs"] = json!(["get"]);
    })
    .await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", json!({ "template": pictures(), "replicas": 1 })).await;
    let refused = team.until_says("coder", "Ready", "False", "Forbidden").await;
    assert!(message(&refused, "Ready").contains("cannot set blockOwnerDeletion"), "{refused}");
    assert!(team.deployments().get_opt("coder-pool").await.unwrap().is_none());
    change_rules(&team, |rules| {
        rules.iter_mut().find(|rule| is_about(rule, "agentpools/finalizers")).unwrap()["verbs"] = taken;
    })
    .await;
    team.until_says("coder", "Ready", "True", "Available").await;
}
