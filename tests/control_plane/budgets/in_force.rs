//! What a status says is in force at once, everywhere: the first message after the change carries it to each replica, and pools act on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::harness::{World, tokens};
use crate::harness::DEADLINE;
use crate::pools::harness::pictures;
use crate::routes::gateway::Replica;
use crate::routes::harness::{calls, configuration, with};
use crate::versions::Watched;

const POOLS: &[(&str, &[&str])] = &[("coder", &["coder"]), ("spender", &["spender"])];
/// How often the limit is crossed.
const ROUNDS: usize = 5;
/// What is used at once, which crosses half of the limit, and what is left to use before that.
const CROSSING: u64 = 22_000;
const BEFORE: u64 = 40_000;
/// A message goes to each replica every second at least. The rest is for a busy machine.
const IN_FORCE_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// What one replica said to steady calls of one pool.
struct Polled {
    /// When the last call began that was let in, and when the first that was not.
    last_admitted: Option<Timestamp>,
    first_refused: Option<Timestamp>,
}

/// Calls a replica again and again until it refuses, and a little longer: nobody is let in after that.
async fn poll(world: Arc<World>, replica: Replica, stop: CancellationToken) -> Polled {
    let mut polled = Polled { last_admitted: None, first_refused: None };
    while !stop.is_cancelled() {
        let begun = Timestamp::now();
        let answer = world.try_call(&replica, "coder", "coder", 1, None).await;
        match answer.says() {
            (200, _) => polled.last_admitted = Some(begun),
            (429, "budget_exceeded") => {
                polled.first_refused.get_or_insert(begun);
            }
            (503, "budget_busy") => {}
            _ => panic!("{answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    polled
}

/// When the budget was first seen in a phase after a time.
async fn until_in_phase(budgets: &Watched, phase: &str, after: Timestamp) -> Timestamp {
    let started = Instant::now();
    loop {
        let versions = budgets.of("sprint");
        let is = |object: &Value| object["status"]["phase"] == phase;
        if let Some(version) = versions.iter().find(|version| version.at >= after && is(&version.object)) {
            return version.at;
        }
        assert!(started.elapsed() < DEADLINE, "the budget never comes to be {phase}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The middle one, and the largest.
fn summary(mut times: Vec<SignedDuration>) -> String {
    times.sort();
    let milliseconds = |time: &SignedDuration| time.as_millis();
    format!("{} ms, at most {} ms", milliseconds(&times[times.len() / 2]), milliseconds(&times[times.len() - 1]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_obeyed_by_every_replica_and_pool_as_soon_as_it_is_written() {
    let mut world = World::new("in-force", 2, POOLS).await;
    let agents = json!({ "template": pictures(), "replicas": 1 });
    world.team.replace_labelled_pool("coder", with(calls(&["coder"]), agents)).await;
    world.team.apply_labelled_pool("spender", with(calls(&["spender"]), json!({ "criticality": "Critical" }))).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    world.team.until_replicas("coder", 1).await;
    let pause = json!({ "thresholds": [{ "atPercent": 50, "action": "PausePools", "belowCriticality": "Critical" }] });
    world.team.apply_budget("sprint", with(tokens(BEFORE), pause)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    for pool in ["coder", "spender"] {
        world.until_covered(&replicas, pool, pool).await;
    }
    let (budgets, deployments) = (Watched::begin(world.team.budgets()).await.unwrap(), world.team.watch_deployments().await);
    let world = Arc::new(world);
    let mut measured: BTreeMap<&str, Vec<SignedDuration>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        let (stop, mut pollers) = (CancellationToken::new(), JoinSet::new());
        for replica in &replicas {
            pollers.spawn(poll(world.clone(), replica.clone(), stop.clone()));
        }
        // So that each of them is at it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let crossed = Timestamp::now();
        assert_eq!(world.call(&replicas[0], "spender", "spender", CROSSING).await.status, 200);
        let settled = Timestamp::now();
        let written = until_in_phase(&budgets, "Throttled", crossed).await;
        let paused = deployments.until_replicas_of("coder-pool", 0).await.last().unwrap().0;
        world.team.until_says("coder", "PausedByBudget", "True", "Paused").await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.cancel();
        let polled: Vec<Polled> = pollers.join_all().await;
        let refused: Vec<Timestamp> =
            polled.iter().map(|polled| polled.first_refused.expect("somebody is never refused")).collect();
        for (polled, refused) in polled.iter().zip(&refused) {
            let last = polled.last_admitted.expect("nobody was let in before");
            assert!(last < *refused, "a call was let in {:?} after another one was refused", last.duration_since(*refused));
            let late = last.duration_since(written);
            assert!(late < IN_FORCE_WITHIN, "a call was let in {late:?} after the step was written");
        }
        let (first, last) = (*refused.iter().min().unwrap(), *refused.iter().max().unwrap());
        for (what, time) in [
            ("from the settled call to the status", written.duration_since(settled)),
            ("from the settled call to the first refusal", first.duration_since(settled)),
            ("from the settled call to the first paused pool", paused.duration_since(settled)),
            ("from the status to the last replica's first refusal", last.duration_since(written)),
        ] {
            measured.entry(what).or_default().push(time);
        }

        let used = world.truth(&["coder", "spender"]);
        world.team.change_budget("sprint", json!({ "tokens": 2 * used + BEFORE })).await;
        let raised = Timestamp::now();
        until_in_phase(&budgets, "Active", raised - SignedDuration::from_secs(1)).await;
        world.team.until_replicas("coder", 1).await;
        deployments.until_replicas_of("coder-pool", 1).await;
        for replica in &replicas {
            let free = "again, as the limit is raised";
            world.until_answered(replica, "coder", "coder", free, |answer| answer.status == 200).await;
        }
    }
    for (what, times) in measured {
        println!("{what}: {}", summary(times));
    }
}
