//! The kinds that controllers make, and what the driver keeps of each object to tell whether somebody changed it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use quartermaster_core::decide::backend::facts::DeploymentFacts;
use serde_json::Value;

use super::cache::Cached;

/// A kind that a controller makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildKind {
    /// The kind.
    pub kind: &'static str,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The plural, as in paths and in RBAC.
    pub plural: &'static str,
    /// Whether its watch delivers whole objects; else only their metadata.
    pub watched_whole: bool,
}

impl ChildKind {
    /// For calls with dynamic types.
    pub fn resource(&self) -> ApiResource {
        let api_version = if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) };
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// Every kind that some controller makes.
pub const DEPLOYMENT: ChildKind =
    ChildKind { kind: "Deployment", group: "apps", version: "v1", plural: "deployments", watched_whole: true };
/// Services.
pub const SERVICE: ChildKind = ChildKind { kind: "Service", group: "", version: "v1", plural: "services", watched_whole: false };
/// Secrets.
pub const SECRET: ChildKind = ChildKind { kind: "Secret", group: "", version: "v1", plural: "secrets", watched_whole: false };
/// ServiceAccounts.
pub const SERVICE_ACCOUNT: ChildKind =
    ChildKind { kind: "ServiceAccount", group: "", version: "v1", plural: "serviceaccounts", watched_whole: false };
/// PodDisruptionBudgets.
pub const POD_DISRUPTION_BUDGET: ChildKind =
    ChildKind { kind: "PodDisruptionBudget", group: "policy", version: "v1", plural: "poddisruptionbudgets", watched_whole: false };

/// ConfigMaps.
pub const CONFIG_MAP: ChildKind =
    ChildKind { kind: "ConfigMap", group: "", version: "v1", plural: "configmaps", watched_whole: false };
/// NetworkPolicies.
pub const NETWORK_POLICY: ChildKind =
    ChildKind { kind: "NetworkPolicy", group: "networking.k8s.io", version: "v1", plural: "networkpolicies", watched_whole: false };

/// StatefulSets, which no controller makes.
pub const STATEFUL_SET: ChildKind =
    ChildKind { kind: "StatefulSet", group: "apps", version: "v1", plural: "statefulsets", watched_whole: true };
/// Pods, which no controller makes itself.
pub const POD: ChildKind = ChildKind { kind: "Pod", group: "", version: "v1", plural: "pods", watched_whole: true };

/// The beginning of the API version of our kinds.
const OUR_GROUP: &str = "quartermaster.dev/";

/// In place of the uid of an owner: all objects of one of our kinds in a namespace, which own something together. None of them is its
/// controller, and it goes with the last.
pub fn shared_owner(kind: &str, namespace: &str) -> String {
    format!("every {kind} of {namespace}")
}

/// What is kept of a child: whose it is, and whether it is still what was applied.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildFacts {
    /// The object's uid.
    pub uid: String,
    /// The uid of its controlling owner; of what several of our objects own together, [`shared_owner`].
    pub owner_uid: Option<String>,
    /// The kind and the name of its controlling owner, or of one of those that own it together.
    pub owner: Option<(String, String)>,
    /// It is being deleted.
    pub terminating: bool,
    /// Differs when somebody changed what was applied.
    pub fingerprint: u64,
    /// Annotations of ours, of what only the metadata is watched of.
    pub annotations: BTreeMap<String, String>,
    /// What observe reads of a Deployment.
    pub deployment: Option<Arc<DeploymentFacts>>,
}

impl ChildFacts {
    /// What is kept of an object with this metadata, and with this spec where its watch delivers whole objects.
    ///
    /// The spec itself tells best of its changes. Without it, the generation does, where the API server counts generations;
    /// elsewhere the resourceVersion is all there is. Annotations of the Deployment controller are not ours, although a
    /// Deployment's generation counts them.
    pub fn of(meta: &ObjectMeta, spec: Option<&Value>) -> Self {
        let mut hasher = DefaultHasher::new();
        let version = spec.map(Value::to_string).or_else(|| meta.generation.map(|generation| generation.to_string()));
        match version {
            Some(version) => {
                version.hash(&mut hasher);
                meta.labels.hash(&mut hasher);
                for (key, value) in
                    meta.annotations.iter().flatten().filter(|(key, _)| !key.starts_with("deployment.kubernetes.io/"))
                {
                    (key, value).hash(&mut hasher);
                }
                for owner in meta.owner_references.iter().flatten() {
                    (&owner.uid, owner.controller).hash(&mut hasher);
                }
            }
            None => meta.resource_version.hash(&mut hasher),
        }
        let ours = |(key, _): &(&String, &String)| spec.is_none() && key.starts_with("quartermaster.dev/");
        let owners = || meta.owner_references.iter().flatten();
        let controller = owners().find(|owner| owner.controller == Some(true));
        let shared = owners().find(|owner| controller.is_none() && owner.api_version.starts_with(OUR_GROUP));
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = |owner: &OwnerReference| owner.uid.clone();
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            owner_uid: controller.map(uid).or_else(|| shared.map(|owner| shared_owner(&owner.kind, namespace))),
            owner: controller.or(shared).map(|owner| (owner.kind.clone(), owner.name.clone())),
            terminating: meta.deletion_timestamp.is_some(),
            fingerprint: hasher.finish(),
            annotations: meta.annotations.iter().flatten().filter(ours).map(|(key, value)| (key.clone(), value.clone())).collect(),
            deployment: None,
        }
    }
}

impl Cached for ChildFacts {
    fn owner_uid(&self) -> Option<&str> {
        self.owner_uid.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(generation: i64, resource_version: &str, annotation: (&str, &str)) -> ObjectMeta {
        ObjectMeta {
            generation: Some(generation),
            resource_version: Some(resource_version.into()),
            annotations: Some(BTreeMap::from([(annotation.0.into(), annotation.1.into())])),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_status_write_or_a_new_revision_does_not_look_like_a_change() {
        let spec = json!({ "replicas": 1 });
        let before = ChildFacts::of(&deployment(3, "10", ("deployment.kubernetes.io/revision", "1")), Some(&spec));
        let after = ChildFacts::of(&deployment(4, "11", ("deployment.kubernetes.io/revision", "2")), Some(&spec));
        assert_eq!(before, after);
    }

    #[test]
    fn a_changed_spec_or_annotation_looks_like_a_change() {
        let before = ChildFacts::of(&deployment(3, "10", ("team", "a")), None);
        assert_ne!(before, ChildFacts::of(&deployment(4, "11", ("team", "a")), None));
        assert_ne!(before, ChildFacts::of(&deployment(3, "11", ("team", "b")), None));
        let whole = |replicas: u32| ChildFacts::of(&deployment(3, "10", ("team", "a")), Some(&json!({ "replicas": replicas })));
        assert_ne!(whole(1), whole(2));
    }

    #[test]
    fn without_a_generation_every_write_looks_like_a_change() {
        let secret =
            |version: &str| ChildFacts::of(&ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() }, None);
        assert_ne!(secret("1"), secret("2"));
    }
}
