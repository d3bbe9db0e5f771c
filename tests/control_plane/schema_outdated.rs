//! A new operator on an old definition, or on none: it says so, works with what can be stored, and goes on by itself. The
//! definition belongs to the whole cluster, so that each of these tests has a control plane of its own.

use std::time::Duration;

use quartermaster_dev::{ControlPlane, Options, account, nodes};
use serde_json::Value;

use crate::harness::{DEFINITION, Team, condition, install};

/// The definition of a version that knew neither of these fields.
fn older_definition() -> String {
    let mut definition: Value = serde_saphyr::from_str(DEFINITION).unwrap();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let vllm = schema["spec"]["properties"]["vllm"]["properties"].as_object_mut().unwrap();
    assert!(vllm.remove("upgrade").is_some());
    let sizing = schema["status"]["properties"]["sizing"]["properties"].as_object_mut().unwrap();
    assert!(sizing.remove("derivation").is_some());
    definition.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_definition_is_named_and_costs_nothing_but_what_it_lacks() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    install(control_plane.connection(), &older_definition()).await;
    let l4 = nodes::fleet().into_iter().find(|node| node.name == "l4-0").unwrap();
    nodes::create(control_plane.connection(), &[l4]).await.unwrap();
    let team = Team::within(control_plane.connection().clone(), "older").await;
    let operator = team.operator().await;
    team.apply("model", serde_json::json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" } })).await;
    let ready = team.until_ready("model", "True", "Available").await;
    let outdated = condition(&ready, "SchemaOutdated").unwrap();
    assert_eq!((&outdated["status"], &outdated["reason"]), (&"True".into(), &"SchemaOutdated".into()));
    let message = outdated["message"].as_str().unwrap();
    assert!(message.contains("spec.vllm.upgrade") && message.contains("apply the definitions"), "{message}");
    assert!(ready["status"]["sizing"]["derivation"].is_null() && ready["status"]["sizing"]["image"].is_string());
    let shows = |line: &'static str| {
        let operator = &operator;
        async move { operator.get("metrics").await.unwrap().lines().any(|shown| shown == line) }
    };
    assert!(shows("quartermaster_schema_outdated{kind=\"InferenceBackend\"} 1").await);
    // It asks again for the schema while that is older: the only call that it makes.
    let is_schema = |entry: &Value| entry["requestURI"].as_str().is_some_and(|uri| uri.starts_with("/openapi/"));
    let others = || team.requests().iter().filter(|entry| !is_schema(entry) && entry["objectRef"]["resource"] != "leases").count();
    let questions = || team.requests().iter().filter(|entry| is_schema(entry)).count();
    team.until_quiet_but(Duration::from_secs(3), is_schema).await;
    let (before, asked) = (others(), questions());
    while questions() < asked + 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(others(), before, "{:?}", team.writes());

    // A change of the definition ends every watch of it.
    team.check_contract();
    account::apply(&team.connection, DEFINITION).await.unwrap();
    let healed = team.until("model", "lose SchemaOutdated", |backend| condition(backend, "SchemaOutdated").is_none()).await;
    assert!(healed["status"]["sizing"]["derivation"].is_string());
    assert!(shows("quartermaster_schema_outdated{kind=\"InferenceBackend\"} 0").await);
    drop((operator, team));
    control_plane.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_definition_it_says_what_it_waits_for_and_starts_to_work_when_it_comes() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let team = Team::within(control_plane.connection().clone(), "missing").await;
    let mut operator = team.start("", &[]);
    let waiting = operator
        .until_readiness("wait for the definitions alone", |readiness| {
            let gates = readiness["waitingFor"].as_array().map(Vec::as_slice).unwrap_or_default();
            gates.len() == 8 && gates.iter().all(|gate| gate["reason"] != "not done yet")
        })
        .await
        .to_string();
    let kinds = [
        ("InferenceBackend", "inferencebackends"),
        ("AgentPool", "agentpools"),
        ("ModelRoute", "modelroutes"),
        ("TokenBudget", "tokenbudgets"),
    ];
    for (kind, plural) in kinds {
        let (schema, watch) = (format!("served schema of {kind}"), format!("watch {plural}"));
        assert!(waiting.contains(&schema) && waiting.contains(&watch), "{waiting}");
    }
    assert!(waiting.contains("apply the definitions of this version"), "{waiting}");
    assert_eq!(operator.get("healthz").await.unwrap().trim(), "ok", "it is not ill");

    install(&team.connection, DEFINITION).await;
    operator.ready().await;
    team.apply("hosted", serde_json::json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" } })).await;
    team.until_ready("hosted", "False", "NoAcceleratorKnown").await;
    assert_eq!(operator.terminate().code(), Some(0));
    control_plane.stop().unwrap();
}
