//! An object that the operator cannot decode gets an answer and blocks nobody.
//!
//! The schema refuses such objects, so that they exist only where an older or a foreign definition let them in. Definitions
//! are cluster-wide: this test has a control plane of its own.

use kube::api::{Patch, PatchParams};
use quartermaster_dev::{ControlPlane, Options, nodes};
use serde_json::{Value, json};

use crate::events::each_is_told_once;
use crate::harness::{DEFINITION, Team, condition, install};

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_decoded_is_stalled_with_its_field_and_blocks_nobody() {
    let control_plane = ControlPlane::start(Options::default()).await.unwrap();
    let connection = control_plane.connection().clone();
    let mut definition: Value = serde_saphyr::from_str(DEFINITION).unwrap();
    // It declares no field of a spec, so that none can be selected by.
    definition.pointer_mut("/spec/versions/0").unwrap().as_object_mut().unwrap().remove("selectableFields");
    let schema = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").unwrap();
    schema.as_object_mut().unwrap().remove("x-kubernetes-validations");
    schema["properties"]["spec"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    install(&connection, &definition.to_string()).await;
    let fleet: Vec<_> = nodes::fleet().into_iter().filter(|node| node.name == "a100-mig-single").collect();
    nodes::create(&connection, &fleet).await.unwrap();
    let team = Team::within(connection, "undecodable").await;

    let good = json!({ "vllm": { "model": "Qwen/Qwen3-0.6B" } });
    // Some are there before the operator is, some come while it runs.
    for (name, spec) in [("text", json!({ "vllm": "llama" })), ("number", json!({ "vllm": { "model": 5 } }))] {
        team.apply(name, spec).await;
    }
    let operator = team.operator().await;
    team.apply("word", json!({ "vllm": { "model": "a/b" }, "suspend": "yes" })).await;
    team.apply("negative", json!({ "vllm": { "model": "a/b", "contextLength": -1 } })).await;
    team.apply("neither", json!({})).await;
    team.apply("innocent", good.clone()).await;
    for (name, field) in
        [("text", "spec.vllm"), ("number", "spec.vllm.model"), ("word", "spec.suspend"), ("negative", "spec.vllm.contextLength")]
    {
        let stalled = team.until_ready(name, "False", "InvalidObject").await;
        let message = condition(&stalled, "Stalled").unwrap()["message"].as_str().unwrap();
        assert!(message.contains(field) && message.contains("apply a valid one"), "{name}: {message}");
    }
    // What decodes, but no schema would let in, is answered as well.
    team.until_ready("neither", "False", "InvalidSpec").await;
    each_is_told_once(&team, &operator, &["text", "number", "word", "negative", "neither"]).await;
    team.until_ready("innocent", "True", "Available").await;

    // A backend that serves keeps its pods when its spec becomes unreadable, and goes on when it is repaired.
    let patch = json!({ "spec": { "suspend": "yes" } });
    team.backends().patch("innocent", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    team.until_ready("innocent", "False", "InvalidObject").await;
    assert!(team.kubectl(&["get", "pods", "-o", "name"]).contains("innocent-backend"));
    let patch = json!({ "spec": { "suspend": null } });
    team.backends().patch("innocent", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    team.until_ready("innocent", "True", "Available").await;
    team.apply("number", good).await;
    team.until_ready("number", "True", "Available").await;
    drop(team);
    drop(control_plane);
}
