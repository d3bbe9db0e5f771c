//! What was used: the caller tables of namespaces, from the operator's ledger in a cluster, or from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::{Api, ListParams};
use quartermaster_core::decide::account::export::ChargebackRow;
use quartermaster_core::decide::account::export::recorded;
use quartermaster_core::decide::account::history::History;
use serde_json::Value;

use crate::cli::CommandError;
use crate::cli::cluster::said;
use crate::cli::{manifests, output};
use crate::operate::ledger::{Book, LEDGER_LABEL, TENANT_LABEL, TextError, text_of};

/// By namespace.
pub type Tables = BTreeMap<String, History>;

/// ConfigMaps of an answer to a list: each can have a megabyte.
const PAGE: u32 = 50;

/// The tables of files; `-` is standard input.
pub fn of_files(paths: &[PathBuf]) -> Result<Tables, CommandError> {
    let mut rows: Vec<ChargebackRow> = Vec::new();
    let mut objects: Vec<ConfigMap> = Vec::new();
    for path in paths {
        let wrong = |error: serde_json::Error| CommandError::Input(format!("failed to understand {}: {error}", path.display()));
        let mut is_empty = true;
        for document in documents(path)? {
            if document.is_array() {
                rows.extend(serde_json::from_value::<Vec<ChargebackRow>>(document).map_err(wrong)?);
                is_empty = false;
            } else if is_of_ledger(&document) {
                objects.push(serde_json::from_value(document).map_err(wrong)?);
                is_empty = false;
            }
        }
        if is_empty {
            return Err(CommandError::Input(format!(
                "{} has nothing that was used: neither the JSON of quartermaster budget export, nor ConfigMaps with the label \
                 {LEDGER_LABEL}: {}",
                path.display(),
                Book::History.name()
            )));
        }
    }
    let wrong = |error: &dyn std::fmt::Display| CommandError::Input(format!("failed to understand what was used: {error}"));
    let mut tables = recorded::tables(&rows).map_err(|error| wrong(&error))?;
    for (namespace, table) in of_objects(&objects).map_err(|error| wrong(&error))? {
        if tables.contains_key(&namespace) {
            return Err(wrong(&format!("{namespace} has both rows and ConfigMaps: leave one of them out")));
        }
        tables.insert(namespace, table);
    }
    Ok(tables)
}

/// The tables of a cluster's ledger, of one namespace or of all.
pub async fn of_cluster(client: &Client, operator_namespace: &str, namespace: Option<&str>) -> Result<Tables, CommandError> {
    let failed = |error: &dyn std::fmt::Display| {
        CommandError::Failed(format!("failed to read the ledger in the namespace {operator_namespace}: {error}"))
    };
    let mut selector = format!("{LEDGER_LABEL}={}", Book::History.name());
    if let Some(namespace) = namespace {
        selector.push_str(&format!(",{TENANT_LABEL}={namespace}"));
    }
    let api = Api::<ConfigMap>::namespaced(client.clone(), operator_namespace);
    let mut parameters = ListParams::default().labels(&selector).limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let listed = api.list(&parameters).await.map_err(|error| failed(&said(&error)))?;
        objects.extend(listed.items);
        match listed.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return of_objects(&objects).map_err(|error| failed(&error)),
        }
    }
}

/// The table of one namespace. Without a name, of the only one that there is.
pub fn of_namespace(mut tables: Tables, namespace: Option<&str>) -> Result<(String, History), CommandError> {
    let known = tables.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if let Some(namespace) = namespace {
        let advice = || CommandError::Input(format!("nothing is known of the namespace {namespace}; it is of: {known}"));
        // Where nobody has used anything, nothing says in which namespace.
        let table = if tables.is_empty() { Some(History::default()) } else { tables.remove(namespace) };
        return table.map(|table| (namespace.to_owned(), table)).ok_or_else(advice);
    }
    if tables.len() > 1 {
        return Err(CommandError::Input(format!("several namespaces have used something: name one with --namespace: {known}")));
    }
    Ok(tables.pop_first().unwrap_or_default())
}

/// Why what is said of a table is not all; none: it is.
pub fn gap(namespace: &str, table: &History) -> Option<String> {
    let said = || format!("a part of what was used in {namespace} is missing: it was more than this");
    (!table.is_complete()).then(said)
}

fn documents(path: &Path) -> Result<Vec<Value>, CommandError> {
    let text = output::read(path)?;
    // Whoever reads YAML reads JSON too, but only so much of it, and what was exported can be long.
    match serde_json::from_str(&text) {
        Ok(document) => Ok(manifests::unfolded(document)),
        Err(_) => manifests::documents_of_text(path, &text),
    }
}

fn is_of_ledger(document: &Value) -> bool {
    let is_config_map = document.get("kind").and_then(Value::as_str) == Some("ConfigMap");
    let label = document.get("metadata").and_then(|metadata| metadata.get("labels")?.get(LEDGER_LABEL)?.as_str());
    is_config_map && label == Some(Book::History.name())
}

/// The tables of a ledger's objects.
fn of_objects(objects: &[ConfigMap]) -> Result<Tables, String> {
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for object in objects {
        let Some((tenant, text)) = shard(object) else { continue };
        let name = object.metadata.name.as_deref().unwrap_or("without a name");
        shards.entry(tenant).or_default().push(text.map_err(|error| format!("ConfigMap {name}: {error}"))?);
    }
    let table = |(tenant, shards): (String, Vec<String>)| match History::read(shards) {
        Ok(table) => Ok((tenant, table)),
        Err(error) => Err(format!("{tenant}: {error}")),
    };
    shards.into_iter().map(table).collect()
}

/// The namespace that an object is of, and what stands in it; none: it is another object, or an empty one.
fn shard(object: &ConfigMap) -> Option<(String, Result<String, TextError>)> {
    let tenant = object.metadata.labels.as_ref()?.get(TENANT_LABEL)?.clone();
    Some((tenant, text_of(object).transpose()?))
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
