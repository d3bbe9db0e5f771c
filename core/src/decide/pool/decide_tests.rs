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

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

pub(super) fn observe(spec: Value) -> Observation {
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
        budgets: Vec::new(),
        history: History::default(),
        workload: Workload::None,
        target_selector: None,
        agents: Vec::new(),
        pods: Vec::new(),
        cheap: Vec::new(),
        caller_secret: None,
        entropy: "0123456789abcdef".repeat(4),
        refusals: Vec::new(),
        outdated_schema: Arc::default(),
    }
}

pub(super) fn coder(more: Value) -> Observation {
    let mut spec = json!({
        "template": { "spec": { "containers": [{ "name": "agent", "image": "coder:1" }] } },
        "queues": [{ "name": "tasks", "redisStream": { "url": "redis://redis:6379", "stream": "s", "group": "g" } }],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    observe(spec)
}

pub(super) fn tasks(waiting: u64, in_flight: u64) -> Vec<QueueFacts> {
    let reading = Reading { waiting, in_flight: Some(in_flight), ..Reading::default() };
    vec![QueueFacts { name: "tasks".into(), reading: Some(reading), failure: None }]
}

pub(super) fn unreachable(since: i64) -> Vec<QueueFacts> {
    let failure = Failure { cause: FailureCause::Unreachable, message: "no answer".into(), since: at(since) };
    vec![QueueFacts { name: "tasks".into(), reading: None, failure: Some(failure) }]
}

/// One look at the pool, as the operator does it, and its effect.
pub(super) fn pass(observation: &mut Observation, second: i64) -> Decision<AgentPoolStatus> {
    remember(observation, at(second));
    let decision = decide(observation, at(second));
    if let Children::Exactly(children) = &decision.children
        && let Some(child) = children.iter().find(|child| child.identity.kind == "Deployment")
    {
        let replicas = u32::try_from(child.object["spec"]["replicas"].as_u64().unwrap()).unwrap();
        let annotations = child.object["metadata"]["annotations"].clone();
        observation.workload = Workload::Found(DeploymentFacts {
            annotations: serde_json::from_value(annotations).unwrap(),
            replicas,
            status_replicas: replicas,
            updated_replicas: replicas,
            ready_replicas: replicas,
            // Pods are only given where they do not run.
            available_replicas: if observation.pods.is_empty() { replicas } else { 0 },
            ..DeploymentFacts::default()
        });
    }
    observation.pool.status = Some(decision.status.clone());
    decision
}

pub(super) fn condition(decision: &Decision<AgentPoolStatus>, type_: &str) -> Option<(String, String)> {
    let condition = decision.status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.clone(), condition.reason.clone()))
}

