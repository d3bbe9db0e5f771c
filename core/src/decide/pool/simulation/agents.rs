//! The agents of a pool in a simulation: what the operator sees of them, what it decides, and what becomes of them then.
//!
//! Agents begin to work some time after they are made, and finish what they have taken when they are asked to end.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::api::{AgentPool, AgentPoolStatus};
use crate::decide::backend::facts::DeploymentFacts;
use crate::decide::decision::{Children, Patch};
use crate::decide::pool::budgets::BudgetFacts;
use crate::decide::pool::facts::{QueueFacts, Reading};
use crate::decide::pool::observation::{Observation, Workload};
use crate::decide::pool::scaling::history::History;
use crate::decide::pool::scaling::victims::Agent;
use crate::decide::pool::{decide, remember};

/// The agents of a pool.
pub struct Agents {
    observation: Observation,
    /// None: the pool has no queue.
    queue: Option<String>,
    /// Tasks that an agent takes at a time.
    batch: usize,
    /// From when an agent is made until it takes its first task.
    start: SignedDuration,
    workers: Vec<Worker>,
    made: u64,
    desired: u32,
    /// Changes of the replicas.
    pub changes: u64,
    /// Agents that were asked to end while they had a task.
    pub ended_at_work: u64,
}

/// An agent.
pub struct Worker {
    /// Its tasks, under numbers that whoever simulates gives them.
    pub tasks: Vec<u64>,
    name: String,
    made: Timestamp,
    /// When it takes its first task.
    ready: Timestamp,
    /// It was asked to end.
    ending: bool,
    /// Its deletion was made cheap.
    cheap: bool,
}

impl Agents {
    /// A pool without agents so far. Tasks arrive in its first queue.
    pub fn new(pool: &AgentPool, start: Duration) -> Self {
        let mut pool = AgentPool { status: None, ..pool.clone() };
        // What its agents call is not the pool's matter: no key is needed.
        pool.spec.model_routes.clear();
        let queue = pool.spec.queues.first().map(|queue| queue.name.clone());
        let batch = pool.spec.batch.as_ref().and_then(|batch| batch.max_tasks).unwrap_or(1);
        let observation = Observation {
            observed_at: None,
            pool,
            queues: Vec::new(),
            takers: BTreeMap::new(),
            budgets: Vec::new(),
            history: History::default(),
            workload: Workload::Found(DeploymentFacts::default()),
            target_selector: None,
            agents: Vec::new(),
            pods: Vec::new(),
            cheap: Vec::new(),
            caller_secret: None,
            entropy: String::new(),
            refusals: Vec::new(),
            outdated_schema: Arc::default(),
        };
        Self {
            observation,
            queue,
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            start: SignedDuration::try_from(start).unwrap_or(SignedDuration::MAX),
            workers: Vec::new(),
            made: 0,
            desired: 0,
            changes: 0,
            ended_at_work: 0,
        }
    }

    /// What budgets say of the pool from now on.
    pub fn budgets(&mut self, budgets: Vec<BudgetFacts>) {
        self.observation.budgets = budgets;
    }

    /// The operator looks at the queue, in which so many tasks wait, the oldest for so long, and decides. Agents are made, and end.
    /// Returns when it wants to look again.
    pub fn look(&mut self, waiting: u64, oldest_waiting: Option<Duration>, now: Timestamp) -> Option<Duration> {
        self.observe(waiting, oldest_waiting, now);
        remember(&mut self.observation, now);
        let decision = decide(&self.observation, now);
        let wanted = decision.status.desired_replicas.unwrap_or(self.desired);
        let cheap: Vec<&str> =
            decision.patches.iter().filter(|patch| !is_cleared(patch)).map(|patch| patch.target.name.as_str()).collect();
        for worker in &mut self.workers {
            worker.cheap = cheap.contains(&worker.name.as_str());
        }
        if decision.children != Children::Keep && wanted != self.desired {
            self.changes += 1;
            self.desired = wanted;
        }
        self.bring(now);
        self.observation.pool.status = Some(decision.status);
        decision.next
    }

    /// What the operator said when it last looked.
    pub fn status(&self) -> Option<&AgentPoolStatus> {
        self.observation.pool.status.as_ref()
    }

