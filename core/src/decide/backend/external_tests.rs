use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::decide::backend::decide;
use crate::decide::backend::facts::{HealthFacts, SecretFacts, SecretValue, SetAside, TrafficFacts};
use crate::decide::decision::Decision;

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

/// A backend with these keys, each in a Secret of its own name, which holds it.
fn backend(keys: &[&str]) -> Observation {
    let references: Vec<_> =
        keys.iter().map(|key| json!({ "name": key, "secretKeyRef": { "name": key, "key": "api-key" } })).collect();
    let mut observation: Observation = serde_json::from_value(json!({ "backend": {
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
        "metadata": { "name": "hosted", "namespace": "team", "uid": "u-1", "generation": 1 },
        "spec": {
            "external": { "provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example/v1", "apiKeys": references },
            "healthCheck": { "failureThreshold": 3 },
        },
    } }))
    .unwrap();
    observation.secrets = keys.iter().map(|key| ((*key).to_owned(), holding(SecretValue::Line))).collect();
    observation
}

fn holding(value: SecretValue) -> SecretFacts {
    SecretFacts::Present { keys: BTreeMap::from([("api-key".to_owned(), value)]), version: "1".into() }
}

fn checked(name: &str, outcome: CheckOutcome, failures: u32, succeeded_before: bool) -> KeyFacts {
    KeyFacts { name: name.into(), outcome: Some(outcome), failures, succeeded_before }
}

fn unchecked(name: &str) -> KeyFacts {
    KeyFacts { name: name.into(), outcome: None, failures: 0, succeeded_before: false }
}

fn failed() -> CheckOutcome {
    CheckOutcome::Failed { message: "502".into() }
}

/// The decision about the backend when its checks found this.
fn decided(observation: &mut Observation, keys: Vec<KeyFacts>) -> Decision<InferenceBackendStatus> {
    observation.health = Some(HealthFacts { keys });
    decide(observation, now())
}

/// What another process decides after the status was written and all that was in memory is lost.
fn after_restart(mut observation: Observation, decision: Decision<InferenceBackendStatus>) -> Observation {
    observation.backend.status = Some(decision.status);
    observation.health = None;
    observation
}

fn condition(decision: &Decision<InferenceBackendStatus>, type_: &str) -> Option<(String, String)> {
    let condition = decision.status.conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((condition.status.clone(), condition.reason.clone()))
}

fn is(decision: &Decision<InferenceBackendStatus>, type_: &str, status: &str, reason: &str) -> bool {
    condition(decision, type_) == Some((status.to_owned(), reason.to_owned()))
}

fn message(decision: &Decision<InferenceBackendStatus>) -> &str {
    &decision.status.conditions.iter().find(|condition| condition.type_ == types::READY).unwrap().message
}

fn health(decision: &Decision<InferenceBackendStatus>) -> Value {
    serde_json::to_value(decision.status.health.as_ref().unwrap()).unwrap()
}

#[test]
fn a_backend_is_as_healthy_as_its_best_key() {
    let mut observation = backend(&["first", "second", "third"]);
    let decision = decided(
        &mut observation,
        vec![
            checked("first", CheckOutcome::Unauthorized, 1, false),
            checked("second", CheckOutcome::RateLimited, 0, true),
            checked("third", failed(), 3, false),
        ],
    );
    assert!(is(&decision, "Ready", "True", "Healthy") && is(&decision, "Available", "True", "Healthy"));
    let expected = json!({ "state": "Healthy", "keys": [
        { "name": "first", "healthy": false, "reason": "Unauthorized" }, { "name": "second", "healthy": true },
        { "name": "third", "healthy": false, "reason": "ProviderError" },
    ] });
    assert_eq!(health(&decision), expected);
}

