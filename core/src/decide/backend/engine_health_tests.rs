//! What a backend says of itself when its engines were asked.

use std::collections::BTreeMap;

use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::decide::backend::decide;
use crate::decide::backend::decide_tests::{carried_out, condition, now, observe, ready};
use crate::decide::backend::facts::{KeyFacts, TrafficFacts};
use crate::decide::decision::Decision;

/// A backend of so many replicas, all of which answer the kubelet.
fn served(replicas: u32) -> Observation {
    let spec = json!({
        "vllm": { "model": "Qwen/Qwen3-32B" }, "replicas": replicas, "healthCheck": { "failureThreshold": 3 },
    });
    carried_out(carried_out(observe(spec)))
}

fn engine(number: u32, outcome: Option<CheckOutcome>, failures: u32, succeeded_before: bool) -> EngineFacts {
    EngineFacts { checks: KeyFacts { name: format!("pod-{number}"), outcome, failures, succeeded_before }, kv_cache_tokens: None }
}

fn well(number: u32) -> EngineFacts {
    engine(number, Some(CheckOutcome::Healthy), 0, true)
}

fn holding(number: u32, tokens: u64) -> EngineFacts {
    EngineFacts { kv_cache_tokens: Some(tokens), ..well(number) }
}

fn dead(number: u32, failures: u32) -> EngineFacts {
    engine(number, Some(CheckOutcome::Failed { message: "503: the engine does not run".into() }), failures, true)
}

fn unreachable() -> CheckOutcome {
    CheckOutcome::Unreachable { message: "connection refused".into() }
}

fn late() -> CheckOutcome {
    CheckOutcome::Failed { message: "no answer within 5s".into() }
}

fn health(decision: &Decision<InferenceBackendStatus>) -> Value {
    serde_json::to_value(&decision.status.health).unwrap()
}

fn is(decision: &Decision<InferenceBackendStatus>, type_: &str, status: &str, reason: &str) -> bool {
    condition(decision, type_) == Some((status.to_owned(), reason.to_owned()))
}

#[test]
fn a_backend_whose_pods_cannot_be_asked_is_as_ready_as_its_deployment() {
    let decision = decide(&served(1), now());
    assert!(is(&decision, "Ready", "True", "Available"));
    assert_eq!(decision.status.health, None, "nothing is known, which is not the same as healthy");
}

#[rstest]
#[case::not_asked_yet(engine(0, None, 0, false), "Unknown", ("True", "Available"))]
#[case::well(well(0), "Healthy", ("True", "Available"))]
#[case::at_its_limit(engine(0, Some(CheckOutcome::RateLimited), 0, true), "Healthy", ("True", "Available"))]
#[case::one_failure(dead(0, 1), "Healthy", ("True", "Available"))]
#[case::the_last_failure_that_is_borne(dead(0, 2), "Healthy", ("True", "Available"))]
#[case::failures_in_a_row(dead(0, 3), "Unhealthy", ("False", "EngineUnhealthy"))]
#[case::reached_no_more(engine(0, Some(unreachable()), 3, true), "Unhealthy", ("False", "Unreachable"))]
#[case::never_reached_while_the_kubelet_does(engine(0, Some(unreachable()), 9, false), "Unknown", ("True", "Available"))]
#[case::no_answer(engine(0, Some(late()), 3, false), "Unhealthy", ("False", "EngineUnhealthy"))]
#[case::first_failures(engine(0, Some(late()), 2, false), "Unknown", ("True", "Available"))]
#[case::another_model(engine(0, Some(CheckOutcome::ModelNotListed), 1, false), "Unhealthy", ("False", "ModelNotListed"))]
#[case::another_key(engine(0, Some(CheckOutcome::Unauthorized), 1, false), "Unhealthy", ("False", "Unauthorized"))]
#[case::it_may_not_be_asked(
    engine(0, Some(CheckOutcome::NotAllowed { message: "loopback".into() }), 9, false), "Unknown", ("True", "Available")
)]
fn what_counts_is_shown_and_what_does_not_changes_nothing(
    #[case] facts: EngineFacts,
    #[case] state: &str,
    #[case] expected: (&str, &str),
) {
    let mut observation = served(1);
    observation.engines = vec![facts];
    let decision = decide(&observation, now());
    let shown = if state == "Unknown" { Value::Null } else { json!({ "state": state }) };
    assert_eq!(health(&decision), shown, "what is not known is not shown");
    assert_eq!(ready(&decision), (expected.0.to_owned(), expected.1.to_owned()));
    let available = if state == "Unhealthy" { ("False", expected.1) } else { ("True", "Available") };
    assert!(is(&decision, "Available", available.0, available.1), "{:?}", condition(&decision, "Available"));
    let loaded = if expected.1 == "ModelNotListed" { ("False", "ModelNotListed") } else { ("True", "ModelLoaded") };
    assert!(is(&decision, "ModelLoaded", loaded.0, loaded.1), "{:?}", condition(&decision, "ModelLoaded"));
    assert!(!matches!(decision.children, crate::decide::decision::Children::Keep), "health keeps nothing from being made");
}

