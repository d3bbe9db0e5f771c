use serde_json::{Value, json};

use super::config_map::{ACCEPTED_KEY, CONFIGURATION_KEY, PLAN_KEY};
use super::*;
use crate::decide::gateway::assemble::Assembled;
use crate::decide::gateway::testing;

fn assembled() -> Assembled {
    testing::first(vec![testing::route("a", 1, json!({ "backends": [{ "name": "small" }] }))], testing::backends()).1
}

fn made(settings: &Settings, configuration: &Configuration) -> Vec<Child> {
    let assembled = assembled();
    let routes = BTreeMap::from([("a".to_owned(), "uid-of-a".to_owned()), ("bad".to_owned(), "uid-of-bad".to_owned())]);
    let gateway = Gateway {
        namespace: "team",
        routes: &routes,
        image: "registry.example/quartermaster:1.0",
        settings,
        configuration,
        operator_namespace: "quartermaster-system",
        plan: &assembled.plan,
        accepted: &assembled.accepted,
    };
    all(&gateway).unwrap()
}

fn object<'a>(children: &'a [Child], kind: &str) -> &'a Value {
    &children.iter().find(|child| child.identity.kind == kind).unwrap().object
}

#[test]
fn what_pods_refer_to_is_applied_before_them() {
    let children = made(&Settings::default(), &Configuration::default());
    let kinds: Vec<_> = children.iter().map(|child| child.identity.kind.as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "ConfigMap", "NetworkPolicy", "Service", "Deployment", "PodDisruptionBudget"]);
    for child in &children {
        assert_eq!(child.object["metadata"]["name"], child.identity.name);
        assert_eq!(child.object["metadata"]["namespace"], "team");
        assert_eq!(child.object["kind"], child.identity.kind.as_str());
        assert!(child.object["apiVersion"].is_string());
    }
}

#[test]
fn every_route_owns_every_object_and_none_controls_it() {
    for child in made(&Settings::default(), &Configuration::default()) {
        let owners = child.object["metadata"]["ownerReferences"].as_array().unwrap();
        let uids: Vec<_> = owners.iter().map(|owner| owner["uid"].as_str().unwrap()).collect();
        assert_eq!(uids, ["uid-of-a", "uid-of-bad"], "{}", child.identity.kind);
        for owner in owners {
            assert_eq!(owner["kind"], "ModelRoute");
            assert!(owner.get("controller").is_none() && owner.get("blockOwnerDeletion").is_none(), "{owner}");
        }
    }
}

#[test]
fn the_pods_are_those_that_service_policy_and_budget_select() {
    let children = made(&Settings::default(), &Configuration::default());
    let selector = json!({ GATEWAY_LABEL: NAME });
    let deployment = object(&children, "Deployment");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], selector);
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"][GATEWAY_LABEL], NAME);
    assert_eq!(object(&children, "Service")["spec"]["selector"], selector);
    assert_eq!(object(&children, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"], selector);
    assert_eq!(object(&children, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], selector);
}

#[test]
fn without_network_policies_none_is_wanted() {
    let mut configuration = Configuration::default();
    configuration.network_policies.enabled = false;
    let children = made(&Settings::default(), &configuration);
    assert!(!children.iter().any(|child| child.identity.kind == "NetworkPolicy"));
}

#[test]
fn a_deployment_without_settings_is_what_is_documented() {
    let children = made(&Settings::default(), &Configuration::default());
    insta::assert_snapshot!(serde_json::to_string_pretty(&object(&children, "Deployment")["spec"]).unwrap());
}

#[test]
fn the_policy_admits_the_namespaces_pods_to_calls_and_the_operator_to_the_exchange() {
    let children = made(&Settings::default(), &Configuration::default());
    let spec = &object(&children, "NetworkPolicy")["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress"]));
    let rules = spec["ingress"].as_array().unwrap();
    let of = |port: u16| rules.iter().find(|rule| rule["ports"][0]["port"] == port).unwrap()["from"].clone();
    assert_eq!(of(4000), json!([{ "podSelector": {} }]));
    let operator = json!({ "matchLabels": { "kubernetes.io/metadata.name": "quartermaster-system" } });
    assert_eq!(of(4001), json!([{ "namespaceSelector": operator }]));
    assert_eq!(of(8080), json!([{ "namespaceSelector": {} }]));
}

#[test]
fn settings_shape_the_pods_and_a_single_replica_has_no_disruption_budget() {
    let data = [
        ("replicas", "1"),
        ("resources", "{limits: {memory: 1Gi}}"),
        ("imagePullSecrets", "[{name: registry}]"),
        ("nodeSelector", "{pool: system}"),
        ("tolerations", "[{key: system, operator: Exists}]"),
        ("podAnnotations", "{a: b}"),
    ];
    let data = data.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let children = made(&Settings::read(&data).unwrap(), &Configuration::default());
    assert!(!children.iter().any(|child| child.identity.kind == "PodDisruptionBudget"));
    let spec = &object(&children, "Deployment")["spec"];
    assert_eq!(spec["replicas"], 1);
    let template = &spec["template"];
    assert_eq!(template["metadata"]["annotations"]["a"], "b");
    assert_eq!(template["spec"]["imagePullSecrets"][0]["name"], "registry");
    assert_eq!(template["spec"]["nodeSelector"]["pool"], "system");
    assert_eq!(template["spec"]["tolerations"][0]["key"], "system");
    assert_eq!(template["spec"]["containers"][0]["resources"], json!({ "limits": { "memory": "1Gi" } }));
}

#[test]
fn the_config_map_is_read_back_as_it_was_written() {
    let children = made(&Settings::default(), &Configuration::default());
    let data: BTreeMap<String, String> = serde_json::from_value(object(&children, "ConfigMap")["data"].clone()).unwrap();
    let assembled = assembled();
    assert_eq!(serde_json::from_str::<Plan>(&data[PLAN_KEY]).unwrap(), assembled.plan);
    assert_eq!(config_map::accepted(&data).unwrap(), assembled.accepted);
    assert_eq!(config_map::accepted(&BTreeMap::new()).unwrap(), BTreeMap::new());
    let wrong = BTreeMap::from([(ACCEPTED_KEY.to_owned(), "{\"a\": 1}".to_owned())]);
    assert!(config_map::accepted(&wrong).unwrap_err().to_string().contains(ACCEPTED_KEY));
}

#[test]
fn the_gateway_has_what_it_needs_of_the_operators_configuration_and_another_one_makes_new_pods() {
    let mut configuration = Configuration::default();
    configuration.watch_namespaces.push("team".into());
    let annotation = |children: &[Child]| object(children, "Deployment")["spec"]["template"]["metadata"]["annotations"].clone();
    let data = |children: &[Child]| object(children, "ConfigMap")["data"][CONFIGURATION_KEY].as_str().unwrap().to_owned();
    let before = made(&Settings::default(), &configuration);
    let read: Configuration = serde_json::from_str(&data(&before)).unwrap();
    assert_eq!(read, Configuration::default(), "what is none of the gateway's stays with the operator");
    let url = "http://proxy.example:3128".to_owned();
    configuration.egress_proxy = Some(crate::api::configuration::EgressProxy { url, no_proxy: Vec::new() });
    let after = made(&Settings::default(), &configuration);
    assert_eq!(serde_json::from_str::<Configuration>(&data(&after)).unwrap().egress_proxy, configuration.egress_proxy);
    assert_ne!(annotation(&before), annotation(&after));
    configuration.watch_namespaces.clear();
    assert_eq!(annotation(&after), annotation(&made(&Settings::default(), &configuration)));
}