#[test]
fn without_a_healthy_key_the_one_that_may_still_come_by_itself_speaks_for_all() {
    let mut observation = backend(&["first", "second"]);
    let refused = checked("first", CheckOutcome::Unauthorized, 1, false);
    let decision = decided(&mut observation, vec![refused.clone(), unchecked("second")]);
    assert!(is(&decision, "Ready", "False", "HealthUnknown") && is(&decision, "Available", "Unknown", "HealthUnknown"));
    let decision = decided(&mut observation, vec![refused.clone(), checked("second", failed(), 3, false)]);
    assert!(is(&decision, "Ready", "False", "ProviderError") && is(&decision, "Available", "False", "ProviderError"));
    assert!(condition(&decision, "Reconciling").is_some() && message(&decision).contains("apiKeys[second]"));
    let decision = decided(&mut observation, vec![refused, checked("second", CheckOutcome::Unauthorized, 1, false)]);
    assert!(is(&decision, "Ready", "False", "Unauthorized") && condition(&decision, "Stalled").is_some());
    assert!(message(&decision).contains("apiKeys[first]"));
    assert_eq!(health(&decision)["state"], "Unhealthy");
}

#[test]
fn failures_count_from_the_threshold_on_and_the_key_is_what_it_was_until_then() {
    let mut observation = backend(&[]);
    for (succeeded_before, ready) in [(false, ("False", "HealthUnknown")), (true, ("True", "Healthy"))] {
        let decision = decided(&mut observation, vec![checked("", failed(), 2, succeeded_before)]);
        assert!(is(&decision, "Ready", ready.0, ready.1), "{succeeded_before}");
        let decision = decided(&mut observation, vec![checked("", failed(), 3, succeeded_before)]);
        assert!(is(&decision, "Ready", "False", "ProviderError") && condition(&decision, "Reconciling").is_some());
        assert_eq!(health(&decision), json!({ "state": "Unhealthy" }));
    }
}

#[test]
fn a_refusal_counts_at_once_where_nothing_succeeded_and_else_when_it_is_repeated() {
    let mut observation = backend(&[]);
    let not_allowed = || CheckOutcome::NotAllowed { message: "a loopback address".into() };
    for outcome in [CheckOutcome::Unauthorized, CheckOutcome::ModelNotListed, not_allowed()] {
        let ready = |decision| condition(&decision, "Ready").unwrap().0;
        assert_eq!(ready(decided(&mut observation, vec![checked("", outcome.clone(), 1, false)])), "False");
        assert_eq!(ready(decided(&mut observation, vec![checked("", outcome.clone(), 1, true)])), "True");
        assert_eq!(ready(decided(&mut observation, vec![checked("", outcome, 2, true)])), "False");
    }
}

#[test]
fn one_secret_that_cannot_be_used_costs_only_its_key() {
    for (facts, reason) in [
        (SecretFacts::Missing, "SecretNotFound"),
        (SecretFacts::Present { keys: BTreeMap::new(), version: "1".into() }, "SecretKeyMissing"),
        (holding(SecretValue::Empty), "SecretEmpty"),
        (holding(SecretValue::Binary), "SecretInvalid"),
        (holding(SecretValue::Text), "SecretInvalid"),
        (SecretFacts::Unreadable { message: "no answer".into(), forbidden: false }, "ProgressingWithRetry"),
        (SecretFacts::Unreadable { message: "no right".into(), forbidden: true }, "Forbidden"),
    ] {
        let mut observation = backend(&["first", "second"]);
        observation.secrets.insert("first".into(), facts);
        let decision = decided(&mut observation, vec![checked("second", CheckOutcome::Healthy, 0, true)]);
        assert!(is(&decision, "Ready", "True", "Healthy"), "{reason}");
        let keys = json!([{ "name": "first", "healthy": false, "reason": reason }, { "name": "second", "healthy": true }]);
        assert_eq!(health(&decision)["keys"], keys);
    }
}

