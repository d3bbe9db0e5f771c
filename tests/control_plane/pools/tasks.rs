//! Agents that really run, on a real queue: they come when there are tasks, do each once, and go again, also those that are at
//! work when there are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fastrand::Rng;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::agents::{Record, add, done, each_once, number_done, on_list, on_stream, push, until_done};
use super::harness::{at_once, falls, one_for, with};
use super::redis::{Redis, TASKS};
use crate::crashes::seeded;
use crate::harness::{DEADLINE, Team};
use crate::versions::Version;

/// Tasks of the long run.
const NUMBER: usize = 1000;
/// The most agents in it.
const MOST: u64 = 24;
/// The tasks of its first burst.
const BURST: usize = 300;

/// How long a task takes: from 20 to 1,500 ms, the short ones more often.
fn milliseconds(chance: &mut Rng) -> u64 {
    let steps = chance.u64(0..=1000);
    20 + 1480 * steps * steps / 1_000_000
}

/// When each pod was told to end, in milliseconds since 1970.
fn ends(pods: &[Version]) -> BTreeMap<String, i64> {
    let mut ends = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.object["metadata"]["deletionTimestamp"].is_null()) {
        let name = pod.object["metadata"]["name"].as_str().unwrap().to_owned();
        ends.entry(name).or_insert(pod.at.as_millisecond());
    }
    ends
}

/// The exit codes of the pods' containers, by pod.
fn exit_codes(pods: &[Version]) -> BTreeMap<String, i64> {
    let mut codes = BTreeMap::new();
    for pod in pods {
        let code = pod.object.pointer("/status/containerStatuses/0/state/terminated/exitCode").and_then(Value::as_i64);
        codes.extend(code.map(|code| (pod.object["metadata"]["name"].as_str().unwrap().to_owned(), code)));
    }
    codes
}

