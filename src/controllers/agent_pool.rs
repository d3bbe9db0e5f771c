//! AgentPool: what is observed of a pool.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use quartermaster_core::api::queue::QueueSpec;
use quartermaster_core::api::{AgentPool, TokenBudget};
use quartermaster_core::decide::backend::facts::{PodFacts, SecretFacts};
use quartermaster_core::decide::decision::{Decision, Refusal};
use quartermaster_core::decide::pool::agents::{are_named_after_pods, held, tasks_in_flight};
use quartermaster_core::decide::pool::caller::CallerSecret;
use quartermaster_core::decide::pool::facts::{Failure, QueueFacts};
use quartermaster_core::decide::pool::observation::{Observation, Workload};
use quartermaster_core::decide::pool::scaling::history::{Change, History};
use quartermaster_core::decide::pool::scaling::settings::Settings;
use quartermaster_core::decide::pool::scaling::share::Taker;
use quartermaster_core::decide::pool::scaling::victims::Agent;
use quartermaster_core::decide::pool::{self, budgets, children, secrets as references};
use serde_json::Value;
use tokio::sync::watch;

use super::cut::{CachedAgent, CachedAutoscaler, scale_target};
use super::entropy::entropy;
use super::namespace_budgets::NamespaceBudgets;
use super::pool_queues::{Register, access, subscription, target_of, url};
use super::referrers::Referrers;
use super::target::Targets;
use crate::operate::cache::Cache;
use crate::operate::children::{
    ChildFacts, ChildKind, DEPLOYMENT, POD, POD_DISRUPTION_BUDGET, SECRET, SERVICE_ACCOUNT, STATEFUL_SET,
};
use crate::operate::control::{Control, DecideError};
use crate::operate::key::ObjectKey;
use crate::operate::object::Stored;
use crate::operate::poller::{Poller, Subscription};
use crate::sources::secrets::{Secrets, Values};

/// The controller of AgentPools.
pub struct Pools {
    /// The Deployments.
    pub deployments: Arc<Cache<ChildFacts>>,
    /// The pods of pools that make their own.
    pub agents: Arc<Cache<CachedAgent>>,
    /// The HorizontalPodAutoscalers.
    pub autoscalers: Arc<Cache<CachedAutoscaler>>,
    /// What pools scale and do not own.
    pub targets: Targets,
    /// Which pools there are, and what they have in common.
    pub register: Register,
    /// The metadata of Secrets.
    pub secret_metadata: Arc<Cache<ChildFacts>>,
    /// The values of the Secrets that queues refer to.
    pub secrets: Secrets,
    /// Which pools refer to a Secret.
    pub referrers: Referrers<ObjectKey>,
    /// The TokenBudgets.
    pub budgets: Arc<Cache<Stored<TokenBudget>>>,
    /// What reads the queues.
    pub poller: Poller,
    /// What is remembered of each pool.
    pub records: Mutex<HashMap<ObjectKey, Record>>,
    /// Fields that the served schema lacks.
    pub outdated_schema: watch::Receiver<Arc<Vec<String>>>,
}

/// What is remembered of a pool between two looks. A new process begins without.
#[derive(Default)]
pub struct Record {
    uid: String,
    /// What the pool wanted and what was done; none before its workload is known.
    history: Option<History>,
    /// The figures of the status when it was last looked, and when they became others.
    figures: (Option<u64>, Option<u64>),
    figures_changed: Option<Timestamp>,
    /// The consumers of the queues bear the names of pods, as was seen at least once.
    named_after_pods: bool,
    /// Queues that cannot be read for want of a Secret.
    failures: BTreeMap<String, Failure>,
    /// How queues were last read.
    subscriptions: BTreeMap<String, Subscription>,
}

/// What runs the agents of a pool, and they themselves.
struct Running {
    workload: Workload,
    selector: Option<String>,
    agents: Vec<CachedAgent>,
}

impl Control for Pools {
    type Object = AgentPool;
    type Observation = Observation;

