use proptest::prelude::*;
use serde_json::json;

use super::super::history::{Change, Recommendation};
use super::*;
use crate::api::agent_pool::AgentPoolSpec;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn settings(spec: serde_json::Value) -> Settings {
    Settings::of(&serde_json::from_value::<AgentPoolSpec>(spec).unwrap()).unwrap()
}

fn demand(replicas: u32) -> Demand {
    Demand {
        replicas: Some(replicas),
        source: Source::Queue { name: "tasks".into(), waiting: u64::from(replicas), in_flight: 0 },
        unknown: false,
        own_tasks: 0,
        waiting: u64::from(replicas),
        in_flight: 0,
        in_flight_known: true,
        next: None,
    }
}

fn unknown() -> Demand {
    Demand {
        replicas: None,
        source: Source::Unknown,
        unknown: true,
        own_tasks: 0,
        waiting: 0,
        in_flight: 0,
        in_flight_known: true,
        next: None,
    }
}

fn idle_since(second: i64) -> History {
    History { last_active: Some(at(second)), ..History::default() }
}

fn ask(settings: &Settings, demand: &Demand, current: u32, history: &History) -> Answer {
    replicas(&Question { settings, pinned: None, suspended: false, paused: false, demand, current, history }, at(1000))
}

#[test]
fn the_first_that_says_something_decides() {
    let settings = settings(json!({ "minReplicas": 2, "maxReplicas": 8 }));
    let history = History::default();
    let demand = demand(5);
    let question = Question {
        settings: &settings,
        pinned: Some(12),
        suspended: true,
        paused: true,
        demand: &demand,
        current: 3,
        history: &history,
    };
    let suspended = replicas(&question, at(1000));
    assert_eq!((suspended.replicas, suspended.limited_by), (3, Some(LimitedBy::Suspended)));
    let paused = replicas(&Question { suspended: false, ..question }, at(1000));
    assert_eq!((paused.replicas, paused.limited_by), (0, Some(LimitedBy::Budget)));
    let pinned = replicas(&Question { suspended: false, paused: false, ..question }, at(1000));
    assert_eq!((pinned.replicas, pinned.limited_by), (12, Some(LimitedBy::Pinned)));
    let followed = replicas(&Question { suspended: false, paused: false, pinned: None, ..question }, at(1000));
    assert_eq!((followed.replicas, followed.limited_by), (5, None));
}

#[test]
fn a_pause_takes_no_agent_that_nobody_could_bring_back() {
    let settings = settings(json!({ "minReplicas": 2 }));
    let history = History::default();
    let no_queue = Demand { source: Source::Nothing, unknown: false, ..unknown() };
    let ask = |pinned, paused, current| {
        let question =
            Question { settings: &settings, pinned, suspended: false, paused, demand: &no_queue, current, history: &history };
        let answer = replicas(&question, at(1000));
        (answer.replicas, answer.limited_by)
    };
    assert_eq!(ask(None, true, 5), (5, None), "nothing says that there are to be five");
    assert_eq!(ask(None, true, 2), (0, Some(LimitedBy::Budget)));
    assert_eq!((ask(None, true, 0), ask(None, false, 0)), ((0, Some(LimitedBy::Budget)), (2, None)), "minReplicas does");
    assert_eq!((ask(Some(5), true, 5), ask(Some(5), false, 0)), ((0, Some(LimitedBy::Budget)), (5, Some(LimitedBy::Pinned))));
}

#[test]
fn the_bounds_hold_at_once_whatever_windows_and_policies_say() {
    let settings = settings(json!({ "minReplicas": 2, "maxReplicas": 8 }));
    let over = ask(&settings, &demand(500), 40, &History::default());
    assert_eq!((over.replicas, over.limited_by), (8, Some(LimitedBy::MaxReplicas)));
    let under = ask(&settings, &demand(0), 0, &History::default());
    assert_eq!((under.replicas, under.limited_by), (2, Some(LimitedBy::MinReplicas)));
    assert_eq!(ask(&settings, &unknown(), 40, &History::default()).replicas, 8);
}

#[test]
fn a_burst_is_followed_as_fast_as_the_policies_allow() {
    let settings = settings(json!({ "maxReplicas": 100 }));
    let first = ask(&settings, &demand(40), 0, &History::default());
    assert_eq!((first.wanted, first.replicas, first.limited_by), (40, 4, Some(LimitedBy::ScaleUpPolicy)));
    let changes = vec![Change { at: at(995), from: 0, to: 4 }];
    let second = ask(&settings, &demand(40), 4, &History { changes, ..History::default() });
    assert_eq!((second.replicas, second.next), (4, Some(Duration::from_secs(10))));
}

#[test]
fn fewer_are_needed_only_after_the_window() {
    let settings = settings(json!({}));
    let recommendations = vec![Recommendation { at: at(800), replicas: 9 }];
    let held = ask(&settings, &demand(2), 9, &History { recommendations, ..idle_since(1000) });
    assert_eq!((held.wanted, held.replicas, held.limited_by), (2, 9, Some(LimitedBy::StabilizationWindow)));
    assert_eq!(held.next, Some(Duration::from_secs(100)));
    assert_eq!(ask(&settings, &demand(2), 9, &idle_since(1000)).replicas, 2);
}

