//! The health of hosted backends through what befalls them: keys that are missing, wrong or changed, and an operator that ends.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Team, condition, small_model};
use crate::providers::{KNOWN, Provider};

const LOOPBACK: &str = "destinations: {allowLoopback: true}";

/// A key of a backend, in the key `api-key` of a Secret.
fn key(name: &str, secret: &str) -> Value {
    json!({ "name": name, "secretKeyRef": { "name": secret, "key": "api-key" } })
}

fn with_keys(mut backend: Value, keys: Value) -> Value {
    backend["external"]["apiKeys"] = keys;
    backend
}

fn message(object: &Value, type_: &str) -> String {
    condition(object, type_).unwrap_or_else(|| panic!("no {type_}: {object}"))["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_without_a_secret_costs_only_itself() {
    let team = Team::new("two-keys").await;
    let provider = Provider::serve().await;
    let _operator = team.operator_with(LOOPBACK, &[]).await;
    team.kubectl(&["create", "secret", "generic", "here", "--from-literal=api-key=x"]);
    let keys = json!([key("first", "absent"), key("second", "here")]);
    team.apply("hosted", with_keys(provider.backend("ok"), keys)).await;
    let healthy = team.until_ready("hosted", "True", "Healthy").await;
    let expected = json!({ "state": "Healthy", "keys": [
        { "name": "first", "healthy": false, "reason": "SecretNotFound" }, { "name": "second", "healthy": true },
    ] });
    assert_eq!(healthy.pointer("/status/health"), Some(&expected));

    team.kubectl(&["create", "secret", "generic", "absent", "--from-literal=api-key=x"]);
    let both = |hosted: &Value| hosted.pointer("/status/health/keys/0/healthy") == Some(&json!(true));
    team.until("hosted", "both keys are healthy", both).await;
    // Without any, the whole backend says so.
    team.kubectl(&["delete", "secret", "here", "absent"]);
    let none = team.until_ready("hosted", "False", "SecretNotFound").await;
    assert!(message(&none, "Reconciling").contains("spec.external.apiKeys[first].secretKeyRef"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_no_call_can_carry_is_named_with_its_field_until_the_secret_is_mended() {
    let team = Team::new("bad-values").await;
    let provider = Provider::serve().await;
    let operator = team.operator_with(LOOPBACK, &[]).await;
    let secret = |name: &str, value: &str| {
        let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": { "api-key": value } });
        let (code, said) = team.kubectl_with_input(&["apply", "-f", "-"], &object.to_string());
        assert_eq!(code, 0, "{said}");
    };
    // Bytes ff fe; `sk-bad` and a control character; `no certificate`.
    for (name, value) in [("binary", "//4="), ("control", "c2stYmFkAQ=="), ("authority", "bm8gY2VydGlmaWNhdGU="), ("good", "eA==")]
    {
        secret(name, value);
    }
    let mut header = with_keys(provider.backend("ok"), json!([key("first", "good")]));
    header["external"]["headers"] = json!([key("X-Token", "control")]);
    let mut authority = with_keys(provider.backend("ok"), json!([key("first", "good")]));
    authority["external"]["tls"] = json!({ "caSecretKeyRef": { "name": "authority", "key": "api-key" } });
    authority["external"]["baseURL"] = authority["external"]["baseURL"].as_str().unwrap().replacen("http:", "https:", 1).into();
    for (name, backend, field, fix) in [
        ("binary", with_keys(provider.backend("ok"), json!([key("first", "binary")])), "apiKeys[first].secretKeyRef", "plain text"),
        ("control", with_keys(provider.backend("ok"), json!([key("first", "control")])), "apiKeys[first].secretKeyRef", "one line"),
        ("header", header, "headers[X-Token].secretKeyRef", "one line"),
        ("authority", authority, "spec.external.tls.caSecretKeyRef", "as PEM"),
    ] {
        team.apply(name, backend).await;
        let answered = team.until_ready(name, "False", "SecretInvalid").await;
        let message = message(&answered, "Stalled");
        assert!(message.contains(field) && message.contains(fix), "{name}: {message}");
        assert!(!answered.to_string().contains("sk-bad"));
    }
    for name in ["binary", "control"] {
        secret(name, "eA==");
        team.until_ready(name, "True", "Healthy").await;
    }
    team.until_ready("header", "True", "Healthy").await;
    assert!(!operator.log().contains("sk-bad"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_operator_never_makes_a_healthy_backend_unready() {
    let team = Team::new("restart").await;
    let provider = Provider::serve().await;
    let mut first = team.operator_with(LOOPBACK, &[]).await;
    team.kubectl(&["create", "secret", "generic", "good", &format!("--from-literal=api-key={KNOWN}")]);
    team.kubectl(&["create", "secret", "generic", "revoked", "--from-literal=api-key=x"]);
    team.apply("keyless", with_keys(provider.backend("ok"), json!([]))).await;
    let keys = json!([key("first", "revoked"), key("second", "good"), key("third", "absent")]);
    team.apply("keys", with_keys(provider.backend("knows"), keys)).await;
    for name in ["keyless", "keys"] {
        team.until_ready(name, "True", "Healthy").await;
    }
    let known = |keys: &Value| keys.pointer("/status/health/keys").and_then(Value::as_array).is_some_and(|keys| keys.len() == 3);
    team.until("keys", "all keys are known", known).await;
    team.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(first.terminate().code(), Some(0), "{}", first.log());
    let writes = team.writes();
    let events = team.kubectl(&["get", "events", "-o", "name"]);

    let calls = provider.calls.load(Ordering::SeqCst);
    let _second = team.operator_with(LOOPBACK, &[]).await;
    let checked = || provider.calls.load(Ordering::SeqCst) >= calls + 8;
    let started = Instant::now();
    while !checked() {
        assert!(started.elapsed() < crate::harness::DEADLINE, "the second operator checks nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    team.until_quiet(Duration::from_secs(2)).await;
    assert_eq!(team.writes(), writes, "no status was written: none said anything else, not even for a moment");
    assert_eq!(team.kubectl(&["get", "events", "-o", "name"]), events);
}

/// The new key is in use within ten seconds, and nothing else moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_used_within_seconds_and_no_deployment_rolls() {
    let team = Team::new("rotation").await;
    let provider = Provider::serve().await;
    let operator = team.operator_with(LOOPBACK, &[]).await;
    team.kubectl(&["create", "secret", "generic", "provider", "--from-literal=api-key=sk-old-secret"]);
    // Whoever waits for the next check waits for an hour.
    let mut hosted = with_keys(provider.backend("knows"), json!([key("first", "provider")]));
    hosted["healthCheck"] = json!({ "interval": "1h" });
    let token = json!({ "huggingFace": { "tokenSecretKeyRef": { "name": "provider", "key": "api-key" } } });
    team.apply("hosted", hosted).await;
    team.apply("model", json!({ "vllm": small_model(token) })).await;
    team.until_ready("hosted", "False", "Unauthorized").await;
    team.until_ready("model", "True", "Available").await;
    let before = team.deployments().get("model-backend").await.unwrap();

    let rotated = Instant::now();
    team.kubectl(&["patch", "secret", "provider", "-p", &json!({ "stringData": { "api-key": KNOWN } }).to_string()]);
    team.until_ready("hosted", "True", "Healthy").await;
    assert!(rotated.elapsed() < Duration::from_secs(10), "{:?}", rotated.elapsed());
    team.until_quiet(Duration::from_secs(2)).await;
    let after = team.deployments().get("model-backend").await.unwrap();
    assert_eq!(before.metadata.generation, after.metadata.generation);
    assert_eq!(before.data["spec"]["template"], after.data["spec"]["template"]);
    for value in ["sk-old-secret", KNOWN] {
        let shown = team.kubectl(&["get", "ib,deployments,pods,events,services,configmaps", "-o", "yaml"]);
        assert!(!shown.contains(value) && !operator.log().contains(value));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_backend_is_not_checked_and_shows_what_the_last_check_found() {
    let team = Team::new("paused").await;
    let provider = Provider::serve().await;
    let _operator = team.operator_with(LOOPBACK, &[]).await;
    let mut hosted = with_keys(provider.backend("ok"), json!([]));
    hosted["healthCheck"] = json!({ "type": "Inference", "interval": "1s" });
    team.apply("hosted", hosted.clone()).await;
    team.until_ready("hosted", "True", "Healthy").await;
    hosted["suspend"] = json!(true);
    team.apply("hosted", hosted.clone()).await;
    team.until_ready("hosted", "True", "Healthy").await;
    let calls = provider.calls.load(Ordering::SeqCst);
    // This test proves that nothing happens, so that time has to pass. The check that was under way may still arrive.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let calls_since = provider.calls.load(Ordering::SeqCst) - calls;
    assert!(calls_since <= 1, "{calls_since} checks while suspended");
    let calls = calls + calls_since;
    hosted["suspend"] = json!(false);
    team.apply("hosted", hosted).await;
    team.until_ready("hosted", "True", "Healthy").await;
    let started = Instant::now();
    while provider.calls.load(Ordering::SeqCst) == calls {
        assert!(started.elapsed() < crate::harness::DEADLINE, "it is not checked again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