    const KIND: ChildKind =
        ChildKind { kind: "AgentPool", group: "quartermaster.dev", version: "v1alpha1", plural: "agentpools", watched_whole: true };
    const MANAGER: &'static str = "quartermaster-agentpool";
    const CHILDREN: &'static [ChildKind] = &[SERVICE_ACCOUNT, SECRET, DEPLOYMENT, POD_DISRUPTION_BUDGET];
    const PATCHED: &'static [ChildKind] = &[POD, DEPLOYMENT, STATEFUL_SET];
    const CONDITIONS: &'static [&'static str] = pool::CONDITIONS;

    async fn observe(&self, object: Arc<AgentPool>, refusals: Vec<Refusal>) -> Observation {
        let key = ObjectKey::of(object.as_ref());
        let now = Timestamp::now();
        let Running { workload, selector, agents } = self.running(&key, &object);
        let (secrets, values) = self.read_secrets(&key, &object).await;
        let of_queue = |queue: &QueueSpec| (queue.name.clone(), self.register.takers(&key, queue));
        let mut takers: BTreeMap<String, Vec<Taker>> = object.spec.queues.iter().map(of_queue).collect();
        let namespace_budgets = NamespaceBudgets::of(&self.budgets, &key.namespace);
        let by_name = namespace_budgets.by_name();
        // Whom a budget pauses leaves its tasks to this pool.
        for taker in takers.values_mut().flatten().filter(|taker| budgets::pauses(&budgets::of(&by_name, &taker.name))) {
            taker.capacity = 0;
        }
        let mut record = self.take_record(&key, &object);
        let pods: Vec<String> = agents.iter().map(|agent| agent.facts.name.clone()).collect();
        let queues = self.read_queues(&key, &object, &mut record, &secrets, &values, &takers, &pods, now);
        let alive = || agents.iter().filter(|agent| !agent.ended && !agent.facts.terminating);
        self.tell_held(&key, &queues, &mut takers);
        record.named_after_pods |= are_named_after_pods(&queues, pods.iter().map(String::as_str));
        let tasks = tasks_in_flight(&queues, alive().map(|agent| agent.facts.name.as_str()), record.named_after_pods);
        let mut observation = Observation {
            observed_at: None,
            queues,
            takers,
            budgets: budgets::of(&by_name, &key.name),
            history: record.history.clone().unwrap_or_default(),
            workload,
            target_selector: selector,
            agents: alive().map(|agent| judged(agent, tasks.as_ref())).collect(),
            pods: agents.iter().map(shown).collect(),
            cheap: alive().filter(|agent| agent.cheap).map(|agent| agent.facts.name.clone()).collect(),
            caller_secret: self.caller_secret(&key, &object),
            entropy: entropy(),
            refusals,
            outdated_schema: self.outdated_schema.borrow().clone(),
            pool: AgentPool::clone(&object),
        };
        let knows_its_size = knows_its_size(&observation);
        if knows_its_size && observation.history.replicas.is_none() {
            observation.history = beginning(&observation, now);
        }
        observation.history.figures_changed = record.figures_changed;
        if knows_its_size {
            pool::remember(&mut observation, now);
            record.history = Some(observation.history.clone());
        }
        self.lock_records().insert(key, record);
        observation
    }

    fn decide(observation: &Observation, now: Timestamp) -> Result<Decision<Value>, DecideError> {
        Ok(pool::decide(observation, now).into_json()?)
    }

    fn has_seen_patch(&self, key: &ObjectKey, kind: &str, resource_version: u64) -> bool {
        let of_pods = kind == POD.kind;
        let seen = self.targets.has_seen(key, of_pods, resource_version);
        seen.unwrap_or_else(|| of_pods && self.agents.has_seen(&key.namespace, resource_version))
    }

    fn forget(&self, key: &ObjectKey) {
        self.poller.forget(key);
        self.targets.forget(key);
        self.lock_records().remove(key);
        self.refer(key, HashSet::new());
    }
}

impl Pools {
    /// What is known of the Secret with the pool's key, if that is the pool's own.
    fn caller_secret(&self, key: &ObjectKey, object: &AgentPool) -> Option<CallerSecret> {
        let name = ObjectKey::new(key.namespace.clone(), children::caller_secret::name(&key.name));
        let facts = self.secret_metadata.get(&name)?;
        (facts.owner_uid == object.metadata.uid).then(|| CallerSecret::of(&facts.annotations))
    }

