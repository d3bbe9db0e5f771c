use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::definitions;

fn said(schema: &Value, value: &Value) -> Vec<String> {
    violations(schema, value, "spec").iter().map(ToString::to_string).collect()
}

fn definition() -> Value {
    let definition = serde_json::to_value(&definitions::all().unwrap()[0]).unwrap();
    definition.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap().clone()
}

#[rstest]
#[case::a_complete_backend(json!({ "vllm": { "model": "Qwen/Qwen3-4B" } }), &[])]
#[case::a_null_field_counts_as_absent(json!({ "vllm": { "model": "Qwen/Qwen3-4B", "image": null } }), &[])]
#[case::what_is_kept_whatever_it_is(json!({ "vllm": { "model": "a", "podTemplatePatch": { "any": ["thing"] } } }), &[])]
#[case::a_map(json!({ "vllm": { "model": "a", "accelerator": { "nodeSelector": { "pool": "large" } } } }), &[])]
#[case::text_or_a_number(json!({ "vllm": { "model": "a", "resources": { "limits": { "cpu": 1, "memory": "1Gi" } } } }), &[])]
#[case::a_slip_of_a_name(
    json!({ "vllm": { "model": "a", "contextLenght": 1 } }),
    &["spec.vllm.contextLenght: there is no such field; did you mean contextLength?"]
)]
#[case::a_name_in_another_case(json!({ "vLLM": {} }), &["spec.vLLM: there is no such field; did you mean vllm?"])]
#[case::a_name_that_is_like_none(json!({ "zzz": {} }), &["spec.zzz: there is no such field"])]
#[case::a_field_within_an_object_without_fields(
    json!({ "vllm": { "model": "a", "cache": { "nodeLocal": { "path": "/x" } } } }),
    &["spec.vllm.cache.nodeLocal.path: there is no such field"]
)]
#[case::what_is_required(json!({ "vllm": {} }), &["spec.vllm.model: is required"])]
#[case::another_type(json!({ "vllm": "a" }), &["spec.vllm: must be an object, not text"])]
#[case::text_for_a_number(json!({ "replicas": "2" }), &["spec.replicas: must be a whole number, not text"])]
#[case::a_fraction(json!({ "replicas": 1.5 }), &["spec.replicas: must be a whole number, not a number"])]
#[case::text_for_a_truth(json!({ "suspend": "yes" }), &["spec.suspend: must be true or false, not text"])]
#[case::too_few(json!({ "replicas": -1 }), &["spec.replicas: -1 is less than 0"])]
#[case::too_many(json!({ "replicas": 1001 }), &["spec.replicas: 1001 is more than 1000"])]
#[case::more_than_any_number_of_64_bits(
    json!({ "replicas": u64::MAX }),
    &["spec.replicas: 18446744073709551615 is more than 1000"]
)]
#[case::an_enumeration(
    json!({ "vllm": { "model": "a", "kvCacheDtype": "fp8" } }),
    &["spec.vllm.kvCacheDtype: `fp8` is none of `Auto`, `FP8`"]
)]
#[case::a_pattern(
    json!({ "vllm": { "model": "a", "drainTimeout": "a while" } }),
    &["spec.vllm.drainTimeout: `a while` does not match ^([0-9]{1,5}(h|m|s|ms)){1,4}$"]
)]
#[case::an_item(json!({ "vllm": { "model": "a", "extraArgs": [""] } }), &["spec.vllm.extraArgs[0]: has 0 characters, and needs 1"])]
#[case::an_item_that_is_null(json!({ "vllm": { "model": "a", "extraArgs": [null] } }), &["spec.vllm.extraArgs[0]: must be text, not null"])]
#[case::two_of_one_name(
    json!({ "vllm": { "model": "a", "env": [{ "name": "A" }, { "name": "B" }, { "name": "A" }] } }),
    &["spec.vllm.env[2]: `A` stands in the list twice"]
)]
#[case::no_number_and_no_text(
    json!({ "vllm": { "model": "a", "accelerator": { "memory": true } } }),
    &["spec.vllm.accelerator.memory: must be a whole number or text, not true or false"]
)]
fn a_spec_is_judged_as_the_api_server_does(#[case] spec: Value, #[case] expected: &[&str]) {
    assert_eq!(said(&definition(), &spec), expected);
}

#[test]
fn lengths_are_counted_in_characters_and_lists_in_items() {
    let schema = json!({ "type": "array", "minItems": 1, "maxItems": 2, "items": { "type": "string", "maxLength": 2 } });
    assert_eq!(said(&schema, &json!(["äö", "ü"])), Vec::<String>::new());
    assert_eq!(said(&schema, &json!([])), ["spec: has 0 items, and needs 1"]);
    let too_much = ["spec: has 3 items, and may have 2", "spec[2]: has 3 characters, and may have 2"];
    assert_eq!(said(&schema, &json!(["a", "b", "äöü"])), too_much);
    let schema = json!({ "type": "object", "maxProperties": 1, "additionalProperties": { "type": "string" } });
    assert_eq!(said(&schema, &json!({ "a": "1" })), Vec::<String>::new());
    assert_eq!(said(&schema, &json!({ "a": "1", "b": "2" })), ["spec: has 2 members, and may have 1"]);
}

#[test]
fn every_problem_is_told_at_once() {
    let spec = json!({ "vllm": { "image": 1 }, "replica": 2 });
    assert_eq!(
        said(&definition(), &spec),
        [
            "spec.replica: there is no such field; did you mean replicas?",
            "spec.vllm.model: is required",
            "spec.vllm.image: must be text, not a number"
        ]
    );
}

/// What stands in our definitions, and is either checked here or checks nothing.
#[test]
fn nothing_in_our_definitions_goes_unread() {
    const READ: &[&str] = &[
        "additionalProperties",
        "enum",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
    ];
    // Words, the width of numbers that bounds narrow already, and the rules in CEL.
    const PASSED_OVER: &[&str] = &["description", "format", "x-kubernetes-validations"];
    fn walk(schema: &Value, path: &str) {
        for (key, part) in schema.as_object().unwrap() {
            assert!(READ.contains(&key.as_str()) || PASSED_OVER.contains(&key.as_str()), "{path}: {key}");
            match key.as_str() {
                "properties" => part.as_object().unwrap().iter().for_each(|(name, field)| walk(field, &format!("{path}.{name}"))),
                "items" | "additionalProperties" => walk(part, &format!("{path}[]")),
                _ => {}
            }
        }
    }
    walk(&definition(), "spec");
}