/// The same of a provider whose default check judges no key.
fn backend_of(provider: &str, model: &str, keys: &[&str]) -> Observation {
    let mut observation = backend(keys);
    let external = observation.backend.spec.external.as_mut().unwrap();
    external.provider = serde_json::from_value(json!(provider)).unwrap();
    external.model = model.into();
    observation
}

#[test]
fn keys_that_no_check_judges_are_not_said_to_be_healthy() {
    for (provider, model, why) in [
        ("Bedrock", "openai.gpt-oss-120b-1:0", "healthCheck.type: Inference can"),
        ("Bedrock", "amazon.titan-embed-text-v2:0", "no check can tell"),
        ("VertexAI", "google/gemini-2.5-pro", "takes no API key"),
    ] {
        let mut observation = backend_of(provider, model, &["first", "second"]);
        let decision = decided(&mut observation, vec![checked("", CheckOutcome::Healthy, 0, true)]);
        assert!(is(&decision, "Ready", "True", "Healthy") && is(&decision, "Available", "True", "Healthy"), "{provider}");
        assert_eq!(health(&decision), json!({ "state": "Healthy" }), "{provider}");
        assert!(message(&decision).contains("spec.external.apiKeys") && message(&decision).contains(why), "{}", message(&decision));
        // What a version that claimed more has left in the status is not repeated.
        let mut earlier = after_restart(observation, decision);
        let keys = vec![KeyHealth { name: "first".into(), healthy: true, reason: None }];
        earlier.backend.status.as_mut().unwrap().health.as_mut().unwrap().keys = keys;
        let again = decide(&earlier, now());
        assert_eq!(health(&again), json!({ "state": "Healthy" }), "{provider}");
    }
    let mut observation = backend_of("Bedrock", "openai.gpt-oss-120b-1:0", &["first"]);
    observation.backend.spec.health_check.as_mut().unwrap().type_ = Some(crate::api::external::HealthCheckType::Inference);
    let decision = decided(&mut observation, vec![checked("first", CheckOutcome::Healthy, 0, true)]);
    assert_eq!(health(&decision)["keys"], json!([{ "name": "first", "healthy": true }]));
    assert!(!message(&decision).contains("apiKeys"), "{}", message(&decision));
}

#[test]
fn a_missing_secret_is_told_of_a_key_that_no_check_judges_and_costs_the_endpoint_nothing() {
    let mut observation = backend_of("Bedrock", "openai.gpt-oss-120b-1:0", &["first", "second"]);
    observation.secrets.remove("first");
    let decision = decided(&mut observation, vec![checked("", CheckOutcome::Healthy, 0, true)]);
    assert!(is(&decision, "Ready", "True", "Healthy"));
    assert_eq!(health(&decision)["keys"], json!([{ "name": "first", "healthy": false, "reason": "SecretNotFound" }]));
    observation.secrets.clear();
    let decision = decide(&observation, now());
    assert!(is(&decision, "Ready", "False", "SecretNotFound") && is(&decision, "Available", "False", "SecretNotFound"));
}

#[test]
fn a_check_that_the_provider_cannot_answer_is_a_mistake_of_the_spec() {
    let mut observation = backend_of("Bedrock", "amazon.titan-embed-text-v2:0", &["first"]);
    observation.backend.spec.health_check.as_mut().unwrap().type_ = Some(crate::api::external::HealthCheckType::Inference);
    let decision = decide(&observation, now());
    assert!(is(&decision, "Ready", "False", "InvalidSpec") && condition(&decision, "Stalled").is_some());
    assert!(
        message(&decision).contains("spec.healthCheck.type") && message(&decision).contains("Endpoint"),
        "{}",
        message(&decision)
    );
}

