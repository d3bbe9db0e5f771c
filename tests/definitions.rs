//! The CustomResourceDefinitions as files: what is applied is what this version was built with.

// A test says what is wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The files, in the order of the documentation.
const DEFINITIONS: [&str; 4] = [
    include_str!("../crds/quartermaster.dev_inferencebackends.yaml"),
    include_str!("../crds/quartermaster.dev_modelroutes.yaml"),
    include_str!("../crds/quartermaster.dev_tokenbudgets.yaml"),
    include_str!("../crds/quartermaster.dev_agentpools.yaml"),
];

/// The definitions, decoded, each with its schema.
fn schemas() -> Vec<Value> {
    let decode = |text: &&str| -> Value { serde_saphyr::from_str(text).unwrap() };
    let schema = |definition: Value| definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone();
    DEFINITIONS.iter().map(decode).map(schema).collect()
}

/// What client-side apply can keep in its annotation: the limit of all annotations of an object together, in bytes.
const CLIENT_SIDE_APPLY_LIMIT: usize = 262_144;

#[test]
fn the_files_in_crds_are_what_the_command_crds_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_quartermaster")).arg("crds").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let stored = DEFINITIONS.concat();
    let differs = printed.lines().zip(stored.lines()).find(|(printed, stored)| printed != stored);
    assert!(printed == stored, "crds/ is behind the types: run `make generate`, the first difference is {differs:?}");
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")).unwrap();
    assert_eq!(files.count(), DEFINITIONS.len(), "a file that no version makes");
}

#[test]
fn every_definition_is_small_enough_for_client_side_apply() {
    for definition in DEFINITIONS {
        let definition: Value = serde_saphyr::from_str(definition).unwrap();
        let size = definition.to_string().len();
        assert!(size < CLIENT_SIDE_APPLY_LIMIT, "{size} bytes");
    }
}

/// Enumerations of a spec that have to be written wherever they may stand.
const REQUIRED: [&str; 7] = [
    ".provider",
    ".policies[].type",
    ".targetRef.kind",
    ".period.type",
    ".matchExpressions[].operator",
    ".thresholds[].action",
    ".share.type",
];

#[test]
fn every_field_is_described_and_no_enumeration_by_the_words_of_its_type_alone() {
    let mut fields = Vec::new();
    schemas().iter().for_each(|schema| collect(schema, "", &mut fields));
    assert!(fields.len() > 200, "{} fields", fields.len());
    let without: Vec<_> = fields.iter().filter(|(_, field)| field["description"].as_str().is_none_or(str::is_empty)).collect();
    assert!(without.is_empty(), "without a description: {without:?}");
    // An optional field of an enumeration in the spec says what it is when it is absent.
    let silent: Vec<_> = fields
        .iter()
        .filter(|(path, field)| path.starts_with(".spec") && field.get("enum").is_some())
        .filter(|(path, _)| !REQUIRED.iter().any(|required| path.ends_with(required)))
        .filter(|(path, _)| !path.contains(".architecture."))
        .filter(|(_, field)| !field["description"].as_str().unwrap().contains("Default: "))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "without a default: {silent:?}");
}

#[test]
fn no_default_stands_in_the_schema_of_a_spec() {
    for schema in schemas() {
        let mut fields = Vec::new();
        collect(&schema, "", &mut fields);
        let with: Vec<_> = fields.iter().filter(|(path, field)| path != ".status" && field.get("default").is_some()).collect();
        assert!(with.is_empty(), "{with:?}");
        assert_eq!(schema.pointer("/properties/status/default"), Some(&serde_json::json!({ "observedGeneration": -1 })));
    }
}

#[test]
fn every_list_map_and_text_has_a_maximum_and_every_list_says_how_it_is_merged() {
    let (mut without, mut bounded) = (Vec::new(), 0);
    for schema in schemas() {
        for part in ["spec", "status"] {
            unbounded(&schema["properties"][part], part, &mut bounded, &mut without);
        }
    }
    assert!(without.is_empty(), "{without:#?}");
    assert!(bounded > 100, "{bounded} parts");
}

/// What a schema and its parts lack. Whoever preserves unknown fields leaves them to others.
fn unbounded(schema: &Value, path: &str, bounded: &mut usize, without: &mut Vec<String>) {
    let is = |type_: &str| schema["type"] == type_;
    let mut demand = |applies: bool, names: &[&str]| {
        for name in names.iter().filter(|_| applies) {
            *bounded += 1;
            if schema.get(name).is_none() {
                without.push(format!("{path} lacks {name}"));
            }
        }
    };
    demand(is("array"), &["maxItems", "x-kubernetes-list-type"]);
    demand(schema["x-kubernetes-list-type"] == "map", &["x-kubernetes-list-map-keys"]);
    demand(schema.get("additionalProperties").is_some(), &["maxProperties"]);
    let is_text = is("string") && schema.get("enum").is_none() && schema["format"] != "date-time";
    demand(is_text || schema["x-kubernetes-int-or-string"] == true, &["maxLength"]);
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        unbounded(property, &format!("{path}.{name}"), bounded, without);
    }
    for (part, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(part) = schema.get(part) {
            unbounded(part, &format!("{path}{suffix}"), bounded, without);
        }
    }
}

/// Every field of a schema, with its path.
fn collect(schema: &Value, path: &str, fields: &mut Vec<(String, Value)>) {
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.{name}");
        fields.push((path.clone(), field.clone()));
        collect(field, &path, fields);
    }
    for (part, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(part) = schema.get(part) {
            collect(part, &format!("{path}{suffix}"), fields);
        }
    }
}
