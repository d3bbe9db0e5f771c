//! Two operators of the same pools: one leads, and nothing is written twice.

use std::time::Duration;

use super::harness::{LOOPBACK, falls, pool};
use super::redis::{Redis, TASKS};
use crate::harness::{Team, writes_among};
use crate::leadership::until_leads;

/// An account of its own for one of the two, so that the audit log tells them apart.
const OTHER: &str = "other";

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_one_reads_and_scales_and_the_other_goes_on_where_that_was_killed() {
    let (team, redis) = (Team::new("two-operators").await, Redis::start().await);
    let mut queue = redis.connect().await;
    let deployments = team.watch_deployments().await;
    let mut first = team.operator_of_pools().await;
    let second = team.start_as(&team.account(OTHER).await, LOOPBACK, &[]);
    second.synced().await;
    team.apply_pool("coder", pool(redis.list(TASKS))).await;
    team.until_says("coder", "Ready", "True", "ScaledToZero").await;
    queue.push(TASKS, 3).await;
    team.until_replicas("coder", 3).await;
    team.until_says("coder", "Ready", "True", "Available").await;
    team.until_quiet(Duration::from_secs(2)).await;
    // Who does not lead writes nothing and asks nobody's Redis.
    assert_eq!(writes_among(&team.audited_as(&team.user_of(OTHER))), [""; 0]);
    assert_eq!(queue.others().await.len(), 1);
    let written = team.until_replicas("coder", 3).await["metadata"]["generation"].clone();

    queue.push(TASKS, 2).await;
    first.kill();
    println!("took over after a kill in {:?}", until_leads(&second).await);
    team.until_replicas("coder", 5).await;
    team.until_pool("coder", "five ready", |pool| pool["status"]["readyReplicas"] == 5).await;
    let replicas = deployments.until_replicas_of("coder-pool", 5).await;
    assert_eq!(falls(&replicas), 0, "{replicas:?}");
    let generation = team.until_replicas("coder", 5).await["metadata"]["generation"].clone();
    // The first may have seen the tasks and written before it was killed: in all it was changed once.
    assert_eq!(generation.as_i64(), written.as_i64().map(|written| written + 1), "it was written twice");
    let told = team.until_pool("coder", "five", |pool| pool["status"]["desiredReplicas"] == 5).await;
    assert!(told["status"]["decisions"].as_array().unwrap().len() <= 2, "{}", told["status"]);
}
