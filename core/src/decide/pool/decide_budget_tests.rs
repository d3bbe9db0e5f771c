//! The whole decision about a pool that budgets cover.

use serde_json::{Value, json};

use super::decide_tests::{at, coder, condition, observe, pass, said, tasks, unreachable};
use super::scaling::victims::Agent;
use super::*;
use crate::api::agent_pool::Criticality;
use crate::api::token_budget_status::Phase;
use crate::decide::backend::facts::DeploymentFacts;

fn budget(name: &str, phase: Phase, pauses: bool) -> BudgetFacts {
    BudgetFacts { name: name.into(), phase, pauses }
}

fn pause() -> Vec<BudgetFacts> {
    vec![budget("sprint-42", Phase::Throttled, true), budget("year", Phase::Active, false)]
}

fn free() -> Vec<BudgetFacts> {
    vec![budget("sprint-42", Phase::Active, false), budget("year", Phase::Active, false)]
}

fn shown(decision: &Decision<AgentPoolStatus>) -> (Option<u32>, Option<LimitedBy>) {
    (decision.status.desired_replicas, decision.status.limited_by)
}

fn told(decision: &Decision<AgentPoolStatus>, reason: &str) -> Vec<bool> {
    decision.events.iter().filter(|event| event.reason == reason).map(|event| event.warning).collect()
}

const PAUSED: (Option<u32>, Option<LimitedBy>) = (Some(0), Some(LimitedBy::Budget));

#[test]
fn a_pause_ends_all_agents_at_once_whatever_pins_and_bounds_say() {
    for (more, before) in [(json!({}), 6), (json!({ "replicas": 3 }), 3), (json!({ "minReplicas": 9 }), 9)] {
        let mut pool = coder(more.clone());
        pool.queues = tasks(6, 0);
        for second in [0, 1, 20] {
            pass(&mut pool, second);
        }
        assert_eq!(pool.pool.status.as_ref().unwrap().desired_replicas, Some(before), "{more}");
        pool.budgets = pause();
        let paused = pass(&mut pool, 30);
        assert_eq!(shown(&paused), PAUSED, "{more}");
        assert_eq!(paused.status.decision.as_deref(), Some("0, as budget sprint-42 pauses the pool"), "{more}");
        for (type_, status) in [("PausedByBudget", "True"), ("ScalingLimited", "True"), ("ScalingActive", "False")] {
            assert_eq!(condition(&paused, type_), said(status, "Paused"), "{more}: {type_}");
        }
        assert_eq!(told(&paused, "Paused"), [true], "{more}");
        let again = pass(&mut pool, 35);
        assert_eq!((shown(&again), again.events.len()), (PAUSED, 1), "{more}: {:?}", again.events);
        assert_eq!(condition(&again, "Ready"), said("True", "ScaledToZero"), "{more}");
        assert_eq!(told(&again, "ScaledToZero"), [false], "{more}");
        assert_eq!(pass(&mut pool, 40).events, [], "{more}");
    }
}

#[test]
fn the_status_names_the_budgets_whether_they_pause_the_pool_or_not() {
    let mut pool = coder(json!({}));
    pool.queues = tasks(0, 0);
    pass(&mut pool, 0);
    let uncovered = pass(&mut pool, 1);
    assert_eq!((uncovered.status.budgets.len(), uncovered.status.budget_summary.as_deref()), (0, None));
    assert_eq!(condition(&uncovered, "PausedByBudget"), said("False", "NotPaused"));
    pool.budgets = vec![budget("sprint-42", Phase::Warning, false), budget("year", Phase::Active, false)];
    let covered = pass(&mut pool, 5);
    let states: Vec<_> = covered.status.budgets.iter().map(|budget| (budget.name.as_str(), budget.phase)).collect();
    assert_eq!(states, [("sprint-42", Phase::Warning), ("year", Phase::Active)]);
    assert_eq!(covered.status.budget_summary.as_deref(), Some("sprint-42: Warning"));
    assert_eq!((condition(&covered, "PausedByBudget"), covered.events), (said("False", "NotPaused"), vec![]));
    pool.budgets.clear();
    assert_eq!(pass(&mut pool, 10).status.budgets, [], "the budget is gone, and so is its line");
}

#[test]
fn after_a_pause_the_pool_returns_to_what_the_queues_ask_for_by_the_policies() {
    let mut pool = coder(json!({}));
    pool.queues = tasks(6, 0);
    for second in [0, 1, 20] {
        pass(&mut pool, second);
    }
    pool.budgets = pause();
    for second in (30..600).step_by(5) {
        assert_eq!(shown(&pass(&mut pool, second)), PAUSED);
    }
    pool.budgets = free();
    let first = pass(&mut pool, 600);
    assert_eq!(shown(&first), (Some(4), Some(LimitedBy::ScaleUpPolicy)));
    assert_eq!((told(&first, "NotPaused"), told(&first, "SuccessfulRescale")), (vec![false], vec![false]));
    assert_eq!(condition(&first, "PausedByBudget"), said("False", "NotPaused"));
    pass(&mut pool, 605);
    assert_eq!(shown(&pass(&mut pool, 620)), (Some(6), None));
}

