//! `podTemplatePatch`: the last word of the user about the pod template.
//!
//! Lists of named things are merged by name, everything else as a JSON merge patch (RFC 7396): null deletes, other lists
//! are replaced. An element of a named list is deleted with `$patch: delete` beside its name, as Kubernetes' own strategic
//! merge patch writes it. Sidecars, security contexts, volumes, annotations, tolerations and the command can be changed.
//! What the rest of the operator relies on cannot: the labels, our container, its arguments, image, accelerators, port and
//! managed environment.

use serde_json::{Map, Value};

use super::children::{CONTAINER, PORT_NAME, environment};

/// A patch that cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is not a pod template.
    #[error("`{member}` is no member of a pod template: put it under metadata or spec")]
    ReadTemplate {
        /// The member.
        member: String,
    },
    /// Something that must be an object is none.
    #[error("{path} is not an object")]
    ReadObject {
        /// Where.
        path: String,
    },
    /// One list names one thing twice.
    #[error("{path} names `{name}` twice: keep one")]
    NameTwice {
        /// Where.
        path: String,
        /// The name.
        name: String,
    },
    /// A directive that is not known.
    #[error("{path} has a $patch other than delete")]
    ReadDirective {
        /// Where.
        path: String,
    },
    /// A label of the operator would change.
    #[error("the label {key} is managed, as the Deployment and the Service find the pods by it: remove it from the patch")]
    ChangeLabel {
        /// The label.
        key: String,
    },
    /// The container with vLLM would go.
    #[error("the container `{CONTAINER}` would be removed: remove null and $patch from spec.containers")]
    RemoveContainer,
    /// A managed part of the container with vLLM would change.
    #[error("{part} of the container `{CONTAINER}` is managed: remove it from the patch; {instead}")]
    ChangeContainer {
        /// Which part.
        part: String,
        /// What to do instead.
        instead: &'static str,
    },
}

/// The template with the patch merged into it.
///
/// # Errors
///
/// The patch is not the shape of a pod template, or changes what must stay. Anything else is for the API server to judge.
pub fn merge(template: Value, patch: &Value) -> Result<Value, PatchError> {
    let members = patch.as_object().ok_or_else(|| PatchError::ReadObject { path: "podTemplatePatch".to_owned() })?;
    for (member, value) in members {
        if !matches!(member.as_str(), "metadata" | "spec") {
            return Err(PatchError::ReadTemplate { member: member.clone() });
        }
        if !value.is_object() {
            return Err(PatchError::ReadObject { path: member.clone() });
        }
    }
    let merged = merge_value(template.clone(), patch, "")?;
    check_labels(&template, &merged)?;
    check_container(&template, &merged)?;
    Ok(merged)
}

fn merge_value(original: Value, patch: &Value, path: &str) -> Result<Value, PatchError> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => merge_object(original, patch, path).map(Value::Object),
        (Value::Array(original), Value::Array(patch)) => merge_list(original, patch, path),
        // Into what is not an object, an object is merged as into an empty one, so that its nulls go.
        (_, Value::Object(patch)) => merge_object(Map::new(), patch, path).map(Value::Object),
        (_, Value::Array(patch)) => merge_list(Vec::new(), patch, path),
        (_, patch) => Ok(patch.clone()),
    }
}

fn merge_object(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    path: &str,
) -> Result<Map<String, Value>, PatchError> {
    for (key, value) in patch {
        if value.is_null() {
            original.remove(key);
        } else {
            let before = original.remove(key).unwrap_or_default();
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            original.insert(key.clone(), merge_value(before, value, &path)?);
        }
    }
    Ok(original)
}

/// Members that name the elements of a list, by the name of the list. Mounts have names too, but those of volumes.
fn key_of(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("volumeMounts") => "mountPath",
        Some("volumeDevices") => "devicePath",
        _ => "name",
    }
}

