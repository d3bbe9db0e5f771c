//! Every version of a status that anybody can see keeps the contract that kstatus, Argo CD, Flux and Helm read. The versions of
//! every test are watched, and checked when it ends.

use std::collections::HashMap;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use quartermaster_core::api::conditions::reasons;
use serde_json::{Value, json};

use crate::harness::{Team, condition, small_model};
use crate::versions::Watched;
use crate::{argo_cd, budgets, pools, routes};

/// Keeps every version of the backends, pools, routes and budgets of a namespace, in their order.
pub struct Versions(Vec<Watched>);

impl Versions {
    /// Begins to watch. A kind whose definition is not served has no versions.
    pub async fn watch(kinds: [Api<DynamicObject>; 4]) -> Self {
        let mut watched = Vec::new();
        for kind in kinds {
            watched.extend(Watched::begin(kind).await);
        }
        Self(watched)
    }

    /// The versions of one object.
    pub fn of(&self, kind: &str, name: &str) -> Vec<Value> {
        let is_it = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.all().into_iter().filter(is_it).collect()
    }

    /// What the versions of all of them do not keep of the contract.
    pub fn broken(&self) -> Vec<String> {
        let (all, mut before, mut found) = (self.all(), HashMap::new(), Vec::new());
        for now in &all {
            // An object that is made anew begins anew.
            let earlier: Option<&Value> = before.insert(now["metadata"]["uid"].as_str(), now);
            let mut broken = violations(earlier, now);
            if now["kind"] == "AgentPool" {
                broken.extend(pools::contract::violations(earlier, now));
            }
            if now["kind"] == "ModelRoute" {
                broken.extend(routes::contract::violations(now));
            }
            if now["kind"] == "TokenBudget" {
                broken.extend(budgets::contract::violations(now));
            }
            if !broken.is_empty() {
                let before = earlier.map(|earlier| serde_json::to_string_pretty(&earlier["status"]).unwrap()).unwrap_or_default();
                let now = serde_json::to_string_pretty(now).unwrap();
                found.push(format!("a version breaks the contract: {broken:#?}\n{now}\nafter the status\n{before}"));
            }
        }
        found
    }

    /// Those of one kind follow on those of another.
    fn all(&self) -> Vec<Value> {
        self.0.iter().flat_map(Watched::all).map(|version| version.object).collect()
    }
}

/// What a version, after the one before, does not keep of the contract.
fn violations(before: Option<&Value>, now: &Value) -> Vec<String> {
    let conditions = |object: &Value| object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let is = |type_: &str, status: &str| condition(now, type_).is_some_and(|condition| condition["status"] == status);
    let generation = now.pointer("/metadata/generation").and_then(Value::as_i64).unwrap();
    let observed = now.pointer("/status/observedGeneration").and_then(Value::as_i64);
    let mut broken = Vec::new();
    let mut demand = |holds: bool, what: &str| {
        if !holds {
            broken.push(what.to_owned());
        }
    };
    demand(observed.is_some(), "observedGeneration is always there");
    demand(observed.is_none_or(|observed| observed <= generation), "observedGeneration is never above the generation");
    demand((observed == Some(-1)) == conditions(now).is_empty(), "the first write has conditions, and -1 has none");
    demand(observed == Some(-1) || condition(now, "Ready").is_some(), "Ready is there from the first write");
    demand(!(is("Reconciling", "True") && is("Stalled", "True")), "Reconciling and Stalled are never both True");
    for type_ in ["Reconciling", "Stalled", "SchemaOutdated"] {
        demand(condition(now, type_).is_none() || is(type_, "True"), &format!("{type_} is there only while True"));
    }
    let moving = is("Reconciling", "True") || is("Stalled", "True");
    demand(!(is("Ready", "True") && moving), "Ready=True has neither Reconciling nor Stalled");
    demand(!is("Ready", "Unknown") || is("Reconciling", "True"), "Ready=Unknown has Reconciling");
    demand(!is("Ready", "False") || moving, "Ready=False says whether it goes on");
    for one in conditions(now) {
        let type_ = one["type"].as_str().unwrap();
        let reason = one["reason"].as_str().unwrap_or_default();
        demand(reasons::ALL.contains(&reason), &format!("{type_} has the unknown reason {reason:?}"));
        demand(one["message"].as_str().unwrap().len() <= 1024, &format!("the message of {type_} is too long"));
        demand(!one["message"].as_str().unwrap().is_empty(), &format!("{type_} has no message"));
        demand(one["observedGeneration"].as_i64() == observed, &format!("{type_} is of the generation that the status is of"));
        let Some(earlier) = before.and_then(|before| condition(before, type_)) else { continue };
        let moved = earlier["lastTransitionTime"] != one["lastTransitionTime"];
        demand(!moved || earlier["status"] != one["status"], &format!("lastTransitionTime of {type_} moves only with its status"));
        let words = |condition: &Value| condition["message"].as_str().unwrap().replace(|c: char| c.is_ascii_digit(), "");
        let same = earlier["reason"] == one["reason"] && earlier["observedGeneration"] == one["observedGeneration"];
        // What the scheduler says counts nodes, and those change with every pod of everybody.
        demand(
            !same || reason == reasons::UNSCHEDULABLE || words(earlier) != words(&one) || earlier["message"] == one["message"],
            &format!("the message of {type_} ticks: {} after {}", one["message"], earlier["message"]),
        );
    }
    let expected = match () {
        () if observed != Some(generation) => "Progressing",
        () if is("Suspended", "True") => "Suspended",
        () if is("Stalled", "True") => "Degraded",
        () if is("Reconciling", "True") => "Progressing",
        () => "Healthy",
    };
    let (health, message) = argo_cd::health(now);
    demand(health == expected, &format!("Argo CD sees it as {expected}, not as {health}: {message}"));
    if let Some(before) = before {
        let earlier = before.pointer("/status/observedGeneration").and_then(Value::as_i64);
        demand(earlier <= observed, "observedGeneration never goes back");
        demand(
            before["status"] != now["status"] || before["metadata"] != now["metadata"] || before["spec"] != now["spec"],
            "no version without a change",
        );
    }
    broken
}

