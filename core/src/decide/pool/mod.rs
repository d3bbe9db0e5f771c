//! AgentPool: how many agents there should be, given their queues.
//!
//! [`decide()`] is the whole decision: [`scaling`] tells how many and who ends, [`act`] and [`children`] what is made of that,
//! [`workload`] and [`verdicts`] what the conditions say, [`figures`] which numbers are shown, [`budgets`] what budgets mean for it,
//! [`task_limits`] who holds its tasks to what.
//!
//! What it is made from:
//!
//! * [`caller`]: the key by which the agents call the gateway.
//! * [`secrets`]: those by which queues are read.
//! * [`observation`], [`facts`], [`agents`]: all of it, what is known of a queue, and of who works on its tasks.
//! * [`stream_backlog`], [`list_backlog`], [`prometheus_answer`]: from the replies of a server to a reading.
//! * [`refusal`], [`redis_refusal`]: an answer that is none, and what an error of Redis means.
//! * [`poll_schedule`]: when a queue is read next.
//!
//! [`simulation`] asks the same decision what would have happened with a trace of arrivals.

pub mod act;
pub mod agents;
pub mod budgets;
pub mod caller;
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
pub mod secrets;
pub mod simulation;
pub mod stream_backlog;
pub mod task_limits;
pub mod verdicts;
pub mod workload;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use super::decision::{Children, Decision, Event};
use super::overdue::{self, Previous};
use super::readiness::{self, Readiness, State};
use crate::api::agent_pool::{AgentPoolSpec, AgentPoolStatus, LimitedBy, Prefer, ScalingDecision, TargetKind};
use crate::api::conditions::{reasons, types};
use budgets::{BudgetFacts, Effect};
use observation::{Observation, Workload};
use scaling::demand::{self, Demand, Queue};
use scaling::explanation::explain;
use scaling::replicas::{Answer, Question, replicas};
use scaling::settings::{Mode, Settings};
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
    types::PAUSED_BY_BUDGET,
];

/// Time until a pool is looked at again whose queues or target nobody has looked at yet; they wake it before.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Changes of the replicas that the status remembers.
const DECISIONS: usize = 10;

/// What the pool wants, and how far it can have that now.
struct Scaling {
    settings: Settings,
    demand: Demand,
    answer: Answer,
    ending: ScaleIn,
    current: u32,
    /// A budget pauses the pool, and its agents stay: nobody would know how many to bring back.
    stays: bool,
}

/// What should exist for a pool, and what its status should say.
pub fn decide(observation: &Observation, now: Timestamp) -> Decision<AgentPoolStatus> {
    let pool = &observation.pool;
    let previous = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation;
    if waits_for_first_look(observation) && previous.observed_generation.is_some_and(|seen| seen >= 0) {
        // What was said and made stays until more is known than nothing.
        return Decision {
            children: Children::Keep,
            patches: Vec::new(),
            status: previous,
            events: Vec::new(),
            next: Some(FIRST_LOOK),
        };
    }
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
            let tells = |queue: &facts::QueueFacts| queue.reading.as_ref().is_none_or(|reading| reading.consumers.is_some());
            let knows_who_works =
                observation.queues.iter().all(tells) && observation.agents.iter().all(|agent| agent.in_flight.is_some());
            verdicts = verdicts::of(&observation.queues, &scaling.demand, &scaling.answer, knows_who_works);
            let read_again = secrets::read_again(&observation.queues);
            let acted = act::act(observation, scaling.ending.replicas, &scaling.ending.victims, scaling.current, now);
            let times = [scaling.answer.next, scaling.ending.next, scaling.demand.next, read_again, acted.next];
            next = times.into_iter().flatten().min();
            verdicts.push(acted.able);
            (made, patches) = (acted.children, acted.patches);
            if acted.scales {
                events.extend(rescaled(&mut status, previous.desired_replicas, scaling, &observation.budgets, now));
            }
            figures_due = figures_next(observation, scaling, &status, now);
            match (acted.ready.state, verdicts::never_read(&observation.queues)) {
                (State::Ready, Some(never_read)) if pool.spec.replicas.is_none() => never_read,
                _ => acted.ready,
            }
        }
    };
    let ready = match (&ready.state, &observation.workload) {
        (State::Progressing, Workload::None) if pool.spec.suspend == Some(true) => {
            Readiness::progressing(reasons::SUSPENDED, "spec.suspend is true: nothing is made until it is removed")
        }
        (State::Ready, _) => match task_limits::who_holds(&pool.spec) {
            Some(who_holds) => Readiness { message: format!("{}; {who_holds}", ready.message), ..ready },
            None => ready,
        },
        _ => ready,
    };
    let remembered = Previous {
        conditions: &previous.conditions,
        observed_generation: previous.observed_generation,
        waiting_since: previous.waiting_since.as_ref(),
    };
    let judged = overdue::judge(ready, remembered, generation, now);
    let suspended = pool.spec.suspend == Some(true);
    let pause = budgets::verdict(&observation.budgets, effect(suspended, scaling.as_ref().ok()));
    events.extend(budgets::event(&previous.conditions, &pause));
    verdicts.push(pause);
    let of_queues = verdicts::event(&previous.conditions, &verdicts);
    let verdicts = readiness::conditions(&judged.ready, verdicts, suspended, &observation.outdated_schema);
    // What is wrong with a queue can be why the pool is not ready: it is told once.
    let of_readiness = readiness::event(&previous.conditions, &judged.ready);
    let of_readiness = of_readiness.filter(|event| !verdicts::told(&previous.conditions, event));
    events.extend(of_queues.filter(|event| of_readiness.as_ref() != Some(event)));
    events.extend(of_readiness);
    status.observed_generation = generation;
    status.waiting_since = judged.since;
    status.conditions = conditions::merge(&previous.conditions, verdicts, CONDITIONS, generation, now);
    if suspended {
        (made, patches) = (Children::Keep, Vec::new());
    }
    let next = [next, judged.next, figures_due].into_iter().flatten().min();
    Decision { children: made, patches, status, events, next }
}

