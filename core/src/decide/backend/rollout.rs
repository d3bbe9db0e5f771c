//! How a new version of the pods replaces the old one when accelerators are scarce.
//!
//! A surge asks for accelerators that may not exist: the new pod waits for those of an old pod, which ends only when the
//! new one answers. In place, an old pod ends first, and a replica is missing while the new one loads. `Auto` begins with a
//! surge and goes on in place only where the surge cannot get further.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::accelerator;
use super::children::Placement;
use super::facts::{DeploymentFacts, NodeFacts, PodFacts};
use crate::api::vllm::RolloutType;

/// Time that a pod of the new version may wait for an old one, beyond the time that an ending pod may keep its accelerators.
/// The scheduler tries again within seconds when a pod has ended or a node has come. A node that an autoscaler has yet to
/// order takes minutes: for such pools the user says `Surge`.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the course of a rollout depends on.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// `spec.vllm.rollout.type`.
    pub rollout_type: RolloutType,
    /// The Deployment. None: it is made for the first time.
    pub deployment: Option<&'a DeploymentFacts>,
    /// Whether the Deployment has the template that is wanted now. Where it has not, its pods tell nothing of the wanted one.
    pub current: bool,
    /// The pods.
    pub pods: &'a [PodFacts],
    /// The nodes that offer accelerators.
    pub nodes: &'a [NodeFacts],
    /// Where pods of the wanted version may run.
    pub placement: &'a Placement,
    /// Labels that the spec demands of a node beside those of the placement.
    pub node_selector: &'a BTreeMap<String, String>,
    /// Whether all pods mount one claim. One that is ReadWriteOnce is attached to one node at a time.
    pub shared_claim: bool,
    /// That of the pods. A new pod waits this long for what an ending pod will give back anyway, so that `Auto` takes away no
    /// replica while accelerators are about to be free.
    pub termination_grace_period: Duration,
}

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
pub fn decide(question: &Question<'_>, now: Timestamp) -> Rollout {
    let rolling = question.deployment.filter(|deployment| !is_complete(deployment));
    let patience = question.termination_grace_period.saturating_add(PATIENCE);
    let waits = rolling.filter(|_| question.current).and_then(|deployment| question.waits_for_old_pods(deployment, now));
    let stuck = waits.filter(|(waited, _)| *waited >= patience);
    let unavailable = rolling.filter(|_| stuck.is_some()).map_or(1, |deployment| question.max_unavailable(deployment));
    match (question.rollout_type, rolling) {
        (RolloutType::Surge, _) => Rollout::surge("spec.vllm.rollout.type is Surge: the new pod starts first", None),
        (RolloutType::InPlace, _) => Rollout::in_place(unavailable, "spec.vllm.rollout.type is InPlace: the old pod ends first"),
        (RolloutType::Auto, None) => Rollout::surge("no rollout is going on: the next one begins with the new pod", None),
        (RolloutType::Auto, Some(deployment)) if deployment.in_place => {
            Rollout::in_place(unavailable, "the rollout that is going on had to wait for old pods and ends in place")
        }
        (RolloutType::Auto, Some(_)) => match (stuck, waits) {
            (Some((_, wait)), _) => Rollout::in_place(unavailable, wait.why()),
            (None, Some((waited, _))) => {
                Rollout::surge("the new pod starts first, and waits for a node", Some(patience.saturating_sub(waited)))
            }
            (None, None) => Rollout::surge("the new pod starts first", None),
        },
    }
}

/// What a pod of the new version waits for that an old pod holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    Accelerators,
    Claim,
}

impl Wait {
    fn why(self) -> &'static str {
        match self {
            Self::Accelerators => "the new pod finds no free accelerators while old pods hold some: an old pod ends first",
            Self::Claim => {
                "the claim is not attached to the node of the new pod while an old pod holds it elsewhere: an old pod ends first"
            }
        }
    }
}