/// The states of Ready in the order of the versions.
fn states(versions: &[Value]) -> Vec<String> {
    let ready = versions.iter().filter_map(|version| condition(version, "Ready"));
    let mut states: Vec<String> =
        ready.map(|ready| format!("{} {}", ready["status"].as_str().unwrap(), ready["reason"].as_str().unwrap())).collect();
    states.dedup();
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_hosted_backend_keeps_the_contract_from_its_first_version_to_its_last() {
    let team = Team::new("contract").await;
    let _operator = team.operator().await;
    team.apply("small", json!({ "vllm": small_model(json!({})) })).await;
    team.until_ready("small", "True", "Available").await;
    team.apply("small", json!({ "vllm": small_model(json!({ "contextLength": 4096 })) })).await;
    team.until_ready("small", "True", "Available").await;
    team.apply("small", json!({ "vllm": small_model(json!({ "contextLength": 4096, "extraArgs": ["--port=1"] })) })).await;
    team.until_ready("small", "False", "InvalidArguments").await;
    team.apply("small", json!({ "vllm": small_model(json!({ "contextLength": 4096 })), "replicas": 2 })).await;
    team.until_ready("small", "True", "Available").await;
    let merge = async |patch: Value| {
        team.backends().patch("small", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    };
    merge(json!({ "spec": { "replicas": 0 } })).await;
    team.until_ready("small", "True", "ScaledToZero").await;
    merge(json!({ "spec": { "suspend": true } })).await;
    team.until("small", "Suspended=True", |backend| condition(backend, "Suspended").is_some_and(|one| one["status"] == "True"))
        .await;
    // While it is suspended a change is shown, and nothing is done about it.
    merge(json!({ "spec": { "replicas": 1 } })).await;
    let shown = team
        .until("small", "generation 6 or later", |backend| {
            backend.pointer("/status/observedGeneration") == backend.pointer("/metadata/generation")
        })
        .await;
    assert_ne!(condition(&shown, "Ready").map(|ready| &ready["status"]), Some(&json!("True")), "{shown}");
    assert_eq!(team.kubectl(&["get", "deployment", "small-backend", "-o", "jsonpath={.spec.replicas}"]), "0");
    team.backends().delete("small", &Default::default()).await.unwrap();
    team.until("small", "gone", Value::is_null).await;
    team.until_in(&team.deployments(), "small-backend", "gone", Value::is_null).await;
    let states = states(&team.versions_of("small"));
    for state in ["True Available", "False InvalidArguments", "True ScaledToZero"] {
        assert!(states.iter().any(|seen| seen == state), "{states:?}");
    }
    // The bad spec never took a ready backend's pods away: it went from ready to stalled and back.
    assert!(states.iter().filter(|state| state.as_str() == "True Available").count() >= 3, "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_waits_stalls_or_is_refused_keeps_the_contract_too() {
    let team = Team::new("contract-bad").await;
    let _operator = team.operator().await;
    let token = json!({ "huggingFace": { "tokenSecretKeyRef": { "name": "hub", "key": "token" } } });
    team.apply("waits", json!({ "vllm": small_model(token) })).await;
    team.apply("stalls", json!({ "vllm": small_model(json!({ "parallelism": { "tensor": 2 } })) })).await;
    team.apply(
        "hosted",
        json!({ "external": { "provider": "OpenAICompatible", "model": "m", "baseURL": "http://169.254.169.254" } }),
    )
    .await;
    let patch = json!({ "podTemplatePatch": { "spec": { "restartPolicy": "Sometimes" } } });
    team.apply("refused", json!({ "vllm": small_model(patch) })).await;
    team.until_ready("waits", "False", "SecretNotFound").await;
    team.until_ready("stalls", "False", "InvalidParallelism").await;
    team.until_ready("hosted", "False", "EndpointNotAllowed").await;
    team.until_ready("refused", "False", "InvalidTemplate").await;
    team.kubectl(&["create", "secret", "generic", "hub", "--from-literal=token=hf_x"]);
    team.until_ready("waits", "True", "Available").await;
    for name in ["waits", "stalls", "hosted", "refused"] {
        let seen = team.versions_of(name);
        assert!(seen.len() >= 2, "{name}");
        // An outcome is written once, however often it is looked at again.
        assert!(seen.len() < 20, "{name} has {} versions", seen.len());
    }
}
