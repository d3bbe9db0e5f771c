//! What people may do with backends, routes and budgets under deploy/user-roles.yaml, by the roles that every cluster has.

use std::time::{Duration, Instant};

use quartermaster_dev::account;
use serde_json::json;

use crate::harness::{DEADLINE, Team, small_model};

/// Verbs, the subresource of a backend they are about, and the roles that may do it.
const RIGHTS: [(&[&str], &str, &[&str]); 5] = [
    (&["get", "list", "watch"], "", &["view", "edit", "admin"]),
    (&["create", "update", "patch", "delete", "deletecollection"], "", &["edit", "admin"]),
    (&["get"], "status", &["view", "edit", "admin"]),
    (&["update", "patch"], "status", &[]),
    (&["update", "patch"], "scale", &["edit", "admin"]),
];

/// The same about routes, and about budgets.
const RIGHTS_TO_ROUTES: [(&[&str], &str, &[&str]); 4] = [
    (&["get", "list", "watch"], "", &["view", "edit", "admin"]),
    (&["create", "update", "patch", "delete", "deletecollection"], "", &["admin"]),
    (&["get"], "status", &["view", "edit", "admin"]),
    (&["update", "patch"], "status", &[]),
];

#[tokio::test(flavor = "multi_thread")]
async fn who_edits_a_namespace_writes_backends_but_not_their_status_and_who_views_it_reads_them() {
    let team = Team::new("user-roles").await;
    account::apply(&team.connection, include_str!("../../deploy/user-roles.yaml")).await.unwrap();
    let user = |role: &str| format!("--as={role}-of-{}", team.namespace);
    for role in ["view", "edit", "admin"] {
        let user = format!("--user={role}-of-{}", team.namespace);
        team.kubectl(&["create", "rolebinding", role, &format!("--clusterrole={role}"), &user]);
    }
    let may_with = |kind: &str, role: &str, verb: &str, subresource: &str| {
        let subresource = format!("--subresource={subresource}");
        team.kubectl(&["auth", "can-i", verb, &format!("{kind}.quartermaster.dev"), &subresource, &user(role)]).trim() == "yes"
    };
    let may = |role: &str, verb: &str, subresource: &str| may_with("inferencebackends", role, verb, subresource);
    // The roles are put together by a controller.
    let started = Instant::now();
    let has_others = || ["modelroutes", "tokenbudgets"].iter().all(|kind| may_with(kind, "admin", "create", ""));
    while !(may("view", "get", "") && may("edit", "create", "") && may("admin", "create", "") && has_others()) {
        assert!(started.elapsed() < DEADLINE, "the roles never get the rules");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let of = |kind: &'static str| RIGHTS_TO_ROUTES.into_iter().map(move |rights| (kind, rights));
    let of_backends = RIGHTS.into_iter().map(|rights| ("inferencebackends", rights));
    for (kind, (verbs, subresource, roles)) in of_backends.chain(of("modelroutes")).chain(of("tokenbudgets")) {
        for verb in verbs {
            let allowed = |role: &&str| may_with(kind, role, verb, subresource);
            let allowed: Vec<_> = ["view", "edit", "admin"].into_iter().filter(allowed).collect();
            assert_eq!(allowed, roles, "{verb} {kind} {subresource}");
        }
    }

    let backend = json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "metadata": { "name": "small" },
        "spec": { "vllm": small_model(json!({})) },
    });
    let create = |role: &str| team.kubectl_with_input(&["create", &user(role), "-f", "-"], &backend.to_string());
    let (code, said) = create("view");
    assert!(code != 0 && said.contains("cannot create resource"), "{said}");
    assert_eq!(create("edit").0, 0);
    let status = json!({ "status": { "endpoint": "http://elsewhere" } }).to_string();
    let said = team.kubectl(&["patch", "ib", "small", "--subresource=status", "--type=merge", "-p", &status, &user("edit")]);
    assert!(said.contains("cannot patch resource \"inferencebackends/status\""), "{said}");
    let said = team.kubectl(&["scale", "ib/small", "--replicas=2", &user("edit")]);
    assert!(said.contains("scaled"), "{said}");
    assert!(team.kubectl(&["get", "ib", "-o", "name", &user("view")]).contains("small"));
}
