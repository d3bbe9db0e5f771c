use rstest::rstest;
use serde_json::{Value, json};

use super::super::{backend, testing};
use super::*;
use crate::api::conditions::reasons;

fn spec(json: Value) -> ModelRouteSpec {
    serde_json::from_value(json).unwrap()
}

fn backends() -> Backends {
    let entry = |facts: &backend::BackendFacts| (facts.backend.metadata.name.clone().unwrap(), backend::entry(facts, "team"));
    let mut backends: Backends = testing::backends().iter().map(entry).collect();
    let broken = testing::backend("broken", json!({ "external": { "provider": "AzureOpenAI", "model": "m" } }));
    backends.extend([entry(&broken), entry(&testing::own("mute", &["ChatCompletions"]))]);
    if let Some(Ok(mute)) = backends.get_mut("mute") {
        mute.backend.formats.clear();
    }
    backends
}

fn new(json: Value) -> Result<Entry, Problem> {
    of_new("router", &spec(json), &backends())
}

#[test]
fn the_shortest_route_has_every_default() {
    let entry = new(json!({ "backends": [{ "name": "small" }], "fallback": [{ "name": "claude" }] })).unwrap();
    let route = entry.route;
    assert_eq!(route.model_name, "router");
    assert_eq!(route.strategy, Strategy::RoundRobin);
    assert_eq!(route.backends, [Candidate { backend: "small".into(), tier: Tier::Standard, weight: 1 }]);
    assert_eq!(route.fallback, [FallbackCandidate { backend: "claude".into(), tier: Tier::Standard, causes: EVERY_CAUSE.into() }]);
    assert_eq!(route.data_policy, DataPolicy::Any);
    let Timeouts { request, backend_request, stream_idle } = route.timeouts;
    assert_eq!([request, backend_request, stream_idle].map(|time| time.as_secs()), [600, 120, 60]);
    let Retries { max_retries, initial, max, budget_percent } = route.retries;
    assert_eq!((max_retries, initial.as_millis(), max.as_secs(), budget_percent), (2, 500, 10, 20));
    let CircuitBreaker { failures, window, cooldown } = route.circuit_breaker;
    assert_eq!((failures, window.as_secs(), cooldown.as_secs()), (3, 60, 30));
}

#[test]
fn what_a_route_says_is_what_the_plan_has() {
    let route = new(json!({
        "modelName": "smart", "aliases": ["gpt-4o", "*"], "strategy": "LowestCost",
        "backends": [{ "name": "small", "tier": "Economy" }, { "name": "large", "weight": 0 }],
        "rules": [{ "name": "urgent", "when": { "priorities": ["P0"] }, "strategy": "Priority",
                    "backends": [{ "name": "small" }, { "name": "gpt", "tier": "Premium" }] },
                  { "name": "long", "when": { "promptTokens": { "atLeast": 3000 } }, "backends": [{ "name": "large" }] }],
        "trustedLabels": ["taskType"], "fallback": [{ "name": "small", "causes": ["Timeout"] }],
        "timeouts": { "request": "1m", "backendRequest": "500ms", "streamIdle": "5s" },
        "retries": { "maxRetries": 0, "backoff": { "initial": "0s", "max": "1s" }, "budgetPercent": 0 },
        "circuitBreaker": { "failures": 1, "window": "1s", "cooldown": "0s" },
        "regionPreference": ["eu", "us"],
    }))
    .unwrap()
    .route;
    assert_eq!(route.model_name, "smart");
    assert_eq!(route.aliases, ["*".to_owned(), "gpt-4o".to_owned()].into());
    assert_eq!(route.backends[1].weight, 0);
    let [urgent, long] = route.rules.as_slice() else { panic!("{:?}", route.rules) };
    assert_eq!((urgent.strategy, long.strategy), (Strategy::Priority, Strategy::LowestCost));
    assert_eq!(urgent.backends[0].tier, Tier::Economy, "a rule has the tier of the same name in spec.backends");
    assert_eq!(urgent.backends[1].tier, Tier::Premium);
    assert_eq!(route.fallback[0].tier, Tier::Economy);
    assert_eq!(route.fallback[0].causes, [FallbackCause::Timeout].into());
    assert_eq!(route.timeouts.backend_request.as_millis(), 500);
    assert_eq!((route.retries.max_retries, route.retries.budget_percent, route.retries.initial.as_millis()), (0, 0, 0));
    assert_eq!((route.circuit_breaker.failures, route.circuit_breaker.cooldown.as_millis()), (1, 0));
    assert_eq!(route.region_preference, ["eu", "us"]);
}

