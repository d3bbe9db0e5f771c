//! What is made and changed for a pool, and whether its agents run.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::caller::{self, Key};
use super::children::caller_secret::{self, Made};
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
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The cost of an agent that ends next: less than the 0 of all others.
pub const CHEAP: &str = "-100";

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
    /// Whether the replicas are set by this: there is something that has them, and nothing is in the way.
    pub scales: bool,
    /// When a new key that is asked for can be made.
    pub next: Option<Duration>,
}

/// What is made and changed so that there are this many replicas. `victims` are the agents that end.
pub fn act(observation: &Observation, replicas: u32, victims: &[String], current: u32, now: Timestamp) -> Acted {
    let spec = &observation.pool.spec;
    let is_caller = spec.template.is_none() && spec.target_ref.is_none();
    let scaled_here = match &observation.workload {
        Workload::Found(_) => true,
        Workload::None => spec.template.is_some(),
        Workload::TargetMissing | Workload::TargetInUse { .. } | Workload::TargetUnreadable { .. } => false,
    };
    // Where all end, or all are idle, it makes no difference who ends first.
    let all_alike = replicas == 0 || observation.agents.iter().all(|agent| agent.in_flight == Some(0));
    let victims = if all_alike { &[] } else { victims };
    let mut patches = if scaled_here { costs(observation, victims, replicas, current) } else { Vec::new() };
    let key = caller::key(&observation.pool, observation.caller_secret.as_ref(), now);
    let secret = match secret(observation, &key) {
        Ok(secret) => secret,
        Err(unmade) => {
            let able = Verdict::fails(types::ABLE_TO_SCALE, unmade.reason, unmade.message.clone());
            return Acted { children: Children::Keep, patches: Vec::new(), ready: unmade, able, scales: false, next: None };
        }
    };
    let (children, ready) = match (&spec.template, &spec.target_ref) {
        (Some(template), None) => make(observation, template, replicas, secret),
        (None, Some(target)) => {
            let ready = target_readiness(observation, target, replicas);
            if scaled_here && replicas != current {
                patches.push(scale(target, replicas));
            }
            (alone(secret), ready)
        }
        // The schema refuses both; a pool without a workload is a caller that brings its own agents.
        _ => (alone(secret), Readiness::ready(reasons::NO_WORKLOAD, "the pool makes and scales no agents")),
    };
    let able = || Verdict::holds(types::ABLE_TO_SCALE, reasons::READY_FOR_NEW_SCALE, "the replicas can be set");
    let blocked = children == Children::Keep || !observation.refusals.is_empty() || !(scaled_here || is_caller);
    let able = match ready.state {
        State::Ready | State::Progressing => able(),
        State::Waiting | State::Stalled if blocked => Verdict::fails(types::ABLE_TO_SCALE, ready.reason, ready.message.clone()),
        // Agents that do not come up are no reason why there cannot be more or fewer.
        State::Waiting | State::Stalled => able(),
    };
    let scales = scaled_here && !blocked;
    let next = if let Key::Stays { next, .. } = key { next } else { None };
    Acted { children, patches, ready, able, scales, next }
}

/// The Secret of the pool.
fn secret(observation: &Observation, key: &Key) -> Result<Option<Made>, Readiness> {
    let metadata = &observation.pool.metadata;
    let [name, namespace, uid] =
        [&metadata.name, &metadata.namespace, &metadata.uid].map(|text| text.as_deref().unwrap_or_default());
    caller_secret::build(children::owner(name, namespace, uid), key, &observation.entropy)
        .map_err(|error| Readiness::progressing(reasons::PROGRESSING_WITH_RETRY, error.to_string()))
}

/// The Secret as the only child.
fn alone(secret: Option<Made>) -> Children {
    Children::Exactly(secret.into_iter().map(|made| made.child).collect())
}

