//! The rules of the operator under test, for an account of its own. The benches use them as well.

use serde_json::{Value, json};

/// deploy/rbac.yaml, bound to an account of this namespace. The ClusterRoles, and the Role in the namespace default, are this
/// namespace's own, so that a test may take a right away.
pub fn rules(namespace: &str, account: &str) -> String {
    let documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("../../deploy/rbac.yaml")).unwrap();
    let own = |name: &Value| format!("{}-{namespace}", name.as_str().unwrap());
    let rename = |mut document: Value| {
        let kind = document["kind"].as_str().unwrap().to_owned();
        // That is where the API server's endpoints are.
        let in_default = document.pointer("/metadata/namespace").is_some_and(|namespace| namespace == "default");
        if document.pointer("/metadata/namespace").is_some() && !in_default {
            document["metadata"]["namespace"] = json!(namespace);
        }
        let is_shared = |kind: &Value| kind == "ClusterRole" || kind == "Role" && in_default;
        if is_shared(&document["kind"]) {
            document["metadata"]["name"] = json!(own(&document["metadata"]["name"]));
        }
        if document.pointer("/roleRef/kind").is_some_and(is_shared) {
            document["roleRef"]["name"] = json!(own(&document["roleRef"]["name"]));
        }
        if kind.ends_with("Binding") {
            document["metadata"]["name"] = json!(format!("{}-{account}", own(&document["metadata"]["name"])));
        }
        for subject in document.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            subject["namespace"] = json!(namespace);
            subject["name"] = json!(account);
        }
        serde_saphyr::to_string(&document).unwrap()
    };
    documents.into_iter().map(rename).collect::<Vec<_>>().join("---\n")
}
