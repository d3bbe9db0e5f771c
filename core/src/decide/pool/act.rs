//! What is made and changed for a pool, and whether its agents run.

use serde_json::{Value, json};

use super::children::{self, Plan};
use super::observation::{Observation, Workload};
use super::workload;
use crate::api::agent_pool::TargetReference;
use crate::api::conditions::{reasons, types};
use crate::decide::backend::facts::DeploymentFacts;
use crate::decide::conditions::Verdict;
use crate::decide::decision::{ChildIdentity, Children, Patch};
use crate::decide::readiness::{Readiness, State};

/// The annotation by which a ReplicaSet chooses among pods that are equally ready (KEP-2255).
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The cost of an agent that ends next: less than the 0 of all others.
const CHEAP: &str = "-100";

/// What is made and changed for a pool, and whether its agents run.
#[derive(Debug)]
pub struct Acted {
    /// The children that should exist.
    pub children: Children,
    /// What is changed of other objects.
    pub patches: Vec<Patch>,
    /// Whether the agents run.
    pub ready: Readiness,
    /// The condition AbleToScale.
    pub able: Verdict,
}

/// What is made and changed so that there are this many replicas. `victims` are the agents that end.
pub fn act(observation: &Observation, replicas: u32, victims: &[String], current: u32) -> Acted {
    let spec = &observation.pool.spec;
    let mut patches = costs(observation, victims, replicas < current);
    let (children, ready) = match (&spec.template, &spec.target_ref) {
        (Some(template), None) => make(observation, template, replicas),
        (None, Some(target)) => {
            let ready = target_readiness(observation, target, replicas);
            if matches!(observation.workload, Workload::Found(_)) && replicas != current {
                patches.push(scale(target, replicas));
            }
            (Children::Exactly(Vec::new()), ready)
        }
        // The schema refuses both; a pool without a workload is a caller that brings its own agents.
        _ => (Children::Exactly(Vec::new()), Readiness::ready(reasons::NO_WORKLOAD, "the pool makes and scales no agents")),
    };
    let able = match ready.state {
        State::Ready | State::Progressing => {
            Verdict::holds(types::ABLE_TO_SCALE, reasons::READY_FOR_NEW_SCALE, "the replicas can be set")
        }
        State::Waiting | State::Stalled => Verdict::fails(types::ABLE_TO_SCALE, ready.reason, ready.message.clone()),
    };
    Acted { children, patches, ready, able }
}

/// What runs the agents, where it is there.
pub fn workload(observation: &Observation) -> Option<&DeploymentFacts> {
    match &observation.workload {
        Workload::Found(workload) => Some(workload),
        _ => None,
    }
}

/// Label selector of the agents, for the scale subresource. That of a target is its own.
pub fn selector(observation: &Observation, name: &str) -> Option<String> {
    match &observation.pool.spec.target_ref {
        Some(_) => observation.target_selector.clone(),
        None => Some(children::selector_text(name)),
    }
}

fn make(observation: &Observation, template: &Value, replicas: u32) -> (Children, Readiness) {
    let metadata = &observation.pool.metadata;
    let plan = Plan {
        name: metadata.name.as_deref().unwrap_or_default(),
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
        spec: &observation.pool.spec,
        template,
        replicas,
    };
    match children::all(&plan) {
        Ok(children) => {
            let ready = workload::readiness(workload(observation), &observation.pods, &observation.refusals, replicas);
            (Children::Exactly(children), ready)
        }
        Err(error) => (Children::Keep, Readiness::stalled(reasons::INVALID_TEMPLATE, error.to_string())),
    }
}

fn target_readiness(observation: &Observation, target: &TargetReference, replicas: u32) -> Readiness {
    let name = format!("{:?} {}", target.kind, target.name);
    match &observation.workload {
        Workload::Found(found) => workload::readiness(Some(found), &observation.pods, &observation.refusals, replicas),
        Workload::None => Readiness::progressing(reasons::PROGRESSING, "the target is being read"),
        Workload::TargetMissing => Readiness::waiting(
            reasons::TARGET_NOT_FOUND,
            format!("spec.targetRef names the {name}, which does not exist: create it, or correct the name"),
        ),
        Workload::TargetInUse { by } => Readiness::stalled(
            reasons::TARGET_IN_USE,
            format!("spec.targetRef names the {name}, which the {by} scales, too: delete that one, or this pool"),
        ),
        Workload::TargetUnreadable { message } => {
            Readiness::waiting(reasons::FORBIDDEN, format!("spec.targetRef names the {name}, which cannot be read: {message}"))
        }
    }
}

/// Makes the deletion of those that end now cheap, and takes that back from those that stay after all.
fn costs(observation: &Observation, victims: &[String], ending: bool) -> Vec<Patch> {
    let cost = |pod: &String, cost: Value| Patch {
        target: ChildIdentity { kind: "Pod".to_owned(), name: pod.clone() },
        subresource: None,
        patch: json!({ "metadata": { "annotations": { DELETION_COST: cost } } }),
    };
    let stays = |pod: &&String| !ending || !victims.contains(pod);
    let cleared = observation.cheap.iter().filter(stays).map(|pod| cost(pod, Value::Null));
    let made = victims.iter().filter(|victim| !observation.cheap.contains(victim)).map(|pod| cost(pod, json!(CHEAP)));
    cleared.chain(made).collect()
}

fn scale(target: &TargetReference, replicas: u32) -> Patch {
    Patch {
        target: ChildIdentity { kind: format!("{:?}", target.kind), name: target.name.clone() },
        subresource: Some("scale"),
        patch: json!({ "spec": { "replicas": replicas } }),
    }
}
