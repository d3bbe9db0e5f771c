//! Schemas that the API server accepts: parts for single fields, and the pass over a whole generated schema.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// The schema of an object whose fields are kept although they are not declared.
pub fn preserved_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
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
