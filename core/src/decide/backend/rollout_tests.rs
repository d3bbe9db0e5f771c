//! Rollouts against a model of the Deployment's controller, the ReplicaSets and the scheduler.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::decide::backend::accelerator::{LabelOperator, LabelRequirement};
use crate::decide::backend::facts::{Failed, Unschedulable};

const GRACE: u64 = 100;
const STEP: u64 = 5;
const GPU: &str = "nvidia.com/gpu";
const FULL: &str = "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 Insufficient nvidia.com/gpu. \
                    no new claims to deallocate, preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn unschedulable(since: u64, message: &str) -> Option<Unschedulable> {
    Some(Unschedulable { since: at(since), message: message.into() })
}

/// A pod that asks for one accelerator and 8 bytes of memory. It answers, or has been waiting for an accelerator since then.
fn pod(version: &str, unschedulable_since: Option<u64>) -> PodFacts {
    PodFacts {
        name: format!("{version}-pod"),
        template_hash: version.into(),
        node: unschedulable_since.is_none().then(|| "h100".into()),
        requests: BTreeMap::from([(GPU.into(), 1), ("memory".into(), 8)]),
        unschedulable: unschedulable_since.and_then(|since| unschedulable(since, FULL)),
        ready: unschedulable_since.is_none(),
        ..PodFacts::default()
    }
}

/// A pod of the new version that has been waiting from the beginning, and what the scheduler says.
fn waiting(message: &str) -> PodFacts {
    PodFacts { unschedulable: unschedulable(0, message), ..pod("new", Some(0)) }
}

fn node(name: &str) -> NodeFacts {
    NodeFacts { name: name.into(), labels: BTreeMap::from([("product".into(), name.to_uppercase())]), ..NodeFacts::default() }
}

/// Everything that a decision is about, with a placement on the nodes of one product.
struct Scene {
    rollout_type: RolloutType,
    deployment: Option<DeploymentFacts>,
    current: bool,
    pods: Vec<PodFacts>,
    nodes: Vec<NodeFacts>,
    placement: Placement,
    node_selector: BTreeMap<String, String>,
    shared_claim: bool,
}

impl Scene {
    /// On a cluster with two products; the pods belong on an H100.
    fn of(deployment: Option<&DeploymentFacts>, pods: &[PodFacts]) -> Self {
        let product = LabelRequirement { key: "product".into(), operator: LabelOperator::In, values: vec!["H100".into()] };
        Self {
            rollout_type: RolloutType::Auto,
            deployment: deployment.cloned(),
            current: true,
            pods: pods.to_vec(),
            nodes: vec![node("h100"), node("l4")],
            placement: Placement { resource_name: GPU.into(), affinity: vec![product], ..Placement::default() },
            node_selector: BTreeMap::new(),
            shared_claim: false,
        }
    }

    fn decide(&self, second: u64) -> Rollout {
        let question = Question {
            rollout_type: self.rollout_type,
            deployment: self.deployment.as_ref(),
            current: self.current,
            pods: &self.pods,
            nodes: &self.nodes,
            placement: &self.placement,
            node_selector: &self.node_selector,
            shared_claim: self.shared_claim,
            termination_grace_period: Duration::from_secs(GRACE),
        };
        decide(&question, at(second))
    }
}

/// One replica, whose new pod waits and whose old pod answers.
fn rolling(in_place: bool) -> DeploymentFacts {
    DeploymentFacts {
        generation: 2,
        observed_generation: 2,
        replicas: 1,
        status_replicas: 2,
        updated_replicas: 1,
        available_replicas: 1,
        ready_replicas: 1,
        in_place,
        ..DeploymentFacts::default()
    }
}

fn auto(deployment: Option<&DeploymentFacts>, pods: &[PodFacts], second: u64) -> Rollout {
    Scene::of(deployment, pods).decide(second)
}

#[test]
fn a_first_deployment_and_a_complete_one_are_set_to_surge() {
    assert!(!auto(None, &[], 0).in_place);
    let complete = DeploymentFacts {
        replicas: 1,
        status_replicas: 1,
        updated_replicas: 1,
        available_replicas: 1,
        in_place: true,
        ..DeploymentFacts::default()
    };
    assert_eq!(auto(Some(&complete), &[pod("old", None)], 0).max_unavailable, 0);
}