#[test]
fn one_pod_that_is_not_well_is_told_by_its_name_and_the_backend_still_answers() {
    let mut observation = served(2);
    observation.engines = vec![well(0), dead(1, 3)];
    let decision = decide(&observation, now());
    assert_eq!(health(&decision), json!({ "state": "Healthy" }));
    assert!(is(&decision, "Ready", "False", "EngineUnhealthy") && is(&decision, "Available", "True", "Available"));
    let message = &decision.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message;
    assert!(message.contains("pod-1") && message.contains("503"), "{message}");
}

#[test]
fn what_the_deployment_waits_for_comes_before_what_the_pods_say() {
    let mut observation = served(2);
    let deployment = observation.deployment.as_mut().unwrap();
    (deployment.ready_replicas, deployment.available_replicas) = (1, 1);
    observation.pods[1].ready = false;
    observation.engines = vec![well(0), dead(1, 3)];
    assert!(is(&decide(&observation, now()), "Ready", "False", "PartiallyAvailable"));
}

#[test]
fn pods_that_end_or_load_the_model_again_are_not_asked() {
    let mut observation = served(1);
    observation.engines = vec![dead(0, 9)];
    observation.pods[0].terminating = true;
    assert_eq!(decide(&observation, now()).status.health, None);
    (observation.pods[0].terminating, observation.pods[0].started) = (false, false);
    assert_eq!(decide(&observation, now()).status.health, None);
}

#[test]
fn the_same_facts_again_write_no_status() {
    let mut observation = served(1);
    observation.engines = vec![holding(0, 400_000)];
    observation.backend.status = Some(decide(&observation, now()).status);
    assert_eq!(Some(decide(&observation, now()).status), observation.backend.status);
    observation.engines = vec![dead(0, 1)];
    let decision = decide(&observation, now());
    assert_eq!(Some(decision.status), observation.backend.status, "a failure that does not count yet");
}

#[test]
fn a_new_process_goes_by_the_status_until_it_has_asked() {
    let mut observation = served(1);
    observation.engines = vec![holding(0, 400_000)];
    let before = decide(&observation, now()).status;
    observation.backend.status = Some(before.clone());
    observation.engines = vec![engine(0, None, 0, false)];
    assert_eq!(decide(&observation, now()).status, before);

    observation.engines = vec![dead(0, 3)];
    observation.backend.status = Some(decide(&observation, now()).status);
    observation.engines = vec![engine(0, None, 0, false)];
    assert_eq!(ready(&decide(&observation, now())), ("False".into(), "HealthUnknown".into()));
    let once = engine(0, Some(CheckOutcome::Failed { message: "503".into() }), 1, false);
    observation.engines = vec![once];
    assert_eq!(ready(&decide(&observation, now())), ("False".into(), "EngineUnhealthy".into()));
}

