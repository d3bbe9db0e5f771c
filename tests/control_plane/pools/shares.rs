//! Several pools on one queue, and several queues of one pool.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{at_once, pictures, pool, with};
use super::redis::{Redis, TASKS};
use crate::harness::Team;

#[tokio::test(flavor = "multi_thread")]
async fn of_pools_on_one_queue_the_critical_one_is_filled_first_and_the_others_have_the_rest() {
    let (team, redis) = (Team::new("critical").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let _operator = team.operator_of_pools().await;
    let taker =
        |criticality: &str, most: u32| with(pool(redis.list(TASKS)), json!({ "criticality": criticality, "maxReplicas": most }));
    team.apply_pool("batch", taker("BestEffort", 5)).await;
    team.apply_pool("interactive", taker("Critical", 3)).await;
    for name in ["batch", "interactive"] {
        team.until_says(name, "Ready", "True", "ScaledToZero").await;
        team.until_says(name, "MetricsAvailable", "True", "QueuesRead").await;
    }
    let deployments = team.watch_deployments().await;
    queue.push(TASKS, 2).await;
    team.until_replicas("interactive", 2).await;
    team.until_quiet(Duration::from_secs(2)).await;
    let idle = deployments.replicas_of("batch-pool");
    assert!(idle.iter().all(|(_, replicas)| *replicas == 0), "two tasks are the critical one's alone: {idle:?}");
    queue.push(TASKS, 5).await;
    team.until_replicas("interactive", 3).await;
    team.until_replicas("batch", 4).await;
    let batch = team.until_pool("batch", "four", |pool| pool["status"]["desiredReplicas"] == 4).await;
    let decision = batch["status"]["decision"].as_str().unwrap();
    assert_eq!(decision, "4 by queue tasks (4 waiting, in flight not known, 1 per replica)", "its own part is told");
    // When the critical one is stopped, the other takes its tasks over, as far as it may.
    team.change_pool("interactive", json!({ "suspend": true })).await;
    team.until_replicas("batch", 5).await;
    team.change_pool("interactive", json!({ "suspend": null })).await;
    team.until_replicas("batch", 4).await;
    // And so when it goes.
    team.pools().delete("interactive", &Default::default()).await.unwrap();
    team.until_replicas("batch", 5).await;
    // Another criticality counts at once.
    team.apply_pool("interactive", taker("BestEffort", 5)).await;
    let both = async |name| {
        team.until_pool(name, "its half", |pool| [3, 4].map(Value::from).contains(&pool["status"]["desiredReplicas"])).await
    };
    let (one, other) = (both("batch").await, both("interactive").await);
    let wanted = |pool: &Value| pool["status"]["desiredReplicas"].as_u64().unwrap();
    assert_eq!(wanted(&one) + wanted(&other), 7, "no task is counted twice, and none is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_queues_the_one_that_needs_the_most_decides_or_all_together() {
    let (team, redis) = (Team::new("several").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.push("one", 2).await;
    queue.push("other", 3).await;
    let _operator = team.operator_of_pools().await;
    let named = |name: &str| with(redis.list(name)[0].clone(), json!({ "name": name }));
    let spec = json!({ "template": pictures(), "queues": [named("one"), named("other")], "scaling": at_once() });
    team.apply_pool("coder", spec.clone()).await;
    team.until_replicas("coder", 3).await;
    let said = team.until_pool("coder", "three", |pool| pool["status"]["desiredReplicas"] == 3).await;
    assert!(said["status"]["decision"].as_str().unwrap().starts_with("3 by queue other (3 waiting"), "{}", said["status"]);
    assert_eq!(said["status"]["queueDepth"], 5);
    team.apply_pool("coder", with(spec, json!({ "scaling": with(at_once(), json!({ "combine": "Sum" })) }))).await;
    team.until_replicas("coder", 5).await;
    let said = team.until_pool("coder", "five", |pool| pool["status"]["desiredReplicas"] == 5).await;
    assert!(said["status"]["decision"].as_str().unwrap().starts_with("5 by the sum of the queues"), "{}", said["status"]);
    // One that cannot be read takes nobody away, and another one adds.
    queue.run("DEL one").await;
    team.until_replicas("coder", 3).await;
    queue.run("SET one text").await;
    team.until_says("coder", "MetricsAvailable", "False", "UnexpectedAnswer").await;
    queue.run("DEL other").await;
    queue.push("other", 1).await;
    let held = team.until_pool("coder", "held", |pool| pool["status"]["limitedBy"] == "QueueFailure").await;
    assert_eq!(held["status"]["desiredReplicas"], 3);
    queue.push("other", 3).await;
    team.until_replicas("coder", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_and_age_add_and_remove_a_few_agents_at_a_time() {
    let (team, redis) = (Team::new("modes").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    let mode = |mode: Value| {
        let mut scaling = with(at_once(), mode);
        scaling.as_object_mut().unwrap().remove("proportional");
        scaling
    };
    queue.push("steps", 10).await;
    let steps = mode(json!({ "step": { "high": 5, "low": 2, "size": 2 } }));
    let spec = with(pool(redis.list("steps")), json!({ "scaling": steps, "maxReplicas": 6 }));
    team.apply_pool("steps", spec).await;
    let aged = mode(json!({ "age": { "maxTaskAge": "2s" } }));
    let spec = with(pool(redis.stream(TASKS)), json!({ "scaling": aged, "maxReplicas": 3 }));
    team.apply_pool("aged", spec).await;
    super::agents::add(&mut queue, 0, 1).await;
    team.until_replicas("steps", 6).await;
    // Nobody takes the task, which gets older than it should.
    team.until_replicas("aged", 3).await;
    let sizes = async |name: &str, last: u64| -> Vec<u64> {
        let seen = deployments.until_replicas_of(name, last).await;
        seen.iter().map(|(_, replicas)| *replicas).filter(|replicas| *replicas > 0).collect()
    };
    assert_eq!(sizes("steps-pool", 6).await, [2, 4, 6]);
    assert_eq!(sizes("aged-pool", 3).await, [1, 2, 3]);
    // Between the marks nothing changes; below them they go again.
    queue.run("LTRIM steps 0 2").await;
    team.until_pool("steps", "nothing to hold back", |pool| pool["status"]["limitedBy"].is_null()).await;
    assert_eq!(sizes("steps-pool", 6).await, [2, 4, 6]);
    queue.run("LTRIM steps 0 0").await;
    team.until_replicas("steps", 1).await;
    assert_eq!(sizes("steps-pool", 1).await, [2, 4, 6, 4, 2, 1]);
    queue.run("DEL steps").await;
    team.until_replicas("steps", 0).await;
}
