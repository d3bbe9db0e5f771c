//! The whole decision about a pool.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::facts::{Failure, FailureCause, QueueFacts, Reading};
use super::scaling::history::History;
use super::scaling::victims::Agent;
use super::*;
use crate::api::AgentPool;
use crate::decide::backend::facts::{DeploymentFacts, PodFacts, Waiting};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn observe(spec: Value) -> Observation {
    let pool: AgentPool = serde_json::from_value(json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool",
        "metadata": { "name": "coder", "namespace": "team", "uid": "u-1", "generation": 1 }, "spec": spec,
    }))
    .unwrap();
    Observation {
        observed_at: None,
        pool,
        queues: Vec::new(),
        takers: BTreeMap::new(),
        history: History::default(),
        workload: Workload::None,
        target_selector: None,
        agents: Vec::new(),
        pods: Vec::new(),
        cheap: Vec::new(),
        refusals: Vec::new(),
        outdated_schema: Arc::default(),
    }
}

fn coder(more: Value) -> Observation {
    let mut spec = json!({
        "template": { "spec": { "containers": [{ "name": "agent", "image": "coder:1" }] } },
        "queues": [{ "name": "tasks", "redisStream": { "url": "redis://redis:6379", "stream": "s", "group": "g" } }],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    observe(spec)
}

fn tasks(waiting: u64, in_flight: u64) -> Vec<QueueFacts> {
    let reading = Reading { waiting, in_flight: Some(in_flight), ..Reading::default() };
    vec![QueueFacts { name: "tasks".into(), reading: Some(reading), failure: None }]
}

fn unreachable(since: i64) -> Vec<QueueFacts> {
    let failure = Failure { cause: FailureCause::Unreachable, message: "no answer".into(), since: at(since) };
    vec![QueueFacts { name: "tasks".into(), reading: None, failure: Some(failure) }]
}

/// One look at the pool, as the operator does it, and its effect.
fn pass(observation: &mut Observation, second: i64) -> Decision<AgentPoolStatus> {
    remember(observation, at(second));
    let decision = decide(observation, at(second));
    if let Children::Exactly(children) = &decision.children
        && let Some(child) = children.iter().find(|child| child.identity.kind == "Deployment")
    {
        let replicas = u32::try_from(child.object["spec"]["replicas"].as_u64().unwrap()).unwrap();
        observation.workload = Workload::Found(DeploymentFacts {
            replicas,
            status_replicas: replicas,
            updated_replicas: replicas,
            ready_replicas: replicas,
            available_replicas: replicas,
            ..DeploymentFacts::default()
        });
    }
    observation.pool.status = Some(decision.status.clone());
    decision
}

fn condition(decision: &Decision<AgentPoolStatus>, type_: &str) -> Option<(String, String)> {
    let condition = decision.status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.clone(), condition.reason.clone()))
}

fn said(type_status: &str, reason: &str) -> Option<(String, String)> {
    Some((type_status.to_owned(), reason.to_owned()))
}