    /// An agent that can take another task: it has begun to work, is not asked to end, and has fewer than it takes at a time.
    pub fn free(&mut self, now: Timestamp) -> Option<&mut Worker> {
        let batch = self.batch;
        self.workers.iter_mut().find(|worker| !worker.ending && worker.ready <= now && worker.tasks.len() < batch)
    }

    /// Ends tasks, and the agents that have waited for that. Returns how many tasks have ended.
    pub fn finish(&mut self, is_done: impl Fn(u64) -> bool) -> u64 {
        let mut done = 0;
        for worker in &mut self.workers {
            let before = worker.tasks.len();
            worker.tasks.retain(|task| !is_done(*task));
            done += number(before - worker.tasks.len());
        }
        self.bury();
        done
    }

    /// When the next agent begins to work that has not yet; none: all have that stay.
    pub fn next_ready(&self, now: Timestamp) -> Option<Timestamp> {
        self.workers.iter().filter(|worker| !worker.ending && worker.ready > now).map(|worker| worker.ready).min()
    }

    /// Tasks in flight.
    pub fn in_flight(&self) -> u64 {
        self.workers.iter().map(|worker| number(worker.tasks.len())).sum()
    }

    /// Replicas that there should be.
    pub fn desired(&self) -> u32 {
        self.desired
    }

    /// Agents that are there, with those that are starting and those that finish their last task.
    pub fn there(&self) -> u32 {
        count(self.workers.len())
    }

    /// Agents that have a task.
    pub fn at_work(&self) -> u32 {
        count(self.workers.iter().filter(|worker| !worker.tasks.is_empty()).count())
    }

    fn observe(&mut self, waiting: u64, oldest_waiting: Option<Duration>, now: Timestamp) {
        let reading = Reading { waiting, in_flight: Some(self.in_flight()), oldest_waiting, ..Reading::default() };
        let facts = |name: &String| QueueFacts { name: name.clone(), reading: Some(reading.clone()), failure: None };
        self.observation.queues = self.queue.iter().map(facts).collect();
        let living = || self.workers.iter().filter(|worker| !worker.ending);
        self.observation.agents = living()
            .map(|worker| Agent {
                name: worker.name.clone(),
                created: Some(worker.made),
                assigned: true,
                running: true,
                ready: worker.ready <= now,
                in_flight: Some(number(worker.tasks.len())),
            })
            .collect();
        let ready = count(living().filter(|worker| worker.ready <= now).count());
        self.observation.workload = Workload::Found(DeploymentFacts {
            replicas: self.desired,
            status_replicas: count(living().count()),
            updated_replicas: count(living().count()),
            ready_replicas: ready,
            available_replicas: ready,
            ..DeploymentFacts::default()
        });
    }

    /// Makes and ends agents as a ReplicaSet does: what is not ready, then what is cheap, then what is young ends first.
    fn bring(&mut self, now: Timestamp) {
        let desired = usize::try_from(self.desired).unwrap_or(usize::MAX);
        let mut living: Vec<&mut Worker> = self.workers.iter_mut().filter(|worker| !worker.ending).collect();
        living.sort_by_key(|worker| (worker.ready <= now, !worker.cheap, Reverse(worker.made)));
        let (there, surplus) = (living.len(), living.len().saturating_sub(desired));
        for worker in living.into_iter().take(surplus) {
            worker.ending = true;
            self.ended_at_work += u64::from(!worker.tasks.is_empty());
        }
        self.bury();
        for _ in there..desired {
            self.made += 1;
            let ready = now.checked_add(self.start).unwrap_or(Timestamp::MAX);
            let name = format!("agent-{}", self.made);
            self.workers.push(Worker { tasks: Vec::new(), name, made: now, ready, ending: false, cheap: false });
        }
    }

    fn bury(&mut self) {
        self.workers.retain(|worker| !worker.ending || !worker.tasks.is_empty());
    }
}

fn is_cleared(patch: &Patch) -> bool {
    let annotations = patch.patch.pointer("/metadata/annotations").and_then(serde_json::Value::as_object);
    annotations.is_some_and(|annotations| annotations.values().all(serde_json::Value::is_null))
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
