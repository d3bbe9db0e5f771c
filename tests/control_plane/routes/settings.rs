//! What the users of a namespace set of its gateway.

use quartermaster_dev::local_node::node;
use serde_json::{Value, json};

use super::harness::{answered_by, message, on_local_node, server, to, with};
use crate::harness::{Team, condition, resource};

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_of_a_namespace_shape_its_gateway_and_bad_ones_leave_the_last_good_ones() {
    let (team, server) = (Team::new("gateway-settings").await, server().await);
    let _operator = team.operator_of_routes().await;
    team.apply("one", answered_by(&server, &[])).await;
    team.apply_route("router", to(&["one"])).await;
    let budgets = team.api(&resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"));
    let gateway = "quartermaster-gateway";
    let usual = team.until_in(&team.deployments(), gateway, "exist", Value::is_object).await;
    assert_eq!(usual["spec"]["replicas"], 2, "one can end without a call that fails");
    team.until_in(&budgets, gateway, "exist", Value::is_object).await;

    let on_local = |more: Value| with(on_local_node(3), more);
    team.set_gateway(on_local(json!({
        "resources": "requests: {cpu: 50m, memory: 64Mi}\nlimits: {memory: 256Mi}",
        "podAnnotations": "{example.com/scrape: \"true\"}",
        "imagePullSecrets": "[{name: registry}]",
    })));
    let is_set = |deployment: &Value| {
        let pod = &deployment["spec"]["template"];
        let resources = &pod["spec"]["containers"][0]["resources"];
        deployment["spec"]["replicas"] == 3
            && *resources == json!({ "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } })
            && pod["metadata"]["annotations"]["example.com/scrape"] == "true"
            && pod["spec"]["imagePullSecrets"] == json!([{ "name": "registry" }])
            && pod["spec"]["nodeSelector"] == json!({ "kubernetes.io/hostname": node::NAME })
    };
    team.until_in(&team.deployments(), gateway, "be as it is set", is_set).await;
    team.until_programmed("router").await;

    // Under settings that nobody understands the plan goes on, and the pods stay.
    team.set_gateway(json!({ "replicas": "many" }));
    team.apply_route("later", to(&["one"])).await;
    for route in ["router", "later"] {
        let told = team.until_route_says(route, "Programmed", "True", "InvalidGatewaySettings").await;
        for part in ["data.replicas is no number of replicas", "write a whole number from 1 to 100", "its last good form stays"] {
            assert!(message(&told, "Programmed").contains(part), "{told:#}");
        }
    }
    team.until_in(&team.deployments(), gateway, "be as the last good settings say", is_set).await;
    team.set_gateway(on_local(json!({ "tolerance": "3" })));
    team.until_route("router", "the setting that there is not", |route| {
        condition(route, "Programmed").is_some_and(|one| one["message"].as_str().unwrap().contains("data.tolerance is no setting"))
    })
    .await;

    team.set_gateway(json!({ "replicas": "1" }));
    let single = |deployment: &Value| deployment["spec"]["replicas"] == 1;
    team.until_in(&team.deployments(), gateway, "have one replica", single).await;
    team.until_in(&budgets, gateway, "go: it would keep nodes from being drained", Value::is_null).await;
    team.kubectl(&["delete", "configmap", gateway]);
    team.until_in(&team.deployments(), gateway, "be as usual", |deployment| deployment["spec"] == usual["spec"]).await;
}