/// What a pause does to the agents.
fn effect(suspended: bool, scaling: Option<&Scaling>) -> Effect {
    match scaling {
        _ if suspended => Effect::Suspended,
        None => Effect::InvalidSpec,
        Some(scaling) if scaling.stays => Effect::NothingToGoBackTo,
        Some(_) => Effect::End,
    }
}

/// Whether the queues or the target have yet to be looked at for the first time, by this process or in this form of the spec.
fn waits_for_first_look(observation: &Observation) -> bool {
    let unread = |queue: &facts::QueueFacts| queue.reading.is_none() && queue.failure.is_none();
    let target = observation.pool.spec.target_ref.is_some() && observation.workload == Workload::None;
    target || observation.queues.iter().any(unread)
}

/// Takes down in the history what the pool wants now and what was done since. Whoever observes calls it before each decision
/// and keeps the history for the next observation.
pub fn remember(observation: &mut Observation, now: Timestamp) {
    let current = current(observation);
    if let Ok(settings) = Settings::of(&observation.pool.spec) {
        observation.history.held_until(now - SignedDuration::try_from(settings.poll_interval).unwrap_or_default());
    }
    let Ok(Scaling { settings, demand, ending, .. }) = scaling(observation, now) else { return };
    let history = &mut observation.history;
    if let Some(before) = history.replicas.replace(current) {
        history.change(now, before, current, settings.rules.longest_period().max(settings.poll_interval));
        if before == 0 && current > 0 {
            // Whoever has just been made gets the time of the cooldown to be of use.
            history.last_active = Some(now);
        }
    }
    // The wait is over, and not forgotten, until those that it was for have ended.
    let pending = ending.held || ending.replicas < current;
    history.ending_since = history.ending_since.filter(|_| pending).or(ending.held.then_some(now));
    let spec = &observation.pool.spec;
    if spec.replicas.is_some() || spec.suspend == Some(true) {
        // Once the queues decide again, what there was until then counts as wanted.
        history.last_active = (current > 0).then_some(now).or(history.last_active);
        history.recommend(now, current, settings.rules.up.window, settings.rules.down.window);
        return;
    }
    if demand.own_tasks > 0 {
        history.last_active = Some(now);
    }
    // What cannot be read has not become less.
    history.active = demand.own_tasks > 0 || (history.active && demand.unknown);
    if let Some(wanted) = demand.replicas {
        // While a queue cannot be read, what the others ask for says nothing about fewer.
        let wanted = if demand.unknown { wanted.max(current) } else { wanted };
        history.recommend(now, wanted, settings.rules.up.window, settings.rules.down.window);
    }
}

/// Replicas that there should be until now.
pub fn current(observation: &Observation) -> u32 {
    let before = observation.pool.status.as_ref().and_then(|status| status.desired_replicas).unwrap_or(0);
    act::workload(observation).map_or(before, |workload| workload.replicas)
}