#[test]
fn without_any_usable_key_the_backend_says_what_its_secrets_lack() {
    let mut observation = backend(&["first", "second"]);
    observation.secrets = BTreeMap::from([("second".to_owned(), holding(SecretValue::Text))]);
    let decision = decide(&observation, now());
    assert!(is(&decision, "Ready", "False", "SecretNotFound") && is(&decision, "Available", "False", "SecretNotFound"));
    assert!(condition(&decision, "Reconciling").is_some(), "the Secret may still come");
    observation.secrets.insert("first".into(), holding(SecretValue::Binary));
    let decision = decide(&observation, now());
    assert!(is(&decision, "Ready", "False", "SecretInvalid") && condition(&decision, "Stalled").is_some());
    assert!(message(&decision).contains("spec.external.apiKeys[first].secretKeyRef"));
}

#[test]
fn what_every_call_needs_is_a_problem_of_the_whole_backend() {
    let mut observation = backend(&["first"]);
    let external = observation.backend.spec.external.as_mut().unwrap();
    external.headers = serde_json::from_value(json!([
        { "name": "X-Token", "secretKeyRef": { "name": "header", "key": "api-key" } },
    ]))
    .unwrap();
    external.tls = serde_json::from_value(json!({ "caSecretKeyRef": { "name": "authority", "key": "api-key" } })).unwrap();
    observation.secrets.insert("header".into(), holding(SecretValue::Line));
    observation.secrets.insert("authority".into(), holding(SecretValue::Text));
    let healthy = || vec![checked("first", CheckOutcome::Healthy, 0, true)];
    let before = decided(&mut observation, healthy());
    assert!(is(&before, "Ready", "True", "Healthy"), "certificates have several lines");
    for (secret, facts, reason, field) in [
        ("header", holding(SecretValue::Text), "SecretInvalid", "spec.external.headers[X-Token].secretKeyRef"),
        ("authority", holding(SecretValue::Binary), "SecretInvalid", "spec.external.tls.caSecretKeyRef"),
        ("authority", SecretFacts::Missing, "SecretNotFound", "spec.external.tls.caSecretKeyRef"),
    ] {
        let mut observation = after_restart(observation.clone(), before.clone());
        observation.secrets.insert(secret.into(), facts);
        let decision = decide(&observation, now());
        assert!(is(&decision, "Ready", "False", reason), "{reason}");
        assert!(message(&decision).contains(field), "{}", message(&decision));
        assert_eq!(health(&decision)["state"], "Unknown", "nothing is checked any more");
    }
    let unreadable = CheckOutcome::InvalidAuthority { message: "no PEM".into() };
    let decision = decided(&mut observation, vec![checked("first", unreadable, 1, false)]);
    assert!(is(&decision, "Ready", "False", "SecretInvalid") && condition(&decision, "Stalled").is_some());
    assert!(message(&decision).starts_with("spec.external.tls.caSecretKeyRef: no PEM"), "{}", message(&decision));
}

#[test]
fn a_restart_changes_nothing_of_what_is_healthy() {
    for (keys, facts) in [
        (vec![], vec![checked("", CheckOutcome::Healthy, 0, true)]),
        (
            vec!["first", "second"],
            vec![checked("first", CheckOutcome::Unauthorized, 2, true), checked("second", CheckOutcome::Healthy, 0, true)],
        ),
    ] {
        let mut observation = backend(&keys);
        let before = decided(&mut observation, facts.clone());
        let mut observation = after_restart(observation, before.clone());
        // Nothing is checked yet; then one key is, and the other is not; then a check fails that does not count yet.
        let names: Vec<&str> = if keys.is_empty() { vec![""] } else { keys };
        let none: Vec<KeyFacts> = names.iter().map(|name| unchecked(name)).collect();
        let mut some = none.clone();
        some[0] = KeyFacts { succeeded_before: false, failures: 1, ..facts[0].clone() };
        let failing: Vec<KeyFacts> = names.iter().map(|name| checked(name, failed(), 1, false)).collect();
        for after in [None, Some(none), Some(some)] {
            observation.health = after.map(|keys| HealthFacts { keys });
            let decision = decide(&observation, now());
            assert_eq!(decision.status, before.status);
            assert!(decision.events.is_empty(), "{:?}", decision.events);
        }
        let decision = decided(&mut observation, failing);
        assert!(is(&decision, "Ready", "True", "Healthy"));
    }
}

