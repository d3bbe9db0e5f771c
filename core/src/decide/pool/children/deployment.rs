//! The Deployment of a pool: the user's template with what the operator adds to it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{BuildError, Plan, caller_secret, child_name, labels, metadata, selector};
use crate::api::agent_pool::TaskLimits;
use crate::decide::decision::{ApplyMode, Child, ChildIdentity};
use crate::decide::pool::caller::KEY_HASH;
use crate::decide::short_hash;

/// The annotation that tells which template the Deployment was last given, whatever the API server made of it.
pub const TEMPLATE_HASH: &str = "quartermaster.dev/template-hash";
/// Old ReplicaSets that are kept for `kubectl rollout undo`.
const REVISION_HISTORY_LIMIT: u32 = 3;
/// Seconds that a task takes at most where the spec is silent.
const TASK_SECONDS: u64 = 900;
/// Seconds that an agent has after its task to put it down.
const AFTER_TASK_SECONDS: u64 = 30;

/// The Deployment `<pool>-pool`. What the user's template says stays; the labels by which pods are found, the environment that
/// tells agents of batch and limits, and the grace period are added where it says nothing.
///
/// # Errors
///
/// A timeout that cannot be read, or a template that is no pod template.
pub fn build(plan: &Plan<'_>) -> Result<Child, BuildError> {
    let name = child_name(plan.name);
    let mut metadata = serde_json::to_value(metadata(plan)).map_err(|source| BuildError::Serialize {
        kind: "Deployment",
        name: name.clone(),
        source,
    })?;
    // The API server fills these in; as null they would only be in the way.
    metadata.as_object_mut().into_iter().for_each(|members| members.retain(|_, member| !member.is_null()));
    let template = template(plan)?;
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert("annotations".to_owned(), json!({ TEMPLATE_HASH: short_hash::of(template.to_string()) }));
    }
    let object = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": plan.replicas,
            "selector": { "matchLabels": selector(plan.name) },
            "revisionHistoryLimit": REVISION_HISTORY_LIMIT,
            // maxReplicas is the most agents that take tasks, also during a rollout; those that finish their last one are beside.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 0, "maxUnavailable": "25%" } },
            "template": template,
        },
    });
    Ok(Child { identity: ChildIdentity { kind: "Deployment".to_owned(), name }, object, mode: ApplyMode::Apply })
}

/// The hash of the template that the Deployment among these children should have.
pub fn template_hash(children: &[Child]) -> Option<String> {
    let deployment = children.iter().find(|child| child.identity.kind == "Deployment")?;
    let annotations = deployment.object.pointer("/metadata/annotations")?;
    annotations.get(TEMPLATE_HASH).and_then(Value::as_str).map(str::to_owned)
}

/// Seconds that an agent has between SIGTERM and its end: the longest task, and the time to put it down.
///
/// # Errors
///
/// A timeout that cannot be read.
pub fn grace_period(limits: Option<&TaskLimits>) -> Result<u64, BuildError> {
    let stated = limits.and_then(|limits| limits.timeout.as_ref()).map(|timeout| timeout.to_std());
    let seconds = stated.transpose().map_err(BuildError::ReadTimeout)?.map_or(TASK_SECONDS, whole_seconds);
    Ok(seconds + AFTER_TASK_SECONDS)
}