#[test]
fn a_new_pod_without_accelerators_goes_in_place_after_the_patience_and_says_when_to_look() {
    let pods = [pod("old", None), pod("new", Some(0))];
    let early = auto(Some(&rolling(false)), &pods, 40);
    assert_eq!((early.in_place, early.next), (false, Some(Duration::from_secs(GRACE + 60 - 40))));
    let late = auto(Some(&rolling(false)), &pods, GRACE + 60);
    assert_eq!((late.in_place, late.max_unavailable, late.next), (true, 1, None));
}

#[test]
fn a_rollout_that_went_in_place_stays_so_until_it_is_complete() {
    let loading = PodFacts { ready: false, ..pod("new", None) };
    let deployment = DeploymentFacts { status_replicas: 1, available_replicas: 0, ..rolling(true) };
    assert!(auto(Some(&deployment), &[loading], 2000).in_place);
}

#[test]
fn a_waiting_pod_of_the_same_version_is_no_reason_to_end_one_that_answers() {
    // A third replica finds no accelerator; no rollout is going on.
    let deployment = DeploymentFacts {
        replicas: 3,
        status_replicas: 3,
        updated_replicas: 3,
        available_replicas: 2,
        ..DeploymentFacts::default()
    };
    let pods = [pod("same", None), pod("same", None), pod("same", Some(0))];
    assert!(!auto(Some(&deployment), &pods, 10_000).in_place);
}

#[test]
fn a_waiting_pod_of_an_older_version_is_no_reason_either() {
    // The old version lacked an accelerator for its second replica, and the new version's first pod loads.
    let deployment = DeploymentFacts { replicas: 2, status_replicas: 4, updated_replicas: 1, ..rolling(false) };
    let loading = PodFacts { ready: false, ..pod("new", None) };
    let pods = [pod("old", None), pod("old", Some(0)), pod("old", None), loading];
    assert!(!auto(Some(&deployment), &pods, 10_000).in_place);
}

#[test]
fn nothing_is_concluded_from_a_deployment_that_its_controller_has_not_seen() {
    let deployment = DeploymentFacts { observed_generation: 1, ..rolling(false) };
    assert!(!auto(Some(&deployment), &[pod("old", None), pod("new", Some(0))], 10_000).in_place);
}

#[test]
fn a_waiting_pod_stays_first_when_no_old_pod_is_left_to_end() {
    let ending = PodFacts { terminating: true, ..pod("old", None) };
    assert!(!auto(Some(&rolling(false)), &[ending, pod("new", Some(0))], 10_000).in_place);
}

#[test]
fn what_the_user_says_is_done_whatever_the_pods_do() {
    let pods = [pod("old", None), pod("new", Some(0))];
    let decide = |rollout_type, second| Scene { rollout_type, ..Scene::of(Some(&rolling(false)), &pods) }.decide(second);
    assert!(!decide(RolloutType::Surge, 10_000).in_place);
    assert!(decide(RolloutType::InPlace, 0).in_place);
}

#[test]
fn a_pod_that_no_accelerator_helps_ends_no_pod_that_answers() {
    for message in [
        "0/3 nodes are available: persistentvolumeclaim \"typo\" not found. preemption: 0/3 nodes are available: 3 Preemption is not \
         helpful for scheduling.",
        "0/3 nodes are available: 3 Insufficient memory.",
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.shared.",
        "",
    ] {
        let rollout = auto(Some(&rolling(false)), &[pod("old", None), waiting(message)], 10_000);
        assert_eq!((rollout.in_place, rollout.next), (false, None), "{message}");
    }
}

#[test]
fn what_else_is_lacking_on_full_nodes_must_become_free_as_well() {
    let message =
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient memory, 2 Insufficient nvidia.com/gpu.";
    let same = waiting(message);
    let mut more = waiting(message);
    more.requests.insert("memory".into(), 9);
    assert!(auto(Some(&rolling(false)), &[pod("old", None), same], 10_000).in_place);
    assert!(!auto(Some(&rolling(false)), &[pod("old", None), more], 10_000).in_place, "no old pod holds that much memory");
}

