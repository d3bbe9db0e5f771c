//! ConfigMaps and Secrets that a pod refers to.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

/// The entries of a ConfigMap or Secret.
pub(super) type Entries = BTreeMap<String, Vec<u8>>;

/// The entries of a ConfigMap, text and binary. None where it does not exist.
///
/// # Errors
///
/// When the API server does not answer; the message says what was asked.
pub(super) async fn config_map(client: &Client, namespace: &str, name: &str) -> Result<Option<Entries>, String> {
    let found = Api::<ConfigMap>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(|error| format!("failed to read the ConfigMap {namespace}/{name}: {error}"))?;
    Ok(found.map(|map| {
        let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, ByteString(value))| (key, value));
        text.chain(binary).collect()
    }))
}

/// The entries of a Secret. None where it does not exist.
///
/// # Errors
///
/// When the API server does not answer; the message says what was asked.
pub(super) async fn secret(client: &Client, namespace: &str, name: &str) -> Result<Option<Entries>, String> {
    let found = Api::<Secret>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(|error| format!("failed to read the Secret {namespace}/{name}: {error}"))?;
    Ok(found.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(key, ByteString(value))| (key, value)).collect()))
}
