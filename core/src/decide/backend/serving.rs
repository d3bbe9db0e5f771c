//! What the Deployment and its pods say about a self-hosted backend.

use std::time::Duration;

use super::engine::Engine;
use super::facts::{DeploymentFacts, Failed, PodFacts, Terminated};
use crate::api::conditions::{reasons, types};
use crate::decide::conditions::Verdict;
use crate::decide::decision::{NAMESPACE_IS_GOING, Refusal};
use crate::decide::readiness::Readiness;
use crate::decide::refused;

/// Restarts after which an engine that has never loaded the model counts as one that will not by itself.
const CRASHES_UNTIL_STALLED: u32 = 3;

/// One sentence for the time until the Deployment is applied and its controller has seen it: one state, one write.
const BEING_BROUGHT: &str = "the Deployment is being brought to what the spec asks for";

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Serving<'a> {
    /// What serves the model.
    pub engine: Engine,
    /// The Deployment, if there is one.
    pub deployment: Option<&'a DeploymentFacts>,
    /// Whether the Deployment is the one that is wanted now, or still an earlier one.
    pub current: bool,
    /// The pods.
    pub pods: &'a [PodFacts],
    /// Replicas that are wanted.
    pub replicas: u32,
    /// Children that could not be applied.
    pub refusals: &'a [Refusal],
}

impl Serving<'_> {
    /// Whether the backend does what it is for. `progress_deadline` is how long a rollout of the Deployment may take: that long
    /// it may wait for nodes, images and an engine that has ended, too, when no rollout is going on.
    pub fn readiness(&self, progress_deadline: Duration) -> Readiness {
        if let Some(refused) = self.refusals.first().map(|refusal| refused::readiness(refusal, self.engine.pod_fields())) {
            return refused;
        }
        let Some(deployment) = self.deployment.filter(|_| self.current) else {
            return Readiness::progressing(reasons::PROGRESSING, BEING_BROUGHT);
        };
        if deployment.observed_generation < deployment.generation {
            return Readiness::progressing(reasons::PROGRESSING, BEING_BROUGHT);
        }
        if self.replicas == 0 {
            return match deployment.status_replicas {
                0 => Readiness::ready(reasons::SCALED_TO_ZERO, "no replica is wanted"),
                _ => Readiness::progressing(reasons::PROGRESSING, "the last replicas end"),
            };
        }
        let complete = deployment.updated_replicas == self.replicas
            && deployment.status_replicas == self.replicas
            && deployment.available_replicas >= self.replicas;
        if complete {
            return Readiness::ready(reasons::AVAILABLE, "all replicas answer");
        }
        self.obstacle(deployment, progress_deadline)
    }

    /// Why not all replicas answer: the gravest of what admission, the scheduler, the kubelet and the engine say.
    fn obstacle(&self, deployment: &DeploymentFacts, progress_deadline: Duration) -> Readiness {
        if let Some(message) = &deployment.replica_failure {
            if message.contains(NAMESPACE_IS_GOING) {
                return Readiness::progressing(reasons::PROGRESSING, "the namespace is being deleted");
            }
            let advice = "the API server refuses the pods";
            return if message.contains("violates PodSecurity") {
                Readiness::stalled(reasons::POD_CREATION_FAILED, format!("{advice}: {message}"))
            } else {
                Readiness::waiting(reasons::POD_CREATION_FAILED, format!("{advice}: {message}"))
            };
        }
        let living = || self.pods.iter().filter(|pod| !pod.terminating && pod.failed.is_none() && !pod.ready);
        let stalls = |reason: &'static str, message: String| match deployment.deadline_exceeded {
            true => Readiness::stalled(reason, message),
            false => Readiness::waiting_within(progress_deadline, reason, message),
        };
        if let Some(ended) = living().find_map(|pod| ended(pod, self.engine, stalls)) {
            return ended;
        }
        if let Some(waiting) = living().find_map(|pod| pod.waiting.as_ref()) {
            let said = format!("{}: {}", waiting.reason, waiting.message);
            match waiting.reason.as_str() {
                "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
                    return stalls(
                        reasons::IMAGE_PULL_FAILED,
                        format!("the image cannot be pulled ({said}): check {}.image and its pull secret", self.engine.field()),
                    );
                }
                "CreateContainerConfigError" | "CreateContainerError" => {
                    return stalls(reasons::CONTAINER_CONFIG_ERROR, format!("the container cannot be made ({said})"));
                }
                _ => {}
            }
        }
        if let Some(unschedulable) = living().find_map(|pod| pod.unschedulable.as_ref()) {
            return stalls(reasons::UNSCHEDULABLE, format!("no node takes the pod: {}", unschedulable.message));
        }
        if let Some(failed) = self.failed() {
            let said = format!("{}: {}", failed.reason, failed.message);
            return stalls(reasons::POD_FAILED, format!("a pod of this version has failed, and another takes its place ({said})"));
        }
        if deployment.deadline_exceeded && living().any(|pod| pod.preparing_since.is_some()) {
            return Readiness::stalled(
                reasons::CONTAINER_CONFIG_ERROR,
                "the node does not prepare the pod's volumes and network: see the pod's events; a ReadWriteOnce claim can be on one \
                 node at a time",
            );
        }
        if deployment.deadline_exceeded {
            return Readiness::stalled(reasons::START_TIMEOUT, self.engine.start_timeout());
        }
        if living().any(|pod| !pod.started) {
            return Readiness::progressing(reasons::MODEL_LOADING, self.engine.loading());
        }
        match deployment.available_replicas {
            0 => Readiness::progressing(reasons::PROGRESSING, "the pods are being made"),
            _ => Readiness::progressing(reasons::PARTIALLY_AVAILABLE, "some replicas answer, the others are on their way"),
        }
    }

    /// Why the newest pod of the newest version that failed did, unless that version has come to answer since.
    fn failed(&self) -> Option<&Failed> {
        let newest = self.pods.iter().max_by_key(|pod| pod.created)?;
        let of_version = || self.pods.iter().filter(|pod| pod.template_hash == newest.template_hash);
        let last = of_version().filter(|pod| pod.failed.is_some()).max_by_key(|pod| pod.created)?;
        let overcome = of_version().any(|pod| pod.ready && pod.created > last.created);
        last.failed.as_ref().filter(|_| !overcome)
    }

    /// The conditions Available and ModelLoaded.
    pub fn verdicts(&self) -> Vec<Verdict> {
        if self.replicas == 0 {
            return vec![
                Verdict::fails(types::AVAILABLE, reasons::SCALED_TO_ZERO, "no replica is wanted"),
                Verdict::fails(types::MODEL_LOADED, reasons::SCALED_TO_ZERO, "no replica is wanted"),
            ];
        }
        let available = self.deployment.is_some_and(|deployment| deployment.available_replicas > 0);
        let loaded = self.loaded();
        vec![
            match available {
                true => Verdict::holds(types::AVAILABLE, reasons::AVAILABLE, "at least one replica answers"),
                false => Verdict::fails(types::AVAILABLE, reasons::PROGRESSING, "no replica answers yet"),
            },
            match loaded {
                true => Verdict::holds(types::MODEL_LOADED, reasons::MODEL_LOADED, self.engine.loaded()),
                false => Verdict::fails(types::MODEL_LOADED, reasons::MODEL_LOADING, self.engine.not_loaded()),
            },
        ]
    }

    /// Whether every replica has loaded the model as the spec asks for it now. Pods of an earlier version tell nothing of that,
    /// nor do any before the Deployment's controller has seen the newest template.
    fn loaded(&self) -> bool {
        let seen = self.deployment.filter(|deployment| self.current && deployment.observed_generation >= deployment.generation);
        let updated = seen.is_some_and(|deployment| deployment.updated_replicas >= self.replicas);
        let living = || self.pods.iter().filter(|pod| !pod.terminating && pod.failed.is_none());
        let Some(newest) = living().max_by_key(|pod| pod.created).filter(|_| updated) else { return false };
        let loaded = living().filter(|pod| pod.started && pod.template_hash == newest.template_hash).count();
        u32::try_from(loaded).unwrap_or(u32::MAX) >= self.replicas
    }
}