pub(super) fn said(type_status: &str, reason: &str) -> Option<(String, String)> {
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
    // Between two looks the queue was as it was at the first, until the last poll.
    assert_eq!(pass(&mut pool, 94).status.desired_replicas, Some(1));
    assert_eq!(pass(&mut pool, 95).status.desired_replicas, Some(0));
    let ready = pass(&mut pool, 100);
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
fn a_queue_that_keeps_a_pool_from_being_ready_is_told_once() {
    let refused = || {
        let failure = Failure { cause: FailureCause::Unauthorized, message: "no".into(), since: at(0) };
        vec![QueueFacts { name: "tasks".into(), reading: None, failure: Some(failure) }]
    };
    let told = |decision: &Decision<AgentPoolStatus>| decision.events.iter().filter(|event| event.reason == "Unauthorized").count();
    let mut pool = coder(json!({ "minReplicas": 1 }));
    pool.queues = refused();
    // The Deployment is being made first, and what the pool waits for is told when that is there.
    let seen: Vec<usize> = (0..4).map(|second| told(&pass(&mut pool, second))).collect();
    assert_eq!(seen.iter().sum::<usize>(), 1, "{seen:?}");
    let mut existing = coder(json!({ "minReplicas": 1 }));
    existing.queues = tasks(1, 0);
    pass(&mut existing, 0);
    pass(&mut existing, 1);
    existing.queues = refused();
    let seen: Vec<usize> = (2..6).map(|second| told(&pass(&mut existing, second))).collect();
    assert_eq!(seen.iter().sum::<usize>(), 1, "{seen:?}");
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
    pool.workload = Workload::TargetInUse { by: "HorizontalPodAutoscaler web".into(), workload: DeploymentFacts::default() };
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
    let others_run = pass(&mut pool, 4);
    assert_eq!(condition(&others_run, "Ready"), said("True", "PartiallyAvailable"));
    let decision = pass(&mut pool, 5);
    assert_eq!(condition(&decision, "AbleToScale"), said("True", "ReadyForNewScale"));
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

#[test]
fn a_queue_that_fails_is_told_of_once_and_so_is_its_end() {
    let mut pool = coder(json!({}));
    pool.queues = tasks(5, 0);
    pass(&mut pool, 0);
    let told = |decision: &Decision<AgentPoolStatus>| -> Vec<(bool, String)> {
        let about_queues = decision.events.iter().filter(|event| ["Unreachable", "QueuesRead"].contains(&event.reason.as_str()));
        about_queues.map(|event| (event.warning, event.reason.clone())).collect()
    };
    pool.queues = unreachable(5);
    assert_eq!(told(&pass(&mut pool, 5)), [(true, "Unreachable".to_owned())]);
    assert_eq!(told(&pass(&mut pool, 10)), []);
    pool.queues = tasks(5, 0);
    assert_eq!(told(&pass(&mut pool, 15)), [(false, "QueuesRead".to_owned())]);
    assert_eq!(told(&pass(&mut pool, 20)), []);
}

#[test]
fn nothing_changes_before_the_queues_have_been_read_for_the_first_time() {
    let mut pool = coder(json!({ "scaling": { "cooldown": "0s" } }));
    pool.queues = tasks(5, 0);
    let before = pass(&mut pool, 0);
    // Another process takes over: it knows the status and the Deployment, and no queue yet.
    pool.history = History::default();
    pool.queues = vec![QueueFacts { name: "tasks".into(), reading: None, failure: None }];
    let first = pass(&mut pool, 5);
    assert_eq!((first.children, &first.status, first.events.len()), (Children::Keep, &before.status, 0));
    assert!(first.next.is_some());
}

#[test]
fn agents_at_work_are_waited_for_as_long_as_the_spec_says_and_no_longer() {
    let mut pool = coder(json!({ "replicas": 2, "scaleIn": { "waitForIdle": "60s" } }));
    pool.queues = tasks(0, 2);
    pass(&mut pool, 0);
    let busy = |name: &str| Agent {
        name: name.into(),
        created: Some(at(0)),
        assigned: true,
        running: true,
        ready: true,
        in_flight: Some(1),
    };
    pool.agents = vec![busy("a"), busy("b")];
    pool.pool.spec.replicas = Some(1);
    let held = pass(&mut pool, 10);
    assert_eq!((held.status.desired_replicas, held.status.limited_by), (Some(2), Some(LimitedBy::BusyAgents)));
    assert_eq!(pass(&mut pool, 69).status.desired_replicas, Some(2));
    let ended = pass(&mut pool, 70);
    assert_eq!((ended.status.desired_replicas, ended.patches.len()), (Some(1), 1));
}

#[test]
fn a_pool_that_is_unpinned_goes_down_by_its_rules_and_not_at_once() {
    let mut pool = coder(json!({ "replicas": 7, "scaling": { "cooldown": "30s" } }));
    pool.queues = tasks(0, 0);
    for second in (0..600).step_by(5) {
        pass(&mut pool, second);
    }
    pool.pool.spec.replicas = None;
    let unpinned = pass(&mut pool, 605);
    assert_eq!((unpinned.status.desired_replicas, unpinned.status.limited_by), (Some(7), Some(LimitedBy::StabilizationWindow)));
    assert_eq!(pass(&mut pool, 1000).status.desired_replicas, Some(0), "no task was ever seen, and the cooldown ends all the same");
}

#[test]
fn a_new_template_is_progress_until_the_deployment_has_replaced_its_pods() {
    let mut pool = coder(json!({ "replicas": 2 }));
    pass(&mut pool, 0);
    assert_eq!(condition(&pass(&mut pool, 5), "Ready"), said("True", "Available"));
    let Workload::Found(before) = pool.workload.clone() else { panic!() };
    pool.pool.spec.template = Some(json!({ "spec": { "containers": [{ "name": "agent", "image": "coder:2" }] } }));
    assert_eq!(condition(&pass(&mut pool, 10), "Ready"), said("False", "Progressing"));
    // The Deployment has the template, and its controller has yet to look at it.
    let Workload::Found(applied) = &mut pool.workload else { panic!() };
    (applied.generation, applied.observed_generation) = (2, 1);
    let applied = applied.clone();
    assert_ne!(applied.annotations, before.annotations);
    assert_eq!(condition(&decide(&pool, at(15)), "Ready"), said("False", "Progressing"));
    pool.workload = Workload::Found(DeploymentFacts { observed_generation: 2, ..applied });
    assert_eq!(condition(&decide(&pool, at(20)), "Ready"), said("True", "Available"));
}

#[test]
fn a_queue_that_nobody_can_read_before_somebody_acts_makes_a_pool_unready_and_an_outage_does_not() {
    let mut pool = coder(json!({}));
    let failing = |cause| Failure { cause, message: "no".into(), since: at(0) };
    pool.queues = vec![QueueFacts { name: "tasks".into(), reading: None, failure: Some(failing(FailureCause::Unauthorized)) }];
    pass(&mut pool, 0);
    assert_eq!(condition(&pass(&mut pool, 1), "Ready"), said("False", "Unauthorized"));
    let reading = tasks(0, 0)[0].reading.clone();
    pool.queues = vec![QueueFacts { name: "tasks".into(), reading, failure: Some(failing(FailureCause::Unauthorized)) }];
    assert_eq!(condition(&pass(&mut pool, 5), "Ready"), said("True", "ScaledToZero"));
}

#[test]
fn ready_says_who_holds_tasks_to_which_limit_and_nothing_of_it_where_there_is_none() {
    let message = |spec: Value| {
        let status = pass(&mut observe(spec), 0).status;
        let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        (ready.status, ready.message)
    };
    let routes = json!([{ "name": "smart" }]);
    let ready = |message: &str| ("True".to_owned(), message.to_owned());
    assert_eq!(message(json!({ "modelRoutes": routes })), ready("the pool makes and scales no agents"));
    assert_eq!(
        message(json!({ "modelRoutes": routes, "taskLimits": { "maxTokensPerTask": 1, "maxSteps": 1 } })),
        ready(
            "the pool makes and scales no agents; of spec.taskLimits the gateway holds tasks to maxTokensPerTask, and the agents \
             hold themselves to maxSteps"
        )
    );
}
