//! A pool against a trace of arrivals, with the decision that the operator makes: what would have happened.
//!
//! Time goes in whole seconds. Agents begin to work some time after they are made, take the oldest waiting tasks, as many at a
//! time as the pool's batch says, and finish what they have taken when they are asked to end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::facts::{QueueFacts, Reading};
use super::observation::{Observation, Workload};
use super::scaling::history::History;
use super::scaling::settings::{Settings, SettingsError};
use super::scaling::victims::Agent;
use super::{decide, remember};
use crate::api::agent_pool::LimitedBy;
use crate::api::{AgentPool, AgentPoolStatus};
use crate::decide::backend::facts::DeploymentFacts;
use crate::decide::decision::{Children, Patch};

/// Longest time that is simulated, in seconds: a week. A pool that never comes to rest ends there.
const LONGEST: u64 = 7 * 24 * 3600;

/// Tasks that arrive at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Seconds after the beginning.
    pub second: u64,
    /// How many tasks.
    pub tasks: u64,
    /// Seconds that each of them takes; the model's where absent.
    pub task_seconds: Option<u64>,
}

/// What is assumed about agents and tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Seconds that a task takes.
    pub task_seconds: u64,
    /// Seconds from when an agent is made until it takes its first task.
    pub start_seconds: u64,
    /// Seconds after which the simulation ends; until the pool has come to rest where absent.
    pub until: Option<u64>,
}

/// The state of a pool at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Seconds after the beginning.
    pub second: u64,
    /// Tasks that wait.
    pub waiting: u64,
    /// Tasks in flight.
    pub in_flight: u64,
    /// Replicas that there should be.
    pub desired: u32,
    /// Agents that are there, with those that are starting and those that finish their last task.
    pub agents: u32,
    /// What holds the replicas back.
    pub limited_by: Option<LimitedBy>,
    /// Why there should be as many.
    pub decision: String,
}

/// What would have happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Seconds until the end.
    pub seconds: u64,
    /// Tasks that were finished.
    pub tasks_done: u64,
    /// Tasks that still wait or are in flight at the end.
    pub tasks_left: u64,
    /// Seconds that tasks waited for an agent: the median, the 95th and the 99th percentile, and the longest.
    pub waits: Waits,
    /// The most agents at the same time.
    pub most_agents: u32,
    /// Seconds of all agents together.
    pub agent_seconds: u64,
    /// Share of these in which an agent had a task, in percent.
    pub busy_percent: u64,
    /// Agents that were asked to end while they had a task.
    pub ended_at_work: u64,
    /// Changes of the replicas.
    pub changes: u64,
    /// The pool at each look at its queue.
    pub moments: Vec<Moment>,
}

/// Seconds that tasks waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waits {
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub longest: u64,
}

/// A pool that cannot be simulated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// A setting cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no queue that tasks could arrive in.
    #[error("spec.queues is empty: name a queue, or there is nothing to follow")]
    NoQueue,
}

/// What would have happened to this pool with these arrivals, which all go to its first queue.
///
/// # Errors
///
/// A setting that cannot be read, and a pool without a queue.
pub fn simulate(pool: &AgentPool, arrivals: &[Arrival], model: Model) -> Result<Outcome, SimulationError> {
    let settings = Settings::of(&pool.spec)?;
    let queue = pool.spec.queues.first().ok_or(SimulationError::NoQueue)?.name.clone();
    let batch = pool.spec.batch.as_ref().and_then(|batch| batch.max_tasks).unwrap_or(1);
    let mut arrivals = arrivals.to_vec();
    arrivals.sort_by_key(|arrival| arrival.second);
    let mut world =
        World { arrivals: arrivals.into(), model, batch: usize::try_from(batch).unwrap_or(usize::MAX), ..World::new(pool, queue) };
    let poll = settings.poll_interval.as_secs().max(1);
    let mut due = 0;
    for second in 0..=model.until.unwrap_or(LONGEST).min(LONGEST) {
        world.pass_time(second);
        if second % poll == 0 || second >= due {
            let next = world.look(second);
            due = next.map_or(u64::MAX, |next| second.saturating_add(next.as_secs().max(1)));
        }
        world.count(second);
        if model.until.is_none() && world.rests() {
            break;
        }
    }
    Ok(world.outcome())
}

/// A task that waits.
struct Task {
    arrived: u64,
    seconds: u64,
}

/// An agent of the simulation.
struct Worker {
    name: String,
    made: u64,
    /// When each of its tasks ends.
    tasks: Vec<u64>,
    /// It was asked to end.
    ending: bool,
    /// Its deletion was made cheap.
    cheap: bool,
}

struct World {
    arrivals: VecDeque<Arrival>,
    model: Model,
    batch: usize,
    observation: Observation,
    queue: String,
    waiting: VecDeque<Task>,
    workers: Vec<Worker>,
    made: u64,
    desired: u32,
    waits: Vec<u64>,
    busy_seconds: u64,
    outcome: Outcome,
}

