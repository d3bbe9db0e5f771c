//! Calls to the API server: each with a deadline, and with an error that says what was being done to what.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::children::ChildKind;
use super::error::CallError;
use super::key::ObjectKey;
use super::leadership::Leadership;

/// Longest time that one call may take. The API server itself ends requests after 60 s; a call that has no answer by now has
/// no good one.
const CALL_DEADLINE: Duration = Duration::from_secs(15);

/// The calls that the driver makes.
#[derive(Clone)]
pub struct Calls {
    client: Client,
    leadership: Arc<Leadership>,
}

impl Calls {
    /// Calls over this client, made only while this process leads.
    pub fn new(client: Client, leadership: Arc<Leadership>) -> Self {
        Self { client, leadership }
    }

    /// Whether this process leads at this very moment. Whoever calls past this type has to ask before each call.
    pub fn leads(&self) -> bool {
        self.leadership.leads()
    }

    /// An object as it is stored, or `None` when there is none.
    pub async fn read(&self, kind: ChildKind, key: &ObjectKey) -> Result<Option<DynamicObject>, CallError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource());
        self.call("read", kind.kind, &key.name, api.get_opt(&key.name)).await
    }

    /// The metadata of a child, or `None` when there is none.
    pub async fn metadata(&self, kind: ChildKind, key: &ObjectKey) -> Result<Option<PartialObjectMeta<DynamicObject>>, CallError> {
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource());
        self.call("read", kind.kind, &key.name, api.get_opt(&key.name)).await
    }

    /// Applies a child, forced, under the field manager. With a uid, nothing is applied to another object of that name.
    pub async fn apply(
        &self,
        kind: ChildKind,
        key: &ObjectKey,
        manager: &str,
        object: &Value,
        uid: Option<&str>,
    ) -> Result<DynamicObject, CallError> {
        let mut body = object.clone();
        if let (Some(uid), Some(Value::Object(metadata))) = (uid, body.get_mut("metadata")) {
            metadata.insert("uid".to_owned(), json!(uid));
        }
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource());
        let parameters = PatchParams::apply(manager).force();
        self.call("apply", kind.kind, &key.name, api.patch(&key.name, &parameters, &Patch::Apply(&body))).await
    }

    /// Patches an object of somebody else, or a subresource of it. Returns its new version; none where it is gone, and with it
    /// what was to be changed.
    pub async fn patch(
        &self,
        kind: ChildKind,
        key: &ObjectKey,
        manager: &str,
        subresource: Option<&str>,
        patch: &Value,
    ) -> Result<Option<u64>, CallError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource());
        let parameters = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(patch);
        let patched = match subresource {
            Some(subresource) => {
                self.call("patch", kind.kind, &key.name, api.patch_subresource(subresource, &key.name, &parameters, &patch)).await
            }
            None => self.call("patch", kind.kind, &key.name, api.patch(&key.name, &parameters, &patch)).await,
        };
        match patched {
            Ok(object) => Ok(object.resource_version().and_then(|version| version.parse().ok())),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a child, if it is still the one with that uid. One that is gone counts as deleted.
    pub async fn delete(&self, kind: ChildKind, key: &ObjectKey, uid: &str) -> Result<(), CallError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource());
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::background()
        };
        match self.call("delete", kind.kind, &key.name, api.delete(&key.name, &parameters)).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Patches a status by merge patch, if the object still has that resourceVersion. Returns the new one.
    pub async fn patch_status(
        &self,
        kind: ChildKind,
        key: &ObjectKey,
        manager: &str,
        status: &Value,
        resource_version: &str,
    ) -> Result<Option<u64>, CallError> {
        let body = json!({ "metadata": { "resourceVersion": resource_version }, "status": status });
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &kind.resource());
        let parameters = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(&body);
        let call = api.patch_status(&key.name, &parameters, &patch);
        let written = self.call("write the status of", kind.kind, &key.name, call).await?;
        Ok(written.resource_version().and_then(|version| version.parse().ok()))
    }

    /// The client, for calls that [`Self::call`] makes.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Makes a call, if this process leads, and within the time that one has. `doing` and `name` are for the error.
    pub(super) async fn call<T>(
        &self,
        doing: &'static str,
        kind: &'static str,
        name: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        let what = || format!("{kind} {name}");
        // A process that was suspended may have lost the lease without having noticed yet.
        if !self.leads() {
            return Err(CallError::NotLeader { verb: doing, what: what() });
        }
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(CallError::Call { verb: doing, what: what(), source: Box::new(source) }),
            Err(_) => Err(CallError::Timeout { verb: doing, what: what(), after: CALL_DEADLINE }),
        }
    }
}