fn merge_list(original: Vec<Value>, patch: &[Value], path: &str) -> Result<Value, PatchError> {
    let key = key_of(path);
    let named = |list: &[Value]| list.iter().all(|element| element.get(key).is_some_and(Value::is_string));
    if !named(&original) || !named(patch) {
        return Ok(Value::Array(patch.to_vec()));
    }
    let name_of = |element: &Value| element.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut merged = original;
    for (index, element) in patch.iter().enumerate() {
        let name = name_of(element);
        if patch.iter().skip(index + 1).any(|other| name_of(other) == name) {
            return Err(PatchError::NameTwice { path: path.to_owned(), name });
        }
        let position = merged.iter().position(|known| name_of(known) == name);
        let path = format!("{path}[{name}]");
        match element.get("$patch").map(|directive| directive.as_str() == Some("delete")) {
            Some(true) => {
                if let Some(position) = position {
                    merged.remove(position);
                }
                continue;
            }
            Some(false) => return Err(PatchError::ReadDirective { path }),
            None => {}
        }
        match position.and_then(|position| merged.get_mut(position)) {
            Some(known) => *known = merge_value(without_other_source(known.take(), element, &path), element, &path)?,
            None => merged.push(merge_value(Value::Null, element, &path)?),
        }
    }
    Ok(Value::Array(merged))
}

/// Of a volume and of an environment variable, one member besides the name says where the content comes from. Where the
/// patch names another one, the former goes: the API server refuses both.
fn without_other_source(mut known: Value, element: &Value, path: &str) -> Value {
    let list = path.rsplit_once('[').and_then(|(path, _)| path.rsplit('.').next());
    if matches!(list, Some("volumes" | "env"))
        && let (Some(known), Some(element)) = (known.as_object_mut(), element.as_object())
    {
        let adds = element.iter().any(|(member, value)| !value.is_null() && !known.contains_key(member));
        known.retain(|member, _| !adds || element.contains_key(member));
    }
    known
}

fn check_labels(template: &Value, merged: &Value) -> Result<(), PatchError> {
    let labels = |of: &Value| of.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let after = labels(merged);
    match labels(template).into_iter().find(|(key, value)| after.get(key) != Some(value)) {
        Some((key, _)) => Err(PatchError::ChangeLabel { key }),
        None => Ok(()),
    }
}

fn check_container(template: &Value, merged: &Value) -> Result<(), PatchError> {
    let container = |of: &Value| named(of.pointer("/spec/containers"), CONTAINER).cloned();
    let Some(before) = container(template) else { return Ok(()) };
    let after = container(merged).ok_or(PatchError::RemoveContainer)?;
    let refuse = |part: &str, instead| Err(PatchError::ChangeContainer { part: part.to_owned(), instead });
    if before.get("args") != after.get("args") {
        return refuse("args", "use spec.vllm.extraArgs");
    }
    if before.get("image") != after.get("image") {
        return refuse("image", "use spec.vllm.image");
    }
    if named(before.get("ports"), PORT_NAME) != named(after.get("ports"), PORT_NAME) {
        return refuse("the port http", "the Service and the probes use it; give every other port a name");
    }
    for pointer in ["/resources/requests", "/resources/limits"] {
        // Extended resources have a domain in their name; CPU and memory are the user's.
        let accelerators = |of: &Value| -> Vec<(String, Value)> {
            let resources = of.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
            resources.filter(|(name, _)| name.contains('/')).map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let (wanted, found) = (accelerators(&before), accelerators(&after));
        if wanted.iter().any(|accelerator| !found.contains(accelerator)) {
            return refuse("the number of accelerators", "use spec.vllm.parallelism");
        }
    }
    let variables = after.get("env").and_then(Value::as_array).into_iter().flatten();
    let names = variables.chain(before.get("env").and_then(Value::as_array).into_iter().flatten());
    for name in names.filter_map(|variable| variable.get("name").and_then(Value::as_str)) {
        if environment::is_managed(name) && named(before.get("env"), name) != named(after.get("env"), name) {
            return refuse(&format!("the variable {name}"), "the fields of spec.vllm set it");
        }
    }
    Ok(())
}

fn named<'a>(list: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    list?.as_array()?.iter().find(|element| element.get("name").and_then(Value::as_str) == Some(name))
}

#[cfg(test)]
#[path = "patch_tests.rs"]
mod tests;
