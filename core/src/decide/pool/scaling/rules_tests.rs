use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;

use super::super::history::{Change, Recommendation};
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn rules(json: serde_json::Value) -> Rules {
    Rules::of(Some(&serde_json::from_value(json).unwrap())).unwrap()
}

fn recommended(list: &[(i64, u32)]) -> History {
    let recommendations = list.iter().map(|(second, replicas)| Recommendation { at: at(*second), replicas: *replicas }).collect();
    History { recommendations, ..History::default() }
}

fn changed(list: &[(i64, u32, u32)]) -> History {
    let changes = list.iter().map(|(second, from, to)| Change { at: at(*second), from: *from, to: *to }).collect();
    History { changes, ..History::default() }
}

#[test]
fn what_is_absent_is_as_in_a_horizontal_pod_autoscaler() {
    let rules = Rules::of(None).unwrap();
    assert_eq!((rules.up.window, rules.down.window), (Duration::ZERO, Duration::from_secs(300)));
    assert_eq!((rules.up.policies.len(), rules.down.policies.len()), (2, 1));
    assert_eq!((rules.up.tolerance, rules.down.tolerance), (0, 100_000));
    let partly = self::rules(serde_json::json!({ "scaleDown": { "stabilizationWindowSeconds": 0 } }));
    assert_eq!(partly.down.policies, rules.down.policies);
    assert_eq!(partly.up, rules.up);
}

#[test]
fn a_tolerance_that_is_no_number_is_an_error() {
    let rules = ScalingRules { tolerance: Some(Quantity("much".into())), ..ScalingRules::default() };
    assert!(Rules::of(Some(&Behavior { scale_up: Some(rules), scale_down: None })).is_err());
}

#[test]
fn a_demand_within_the_tolerance_changes_nothing() {
    let rules = Rules::of(None).unwrap();
    for (demand, tolerated) in [(50, true), (45, true), (44, false), (51, false), (0, false)] {
        assert_eq!(rules.tolerates(demand, 5, 10), tolerated, "{demand} tasks for 10 replicas of 5");
    }
    assert!(!rules.tolerates(0, 5, 0), "no replica tolerates nothing");
}

#[test]
fn the_window_against_removal_keeps_the_most_and_the_one_against_addition_the_least() {
    let both = rules(serde_json::json!({
        "scaleUp": { "stabilizationWindowSeconds": 60 }, "scaleDown": { "stabilizationWindowSeconds": 300 },
    }));
    let history = recommended(&[(100, 9), (350, 4), (390, 7)]);
    // At 400 the window of 60 s holds 4 and 7, the one of 300 s 4 and 7, as 100 is 300 s ago.
    assert_eq!(both.stabilize(5, 2, &history, at(400)), Limited { replicas: 5, binds: true });
    assert_eq!(both.stabilize(10, 2, &history, at(400)), Limited { replicas: 7, binds: true });
    assert_eq!(both.stabilize(1, 20, &history, at(400)), Limited { replicas: 4, binds: true });
    assert_eq!(both.stabilize(1, 20, &History::default(), at(400)), Limited { replicas: 20, binds: false });
}

#[test]
fn the_policy_that_allows_the_most_counts_unless_the_spec_says_otherwise() {
    let of = |select: &str| {
        rules(serde_json::json!({ "scaleUp": { "selectPolicy": select, "policies": [
            { "type": "Pods", "value": 4, "periodSeconds": 15 }, { "type": "Percent", "value": 100, "periodSeconds": 15 },
        ] } }))
    };
    let none = History::default();
    assert_eq!(of("Max").limit(10, 100, &none, at(0)).replicas, 20);
    assert_eq!(of("Min").limit(10, 100, &none, at(0)).replicas, 14);
    assert_eq!(of("Disabled").limit(10, 100, &none, at(0)).replicas, 10);
    assert_eq!(of("Max").limit(0, 100, &none, at(0)).replicas, 4, "from zero, pods count and percent do not");
    assert_eq!(of("Disabled").limit(10, 3, &none, at(0)).replicas, 3);
}

#[test]
fn what_was_changed_within_the_period_counts_in_both_directions() {
    let rules = rules(serde_json::json!({ "scaleUp": { "policies": [{ "type": "Pods", "value": 4, "periodSeconds": 60 }] } }));
    let history = changed(&[(10, 2, 6), (40, 6, 5)]);
    // It was 2 at the beginning of the minute: at most 6.
    assert_eq!(rules.limit(5, 50, &history, at(50)).replicas, 6);
    // The addition has left the minute: it was 6, at most 10.
    assert_eq!(rules.limit(5, 50, &history, at(70)).replicas, 10);
    assert_eq!(rules.next(&history, at(50)), Some(Duration::from_secs(5)), "the 15 s of the removal end first");
}

