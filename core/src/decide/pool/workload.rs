//! What the workload and its pods say about a pool.

use super::budgets;
use super::children::deployment::TEMPLATE_HASH;
use super::observation::Observation;
use crate::api::conditions::{reasons, types};
use crate::decide::backend::facts::{DeploymentFacts, PodFacts};
use crate::decide::readiness::Readiness;
use crate::decide::refused;

/// What is said while a Deployment replaces its pods.
const REPLACED: &str = "the agents are being replaced by those of a new template";
/// Restarts after which an agent that ends again and again counts as one that will not come up by itself.
const CRASHES_UNTIL_STALLED: u32 = 3;

/// Whether the agents run. A pool is ready while its agents are on their way: as many as the queues need are never there for
/// long, and nobody has to act on it. `wanted` is the hash of the template that the pool's own Deployment should have.
pub fn readiness(observation: &Observation, workload: Option<&DeploymentFacts>, replicas: u32, wanted: Option<&str>) -> Readiness {
    if let Some(refusal) = observation.refusals.first() {
        return refused::readiness(refusal, "spec.template");
    }
    let Some(workload) = workload else {
        return Readiness::progressing(reasons::PROGRESSING, "the Deployment is being made");
    };
    if let Some(message) = &workload.replica_failure {
        let message = format!("the API server refuses the pods: {message}");
        return Readiness::waiting(reasons::POD_CREATION_FAILED, message);
    }
    let obstacle = observation.pods.iter().filter(|pod| !pod.terminating && !pod.ready).find_map(obstacle);
    if let Some(obstacle) = obstacle {
        if workload.available_replicas == 0 {
            return obstacle;
        }
        return Readiness::ready(reasons::PARTIALLY_AVAILABLE, format!("agents run, and some do not: {}", obstacle.message));
    }
    let replaced = || Readiness::progressing(reasons::PROGRESSING, REPLACED);
    if wanted.is_some() && workload.annotations.get(TEMPLATE_HASH).map(String::as_str) != wanted {
        return replaced();
    }
    // The Deployment's own controller has yet to look at it: at a new template, or only at another number of replicas.
    if workload.observed_generation < workload.generation && was_being_replaced(observation) {
        return replaced();
    }
    if workload.deadline_exceeded {
        let message = "the agents of a new template do not become ready in time: see the pods' events and logs";
        return Readiness::stalled(reasons::START_TIMEOUT, message);
    }
    if workload.updated_replicas < workload.status_replicas {
        return replaced();
    }
    if replicas == 0 && workload.status_replicas == 0 {
        let message = if budgets::pauses(&observation.budgets) { "a budget pauses the pool" } else { "no agent is needed" };
        return Readiness::ready(reasons::SCALED_TO_ZERO, message);
    }
    if replicas > 0 && workload.available_replicas == 0 {
        return Readiness::ready(reasons::STARTING, "the first agents are on their way");
    }
    Readiness::ready(reasons::AVAILABLE, "the agents run")
}

/// Whether the status says that the agents are being replaced.
fn was_being_replaced(observation: &Observation) -> bool {
    let conditions = observation.pool.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == types::READY);
    ready.any(|condition| condition.status == "False" && condition.message == REPLACED)
}

/// What keeps a pod from running.
fn obstacle(pod: &PodFacts) -> Option<Readiness> {
    if let Some(waiting) = &pod.waiting {
        let said = format!("{}: {}", waiting.reason, waiting.message);
        match waiting.reason.as_str() {
            "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                let message = format!("the image cannot be pulled ({said}): check the image in spec.template and its pull secret");
                return Some(Readiness::waiting(reasons::IMAGE_PULL_FAILED, message));
            }
            "CreateContainerConfigError" | "CreateContainerError" => {
                let message = format!("the container cannot be made ({said}): correct spec.template, or make what it names");
                return Some(Readiness::waiting(reasons::CONTAINER_CONFIG_ERROR, message));
            }
            "CrashLoopBackOff" => return Some(crash_loop(pod)),
            _ => {}
        }
    }
    if pod.restarts > 0 {
        // It runs at the moment, as it did before it ended.
        return Some(crash_loop(pod));
    }
    let unschedulable = pod.unschedulable.as_ref()?;
    Some(Readiness::waiting(reasons::UNSCHEDULABLE, format!("no node takes the pod: {}", unschedulable.message)))
}

fn crash_loop(pod: &PodFacts) -> Readiness {
    let message = "the agent ends again and again: see the pod's log";
    match pod.restarts >= CRASHES_UNTIL_STALLED {
        true => Readiness::stalled(reasons::CRASH_LOOP, message),
        false => Readiness::waiting(reasons::CRASH_LOOP, message),
    }
}
