//! What a budget decides the others do: gateways, routes, pools and backends, at each step of its ladder and back.

use serde_json::{Value, json};

use super::harness::{POOL, World, backend, is_spent, steps, tokens, tokens_of};
use crate::columns::row;
use crate::harness::{Team, condition};
use crate::pools::harness::{at_once, pictures};
use crate::pools::redis::{Redis, TASKS};
use crate::routes::gateway::Replica;
use crate::routes::harness::{calls, configuration, message, says, to, with};

/// The cell of a column in a table of one row.
fn cell(team: &Team, kind: &str, name: &str, column: &str) -> String {
    let cells = row(&team.kubectl(&["get", kind, name]));
    cells.into_iter().find(|(found, _)| found == column).unwrap_or_else(|| panic!("{kind} has no column {column}")).1
}

/// Uses so much of a budget that its next step is taken, by one call.
async fn use_up(world: &World, replica: &Replica, pool: &str, tokens: u64) {
    let answer = world.call(replica, pool, "router", tokens).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_leaves_only_cheaper_backends_and_every_object_shows_it_until_the_limit_is_raised() {
    let pools: &[(&str, &[&str])] = &[("coder", &["router", "economy"]), ("other", &["router"])];
    let mut world = World::new("downgrade", 2, pools).await;
    let tiers = json!([{ "name": "router", "tier": "Standard" }, { "name": "economy", "tier": "Economy" }]);
    world.team.apply_route("router", json!({ "backends": tiers, "strategy": "Priority" })).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    let ladder = json!({ "thresholds": [{ "atPercent": 50, "action": "Downgrade", "tier": "Economy" }] });
    world.team.apply_budget("sprint", with(tokens_of(&["coder"], 40_000), ladder)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(&replicas, "coder", "router").await;
    assert_eq!(world.call(&replicas[1], "coder", "router", 1).await.backend, "router");
    // Before the first step backends show nothing of it, and pools show that it covers them.
    let backends = world.team.until("router", "exist", Value::is_object).await;
    assert!(backends.pointer("/status/budgets").is_none(), "{backends:#}");
    let covered = |pool: &Value| pool["status"]["budgets"] == json!([{ "name": "sprint", "phase": "Active" }]);
    world.team.until_pool("coder", "be covered", covered).await;

    use_up(&world, &replicas[0], "coder", 22_000).await;
    let throttled = world.team.until_budget("sprint", "the step", |budget| budget["status"]["phase"] == "Throttled").await;
    assert_eq!(steps(&throttled), [(50, "Downgrade".to_owned())]);
    let held = json!([
        { "agentPool": "coder", "modelRoute": "economy", "tierCeiling": "Economy", "blocked": false, "newTasksRefused": false },
        { "agentPool": "coder", "modelRoute": "router", "tierCeiling": "Economy", "blocked": false, "newTasksRefused": false },
    ]);
    assert_eq!(throttled["status"]["verdict"]["callers"], held);
    let touched = throttled.pointer("/status/touches/inferenceBackends");
    assert_eq!(touched, Some(&json!(["economy", "router"])), "{throttled:#}");
    for replica in &replicas {
        world.until_answered(replica, "coder", "router", "by the cheaper backend", |answer| answer.backend == "economy").await;
        assert_eq!(world.call(replica, "other", "router", 1).await.backend, "router", "whom no budget covers goes on");
    }
    // The backend of the route `economy` has no tier of its own, which is Standard: nobody is left there.
    world.until_answered(&replicas[0], "coder", "economy", "by nobody", |answer| answer.code == "no_backend_in_tier").await;
    let line = json!([{ "agentPool": "coder", "tier": "Economy", "blocked": false, "budget": "sprint", "phase": "Throttled" }]);
    let limited = world.team.until_route("router", "tell of its caller", |route| route["status"]["callers"] == line).await;
    assert!(says(&limited, "LimitedByBudget", "True", "CallersHeldBack"), "{limited:#}");
    assert_eq!(condition(&limited, "Ready").unwrap()["status"], "True", "{limited:#}");
    let stranded = world.team.until_route_says("economy", "LimitedByBudget", "True", "NoBackendInTier").await;
    assert!(message(&stranded, "LimitedByBudget").contains("sprint"), "{stranded:#}");
    assert_eq!(cell(&world.team, "mroute", "router", "BUDGET"), "coder: Economy by sprint");
    let shown = |object: &Value| object["status"]["budgets"] == json!([{ "name": "sprint", "phase": "Throttled" }]);
    for name in ["router", "economy"] {
        world.team.until(name, "show the budget of its caller", shown).await;
    }
    world.team.until_pool("coder", "show its budget", shown).await;
    assert_eq!(cell(&world.team, "apool", "coder", "BUDGET"), "sprint: Throttled");

    world.team.change_budget("sprint", json!({ "tokens": 400_000 })).await;
    let raised = world.team.until_budget("sprint", "no step", |budget| budget["status"]["phase"] == "Active").await;
    assert!(steps(&raised).is_empty() && raised.pointer("/status/verdict/callers").is_none(), "{raised:#}");
    for replica in &replicas {
        world.until_answered(replica, "coder", "router", "by the first backend", |answer| answer.backend == "router").await;
    }
    let free = |object: &Value| object.pointer("/status/callers").is_none() && condition(object, "LimitedByBudget").is_none();
    for name in ["router", "economy"] {
        world.team.until_route(name, "hold nobody back", free).await;
        world.team.until(name, "show nothing", |backend| backend.pointer("/status/budgets").is_none()).await;
    }
    assert!(!world.team.until_event("TokenBudget", "sprint", "ThresholdLeft").await, "no warning");
}

/// Pools whose agents are pictures: one that is pinned, one that follows a queue of three tasks, and a critical one.
async fn with_agents(world: &World, redis: &Redis) {
    redis.connect().await.push(TASKS, 3).await;
    let of = |more: Value| with(calls(&["router"]), with(json!({ "template": pictures() }), more));
    for (name, spec) in [
        ("pinned", of(json!({ "replicas": 2 }))),
        ("queue", of(json!({ "queues": redis.list(TASKS), "scaling": at_once() }))),
        ("critical", of(json!({ "replicas": 1, "criticality": "Critical" }))),
    ] {
        world.team.replace_labelled_pool(name, spec).await;
    }
}

/// The pools of [`with_agents`].
const AGENTS: &[(&str, &[&str])] = &[("critical", &["router"]), ("pinned", &["router"]), ("queue", &["router"])];

async fn until_at_work(world: &World) {
    for (pool, replicas) in [("pinned", 2), ("queue", 3), ("critical", 1)] {
        world.team.until_replicas(pool, u64::try_from(replicas).unwrap()).await;
        world.team.until_agents(pool, replicas).await;
    }
}

async fn until_paused(world: &World, pools: &[&str], budget: &str) {
    for pool in pools {
        let paused = world.team.until_says(pool, "PausedByBudget", "True", "Paused").await;
        assert!(message(&paused, "PausedByBudget").contains(&format!("budget {budget} pauses the pool")), "{paused:#}");
        world.team.until_replicas(pool, 0).await;
        world.team.until_agents(pool, 0).await;
        let idle = world.team.until_pool(pool, "be at 0", |pool| pool["status"]["desiredReplicas"] == 0).await;
        assert_eq!(
            (&idle["status"]["limitedBy"], &idle["status"]["decision"]),
            (&json!("Budget"), &json!(format!("0, as budget {budget} pauses the pool")))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_agents_of_less_critical_pools_refuses_new_tasks_and_ends_by_itself() {
    let (mut world, redis) = (World::new("pause", 1, AGENTS).await, Redis::start().await);
    with_agents(&world, &redis).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    until_at_work(&world).await;
    let pause = json!({ "thresholds": [{ "atPercent": 50, "action": "PausePools", "belowCriticality": "Critical" }] });
    world.team.apply_budget("sprint", with(tokens(40_000), pause)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(std::slice::from_ref(&replica), "pinned", "router").await;
    // This task has begun.
    assert_eq!(world.call_for(&replica, "pinned", "router", 10, Some("begun")).await.status, 200);

    use_up(&world, &replica, "critical", 22_000).await;
    until_paused(&world, &["pinned", "queue"], "sprint").await;
    assert!(world.team.until_event("AgentPool", "pinned", "Paused").await, "a warning");
    world.until_answered(&replica, "queue", "router", "not any more", |answer| answer.code == "budget_exceeded").await;
    let of_a_task = async |pool: &str, task: &str| world.call_for(&replica, pool, "router", 10, Some(task)).await;
    assert_eq!(of_a_task("pinned", "new").await.says(), (429, "budget_exceeded"));
    assert_eq!(of_a_task("pinned", "begun").await.status, 200, "a task that has begun goes on");
    assert_eq!(world.call(&replica, "critical", "router", 10).await.status, 200, "who is critical is not paused");
    let critical = world.team.until_says("critical", "PausedByBudget", "False", "NotPaused").await;
    assert_eq!(critical["status"]["budgets"], json!([{ "name": "sprint", "phase": "Throttled" }]), "{critical:#}");
    assert_eq!(world.team.until_agents("critical", 1).await.len(), 1);
    let paused = json!([
        { "agentPool": "pinned", "blocked": false, "budget": "sprint", "phase": "Throttled" },
        { "agentPool": "queue", "blocked": false, "budget": "sprint", "phase": "Throttled" },
    ]);
    world.team.until_route("router", "tell of its callers", |route| route["status"]["callers"] == paused).await;

    // Nothing is remembered for it: the pools return to what their specs and queues ask for.
    world.team.change_budget("sprint", json!({ "tokens": 400_000 })).await;
    until_at_work(&world).await;
    world.team.until_says("queue", "PausedByBudget", "False", "NotPaused").await;
    assert!(!world.team.until_event("AgentPool", "pinned", "NotPaused").await, "no warning");
    world.until_answered(&replica, "queue", "router", "again", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_deleted_while_pools_are_paused_brings_their_agents_back() {
    let (mut world, redis) = (World::new("pause-deleted", 1, AGENTS).await, Redis::start().await);
    with_agents(&world, &redis).await;
    let mut operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    until_at_work(&world).await;
    world.team.apply_budget("sprint", tokens(40_000)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(std::slice::from_ref(&replica), "pinned", "router").await;
    for _ in 0..2 {
        use_up(&world, &replica, "critical", 18_000).await;
    }
    world.spend_all(&replica, "pinned", "router").await;
    // At the wall all of them pause, critical or not.
    let all = ["critical", "pinned", "queue"];
    until_paused(&world, &all, "sprint").await;
    let blocked = |route: &Value| {
        let callers = route.pointer("/status/callers").and_then(Value::as_array).map(Vec::len);
        callers == Some(all.len())
    };
    world.team.until_route("router", "tell of its callers", blocked).await;
    // Also the next operator keeps them paused, from its first look on. It has looked at them when it has at one that is new.
    let deployments = world.team.watch_deployments().await;
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    world.team.apply_pool("marker", json!({ "template": pictures(), "replicas": 0 })).await;
    world.team.until_says("marker", "Ready", "True", "ScaledToZero").await;
    until_paused(&world, &all, "sprint").await;
    for pool in all {
        let replicas = deployments.replicas_of(&format!("{pool}-pool"));
        assert!(replicas.iter().all(|(_, replicas)| *replicas == 0), "{pool} had agents meanwhile: {replicas:?}");
    }

    world.team.budgets().delete("sprint", &Default::default()).await.unwrap();
    until_at_work(&world).await;
    for pool in all {
        let free = world.team.until_says(pool, "PausedByBudget", "False", "NotPaused").await;
        assert!(free.pointer("/status/budgets").is_none(), "{free:#}");
        world.until_answered(&replica, pool, "router", "again", |answer| answer.status == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_uses_no_more_than_its_share_until_what_others_leave_is_redistributed() {
    let pools: &[(&str, &[&str])] = &[("busy", &["busy"]), ("idle", &["idle"])];
    let mut world = World::new("shares", 2, pools).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replicas = world.ready(2).await;
    let shared = json!({ "share": { "type": "Weighted", "weights": { "busy": 3, "idle": 1 } }, "thresholds": [] });
    world.team.apply_budget("sprint", with(tokens(80_000), shared)).await;
    world.team.until_used_is_known(&["sprint"]).await;
    for pool in ["busy", "idle"] {
        world.until_covered(&replicas, pool, pool).await;
    }
    for _ in 0..2 {
        assert_eq!(world.call(&replicas[0], "busy", "busy", 25_000).await.status, 200);
    }
    world.spend_all(&replicas[1], "busy", "busy").await;
    let (used, least) = (world.truth(&["busy"]), world.most("busy", 1).await);
    assert!(is_spent(60_000, used, least), "{used} of its share");
    assert_eq!(world.call(&replicas[0], "idle", "idle", 500).await.status, 200, "the other one has its own");
    // Who has used up its share pauses, and nobody else.
    world.team.until_says("busy", "PausedByBudget", "True", "Paused").await;
    world.team.until_says("idle", "PausedByBudget", "False", "NotPaused").await;

    let redistributed = json!({ "thresholds": [{ "atPercent": 90, "action": "Redistribute" }] });
    world.team.change_budget("sprint", redistributed).await;
    world.team.until_budget("sprint", "the step", |budget| steps(budget) == [(90, "Redistribute".to_owned())]).await;
    world.until_answered(&replicas[0], "busy", "busy", "again", |answer| answer.status == 200).await;
    world.spend_all(&replicas[0], "busy", "busy").await;
    let (more, all) = (world.truth(&["busy"]), world.truth(&["busy", "idle"]));
    assert!(more > 65_000 && all <= 80_000, "{more} by one, {all} by both");
    world.until_answered(&replicas[1], "idle", "idle", "from what is kept for it", |answer| answer.status == 200).await;
    assert!(world.truth(&["busy", "idle"]) <= 80_000);
    assert_eq!(world.team.budget("sprint").await["metadata"]["generation"], 2);
}

/// What rules ask about the caller's budgets is what these say.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_sees_how_much_of_the_callers_budgets_is_used() {
    let pools: &[(&str, &[&str])] = &[("coder", &["router"])];
    let mut world = World::new("rules", 1, pools).await;
    world.team.apply("spare", backend(&world.server, "router")).await;
    let rule = with(json!({ "name": "used", "when": { "budgetUsedPercent": { "atLeast": 50 } } }), to(&["spare"]));
    world.team.apply_route("router", with(to(&["router"]), json!({ "rules": [rule] }))).await;
    let _operator = world.team.operator_with(&configuration(), &[]).await;
    let replica = world.ready(1).await.remove(0);
    assert_eq!(world.call(&replica, "coder", "router", 1).await.backend, "router", "whom no budget covers has used nothing of one");
    let labels = json!({ "appliesTo": { "agentPoolSelector": { "matchLabels": { POOL: "coder" } }, "modelRoutes": [{ "name": "router" }] } });
    world.team.apply_budget("sprint", with(with(tokens(40_000), labels), json!({ "thresholds": [] }))).await;
    world.team.until_used_is_known(&["sprint"]).await;
    world.until_covered(std::slice::from_ref(&replica), "coder", "router").await;
    assert_eq!(world.call(&replica, "coder", "router", 1).await.backend, "router");
    use_up(&world, &replica, "coder", 22_000).await;
    world.until_answered(&replica, "coder", "router", "by the rule", |answer| answer.backend == "spare").await;
}
