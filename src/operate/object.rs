//! A custom resource as the driver keeps it: decoded where it can be, and with its status as it is stored.

use std::sync::Arc;

use kube::api::{DynamicObject, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cache::Cached;

/// A custom resource as it is stored.
#[derive(Clone, Debug)]
pub struct Stored<T> {
    /// Its metadata, without managedFields.
    pub meta: ObjectMeta,
    /// Its status as it is stored.
    pub status: Value,
    /// The decoded object, or why it cannot be decoded.
    pub object: Result<Arc<T>, String>,
}

impl<T: DeserializeOwned> Stored<T> {
    /// Decodes an object.
    pub fn of(mut object: DynamicObject) -> Self {
        object.metadata.managed_fields = None;
        let meta = object.metadata.clone();
        let status = object.data.get("status").cloned().unwrap_or_default();
        let value = serde_json::to_value(object).map_err(|error| error.to_string());
        // The path of the field that does not fit comes before what is wrong with it.
        let decode = |value| serde_path_to_error::deserialize(value).map(Arc::new).map_err(|error| error.to_string());
        let decoded = value.and_then(decode);
        Self { meta, status, object: decoded }
    }
}

impl<T> Stored<T> {
    /// The resourceVersion as a number.
    pub fn version(&self) -> Option<u64> {
        self.meta.resource_version.as_ref()?.parse().ok()
    }
}

impl<T> PartialEq for Stored<T> {
    /// Every write of an object gives it another resourceVersion.
    fn eq(&self, other: &Self) -> bool {
        self.meta.uid == other.meta.uid && self.meta.resource_version == other.meta.resource_version
    }
}

impl<T: Clone + Send + Sync + 'static> Cached for Stored<T> {
    /// Custom resources have no owner; they are found by their namespace.
    fn owner_uid(&self) -> Option<&str> {
        self.meta.namespace.as_deref()
    }
}