#[test]
fn agents_go_from_none_to_many_and_back_after_the_cooldown() {
    let down = json!({ "scaleDown": { "stabilizationWindowSeconds": 0 } });
    let mut pool = coder(json!({ "scaling": { "proportional": { "tasksPerReplica": 5 }, "behavior": down, "cooldown": "60s" } }));
    pool.queues = tasks(0, 0);
    let idle = pass(&mut pool, 0);
    assert_eq!(idle.status.desired_replicas, Some(0));
    assert_eq!(condition(&idle, "ScalingActive"), said("True", "QueuesFollowed"));
    pass(&mut pool, 5);
    pool.queues = tasks(40, 0);
    let burst = pass(&mut pool, 10);
    assert_eq!((burst.status.desired_replicas, burst.status.limited_by), (Some(4), Some(LimitedBy::ScaleUpPolicy)));
    assert_eq!(
        burst.status.decision.as_deref(),
        Some("8 by queue tasks (40 waiting, 0 in flight, 5 per replica), held at 4 by the policies of scaleUp")
    );
    assert_eq!(burst.events.iter().filter(|event| event.reason == "SuccessfulRescale").count(), 1);
    pool.queues = tasks(30, 8);
    pass(&mut pool, 15);
    assert_eq!(pass(&mut pool, 30).status.desired_replicas, Some(8));
    pool.queues = tasks(0, 0);
    let cooling = pass(&mut pool, 40);
    assert_eq!((cooling.status.desired_replicas, cooling.status.limited_by), (Some(1), Some(LimitedBy::Cooldown)));
    assert_eq!(pass(&mut pool, 89).status.desired_replicas, Some(1));
    assert_eq!(pass(&mut pool, 90).status.desired_replicas, Some(0));
    let ready = pass(&mut pool, 95);
    assert_eq!(condition(&ready, "Ready"), said("True", "ScaledToZero"));
    let changes: Vec<_> = ready.status.decisions.iter().map(|change| (change.from, change.to)).collect();
    assert_eq!(changes, [(1, 0), (8, 1), (4, 8), (0, 4)]);
}

#[test]
fn while_the_queue_cannot_be_read_the_agents_stay_and_the_reason_is_told() {
    let mut pool = coder(json!({}));
    pool.queues = tasks(6, 0);
    pass(&mut pool, 0);
    pass(&mut pool, 1);
    pass(&mut pool, 20);
    pool.queues = unreachable(30);
    for second in [30, 400, 2000] {
        let decision = pass(&mut pool, second);
        assert_eq!((decision.status.desired_replicas, decision.status.limited_by), (Some(6), Some(LimitedBy::QueueFailure)));
        assert_eq!(condition(&decision, "MetricsAvailable"), said("False", "Unreachable"));
        assert_eq!(condition(&decision, "ScalingActive"), said("False", "QueuesUnknown"));
    }
}

#[test]
fn busy_agents_are_not_ended_while_idle_ones_are_there() {
    let behavior = json!({ "scaleDown": { "stabilizationWindowSeconds": 0 } });
    let mut pool = coder(json!({ "scaling": { "behavior": behavior }, "scaleIn": { "waitForIdle": "10m" } }));
    pool.queues = tasks(4, 0);
    pass(&mut pool, 0);
    pool.queues = tasks(0, 1);
    pool.agents = ["a", "b", "c", "d"]
        .map(|name| Agent {
            name: name.into(),
            created: None,
            assigned: true,
            running: true,
            ready: true,
            in_flight: Some(u64::from(name == "b" || name == "c")),
        })
        .to_vec();
    remember(&mut pool, at(30));
    let decision = decide(&pool, at(30));
    assert_eq!((decision.status.desired_replicas, decision.status.limited_by), (Some(2), Some(LimitedBy::BusyAgents)));
    let cheap: Vec<_> = decision.patches.iter().map(|patch| patch.target.name.as_str()).collect();
    assert_eq!(cheap, ["a", "d"]);
    // What was made cheap and stays after all is cleared.
    pool.cheap = vec!["a".into(), "d".into()];
    pool.queues = tasks(9, 0);
    let cleared = decide(&pool, at(35));
    assert!(
        cleared.patches.iter().all(|patch| patch.patch["metadata"]["annotations"]
            .as_object()
            .unwrap()
            .values()
            .all(Value::is_null))
    );
    assert_eq!(cleared.patches.len(), 2);
}

