use std::time::Duration;

use serde_json::json;

use super::super::history::Change;
use super::*;
use crate::api::agent_pool::{AgentPoolSpec, Criticality};
use crate::decide::pool::facts::{Failure, FailureCause};

fn now() -> Timestamp {
    Timestamp::from_second(10_000).unwrap()
}

fn settings(scaling: serde_json::Value) -> Settings {
    let spec: AgentPoolSpec = serde_json::from_value(json!({ "scaling": scaling })).unwrap();
    Settings::of(&spec).unwrap()
}

fn read(name: &str, waiting: u64, in_flight: Option<u64>) -> QueueFacts {
    QueueFacts { name: name.into(), reading: Some(Reading { waiting, in_flight, ..Reading::default() }), failure: None }
}

fn failing(name: &str, seconds: i64) -> QueueFacts {
    let since = Timestamp::from_second(10_000 - seconds).unwrap();
    let failure = Failure { cause: FailureCause::Unreachable, message: "no answer".into(), since };
    QueueFacts { failure: Some(failure), ..read(name, 0, Some(0)) }
}

fn own() -> Taker {
    Taker { name: "own".into(), criticality: Criticality::Standard, capacity: 10, held: 0 }
}

fn of(queues: &[QueueFacts], settings: &Settings, current: u32) -> Demand {
    with_history(queues, settings, current, &History::default())
}

fn with_history(queues: &[QueueFacts], settings: &Settings, current: u32, history: &History) -> Demand {
    let queues: Vec<_> = queues.iter().map(|facts| Queue { facts, others: &[], held: 0 }).collect();
    demand(&queues, &own(), settings, current, history, now())
}

#[test]
fn tasks_in_flight_need_their_replicas_as_waiting_ones_do() {
    let settings = settings(json!({ "proportional": { "tasksPerReplica": 5 } }));
    for (waiting, in_flight, replicas) in [(0, Some(0), 0), (1, Some(0), 1), (58, Some(2), 12), (5, Some(1), 2), (7, None, 2)] {
        assert_eq!(of(&[read("tasks", waiting, in_flight)], &settings, 0).replicas, Some(replicas), "{waiting} {in_flight:?}");
    }
    assert!(!of(&[read("tasks", 7, None)], &settings, 0).in_flight_known);
}

#[test]
fn several_queues_ask_for_the_most_of_them_or_for_their_sum() {
    let queues = [read("a", 3, Some(0)), read("b", 8, Some(0)), read("c", 2, Some(1))];
    let most = of(&queues, &settings(json!({})), 0);
    assert_eq!((most.replicas, most.waiting, most.in_flight), (Some(8), 13, 1));
    assert_eq!(most.source, Source::Queue { name: "b".into(), waiting: 8, in_flight: 0 });
    assert_eq!(of(&queues, &settings(json!({ "combine": "Sum" })), 0).replicas, Some(14));
}

#[test]
fn the_sum_of_several_queues_is_asked_for_once() {
    let step = settings(json!({ "combine": "Sum", "step": { "high": 100, "low": 20, "size": 2 } }));
    let quiet = [read("a", 25, Some(0)), read("b", 25, Some(0))];
    assert_eq!(of(&quiet, &step, 4).replicas, Some(4), "each of them alone would ask for the four that there are");
    let busy = [read("a", 60, Some(0)), read("b", 60, Some(0))];
    assert_eq!(of(&busy, &step, 4).replicas, Some(6));
    let proportional = settings(json!({ "combine": "Sum", "proportional": { "tasksPerReplica": 10 } }));
    assert_eq!(of(&[read("a", 5, Some(0)), read("b", 5, Some(0))], &proportional, 0).replicas, Some(1));
}

#[test]
fn a_queue_that_cannot_be_read_is_not_an_empty_one() {
    let nothing = of(&[failing("a", 1000)], &settings(json!({})), 7);
    assert_eq!((nothing.replicas, nothing.unknown, nothing.source), (None, true, Source::Unknown));
    let never = QueueFacts { name: "a".into(), reading: None, failure: None };
    assert_eq!(of(&[never], &settings(json!({})), 7).replicas, None);
    let partly = of(&[failing("a", 1000), read("b", 2, Some(0))], &settings(json!({})), 7);
    assert_eq!((partly.replicas, partly.unknown), (Some(2), true));
}

#[test]
fn a_queue_that_cannot_be_read_for_long_counts_for_what_the_user_says() {
    let settings = settings(json!({ "onMetricFailure": { "hold": "3m", "thenReplicas": 4 } }));
    assert_eq!(of(&[failing("a", 179)], &settings, 1).replicas, None);
    let over = of(&[failing("a", 180)], &settings, 1);
    assert_eq!((over.replicas, over.source), (Some(4), Source::Fallback { name: "a".into() }));
    assert_eq!(of(&[failing("a", 180), read("b", 9, Some(0))], &settings, 1).replicas, Some(9));
}

#[test]
fn steps_go_up_above_the_high_mark_and_down_below_the_low_one() {
    let settings = settings(json!({ "step": { "high": 100, "low": 20, "size": 2 } }));
    for (tasks, current, replicas) in
        [(101, 3, 5), (100, 3, 3), (20, 3, 3), (19, 3, 1), (19, 1, 1), (0, 2, 0), (0, 1, 0), (50, 0, 1)]
    {
        assert_eq!(of(&[read("a", tasks, Some(0))], &settings, current).replicas, Some(replicas), "{tasks} tasks, {current}");
    }
}

#[test]
fn one_step_is_made_for_each_look_at_the_queue() {
    let settings = settings(json!({ "step": { "high": 100, "low": 20 }, "pollInterval": "10s" }));
    let stepped = |second: i64| {
        let changes = vec![Change { at: Timestamp::from_second(second).unwrap(), from: 2, to: 3 }];
        with_history(&[read("a", 500, Some(0))], &settings, 3, &History { changes, ..History::default() }).replicas
    };
    assert_eq!(stepped(9_991), Some(3));
    assert_eq!(stepped(9_990), Some(4));
}

#[test]
fn late_tasks_ask_for_one_more_and_an_empty_queue_for_those_at_work() {
    let settings = settings(json!({ "age": { "maxTaskAge": "2m" } }));
    let aged = |waiting, in_flight, oldest: u64, current| {
        let mut facts = read("a", waiting, Some(in_flight));
        facts.reading.as_mut().unwrap().oldest_waiting = Some(Duration::from_secs(oldest));
        of(&[facts], &settings, current).replicas
    };
    assert_eq!(aged(5, 2, 121, 2), Some(3));
    assert_eq!(aged(5, 2, 120, 2), Some(2));
    assert_eq!(aged(1, 0, 1, 0), Some(1));
    assert_eq!(aged(0, 3, 0, 8), Some(3));
    assert_eq!(aged(0, 0, 0, 8), Some(0));
}

#[test]
fn a_pool_counts_only_its_own_share_of_a_queue_with_others() {
    let settings = settings(json!({}));
    let facts = read("a", 14, Some(0));
    let others = [Taker { name: "first".into(), criticality: Criticality::Critical, capacity: 10, held: 0 }];
    let demand = demand(&[Queue { facts: &facts, others: &others, held: 0 }], &own(), &settings, 0, &History::default(), now());
    assert_eq!((demand.replicas, demand.waiting), (Some(4), 14));
}