/// What runs the agents, where it is there.
pub fn workload(observation: &Observation) -> Option<&DeploymentFacts> {
    match &observation.workload {
        Workload::Found(workload) | Workload::TargetInUse { workload, .. } => Some(workload),
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

fn make(observation: &Observation, template: &Value, replicas: u32, secret: Option<Made>) -> (Children, Readiness) {
    if let Workload::TargetInUse { by, .. } = &observation.workload {
        let message = format!("the {by} scales the pool's Deployment, too: let it scale the AgentPool instead, or delete it");
        return (Children::Keep, Readiness::stalled(reasons::TARGET_IN_USE, message));
    }
    let metadata = &observation.pool.metadata;
    let plan = Plan {
        name: metadata.name.as_deref().unwrap_or_default(),
        namespace: metadata.namespace.as_deref().unwrap_or_default(),
        uid: metadata.uid.as_deref().unwrap_or_default(),
        spec: &observation.pool.spec,
        template,
        replicas,
        key_hash: secret.as_ref().and_then(|made| made.key_hash.as_deref()),
    };
    match children::all(&plan) {
        Ok(mut children) => {
            if let Some(made) = secret {
                // The pods refer to it.
                children.insert(0, made.child);
            }
            let wanted = children::deployment::template_hash(&children);
            (Children::Exactly(children), workload::readiness(observation, workload(observation), replicas, wanted.as_deref()))
        }
        Err(error) => (Children::Keep, Readiness::stalled(reasons::INVALID_TEMPLATE, error.to_string())),
    }
}

fn target_readiness(observation: &Observation, target: &TargetReference, replicas: u32) -> Readiness {
    let name = format!("{:?} {}", target.kind, target.name);
    match &observation.workload {
        Workload::Found(found) => workload::readiness(observation, Some(found), replicas, None),
        Workload::None => Readiness::progressing(reasons::PROGRESSING, "the target is being read"),
        Workload::TargetMissing => Readiness::waiting(
            reasons::TARGET_NOT_FOUND,
            format!("spec.targetRef names the {name}, which does not exist: create it, or correct the name"),
        ),
        Workload::TargetInUse { by, .. } => Readiness::stalled(
            reasons::TARGET_IN_USE,
            format!("spec.targetRef names the {name}, which belongs to the {by}: delete that one, or this pool"),
        ),
        Workload::TargetUnreadable { message, forbidden: true } => Readiness::waiting(
            reasons::FORBIDDEN,
            format!(
                "spec.targetRef names the {name}, which the operator's account may not read: {message}; grant it, see deploy/rbac.yaml"
            ),
        ),
        Workload::TargetUnreadable { message, forbidden: false } => Readiness::progressing(
            reasons::PROGRESSING_WITH_RETRY,
            format!("spec.targetRef names the {name}, which cannot be read and is tried again: {message}"),
        ),
    }
}

/// Makes the deletion of those that end now cheap, and takes that back from those that stay after all: not before the workload
/// has no more pods than it should, for until then it has yet to choose among them.
fn costs(observation: &Observation, victims: &[String], replicas: u32, current: u32) -> Vec<Patch> {
    let cost = |pod: &String, cost: Value, required: bool| Patch {
        target: ChildIdentity { kind: "Pod".to_owned(), name: pod.clone() },
        subresource: None,
        patch: json!({ "metadata": { "annotations": { DELETION_COST: cost } } }),
        required,
    };
    let is_settled = u32::try_from(observation.agents.len()).is_ok_and(|living| living <= replicas.max(current));
    // Those that end now are all that should.
    let may_clear = is_settled || !victims.is_empty();
    let stays = |pod: &&String| may_clear && !victims.contains(pod);
    let made = victims.iter().filter(|victim| !observation.cheap.contains(victim)).map(|pod| cost(pod, json!(CHEAP), true));
    let cleared = observation.cheap.iter().filter(stays).map(|pod| cost(pod, Value::Null, false));
    made.chain(cleared).collect()
}

fn scale(target: &TargetReference, replicas: u32) -> Patch {
    Patch {
        target: ChildIdentity { kind: format!("{:?}", target.kind), name: target.name.clone() },
        subresource: Some("scale"),
        patch: json!({ "spec": { "replicas": replicas } }),
        required: true,
    }
}
