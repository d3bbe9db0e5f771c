//! Whether an object is what the structural schema of its CustomResourceDefinition says, as the API server checks it: so
//! that files can be refused before they meet an API server.
//!
//! Of a schema it reads what our definitions use, which a test keeps true. Their rules in CEL are those of [`super::creation_rules`].

use std::collections::BTreeSet;
use std::fmt;

use regex::Regex;
use serde_json::{Map, Value};

/// Something that the API server would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, for example `spec.vllm.env[0].name`. Empty: in the whole object.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => formatter.write_str(&self.problem),
            path => write!(formatter, "{path}: {}", self.problem),
        }
    }
}

/// How alike two names are, at least, for one to be taken for a slip of the other; 1 is equal.
const ALIKE: f64 = 0.8;

/// What in `value` the schema does not allow, in the order of the schema's checks. `path` is where the value is.
///
/// A null member of an object counts as absent, since the API server prunes it. Unknown fields are violations, as they are to
/// every client that validates strictly, kubectl among them.
pub fn violations(schema: &Value, value: &Value, path: &str) -> Vec<Violation> {
    let mut found = Vec::new();
    check(schema, value, path, &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let mut violated = |problem: String| found.push(Violation { path: path.to_owned(), problem });
    if is_set(schema, "x-kubernetes-int-or-string") {
        if !value.is_string() && !is_whole(value) {
            violated(format!("must be a whole number or text, not {}", kind(value)));
        }
        return;
    }
    let expected = schema.get("type").and_then(Value::as_str).unwrap_or_default();
    let fits = match expected {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => is_whole(value),
        "number" => value.is_number(),
        _ => true,
    };
    if !fits {
        violated(format!("must be {}, not {}", article(expected), kind(value)));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(shown).collect();
        violated(format!("{} is none of {}", shown(value), allowed.join(", ")));
    }
    match value {
        Value::Object(object) => check_object(schema, object, path, found),
        Value::Array(items) => check_array(schema, items, path, found),
        Value::String(text) => check_string(schema, text, path, found),
        Value::Number(_) => check_number(schema, value, path, found),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, found: &mut Vec<Violation>) {
    let member = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if object.get(name).is_none_or(Value::is_null) {
            found.push(Violation { path: member(name), problem: "is required".to_owned() });
        }
    }
    if let Some(most) = bound(schema, "maxProperties").filter(|most| object.len() > *most) {
        found.push(Violation { path: path.to_owned(), problem: format!("has {} members, and may have {most}", object.len()) });
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let known = properties.and_then(|properties| properties.get(name)).or_else(|| schema.get("additionalProperties"));
        match known {
            Some(known) => check(known, value, &member(name), found),
            None if is_set(schema, "x-kubernetes-preserve-unknown-fields") => {}
            None => {
                let names = properties.into_iter().flat_map(Map::keys).map(String::as_str);
                found.push(Violation { path: member(name), problem: unknown(name, names) });
            }
        }
    }
}

/// What is said of a name that none of `known` is.
pub fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let lower = name.to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&lower, &other.to_lowercase());
    let closest = known.map(|other| (likeness(other), other)).filter(|(likeness, _)| *likeness >= ALIKE);
    match closest.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        Some((_, closest)) => format!("there is no such field; did you mean {closest}?"),
        None => "there is no such field".to_owned(),
    }
}

fn check_array(schema: &Value, items: &[Value], path: &str, found: &mut Vec<Violation>) {
    let mut violated = |problem: String| found.push(Violation { path: path.to_owned(), problem });
    if let Some(most) = bound(schema, "maxItems").filter(|most| items.len() > *most) {
        violated(format!("has {} items, and may have {most}", items.len()));
    }
    if let Some(least) = bound(schema, "minItems").filter(|least| items.len() < *least) {
        violated(format!("has {} items, and needs {least}", items.len()));
    }
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let is_set = schema.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("set");
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if let Some(schema) = schema.get("items") {
            check(schema, item, &path, found);
        }
        let identity = match (keys.is_empty(), is_set) {
            (false, _) => keys.iter().map(|key| item.get(key).map(shown).unwrap_or_default()).collect::<Vec<_>>().join(", "),
            (true, true) => shown(item),
            (true, false) => continue,
        };
        if !seen.insert(identity.clone()) {
            found.push(Violation { path, problem: format!("{identity} stands in the list twice") });
        }
    }
}

fn check_string(schema: &Value, text: &str, path: &str, found: &mut Vec<Violation>) {
    let mut violated = |problem: String| found.push(Violation { path: path.to_owned(), problem });
    let length = text.chars().count();
    if let Some(most) = bound(schema, "maxLength").filter(|most| length > *most) {
        violated(format!("has {length} characters, and may have {most}"));
    }
    if let Some(least) = bound(schema, "minLength").filter(|least| length < *least) {
        violated(format!("has {length} characters, and needs {least}"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        // A pattern that is none is a defect of the definition, which the API server would not have taken.
        match Regex::new(pattern) {
            Ok(matcher) if matcher.is_match(text) => {}
            Ok(_) => violated(format!("{} does not match {pattern}", shown(&Value::from(text)))),
            Err(_) => violated(format!("cannot be compared with {pattern}, which is no pattern")),
        }
    }
}

fn check_number(schema: &Value, value: &Value, path: &str, found: &mut Vec<Violation>) {
    let mut violated = |problem: String| found.push(Violation { path: path.to_owned(), problem });
    // The types of definitions hold bounds as floating-point numbers.
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let Some(number) = value.as_f64() else { return };
    if let Some(least) = limit("minimum").filter(|least| number < *least) {
        violated(format!("{value} is less than {least}"));
    }
    if let Some(most) = limit("maximum").filter(|most| number > *most) {
        violated(format!("{value} is more than {most}"));
    }
}

fn bound(schema: &Value, name: &str) -> Option<usize> {
    schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok())
}

fn is_set(schema: &Value, name: &str) -> bool {
    schema.get(name) == Some(&Value::Bool(true))
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| format!("`{text}`"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn article(type_: &str) -> &'static str {
    match type_ {
        "object" => "an object",
        "array" => "a list",
        "string" => "text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        _ => "a number",
    }
}

#[cfg(test)]
#[path = "structural_schema_tests.rs"]
mod tests;
