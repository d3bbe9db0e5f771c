//! How a new version of the pods replaces the old one when accelerators are scarce.
//!
//! A surge asks for accelerators that may not exist: the new pod waits for those of an old pod, which ends only when the
//! new one answers. In place, an old pod ends first, and a replica is missing while the new one loads. `Auto` begins with a
//! surge and goes on in place only where the surge cannot get further.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::facts::{DeploymentFacts, PodFacts};
use crate::api::vllm::RolloutType;

/// Time that a pod of the new version may find no node, beyond the time that an ending pod may keep its accelerators. The
/// scheduler tries again within seconds when a pod has ended or a node has come. A node that an autoscaler has yet to order
/// takes minutes: for such pools the user says `Surge`.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a rollout proceeds from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Old pods end before new ones start.
    pub in_place: bool,
    /// Replicas that may be missing meanwhile. 0, if and only if not in place: then one replica is added instead.
    pub max_unavailable: u32,
    /// When to look again, if nothing wakes us before.
    pub next: Option<Duration>,
    /// Why, in a sentence without times.
    pub why: String,
}

impl Rollout {
    fn surge(why: &str, next: Option<Duration>) -> Self {
        Self { in_place: false, max_unavailable: 0, next, why: why.to_owned() }
    }

    fn in_place(max_unavailable: u32, why: &str) -> Self {
        Self { in_place: true, max_unavailable: max_unavailable.max(1), next: None, why: why.to_owned() }
    }
}

/// How a rollout proceeds from here.
///
/// `deployment` and `pods` are what exists now; no Deployment: it is made for the first time. `termination_grace_period` is
/// that of the pods: a new pod waits this long for accelerators that an ending pod will give back anyway, so that `Auto`
/// takes away no replica while accelerators are about to be free.
pub fn decide(
    rollout_type: RolloutType,
    deployment: Option<&DeploymentFacts>,
    pods: &[PodFacts],
    termination_grace_period: Duration,
    now: Timestamp,
) -> Rollout {
    let rolling = deployment.filter(|deployment| !is_complete(deployment));
    let patience = termination_grace_period.saturating_add(PATIENCE);
    let waited = rolling.and_then(|deployment| waiting_for_old_pods(deployment, pods, now));
    let stuck = waited.is_some_and(|waited| waited >= patience);
    let unavailable = rolling.filter(|_| stuck).map_or(1, |deployment| max_unavailable(deployment, pods));
    match (rollout_type, rolling) {
        (RolloutType::Surge, _) => Rollout::surge("spec.vllm.rollout.type is Surge: the new pod starts first", None),
        (RolloutType::InPlace, _) => Rollout::in_place(unavailable, "spec.vllm.rollout.type is InPlace: the old pod ends first"),
        (RolloutType::Auto, None) => Rollout::surge("no rollout is going on: the next one begins with the new pod", None),
        (RolloutType::Auto, Some(deployment)) if deployment.in_place => {
            Rollout::in_place(unavailable, "the rollout that is going on found no free accelerators and ends in place")
        }
        (RolloutType::Auto, Some(_)) if stuck => {
            Rollout::in_place(unavailable, "the new pod finds no free accelerators while old pods hold some: an old pod ends first")
        }
        (RolloutType::Auto, Some(_)) => match waited {
            Some(waited) => Rollout::surge("the new pod starts first, and waits for a node", Some(patience.saturating_sub(waited))),
            None => Rollout::surge("the new pod starts first", None),
        },
    }
}

/// Replicas that may be missing in place: one. Where accelerators do not suffice for all replicas, some are missing from the
/// start, and the Deployment's controller would never end an old pod: once its progress deadline has passed, those that
/// hold no accelerators are added.
fn max_unavailable(deployment: &DeploymentFacts, pods: &[PodFacts]) -> u32 {
    if !deployment.deadline_exceeded {
        return 1;
    }
    let holding = pods.iter().filter(|pod| pod.unschedulable.is_none()).count();
    let missing = deployment.replicas.saturating_sub(u32::try_from(holding).unwrap_or(u32::MAX));
    missing.saturating_add(1).min(deployment.replicas)
}

/// Complete as `kubectl rollout status` and the Deployment's controller understand it: all pods are of the new version,
/// there are as many as wanted, and all answer.
fn is_complete(deployment: &DeploymentFacts) -> bool {
    deployment.observed_generation >= deployment.generation
        && deployment.updated_replicas == deployment.replicas
        && deployment.status_replicas == deployment.updated_replicas
        && deployment.available_replicas == deployment.updated_replicas
}

/// How long the new version's longest waiting pod finds no node, if a pod of an older version could make room for it.
fn waiting_for_old_pods(deployment: &DeploymentFacts, pods: &[PodFacts], now: Timestamp) -> Option<Duration> {
    // Before the controller has seen the newest template, every pod that exists is of an older one.
    if deployment.observed_generation < deployment.generation {
        return None;
    }
    let living = || pods.iter().filter(|pod| !pod.terminating);
    let mut pods_of_version: BTreeMap<&str, u32> = BTreeMap::new();
    for pod in living() {
        *pods_of_version.entry(&pod.template_hash).or_default() += 1;
    }
    living()
        .filter_map(|pod| Some((pod, pod.unschedulable.as_ref()?)))
        // The Deployment says how many pods are of the newest version. A version with another number of pods is an older
        // one, or the pods and the Deployment were read at different moments: then the next look tells.
        .filter(|(pod, _)| pods_of_version.get(pod.template_hash.as_str()) == Some(&deployment.updated_replicas))
        .filter(|(pod, _)| living().any(|other| other.template_hash != pod.template_hash && other.unschedulable.is_none()))
        .map(|(_, unschedulable)| Duration::try_from(now.duration_since(unschedulable.since)).unwrap_or_default())
        .max()
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