#[test]
fn after_a_pause_pins_and_bounds_hold_again_without_anything_remembered() {
    for (more, expected) in [
        (json!({ "replicas": 3 }), (Some(3), Some(LimitedBy::Pinned))),
        (json!({ "minReplicas": 2 }), (Some(2), Some(LimitedBy::MinReplicas))),
        (json!({ "queues": [], "minReplicas": 2 }), (Some(2), None)),
        (json!({ "queues": [], "replicas": 3 }), (Some(3), Some(LimitedBy::Pinned))),
    ] {
        let mut pool = coder(more.clone());
        if !pool.pool.spec.queues.is_empty() {
            pool.queues = tasks(0, 0);
        }
        pass(&mut pool, 0);
        assert_eq!(shown(&pass(&mut pool, 5)), expected, "{more}");
        pool.budgets = pause();
        assert_eq!(shown(&pass(&mut pool, 10)), PAUSED, "{more}");
        // Another process takes over, and the status is lost.
        pool.history = scaling::history::History::default();
        pool.pool.status = None;
        assert_eq!(shown(&pass(&mut pool, 15)), PAUSED, "{more}");
        pool.budgets = free();
        assert_eq!(shown(&pass(&mut pool, 20)), expected, "{more}");
    }
}

#[test]
fn a_suspended_pool_stays_as_it_is_when_a_budget_pauses_it_and_says_both() {
    let mut pool = coder(json!({ "replicas": 3 }));
    pass(&mut pool, 0);
    pool.pool.spec.suspend = Some(true);
    pool.budgets = pause();
    let suspended = pass(&mut pool, 5);
    assert_eq!(suspended.children, Children::Keep);
    assert_eq!(shown(&suspended), (Some(3), Some(LimitedBy::Suspended)));
    assert_eq!(condition(&suspended, "PausedByBudget"), said("True", "Paused"));
}

#[test]
fn a_spec_that_contradicts_itself_changes_nothing_while_a_budget_pauses_the_pool() {
    let mut pool = coder(json!({ "replicas": 3 }));
    pass(&mut pool, 0);
    pool.pool.spec.min_replicas = Some(50);
    pool.budgets = pause();
    let invalid = pass(&mut pool, 5);
    assert_eq!(invalid.children, Children::Keep);
    assert_eq!(condition(&invalid, "PausedByBudget"), said("True", "Paused"));
}

fn two_agents(pool: &mut Observation) {
    let agent = |(name, in_flight): (&str, u64)| Agent {
        name: name.into(),
        created: None,
        assigned: true,
        running: true,
        ready: true,
        in_flight: Some(in_flight),
    };
    pool.agents = [("busy", 1), ("idle", 0)].map(agent).to_vec();
}

#[test]
fn idle_agents_of_a_paused_pool_end_at_once_and_busy_ones_are_waited_for_where_the_spec_says_so() {
    let mut pool = coder(json!({ "replicas": 2, "scaleIn": { "waitForIdle": "10m" } }));
    pool.queues = tasks(0, 1);
    pass(&mut pool, 0);
    two_agents(&mut pool);
    pool.budgets = pause();
    let waiting = pass(&mut pool, 10);
    assert_eq!(shown(&waiting), (Some(1), Some(LimitedBy::Budget)));
    assert_eq!(waiting.status.decision.as_deref(), Some("1, as budget sprint-42 pauses the pool, and agents at work finish"));
    let cheap: Vec<_> = waiting.patches.iter().map(|patch| patch.target.name.as_str()).collect();
    assert_eq!(cheap, ["idle"]);
    pool.agents.retain(|agent| agent.name == "busy");
    assert_eq!(shown(&pass(&mut pool, 300)), (Some(1), Some(LimitedBy::Budget)));
    for agent in &mut pool.agents {
        agent.in_flight = Some(0);
    }
    assert_eq!(shown(&pass(&mut pool, 310)), PAUSED);
}

#[test]
fn busy_agents_of_a_paused_pool_are_asked_to_finish_at_once_where_the_spec_asks_for_no_wait() {
    for scale_in in [json!({}), json!({ "prefer": "Any", "waitForIdle": "10m" })] {
        let mut pool = coder(json!({ "replicas": 2, "scaleIn": scale_in }));
        pool.queues = tasks(0, 1);
        pass(&mut pool, 0);
        two_agents(&mut pool);
        pool.budgets = pause();
        assert_eq!(shown(&pass(&mut pool, 10)), PAUSED, "they have the grace period for that");
    }
}