#[test]
fn the_cache_is_shown_beside_its_prediction_with_the_error_and_the_smallest_counts() {
    let mut observation = served(2);
    let predicted = decide(&observation, now()).status.sizing.unwrap().kv_cache_tokens.unwrap();
    let summary = |decision: &Decision<InferenceBackendStatus>| decision.status.summary.as_ref().unwrap().kv_cache_tokens;
    assert_eq!(
        summary(&decide(&observation, now())),
        Some(predicted),
        "before anything is known the column shows what is predicted"
    );

    observation.engines = vec![holding(0, predicted / 2), holding(1, predicted)];
    let decision = decide(&observation, now());
    assert_eq!(decision.status.observed_kv_cache_tokens, Some(predicted / 2));
    assert_eq!(decision.status.kv_cache_prediction_error_percent, Some(100));
    assert_eq!(summary(&decision), Some(predicted / 2));
    assert_eq!(decision.status.sizing.as_ref().unwrap().kv_cache_tokens, Some(predicted), "the prediction stays what it was");
}

#[test]
fn what_was_observed_stays_for_the_same_choice_only() {
    let mut observation = served(1);
    observation.engines = vec![holding(0, 400_000)];
    observation.backend.status = Some(decide(&observation, now()).status);
    observation.engines.clear();
    assert_eq!(decide(&observation, now()).status.observed_kv_cache_tokens, Some(400_000), "the pod is gone, the choice is not");

    // Another context is another choice, and the pods that run are of the one before.
    observation.engines = vec![holding(0, 400_000)];
    observation.backend.spec.vllm.as_mut().unwrap().context_length = Some(4096);
    let decision = decide(&observation, now());
    assert_eq!(decision.status.observed_kv_cache_tokens, None);
    assert_eq!(decision.status.kv_cache_prediction_error_percent, None);
}

#[test]
fn pods_of_an_earlier_version_say_nothing_of_this_one() {
    let mut observation = served(1);
    let mut earlier = observation.pods[0].clone();
    (earlier.name, earlier.template_hash) = ("pod-9".into(), "earlier".into());
    earlier.created = Some("2026-11-25T10:00:00Z".parse().unwrap());
    observation.pods[0].created = Some("2026-11-25T11:00:00Z".parse().unwrap());
    observation.pods.push(earlier);
    observation.engines = vec![well(0), holding(9, 100)];
    assert_eq!(decide(&observation, now()).status.observed_kv_cache_tokens, None);
    observation.engines = vec![holding(0, 200), holding(9, 100)];
    assert_eq!(decide(&observation, now()).status.observed_kv_cache_tokens, Some(200));
}

#[test]
fn a_generated_key_that_the_pods_refuse_is_told_with_the_name_of_its_secret() {
    let mut observation = served(1);
    observation.engines = vec![well(0)];
    let set_aside = BTreeMap::from([("api-key".to_owned(), SetAside::KeyRejected)]);
    observation.traffic = TrafficFacts::Heard { set_aside };
    let decision = decide(&observation, now());
    let keys = json!([{ "name": "api-key", "healthy": false, "reason": "KeyRejected" }]);
    assert_eq!(health(&decision), json!({ "state": "Unhealthy", "keys": keys }));
    assert!(is(&decision, "Ready", "False", "KeyRejected") && is(&decision, "Available", "False", "KeyRejected"));
    let message = &decision.status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().message;
    assert!(message.contains("model-backend"), "{message}");
}

#[test]
fn a_duration_that_cannot_be_read_stalls_and_keeps_what_runs() {
    let mut observation = served(1);
    let interval = Some(crate::api::duration::Duration("soon".into()));
    observation.backend.spec.health_check = Some(crate::api::external::HealthCheck { interval, ..Default::default() });
    let decision = decide(&observation, now());
    assert!(is(&decision, "Ready", "False", "InvalidSpec"));
    assert!(matches!(decision.children, crate::decide::decision::Children::Keep));
    assert!(decision.status.sizing.is_some());
}