#[test]
fn a_target_is_scaled_by_its_subresource_and_nothing_is_made() {
    let mut pool = observe(json!({
        "targetRef": { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web" },
        "queues": [{ "name": "tasks", "redisList": { "url": "redis://redis:6379", "keys": ["q"] } }],
    }));
    pool.queues = tasks(3, 0);
    let missing = {
        pool.workload = Workload::TargetMissing;
        pass(&mut pool, 0)
    };
    assert_eq!(condition(&missing, "Ready"), said("False", "TargetNotFound"));
    assert_eq!(missing.patches, []);
    pool.workload = Workload::Found(DeploymentFacts::default());
    let found = pass(&mut pool, 1);
    assert_eq!(found.children, Children::Exactly(Vec::new()));
    let [patch] = found.patches.as_slice() else { panic!("{:?}", found.patches) };
    assert_eq!((patch.subresource, &patch.patch), (Some("scale"), &json!({ "spec": { "replicas": 3 } })));
    pool.workload = Workload::TargetInUse { by: "HorizontalPodAutoscaler web".into() };
    let used = pass(&mut pool, 2);
    assert_eq!(condition(&used, "AbleToScale"), said("False", "TargetInUse"));
    assert_eq!(used.patches, []);
}

#[test]
fn pinned_and_suspended_pools_show_their_queues_and_do_not_follow_them() {
    let mut pool = coder(json!({ "replicas": 3 }));
    pool.queues = tasks(500, 7);
    let pinned = pass(&mut pool, 0);
    assert_eq!((pinned.status.desired_replicas, pinned.status.queue_depth), (Some(3), Some(500)));
    assert_eq!(condition(&pinned, "ScalingActive"), said("False", "Pinned"));
    pool.pool.spec.suspend = Some(true);
    pool.pool.spec.replicas = None;
    let suspended = pass(&mut pool, 5);
    assert_eq!(suspended.children, Children::Keep);
    assert_eq!((suspended.status.desired_replicas, suspended.status.limited_by), (Some(3), Some(LimitedBy::Suspended)));
}

#[test]
fn figures_alone_are_shown_once_a_minute() {
    let mut pool = coder(json!({ "replicas": 1 }));
    pool.queues = tasks(5, 0);
    pass(&mut pool, 0);
    pool.history.figures_changed = Some(at(0));
    pool.queues = tasks(9, 0);
    let early = decide(&pool, at(10));
    assert_eq!((early.status.queue_depth, early.next), (Some(5), Some(std::time::Duration::from_secs(50))));
    assert_eq!(decide(&pool, at(60)).status.queue_depth, Some(9));
}

#[test]
fn what_keeps_agents_from_running_is_told() {
    let mut pool = coder(json!({ "replicas": 1 }));
    pass(&mut pool, 0);
    let waiting = Waiting { reason: "ImagePullBackOff".into(), message: "not found".into() };
    pool.pods = vec![PodFacts { waiting: Some(waiting), ..PodFacts::default() }];
    let decision = pass(&mut pool, 5);
    assert_eq!(condition(&decision, "Ready"), said("False", "ImagePullFailed"));
    assert_eq!(pass(&mut pool, 700).status.conditions[1].type_, "Stalled");
}

#[test]
fn a_spec_that_contradicts_itself_changes_nothing_and_names_the_field() {
    for (more, field) in [
        (json!({ "minReplicas": 12 }), "spec.minReplicas"),
        (json!({ "scaling": { "cooldown": "soon" } }), "spec.scaling.cooldown"),
        (json!({ "scaling": { "behavior": { "scaleUp": { "tolerance": "much" } } } }), "spec.scaling.behavior"),
    ] {
        let mut pool = coder(more);
        pool.queues = tasks(5, 0);
        let decision = pass(&mut pool, 0);
        assert_eq!(decision.children, Children::Keep);
        let stalled = decision.status.conditions.iter().find(|condition| condition.type_ == "Stalled").unwrap();
        assert!(stalled.message.contains(field), "{}", stalled.message);
    }
}

#[test]
fn a_recorded_observation_is_read_back_and_decides_the_same() {
    let mut pool = coder(json!({}));
    pool.queues = tasks(6, 2);
    pass(&mut pool, 0);
    let read: Observation = serde_json::from_str(&serde_json::to_string(&pool).unwrap()).unwrap();
    assert_eq!(decide(&read, at(7)), decide(&pool, at(7)));
}