fn template(plan: &Plan<'_>) -> Result<Value, BuildError> {
    let mut template = object(plan.template.clone(), "")?;
    if let Some(other) = template.keys().find(|member| !["metadata", "spec"].contains(&member.as_str())) {
        return Err(BuildError::ReadTemplate {
            path: other.clone(),
            problem: "is no member of a pod template: put it under metadata or spec",
        });
    }
    let mut meta = object(template.remove("metadata").unwrap_or_else(|| json!({})), "metadata")?;
    let mut of_pod = object(meta.remove("labels").unwrap_or_else(|| json!({})), "metadata.labels")?;
    for (key, value) in labels(plan.name) {
        // The pods are found by this one; what else the user says of them stays.
        if selector(plan.name).contains_key(&key) || !of_pod.contains_key(&key) {
            of_pod.insert(key, json!(value));
        }
    }
    meta.insert("labels".to_owned(), Value::Object(of_pod));
    if let Some(hash) = plan.key_hash {
        // Variables are read at a pod's start: another key makes new pods.
        let mut annotations = object(meta.remove("annotations").unwrap_or_else(|| json!({})), "metadata.annotations")?;
        annotations.insert(KEY_HASH.to_owned(), json!(hash));
        meta.insert("annotations".to_owned(), Value::Object(annotations));
    }
    let mut spec = object(template.remove("spec").unwrap_or_else(|| json!({})), "spec")?;
    if !spec.contains_key("serviceAccountName") {
        spec.insert("serviceAccountName".to_owned(), json!(child_name(plan.name)));
        spec.entry("automountServiceAccountToken").or_insert(json!(false));
    }
    spec.entry("enableServiceLinks").or_insert(json!(false));
    spec.entry("terminationGracePeriodSeconds").or_insert(json!(grace_period(plan.spec.task_limits.as_ref())?));
    let added = environment(plan)?;
    let containers = spec.get_mut("containers").and_then(Value::as_array_mut);
    for (number, container) in containers.into_iter().flatten().enumerate() {
        add(container, &added, number)?;
    }
    Ok(json!({ "metadata": meta, "spec": spec }))
}

/// What the agents are told, in the order in which it is added.
fn environment(plan: &Plan<'_>) -> Result<Vec<(&'static str, Value)>, BuildError> {
    let mut environment = vec![("POD_NAME", json!({ "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }))];
    let mut tell = |name, value: Option<u64>| environment.extend(value.map(|value| (name, json!({ "value": value.to_string() }))));
    let limits = plan.spec.task_limits.as_ref();
    let batch = plan.spec.batch.as_ref().and_then(|batch| batch.max_tasks);
    tell("QUARTERMASTER_BATCH_MAX_TASKS", batch.map(u64::from));
    tell("QUARTERMASTER_TASK_MAX_STEPS", limits.and_then(|limits| limits.max_steps).map(u64::from));
    tell("QUARTERMASTER_TASK_MAX_TOOL_CALLS", limits.and_then(|limits| limits.max_tool_calls).map(u64::from));
    tell("QUARTERMASTER_TASK_MAX_RETRIES_PER_TOOL", limits.and_then(|limits| limits.max_retries_per_tool).map(u64::from));
    let timeout = grace_period(limits)? - AFTER_TASK_SECONDS;
    tell("QUARTERMASTER_TASK_TIMEOUT_SECONDS", Some(timeout));
    if plan.key_hash.is_some() {
        environment.extend(caller_secret::environment(plan.name));
    }
    Ok(environment)
}

/// Adds variables to a container. One that the user sets stays as it is.
fn add(container: &mut Value, added: &[(&'static str, Value)], number: usize) -> Result<(), BuildError> {
    let path = || format!("spec.containers[{number}]");
    let Value::Object(container) = container else {
        return Err(BuildError::ReadTemplate { path: path(), problem: "is not an object" });
    };
    let Value::Array(variables) = container.entry("env").or_insert(json!([])) else {
        return Err(BuildError::ReadTemplate { path: format!("{}.env", path()), problem: "is not a list" });
    };
    // What the user's variables refer to by $(NAME) has to come before them.
    for (name, source) in added.iter().rev() {
        if variables.iter().any(|variable| variable.get("name").and_then(Value::as_str) == Some(name)) {
            continue;
        }
        let mut variable = source.clone();
        if let Value::Object(members) = &mut variable {
            members.insert("name".to_owned(), json!(name));
        }
        variables.insert(0, variable);
    }
    Ok(())
}

/// Never less than it is.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn object(value: Value, path: &str) -> Result<Map<String, Value>, BuildError> {
    match value {
        Value::Object(object) => Ok(object),
        Value::Null => Ok(Map::new()),
        _ => Err(BuildError::ReadTemplate { path: path.to_owned(), problem: "is not an object" }),
    }
}