/// The HorizontalPodAutoscaler's algorithm once more, as its documentation tells it, in its own arithmetic.
mod by_the_book {
    use super::*;

    pub fn normalize(rules: &Rules, current: u32, proposal: u32, history: &History, second: i64) -> u32 {
        let (mut up, mut down) = (proposal, proposal);
        for recommendation in &history.recommendations {
            let at = recommendation.at.as_second();
            if at > second - i64::try_from(rules.up.window.as_secs()).unwrap() {
                up = up.min(recommendation.replicas);
            }
            if at > second - i64::try_from(rules.down.window.as_secs()).unwrap() {
                down = down.max(recommendation.replicas);
            }
        }
        let mut stabilized = current;
        if stabilized < up {
            stabilized = up;
        }
        if stabilized > down {
            stabilized = down;
        }
        let limits = |direction: &Direction, grows: bool| -> Vec<f64> {
            let limit = |policy: &ScalingPolicy| {
                let mut start = f64::from(current);
                for change in &history.changes {
                    if change.at.as_second() > second - i64::from(policy.period_seconds) {
                        start -= f64::from(change.to) - f64::from(change.from);
                    }
                }
                let start = start.max(0.0);
                let share = f64::from(policy.value);
                match (policy.type_, grows) {
                    (PolicyType::Pods, true) => start + share,
                    (PolicyType::Pods, false) => start - share,
                    (PolicyType::Percent, true) => (start * (100.0 + share) / 100.0).ceil(),
                    (PolicyType::Percent, false) => (start * (100.0 - share) / 100.0).trunc(),
                }
            };
            direction.policies.iter().map(limit).collect()
        };
        let pick = |limits: Vec<f64>, most_is_greatest: bool, select: SelectPolicy| match (select, most_is_greatest) {
            (SelectPolicy::Disabled, _) => f64::from(current),
            (SelectPolicy::Max, true) | (SelectPolicy::Min, false) => limits.into_iter().fold(f64::MIN, f64::max),
            (SelectPolicy::Max, false) | (SelectPolicy::Min, true) => limits.into_iter().fold(f64::MAX, f64::min),
        };
        let result = if stabilized > current {
            let most = pick(limits(&rules.up, true), true, rules.up.select).max(f64::from(current));
            f64::from(stabilized).min(most)
        } else if stabilized < current {
            let least = pick(limits(&rules.down, false), false, rules.down.select).min(f64::from(current));
            f64::from(stabilized).max(least)
        } else {
            f64::from(stabilized)
        };
        format!("{result:.0}").parse().unwrap()
    }
}

fn any_direction() -> impl Strategy<Value = Direction> {
    let policy = (prop::bool::ANY, 1_u32..200, 1_u32..120).prop_map(|(pods, value, period_seconds)| ScalingPolicy {
        type_: if pods { PolicyType::Pods } else { PolicyType::Percent },
        value,
        period_seconds,
    });
    let select = prop_oneof![Just(SelectPolicy::Max), Just(SelectPolicy::Min), Just(SelectPolicy::Disabled)];
    (0_u64..400, select, prop::collection::vec(policy, 1..4)).prop_map(|(window, select, policies)| Direction {
        window: Duration::from_secs(window),
        select,
        policies,
        tolerance: 0,
    })
}

proptest! {
    #[test]
    fn windows_and_policies_agree_with_the_algorithm_by_the_book(
        up in any_direction(),
        down in any_direction(),
        current in 0_u32..100,
        proposal in 0_u32..300,
        recommendations in prop::collection::vec((600_i64..1000, 0_u32..150), 0..8),
        changes in prop::collection::vec((850_i64..1000, 0_u32..60, 0_u32..60), 0..8),
    ) {
        let rules = Rules { up, down };
        let history = History { changes: changed(&changes).changes, ..recommended(&recommendations) };
        let stabilized = rules.stabilize(current, proposal, &history, at(1000));
        let limited = rules.limit(current, stabilized.replicas, &history, at(1000));
        prop_assert_eq!(limited.replicas, by_the_book::normalize(&rules, current, proposal, &history, 1000));
    }
}
