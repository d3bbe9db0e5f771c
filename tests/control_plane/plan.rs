//! `quartermaster plan` prints what the operator applies.

use serde_json::{Value, json};

use crate::harness::{Team, small_model};
use crate::operator::quartermaster;
use crate::probes::is_part_of;

/// The plan for backends, with the nodes of the control plane.
fn plan(team: &Team, backends: &str) -> String {
    quartermaster(&["plan", "--current-context", "--output", "json", "-"], backends, Some(team.connection.kubeconfig()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_what_the_operator_applies() {
    let team = Team::new("plan").await;
    let stored = team.apply("small", json!({ "vllm": small_model(json!({})), "replicas": 2 })).await;
    let printed = plan(&team, &serde_json::to_string(&stored).unwrap());
    let (code, said) = team.kubectl_with_input(&["apply", "--dry-run=server", "-f", "-"], &printed);
    assert_eq!(code, 0, "{said}");

    let operator = team.operator().await;
    team.until_ready("small", "True", "Available").await;
    let kinds = "serviceaccounts,secrets,networkpolicies,services,deployments,poddisruptionbudgets";
    let applied = team.kubectl(&["get", kinds, "-o", "json"]);
    let applied: Value = serde_json::from_str(&applied).unwrap();
    let uid = json!(stored.metadata.uid);
    let ours = |object: &&Value| object.pointer("/metadata/ownerReferences/0/uid") == Some(&uid);
    let applied: Vec<&Value> = applied["items"].as_array().unwrap().iter().filter(ours).collect();

    let planned: Value = serde_json::from_str(&printed).unwrap();
    let planned = planned["items"].as_array().unwrap();
    assert_eq!(planned.len(), 6);
    assert_eq!(applied.len(), planned.len());
    for object in planned {
        let same = |other: &&&Value| other["kind"] == object["kind"] && other["metadata"]["name"] == object["metadata"]["name"];
        let applied = applied.iter().find(same).unwrap_or_else(|| panic!("{object:#} was not applied"));
        let mut object = object.clone();
        if object["kind"] == "Secret" {
            // The key is drawn by the operator, and nobody's to see.
            let keys = object.as_object_mut().unwrap().remove("stringData").unwrap();
            assert_eq!(
                keys.as_object().unwrap().keys().collect::<Vec<_>>(),
                applied["data"].as_object().unwrap().keys().collect::<Vec<_>>()
            );
        }
        if object["kind"] == "NetworkPolicy" {
            // Where the operator will be is nothing that the command knows; it takes the namespace of the rules that are shipped.
            let operator = |policy: &Value| policy["spec"]["ingress"][0]["from"][1].clone();
            assert_eq!(
                operator(&object)["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
                "quartermaster-system"
            );
            object["spec"]["ingress"][0]["from"][1] = operator(applied);
        }
        assert!(is_part_of(&object, applied), "{object:#}\n{applied:#}");
    }
    // What was decided from is recorded with the time of the decision, which `replay` takes.
    let recorded = operator.get(&format!("debug/observations/InferenceBackend/{}/small", team.namespace)).await.unwrap();
    let recorded: Value = serde_json::from_str(&recorded).unwrap();
    let at: jiff::Timestamp = serde_json::from_value(recorded["observedAt"].clone()).unwrap();
    assert!(at <= jiff::Timestamp::now(), "{at}");
}