impl Question<'_> {
    /// Replicas that may be missing in place: one. Where accelerators do not suffice for all replicas, some are missing from
    /// the start, and the Deployment's controller would never end an old pod: once its progress deadline has passed, those
    /// that wait for accelerators are added.
    fn max_unavailable(&self, deployment: &DeploymentFacts) -> u32 {
        if !deployment.deadline_exceeded {
            return 1;
        }
        let holding = self.pods.iter().filter(|pod| pod.failed.is_none() && !self.lacks_accelerators(pod)).count();
        let missing = deployment.replicas.saturating_sub(u32::try_from(holding).unwrap_or(u32::MAX));
        missing.saturating_add(1).min(deployment.replicas)
    }

    /// How long the new version's longest waiting pod waits for what a pod of an older version holds.
    fn waits_for_old_pods(&self, deployment: &DeploymentFacts, now: Timestamp) -> Option<(Duration, Wait)> {
        // Before the controller has seen the newest template, every pod that exists is of an older one.
        if deployment.observed_generation < deployment.generation {
            return None;
        }
        let living = || self.pods.iter().filter(|pod| !pod.terminating && pod.failed.is_none());
        let mut pods_of_version: BTreeMap<&str, u32> = BTreeMap::new();
        for pod in living() {
            *pods_of_version.entry(&pod.template_hash).or_default() += 1;
        }
        living()
            // The Deployment says how many pods are of the newest version. A version with another number of pods is an older
            // one, or the pods and the Deployment were read at different moments: then the next look tells.
            .filter(|pod| pods_of_version.get(pod.template_hash.as_str()) == Some(&deployment.updated_replicas))
            .filter_map(|pod| {
                let mut older = living().filter(|other| other.template_hash != pod.template_hash);
                let (since, wait) = older.find_map(|old| self.waits_for(pod, old))?;
                Some((Duration::try_from(now.duration_since(since)).unwrap_or_default(), wait))
            })
            .max()
    }

    /// Since when a pod has been waiting for what an old one holds, if it does.
    fn waits_for(&self, pod: &PodFacts, old: &PodFacts) -> Option<(Timestamp, Wait)> {
        if let Some(unschedulable) = pod.unschedulable.as_ref().filter(|_| self.lacks_accelerators(pod)) {
            return self.makes_room(old, pod, &unschedulable.message).then_some((unschedulable.since, Wait::Accelerators));
        }
        let elsewhere = old.node.is_some() && pod.node.is_some() && old.node != pod.node;
        pod.preparing_since.filter(|_| self.shared_claim && elsewhere).map(|since| (since, Wait::Claim))
    }

    /// Whether the scheduler found too few accelerators for a pod, whatever else it lacks. A pod that waits for something
    /// else, such as a claim that does not exist, gets no further by accelerators.
    fn lacks_accelerators(&self, pod: &PodFacts) -> bool {
        let lacks = |message: &str| lacking(message).any(|name| name == self.placement.resource_name);
        pod.unschedulable.as_ref().is_some_and(|unschedulable| lacks(&unschedulable.message))
    }

    /// Whether the end of an old pod gives accelerators to a waiting one: it holds some on a node where the new version may
    /// run, and as much of everything else that is lacking there as the waiting pod asks for.
    fn makes_room(&self, old: &PodFacts, waiting: &PodFacts, message: &str) -> bool {
        let amount = |pod: &PodFacts, name: &str| pod.requests.get(name).copied().unwrap_or(0);
        let accelerator = self.placement.resource_name.as_str();
        let Some(node) = self.nodes.iter().find(|node| Some(&node.name) == old.node.as_ref()) else { return false };
        amount(old, accelerator) > 0
            && lacking(message).filter(|name| *name != accelerator).all(|name| amount(old, name) >= amount(waiting, name))
            && !node.unschedulable
            && accelerator::matches(node, &self.placement.affinity)
            && self.node_selector.iter().all(|(label, value)| node.labels.get(label) == Some(value))
    }
}

/// The resources of which the scheduler says that some nodes have too few: `2 Insufficient nvidia.com/gpu`.
fn lacking(message: &str) -> impl Iterator<Item = &str> {
    let names = message.split("Insufficient ").skip(1);
    names.filter_map(|rest| rest.split([',', ' ', ';']).next()).map(|name| name.trim_end_matches('.'))
}

/// Complete as `kubectl rollout status` and the Deployment's controller understand it: all pods are of the new version,
/// there are as many as wanted, and all answer.
fn is_complete(deployment: &DeploymentFacts) -> bool {
    deployment.observed_generation >= deployment.generation
        && deployment.updated_replicas == deployment.replicas
        && deployment.status_replicas == deployment.updated_replicas
        && deployment.available_replicas == deployment.updated_replicas
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
