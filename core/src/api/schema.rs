//! Schemas that the API server accepts: parts for single fields, and the pass over a whole generated schema.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// The schema of an object whose fields are kept although they are not declared.
pub fn preserved_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The schema of a pod template: what is looked at or explained of it, and everything else as the user writes it.
pub fn pod_template(_: &mut SchemaGenerator) -> Schema {
    let texts =
        |description: &str| json!({ "type": "object", "description": description, "additionalProperties": { "type": "string" } });
    let container = json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "description": "Name of the container.", "maxLength": 63 },
            "image": { "type": "string", "description": "Its image." },
        },
    });
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "metadata": {
                "type": "object",
                "description": "Labels and annotations of the pods.",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": { "labels": texts("Labels of the pods."), "annotations": texts("Annotations of the pods.") },
            },
            "spec": {
                "type": "object",
                "description": "The pods, as in a Deployment.",
                "x-kubernetes-preserve-unknown-fields": true,
                "required": ["containers"],
                "properties": {
                    "containers": {
                        "type": "array", "description": "The containers.", "minItems": 1, "items": container,
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    },
                },
            },
        },
        "required": ["spec"],
    })
}

/// The schema of labels that are selected by: their values are at most 63 characters long, as everywhere.
pub fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 32, "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

/// The schema of labels of calls: a value is one line of a header.
pub fn request_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": { "type": "string", "minLength": 1, "maxLength": 63, "pattern": r"^[\x20-\x7e]+$" },
    })
}

/// The schema of a selector of labels, with the rules of Kubernetes: what they refuse is refused when it is written, and not when
/// it is used.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let demand = json!({
        "type": "object",
        "required": ["key", "operator"],
        "properties": {
            "key": { "type": "string", "description": "The label.", "minLength": 1, "maxLength": 317 },
            "operator": {
                "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                "description": "In and NotIn compare the label with values; Exists and DoesNotExist ask whether it is there.",
            },
            "values": {
                "type": "array", "description": "For In and NotIn: the values.", "maxItems": 32, "x-kubernetes-list-type": "atomic",
                "items": { "type": "string", "maxLength": 63 },
            },
        },
        "x-kubernetes-validations": [{
            "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "message": "matchExpressions[].values goes with the operators In and NotIn, and with no other: add values, or remove them",
            "fieldPath": ".values",
        }],
    });
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object", "description": "Labels with values that must all be there.",
                "maxProperties": 32, "additionalProperties": { "type": "string", "maxLength": 63 },
            },
            "matchExpressions": {
                "type": "array", "description": "Demands on labels that must all be met.",
                "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": demand,
            },
        },
    })
}

/// The schema of a local time to the minute or the second, without a zone.
pub fn local_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string", "maxLength": 19,
        "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$",
    })
}

/// The schema of weights by name.
pub fn weights(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 256, "additionalProperties": { "type": "integer", "minimum": 1, "maximum": 1_000_000 },
    })
}

/// The most characters of a text of a spec, where its field has no bound of its own: as for an item of `extraArgs`.
pub const SPEC_TEXT: u32 = 4096;
/// The most characters of a text of a status: what `metav1.Condition` allows a message.
pub const STATUS_TEXT: u32 = 32_768;
/// The most items of a list, and members of a map, where its field has no bound of its own.
const ITEMS: u32 = 64;
/// The most characters of a quantity that is written as a text. No number that it can stand for needs as many.
const QUANTITY_TEXT: u32 = 64;
const LIST_TYPE: &str = "x-kubernetes-list-type";