#[test]
fn what_was_healthy_is_not_remembered_of_another_spec_or_of_another_secret() {
    let mut observation = backend(&["first"]);
    let before = decided(&mut observation, vec![checked("first", CheckOutcome::Healthy, 0, true)]);
    let restarted = after_restart(observation.clone(), before);
    let mut changed = restarted.clone();
    changed.backend.metadata.generation = Some(2);
    assert!(is(&decide(&changed, now()), "Ready", "False", "HealthUnknown"));
    // A key that had no Secret is not said to lack it after it has come.
    observation.secrets.clear();
    let missing = decided(&mut observation, vec![]);
    let mut come = after_restart(observation, missing);
    come.secrets.insert("first".into(), holding(SecretValue::Line));
    let decision = decide(&come, now());
    assert!(is(&decision, "Ready", "False", "HealthUnknown"));
    assert_eq!(health(&decision), json!({ "state": "Unknown" }));
}

#[test]
fn a_key_that_was_unhealthy_stays_so_until_a_check_succeeds() {
    let mut observation = backend(&[]);
    let refused = decided(&mut observation, vec![checked("", CheckOutcome::Unauthorized, 2, true)]);
    observation.backend.status = Some(refused.status);
    observation.backend.spec.health_check.as_mut().unwrap().failure_threshold = Some(10);
    let decision = decided(&mut observation, vec![checked("", failed(), 3, true)]);
    assert!(is(&decision, "Ready", "False", "ProviderError"));
    let decision = decided(&mut observation, vec![checked("", CheckOutcome::Healthy, 0, true)]);
    assert!(is(&decision, "Ready", "True", "Healthy"));
}

#[test]
fn suspended_the_last_health_is_still_shown() {
    let mut observation = backend(&["first"]);
    observation.backend.spec.suspend = Some(true);
    let decision = decided(&mut observation, vec![checked("first", CheckOutcome::Healthy, 0, true)]);
    assert!(is(&decision, "Ready", "True", "Healthy") && is(&decision, "Suspended", "True", "Suspended"));
    let again = decide(&after_restart(observation, decision.clone()), now());
    assert_eq!(again.status, decision.status);
}

fn set_aside(keys: &[(&str, SetAside)]) -> TrafficFacts {
    TrafficFacts::Heard { set_aside: keys.iter().map(|(name, why)| ((*name).to_owned(), *why)).collect() }
}

#[test]
fn a_key_that_the_gateway_set_aside_is_out_whatever_a_check_finds() {
    let mut observation = backend(&["first", "second"]);
    observation.traffic = set_aside(&[("second", SetAside::QuotaExhausted)]);
    let healthy = |name| checked(name, CheckOutcome::Healthy, 0, true);
    let decision = decided(&mut observation, vec![healthy("first"), healthy("second")]);
    assert_eq!(
        health(&decision),
        json!({ "state": "Healthy", "keys": [
            { "name": "first", "healthy": true },
            { "name": "second", "healthy": false, "reason": "QuotaExhausted" },
        ] })
    );
    assert!(is(&decision, "Ready", "True", "Healthy") && is(&decision, "Available", "True", "Healthy"));
    assert!(message(&decision).ends_with("the gateway has set keys aside: second (QuotaExhausted)"), "{}", message(&decision));

    observation.traffic = set_aside(&[]);
    let decision = decided(&mut observation, vec![healthy("first"), healthy("second")]);
    assert_eq!(message(&decision), "the checks succeed");
    assert_eq!(health(&decision)["keys"][1], json!({ "name": "second", "healthy": true }));
}

