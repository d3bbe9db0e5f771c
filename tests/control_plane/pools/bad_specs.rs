//! A spec that cannot work: refused by the API server where it can know, else told, and what exists stays.

use serde_json::{Value, json};

use super::harness::{at_once, message, pictures, pool, with};
use super::redis::{Redis, TASKS};
use crate::harness::{Team, condition};

#[tokio::test(flavor = "multi_thread")]
async fn what_contradicts_itself_is_refused_by_the_api_server_with_what_to_do() {
    let team = Team::new("refused-pools").await;
    let list = json!({ "url": "redis://redis:6379", "keys": ["tasks"] });
    let queues = json!([{ "name": "tasks", "redisList": list }]);
    let scaled = |scaling: Value| json!({ "template": pictures(), "queues": queues, "scaling": scaling });
    let queued = |queue: Value| json!({ "template": pictures(), "queues": [queue] });
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" });
    let two_modes = json!({ "step": { "high": 2, "low": 1 }, "proportional": { "tasksPerReplica": 1 } });
    let credentials = json!({ "name": "tasks", "redisList": { "url": "redis://user:word@redis:6379", "keys": ["tasks"] } });
    let two_kinds =
        json!({ "name": "tasks", "redisList": list, "redisStream": { "url": "redis://r", "stream": "s", "group": "g" } });
    for (what, spec, words) in [
        (
            "bounds",
            json!({ "template": pictures(), "minReplicas": 5, "maxReplicas": 4 }),
            "spec.minReplicas must not be above spec.maxReplicas",
        ),
        ("bound", json!({ "template": pictures(), "minReplicas": 11 }), "which is 10 where it is not set"),
        ("marks", scaled(json!({ "step": { "high": 20, "low": 20 } })), "scaling.step.low must be less than scaling.step.high"),
        (
            "marks-crossed",
            scaled(json!({ "step": { "high": 20, "low": 100, "size": 2 } })),
            "scaling.step.low must be less than scaling.step.high",
        ),
        ("modes", scaled(two_modes), "at most one of scaling.proportional, scaling.step, scaling.age"),
        (
            "workloads",
            json!({ "template": pictures(), "targetRef": target }),
            "spec.template and spec.targetRef exclude each other",
        ),
        ("kind", json!({ "targetRef": with(target.clone(), json!({ "kind": "DaemonSet" })) }), "DaemonSet"),
        (
            "version",
            json!({ "targetRef": with(target.clone(), json!({ "apiVersion": "apps/v2" })) }),
            "targetRef.apiVersion must be apps/v1",
        ),
        ("queue", queued(json!({ "name": "tasks" })), "exactly one of redisStream, redisList, prometheus"),
        ("queues", queued(two_kinds), "exactly one of redisStream, redisList, prometheus"),
        ("credentials", queued(credentials), "must not carry credentials"),
        ("age", scaled(json!({ "age": { "maxTaskAge": "2m" } })), "spec.scaling.age needs queues that tell the age of their tasks"),
        (
            "tls",
            queued(json!({ "name": "tasks", "redisList": list, "tls": { "insecureSkipVerify": true } })),
            "tls needs a url of rediss://",
        ),
        ("interval", scaled(json!({ "pollInterval": "soon" })), "spec.scaling.pollInterval"),
    ] {
        let refused = team.try_apply_pool(what, spec).await.expect_err(what).to_string();
        assert!(refused.contains(words), "{what}: {refused}");
    }
    // A queue keeps its kind as well.
    let tasks = json!({ "redisStream": { "url": "redis://redis:6379", "stream": "s", "group": "g" }, "name": "tasks" });
    team.apply_pool("queued", queued(json!({ "name": "tasks", "redisList": list }))).await;
    let refused = team.try_apply_pool("queued", queued(tasks)).await.unwrap_err().to_string();
    assert!(refused.contains("a queue cannot become one of another kind"), "{refused}");
    // What was accepted cannot become it, and keeps its kind of workload.
    team.apply_pool("coder", json!({ "template": pictures(), "minReplicas": 2 })).await;
    let refused = team.try_apply_pool("coder", json!({ "template": pictures(), "minReplicas": 2, "maxReplicas": 1 })).await;
    assert!(refused.unwrap_err().to_string().contains("spec.minReplicas must not be above"));
    let refused = team.try_apply_pool("coder", json!({ "targetRef": target })).await.unwrap_err().to_string();
    assert!(refused.contains("a pool keeps what it was created with"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_the_api_server_refuses_stalls_the_pool_and_the_old_deployment_stays() {
    let (team, redis) = (Team::new("bad-template").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    for (name, tasks) in [("coder", TASKS), ("innocent", "others")] {
        queue.push(tasks, 2).await;
        team.apply_pool(name, pool(redis.list(tasks))).await;
    }
    team.until_says("coder", "Ready", "True", "Available").await;
    let agents = team.until_agents("coder", 2).await;
    let before = team.until_replicas("coder", 2).await;
    let innocent = team.until_says("innocent", "Ready", "True", "Available").await;

    let mut bad = pictures();
    bad["spec"]["restartPolicy"] = json!("Sometimes");
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "template": bad }))).await;
    let refused = team.until_says("coder", "Ready", "False", "InvalidTemplate").await;
    assert_eq!(condition(&refused, "Stalled").unwrap()["status"], "True");
    assert_eq!(condition(&refused, "AbleToScale").unwrap()["status"], "False");
    let words = message(&refused, "Ready");
    for part in ["Deployment coder-pool", "restartPolicy", "Sometimes", "the last good one stays", "spec.template"] {
        assert!(words.contains(part), "{words}");
    }
    team.until_told_once("coder", "Ready", "InvalidTemplate").await;
    let after = team.until_replicas("coder", 2).await;
    assert_eq!(before["spec"], after["spec"], "the Deployment was changed");
    assert_eq!(team.until_agents("coder", 2).await, agents, "the agents were replaced");

    // What no Deployment can be made of is told in the same way.
    let beside = with(pictures(), json!({ "replicas": 3 }));
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "template": beside }))).await;
    let refused = team.until_says("coder", "Ready", "False", "InvalidTemplate").await;
    assert!(message(&refused, "Ready").contains("spec.template.replicas is no member of a pod template"), "{refused}");
    assert_eq!(team.until_agents("coder", 2).await, agents);

    let mut good = pictures();
    good["spec"]["containers"][0]["image"] = json!("registry.example/agent:1.5");
    team.apply_pool("coder", with(pool(redis.list(TASKS)), json!({ "template": good }))).await;
    team.until_says("coder", "Ready", "True", "Available").await;
    assert_ne!(team.until_agents("coder", 2).await, agents);
    let seen: Vec<u64> = deployments.replicas_of("coder-pool").iter().map(|(_, replicas)| *replicas).collect();
    assert!(seen == [2] || seen == [0, 2], "{seen:?}");
    let still = team.until_says("innocent", "Ready", "True", "Available").await;
    assert_eq!(condition(&innocent, "Ready"), condition(&still, "Ready"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_a_workload_and_one_without_a_queue_say_so() {
    let team = Team::new("without").await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("caller", json!({})).await;
    let caller = team.until_says("caller", "Ready", "True", "NoWorkload").await;
    assert!(condition(&caller, "MetricsAvailable").is_none());
    team.apply_pool("fixed", json!({ "template": pictures(), "minReplicas": 1 })).await;
    team.until_says("fixed", "ScalingActive", "False", "NoQueue").await;
    team.until_replicas("fixed", 1).await;
    let made = team.kubectl(&["get", "deployments", "-o", "name"]);
    assert_eq!(made.trim(), "deployment.apps/fixed-pool");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_by_somebody_elses_deployment_stalls_the_pool_and_leaves_that_alone() {
    let (team, redis) = (Team::new("taken").await, Redis::start().await);
    redis.connect().await.push(TASKS, 2).await;
    let _operator = team.operator_of_pools().await;
    team.kubectl(&["create", "deployment", "coder-pool", "--image=registry.example/other:1", "--replicas=1"]);
    let foreign = team.until_replicas("coder", 1).await;
    team.apply_pool("coder", json!({ "template": pictures(), "queues": redis.list(TASKS), "scaling": at_once() })).await;
    let stalled = team.until_says("coder", "Ready", "False", "NameInUse").await;
    assert_eq!(condition(&stalled, "Stalled").unwrap()["status"], "True");
    assert!(message(&stalled, "Ready").contains("coder-pool"), "{stalled}");
    team.until_told_once("coder", "Ready", "NameInUse").await;
    let after = team.until_replicas("coder", 1).await;
    assert_eq!((&foreign["spec"], &foreign["metadata"]["uid"]), (&after["spec"], &after["metadata"]["uid"]));
}
