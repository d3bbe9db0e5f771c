//! The Secrets of a gateway: the keys of backends, and the certificate of the exchange. What stands in them is known to whoever can
//! read Secrets, and is no part of an observation.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use secrecy::{ExposeSecret as _, SecretString};

use super::labels;
use crate::api::ModelRoute;
use crate::decide::decision::{ApplyMode, Child, ChildIdentity};
use crate::decide::owned::{self, Owner};

/// The routes that own the objects of their namespace's gateway, by name, with their uids: those that are not being deleted.
pub fn owners(routes: &[ModelRoute]) -> BTreeMap<String, String> {
    let alive = routes.iter().filter(|route| route.metadata.deletion_timestamp.is_none());
    alive.filter_map(|route| Some((route.metadata.name.clone()?, route.metadata.uid.clone()?))).collect()
}

/// A Secret with these entries, which these routes own together.
///
/// # Errors
///
/// None that depends on the entries.
pub fn build(
    namespace: &str,
    owners: &BTreeMap<String, String>,
    name: &str,
    entries: &BTreeMap<String, SecretString>,
) -> Result<Child, serde_json::Error> {
    let owner = |(name, uid): (&String, &String)| (name.clone(), uid.clone());
    let routes: Vec<(String, String)> = owners.iter().map(owner).collect();
    let owners: Vec<Owner<'_>> = routes.iter().map(|(name, uid)| Owner { kind: "ModelRoute", name, namespace, uid }).collect();
    let data = entries.iter().map(|(entry, value)| (entry.clone(), ByteString(value.expose_secret().as_bytes().to_vec())));
    let secret = Secret {
        metadata: owned::shared_metadata(namespace, &owners, name.to_owned(), labels()),
        type_: Some("Opaque".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    };
    let identity = ChildIdentity { kind: "Secret".to_owned(), name: name.to_owned() };
    Ok(Child { identity, object: serde_json::to_value(&secret)?, mode: ApplyMode::Apply })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_belongs_to_all_routes_that_stay_and_to_none_alone() {
        let route = |name: &str, deleted: bool| -> ModelRoute {
            let deleted = deleted.then_some("2026-01-01T00:00:00Z");
            let metadata = json!({ "name": name, "namespace": "team", "uid": name, "deletionTimestamp": deleted });
            serde_json::from_value(json!({
                "apiVersion": "quartermaster.dev/v1alpha1", "kind": "ModelRoute", "metadata": metadata, "spec": {},
            }))
            .unwrap()
        };
        let owners = owners(&[route("a", false), route("b", true), route("c", false)]);
        let entries = BTreeMap::from([("first.key".to_owned(), SecretString::from("x"))]);
        let child = build("team", &owners, "quartermaster-gateway", &entries).unwrap();
        let references = child.object["metadata"]["ownerReferences"].as_array().unwrap();
        let names: Vec<_> = references.iter().map(|owner| owner["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "c"]);
        assert!(references.iter().all(|owner| owner.get("controller").is_none()));
        assert_eq!(child.object["data"], json!({ "first.key": "eA==" }));
    }
}
