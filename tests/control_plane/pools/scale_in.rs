//! Who ends when there are too many agents. The agents are pictures: the test takes their tasks under the names of their pods, so
//! that it decides who is at work.

use std::time::Duration;

use quartermaster_dev::fault_proxy::{Action, Match, Verb};
use serde_json::{Value, json};

use super::agents::add;
use super::harness::{one_for, pictures, pool, says, with};
use super::redis::{Connection, GROUP, Redis, TASKS};
use super::targets::{create, scaling, workload};
use crate::faulty::Faulty;
use crate::harness::{Team, resource};

/// The annotation by which a ReplicaSet chooses among pods that are equally ready.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Adds tasks to the stream, whose group is there from the start.
async fn fill(queue: &mut Connection, number: usize) {
    for task in 0..number {
        add(queue, task, 1).await;
    }
}

async fn acknowledge(queue: &mut Connection, ids: &[String]) {
    queue.run(&format!("XACK {TASKS} {GROUP} {}", ids.join(" "))).await;
}

/// The cost of the deletion of each pod of a team, by name.
async fn costs(team: &Team) -> Vec<(String, Option<String>)> {
    let pods = team.api(&resource("", "v1", "Pod", "pods")).list(&Default::default()).await.unwrap();
    let cost = |annotations: Option<std::collections::BTreeMap<String, String>>| annotations.and_then(|all| all.get(COST).cloned());
    pods.items.into_iter().map(|pod| (pod.metadata.name.unwrap(), cost(pod.metadata.annotations))).collect()
}

