//! AgentPool: how many agents there should be, given their queues.
//!
//! [`decide()`] is the whole decision: [`scaling`] tells how many and who ends, [`act`] and [`children`] what is made of that,
//! [`workload`] and [`verdicts`] what the conditions say, [`figures`] which numbers are shown.
//!
//! What it is made from:
//!
//! * [`observation`], [`facts`]: all of it, and what is known of a queue.
//! * [`stream_backlog`], [`list_backlog`], [`prometheus_answer`]: from the replies of a server to a reading.
//! * [`refusal`], [`redis_refusal`]: an answer that is none, and what an error of Redis means.
//! * [`poll_schedule`]: when a queue is read next.
//!
//! [`simulation`] asks the same decision what would have happened with a trace of arrivals.

pub mod act;
pub mod children;
pub mod facts;
pub mod figures;
pub mod list_backlog;
pub mod observation;
pub mod poll_schedule;
pub mod prometheus_answer;
pub mod redis_refusal;
pub mod refusal;
pub mod scaling;
pub mod simulation;
pub mod stream_backlog;
pub mod verdicts;
pub mod workload;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use super::decision::{Children, Decision, Event};
use super::overdue::{self, Previous};
use super::readiness::{self, Readiness};
use crate::api::agent_pool::{AgentPoolSpec, AgentPoolStatus, LimitedBy, Prefer, ScalingDecision, TargetKind};
use crate::api::conditions::{reasons, types};
use observation::{Observation, Workload};
use scaling::demand::{self, Demand, Queue};
use scaling::explanation::explain;
use scaling::replicas::{Answer, Question, replicas};
use scaling::settings::Settings;
use scaling::share::Taker;
use scaling::victims::{Order, ScaleIn, scale_in};

/// The types of conditions that this decision writes.
pub const CONDITIONS: &[&str] = &[
    types::READY,
    types::RECONCILING,
    types::STALLED,
    types::SUSPENDED,
    types::SCHEMA_OUTDATED,
    types::ABLE_TO_SCALE,
    types::SCALING_ACTIVE,
    types::SCALING_LIMITED,
    types::METRICS_AVAILABLE,
];

/// Changes of the replicas that the status remembers.
const DECISIONS: usize = 10;

/// What the pool wants, and how far it can have that now.
struct Scaling {
    settings: Settings,
    demand: Demand,
    answer: Answer,
    ending: ScaleIn,
    current: u32,
}

/// What should exist for a pool, and what its status should say.
pub fn decide(observation: &Observation, now: Timestamp) -> Decision<AgentPoolStatus> {
    let pool = &observation.pool;
    let previous = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation;
    let scaling = scaling(observation, now);
    let mut status = shown(observation, &previous, scaling.as_ref().ok(), now);
    let mut verdicts = Vec::new();
    let mut made = Children::Keep;
    let mut patches = Vec::new();
    let (mut next, mut figures_due) = (None, None);
    let mut events = Vec::new();
    let ready = match &scaling {
        Err(problem) => problem.clone(),
        Ok(scaling) => {
            verdicts = verdicts::of(&observation.queues, &scaling.demand, &scaling.answer);
            next = [scaling.answer.next, scaling.ending.next].into_iter().flatten().min();
            let acted = act::act(observation, scaling.ending.replicas, &scaling.ending.victims, scaling.current);
            verdicts.push(acted.able);
            (made, patches) = (acted.children, acted.patches);
            events.extend(rescaled(&mut status, previous.desired_replicas, scaling, now));
            figures_due = figures_next(observation, scaling, &status, now);
            acted.ready
        }
    };
    let remembered = Previous {
        conditions: &previous.conditions,
        observed_generation: previous.observed_generation,
        waiting_since: previous.waiting_since.as_ref(),
    };
    let judged = overdue::judge(ready, remembered, generation, now);
    let suspended = pool.spec.suspend == Some(true);
    let verdicts = readiness::conditions(&judged.ready, verdicts, suspended, &observation.outdated_schema);
    events.extend(readiness::event(&previous.conditions, &judged.ready));
    status.observed_generation = generation;
    status.waiting_since = judged.since;
    status.conditions = conditions::merge(&previous.conditions, verdicts, CONDITIONS, generation, now);
    if suspended {
        (made, patches) = (Children::Keep, Vec::new());
    }
    let next = [next, judged.next, figures_due].into_iter().flatten().min();
    Decision { children: made, patches, status, events, next }
}

/// Takes down in the history what the pool wants now and what was done since. Whoever observes calls it before each decision
/// and keeps the history for the next observation.
pub fn remember(observation: &mut Observation, now: Timestamp) {
    let current = current(observation);
    let Ok(Scaling { settings, demand, ending, .. }) = scaling(observation, now) else { return };
    let history = &mut observation.history;
    if let Some(before) = history.replicas.replace(current) {
        history.change(now, before, current, settings.rules.longest_period());
    }
    if demand.own_tasks > 0 {
        history.last_active = Some(now);
    }
    if let Some(wanted) = demand.replicas {
        // While a queue cannot be read, what the others ask for says nothing about fewer.
        let wanted = if demand.unknown { wanted.max(current) } else { wanted };
        history.recommend(now, wanted, settings.rules.up.window, settings.rules.down.window);
    }
    history.ending_since = ending.held.then(|| history.ending_since.unwrap_or(now));
}

/// Replicas that there should be until now.
fn current(observation: &Observation) -> u32 {
    let before = observation.pool.status.as_ref().and_then(|status| status.desired_replicas).unwrap_or(0);
    match &observation.workload {
        Workload::Found(workload) => workload.replicas,
        _ => before,
    }
}

