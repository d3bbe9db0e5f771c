//! Our objects in files, judged by the definition as the API server would judge them.

use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use quartermaster_core::api::{AgentPool, GROUP, InferenceBackend, ModelRoute, TokenBudget, definitions};
use quartermaster_core::decide::{creation_rules, structural_schema};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::CommandError;
use super::output;

/// The documents of a file, as values. Lists, which is what kubectl prints, count as what they hold.
pub fn documents(path: &Path) -> Result<Vec<Value>, CommandError> {
    documents_of_text(path, &output::read(path)?)
}

/// The documents of what stands in a file.
pub fn documents_of_text(path: &Path, text: &str) -> Result<Vec<Value>, CommandError> {
    let documents: Result<Vec<Value>, _> = serde_saphyr::from_multiple(text);
    let documents = documents.map_err(|error| CommandError::Input(format!("failed to understand {}: {error}", path.display())))?;
    Ok(documents.into_iter().flat_map(unfolded).filter(|document| !document.is_null()).collect())
}

/// What a list holds, and in the place of anything else that itself.
pub fn unfolded(document: Value) -> Vec<Value> {
    let is_list = text(&document, "/kind").is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Object(mut list) if is_list => match list.remove("items") {
            Some(Value::Array(items)) => items.into_iter().flat_map(unfolded).collect(),
            _ => Vec::new(),
        },
        document => vec![document],
    }
}

/// What is read from files: a kind of ours.
pub trait Ours: kube::Resource<DynamicType = ()> + DeserializeOwned {}

impl Ours for InferenceBackend {}
impl Ours for AgentPool {}
impl Ours for ModelRoute {}
impl Ours for TokenBudget {}

/// The documents of files, read once: standard input cannot be read for each kind anew.
pub struct Documents(Vec<(PathBuf, Value)>);

impl Documents {
    /// Reads files; `-` is standard input.
    pub fn read(paths: &[PathBuf]) -> Result<Self, CommandError> {
        let mut read = Vec::new();
        for path in paths {
            read.extend(documents(path)?.into_iter().map(|document| (path.clone(), document)));
        }
        Ok(Self(read))
    }

    /// The objects of a kind. Other kinds are passed over: a file may hold a whole setup.
    ///
    /// # Errors
    ///
    /// What the API server would refuse in any of them, all of it at once.
    pub fn objects<K: Ours>(&self) -> Result<Vec<K>, CommandError> {
        let kind = K::kind(&());
        let schema = schema(&kind)?;
        let (mut objects, mut problems) = (Vec::new(), Vec::new());
        for (path, document) in &self.0 {
            if text(document, "/kind") != Some(&kind) || belongs_to_another_group(document) {
                continue;
            }
            let found = problems_of::<K>(&schema, document);
            let name = text(document, "/metadata/name").unwrap_or("without a name").to_owned();
            let about = |problem: String| format!("{kind} {name} of {}: {problem}", path.display());
            if found.is_empty() {
                match serde_json::from_value(document.clone()) {
                    Ok(object) => objects.push(object),
                    Err(error) => problems.push(about(error.to_string())),
                }
            }
            problems.extend(found.into_iter().map(about));
        }
        if problems.is_empty() { Ok(objects) } else { Err(CommandError::Input(problems.join("\n"))) }
    }
}

/// The objects of a kind in files, of which there has to be one.
///
/// # Errors
///
/// What the API server would refuse in any of them, all of it at once.
pub fn objects<K: Ours>(paths: &[PathBuf]) -> Result<Vec<K>, CommandError> {
    let objects = Documents::read(paths)?.objects::<K>()?;
    if objects.is_empty() {
        return Err(CommandError::Input(format!("no {} in the files", K::kind(&()))));
    }
    Ok(objects)
}

/// The schema of the definition that this version would install.
fn schema(kind: &str) -> Result<Value, CommandError> {
    let failed = |error: definitions::DefinitionError| CommandError::Failed(error.to_string());
    let mut definitions = definitions::all().map_err(failed)?.into_iter();
    let definition = definitions.find(|definition| definition.spec.names.kind == kind);
    let version = definition.into_iter().flat_map(|definition| definition.spec.versions).next();
    let schema = version.and_then(|version| version.schema).and_then(|schema| schema.open_api_v3_schema);
    serde_json::to_value(schema).map_err(|error| CommandError::Failed(format!("failed to read our own definition: {error}")))
}

fn text<'a>(document: &'a Value, pointer: &str) -> Option<&'a str> {
    document.pointer(pointer).and_then(Value::as_str)
}

fn belongs_to_another_group(document: &Value) -> bool {
    let group = text(document, "/apiVersion").and_then(|version| version.split_once('/')).map(|(group, _)| group);
    group.is_some_and(|group| group != GROUP)
}

/// What the API server would say of an object.
fn problems_of<K: Ours>(schema: &Value, document: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    let version = K::api_version(&());
    if text(document, "/apiVersion") != Some(&version) {
        problems.push(format!("apiVersion: must be {version}"));
    }
    let metadata = document.get("metadata").filter(|metadata| !metadata.is_null()).cloned().unwrap_or_else(|| json!({}));
    if text(document, "/metadata/name").is_none_or(str::is_empty) {
        problems.push("metadata.name: is required".to_owned());
    }
    problems.extend(problems_of_metadata(&metadata));
    // The status is the operator's to write, and the API server takes none from a file.
    let spec = document.get("spec").cloned().unwrap_or_default();
    for name in document.as_object().into_iter().flatten().map(|(name, _)| name.as_str()) {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&name) {
            problems.push(format!("{name}: {}", structural_schema::unknown(name, ["metadata", "spec"].into_iter())));
        }
    }
    match (spec.is_null(), schema.pointer("/properties/spec")) {
        (true, _) => problems.push("spec: is required".to_owned()),
        (false, None) => {}
        (false, Some(schema)) => {
            problems.extend(structural_schema::violations(schema, &spec, "spec").iter().map(ToString::to_string));
        }
    }
    if problems.is_empty() {
        // The rules are written for objects of the right shape, and the API server as well asks them last.
        let object = json!({ "metadata": metadata, "spec": without_nulls(spec) });
        problems.extend(creation_rules::violations(schema, &object).iter().map(ToString::to_string));
    }
    problems
}

fn problems_of_metadata(metadata: &Value) -> Vec<String> {
    let read = serde_json::from_value::<ObjectMeta>(metadata.clone());
    let read = match read.map(|read| serde_json::to_value(read).unwrap_or_default()) {
        Ok(read) => read,
        Err(error) => return vec![format!("metadata: {error}")],
    };
    let given = metadata.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let unknown = given.filter(|(name, _)| read.get(name.as_str()).is_none());
    let known = ["annotations", "labels", "name", "namespace"];
    unknown.map(|(name, _)| format!("metadata.{name}: {}", structural_schema::unknown(name, known.into_iter()))).collect()
}

/// The API server prunes null members before it asks a rule whether something is there.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, without_nulls(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        value => value,
    }
}
