//! What is rendered is what the repository has elsewhere: rules, definitions, version.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::helm::{DEFINITIONS, Helm, IMAGE, OPERATOR, documents, one, read, root};

/// Objects by kind, namespace and name, without the labels that every object of a chart has.
fn by_name(objects: Vec<Value>) -> BTreeMap<[String; 3], Value> {
    let named = |mut object: Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = object["metadata"].as_object_mut().unwrap();
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|key, _| !key.starts_with("app.kubernetes.io/") && !key.starts_with("helm.sh/"));
            if labels.is_empty() {
                metadata.remove("labels");
            }
        }
        let metadata = &object["metadata"];
        ([text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])], object)
    };
    objects.into_iter().map(named).collect()
}

fn is_about_rights(object: &Value) -> bool {
    object["kind"].as_str().unwrap().ends_with("Role") || object["kind"].as_str().unwrap().ends_with("RoleBinding")
}

#[test]
fn the_rights_are_those_of_deploy_object_by_object() {
    let mut rendered = Helm::alone().template(OPERATOR, &["--set", IMAGE]);
    rendered.retain(is_about_rights);
    let mut stored = documents(&read("deploy/rbac.yaml"));
    stored.extend(documents(&read("deploy/user-roles.yaml")));
    assert!(stored.len() > 8, "{} objects", stored.len());
    assert_eq!(by_name(rendered), by_name(stored));
}

#[test]
fn another_release_has_the_same_rules_under_its_own_name_for_its_own_account() {
    let helm = Helm::alone();
    let rendered = helm.run(&["template", "blue", OPERATOR, "--namespace", "inference", "--set", IMAGE]);
    let rendered = by_name(documents(&rendered).into_iter().filter(is_about_rights).collect());
    let mut stored = documents(&read("deploy/rbac.yaml"));
    stored.extend(documents(&read("deploy/user-roles.yaml")));
    let renamed = |mut object: Value| {
        let own = |name: &Value| json!(name.as_str().unwrap().replace("quartermaster", "blue-quartermaster"));
        object["metadata"]["name"] = own(&object["metadata"]["name"]);
        if object["metadata"]["namespace"] == "quartermaster-system" {
            object["metadata"]["namespace"] = json!("inference");
        }
        if object["roleRef"].is_object() {
            object["roleRef"]["name"] = own(&object["roleRef"]["name"]);
            object["subjects"] = json!([{"kind": "ServiceAccount", "name": "blue-quartermaster", "namespace": "inference"}]);
        }
        object
    };
    assert_eq!(rendered, by_name(stored.into_iter().map(renamed).collect()));
}

#[test]
fn with_namespaces_to_watch_the_role_is_bound_in_each_of_them_and_nowhere_else() {
    let watched = ["--set", IMAGE, "--set", "configuration.watchNamespaces={team-a,team-b}"];
    let helm = Helm::alone();
    let rendered = by_name(helm.template(OPERATOR, &watched).into_iter().filter(is_about_rights).collect());
    let mut expected = by_name(helm.template(OPERATOR, &["--set", IMAGE]).into_iter().filter(is_about_rights).collect());
    let key = |kind: &str, namespace: &str| [kind, namespace, "quartermaster"].map(str::to_owned);
    let everywhere = expected.remove(&key("ClusterRoleBinding", "")).unwrap();
    for namespace in ["team-a", "team-b"] {
        let mut binding = everywhere.clone();
        binding["kind"] = json!("RoleBinding");
        binding["metadata"]["namespace"] = json!(namespace);
        expected.insert(key("RoleBinding", namespace), binding);
    }
    assert_eq!(rendered, expected);
}