/// This pool as a taker of tasks.
pub fn taker(name: &str, spec: &AgentPoolSpec, settings: &Settings) -> Taker {
    let replicas = match spec.suspend {
        Some(true) => 0,
        _ => spec.replicas.unwrap_or(settings.most),
    };
    Taker {
        name: name.to_owned(),
        criticality: spec.criticality.unwrap_or_default(),
        capacity: u64::from(replicas) * u64::from(settings.tasks_per_replica()),
    }
}

fn scaling(observation: &Observation, now: Timestamp) -> Result<Scaling, Readiness> {
    let spec = &observation.pool.spec;
    let settings = Settings::of(spec).map_err(|error| Readiness::stalled(reasons::INVALID_SPEC, error.to_string()))?;
    if settings.least > settings.most {
        let message = format!(
            "spec.minReplicas is {} and spec.maxReplicas {}: lower the one, or raise the other",
            settings.least, settings.most
        );
        return Err(Readiness::stalled(reasons::INVALID_SPEC, message));
    }
    let current = current(observation);
    let name = observation.pool.metadata.name.as_deref().unwrap_or_default();
    let queues: Vec<Queue<'_>> = observation
        .queues
        .iter()
        .map(|facts| Queue { facts, others: observation.takers.get(&facts.name).map(Vec::as_slice).unwrap_or_default() })
        .collect();
    let demand = demand::demand(&queues, &taker(name, spec, &settings), &settings, current, &observation.history, now);
    let question = Question {
        settings: &settings,
        pinned: spec.replicas,
        suspended: spec.suspend == Some(true),
        demand: &demand,
        current,
        history: &observation.history,
    };
    let mut answer = replicas(&question, now);
    let mut ending = ScaleIn { replicas: answer.replicas, ..ScaleIn::default() };
    if answer.replicas < current {
        ending = end(observation, current, answer.replicas, now)?;
        if ending.held {
            (answer.replicas, answer.limited_by) = (ending.replicas, Some(LimitedBy::BusyAgents));
        }
    }
    Ok(Scaling { settings, demand, answer, ending, current })
}

/// How far the workload can be made smaller now.
fn end(observation: &Observation, current: u32, wanted: u32, now: Timestamp) -> Result<ScaleIn, Readiness> {
    let spec = observation.pool.spec.scale_in.clone().unwrap_or_default();
    let wait = spec
        .wait_for_idle
        .map(|wait| wait.to_std())
        .transpose()
        .map_err(|error| Readiness::stalled(reasons::INVALID_SPEC, format!("spec.scaleIn.waitForIdle: {error}")))?;
    let target = observation.pool.spec.target_ref.as_ref().map(|target| target.kind);
    let order = if target == Some(TargetKind::StatefulSet) { Order::ByOrdinal } else { Order::ByCost };
    if spec.prefer == Some(Prefer::Any) {
        return Ok(ScaleIn { replicas: wanted, ..ScaleIn::default() });
    }
    Ok(scale_in(&observation.agents, order, current, wanted, wait, observation.history.ending_since, now))
}

/// The status without conditions and generation.
fn shown(observation: &Observation, previous: &AgentPoolStatus, scaling: Option<&Scaling>, now: Timestamp) -> AgentPoolStatus {
    let name = observation.pool.metadata.name.as_deref().unwrap_or_default();
    let workload = act::workload(observation);
    let mut status = AgentPoolStatus {
        replicas: Some(workload.map_or(0, |workload| workload.status_replicas)),
        ready_replicas: Some(workload.map_or(0, |workload| workload.ready_replicas)),
        selector: act::selector(observation, name),
        ..previous.clone()
    };
    let Some(scaling) = scaling else { return status };
    status.desired_replicas = Some(scaling.ending.replicas);
    status.limited_by = scaling.answer.limited_by;
    let changed = status.desired_replicas != previous.desired_replicas || status.limited_by != previous.limited_by;
    if changed || previous.decision.is_none() {
        status.decision = Some(explain(&scaling.answer, &scaling.demand, &scaling.settings));
    }
    if figures::due(changed, observation.history.figures_changed, now) {
        let (depth, in_flight) = figures(&scaling.demand);
        (status.queue_depth, status.in_flight) = (depth, in_flight);
    }
    status
}

/// The figures to show, rounded. What is not known is not shown.
fn figures(demand: &Demand) -> (Option<u64>, Option<u64>) {
    let readable = !demand.unknown && demand.source != demand::Source::Nothing;
    let depth = readable.then(|| figures::rounded(demand.waiting));
    (depth, (readable && demand.in_flight_known).then(|| figures::rounded(demand.in_flight)))
}

/// When figures that are not shown yet may be.
fn figures_next(
    observation: &Observation,
    scaling: &Scaling,
    status: &AgentPoolStatus,
    now: Timestamp,
) -> Option<std::time::Duration> {
    let stale = figures(&scaling.demand) != (status.queue_depth, status.in_flight);
    stale.then(|| figures::wait(observation.history.figures_changed, now))
}

/// Takes a change of the replicas down in the status, and tells of it.
fn rescaled(status: &mut AgentPoolStatus, desired_before: Option<u32>, scaling: &Scaling, now: Timestamp) -> Option<Event> {
    let (from, to) = (scaling.current, scaling.ending.replicas);
    // Until the workload is seen to have them, the same change is decided again.
    if from == to || desired_before == Some(to) {
        return None;
    }
    let reason = explain(&scaling.answer, &scaling.demand, &scaling.settings);
    let note = format!("from {from} to {to} replicas: {reason}");
    status.decisions.insert(0, ScalingDecision { time: Time(now), from, to, reason });
    status.decisions.truncate(DECISIONS);
    Some(Event { warning: false, reason: reasons::SUCCESSFUL_RESCALE.to_owned(), note: conditions::truncated(note) })
}

#[cfg(test)]
mod decide_tests;