/// Gives every list, map and text a maximum, and every list its type, where the field itself says nothing: the types of
/// Kubernetes' own carry neither. Lists of what has a `name` are merged by it. `longest_text` is in characters.
pub fn bound(schema: &mut Value, longest_text: u32) {
    let Value::Object(object) = schema else { return };
    let holds = |name: &str, value: Value| object.get(name) == Some(&value);
    let mut missing = Vec::new();
    if holds("type", json!("array")) {
        missing.push(("maxItems", json!(ITEMS)));
        let required = object.get("items").and_then(|items| items.get("required")).and_then(Value::as_array);
        if required.is_some_and(|required| required.contains(&json!("name"))) && !object.contains_key(LIST_TYPE) {
            missing.push((LIST_TYPE, json!("map")));
            missing.push(("x-kubernetes-list-map-keys", json!(["name"])));
        }
        missing.push((LIST_TYPE, json!("atomic")));
    }
    if object.contains_key("additionalProperties") {
        missing.push(("maxProperties", json!(ITEMS)));
    }
    if holds("x-kubernetes-int-or-string", json!(true)) {
        missing.push(("maxLength", json!(QUANTITY_TEXT)));
    }
    if holds("type", json!("string")) && !object.contains_key("enum") && !object.contains_key("format") {
        missing.push(("maxLength", json!(longest_text)));
    }
    for (name, value) in missing {
        object.entry(name).or_insert(value);
    }
    for part in ["items", "additionalProperties"] {
        object.get_mut(part).into_iter().for_each(|part| bound(part, longest_text));
    }
    let properties = object.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flat_map(Map::values_mut).for_each(|property| bound(property, longest_text));
}

/// Rewrites a generated schema in place into the form that the API server stores without a warning.
///
/// * `nullable` goes: the API server prunes nulls of fields that are not nullable, as CustomResourceDefinitions made in Go do.
/// * Integer formats other than `int32` and `int64` are unknown to it: they become `int64`, with whole bounds.
/// * Nulls inside defaults violate the schema of the field they stand for.
/// * Descriptions of foreign types are cut to their first paragraph, so that the definition stays below the 256 KiB that
///   client-side apply can annotate.
pub fn normalise(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("nullable");
            whole_numbers(object);
            if let Some(default) = object.get_mut("default") {
                drop_nulls(default);
            }
            if let Some(Value::String(description)) = object.get_mut("description") {
                *description = first_paragraph(description);
            }
            if let Some(Value::Array(values)) = object.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            object.values_mut().for_each(normalise);
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}

/// Gives every field of an object's schema what is written at the field. The generator leaves an optional field of an
/// enumeration with the words of its type, which know neither the default nor what the field is for.
pub fn describe<T: JsonSchema>(schema: &mut Value) {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let generated = settings.into_generator().into_root_schema_for::<T>();
    describe_fields(schema, generated.as_value());
}

fn describe_fields(schema: &mut Value, generated: &Value) {
    // An optional part is generated as a choice between the part and null.
    let optional = generated.get("anyOf").and_then(|choices| choices.get(0));
    let generated = optional.filter(|_| generated.get("properties").is_none()).unwrap_or(generated);
    for (name, field) in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(written) = generated.get("properties").and_then(|fields| fields.get(name)) else { continue };
        if let (Some(field), Some(Value::String(words))) = (field.as_object_mut(), written.get("description")) {
            field.insert("description".to_owned(), json!(first_paragraph(words)));
        }
        describe_fields(field, written);
    }
    if let (Some(items), Some(generated)) = (schema.get_mut("items"), generated.get("items")) {
        describe_fields(items, generated);
    }
}

/// Gives integers a format that the API server knows, and bounds without a fraction.
fn whole_numbers(object: &mut Map<String, Value>) {
    if object.get("type") != Some(&json!("integer")) {
        return;
    }
    let format = match object.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16" | "int8" | "int16" | "int32") => "int32",
        _ => "int64",
    };
    object.insert("format".to_owned(), json!(format));
    for bound in ["minimum", "maximum"] {
        let whole = object
            .get(bound)
            .and_then(Value::as_number)
            .and_then(|number| number.to_string().trim_end_matches(".0").parse::<i64>().ok());
        if let Some(whole) = whole {
            object.insert(bound.to_owned(), json!(whole));
        }
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|_, member| !member.is_null());
            object.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// The first paragraph of a description on one line.
fn first_paragraph(description: &str) -> String {
    description.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}