fn target(queues: Value) -> Observation {
    observe(json!({ "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" }, "queues": queues }))
}

fn scaled_to(decision: &Decision<AgentPoolStatus>) -> Vec<&Value> {
    decision.patches.iter().map(|patch| &patch.patch["spec"]["replicas"]).collect()
}

#[test]
fn a_target_is_paused_and_brought_back_by_its_queues() {
    let mut pool = target(json!([{ "name": "tasks", "redisList": { "url": "redis://redis:6379", "keys": ["q"] } }]));
    pool.queues = tasks(3, 0);
    let of = |replicas| Workload::Found(DeploymentFacts { replicas, status_replicas: replicas, ..DeploymentFacts::default() });
    pool.workload = of(3);
    assert_eq!(pass(&mut pool, 0).patches, []);
    pool.budgets = pause();
    let paused = pass(&mut pool, 5);
    assert_eq!((shown(&paused), scaled_to(&paused)), (PAUSED, vec![&json!(0)]));
    pool.workload = of(0);
    assert_eq!(pass(&mut pool, 10).patches, []);
    pool.budgets = free();
    assert_eq!(scaled_to(&pass(&mut pool, 60)), [&json!(3)]);
}

#[test]
fn a_target_whose_size_nothing_decides_keeps_its_agents_and_the_condition_says_why() {
    let mut pool = target(json!([]));
    pool.workload = Workload::Found(DeploymentFacts { replicas: 5, status_replicas: 5, ..DeploymentFacts::default() });
    pass(&mut pool, 0);
    pool.budgets = pause();
    let paused = pass(&mut pool, 5);
    assert_eq!((shown(&paused), scaled_to(&paused)), ((Some(5), None), vec![]));
    assert_eq!(condition(&paused, "PausedByBudget"), said("True", "Paused"));
    let said = paused.status.conditions.iter().find(|condition| condition.type_ == "PausedByBudget").unwrap();
    assert!(said.message.contains("neither spec.queues nor spec.replicas"), "{}", said.message);
}

#[test]
fn a_paused_pool_leaves_its_tasks_to_the_others_that_take_from_the_queue() {
    let asked = |budgets| {
        let mut pool = coder(json!({}));
        pool.queues = tasks(6, 0);
        let other = Taker { name: "other".into(), criticality: Criticality::BestEffort, capacity: 2, held: 0 };
        pool.takers = [("tasks".to_owned(), vec![other])].into();
        pool.budgets = budgets;
        pass(&mut pool, 0);
        pool.history.recommendations.last().map(|recommendation| recommendation.replicas)
    };
    assert_eq!((asked(free()), asked(pause())), (Some(6), Some(0)));
}

#[test]
fn a_pause_holds_while_queues_cannot_be_read_and_nothing_is_added_after_it_before_they_can() {
    let mut pool = coder(json!({}));
    pool.queues = tasks(3, 0);
    for second in [0, 1] {
        pass(&mut pool, second);
    }
    pool.budgets = pause();
    pool.queues = unreachable(30);
    assert_eq!(shown(&pass(&mut pool, 30)), PAUSED);
    pool.budgets = free();
    assert_eq!(shown(&pass(&mut pool, 60)), (Some(0), Some(LimitedBy::QueueFailure)));
    pool.queues = tasks(3, 0);
    assert_eq!(shown(&pass(&mut pool, 70)), (Some(3), None));
}

#[test]
fn the_sentence_follows_when_another_budget_goes_on_with_a_pause() {
    let mut pool = coder(json!({ "replicas": 3 }));
    pass(&mut pool, 0);
    pool.budgets = pause();
    pass(&mut pool, 5);
    pool.budgets = vec![budget("sprint-42", Phase::Active, false), budget("year", Phase::Exhausted, true)];
    let other = pass(&mut pool, 10);
    assert_eq!(other.status.decision.as_deref(), Some("0, as budget year pauses the pool"));
    assert_eq!((told(&other, "Paused"), other.status.budget_summary.as_deref()), (vec![], Some("year: Exhausted")));
}

#[test]
fn a_recording_of_a_version_that_knew_no_budgets_is_read_and_one_of_a_paused_pool_decides_the_same() {
    let mut pool = coder(json!({ "replicas": 3 }));
    pass(&mut pool, 0);
    let recorded = serde_json::to_value(&pool).unwrap();
    assert!(recorded.get("budgets").is_none(), "it is what a version without budgets would have written");
    let read: Observation = serde_json::from_value(recorded).unwrap();
    assert_eq!(decide(&read, at(5)), decide(&pool, at(5)));
    pool.budgets = pause();
    let read: Observation = serde_json::from_value(serde_json::to_value(&pool).unwrap()).unwrap();
    assert_eq!(read, Observation { entropy: String::new(), ..pool.clone() });
    assert_eq!(decide(&read, at(5)).status, decide(&pool, at(5)).status);
}