#[test]
fn an_old_pod_on_another_product_ends_for_nobody() {
    let elsewhere = PodFacts { node: Some("l4".into()), ..pod("old", None) };
    let of = |old: &PodFacts| Scene::of(Some(&rolling(false)), &[old.clone(), waiting(FULL)]);
    assert!(!of(&elsewhere).decide(10_000).in_place);
    assert!(of(&pod("old", None)).decide(10_000).in_place);
    // Nor does one that holds another resource, one on a node that is cordoned or gone, or one outside the selector.
    let slice = PodFacts { requests: BTreeMap::from([("nvidia.com/mig-1g.10gb".into(), 1)]), ..pod("old", None) };
    assert!(!of(&slice).decide(10_000).in_place);
    let cordoned = NodeFacts { unschedulable: true, ..node("h100") };
    assert!(!Scene { nodes: vec![cordoned], ..of(&pod("old", None)) }.decide(10_000).in_place);
    assert!(!Scene { nodes: vec![], ..of(&pod("old", None)) }.decide(10_000).in_place);
    let node_selector = BTreeMap::from([("pool".into(), "new".into())]);
    assert!(!Scene { node_selector, ..of(&pod("old", None)) }.decide(10_000).in_place);
    // A selector that the old pod's node satisfies changes nothing.
    let node_selector = BTreeMap::from([("product".into(), "H100".into())]);
    assert!(Scene { node_selector, ..of(&pod("old", None)) }.decide(10_000).in_place);
}

#[test]
fn the_pods_of_another_template_tell_nothing_of_the_one_that_is_wanted_now() {
    let scene = Scene::of(Some(&rolling(false)), &[pod("old", None), waiting(FULL)]);
    assert!(scene.decide(10_000).in_place);
    assert!(!Scene { current: false, ..scene }.decide(10_000).in_place);
}

#[test]
fn failed_pods_count_for_neither_version() {
    let evicted = |version: &str| PodFacts {
        failed: Some(Failed { reason: "Evicted".into(), message: String::new() }),
        ready: false,
        ..pod(version, None)
    };
    let pods = [evicted("old"), evicted("new"), pod("old", None), waiting(FULL), evicted("new")];
    assert!(auto(Some(&rolling(false)), &pods, 10_000).in_place);
    // And they hold nothing that could become free.
    assert!(!auto(Some(&rolling(false)), &[evicted("old"), waiting(FULL)], 10_000).in_place);
}

#[test]
fn a_pod_whose_claim_is_attached_to_an_old_pods_node_waits_for_that_one() {
    let preparing = PodFacts {
        node: Some("h100-2".into()),
        unschedulable: None,
        preparing_since: Some(at(0)),
        ready: false,
        ..pod("new", None)
    };
    let scene = |pods: &[PodFacts]| Scene { shared_claim: true, ..Scene::of(Some(&rolling(false)), pods) };
    let waits = scene(&[pod("old", None), preparing.clone()]);
    assert_eq!(waits.decide(40).next, Some(Duration::from_secs(GRACE + 60 - 40)));
    let rollout = waits.decide(GRACE + 60);
    assert!(rollout.in_place && rollout.why.contains("claim"), "{rollout:?}");
    // On one node the claim is there for both, and without a claim an old pod is in nobody's way.
    let same_node = PodFacts { node: Some("h100".into()), ..preparing.clone() };
    assert!(!scene(&[pod("old", None), same_node]).decide(10_000).in_place);
    assert!(!Scene { shared_claim: false, ..waits }.decide(10_000).in_place);
}

#[test]
fn pods_that_wait_for_something_else_do_not_count_as_lacking_accelerators() {
    let deployment = DeploymentFacts {
        replicas: 3,
        status_replicas: 3,
        updated_replicas: 1,
        available_replicas: 2,
        deadline_exceeded: true,
        ..rolling(true)
    };
    let of =
        |message: &str| auto(Some(&deployment), &[pod("old", None), pod("old", None), waiting(message)], 10_000).max_unavailable;
    assert_eq!(of(FULL), 2);
    assert_eq!(of("0/3 nodes are available: persistentvolumeclaim \"typo\" not found."), 1);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Pending { since: u64 },
    Loading { until: u64 },
    Ready,
    Terminating { until: u64, held: bool },
}

#[derive(Clone, Copy, Debug)]
struct Pod {
    version: usize,
    state: State,
}

impl Pod {
    fn lives(&self) -> bool {
        !matches!(self.state, State::Terminating { .. })
    }
}

/// Pods with one accelerator each, as Kubernetes moves them. The arithmetic of `controller` is that of
/// pkg/controller/deployment/rolling.go and util/deployment_util.go of Kubernetes 1.37.
struct Cluster {
    now: u64,
    wanted: usize,
    accelerators: usize,
    load_seconds: u64,
    drain_seconds: u64,
    progress_deadline: u64,
    version: usize,
    /// What the scheduler says of pods of the newest version, if no accelerator helps them.
    never_schedules: Option<&'static str>,
    scene: Scene,
    max_unavailable: usize,
    last_progress: u64,
    progress: (usize, usize, usize),
    pods: Vec<Pod>,
}

