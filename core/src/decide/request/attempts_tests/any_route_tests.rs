//! What holds for any route, whatever its backends do.

use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::*;
use crate::api::model_route::{DataPolicy, Strategy};

/// A route over a few backends, and what the backends do.
#[derive(Clone, Debug)]
struct Scene {
    candidates: Vec<usize>,
    fallbacks: Vec<(usize, BTreeSet<FallbackCause>)>,
    keys: Vec<usize>,
    policy: bool,
    max_retries: u32,
    percent: u32,
    failures: u32,
    strategy: Strategy,
    outcomes: Vec<(u8, Option<u64>)>,
    chance: f64,
    takes: u64,
}

fn scene() -> impl proptest::strategy::Strategy<Value = Scene> {
    let causes = proptest::sample::subsequence(
        vec![
            FallbackCause::RateLimited,
            FallbackCause::Timeout,
            FallbackCause::Unavailable,
            FallbackCause::NotFound,
            FallbackCause::ContextLengthExceeded,
        ],
        1..=5,
    );
    let causes = causes.prop_map(|causes| causes.into_iter().collect::<BTreeSet<_>>());
    let strategies = [Strategy::Priority, Strategy::RoundRobin, Strategy::Weighted, Strategy::LowestCost];
    let shape = (
        proptest::collection::vec(0_usize..6, 0..4),
        proptest::collection::vec((0_usize..6, causes), 0..4),
        proptest::collection::vec(0_usize..4, 6),
        any::<bool>(),
        proptest::sample::select(strategies.to_vec()),
    );
    let settings = (0_u32..5, 0_u32..=100, 1_u32..6, 0.0..=1.0_f64, 0_u64..100);
    let outcomes = proptest::collection::vec((0_u8..10, proptest::option::of(0_u64..40)), 1..80);
    (shape, settings, outcomes).prop_map(|((candidates, fallbacks, keys, policy, strategy), settings, outcomes)| {
        let (max_retries, percent, failures, chance, takes) = settings;
        let candidates = candidates.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        Scene { candidates, fallbacks, keys, policy, max_retries, percent, failures, strategy, outcomes, chance, takes }
    })
}

impl Scene {
    fn gateway(&self) -> Gateway {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut route = fixtures::route(&self.candidates.iter().map(|index| names[*index]).collect::<Vec<_>>());
        let fallback =
            |(index, on): &(usize, BTreeSet<FallbackCause>)| fallback(names[*index], &on.iter().copied().collect::<Vec<_>>());
        route.fallback = self.fallbacks.iter().map(fallback).collect();
        route.strategy = self.strategy;
        route.retries.max_retries = self.max_retries;
        route.retries.budget_percent = self.percent;
        route.circuit_breaker.failures = self.failures;
        let keys = ["k1", "k2", "k3"];
        let backend = |index: usize| Backend {
            self_hosted: index.is_multiple_of(2),
            formats: if index == 5 { [].into() } else { [Format::ChatCompletions].into() },
            ..fixtures::backend(&keys[..self.keys[index]])
        };
        let backends: Vec<(&str, Backend)> = names.iter().enumerate().map(|(index, name)| (*name, backend(index))).collect();
        if self.policy {
            route.data_policy = DataPolicy::SelfHostedOnly;
        }
        let mut gateway = Gateway::new(route, &backends);
        gateway.chance = self.chance;
        gateway.takes = seconds(self.takes);
        gateway
    }
}

proptest! {
    #[test]
    fn attempts_end_within_their_bounds_and_go_nowhere_else(scene in scene()) {
        let mut gateway = scene.gateway();
        let route = gateway.plan.routes["smart"].clone();
        let plan = gateway.plan.clone();
        let mut outcomes = scene.outcomes.iter().cycle();
        for _ in 0..scene.outcomes.len() {
            let began = gateway.now;
            let mut attempts: Vec<(String, Option<String>, Why, Duration)> = Vec::new();
            let mut kinds = Vec::new();
            let steps = gateway.call(&mut |attempt| {
                let running = &attempt.running;
                attempts.push((running.backend().to_owned(), running.key().map(str::to_owned), attempt.why, attempt.deadline));
                let (outcome, retry_after) = outcomes.next().unwrap();
                match KINDS.get(usize::from(*outcome)) {
                    Some(kind) => {
                        kinds.push(*kind);
                        Does::Fail(Failure { kind: *kind, retry_after: retry_after.map(seconds) })
                    }
                    None => Does::Answer,
                }
            });
            let count = |holds: &dyn Fn(&Why) -> bool| attempts.iter().filter(|(_, _, why, _)| holds(why)).count();
            let retries = count(&|why| matches!(why, Why::Retry(_)));
            prop_assert!(count(&|why| *why == Why::Chosen) <= 1);
            prop_assert!(retries <= usize::try_from(scene.max_retries).unwrap());
            prop_assert!(scene.percent > 0 || retries == 0);
            prop_assert!(count(&|why| *why == Why::Fallback) <= route.fallback.len());
            let fallbacks: BTreeSet<&String> =
                attempts.iter().filter(|(_, _, why, _)| *why == Why::Fallback).map(|(backend, ..)| backend).collect();
            prop_assert_eq!(fallbacks.len(), count(&|why| *why == Why::Fallback), "each once");
            let keys: Vec<_> = attempts.iter().filter(|(_, _, why, _)| *why == Why::NextKey).map(|(backend, key, ..)| (backend, key)).collect();
            prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "no key is the next one twice");
            for (number, (backend, key, why, deadline)) in attempts.iter().enumerate() {
                let backend_of_plan = &plan.backends[backend];
                prop_assert!(backend_of_plan.formats.contains(&Format::ChatCompletions));
                prop_assert!(backend_of_plan.self_hosted || !scene.policy);
                prop_assert_eq!(key.is_none(), backend_of_plan.keys.is_empty());
                prop_assert!(*deadline <= began + route.timeouts.request);
                match why {
                    Why::Fallback => prop_assert!(route.fallback.iter().any(|fallback| fallback.backend == *backend)),
                    Why::NextKey => {
                        prop_assert!([QuotaExhausted, RateLimited, KeyRejected].contains(&kinds[number - 1]));
                        prop_assert_eq!(backend, &attempts[number - 1].0);
                    }
                    Why::Chosen | Why::Retry(_) => prop_assert!(route.backends.iter().any(|candidate| candidate.backend == *backend)),
                }
            }
            // Nothing follows the caller's own fault, or an answer.
            let last = kinds.iter().position(|kind| *kind == CallerFault);
            prop_assert!(last.is_none_or(|last| last + 1 == attempts.len()));
            let answered = steps.last().is_some_and(|step| step == "answered");
            prop_assert_eq!(attempts.len(), kinds.len() + usize::from(answered));
            let waited: Vec<&String> = steps.iter().filter(|step| step.starts_with("wait")).collect();
            // And once before the first attempt.
            prop_assert!(waited.len() <= usize::try_from(scene.max_retries).unwrap() + 1);
            prop_assert!(gateway.now <= began + route.timeouts.request + gateway.takes, "one attempt may end late, and none begins");
            for name in plan.backends.keys() {
                prop_assert_eq!(gateway.learned.running(name), 0);
            }
            gateway.now += seconds(3);
        }
    }
}
