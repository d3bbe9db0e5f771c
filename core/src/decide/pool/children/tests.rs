use serde_json::json;

use super::*;

fn spec(json: Value) -> AgentPoolSpec {
    serde_json::from_value(json).unwrap()
}

fn built(spec: &AgentPoolSpec) -> Result<Value, BuildError> {
    let template = spec.template.clone().unwrap();
    let plan = Plan { name: "coder", namespace: "team", uid: "u-1", spec, template: &template, replicas: 3, key_hash: None };
    all(&plan).map(|children| children.into_iter().find(|child| child.identity.kind == "Deployment").unwrap().object)
}

fn agent() -> Value {
    json!({ "spec": { "containers": [{ "name": "agent", "image": "registry.example/coder:1.4" }] } })
}

fn variable<'a>(deployment: &'a Value, name: &str) -> Option<&'a Value> {
    let variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    variables.iter().find(|variable| variable["name"] == name)
}

#[test]
fn a_template_of_one_line_becomes_a_deployment_whose_pods_are_found() {
    let deployment = built(&spec(json!({ "template": agent() }))).unwrap();
    assert_eq!(deployment["metadata"]["name"], "coder-pool");
    assert_eq!(deployment["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["labels"][POOL_LABEL], "coder");
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], json!({ POOL_LABEL: "coder" }));
    assert_eq!(template["spec"]["serviceAccountName"], "coder-pool");
    assert_eq!(template["spec"]["automountServiceAccountToken"], false);
    assert_eq!(template["spec"]["terminationGracePeriodSeconds"], 930);
    assert_eq!(variable(&deployment, "POD_NAME").unwrap()["valueFrom"]["fieldRef"]["fieldPath"], "metadata.name");
}

#[test]
fn limits_and_batch_are_told_to_the_agents() {
    let deployment = built(&spec(json!({
        "template": agent(), "batch": { "maxTasks": 5 },
        "taskLimits": { "maxSteps": 30, "maxRetriesPerTool": 0, "timeout": "2m", "maxTokensPerTask": 7654321 },
    })))
    .unwrap();
    let value = |name| variable(&deployment, name).map(|variable| variable["value"].clone());
    assert_eq!(value("QUARTERMASTER_BATCH_MAX_TASKS"), Some(json!("5")));
    assert_eq!(value("QUARTERMASTER_TASK_MAX_STEPS"), Some(json!("30")));
    assert_eq!(value("QUARTERMASTER_TASK_MAX_RETRIES_PER_TOOL"), Some(json!("0")));
    assert_eq!(value("QUARTERMASTER_TASK_TIMEOUT_SECONDS"), Some(json!("120")));
    assert_eq!(value("QUARTERMASTER_TASK_MAX_TOOL_CALLS"), None);
    assert!(!deployment.to_string().contains("7654321"), "what the gateway holds to, agents need not know");
    assert_eq!(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 150);
}

#[test]
fn what_the_template_says_stays() {
    let deployment = built(&spec(json!({ "template": {
        "metadata": { "labels": { "app": "mine", POOL_LABEL: "other", "app.kubernetes.io/name": "mine" }, "annotations": { "a": "b" } },
        "spec": {
            "serviceAccountName": "mine", "terminationGracePeriodSeconds": 5, "enableServiceLinks": true,
            "containers": [{ "name": "agent", "image": "i:1", "env": [{ "name": "POD_NAME", "value": "own" }] }],
        },
    } })))
    .unwrap();
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"]["a"], "b");
    assert_eq!(template["metadata"]["labels"]["app"], "mine");
    assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/name"], "mine");
    assert_eq!(template["metadata"]["labels"][POOL_LABEL], "coder", "the Deployment finds its pods by it");
    assert_eq!(template["spec"]["serviceAccountName"], "mine");
    assert_eq!(template["spec"].get("automountServiceAccountToken"), None);
    assert_eq!(template["spec"]["terminationGracePeriodSeconds"], 5);
    assert_eq!(variable(&deployment, "POD_NAME").unwrap()["value"], "own");
}

#[test]
fn a_template_that_is_none_is_refused_by_field() {
    for (template, path) in [
        (json!("text"), "spec.template."),
        (json!({ "containers": [] }), "spec.template.containers"),
        (json!({ "spec": { "containers": ["agent"] } }), "spec.template.spec.containers[0]"),
        (json!({ "spec": { "containers": [{ "name": "a", "env": {} }] } }), "spec.template.spec.containers[0].env"),
        (json!({ "metadata": { "labels": [] } }), "spec.template.metadata.labels"),
    ] {
        let said = built(&spec(json!({ "template": template }))).unwrap_err().to_string();
        assert!(said.starts_with(path), "{said}");
    }
}

#[test]
fn a_pool_that_can_only_have_one_replica_keeps_no_node_from_being_drained() {
    let kinds = |spec: &AgentPoolSpec| -> Vec<String> {
        let template = spec.template.clone().unwrap();
        let plan = Plan { name: "coder", namespace: "team", uid: "u-1", spec, template: &template, replicas: 1, key_hash: None };
        all(&plan).unwrap().into_iter().map(|child| child.identity.kind).collect()
    };
    assert_eq!(kinds(&spec(json!({ "template": agent(), "maxReplicas": 1 }))), ["ServiceAccount", "Deployment"]);
    assert_eq!(kinds(&spec(json!({ "template": agent() }))), ["ServiceAccount", "Deployment", "PodDisruptionBudget"]);
}

#[test]
fn a_pool_with_a_key_gives_its_agents_what_the_sdks_read_and_another_key_makes_new_pods() {
    let spec = spec(json!({ "template": { "metadata": { "annotations": { "mine": "1" } }, "spec": { "containers": [
        { "name": "agent", "image": "i:1", "env": [{ "name": "OPENAI_BASE_URL", "value": "http://own" }] },
        { "name": "second", "image": "i:1" },
    ] } } }));
    let template = spec.template.clone().unwrap();
    let made = |key_hash: Option<&str>| {
        let plan = Plan { name: "coder", namespace: "team", uid: "u-1", spec: &spec, template: &template, replicas: 3, key_hash };
        all(&plan).unwrap().into_iter().find(|child| child.identity.kind == "Deployment").unwrap().object
    };
    let (one, other) = (made(Some("h1")), made(Some("h2")));
    assert_ne!(one["spec"]["template"], other["spec"]["template"]);
    assert_eq!(one["spec"]["template"]["metadata"]["annotations"]["mine"], "1");
    let reference = json!({ "secretKeyRef": { "name": "coder-caller", "key": "OPENAI_API_KEY" } });
    assert_eq!(variable(&one, "OPENAI_API_KEY").unwrap()["valueFrom"], reference);
    assert_eq!(variable(&one, "OPENAI_BASE_URL").unwrap()["value"], "http://own", "what the user sets stays");
    let second = one["spec"]["template"]["spec"]["containers"][1]["env"].as_array().unwrap();
    for name in caller_secret::ENTRIES {
        assert!(second.iter().any(|variable| variable["name"] == name), "{name}");
    }
    assert!(variable(&made(None), "OPENAI_API_KEY").is_none());
}