impl World {
    fn new(pool: &AgentPool, queue: String) -> Self {
        let mut pool = AgentPool { status: None, ..pool.clone() };
        // Nobody calls anything: no key is needed.
        pool.spec.model_routes.clear();
        let observation = Observation {
            observed_at: None,
            pool,
            queues: Vec::new(),
            takers: BTreeMap::new(),
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
            arrivals: VecDeque::new(),
            model: Model { task_seconds: 0, start_seconds: 0, until: None },
            batch: 1,
            observation,
            queue,
            waiting: VecDeque::new(),
            workers: Vec::new(),
            made: 0,
            desired: 0,
            waits: Vec::new(),
            busy_seconds: 0,
            outcome: Outcome::default(),
        }
    }

    /// Tasks arrive, end and are taken.
    fn pass_time(&mut self, second: u64) {
        while let Some(arrival) = self.arrivals.front().filter(|arrival| arrival.second <= second).cloned() {
            self.arrivals.pop_front();
            let seconds = arrival.task_seconds.unwrap_or(self.model.task_seconds);
            self.waiting.extend((0..arrival.tasks).map(|_| Task { arrived: arrival.second, seconds }));
        }
        for worker in &mut self.workers {
            let before = worker.tasks.len();
            worker.tasks.retain(|end| *end > second);
            self.outcome.tasks_done += number(before - worker.tasks.len());
        }
        self.workers.retain(|worker| !worker.ending || !worker.tasks.is_empty());
        for worker in self.workers.iter_mut().filter(|worker| !worker.ending) {
            if second < worker.made + self.model.start_seconds {
                continue;
            }
            while worker.tasks.len() < self.batch {
                let Some(task) = self.waiting.pop_front() else { return };
                self.waits.push(second.saturating_sub(task.arrived));
                worker.tasks.push(second + task.seconds.max(1));
            }
        }
    }

    /// The operator looks at the queue and decides. Returns when it wants to look again.
    fn look(&mut self, second: u64) -> Option<Duration> {
        let now = at(second);
        self.observe(second);
        remember(&mut self.observation, now);
        let decision = decide(&self.observation, now);
        let wanted = decision.status.desired_replicas.unwrap_or(self.desired);
        let cheap: Vec<&str> =
            decision.patches.iter().filter(|patch| !is_cleared(patch)).map(|patch| patch.target.name.as_str()).collect();
        for worker in &mut self.workers {
            worker.cheap = cheap.contains(&worker.name.as_str());
        }
        if decision.children != Children::Keep && wanted != self.desired {
            self.outcome.changes += 1;
            self.desired = wanted;
        }
        self.bring(second);
        self.outcome.moments.push(self.moment(second, &decision.status));
        self.observation.pool.status = Some(decision.status);
        decision.next
    }