/// This pool as a taker of tasks.
pub fn taker(name: &str, spec: &AgentPoolSpec, settings: &Settings) -> Taker {
    let replicas = match spec.suspend {
        Some(true) => 0,
        _ if spec.template.is_none() && spec.target_ref.is_none() => 0,
        _ => spec.replicas.unwrap_or(settings.most),
    };
    Taker {
        name: name.to_owned(),
        criticality: spec.criticality.unwrap_or_default(),
        capacity: u64::from(replicas) * u64::from(settings.tasks_per_replica()),
        held: 0,
    }
}

/// More tasks than this change nothing about this pool or the others that take from the same queue.
pub fn tasks_that_matter(settings: &Settings, own: &Taker, others: &[Taker]) -> u64 {
    let capacity = others.iter().fold(own.capacity, |sum, other| sum.saturating_add(other.capacity));
    let step = match settings.mode {
        Mode::Step { high, .. } => high,
        Mode::Proportional { .. } | Mode::Age { .. } => 0,
    };
    capacity.max(step).saturating_add(1)
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
        .map(|facts| Queue {
            facts,
            others: observation.takers.get(&facts.name).map(Vec::as_slice).unwrap_or_default(),
            held: agents::held(facts, observation.pods.iter().map(|pod| pod.name.as_str())),
        })
        .collect();
    let paused = budgets::pauses(&observation.budgets);
    let own = taker(name, spec, &settings);
    // A pool that is paused leaves its tasks to others that take from the same queue.
    let own = if paused { Taker { capacity: 0, ..own } } else { own };
    let demand = demand::demand(&queues, &own, &settings, current, &observation.history, now);
    let question = Question {
        settings: &settings,
        pinned: spec.replicas,
        suspended: spec.suspend == Some(true),
        paused,
        demand: &demand,
        current,
        history: &observation.history,
    };
    let mut answer = replicas(&question, now);
    let stays = paused && answer.limited_by != Some(LimitedBy::Budget);
    if spec.target_ref.is_some() && !matches!(observation.workload, Workload::Found(_)) {
        // Nothing is scaled.
        (answer.replicas, answer.limited_by, answer.next) = (current, None, None);
    }
    let mut ending = ScaleIn { replicas: answer.replicas, ..ScaleIn::default() };
    if answer.replicas < current {
        ending = end(observation, current, answer.replicas, now)?;
        if ending.held {
            answer.replicas = ending.replicas;
            // That busy agents are waited for is part of a pause.
            answer.limited_by = answer.limited_by.filter(|by| *by == LimitedBy::Budget).or(Some(LimitedBy::BusyAgents));
        }
    }
    Ok(Scaling { settings, demand, answer, ending, current, stays })
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
        budgets: budgets::shown(&observation.budgets),
        budget_summary: budgets::summary(&observation.budgets),
        ..previous.clone()
    };
    let Some(scaling) = scaling else { return status };
    status.desired_replicas = Some(scaling.ending.replicas);
    status.limited_by = scaling.answer.limited_by;
    let changed = status.desired_replicas != previous.desired_replicas || status.limited_by != previous.limited_by;
    // A pause may be that of another budget than before.
    if changed || previous.decision.is_none() || status.limited_by == Some(LimitedBy::Budget) {
        status.decision = Some(explain(&scaling.answer, &scaling.demand, &scaling.settings, &observation.budgets));
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
fn rescaled(
    status: &mut AgentPoolStatus,
    desired_before: Option<u32>,
    scaling: &Scaling,
    budgets: &[BudgetFacts],
    now: Timestamp,
) -> Option<Event> {
    let (from, to) = (scaling.current, scaling.ending.replicas);
    // Until the workload is seen to have them, the same change is decided again.
    if from == to || desired_before == Some(to) {
        return None;
    }
    let reason = explain(&scaling.answer, &scaling.demand, &scaling.settings, budgets);
    let note = format!("from {from} to {to} replicas: {reason}");
    status.decisions.insert(0, ScalingDecision { time: Time(now), from, to, reason });
    status.decisions.truncate(DECISIONS);
    Some(Event { warning: false, reason: reasons::SUCCESSFUL_RESCALE.to_owned(), note: conditions::truncated(note) })
}

#[cfg(test)]
mod decide_budget_tests;
#[cfg(test)]
mod decide_tests;