#[test]
fn the_last_replica_stays_for_the_cooldown_from_one_and_from_many() {
    let settings = settings(json!({ "scaling": { "cooldown": "60s" } }));
    for current in [1, 7] {
        let early = ask(&settings, &demand(0), current, &idle_since(950));
        assert_eq!((early.replicas, early.limited_by, early.next), (1, Some(LimitedBy::Cooldown), Some(Duration::from_secs(10))));
        assert_eq!(ask(&settings, &demand(0), current, &idle_since(940)).replicas, 0);
    }
}

#[test]
fn nothing_is_taken_away_while_a_queue_cannot_be_read() {
    let settings = settings(json!({}));
    let hold = ask(&settings, &unknown(), 7, &History::default());
    assert_eq!((hold.replicas, hold.limited_by), (7, Some(LimitedBy::QueueFailure)));
    let partly = Demand { unknown: true, ..demand(2) };
    let held = ask(&settings, &partly, 7, &History::default());
    assert_eq!((held.replicas, held.limited_by), (7, Some(LimitedBy::QueueFailure)));
    assert_eq!(ask(&settings, &Demand { unknown: true, ..demand(9) }, 7, &History::default()).replicas, 9);
}

#[test]
fn what_the_user_says_for_an_unreadable_queue_counts_in_both_directions() {
    let settings = settings(json!({}));
    let fallback = Demand { unknown: true, source: Source::Fallback { name: "tasks".into() }, ..demand(4) };
    assert_eq!(ask(&settings, &fallback, 7, &History::default()).replicas, 4);
    assert_eq!(ask(&settings, &fallback, 2, &History::default()).replicas, 4);
}

#[test]
fn a_restart_with_an_empty_history_ends_nobody_for_a_window() {
    let settings = settings(json!({}));
    let history = History::beginning(at(1000), 9, Vec::new());
    assert_eq!(ask(&settings, &demand(0), 9, &history).replicas, 9);
}

prop_compose! {
    fn scenes()(
        least in 0_u32..5, more in 0_u32..30, current in 0_u32..40, wanted in 0_u32..60, known in prop::bool::ANY,
        readable in prop::bool::ANY, idle in 0_i64..600,
        recommendations in prop::collection::vec((600_i64..1000, 0_u32..40), 0..6),
        changes in prop::collection::vec((900_i64..1000, 0_u32..40, 0_u32..40), 0..6),
    ) -> (Settings, Demand, u32, History) {
        let settings = settings(json!({ "minReplicas": least, "maxReplicas": least + more }));
        let demand = Demand { unknown: !known, ..if readable { demand(wanted) } else { unknown() } };
        let recommendations = recommendations.into_iter().map(|(second, replicas)| Recommendation { at: at(second), replicas });
        let changes = changes.into_iter().map(|(second, from, to)| Change { at: at(second), from, to });
        let history = History {
            recommendations: recommendations.collect(),
            changes: changes.collect(),
            last_active: Some(at(1000 - idle)),
            ..History::default()
        };
        (settings, demand, current, history)
    }
}

proptest! {
    #[test]
    fn the_answer_is_within_the_bounds((settings, demand, current, history) in scenes()) {
        let answer = ask(&settings, &demand, current, &history);
        prop_assert!((settings.least..=settings.most).contains(&answer.replicas), "{answer:?}");
    }

    #[test]
    fn a_paused_pool_that_has_queues_has_no_agent((settings, demand, current, history) in scenes(), pinned in prop::option::of(0_u32..9)) {
        let question =
            Question { settings: &settings, pinned, suspended: false, paused: true, demand: &demand, current, history: &history };
        let answer = replicas(&question, at(1000));
        prop_assert_eq!((answer.replicas, answer.limited_by), (0, Some(LimitedBy::Budget)));
    }

    #[test]
    fn nothing_goes_down_within_the_bounds_while_a_queue_cannot_be_read((settings, demand, current, history) in scenes()) {
        let answer = ask(&settings, &Demand { unknown: true, ..demand }, current, &history);
        prop_assert!(answer.replicas >= current.min(settings.most), "{answer:?}");
    }

    #[test]
    fn more_demand_never_means_fewer_replicas((settings, demand, current, history) in scenes(), more in 0_u32..20) {
        let of = |replicas| ask(&settings, &Demand { replicas: Some(replicas), ..demand.clone() }, current, &history).replicas;
        let wanted = demand.replicas.unwrap_or(0);
        prop_assert!(of(wanted) <= of(wanted + more));
    }

    #[test]
    fn a_reached_answer_is_the_answer_again((settings, demand, current, history) in scenes()) {
        let answer = ask(&settings, &demand, current, &history);
        let mut then = history.clone();
        then.change(at(1000), current, answer.replicas, settings.rules.longest_period());
        let again = ask(&settings, &demand, answer.replicas, &then);
        let done = |answer: &Answer| answer.limited_by.is_none_or(|limit| limit != LimitedBy::ScaleUpPolicy);
        if done(&answer) && answer.replicas >= current {
            prop_assert_eq!(again.replicas, answer.replicas, "{:?} then {:?}", answer, again);
        }
    }

    #[test]
    fn whatever_holds_the_replicas_back_has_a_name((settings, demand, current, history) in scenes()) {
        let answer = ask(&settings, &demand, current, &history);
        prop_assert_eq!(answer.limited_by.is_some(), answer.replicas != answer.wanted || demand.replicas.is_none(), "{:?}", answer);
    }
}
