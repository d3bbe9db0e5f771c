//! What the workload and its pods say about a pool.

use crate::api::conditions::reasons;
use crate::decide::backend::facts::{DeploymentFacts, PodFacts};
use crate::decide::decision::Refusal;
use crate::decide::readiness::Readiness;
use crate::decide::refused;

/// Restarts after which an agent that ends again and again counts as one that will not come up by itself.
const CRASHES_UNTIL_STALLED: u32 = 3;

/// Whether the agents run. A pool is ready while its agents are on their way: as many as the queues need are never there for
/// long, and nobody has to act on it.
pub fn readiness(workload: Option<&DeploymentFacts>, pods: &[PodFacts], refusals: &[Refusal], replicas: u32) -> Readiness {
    if let Some(refusal) = refusals.first() {
        return refused::readiness(refusal, "spec.template");
    }
    let Some(workload) = workload else {
        return Readiness::progressing(reasons::PROGRESSING, "the Deployment is being made");
    };
    if let Some(message) = &workload.replica_failure {
        let message = format!("the API server refuses the pods: {message}");
        return Readiness::waiting(reasons::POD_CREATION_FAILED, message);
    }
    if let Some(obstacle) = pods.iter().filter(|pod| !pod.terminating && !pod.ready).find_map(obstacle) {
        return obstacle;
    }
    if workload.updated_replicas < workload.status_replicas {
        return Readiness::progressing(reasons::PROGRESSING, "the agents are being replaced by those of a new template");
    }
    if replicas == 0 && workload.status_replicas == 0 {
        return Readiness::ready(reasons::SCALED_TO_ZERO, "no agent is needed");
    }
    if replicas > 0 && workload.available_replicas == 0 {
        return Readiness::ready(reasons::STARTING, "the first agents are on their way");
    }
    Readiness::ready(reasons::AVAILABLE, "the agents run")
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
            "CrashLoopBackOff" => {
                let message = "the agent ends again and again: see the pod's log";
                return Some(match pod.restarts >= CRASHES_UNTIL_STALLED {
                    true => Readiness::stalled(reasons::CRASH_LOOP, message),
                    false => Readiness::waiting(reasons::CRASH_LOOP, message),
                });
            }
            _ => {}
        }
    }
    let unschedulable = pod.unschedulable.as_ref()?;
    Some(Readiness::waiting(reasons::UNSCHEDULABLE, format!("no node takes the pod: {}", unschedulable.message)))
}