    /// What runs the agents, and all their pods.
    fn running(&self, key: &ObjectKey, object: &AgentPool) -> Running {
        let Some(target) = &object.spec.target_ref else {
            self.targets.forget(key);
            let child = ObjectKey::new(key.namespace.clone(), children::child_name(&key.name));
            let ours = |facts: &Arc<ChildFacts>| facts.owner_uid.as_deref() == object.metadata.uid.as_deref();
            let deployment = self.deployments.get(&child).filter(ours).and_then(|facts| facts.deployment.as_deref().cloned());
            let scaled = scale_target(&key.namespace, DEPLOYMENT.kind, &child.name);
            let workload = match (deployment, self.autoscaler(&scaled)) {
                (Some(workload), Some(by)) => Workload::TargetInUse { by, workload },
                (Some(workload), None) => Workload::Found(workload),
                (None, _) => Workload::None,
            };
            let agents = self.agents.owned_by(&key.to_string()).into_iter().map(|(_, agent)| CachedAgent::clone(&agent)).collect();
            return Running { workload, selector: None, agents };
        };
        let found = self.targets.read(key, target);
        let scaled = target_of(&key.namespace, target);
        let other = || self.register.holder(key, target).map(|pool| format!("AgentPool {}", pool.name));
        let workload = match (found.workload, found.owner.or_else(|| self.autoscaler(&scaled)).or_else(other)) {
            (Workload::Found(workload), Some(by)) => Workload::TargetInUse { by, workload },
            (workload, _) => workload,
        };
        Running { workload, selector: found.selector, agents: found.agents }
    }

    /// Who else scales something, as it is told.
    fn autoscaler(&self, scaled: &str) -> Option<String> {
        let (autoscaler, _) = self.autoscalers.owned_by(scaled).into_iter().next()?;
        Some(format!("HorizontalPodAutoscaler {}", autoscaler.name))
    }

    /// Tells of the other pools what their agents hold of each queue.
    fn tell_held(&self, key: &ObjectKey, queues: &[QueueFacts], takers: &mut BTreeMap<String, Vec<Taker>>) {
        for queue in queues {
            for taker in takers.get_mut(&queue.name).into_iter().flatten() {
                let other = ObjectKey::new(key.namespace.clone(), taker.name.clone());
                let mut pods = self.targets.pods(&other);
                pods.extend(self.agents.owned_by(&other.to_string()).into_iter().map(|(pod, _)| pod.name));
                taker.held = held(queue, pods.iter().map(String::as_str));
            }
        }
    }

    async fn read_secrets(
        &self,
        key: &ObjectKey,
        object: &AgentPool,
    ) -> (BTreeMap<String, SecretFacts>, BTreeMap<String, Arc<Values>>) {
        let references = object.spec.queues.iter().flat_map(references::of_queue);
        let names: BTreeSet<String> = references.map(|reference| reference.target.name.clone()).collect();
        self.refer(key, names.iter().map(|name| ObjectKey::new(key.namespace.clone(), name.clone())).collect());
        self.secrets.read_all(&key.namespace, names, &self.secret_metadata).await
    }

    /// The pool refers to these Secrets from now on. The values of those that nobody refers to any more are dropped.
    fn refer(&self, key: &ObjectKey, secrets: HashSet<ObjectKey>) {
        self.referrers.set(key, secrets).iter().for_each(|left| self.secrets.forget(left));
    }