#[test]
fn a_backend_without_a_key_that_is_in_use_is_unhealthy_for_the_reason_that_passes_first() {
    use SetAside::{KeyRejected, QuotaExhausted};
    for (second, expected, also) in [(QuotaExhausted, "QuotaExhausted", "Reconciling"), (KeyRejected, "KeyRejected", "Stalled")] {
        let mut observation = backend(&["first", "second"]);
        observation.traffic = set_aside(&[("first", KeyRejected), ("second", second)]);
        let decision =
            decided(&mut observation, ["first", "second"].map(|name| checked(name, CheckOutcome::Healthy, 0, true)).to_vec());
        assert!(is(&decision, "Ready", "False", expected) && is(&decision, also, "True", expected), "{expected}");
        assert!(is(&decision, "Available", "False", expected));
        assert!(message(&decision).contains("spec.external.apiKeys["), "{}", message(&decision));
        assert_eq!(health(&decision)["state"], "Unhealthy");
    }
}

#[test]
fn keys_that_no_check_judges_are_shown_when_the_gateway_sets_them_aside() {
    let mut observation = backend(&["first", "second"]);
    observation.backend.spec.external.as_mut().unwrap().provider = crate::api::external::Provider::Bedrock;
    let endpoint = || vec![checked("", CheckOutcome::Healthy, 0, true)];
    assert_eq!(health(&decided(&mut observation, endpoint())), json!({ "state": "Healthy" }));
    observation.traffic = set_aside(&[("first", SetAside::KeyRejected)]);
    let decision = decided(&mut observation, endpoint());
    let out = |name: &str| json!({ "name": name, "healthy": false, "reason": "KeyRejected" });
    assert_eq!(health(&decision), json!({ "state": "Healthy", "keys": [out("first")] }));
    observation.traffic = set_aside(&[("first", SetAside::KeyRejected), ("second", SetAside::KeyRejected)]);
    let decision = decided(&mut observation, endpoint());
    assert_eq!(health(&decision), json!({ "state": "Unhealthy", "keys": [out("first"), out("second")] }));
}

#[test]
fn a_server_without_keys_that_wants_one_is_told_what_to_name() {
    let mut observation = backend(&[]);
    observation.traffic = set_aside(&[("", SetAside::KeyRejected)]);
    let decision = decided(&mut observation, vec![checked("", CheckOutcome::Healthy, 0, true)]);
    assert!(is(&decision, "Ready", "False", "KeyRejected"));
    assert!(message(&decision).contains("name one in spec.external.apiKeys"), "{}", message(&decision));
    assert_eq!(health(&decision), json!({ "state": "Unhealthy" }));
}

#[test]
fn what_the_gateway_said_holds_over_a_restart_and_goes_with_the_gateway() {
    let mut observation = backend(&["first"]);
    observation.traffic = set_aside(&[("first", SetAside::QuotaExhausted)]);
    let decision = decided(&mut observation, vec![checked("first", CheckOutcome::Healthy, 0, true)]);
    let status = decision.status.clone();
    let mut restarted = after_restart(observation, decision);
    restarted.traffic = TrafficFacts::Silent;
    let first = decided(&mut restarted, vec![unchecked("first")]);
    assert_eq!(first.status, status, "nobody has said anything else");
    restarted.traffic = TrafficFacts::NoGateway;
    let gone = decided(&mut restarted, vec![checked("first", CheckOutcome::Healthy, 0, true)]);
    assert!(is(&gone, "Ready", "True", "Healthy"), "without a gateway there are only the checks");
}

#[test]
fn a_secret_that_cannot_be_used_comes_before_what_calls_found() {
    let mut observation = backend(&["first"]);
    observation.traffic = set_aside(&[("first", SetAside::KeyRejected)]);
    observation.secrets.insert("first".to_owned(), SecretFacts::Missing);
    let decision = decided(&mut observation, vec![]);
    assert!(is(&decision, "Ready", "False", "SecretNotFound"));
}