    fn observe(&mut self, second: u64) {
        let in_flight: u64 = self.workers.iter().map(|worker| number(worker.tasks.len())).sum();
        let age = |arrived: u64| Duration::from_secs(second.saturating_sub(arrived));
        let oldest_waiting = self.waiting.front().map(|task| age(task.arrived));
        let reading =
            Reading { waiting: number(self.waiting.len()), in_flight: Some(in_flight), oldest_waiting, ..Reading::default() };
        self.observation.queues = vec![QueueFacts { name: self.queue.clone(), reading: Some(reading), failure: None }];
        let living = || self.workers.iter().filter(|worker| !worker.ending);
        let ready = |worker: &Worker| second >= worker.made + self.model.start_seconds;
        self.observation.agents = living()
            .map(|worker| Agent {
                name: worker.name.clone(),
                created: Some(at(worker.made)),
                assigned: true,
                running: true,
                ready: ready(worker),
                in_flight: Some(number(worker.tasks.len())),
            })
            .collect();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let ready = count(living().filter(|worker| ready(worker)).count());
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
    fn bring(&mut self, second: u64) {
        let start = self.model.start_seconds;
        let desired = usize::try_from(self.desired).unwrap_or(usize::MAX);
        let mut living: Vec<&mut Worker> = self.workers.iter_mut().filter(|worker| !worker.ending).collect();
        living.sort_by_key(|worker| (second >= worker.made + start, !worker.cheap, Reverse(worker.made)));
        let (there, surplus) = (living.len(), living.len().saturating_sub(desired));
        for worker in living.into_iter().take(surplus) {
            worker.ending = true;
            self.outcome.ended_at_work += u64::from(!worker.tasks.is_empty());
        }
        self.workers.retain(|worker| !worker.ending || !worker.tasks.is_empty());
        for _ in there..desired {
            self.made += 1;
            let name = format!("agent-{}", self.made);
            self.workers.push(Worker { name, made: second, tasks: Vec::new(), ending: false, cheap: false });
        }
    }

    fn moment(&self, second: u64, status: &AgentPoolStatus) -> Moment {
        Moment {
            second,
            waiting: number(self.waiting.len()),
            in_flight: self.workers.iter().map(|worker| number(worker.tasks.len())).sum(),
            desired: self.desired,
            agents: u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
            limited_by: status.limited_by,
            decision: status.decision.clone().unwrap_or_default(),
        }
    }

    fn count(&mut self, second: u64) {
        let agents = number(self.workers.len());
        self.outcome.seconds = second;
        self.outcome.agent_seconds += agents;
        self.busy_seconds += number(self.workers.iter().filter(|worker| !worker.tasks.is_empty()).count());
        self.outcome.most_agents = self.outcome.most_agents.max(u32::try_from(agents).unwrap_or(u32::MAX));
    }

    /// Whether nothing will happen any more.
    fn rests(&self) -> bool {
        let idle = self.arrivals.is_empty() && self.waiting.is_empty() && self.workers.iter().all(|worker| worker.tasks.is_empty());
        let least = self.observation.pool.spec.replicas.or(self.observation.pool.spec.min_replicas).unwrap_or(0);
        idle && self.desired <= least
    }

    fn outcome(mut self) -> Outcome {
        let in_flight: u64 = self.workers.iter().map(|worker| number(worker.tasks.len())).sum();
        let to_come: u64 = self.arrivals.iter().map(|arrival| arrival.tasks).sum();
        self.outcome.tasks_left = number(self.waiting.len()) + in_flight + to_come;
        self.outcome.busy_percent = (self.busy_seconds * 100).checked_div(self.outcome.agent_seconds).unwrap_or(0);
        self.waits.sort_unstable();
        let share = |percent: usize| self.waits.get((self.waits.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        self.outcome.waits = Waits {
            p50: share(50).unwrap_or(0),
            p95: share(95).unwrap_or(0),
            p99: share(99).unwrap_or(0),
            longest: self.waits.last().copied().unwrap_or(0),
        };
        self.outcome
    }
}

fn is_cleared(patch: &Patch) -> bool {
    let annotations = patch.patch.pointer("/metadata/annotations").and_then(serde_json::Value::as_object);
    annotations.is_some_and(|annotations| annotations.values().all(serde_json::Value::is_null))
}

fn at(second: u64) -> Timestamp {
    let since = SignedDuration::from_secs(i64::try_from(second).unwrap_or(i64::MAX));
    Timestamp::UNIX_EPOCH.checked_add(since).unwrap_or(Timestamp::MAX)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(more: serde_json::Value) -> AgentPool {
        let mut spec = json!({
            "template": { "spec": { "containers": [{ "name": "agent", "image": "coder:1" }] } },
            "queues": [{ "name": "tasks", "redisStream": { "url": "redis://redis:6379", "stream": "s", "group": "g" } }],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool", "metadata": { "name": "coder", "generation": 1 }, "spec": spec,
        }))
        .unwrap()
    }

    fn model() -> Model {
        Model { task_seconds: 30, start_seconds: 5, until: None }
    }

    fn burst(tasks: u64) -> Vec<Arrival> {
        vec![Arrival { second: 10, tasks, task_seconds: None }]
    }

    #[test]
    fn a_burst_is_worked_off_and_the_pool_comes_to_rest() {
        let outcome = simulate(&pool(json!({ "maxReplicas": 20 })), &burst(200), model()).unwrap();
        assert_eq!((outcome.tasks_done, outcome.tasks_left, outcome.most_agents), (200, 0, 20));
        assert_eq!(outcome.moments.last().unwrap().desired, 0);
        let first = outcome.moments.iter().find(|moment| moment.desired > 0).unwrap();
        assert_eq!((first.second, first.desired, first.limited_by), (10, 4, Some(LimitedBy::ScaleUpPolicy)));
        assert!(outcome.waits.p50 > 30 && outcome.waits.longest < 600, "{:?}", outcome.waits);
    }

    #[test]
    fn nobody_at_work_ends_where_the_pool_waits_for_idle_agents() {
        let arrivals: Vec<Arrival> =
            (0..40).map(|number| Arrival { second: number * 7, tasks: 1, task_seconds: Some(10 + number % 90) }).collect();
        let hasty = json!({ "scaling": { "cooldown": "5s", "behavior": { "scaleDown": { "stabilizationWindowSeconds": 0 } } } });
        let mut patient = hasty.clone();
        patient["scaleIn"] = json!({ "waitForIdle": "10m" });
        let outcome = simulate(&pool(patient), &arrivals, model()).unwrap();
        assert_eq!((outcome.tasks_done, outcome.ended_at_work), (40, 0));
        assert_eq!(simulate(&pool(hasty), &arrivals, model()).unwrap().tasks_done, 40, "who ends finishes its task");
    }

    #[test]
    fn a_pool_that_never_rests_ends_when_it_is_told() {
        let outcome = simulate(&pool(json!({ "replicas": 2 })), &burst(3), Model { until: Some(100), ..model() }).unwrap();
        assert_eq!((outcome.seconds, outcome.most_agents, outcome.tasks_done), (100, 2, 3));
        assert_eq!(outcome.changes, 1);
    }

    #[test]
    fn a_pool_without_a_queue_is_refused() {
        assert_eq!(simulate(&pool(json!({ "queues": [] })), &burst(1), model()).unwrap_err(), SimulationError::NoQueue);
    }
}