/// What the end of a container means until the model is loaded again. `stalls` is the state while it may yet be.
///
/// An engine that ended while it loaded the model has yet to load it once: that is told in the same words whether the kubelet
/// waits, or runs it again, or it ends again. A known cause that lies in the spec is not waited for. An engine that served
/// before it ended can load the model: it only loads it again, unless the kubelet says that it ends again and again. How often
/// a container has ended in all its life counts only where it ended while it loaded: months may lie between two other ends.
fn ended(pod: &PodFacts, engine: Engine, stalls: impl Fn(&'static str, String) -> Readiness) -> Option<Readiness> {
    let terminated = pod.terminated.as_ref().filter(|_| !pod.started)?;
    let backs_off = pod.waiting.as_ref().is_some_and(|waiting| waiting.reason == "CrashLoopBackOff");
    let served = served(pod, terminated);
    if !backs_off && (served || pod.restarts == 0) {
        return None;
    }
    let known = match terminated.reason.as_str() {
        "OOMKilled" => {
            let fix = format!("the container ran out of host memory: raise {}.resources.limits.memory", engine.field());
            Some((reasons::OUT_OF_MEMORY, fix))
        }
        _ => engine.classify(&terminated.message),
    };
    let crashed = || format!("the engine ended with exit code {} ({}): see the pod's log", terminated.exit_code, terminated.reason);
    Some(match known {
        Some((reason, fix)) if served || reason == reasons::INSUFFICIENT_FREE_GPU_MEMORY => stalls(reason, fix),
        Some((reason, fix)) => Readiness::stalled(reason, fix),
        None if !served && pod.restarts >= CRASHES_UNTIL_STALLED => Readiness::stalled(reasons::CRASH_LOOP, crashed()),
        None => stalls(reasons::CRASH_LOOP, crashed()),
    })
}

/// Whether the engine served before it ended: the pod stopped to be ready later than that engine was started.
fn served(pod: &PodFacts, terminated: &Terminated) -> bool {
    pod.unready_since.zip(terminated.started_at).is_some_and(|(unready, started)| unready > started)
}

#[cfg(test)]
#[path = "serving_tests.rs"]
mod tests;
