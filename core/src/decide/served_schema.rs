//! What the served CustomResourceDefinition knows, compared with what this version was built with.

use std::collections::BTreeSet;

use serde_json::Value;

/// The fields of the compiled schema that the served one lacks, as paths such as `status.sizing.image`; items of a list are
/// `[]`. A served schema that keeps unknown fields lacks nothing.
pub fn missing(compiled: &Value, served: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for part in ["spec", "status"] {
        let pointer = format!("/properties/{part}");
        if let Some(compiled) = compiled.pointer(&pointer) {
            collect(compiled, served.pointer(&pointer), part, &mut paths);
        }
    }
    paths
}

fn collect(compiled: &Value, served: Option<&Value>, path: &str, paths: &mut Vec<String>) {
    let Some(served) = served else {
        paths.push(path.to_owned());
        return;
    };
    if served.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        return;
    }
    for (name, property) in compiled.get("properties").and_then(Value::as_object).into_iter().flatten() {
        collect(property, served.get("properties").and_then(|properties| properties.get(name)), &format!("{path}.{name}"), paths);
    }
    if let Some(items) = compiled.get("items") {
        collect(items, served.get("items"), &format!("{path}[]"), paths);
    }
}

/// Removes from a status what the served schema lacks, so that what is compared is what can be stored.
pub fn prune(status: &mut Value, missing: &[String]) {
    let missing: BTreeSet<&str> = missing.iter().filter_map(|path| path.strip_prefix("status.")).collect();
    for path in missing {
        remove(status, path);
    }
}

fn remove(value: &mut Value, path: &str) {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    let (name, items) = head.strip_suffix("[]").map_or((head, false), |name| (name, true));
    let Some(object) = value.as_object_mut() else { return };
    match (rest, object.get_mut(name)) {
        (None, _) if !items => {
            object.remove(name);
        }
        (Some(rest), Some(Value::Array(list))) if items => list.iter_mut().for_each(|item| remove(item, rest)),
        (Some(rest), Some(member)) => remove(member, rest),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(status: Value) -> Value {
        json!({ "properties": { "spec": { "properties": { "model": {} } }, "status": { "properties": status } } })
    }

    #[test]
    fn a_schema_lacks_nothing_of_itself() {
        let same = schema(json!({ "a": {}, "list": { "items": { "properties": { "b": {} } } } }));
        assert!(missing(&same, &same).is_empty());
    }

    #[test]
    fn fields_that_the_served_schema_lacks_are_named_and_pruned() {
        let compiled = schema(json!({ "a": {}, "new": {}, "list": { "items": { "properties": { "b": {}, "new": {} } } } }));
        let served = schema(json!({ "a": {}, "list": { "items": { "properties": { "b": {} } } } }));
        let missing = missing(&compiled, &served);
        assert_eq!(missing, ["status.list[].new", "status.new"]);
        let mut status = json!({ "a": 1, "new": 2, "list": [{ "b": 1, "new": 2 }] });
        prune(&mut status, &missing);
        assert_eq!(status, json!({ "a": 1, "list": [{ "b": 1 }] }));
    }

    #[test]
    fn a_served_schema_that_keeps_unknown_fields_lacks_nothing() {
        let compiled = json!({ "properties": { "status": { "properties": { "a": {} } } } });
        let served = json!({ "properties": { "status": { "x-kubernetes-preserve-unknown-fields": true } } });
        assert!(missing(&compiled, &served).is_empty());
    }
}
