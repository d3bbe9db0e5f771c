//! No operator: gateways go on by what they were told for as long as it is valid, then each budget does what it says, also in a replica
//! that nobody has ever told anything, and whoever leads next hears of every token.

use std::time::{Duration, Instant};

use quartermaster_core::decide::gateway::exchange::VALID_FOR;
use serde_json::{Value, json};

use super::harness::{World, is_spent, tokens_of};
use crate::harness::DEADLINE;
use crate::routes::gateway::Replica;
use crate::routes::harness::{configuration, with};

/// Each has a budget of its name that says so, but for the last one.
const POOLS: &[(&str, &[&str])] = &[("allow", &["allow"]), ("block", &["block"]), ("hold", &["hold"]), ("free", &["free"])];
const BUDGETS: [(&str, &str); 3] = [("allow", "Allow"), ("block", "Block"), ("hold", "Hold")];
/// The limit of each budget.
const LIMIT: u64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn without_an_operator_each_budget_does_what_it_says_and_no_token_is_lost() {
    // What was told is valid for a time that nobody sets.
    is_away("away", VALID_FOR + Duration::from_secs(15)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak: ten minutes without an operator"]
async fn without_an_operator_for_ten_minutes_each_budget_does_what_it_says_and_no_token_is_lost() {
    is_away("long-away", Duration::from_secs(600)).await;
}

/// What every replica says that nobody has told anything for too long.
async fn assert_unknown(world: &World, replica: &Replica) {
    for (pool, expected) in
        [("allow", (200, "")), ("block", (503, "budget_unknown")), ("hold", (503, "budget_unknown")), ("free", (200, ""))]
    {
        let answer = world.try_call(replica, pool, pool, 1, None).await;
        assert_eq!(answer.says(), expected, "{pool}: {answer:?}");
    }
}

/// The replica that takes the place of one.
async fn next_replica(world: &World, before: &Replica) -> Replica {
    let started = Instant::now();
    loop {
        let replicas = world.team.replicas().await;
        if let Some(next) = replicas.into_iter().find(|replica| replica.pod != before.pod) {
            return next;
        }
        assert!(started.elapsed() < DEADLINE, "no new replica starts");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn is_away(name: &str, away: Duration) {
    let mut world = World::new(name, 1, POOLS).await;
    let mut operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    for (budget, when) in BUDGETS {
        let spec = with(tokens_of(&[budget], LIMIT), json!({ "whenUsageUnknown": when, "thresholds": [] }));
        world.team.apply_budget(budget, spec).await;
    }
    for (budget, _) in BUDGETS {
        world.team.until_used_is_known(&[budget]).await;
        world.until_covered(std::slice::from_ref(&replica), budget, budget).await;
        assert_eq!(world.call(&replica, budget, budget, 500).await.status, 200);
    }
    // As much again is granted ahead, as soon as the ledger says so.
    for budget in ["block", "hold"] {
        world.team.until_written(budget, "more than was used", |written| written.reach >= written.used + 800).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;

    operator.kill();
    let gone = Instant::now();
    // As long as what it said is valid, all goes on within what was granted.
    while gone.elapsed() < VALID_FOR / 2 {
        for (pool, _) in POOLS {
            let answer = world.try_call(&replica, pool, pool, 1, None).await;
            assert_eq!(answer.status, 200, "{pool}: {answer:?}");
        }
        tokio::time::sleep(VALID_FOR / 8).await;
    }
    tokio::time::sleep((VALID_FOR + Duration::from_secs(2)).saturating_sub(gone.elapsed())).await;
    let blocked = world.try_call(&replica, "block", "block", 1, None).await;
    assert_eq!(blocked.says(), (503, "budget_unknown"), "{blocked:?}");
    let mut held = 0;
    let refused = loop {
        let answer = world.try_call(&replica, "hold", "hold", 50, None).await;
        if answer.status != 200 {
            break answer;
        }
        held += 1;
    };
    assert_eq!(refused.says(), (503, "budget_unknown"), "{refused:?}");
    assert!(held > 0, "nothing of what was granted is used any more");
    assert!(world.truth(&["hold"]) <= LIMIT, "{} were used", world.truth(&["hold"]));
    while world.truth(&["allow"]) <= LIMIT {
        let answer = world.try_call(&replica, "allow", "allow", 2000, None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let least = world.most("hold", 1).await;

    // The next one knows the plan alone, which names whom budgets cover. The old one stays until somebody has heard what it knows.
    world.team.kubectl(&["delete", "pod", &replica.pod, "--wait=false"]);
    let next = next_replica(&world, &replica).await;
    let mut looks = 0;
    while looks == 0 || gone.elapsed() < away {
        assert_unknown(&world, &next).await;
        looks += 1;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let pods = world.team.kubectl(&["get", "pods", "-o", "name"]);
    assert!(pods.contains(&replica.pod), "it has ended with what nobody has heard: {pods}");

    let operator = world.team.operator_with(&configuration(), &[]).await;
    for (budget, _) in BUDGETS {
        world.until_counted(&operator, budget, &[budget]).await;
    }
    assert_eq!(world.team.until_gateways(1).await, std::slice::from_ref(&next));
    for (budget, _) in BUDGETS {
        let truth = world.truth(&[budget]);
        let exact = |object: &Value| object["status"]["usedTokens"] == truth && object["status"]["estimatedTokens"] == 0;
        world.team.until_budget(budget, &format!("{truth} tokens, none of them estimated"), exact).await;
    }
    for (pool, _) in POOLS {
        let used = world.truth(&[*pool]);
        let is_free = *pool == "free" || used <= LIMIT && !is_spent(LIMIT, used, least);
        let expected = if is_free { (200, "") } else { (429, "budget_exceeded") };
        world.until_answered(&next, pool, pool, &format!("{expected:?}"), |answer| answer.says() == expected).await;
    }
    assert!(world.truth(&["allow"]) > LIMIT);
}
