//! What pools cost when nothing happens, and when something does: on the API server by the audit log, on Redis by its own
//! statistics.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::{at_once, pictures};
use super::redis::{Connection, GROUP, Redis};
use crate::harness::{Team, condition};

/// How long nothing happens.
const WINDOW: Duration = Duration::from_secs(20);
/// The polls' interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// Makes pools that read a stream each, all on one Redis, and waits until each has read its own.
async fn make(team: &Team, redis: &Redis, queue: &mut Connection, number: usize) {
    for number in 0..number {
        queue.run(&format!("XGROUP CREATE stream-{number} {GROUP} $ MKSTREAM")).await;
        let spec = json!({ "template": pictures(), "queues": redis.stream(&format!("stream-{number}")), "scaling": at_once() });
        team.apply_pool(&format!("pool-{number}"), spec).await;
    }
    for number in 0..number {
        let name = format!("pool-{number}");
        team.until_says(&name, "Ready", "True", "ScaledToZero").await;
        team.until_says(&name, "MetricsAvailable", "True", "QueuesRead").await;
    }
}

/// Pools without tasks cost one connection and one round trip an interval, and no call. Then some have tasks.
async fn quiet_but_for_a_burst(name: &str, pools: usize, bursts: usize) {
    let (team, redis) = (Team::new(name).await, Redis::start().await);
    let mut queue = redis.connect().await;
    let started = Instant::now();
    let operator = team.operator_of_pools().await;
    make(&team, &redis, &mut queue, pools).await;
    println!("{pools} pools were ready after {:.1?}", started.elapsed());
    let settled = team.until_quiet(Duration::from_secs(3)).await;

    let commands = ["xinfo|groups", "xlen", "xpending", "xrange"];
    let mut before = Vec::new();
    for command in commands {
        before.push(queue.calls(command).await);
    }
    let (began, connections) = (Instant::now(), queue.others().await);
    assert_eq!(connections.len(), 1, "{connections:?}");
    // This test proves that nothing happens, so that time has to pass.
    tokio::time::sleep(WINDOW).await;
    let most = began.elapsed().as_secs() / INTERVAL.as_secs() + 2;
    let pools = u64::try_from(pools).unwrap();
    let mut polls = Vec::new();
    for (command, before) in commands.iter().zip(before) {
        let calls = queue.calls(command).await - before;
        assert!(calls <= pools * most, "{calls} calls of {command} for {pools} pools in {most} intervals");
        // They are read at all, and all of them together.
        assert!(calls >= pools * most / 4, "only {calls} calls of {command} for {pools} pools in {most} intervals");
        polls.push(calls);
    }
    assert_eq!(
        queue.others().await.iter().map(|line| id(line)).collect::<Vec<_>>(),
        connections.iter().map(|line| id(line)).collect::<Vec<_>>()
    );
    let asked = asked(&team);
    assert_eq!(asked.len(), settled, "{:?}", &asked[settled..]);
    println!("calls of {commands:?} in {:.1?}: {polls:?}", began.elapsed());
    assert!(operator.leads().await);

    let writes = team.writes().len();
    for number in 0..bursts {
        for task in 0..3 {
            queue.run(&format!("XADD stream-{number} * id {task} milliseconds 1")).await;
        }
    }
    for number in 0..bursts {
        let name = format!("pool-{number}");
        team.until_replicas(&name, 3).await;
        team.until_pool(&name, "three ready", |pool| pool["status"]["readyReplicas"] == 3).await;
    }
    team.until_quiet(Duration::from_secs(3)).await;
    let writes = team.writes().split_off(writes);
    for number in 0..bursts {
        let of = |what: &str| writes.iter().filter(|write| **write == format!("patch {what} pool-{number}")).count();
        let applied = writes.iter().filter(|write| **write == format!("patch deployments pool-{number}-pool")).count();
        assert_eq!(applied, 1, "{writes:?}");
        // What the queue asks for is written once. That an agent is there, and that it is ready, is news of the cluster.
        let versions = team.pool_versions_of(&format!("pool-{number}"));
        let desired: Vec<&Value> = versions.iter().map(|pool| &pool["status"]["desiredReplicas"]).collect();
        let changes = desired.windows(2).filter(|pair| pair[0] != pair[1] && !pair[0].is_null()).count();
        assert_eq!(changes, 1, "{desired:?}");
        let statuses = of("agentpools/status");
        println!("a burst cost {statuses} status writes");
        assert!((1..=1 + 2 * 3).contains(&statuses), "{statuses} status writes: {writes:?}");
    }
    let others: Vec<&String> = writes.iter().filter(|write| !(0..bursts).any(|number| is_about(write, number))).collect();
    assert!(others.is_empty(), "pools without a change were written: {others:?}");
}

/// Whether a write is about a pool, or its Deployment.
fn is_about(write: &str, number: usize) -> bool {
    let name = write.rsplit(' ').next().unwrap();
    name == format!("pool-{number}") || name == format!("pool-{number}-pool")
}

/// The number of a connection in a line of `CLIENT LIST`.
fn id(line: &str) -> String {
    line.split(' ').next().unwrap().to_owned()
}

/// Requests besides the lease's and watches.
fn asked(team: &Team) -> Vec<String> {
    let about = |entry: &Value| format!("{} {} {}", entry["verb"], entry["objectRef"]["resource"], entry["objectRef"]["name"]);
    let requests = team.requests();
    requests.iter().filter(|entry| entry["objectRef"]["resource"] != "leases" && entry["verb"] != "watch").map(about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_idle_pools_cost_one_round_trip_an_interval_and_no_call_and_a_burst_one_patch_a_pool() {
    quiet_but_for_a_burst("idle-pools", 100, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: five hundred pools, each with a Deployment"]
async fn five_hundred_idle_pools_cost_one_round_trip_an_interval_and_no_call() {
    quiet_but_for_a_burst("many-idle-pools", 500, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_queue_cannot_be_read_costs_no_call_while_that_lasts() {
    let team = Team::new("quiet-failure").await;
    let _operator = team.operator_of_pools().await;
    let url = format!("redis://127.0.0.1:{}", super::redis::free_port());
    let queues = json!([{ "name": "tasks", "redisList": { "url": url, "keys": ["tasks"] } }]);
    for number in 0..10 {
        let spec = json!({ "template": pictures(), "queues": queues, "scaling": at_once() });
        team.apply_pool(&format!("pool-{number}"), spec).await;
    }
    for number in 0..10 {
        team.until_says(&format!("pool-{number}"), "MetricsAvailable", "False", "Unreachable").await;
    }
    let settled = team.until_quiet(Duration::from_secs(3)).await;
    // This test proves that nothing happens, so that time has to pass.
    tokio::time::sleep(WINDOW).await;
    let asked = asked(&team);
    assert_eq!(asked.len(), settled, "{:?}", &asked[settled..]);
    let pool = team.until_pool("pool-0", "exist", Value::is_object).await;
    assert_eq!(condition(&pool, "MetricsAvailable").unwrap()["reason"], "Unreachable");
}