/// The agents that were told to end while they had a task.
fn ended_at_work<'records>(records: &'records [Record], ends: &BTreeMap<String, i64>) -> BTreeSet<&'records str> {
    let at_work = |record: &&Record| ends.get(&record.consumer).is_some_and(|end| (record.began..record.ended).contains(end));
    records.iter().filter(at_work).map(|record| record.consumer.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_tasks_each_is_done_once_though_agents_at_work_are_ended() {
    let (team, redis, mut chance) = (Team::new("thousand").await, Redis::start().await, seeded());
    let mut queue = redis.connect().await;
    let (deployments, pods) = (team.watch_deployments().await, team.watch_pods().await);
    let _operator = team.operator_of_pools().await;
    let spec = json!({
        "template": on_stream(&redis, &[]), "queues": redis.stream(TASKS), "scaling": one_for(2), "maxReplicas": MOST,
    });
    team.apply_pool("coder", spec).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    team.until_replicas("coder", 0).await;

    let mut added = 0;
    while added < BURST {
        add(&mut queue, added, milliseconds(&mut chance)).await;
        added += 1;
    }
    team.until_replicas("coder", MOST).await;
    // The rest comes in groups, each when the one before is nearly done: the demand falls and rises while some are at work.
    while added < NUMBER {
        let left = chance.usize(4..16);
        until_done(&team, &mut queue, added - left).await;
        for _ in 0..chance.usize(40..120).min(NUMBER - added) {
            add(&mut queue, added, milliseconds(&mut chance)).await;
            added += 1;
        }
    }
    until_done(&team, &mut queue, NUMBER).await;
    team.until_replicas("coder", 0).await;
    team.until_agents("coder", 0).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;

    let records = done(&mut queue).await;
    each_once(&records, NUMBER);
    let again: Vec<_> = records.iter().filter(|record| record.delivery != Some(1)).collect();
    assert!(again.is_empty(), "delivered more than once: {again:#?}");
    let replicas = deployments.until_replicas_of("coder-pool", 0).await;
    let (first, last) = (replicas.first().unwrap().1, replicas.last().unwrap().1);
    let most = replicas.iter().map(|(_, replicas)| *replicas).max();
    assert_eq!((first, most, last), (0, Some(MOST), 0), "{replicas:?}");
    let pods = pods.all();
    let (ends, codes) = (ends(&pods), exit_codes(&pods));
    let at_work = ended_at_work(&records, &ends);
    println!("{} agents, {} of them ended at work; the replicas fell {} times", ends.len(), at_work.len(), falls(&replicas));
    // Otherwise this would prove nothing.
    assert!(falls(&replicas) >= 4, "{replicas:?}");
    assert!(at_work.len() >= 3, "only {at_work:?} were at work when they were told to end");
    // Each finished its task by itself: none was killed.
    assert!(codes.len() >= ends.len() * 9 / 10, "of {} ends only these were seen: {codes:?}", ends.len());
    let killed: Vec<_> = codes.iter().filter(|(_, code)| **code != 0).collect();
    assert!(killed.is_empty(), "{killed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_with_a_processing_list_for_each_agent_is_worked_off_and_every_task_is_done_once() {
    const NUMBER: usize = 150;
    let (team, redis, mut chance) = (Team::new("list").await, Redis::start().await, seeded());
    let mut queue = redis.connect().await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    let mut queues = redis.list(TASKS);
    queues[0]["redisList"]["processingKeys"] = json!(["tasks:processing:$(POD_NAME)"]);
    let spec = json!({ "template": on_list(&redis), "queues": queues, "scaling": one_for(2), "maxReplicas": 8 });
    team.apply_pool("coder", spec).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    for number in 0..NUMBER {
        push(&mut queue, number, milliseconds(&mut chance)).await;
    }
    until_done(&team, &mut queue, NUMBER).await;
    team.until_replicas("coder", 0).await;
    team.until_agents("coder", 0).await;
    each_once(&done(&mut queue).await, NUMBER);
    let replicas = deployments.until_replicas_of("coder-pool", 0).await;
    assert_eq!(replicas.iter().map(|(_, replicas)| *replicas).max(), Some(8), "{replicas:?}");
    // What agents have taken is known and told.
    let versions = team.pool_versions_of("coder");
    let in_flight = versions.iter().filter_map(|pool| pool["status"]["inFlight"].as_u64()).max();
    assert!(in_flight > Some(0), "no version of the status tells of a task in flight");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_take_five_tasks_at_a_time_are_a_fifth_as_many_as_the_tasks() {
    const NUMBER: usize = 20;
    let (team, redis) = (Team::new("batch").await, Redis::start().await);
    let mut queue = redis.connect().await;
    for number in 0..NUMBER {
        add(&mut queue, number, 300).await;
    }
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    let mut scaling = at_once();
    scaling.as_object_mut().unwrap().remove("proportional");
    let template = on_stream(&redis, &[]);
    let spec = json!({
        "template": template, "queues": redis.stream(TASKS), "scaling": scaling, "batch": { "maxTasks": 5 }, "maxReplicas": 20,
    });
    team.apply_pool("coder", spec).await;
    until_done(&team, &mut queue, NUMBER).await;
    team.until_replicas("coder", 0).await;
    each_once(&done(&mut queue).await, NUMBER);
    let replicas = deployments.until_replicas_of("coder-pool", 0).await;
    assert_eq!(replicas.iter().map(|(_, replicas)| *replicas).max(), Some(4), "{replicas:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_agent_stays_for_the_cooldown_after_its_last_task_however_long_that_took() {
    let (team, redis) = (Team::new("cooldown").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    let (cooldown, task) = (6000, 9000);
    let scaling = with(at_once(), json!({ "cooldown": format!("{cooldown}ms") }));
    team.apply_pool("coder", json!({ "template": on_stream(&redis, &[]), "queues": redis.stream(TASKS), "scaling": scaling }))
        .await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    add(&mut queue, 0, task).await;
    team.until_replicas("coder", 1).await;
    until_done(&team, &mut queue, 1).await;
    let held = team.until_pool("coder", "held by the cooldown", |pool| pool["status"]["limitedBy"] == "Cooldown").await;
    assert_eq!(held["status"]["desiredReplicas"], 1);
    team.until_replicas("coder", 0).await;
    let ended = done(&mut queue).await[0].ended;
    let replicas = deployments.until_replicas_of("coder-pool", 0).await;
    let zero = replicas.last().unwrap();
    assert_eq!(zero.1, 0, "{replicas:?}");
    // The task may have been seen for the last time one poll before its end, which is a second.
    let stayed = zero.0.as_millisecond() - ended;
    assert!(stayed >= cooldown - 1500, "it stayed for {stayed} ms after its last task");
    println!("it stayed for {stayed} ms after its last task");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_trickle_in_never_leave_the_queue_without_an_agent() {
    // Each comes when the one before is done, so that at some looks at the queue there is none.
    const NUMBER: usize = 30;
    let (team, redis) = (Team::new("trickle").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let deployments = team.watch_deployments().await;
    let _operator = team.operator_of_pools().await;
    // Longer than a busy machine keeps this test from adding the next task.
    let mut scaling = at_once();
    scaling["cooldown"] = "15s".into();
    let spec = json!({ "template": on_stream(&redis, &[]), "queues": redis.stream(TASKS), "scaling": scaling });
    team.apply_pool("coder", spec).await;
    let began = Timestamp::now();
    for number in 0..NUMBER {
        add(&mut queue, number, 250).await;
        let started = Instant::now();
        while number_done(&mut queue).await <= number {
            assert!(started.elapsed() < DEADLINE, "task {number} is not done");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let replicas = deployments.replicas_of("coder-pool");
    let up = replicas.iter().position(|(_, replicas)| *replicas > 0).unwrap();
    assert_eq!(falls(&replicas[up..]), 0, "between two tasks its agent was ended, since {began}: {replicas:?}");
    each_once(&done(&mut queue).await, NUMBER);
}
