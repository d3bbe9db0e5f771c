use std::collections::BTreeMap;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::api::model_route::Strategy;

fn contender(backend: &str, weight: u32) -> Contender<'_> {
    Contender { backend, weight, cost: None, region: 0 }
}

/// The names in the order in which they are asked.
fn asked(strategy: Strategy, turns: &mut Turns, contenders: &[Contender<'_>]) -> String {
    let order = order(strategy, turns, contenders);
    order.into_iter().map(|index| contenders[index].backend).collect::<Vec<_>>().join(" ")
}

fn firsts(strategy: Strategy, turns: &mut Turns, contenders: &[Contender<'_>], calls: usize) -> String {
    (0..calls).map(|_| contenders[order(strategy, turns, contenders)[0]].backend).collect::<Vec<_>>().join("")
}

#[test]
fn each_has_its_turn_and_retries_go_to_those_whose_turn_is_next() {
    let contenders = [contender("a", 7), contender("b", 0), contender("c", 1)];
    let mut turns = Turns::default();
    let calls: Vec<String> = (0..4).map(|_| asked(Strategy::RoundRobin, &mut turns, &contenders)).collect();
    assert_eq!(calls, ["a b c", "b c a", "c a b", "a b c"]);
}

#[test]
fn each_strategy_says_whom_it_may_put_first() {
    let one = |weight, cost, region| Contender { backend: "", weight, cost, region };
    let contenders = [one(0, None, 1), one(0, Some(5), 0), one(7, None, 0), one(1, Some(3), 0), one(1, Some(1), 1)];
    for (strategy, expected) in [
        (Strategy::Priority, vec![1]),
        (Strategy::LowestCost, vec![3]),
        (Strategy::RoundRobin, vec![1, 2, 3]),
        (Strategy::Weighted, vec![2, 3]),
    ] {
        assert_eq!(may_be_first(strategy, &contenders), expected, "{strategy:?}");
        let first = order(strategy, &mut Turns::default(), &contenders)[0];
        assert!(expected.contains(&first), "{strategy:?} puts {first} first");
        assert_eq!(may_be_first(strategy, &[]), Vec::<usize>::new());
    }
}

#[test]
fn weights_are_kept_exactly_and_spread_smoothly() {
    let five = [contender("a", 5), contender("b", 1), contender("c", 1)];
    assert_eq!(firsts(Strategy::Weighted, &mut Turns::default(), &five, 14), "aabaacaaabaaca");
    let seventy = [contender("a", 70), contender("b", 30)];
    assert_eq!(firsts(Strategy::Weighted, &mut Turns::default(), &seventy, 10), "abaaabaaba");
}

#[test]
fn without_a_weight_one_is_asked_only_when_the_others_fail() {
    let contenders = [contender("a", 0), contender("b", 3), contender("c", 0), contender("d", 1)];
    let mut turns = Turns::default();
    let calls: Vec<String> = (0..4).map(|_| asked(Strategy::Weighted, &mut turns, &contenders)).collect();
    assert_eq!(calls, ["b d a c", "b d a c", "d b a c", "b d a c"]);
    let left = [contender("a", 0), contender("c", 0)];
    assert_eq!(firsts(Strategy::Weighted, &mut turns, &left, 4), "acac", "where only they are left, each has its turn");
}

#[test]
fn the_cheapest_is_asked_first_and_those_without_a_price_last() {
    let cost = |backend, cost| Contender { cost, ..contender(backend, 1) };
    let contenders = [cost("a", None), cost("b", Some(30)), cost("c", Some(0)), cost("d", Some(30)), cost("e", None)];
    assert_eq!(asked(Strategy::LowestCost, &mut Turns::default(), &contenders), "c b d a e");
}

#[test]
fn by_priority_the_list_is_the_order() {
    let contenders = [contender("b", 0), contender("a", 9)];
    assert_eq!(asked(Strategy::Priority, &mut Turns::default(), &contenders), "b a");
}

#[rstest]
#[case(Strategy::Priority, "b d a c")]
#[case(Strategy::LowestCost, "d b c a")]
#[case(Strategy::RoundRobin, "b d a c")]
fn a_preferred_region_comes_before_any_other(#[case] strategy: Strategy, #[case] expected: &str) {
    let at = |backend, region, cost| Contender { region, cost: Some(cost), ..contender(backend, 1) };
    let contenders = [at("a", 1, 2), at("b", 0, 9), at("c", 1, 1), at("d", 0, 8)];
    assert_eq!(asked(strategy, &mut Turns::default(), &contenders), expected);
}

#[test]
fn a_weight_counts_within_the_preferred_region_alone() {
    let at = |backend, region, weight| Contender { region, ..contender(backend, weight) };
    let contenders = [at("a", 1, 1000), at("b", 0, 1), at("c", 0, 1)];
    assert_eq!(firsts(Strategy::Weighted, &mut Turns::default(), &contenders, 4), "bcbc");
    let spare = [at("a", 1, 1), at("b", 0, 0)];
    assert_eq!(firsts(Strategy::Weighted, &mut Turns::default(), &spare, 2), "bb", "a spare one there before those elsewhere");
}

#[test]
fn after_a_change_of_weights_nobody_has_to_make_up_for_the_old_ones() {
    let mut turns = Turns::default();
    let heavy = [contender("a", 1_000_000), contender("b", 1_000_000), contender("c", 999_999)];
    firsts(Strategy::Weighted, &mut turns, &heavy, 4);
    let light = [contender("a", 1), contender("b", 1)];
    let calls = firsts(Strategy::Weighted, &mut turns, &light, 10);
    let count = calls.matches('a').count();
    assert!((4..=6).contains(&count), "{calls}");
}

#[test]
fn a_backend_that_some_calls_cannot_use_keeps_its_turn_for_the_others() {
    let (mut turns, both, one) = (Turns::default(), [contender("a", 1), contender("b", 1)], [contender("a", 1)]);
    let mut calls = String::new();
    for _ in 0..10 {
        calls += &firsts(Strategy::RoundRobin, &mut turns, &both, 1);
        firsts(Strategy::RoundRobin, &mut turns, &one, 1);
    }
    assert_eq!(calls.matches('a').count(), 5, "{calls}");
}

#[test]
fn nobody_to_ask_is_an_empty_order() {
    for strategy in [Strategy::RoundRobin, Strategy::Weighted, Strategy::LowestCost, Strategy::Priority] {
        assert_eq!(order(strategy, &mut Turns::default(), &[]), [0_usize; 0]);
    }
}

proptest! {
    #[test]
    fn any_number_of_calls_is_shared_by_the_weights_to_within_less_than_one(
        weights in proptest::collection::vec(prop_oneof![0_u32..4, 0_u32..100, 0_u32..=1_000_000], 1..=32),
    ) {
        let names: Vec<String> = (0..weights.len()).map(|index| format!("b{index}")).collect();
        let contenders: Vec<_> = names.iter().zip(&weights).map(|(name, weight)| contender(name, *weight)).collect();
        let all_zero = weights.iter().all(|weight| *weight == 0);
        let weight = |index: usize| if all_zero { 1 } else { u64::from(weights[index]) };
        let whole: u64 = (0..weights.len()).map(weight).sum();
        let (mut turns, mut counts) = (Turns::default(), vec![0_u64; weights.len()]);
        for call in 1..=150_u64 {
            let order = order(Strategy::Weighted, &mut turns, &contenders);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..weights.len()).collect::<Vec<_>>(), "everybody is asked once");
            counts[order[0]] += 1;
            for (index, count) in counts.iter().enumerate() {
                prop_assert!((count * whole).abs_diff(call * weight(index)) < whole.max(2), "{} of {} calls", count, call);
            }
        }
    }

    #[test]
    fn whatever_is_left_out_from_call_to_call_each_is_asked_once_and_nobody_starves(
        calls in proptest::collection::vec(proptest::sample::subsequence(vec![0_usize, 1, 2, 3], 1..=4), 40..80),
        weights in proptest::collection::vec(1_u32..50, 4),
    ) {
        let names = ["a", "b", "c", "d"];
        let mut turns = Turns::default();
        for present in &calls {
            let contenders: Vec<_> = present.iter().map(|index| contender(names[*index], weights[*index])).collect();
            let mut order = order(Strategy::Weighted, &mut turns, &contenders);
            order.sort_unstable();
            prop_assert_eq!(order, (0..present.len()).collect::<Vec<_>>());
        }
        // From wherever that led to, the shares are kept to within a few calls.
        let contenders: Vec<_> = names.iter().zip(&weights).map(|(name, weight)| contender(name, *weight)).collect();
        let whole: u32 = weights.iter().sum();
        let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
        for _ in 0..whole {
            *counts.entry(order(Strategy::Weighted, &mut turns, &contenders)[0]).or_default() += 1;
        }
        for (index, weight) in weights.iter().enumerate() {
            let count = counts.get(&index).copied().unwrap_or(0);
            prop_assert!(count.abs_diff(*weight) <= 4, "{} of {}, weight {}", count, whole, weight);
        }
    }
}
