use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::definitions;

fn definition() -> Value {
    let definition = serde_json::to_value(&definitions::all().unwrap()[0]).unwrap();
    definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

fn said(name: &str, spec: Value) -> Vec<String> {
    let object = json!({ "metadata": { "name": name }, "spec": spec });
    violations(&definition(), &object).iter().map(ToString::to_string).collect()
}

#[test]
fn every_rule_of_our_definitions_about_a_new_object_is_known() {
    let mut unknown = Vec::new();
    visit(&definition(), None, "", &mut |rule, _, path| {
        let rule = text(rule, "rule");
        if !rule.contains("oldSelf") && holds(rule, &Value::Null).is_none() {
            unknown.push(format!("{path}: {rule}"));
        }
    });
    assert!(unknown.is_empty(), "`plan` and `size` accept what the API server refuses: add to `holds` {unknown:#?}");
}

fn external(fields: Value) -> Value {
    let mut external = json!({ "provider": "LMStudio", "model": "m", "baseURL": "http://studio:1234" });
    external.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({ "external": external })
}

#[rstest]
#[case::neither(json!({}), "spec: exactly one of spec.vllm, spec.external must be set")]
#[case::both(
    json!({ "vllm": { "model": "a" }, "external": { "provider": "LMStudio", "baseURL": "http://a" } }),
    "spec: exactly one of spec.vllm, spec.external must be set"
)]
#[case::a_health_check_of_vllm(json!({ "vllm": { "model": "a" }, "healthCheck": {} }), "spec.healthCheck: spec.healthCheck applies to external only")]
#[case::replicas_of_a_provider(
    json!({ "external": { "provider": "LMStudio", "baseURL": "http://a" }, "replicas": 1 }),
    "spec.replicas: spec.replicas applies to vllm only"
)]
#[case::a_list_that_the_provider_lacks(
    json!({ "external": { "provider": "Bedrock", "model": "m", "baseURL": "http://a" }, "healthCheck": { "type": "ModelLoaded" } }),
    "spec.healthCheck.type: healthCheck.type ModelLoaded asks for a list of models"
)]
#[case::a_call_without_a_key(
    json!({ "external": { "provider": "VertexAI", "model": "m" }, "healthCheck": { "type": "Inference" } }),
    "spec.healthCheck.type: healthCheck.type Inference needs an API key"
)]
#[case::two_addresses(external(json!({ "serviceRef": { "name": "a", "port": 1 } })), "spec.external.serviceRef: external.baseURL and")]
#[case::an_authority_without_tls(
    json!({ "external": { "provider": "LMStudio", "serviceRef": { "name": "a", "port": 1 }, "tls": { "caSecretKeyRef": { "name": "a", "key": "b" } } } }),
    "spec.external.tls: external.serviceRef is called over http"
)]
#[case::an_authority_over_http(
    external(json!({ "tls": { "caSecretKeyRef": { "name": "a", "key": "b" } } })),
    "spec.external.tls: external.baseURL is called over http"
)]
#[case::a_revision_of_a_claim(
    json!({ "vllm": { "model": "pvc://models/a", "revision": "main" } }),
    "spec.vllm.revision: vllm.revision names a revision of a Hugging Face repository"
)]
#[case::no_address(json!({ "external": { "provider": "Bedrock", "model": "m" } }), "spec.external.baseURL: external.baseURL is required")]
#[case::no_key(json!({ "external": { "provider": "OpenAI", "model": "m" } }), "spec.external.apiKeys: external.apiKeys is required")]
#[case::credentials(external(json!({ "baseURL": "https://me:secret@a/v1" })), "spec.external.baseURL: external.baseURL must not carry")]
#[case::a_query(external(json!({ "baseURL": "https://a/v1?version=1" })), "spec.external.baseURL: external.baseURL must have neither")]
#[case::a_fragment(external(json!({ "baseURL": "https://a#b" })), "spec.external.baseURL: external.baseURL must have neither")]
#[case::credentials_of_a_hub(
    json!({ "vllm": { "model": "a", "huggingFace": { "endpoint": "https://me:secret@hub" } } }),
    "spec.vllm.huggingFace.endpoint: huggingFace.endpoint must not carry credentials"
)]
#[case::a_header_without_value(external(json!({ "headers": [{ "name": "X-A" }] })), "spec.external.headers[0]: a header needs exactly one")]
#[case::a_header_that_is_ours(
    external(json!({ "headers": [{ "name": "X-A", "value": "a" }, { "name": "Authorization", "value": "a" }] })),
    "spec.external.headers[1].name: this header is set by Quartermaster"
)]
#[case::memory_of_two_products(
    json!({ "vllm": { "model": "a", "accelerator": { "memory": "1Gi", "products": ["a", "b"] } } }),
    "spec.vllm.accelerator.memory: accelerator.memory describes one product"
)]
#[case::two_caches(
    json!({ "vllm": { "model": "a", "cache": { "nodeLocal": {}, "ephemeral": {} } } }),
    "spec.vllm.cache: cache needs exactly one of"
)]
fn what_a_rule_forbids_is_told_in_its_own_words(#[case] spec: Value, #[case] begins: &str) {
    let said = said("name", spec);
    assert!(matches!(said.as_slice(), [one] if one.starts_with(begins)), "{said:?}");
}

#[rstest]
#[case(json!({ "vllm": { "model": "a", "cache": { "nodeLocal": {} }, "accelerator": { "memory": "1Gi", "products": ["a"] } }, "replicas": 2 }))]
#[case(external(json!({ "headers": [{ "name": "X-A", "value": "a" }], "baseURL": "http://a/me@home" })))]
#[case(json!({ "external": { "provider": "OpenAI", "model": "m", "apiKeys": [{ "name": "a" }] }, "healthCheck": {} }))]
#[case(external(json!({ "baseURL": "https://a/v1", "tls": { "caSecretKeyRef": { "name": "a", "key": "b" } } })))]
#[case(external(json!({ "tls": {} })))]
#[case(json!({ "external": { "provider": "Bedrock", "model": "m", "baseURL": "http://a" }, "healthCheck": { "type": "Inference" } }))]
#[case(json!({ "external": { "provider": "VertexAI", "model": "m" }, "healthCheck": { "type": "Endpoint" } }))]
fn what_the_rules_allow_passes(#[case] spec: Value) {
    assert_eq!(said("name-2", spec), Vec::<String>::new());
}

#[rstest]
#[case("Name", "metadata.name must be a DNS label")]
#[case("a.b", "metadata.name must be a DNS label")]
#[case("a-", "metadata.name must be a DNS label")]
#[case("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "metadata.name must have at most 52 characters")]
fn a_name_that_no_service_could_have_is_refused(#[case] name: &str, #[case] words: &str) {
    let said = said(name, json!({ "vllm": { "model": "a" } }));
    assert!(matches!(said.as_slice(), [one] if one.contains(words)), "{said:?}");
}