impl Cluster {
    fn count(&self, condition: impl Fn(&Pod) -> bool) -> usize {
        self.pods.iter().filter(|pod| pod.lives() && condition(pod)).count()
    }

    fn ready(&self) -> usize {
        self.count(|pod| pod.state == State::Ready)
    }

    fn old(&self) -> usize {
        self.count(|pod| pod.version != self.version)
    }

    fn change_template(&mut self) {
        self.version += 1;
        self.last_progress = self.now;
    }

    fn end(&mut self, index: usize) {
        let held = !matches!(self.pods[index].state, State::Pending { .. });
        let until = if held { self.now + self.drain_seconds } else { self.now };
        self.pods[index].state = State::Terminating { until, held };
    }

    fn end_old(&mut self, mut number: usize, condition: impl Fn(&Pod) -> bool) {
        for index in 0..self.pods.len() {
            let pod = self.pods[index];
            if number > 0 && pod.lives() && pod.version != self.version && condition(&pod) {
                self.end(index);
                number -= 1;
            }
        }
    }

    fn kubelet_and_scheduler(&mut self) {
        let now = self.now;
        let held = self.pods.iter().filter(|pod| match pod.state {
            State::Pending { .. } => false,
            State::Terminating { held, .. } => held,
            State::Loading { .. } | State::Ready => true,
        });
        let mut free = self.accelerators.saturating_sub(held.count());
        let (newest, never_schedules) = (self.version, self.never_schedules.is_some());
        for pod in self.pods.iter_mut().filter(|pod| !(never_schedules && pod.version == newest)) {
            if free > 0 && matches!(pod.state, State::Pending { .. }) {
                pod.state = State::Loading { until: now + self.load_seconds };
                free -= 1;
            }
        }
        // After the scheduler: for one step, accelerators are free and the pod that will get them still waits.
        self.pods.retain(|pod| !matches!(pod.state, State::Terminating { until, .. } if until <= now));
        for pod in &mut self.pods {
            if matches!(pod.state, State::Loading { until } if until <= now) {
                pod.state = State::Ready;
            }
        }
    }

    fn controller(&mut self) {
        let surge = usize::from(self.max_unavailable == 0);
        let total = self.count(|_| true);
        let new = total - self.old();
        let added = (self.wanted + surge).saturating_sub(total).min(self.wanted.saturating_sub(new));
        if added > 0 {
            let pod = Pod { version: self.version, state: State::Pending { since: self.now } };
            self.pods.extend(std::iter::repeat_n(pod, added));
        } else if self.old() > 0 {
            let minimum = self.wanted.saturating_sub(self.max_unavailable);
            let new_ready = self.count(|pod| pod.version == self.version && pod.state == State::Ready);
            let cleanup = total.saturating_sub(minimum + (new - new_ready));
            if cleanup > 0 {
                self.end_old(cleanup, |pod| pod.state != State::Ready);
                self.end_old(self.ready().saturating_sub(minimum), |pod| pod.state == State::Ready);
            }
        }
        let progress = (self.count(|pod| pod.version == self.version), self.ready(), self.old());
        if progress.0 > self.progress.0 || progress.1 > self.progress.1 || progress.2 < self.progress.2 {
            self.last_progress = self.now;
        }
        self.progress = progress;
    }

    fn number(count: usize) -> u32 {
        u32::try_from(count).unwrap()
    }

    fn facts(&self) -> (DeploymentFacts, Vec<PodFacts>) {
        let deployment = DeploymentFacts {
            generation: 1,
            observed_generation: 1,
            replicas: Self::number(self.wanted),
            in_place: self.max_unavailable > 0,
            status_replicas: Self::number(self.count(|_| true)),
            updated_replicas: Self::number(self.count(|pod| pod.version == self.version)),
            ready_replicas: Self::number(self.ready()),
            available_replicas: Self::number(self.ready()),
            deadline_exceeded: self.now - self.last_progress > self.progress_deadline,
            ..DeploymentFacts::default()
        };
        let pods = self.pods.iter().enumerate().map(|(index, facts)| {
            let message = self.never_schedules.filter(|_| facts.version == self.version).unwrap_or(FULL);
            let waits_since = match facts.state {
                State::Pending { since } => Some(since),
                State::Terminating { held: false, .. } => Some(0),
                _ => None,
            };
            PodFacts {
                name: index.to_string(),
                terminating: !facts.lives(),
                unschedulable: waits_since.and_then(|since| unschedulable(since, message)),
                ready: facts.state == State::Ready,
                ..pod(&facts.version.to_string(), waits_since)
            }
        });
        (deployment, pods.collect())
    }