#[test]
fn backends_that_cannot_be_called_are_left_out_and_named_and_their_rule_stays() {
    let spec = spec(json!({
        "backends": [{ "name": "missing" }, { "name": "small" }],
        "rules": [{ "name": "private", "when": { "labels": { "data": ["pii"] } }, "backends": [{ "name": "gone" }] }],
        "fallback": [{ "name": "broken" }, { "name": "large" }, { "name": "missing" }],
    }));
    let route = of_new("router", &spec, &backends()).unwrap().route;
    assert_eq!(route.backends.iter().map(|candidate| candidate.backend.as_str()).collect::<Vec<_>>(), ["small"]);
    assert_eq!(route.rules.len(), 1, "its calls must not go where they should not");
    assert!(route.rules[0].backends.is_empty());
    assert_eq!(route.fallback.len(), 1);
    let told: Vec<_> = unresolved(&spec, &backends()).iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "each once: {told:?}");
    assert!(told[0].starts_with("spec.backends[missing] names the InferenceBackend missing"), "{told:?}");
    assert!(told[1].starts_with("spec.rules[private].backends[gone]"), "{told:?}");
    assert!(told[2].contains("the InferenceBackend broken has no address"), "{told:?}");
}

#[rstest]
#[case::no_backend(json!({}), reasons::INVALID_SPEC, "spec.backends is empty")]
#[case::all_unknown(json!({ "backends": [{ "name": "a" }], "fallback": [{ "name": "b" }] }), reasons::BACKEND_NOT_FOUND, "spec.backends[a]")]
#[case::all_weights_zero(
    json!({ "strategy": "Weighted", "backends": [{ "name": "small", "weight": 0 }, { "name": "large", "weight": 0 }] }),
    reasons::INVALID_SPEC, "spec.backends has the weight 0 for every backend"
)]
#[case::all_weights_of_a_rule_zero(
    json!({ "strategy": "Weighted", "backends": [{ "name": "small" }],
            "rules": [{ "name": "r", "when": { "taskTypes": ["a"] }, "backends": [{ "name": "large", "weight": 0 }] }] }),
    reasons::INVALID_SPEC, "spec.rules[r].backends has the weight 0"
)]
#[case::twice(json!({ "backends": [{ "name": "small" }, { "name": "small" }] }), reasons::INVALID_SPEC, "spec.backends names small twice")]
#[case::fallback_twice(
    json!({ "backends": [{ "name": "small" }], "fallback": [{ "name": "large" }, { "name": "large" }] }),
    reasons::INVALID_SPEC, "spec.fallback names large twice"
)]
#[case::twice_in_a_rule(
    json!({ "rules": [{ "name": "r", "when": { "taskTypes": ["a"] }, "backends": [{ "name": "small" }, { "name": "small" }] }] }),
    reasons::INVALID_SPEC, "spec.rules[r].backends names small twice"
)]
#[case::rule_without_condition(
    json!({ "backends": [{ "name": "small" }], "rules": [{ "name": "r", "when": {}, "backends": [{ "name": "small" }] }] }),
    reasons::INVALID_SPEC, "spec.rules[r].when is empty"
)]
#[case::policy(
    json!({ "backends": [{ "name": "claude" }], "dataPolicy": "SelfHostedOnly" }), reasons::NO_BACKEND_ALLOWED, "spec.backends"
)]
#[case::policy_of_a_rule(
    json!({ "backends": [{ "name": "small" }], "dataPolicy": "SelfHostedOnly", "fallback": [{ "name": "claude" }],
            "rules": [{ "name": "r", "when": { "taskTypes": ["a"] }, "backends": [{ "name": "claude" }] }] }),
    reasons::NO_BACKEND_ALLOWED, "spec.rules[r].backends"
)]
#[case::no_format_in_common(
    json!({ "backends": [{ "name": "gpt" }, { "name": "claude" }] }),
    reasons::FORMAT_NOT_SUPPORTED, "spec.backends[claude]: claude speaks Messages and not ChatCompletions"
)]
#[case::fallback_of_another_format(
    json!({ "backends": [{ "name": "gpt" }], "fallback": [{ "name": "claude" }] }),
    reasons::FORMAT_NOT_SUPPORTED, "spec.fallback[claude]: claude speaks Messages and not ChatCompletions"
)]
#[case::fallback_of_a_format_that_only_one_speaks(
    json!({ "backends": [{ "name": "small" }, { "name": "gpt" }], "fallback": [{ "name": "claude" }] }),
    reasons::FORMAT_NOT_SUPPORTED, "spec.fallback[claude]"
)]
#[case::no_format_at_all(json!({ "backends": [{ "name": "mute" }] }), reasons::FORMAT_NOT_SUPPORTED, "spec.backends[mute]: mute speaks no")]
#[case::no_time(
    json!({ "backends": [{ "name": "small" }], "timeouts": { "request": "0s" } }), reasons::INVALID_SPEC, "spec.timeouts.request is 0"
)]
#[case::no_duration(
    json!({ "backends": [{ "name": "small" }], "circuitBreaker": { "window": "soon" } }),
    reasons::INVALID_SPEC, "spec.circuitBreaker.window cannot be read: `soon`"
)]
fn what_cannot_come_into_force_is_refused_with_the_field_and_the_fix(
    #[case] json: Value,
    #[case] reason: &str,
    #[case] told: &str,
) {
    let problem = new(json).unwrap_err();
    assert_eq!(problem.reason(), reason, "{problem}");
    assert!(problem.to_string().contains(told), "{problem}");
}

