//! What the children of all kinds have in common: whose they are, and how their pods may be evicted.

use std::collections::BTreeMap;

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::{GROUP, VERSION};

/// The object that children are made for.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: &'a str,
    /// Its namespace, which is that of the children.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
}

/// Metadata of a child: name, namespace, labels and owner.
pub fn metadata(owner: Owner<'_>, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(owner.namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: owner.kind.to_owned(),
            name: owner.name.to_owned(),
            uid: owner.uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}

/// Metadata of an object that several own together: it goes with the last of them. None of them is its controller.
pub fn shared_metadata(namespace: &str, owners: &[Owner<'_>], name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    let reference = |owner: &Owner<'_>| OwnerReference {
        api_version: format!("{GROUP}/{VERSION}"),
        kind: owner.kind.to_owned(),
        name: owner.name.to_owned(),
        uid: owner.uid.to_owned(),
        controller: None,
        // One of several owners does not wait for the object.
        block_owner_deletion: None,
    };
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        owner_references: Some(owners.iter().map(reference).collect()),
        ..ObjectMeta::default()
    }
}

/// A PodDisruptionBudget by which so many of these pods may be evicted at a time.
pub fn disruption_budget(metadata: ObjectMeta, selector: BTreeMap<String, String>, most: IntOrString) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata,
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(LabelSelector { match_labels: Some(selector), ..LabelSelector::default() }),
            max_unavailable: Some(most),
            // A pod that never became ready serves nobody, and must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
