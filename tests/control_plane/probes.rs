//! What the operator shows of itself, and what it never shows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};

use crate::harness::{Operator, Team};
use crate::operator::quartermaster;

/// Values that must stay where they are: in Secrets.
const HUB_TOKEN: &str = "hf_canary2mYp0Wq7zN4kT";
const PROVIDER_KEY: &str = "sk-canary-V8dR1xGh5uLs";

/// A self-hosted backend and a hosted one, with a Secret each.
async fn with_secrets(team: &Team) -> (Value, Value) {
    team.kubectl(&["create", "secret", "generic", "hub", &format!("--from-literal=token={HUB_TOKEN}")]);
    team.kubectl(&["create", "secret", "generic", "provider", &format!("--from-literal=key={PROVIDER_KEY}")]);
    let token = json!({ "tokenSecretKeyRef": { "name": "hub", "key": "token" } });
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B", "huggingFace": token } })).await;
    let key = json!({ "name": "first", "secretKeyRef": { "name": "provider", "key": "key" } });
    // The address refuses every connection, so that the errors of the checks are there as well.
    let external = json!({ "provider": "OpenAICompatible", "model": "m", "baseURL": "http://127.0.0.1:1/v1", "apiKeys": [key] });
    team.apply("hosted", json!({ "external": external, "healthCheck": { "interval": "1s", "failureThreshold": 1 } })).await;
    (team.until_ready("model", "True", "Available").await, team.until_ready("hosted", "False", "Unreachable").await)
}

async fn observation(operator: &Operator, team: &Team, name: &str) -> String {
    operator.get(&format!("debug/observations/InferenceBackend/{}/{name}", team.namespace)).await.unwrap()
}

fn replay(observation: &str) -> Value {
    serde_json::from_str(&quartermaster(&["replay", "--output", "json", "-"], observation, None)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_observation_gives_the_same_decision_again() {
    let team = Team::new("replay").await;
    let operator = team.operator_with("destinations: {allowLoopback: true}", &[]).await;
    let (model, hosted) = with_secrets(&team).await;
    team.until_quiet(std::time::Duration::from_secs(2)).await;

    let decision = replay(&observation(&operator, &team, "model").await);
    assert_eq!(decision["status"], team.until("model", "exist", Value::is_object).await["status"]);
    assert_eq!(decision["status"], model["status"]);
    let children = decision["children"]["exactly"].as_array().unwrap();
    let deployment = children.iter().find(|child| child["identity"]["kind"] == "Deployment").unwrap();
    let applied = team.until_in(&team.deployments(), "model-backend", "exist", Value::is_object).await;
    assert_eq!(deployment["object"]["metadata"]["name"], applied["metadata"]["name"]);
    assert!(is_part_of(&deployment["object"]["metadata"]["annotations"], &applied["metadata"]["annotations"]));
    assert!(
        is_part_of(&deployment["object"]["spec"], &applied["spec"]),
        "{:#}\n{:#}",
        deployment["object"]["spec"],
        applied["spec"]
    );

    let decision = replay(&observation(&operator, &team, "hosted").await);
    assert_eq!(decision["status"], hosted["status"]);
}

/// Whether all that `part` says stands in `whole`, which the API server has completed with defaults.
pub fn is_part_of(part: &Value, whole: &Value) -> bool {
    match (part, whole) {
        (Value::Object(part), Value::Object(whole)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| is_part_of(value, found)))
        }
        (Value::Array(part), Value::Array(whole)) => {
            part.len() == whole.len() && part.iter().zip(whole).all(|(part, whole)| is_part_of(part, whole))
        }
        // The API server writes quantities its own way: 1Gi for 1024Mi.
        (Value::String(one), Value::String(other)) => one == other || same_quantity(one, other),
        _ => part == whole,
    }
}