#[test]
fn rights_and_roles_that_are_not_wanted_are_left_out() {
    let helm = Helm::alone();
    let kinds = |arguments: &[&str]| {
        let rendered = helm.template(OPERATOR, &[&["--set", IMAGE], arguments].concat());
        let rights = rendered.into_iter().filter(is_about_rights);
        rights.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let without = |roles: &str| kinds(&["--set", &format!("rbac.create=false,{roles}")]);
    for only in ["view", "edit", "routes", "budgets"] {
        let others = ["view", "edit", "routes", "budgets"].into_iter().filter(|role| *role != only);
        let others: Vec<String> = others.map(|role| format!("userRoles.{role}=false")).collect();
        assert_eq!(without(&others.join(",")), [format!("quartermaster-{only}")]);
    }
}

#[test]
fn the_rules_for_prometheus_are_those_of_deploy_where_somebody_wants_them() {
    let helm = Helm::alone();
    assert!(helm.template(OPERATOR, &["--set", IMAGE]).iter().all(|object| object["kind"] != "PrometheusRule"));
    let wanted = ["--set", IMAGE, "--set", "prometheusRule.enabled=true,prometheusRule.labels.release=monitoring"];
    let rule = one(&helm.template(OPERATOR, &wanted), "PrometheusRule");
    let stored: Value = serde_saphyr::from_str(&read("deploy/prometheus-rules.yaml")).unwrap();
    assert_eq!(rule["spec"], stored);
    let metadata = &rule["metadata"];
    assert_eq!((&metadata["name"], &metadata["namespace"]), (&json!("quartermaster"), &json!("quartermaster-system")));
    let labels = &metadata["labels"];
    assert_eq!((&labels["release"], &labels["app.kubernetes.io/name"]), (&json!("monitoring"), &json!("quartermaster")));

    // What the definition of PrometheusRule knows; the API server would drop anything else, or refuse it.
    let of_a_rule = ["record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"];
    let groups = stored["groups"].as_array().unwrap();
    assert!(!groups.is_empty());
    for group in groups {
        assert!(group.as_object().unwrap().keys().all(|key| ["name", "interval", "rules"].contains(&key.as_str())), "{group}");
        for rule in group["rules"].as_array().unwrap() {
            assert!(rule.as_object().unwrap().keys().all(|key| of_a_rule.contains(&key.as_str())), "{rule}");
        }
    }
}

#[test]
fn the_definitions_are_those_of_crds_and_are_kept_when_the_release_goes() {
    let mut stored = Vec::new();
    for entry in fs::read_dir(root().join("crds")).unwrap() {
        stored.extend(documents(&fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    for definition in &mut stored {
        definition["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
    }
    stored.iter_mut().for_each(write_whole_numbers_alike);
    let rendered = by_name(Helm::alone().template(DEFINITIONS, &[]));
    assert!(!rendered.is_empty());
    assert_eq!(rendered, by_name(stored));
}

/// crds/ has `1.0` where Helm writes `1`.
fn write_whole_numbers_alike(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers_alike),
        Value::Object(members) => members.values_mut().for_each(write_whole_numbers_alike),
        Value::Number(number) if number.is_f64() => {
            if let Some(whole) = number.to_string().strip_suffix(".0").and_then(|digits| digits.parse::<i64>().ok()) {
                *value = json!(whole);
            }
        }
        _ => {}
    }
}

/// The charts have links to files outside of them, which a package holds as files.
#[test]
fn a_package_renders_what_its_chart_renders() {
    let helm = Helm::alone();
    let operator = ["--set", IMAGE, "--set", "prometheusRule.enabled=true"];
    for (chart, arguments) in [(OPERATOR, &operator as &[&str]), (DEFINITIONS, &[])] {
        let directory = helm.directory.display().to_string();
        helm.run(&["package", chart, "--destination", &directory]);
        let name = chart.rsplit('/').next().unwrap();
        let package = helm.directory.join(format!("{name}-{}.tgz", env!("CARGO_PKG_VERSION")));
        assert_eq!(helm.template(&package.display().to_string(), arguments), helm.template(chart, arguments), "{chart}");
    }
}

#[test]
fn the_charts_have_the_version_of_the_operator_and_nothing_that_lint_complains_of() {
    let helm = Helm::alone();
    for chart in [OPERATOR, DEFINITIONS] {
        let described: Value = serde_saphyr::from_str(&read(&format!("{chart}/Chart.yaml"))).unwrap();
        assert_eq!(described["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(described["appVersion"], env!("CARGO_PKG_VERSION"));
        helm.run(&["lint", "--strict", chart]);
    }
    let deployment = one(&helm.template(OPERATOR, &["--set", IMAGE]), "Deployment");
    let image = format!("quartermaster:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], image.as_str());
}