    /// Sees to it that the queues are read, and tells what is known of them, in the order of the spec.
    #[allow(clippy::too_many_arguments)] // All that a queue depends on.
    fn read_queues(
        &self,
        key: &ObjectKey,
        object: &AgentPool,
        record: &mut Record,
        secrets: &BTreeMap<String, SecretFacts>,
        values: &BTreeMap<String, Arc<Values>>,
        takers: &BTreeMap<String, Vec<Taker>>,
        pods: &[String],
        now: Timestamp,
    ) -> Vec<QueueFacts> {
        // The decision says what is wrong with the spec.
        let Ok(settings) = Settings::of(&object.spec) else {
            self.poller.forget(key);
            return Vec::new();
        };
        let own = pool::taker(&key.name, &object.spec, &settings);
        let mut failures = BTreeMap::new();
        let mut subscriptions = BTreeMap::new();
        for queue in &object.spec.queues {
            let others = takers.get(&queue.name).map(Vec::as_slice).unwrap_or_default();
            let since = record.failures.get(&queue.name).map_or(now, |failure| failure.since);
            let access = match references::failure(queue, secrets, since) {
                None => access(queue, values),
                Some(failure) => {
                    // A Secret that cannot be read for the moment is most likely what it was: it goes on with that.
                    let earlier = record.subscriptions.get(&queue.name).filter(|_| references::is_unreadable(queue, secrets));
                    let earlier = earlier.filter(|earlier| Some(&earlier.endpoint.url) == url(queue).as_ref());
                    if earlier.is_none() {
                        failures.insert(queue.name.clone(), failure);
                    }
                    earlier.map(|earlier| (earlier.endpoint.credential.clone(), earlier.endpoint.tls.clone()))
                }
            };
            let read = access.and_then(|access| subscription(queue, &key.namespace, access, pods, &settings, &own, others));
            subscriptions.extend(read.map(|read| (queue.name.clone(), read)));
        }
        let in_order = |queue: &QueueSpec| subscriptions.get(&queue.name).cloned();
        self.poller.ensure(key, object.spec.queues.iter().filter_map(in_order).collect());
        let mut facts: BTreeMap<String, QueueFacts> =
            self.poller.facts(key).into_iter().map(|facts| (facts.name.clone(), facts)).collect();
        (record.failures, record.subscriptions) = (failures, subscriptions);
        let of = |queue: &QueueSpec| {
            let known = facts.remove(&queue.name);
            let mut known = known.unwrap_or_else(|| QueueFacts { name: queue.name.clone(), reading: None, failure: None });
            if let Some(failure) = record.failures.get(&queue.name) {
                known.failure = Some(failure.clone());
            }
            known
        };
        object.spec.queues.iter().map(of).collect()
    }

    /// What is remembered of the pool; nothing of an earlier one of the same name.
    fn take_record(&self, key: &ObjectKey, object: &AgentPool) -> Record {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let figures = object.status.as_ref().map(|status| (status.queue_depth, status.in_flight)).unwrap_or_default();
        let known = self.lock_records().remove(key).filter(|record| record.uid == uid);
        let Some(mut record) = known else { return Record { uid, figures, ..Record::default() } };
        if record.figures != figures {
            (record.figures, record.figures_changed) = (figures, Some(Timestamp::now()));
        }
        record
    }

    /// Replicas that the queues of a pool asked for when it was last looked, before anything held them back.
    pub fn wanted(&self, key: &ObjectKey) -> Option<u32> {
        let records = self.lock_records();
        records.get(key)?.history.as_ref()?.recommendations.last().map(|recommendation| recommendation.replicas)
    }

    fn lock_records(&self) -> MutexGuard<'_, HashMap<ObjectKey, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the present size of the pool is known: that of a target is not before it was read.
fn knows_its_size(observation: &Observation) -> bool {
    observation.pool.spec.target_ref.is_none() || matches!(observation.workload, Workload::Found(_))
}

/// The history of a pool that this process sees for the first time: what the status remembers of changes still counts.
fn beginning(observation: &Observation, now: Timestamp) -> History {
    let status = observation.pool.status.clone().unwrap_or_default();
    let changes = status.decisions.iter().rev();
    let changes = changes.map(|change| Change { at: change.time.0, from: change.from, to: change.to }).collect();
    History::beginning(now, pool::current(observation), changes)
}

/// A pod as a decision looks at it, with the tasks that it works on, where that is known.
fn judged(agent: &CachedAgent, tasks: Option<&BTreeMap<&str, u64>>) -> Agent {
    let PodFacts { name, created, node, ready, .. } = &agent.facts;
    Agent {
        name: name.clone(),
        created: *created,
        assigned: node.is_some(),
        running: agent.running,
        ready: *ready,
        in_flight: tasks.and_then(|tasks| tasks.get(name.as_str()).copied()),
    }
}

/// What a pod tells of what keeps it from running. What it requests of a node decides nothing here.
fn shown(agent: &CachedAgent) -> PodFacts {
    PodFacts { requests: BTreeMap::new(), ..agent.facts.clone() }
}