fn same_quantity(one: &str, other: &str) -> bool {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    let bytes = |text: &str| quartermaster_core::api::quantity::to_u64(&Quantity(text.to_owned())).ok();
    bytes(one).is_some() && bytes(one) == bytes(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stay_in_secrets_at_the_most_talkative_level_of_the_log() {
    let team = Team::new("canary").await;
    let environment = [("RUST_LOG", "trace")];
    let mut operator = team.operator_with("destinations: {allowLoopback: true}", &environment).await;
    with_secrets(&team).await;
    let mut shown = BTreeMap::from([
        ("observation of a model", observation(&operator, &team, "model").await),
        ("observation of a provider", observation(&operator, &team, "hosted").await),
        ("metrics", operator.get("metrics").await.unwrap()),
        ("readiness", operator.get("readyz").await.unwrap()),
        ("objects and events", team.kubectl(&["get", "ib,deploy,rs,pods,svc,sa,pdb,events,configmaps", "-o", "yaml"])),
    ]);
    assert!(
        shown["observation of a model"].contains("\"state\":\"present\"") || shown["observation of a model"].contains("Present")
    );
    assert_eq!(operator.terminate().code(), Some(0));
    shown.insert("log", operator.log());
    assert!(shown["log"].contains(" TRACE "), "the log is not as talkative as this test wants");

    let secrets: Api<Secret> = Api::namespaced(team.client.clone(), &team.namespace);
    let generated = secrets.get("model-backend").await.unwrap().data.unwrap();
    let own: Value = serde_saphyr::from_str(&std::fs::read_to_string(team.operator_kubeconfig()).unwrap()).unwrap();
    let own_token = own["users"][0]["user"]["token"].as_str().unwrap();
    let mut canaries = vec![HUB_TOKEN.to_owned(), PROVIDER_KEY.to_owned(), own_token.to_owned()];
    canaries.extend(generated.values().map(|value| String::from_utf8(value.0.clone()).unwrap()));
    assert!(canaries.len() >= 4 && canaries.iter().all(|canary| canary.len() >= 16));
    for canary in &canaries {
        // As the API server's answers carry it, too.
        let encoded = serde_json::to_value(k8s_openapi::ByteString(canary.clone().into_bytes())).unwrap();
        for (place, text) in &shown {
            for form in [canary.as_str(), encoded.as_str().unwrap().trim_end_matches('=')] {
                if let Some(at) = text.find(form) {
                    let line = text[..at].lines().last().unwrap_or_default();
                    panic!("{place} has a secret after: {}", line.chars().take(600).collect::<String>());
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_answer_and_the_end_is_orderly() {
    let team = Team::new("probes").await;
    let mut operator = team.operator().await;
    assert_eq!(operator.get("healthz").await.unwrap().trim(), "ok");
    assert_eq!(operator.readiness().await.unwrap(), json!({ "ready": true, "waitingFor": [] }));
    team.apply("model", json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" }, "replicas": 0 })).await;
    team.until_ready("model", "True", "ScaledToZero").await;
    let metrics = operator.get("metrics").await.unwrap();
    for line in [
        "quartermaster_leader 1",
        "quartermaster_schema_outdated{kind=\"InferenceBackend\"} 0",
        "quartermaster_schema_outdated{kind=\"AgentPool\"} 0",
        "quartermaster_lease_failures_total 0",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line} is missing in\n{metrics}");
    }
    for name in ["quartermaster_reconciles_total{kind=\"InferenceBackend\",outcome=\"success\"}", "process_resident_memory_bytes"] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    let absent = observation(&operator, &team, "nobody").await;
    assert!(absent.contains("does not exist"), "{absent}");
    assert_eq!(operator.terminate().code(), Some(0), "{}", operator.log());
    let log = operator.log();
    let last: Vec<&str> = log.lines().rev().take(2).collect();
    assert!(last[0].contains("stopped") && log.contains("gave the lease back"), "{log}");
    assert!(!log.contains("panic"), "{log}");
}