/// The writes to pods and Deployments, in their order.
fn acts(writes: &[String]) -> Vec<&str> {
    let is_act = |write: &&String| write.contains(" pods ") || write.contains(" deployments ");
    writes.iter().filter(is_act).map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_agents_are_marked_before_the_deployment_gets_smaller_and_those_at_work_stay() {
    let (team, redis) = (Team::new("idle-first").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
    let pods = team.watch_pods().await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", pool(redis.stream(TASKS))).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    fill(&mut queue, 5).await;
    team.until_replicas("coder", 5).await;
    let mut agents = team.until_agents("coder", 5).await;
    fastrand::shuffle(&mut agents);
    let (at_work, idle) = agents.split_at(2);
    for agent in at_work {
        queue.take(agent).await;
    }
    // The other tasks are done all at once, so that there is one scale-in.
    let mut ids = Vec::new();
    for agent in idle {
        ids.push(queue.take(agent).await);
    }
    team.until_quiet(Duration::from_secs(2)).await;
    let before = team.writes().len();
    acknowledge(&mut queue, &ids).await;
    team.until_replicas("coder", 2).await;
    let mut stayed = at_work.to_vec();
    stayed.sort();
    assert_eq!(team.until_agents("coder", 2).await, stayed);

    team.until_quiet(Duration::from_secs(2)).await;
    let writes = team.writes().split_off(before);
    let acts = acts(&writes);
    let (marks, rest) = acts.split_at(idle.len().min(acts.len()));
    let mut expected: Vec<String> = idle.iter().map(|agent| format!("patch pods {agent}")).collect();
    expected.sort();
    let mut marked = marks.to_vec();
    marked.sort_unstable();
    assert_eq!(marked, expected, "those that end are marked first: {acts:?}");
    assert_eq!(rest, ["patch deployments coder-pool"], "then it gets smaller, once: {acts:?}");
    for agent in idle {
        let marked = pods.of(agent).iter().any(|version| version.object["metadata"]["annotations"][COST] == "-100");
        assert!(marked, "{agent} was never seen as cheap");
    }
    assert!(costs(&team).await.iter().all(|(_, cost)| cost.is_none()), "{:?}", costs(&team).await);
    let told = team.until_pool("coder", "two", |pool| pool["status"]["desiredReplicas"] == 2).await;
    assert_eq!(told["status"]["inFlight"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_is_taken_back_from_agents_that_stay_after_all() {
    let faulty = Faulty::new("marks").await;
    let redis = Redis::start().await;
    let mut queue = redis.connect().await;
    queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
    faulty.start_operator();
    faulty.apply_pool("coder", pool(redis.stream(TASKS))).await;
    faulty.until_says("coder", "Ready", "True", "ScaledToZero").await;
    fill(&mut queue, 4).await;
    faulty.until_replicas("coder", 4).await;
    let agents = faulty.until_agents("coder", 4).await;
    let mut ids = Vec::new();
    for agent in &agents {
        ids.push(queue.take(agent).await);
    }
    // The Deployment cannot be changed for now: the marks are set, and nobody ends.
    let refusal = Action::Status { code: 503, retry_after: None };
    let broken = faulty.proxy.add(Match::all().verb(Verb::Apply).resource("deployments").name("coder-pool"), refusal);
    acknowledge(&mut queue, &ids[..2]).await;
    let pods = faulty.api(&resource("", "v1", "Pod", "pods"));
    for agent in &agents[..2] {
        let is_marked = |pod: &Value| pod["metadata"]["annotations"][COST] == "-100";
        faulty.until_in(&pods, agent, "be marked", is_marked).await;
    }
    // Killed in between, another operator finds the marks.
    faulty.restart();
    fill(&mut queue, 2).await;
    for agent in &agents {
        let is_unmarked = |pod: &Value| pod["metadata"]["annotations"][COST].is_null();
        faulty.until_in(&pods, agent, "not be marked", is_unmarked).await;
    }
    faulty.proxy.remove(broken);
    faulty.until_says("coder", "Ready", "True", "Available").await;
    faulty.until_replicas("coder", 4).await;
    assert_eq!(faulty.until_agents("coder", 4).await, agents, "somebody was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_at_work_are_waited_for_where_the_spec_says_so() {
    let (team, redis) = (Team::new("wait-for-idle").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    let more = json!({ "scaling": one_for(2), "scaleIn": { "waitForIdle": "10m" } });
    team.apply_pool("coder", with(pool(redis.stream(TASKS)), more)).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    fill(&mut queue, 8).await;
    team.until_replicas("coder", 4).await;
    let agents = team.until_agents("coder", 4).await;
    // Each has one, and the others are done at once: two agents would be enough for four tasks in flight.
    let (mut ids, mut others) = (Vec::new(), Vec::new());
    for agent in &agents {
        ids.push(queue.take(agent).await);
    }
    for agent in &agents {
        others.push(queue.take(agent).await);
    }
    acknowledge(&mut queue, &others).await;
    let held = team.until_says("coder", "ScalingLimited", "True", "BusyAgents").await;
    assert_eq!(held["status"]["limitedBy"], "BusyAgents");
    assert_eq!(held["status"]["decision"], "2 by queue tasks (0 waiting, 4 in flight, 2 per replica), held at 4 by agents at work");
    // As soon as one is idle it ends, and only that one.
    acknowledge(&mut queue, &ids[3..]).await;
    team.until_replicas("coder", 3).await;
    assert_eq!(team.until_agents("coder", 3).await, agents[..3]);
    acknowledge(&mut queue, &ids[1..2]).await;
    team.until_replicas("coder", 2).await;
    assert_eq!(team.until_agents("coder", 2).await, [agents[0].clone(), agents[2].clone()]);
    let seen: Vec<u64> = deployments.until_replicas_of("coder-pool", 2).await.iter().map(|(_, replicas)| *replicas).collect();
    assert_eq!(seen[seen.len() - 3..], [4, 3, 2], "{seen:?}");
    // The last ones: never none while something is in flight.
    acknowledge(&mut queue, &ids[..1]).await;
    team.until_replicas("coder", 1).await;
    assert_eq!(team.until_agents("coder", 1).await, [agents[2].clone()]);
    team.until_quiet(Duration::from_secs(4)).await;
    team.until_replicas("coder", 1).await;
    acknowledge(&mut queue, &ids[2..3]).await;
    team.until_replicas("coder", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_waiting_agents_at_work_are_told_to_end_when_there_are_too_many() {
    let (team, redis) = (Team::new("no-waiting").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
    let _operator = team.operator_of_pools().await;
    team.apply_pool("coder", with(pool(redis.stream(TASKS)), json!({ "scaling": one_for(2) }))).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    fill(&mut queue, 8).await;
    team.until_replicas("coder", 4).await;
    let agents = team.until_agents("coder", 4).await;
    // Each has two tasks; two of them are done with one.
    let mut lazy = Vec::new();
    for agent in agents.iter().chain(&agents) {
        let id = queue.take(agent).await;
        if agents[..2].contains(agent) && lazy.len() < 2 {
            lazy.push(id);
        }
    }
    acknowledge(&mut queue, &lazy).await;
    // Six tasks are in flight: three agents are enough, and one with one task ends before those with two.
    team.until_replicas("coder", 3).await;
    let left = team.until_agents("coder", 3).await;
    assert!(left.contains(&agents[2]) && left.contains(&agents[3]), "of {agents:?}, {left:?} stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_shrinks_only_as_far_as_its_highest_ordinals_are_idle() {
    let (team, redis) = (Team::new("ordinals").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.run(&format!("XGROUP CREATE {TASKS} {GROUP} $ MKSTREAM")).await;
    let _operator = team.operator_of_pools().await;
    create(&team, &workload("StatefulSet", "set", 0));
    team.apply_pool("coder", scaling("StatefulSet", "set", redis.stream(TASKS))).await;
    let sets = team.api(&resource("apps", "v1", "StatefulSet", "statefulsets"));
    let until_has = async |replicas: u64| {
        team.until_in(&sets, "set", &format!("{replicas} replicas"), |set| set["spec"]["replicas"] == replicas).await
    };
    fill(&mut queue, 4).await;
    until_has(4).await;
    assert_eq!(team.until_pods("app=set", 4).await, ["set-0", "set-1", "set-2", "set-3"]);
    let busy = queue.take("set-2").await;
    let mut others = Vec::new();
    for agent in ["set-0", "set-1", "set-3"] {
        others.push(queue.take(agent).await);
    }
    acknowledge(&mut queue, &others).await;
    until_has(3).await;
    let held = team.until_says("coder", "ScalingLimited", "True", "BusyAgents").await;
    assert_eq!(held["status"]["desiredReplicas"], 3);
    assert_eq!(team.until_pods("app=set", 3).await, ["set-0", "set-1", "set-2"]);
    acknowledge(&mut queue, &[busy]).await;
    until_has(0).await;
    assert!(!team.writes().iter().any(|write| write.contains(" pods ")), "a StatefulSet knows no cost of deletion");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_knows_who_is_at_work_kubernetes_order_holds_and_no_pod_is_marked() {
    let (team, redis) = (Team::new("unknown-busy").await, Redis::start().await);
    let mut queue = redis.connect().await;
    queue.push(TASKS, 4).await;
    let _operator = team.operator_of_pools().await;
    let mut queues = redis.list(TASKS);
    queues[0]["redisList"]["processingKeys"] = json!(["taken"]);
    team.apply_pool("coder", with(pool(queues), json!({ "template": pictures() }))).await;
    team.until_replicas("coder", 4).await;
    team.until_agents("coder", 4).await;
    // Both kinds of tasks need agents.
    queue.run(&format!("LMOVE {TASKS} taken RIGHT LEFT")).await;
    team.until_quiet(Duration::from_secs(2)).await;
    team.until_replicas("coder", 4).await;
    queue.run(&format!("DEL {TASKS}")).await;
    team.until_replicas("coder", 1).await;
    let alone = team.until_pool("coder", "one", |pool| pool["status"]["desiredReplicas"] == 1).await;
    assert!(says(&alone, "ScalingActive", "True", "QueuesFollowed"), "{alone}");
    assert_eq!(alone["status"]["inFlight"], 1);
    team.until_agents("coder", 1).await;
    assert!(!team.writes().iter().any(|write| write.contains(" pods ")), "{:?}", team.writes());
}
