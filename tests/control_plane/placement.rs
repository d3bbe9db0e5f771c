//! One line of YAML becomes a Deployment of the right size on the right nodes.

use serde_json::json;

use crate::harness::{Team, condition};

#[tokio::test(flavor = "multi_thread")]
async fn one_line_becomes_pods_of_a_legal_size_on_nodes_that_have_the_right_accelerators() {
    let team = Team::new("one-line").await;
    let _operator = team.operator().await;
    // A hub that may not be asked: Hugging Face itself, where it can be reached, knows no such token.
    team.apply("llama-70b", json!({ "vllm": { "model": "meta-llama/Llama-3.3-70B-Instruct", "huggingFace": { "tokenSecretKeyRef": { "name": "hf", "key": "token" }, "endpoint": "http://127.0.0.1:9" } } })).await;
    let waiting = team.until_ready("llama-70b", "False", "SecretNotFound").await;
    assert_eq!(condition(&waiting, "Reconciling").unwrap()["reason"], "SecretNotFound");
    team.kubectl(&["create", "secret", "generic", "hf", "--from-literal=token=hf_x"]);
    let ready = team.until_ready("llama-70b", "True", "Available").await;
    assert_eq!(ready["status"]["summary"]["gpus"], "4xH100-80GB TP4");
    for type_ in ["Sized", "Available", "ModelLoaded"] {
        let loaded = team.until("llama-70b", type_, |backend| condition(backend, type_).unwrap()["status"] == "True").await;
        assert_eq!(condition(&loaded, "Ready").unwrap()["status"], "True");
    }
    let node = team.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].spec.nodeName}"]);
    assert!(node.starts_with("h100"), "{node}");
}