#[rstest]
#[case::weights_of_other_strategies(json!({ "backends": [{ "name": "small", "weight": 0 }] }))]
#[case::own_fallback_under_the_policy(
    json!({ "backends": [{ "name": "claude" }], "fallback": [{ "name": "small" }], "dataPolicy": "SelfHostedOnly" })
)]
#[case::rules_for_clients_of_each_format(
    json!({ "backends": [{ "name": "gpt" }],
            "rules": [{ "name": "r", "when": { "agentPools": ["coding"] }, "backends": [{ "name": "claude" }] }] })
)]
#[case::a_fallback_for_each_format(json!({ "backends": [{ "name": "small" }], "fallback": [{ "name": "claude" }, { "name": "gpt" }] }))]
#[case::rules_only(json!({ "rules": [{ "name": "r", "when": { "taskTypes": ["a"] }, "backends": [{ "name": "small" }] }] }))]
#[case::only_the_fallback_exists(json!({ "backends": [{ "name": "missing" }], "fallback": [{ "name": "small" }] }))]
fn what_can_be_served_is_accepted(#[case] json: Value) {
    assert_eq!(new(json).map(|_| ()), Ok(()));
}

#[test]
fn a_backend_that_gets_no_calls_in_some_formats_is_named() {
    let limited = new(json!({ "backends": [{ "name": "small" }], "fallback": [{ "name": "claude" }] })).unwrap().limited;
    assert_eq!(limited, [Problem::FormatLimited { backend: "claude".into(), speaks: "Messages".into() }]);
    assert_eq!(new(json!({ "backends": [{ "name": "small" }, { "name": "large" }] })).unwrap().limited, []);
}
