//! Exact under everything: two gateways, two operators, callers who do not mind, three budgets that overlap, and processes that are killed
//! every few seconds, while the API server falls silent at times. What the simulated server has counted never passes a limit by one token,
//! in the end everything may be used, and what is written down is what was used, and never less.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

use super::chaos::{Callers, Going, Operators, Tally, let_go};
use super::harness::{World, tokens, tokens_of};
use crate::crashes::seeded;
use crate::harness::DEADLINE;
use crate::routes::gateway::Replica;
use crate::routes::harness::with;

const POOLS: &[(&str, &[&str])] =
    &[("coder", &["coder"]), ("planner", &["planner"]), ("reviewer", &["reviewer"]), ("writer", &["writer"])];
const ALL: [&str; 4] = ["coder", "planner", "reviewer", "writer"];
/// The budgets, and the pools that each covers.
const BUDGETS: [(&str, &[&str]); 3] = [("all", &ALL), ("back", &["reviewer", "writer"]), ("front", &["coder", "planner"])];
const CALLERS: usize = 32;
/// Limits are reached again and again.
const RAISED_EVERY: Duration = Duration::from_secs(8);
/// With no more calls that were answered meanwhile it would prove little.
const TOO_FEW_ANSWERED: u64 = 100;
/// What is left to be used in the end.
const LAST: u64 = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn no_limit_is_passed_by_one_token_whatever_is_killed_and_nothing_is_lost() {
    holds("exact", Duration::from_secs(120)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: twenty minutes of kills"]
async fn no_limit_is_passed_by_one_token_for_twenty_minutes_whatever_is_killed_and_nothing_is_lost() {
    holds("long-exact", Duration::from_secs(1200)).await;
}

/// The limit of each budget.
struct Limits(BTreeMap<&'static str, u64>);

impl Limits {
    /// None of them is passed. What was used never becomes less, and they are raised by the same hand.
    fn hold(&self, world: &World) {
        for (budget, pools) in BUDGETS {
            let (truth, limit) = (world.truth(pools), self.0[budget]);
            assert!(truth <= limit, "{truth} tokens of {limit} were used of {budget}");
        }
    }

    async fn raise(&mut self, world: &World, budget: &'static str, by: u64) {
        self.hold(world);
        let limit = self.0.get_mut(budget).unwrap();
        *limit += by;
        world.team.change_budget(budget, json!({ "tokens": *limit })).await;
    }
}

/// What was done to whom, and how often.
#[derive(Default)]
struct Deeds {
    operators_killed: usize,
    replicas: BTreeMap<Going, usize>,
    silences: usize,
    /// The pods whose processes were killed: a second time they start again only after a while.
    killed: BTreeSet<String>,
}

impl Deeds {
    /// Does one of them.
    async fn another(&mut self, world: &World, operators: &mut Operators, chance: &mut Rng) {
        match chance.u32(..10) {
            0..4 => {
                operators.kill(chance.usize(..2));
                self.operators_killed += 1;
            }
            4..8 => {
                let replicas = world.team.replicas().await;
                let Some(replica) = chance.choice(&replicas) else { return };
                let going = match chance.u32(..4) {
                    0 | 1 if self.killed.insert(replica.pod.clone()) => Going::Killed,
                    3 => Going::Ended,
                    _ => Going::Lost,
                };
                let_go(&world.team, replica, going, Duration::from_millis(chance.u64(..3000))).await;
                *self.replicas.entry(going).or_default() += 1;
            }
            _ => {
                operators.silence(Duration::from_millis(chance.u64(500..9000))).await;
                self.silences += 1;
            }
        }
    }
}

/// Raises, breaks and checks for this time, and on a slow machine until so many calls were answered that it proves something.
async fn break_things(
    world: &World,
    (operators, callers): (&mut Operators, &Callers),
    limits: &mut Limits,
    chance: &mut Rng,
    time: Duration,
) -> Deeds {
    let (begun, mut raised, mut deeds) = (Instant::now(), Instant::now(), Deeds::default());
    while begun.elapsed() < time || (callers.answered() <= TOO_FEW_ANSWERED && begun.elapsed() < time + DEADLINE) {
        deeds.another(world, operators, chance).await;
        let next = Instant::now() + Duration::from_millis(chance.u64(1500..5000));
        while Instant::now() < next {
            operators.keep_up();
            limits.hold(world);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if raised.elapsed() >= RAISED_EVERY {
            for (budget, by) in [("all", 30_000), ("back", 15_000), ("front", 15_000)] {
                limits.raise(world, budget, by).await;
            }
            raised = Instant::now();
        }
    }
    deeds
}

/// Uses up all of what is left, by calls of which each is of a new task.
async fn use_up(world: &World, operators: &mut Operators, replicas: &[Replica]) {
    let pairs: Vec<(&str, &Replica)> =
        ALL.into_iter().flat_map(|pool| replicas.iter().map(move |replica| (pool, replica))).collect();
    until_listening(world, replicas).await;
    for (pool, replica) in &pairs {
        world.until_answered(replica, pool, pool, "again", |answer| answer.status == 200).await;
    }
    let mut tokens = 4000;
    loop {
        let mut answered = 0;
        for (pool, replica) in &pairs {
            let started = Instant::now();
            loop {
                operators.keep_up();
                let answer = world.call(replica, pool, pool, tokens).await;
                // Operators may still follow each other.
                if answer.code == "budget_unknown" && started.elapsed() < DEADLINE {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                if answer.status != 200 {
                    assert_eq!(answer.says(), (429, "budget_exceeded"), "{answer:?}");
                    assert_eq!(answer.body["error"]["budget"]["name"], "all", "{answer:?}");
                    break;
                }
                answered += 1;
            }
        }
        match tokens {
            1 if answered == 0 => return,
            1 => {}
            _ => tokens = (tokens / 8).max(1),
        }
    }
}

/// Waits until the processes of these replicas listen. Who was killed a moment ago may start again while its pod still counts as ready.
async fn until_listening(world: &World, replicas: &[Replica]) {
    let started = Instant::now();
    for replica in replicas {
        while let Err(error) = world.client.get(replica.url("/v1/models")).send().await {
            assert!(started.elapsed() < DEADLINE, "{replica:?} never listens: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn holds(name: &str, time: Duration) {
    let mut world = World::new(name, 2, POOLS).await;
    let mut operators = Operators::start(&world.team).await;
    let replicas = world.ready(2).await;
    let mut limits = Limits(BTreeMap::from([("all", 60_000), ("back", 30_000), ("front", 30_000)]));
    for (budget, pools) in BUDGETS {
        let limit = limits.0[budget];
        let spec = if budget == "all" { tokens(limit) } else { tokens_of(pools, limit) };
        let share = if budget == "front" { json!({ "share": { "type": "Equal" } }) } else { json!({}) };
        world.team.apply_budget(budget, with(spec, share)).await;
    }
    world.team.until_used_is_known(&["all", "back", "front"]).await;
    for pool in ALL {
        world.until_covered(&replicas, pool, pool).await;
    }
    world.server.change(|behaviour| {
        behaviour.first_token_milliseconds = 10;
        behaviour.token_milliseconds = 2;
    });
    let (world, mut chance) = (Arc::new(world), seeded());
    let callers = Callers::start(&world, &ALL, CALLERS, &mut chance);
    let deeds = break_things(&world, (&mut operators, &callers), &mut limits, &mut chance, time).await;

    // It heals by itself.
    operators.until_led(&["all", "back", "front"]).await;
    let replicas = world.team.until_gateways(2).await;
    let tally: Tally = callers.stop().await;
    let Deeds { operators_killed, replicas: gone, silences, killed: _ } = &deeds;
    println!(
        "{operators_killed} operators were killed and {} started; gateways: {gone:?}; {silences} silences; {} calls answered, {} left, \
         {} refused, {} held off, {} broken",
        operators.started, tally.answered, tally.left, tally.refused, tally.busy, tally.broken
    );
    assert!(tally.others.is_empty(), "{:#?}", tally.others);
    assert!(tally.answered > TOO_FEW_ANSWERED && tally.refused > 0, "this proves little: {tally:?}");
    limits.hold(&world);

    // All of it may be used.
    world.server.change(|behaviour| {
        behaviour.first_token_milliseconds = 0;
        behaviour.token_milliseconds = 0;
    });
    for (budget, by) in [("back", 100 * LAST), ("front", 100 * LAST), ("all", LAST)] {
        limits.raise(&world, budget, by).await;
        let started = Instant::now();
        while operators.shown(budget).await.is_none_or(|shown| shown.limit != limits.0[budget]) {
            assert!(started.elapsed() < DEADLINE, "the limit of {budget} is never shown");
            operators.keep_up();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    use_up(&world, &mut operators, &replicas).await;
    limits.hold(&world);
    let least = world.most("coder", 1).await;
    for (budget, pools) in BUDGETS {
        let (truth, limit) = (world.truth(pools), limits.0[budget]);
        // What was used and what might have been used by processes that are gone.
        let used = limit - until_at_rest(&mut operators, budget).await;
        let written = world.team.until_written(budget, &format!("{used} tokens"), |written| written.used == used).await;
        println!(
            "{budget}: {truth} of {limit} tokens were used, {} are written down, {} of them estimated",
            used, written.estimated
        );
        assert!(truth <= used && used <= limit, "{budget}: {truth} were used, and {used} of {limit} are written down");
        assert!(used - written.estimated <= truth, "{budget}: {truth} were used, and {written:?} is written down");
        if budget == "all" {
            assert!(limit - used < least, "{} tokens are left, and nobody may use them", limit - used);
        }
        let same =
            |object: &Value| object["status"]["usedTokens"] == used && object["status"]["estimatedTokens"] == written.estimated;
        world.team.until_budget(budget, &format!("the same as is written down, {written:?}"), same).await;
    }
}

/// What is left of a budget once that stays so for a while.
async fn until_at_rest(operators: &mut Operators, budget: &str) -> u64 {
    let started = Instant::now();
    let (mut left, mut since) = (None, Instant::now());
    loop {
        operators.keep_up();
        let now = operators.shown(budget).await.map(|shown| shown.left);
        if now != left {
            (left, since) = (now, Instant::now());
        }
        if let Some(left) = left.filter(|_| since.elapsed() > Duration::from_secs(3)) {
            return left;
        }
        assert!(started.elapsed() < DEADLINE, "what is left of {budget} never stays the same");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