    fn step(&mut self) {
        self.now += STEP;
        self.kubelet_and_scheduler();
        let (deployment, pods) = self.facts();
        (self.scene.deployment, self.scene.pods) = (Some(deployment), pods);
        let rollout = self.scene.decide(self.now);
        assert_eq!(rollout.in_place, rollout.max_unavailable > 0, "surge and unavailable are never both zero");
        self.max_unavailable = usize::try_from(rollout.max_unavailable).unwrap();
        self.controller();
    }

    fn settled(wanted: usize, accelerators: usize, load_seconds: u64, drain_seconds: u64) -> Self {
        let running = wanted.min(accelerators);
        let mut pods = vec![Pod { version: 0, state: State::Ready }; running];
        pods.extend(vec![Pod { version: 0, state: State::Pending { since: 0 } }; wanted - running]);
        Self {
            now: 0,
            wanted,
            accelerators,
            load_seconds,
            drain_seconds,
            progress_deadline: load_seconds + 600,
            version: 0,
            never_schedules: None,
            scene: Scene::of(None, &[]),
            max_unavailable: 0,
            last_progress: 0,
            progress: (wanted, running, 0),
            pods,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_scarce_accelerators_every_rollout_ends(
        wanted in 1_usize..5,
        accelerators in 1_usize..6,
        load in 5_u64..900,
        drain in 0_u64..=GRACE,
        changes in proptest::collection::vec(0_u64..3000, 1..4),
    ) {
        let mut cluster = Cluster::settled(wanted, accelerators, load, drain);
        let ends = |cluster: &Cluster| cluster.old() == 0 && cluster.ready() == wanted.min(accelerators);
        for wait in changes {
            cluster.change_template();
            (0..wait / STEP).for_each(|_| cluster.step());
        }
        // Each replica: the patience, a progress deadline where there are more replicas than accelerators, drain and load.
        let bound = (u64::try_from(wanted).unwrap() + 2) * (2 * (load + 600) + 2 * (GRACE + 60) + drain);
        (0..bound / STEP).for_each(|_| cluster.step());
        prop_assert!(ends(&cluster), "after {} s: {:?}", cluster.now, cluster.pods);
        (0..200).for_each(|_| cluster.step());
        prop_assert!(ends(&cluster), "it stays ended");
    }

    #[test]
    fn with_an_accelerator_to_spare_no_replica_is_ever_missing(
        wanted in 1_usize..5,
        spare in 1_usize..3,
        load in 5_u64..900,
        drain in 0_u64..=GRACE,
        changes in proptest::collection::vec(0_u64..3000, 1..4),
    ) {
        let mut cluster = Cluster::settled(wanted, wanted + spare, load, drain);
        for wait in changes {
            cluster.change_template();
            for _ in 0..wait / STEP {
                cluster.step();
                prop_assert!(cluster.ready() >= wanted, "at {} s: {:?}", cluster.now, cluster.pods);
            }
        }
    }

    #[test]
    fn a_template_that_never_schedules_takes_no_replica(
        wanted in 1_usize..5,
        accelerators in 1_usize..8,
        drain in 0_u64..=GRACE,
        message in prop_oneof![
            Just("0/3 nodes are available: persistentvolumeclaim \"typo\" not found."),
            Just("0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 Insufficient memory."),
        ],
    ) {
        let mut cluster = Cluster::settled(wanted, accelerators, 300, drain);
        let before = cluster.ready();
        cluster.change_template();
        cluster.never_schedules = Some(message);
        for _ in 0..3_000 / STEP {
            cluster.step();
            prop_assert_eq!(cluster.ready(), before, "at {} s: {:?}", cluster.now, cluster.pods);
        }
        // Corrected, it comes through.
        cluster.change_template();
        cluster.never_schedules = None;
        (0..15_000 / STEP).for_each(|_| cluster.step());
        prop_assert_eq!((cluster.old(), cluster.ready()), (0, wanted.min(accelerators)));
    }

    #[test]
    fn with_just_enough_accelerators_at_most_one_replica_is_missing(
        wanted in 2_usize..5,
        load in 5_u64..900,
        drain in 0_u64..=GRACE,
    ) {
        let mut cluster = Cluster::settled(wanted, wanted, load, drain);
        cluster.change_template();
        for _ in 0..20_000 / STEP {
            cluster.step();
            prop_assert!(cluster.ready() + 1 >= wanted, "at {} s: {:?}", cluster.now, cluster.pods);
        }
        prop_assert_eq!(cluster.old(), 0);
    }
}
