//! TokenBudget: what may be spent, how far it is used, and what that means for whom.
//!
//! [`decide()`] is the whole decision about a budget: its status, for people and for the other kinds. What the accounts and the
//! gateways are told is made by the same rules: [`terms`] and [`verdict`] take the budget with the status that was written
//! last. So a step that is taken is in the status first, and whoever leads next knows of it.
//!
//! What the decision is made from:
//!
//! * [`observation`]: all that it looks at.
//! * [`check`]: what is wrong with a spec, and what it says with all defaults.
//! * [`period`], [`limit`]: the time for which a limit is, and how much it is.
//! * [`in_force`]: what of all that is in force; [`unreadable`]: where the object cannot be read.
//! * [`matches`], [`share`]: whose calls count, and who may use how much.
//! * [`thresholds`]: the ladder, whose steps are taken once.
//! * [`forecast`]: how long what is left lasts.
//!
//! What is made of it:
//!
//! * [`verdict`]: what it means for each caller and route, and what all budgets mean together.
//! * [`terms`]: what the accounts hold to.
//! * [`status`], [`conditions`]: what is shown.
//! * [`consumers`]: what pools, routes and backends find about themselves in the status; [`concerned`]: who of them finds
//!   another thing there than before.
//! * [`confirmation`]: whether somebody has confirmed what was made in place of a lost ledger.

pub mod check;
pub mod concerned;
pub mod conditions;
pub mod confirmation;
pub mod consumers;
pub mod forecast;
pub mod in_force;
pub mod limit;
pub mod matches;
pub mod observation;
pub mod period;
pub mod share;
pub mod status;
pub mod terms;
pub mod thresholds;
pub mod unreadable;
pub mod verdict;

#[cfg(test)]
mod testing;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use self::check::Problem;
use self::in_force::{InForce, State};
use self::observation::{AccountFacts, Accounts, Observation, PerUnit};
use self::status::{Touched, Written};
use self::thresholds::{Ladder, Used};
use self::verdict::{Remembered, Standing};
use super::conditions::Verdict;
use super::decision::{Children, Decision, Event};
use super::overdue::{self, Previous};
use super::readiness::{self, Readiness};
use crate::api::conditions::{reasons, types};
use crate::api::token_budget::{Enforcement, ThresholdAction};
use crate::api::token_budget_status::{Phase, TokenBudgetStatus, VerdictLevel, VerdictStatus, VerdictStep};
use crate::decide::account::{Limits, Unit};

/// The types of conditions that this decision writes.
pub const CONDITIONS: &[&str] = &[
    types::READY,
    types::RECONCILING,
    types::STALLED,
    types::SUSPENDED,
    types::SCHEMA_OUTDATED,
    types::USAGE_KNOWN,
    types::EXHAUSTED,
    types::ON_TRACK,
];

/// Time until a budget is looked at again of whose use nothing is known; its accounts wake it before.
const FIRST_LOOK: Duration = Duration::from_secs(10);

/// Time until a budget is looked at again whose accounts have yet to take up a new period or a new unit; they wake it before.
const TAKING_UP: Duration = Duration::from_secs(1);

/// The longest time until a budget is looked at again that waits for something.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What is decided, before what all kinds have in common.
struct Found {
    /// Without conditions and generation.
    status: TokenBudgetStatus,
    ready: Readiness,
    /// The conditions of this kind.
    verdicts: Vec<Verdict>,
    events: Vec<Event>,
    next: Option<Duration>,
}

/// What the status of a budget should say.
pub fn decide(observation: &Observation, now: Timestamp) -> Decision<TokenBudgetStatus> {
    let budget = &observation.budget;
    let previous = budget.status.clone().unwrap_or_default();
    let checked = check::check(&budget.spec);
    let problems = checked.as_ref().err().map(Vec::as_slice).unwrap_or_default();
    let accounts = observation.accounts.as_ref();
    let in_force = in_force::of(budget, checked.as_ref().ok(), &observation.pools, accounts, now);
    let is_new = previous.observed_generation.is_none_or(|seen| seen < 0);
    let found = match &in_force {
        None => nothing(observation, problems),
        Some(in_force) if in_force.state == State::Before => not_started(observation, in_force, &previous, now),
        Some(in_force) => match known(in_force, accounts) {
            Some((accounts, units)) => counted(observation, in_force, accounts, &units, &previous, now),
            None if !is_new && problems.is_empty() && observation.unknown_because.is_none() => {
                // What was said stays until more is known than nothing.
                let next = Some(if accounts.is_some() { TAKING_UP } else { FIRST_LOOK });
                let status = previous;
                return Decision { children: Children::Keep, patches: Vec::new(), status, events: Vec::new(), next };
            }
            None => unknown(observation, in_force, &previous, is_new),
        },
    };
    let ready = conditions::invalid(problems, in_force.as_ref()).unwrap_or(found.ready);
    finish(observation, &previous, Found { ready, ..found }, now)
}

/// What all kinds have in common.
fn finish(observation: &Observation, previous: &TokenBudgetStatus, found: Found, now: Timestamp) -> Decision<TokenBudgetStatus> {
    let generation = observation.budget.metadata.generation;
    let remembered = Previous {
        conditions: &previous.conditions,
        observed_generation: previous.observed_generation,
        waiting_since: previous.waiting_since.as_ref(),
    };
    let judged = overdue::judge(found.ready, remembered, generation, now);
    let mut events = found.events;
    let usage = found.verdicts.iter().find(|verdict| verdict.type_ == types::USAGE_KNOWN);
    events.extend(usage.and_then(|usage| conditions::usage_event(&previous.conditions, usage)));
    events.extend(readiness::event(&previous.conditions, &judged.ready));
    let suspended = observation.budget.spec.suspend == Some(true);
    let verdicts = readiness::conditions(&judged.ready, found.verdicts, suspended, &observation.outdated_schema);
    let status = TokenBudgetStatus {
        observed_generation: generation,
        conditions: super::conditions::merge(&previous.conditions, verdicts, CONDITIONS, generation, now),
        waiting_since: judged.since,
        ..found.status
    };
    let next = [found.next, judged.next].into_iter().flatten().min();
    Decision { children: Children::Keep, patches: Vec::new(), status, events, next }
}

/// What the accounts say of what is in force; none: they say nothing, or have yet to take it up.
fn known<'a>(in_force: &InForce, accounts: Option<&'a Accounts>) -> Option<(&'a Accounts, PerUnit<AccountFacts>)> {
    let accounts = accounts.filter(|accounts| accounts.period == in_force.period.id)?;
    Some((accounts, verdict::units(in_force.limits, accounts)?))
}

/// A budget that never came into force.
fn nothing(observation: &Observation, problems: &[Problem]) -> Found {
    let because = problems.first().map(|problem| problem.message.as_str());
    Found {
        status: status::of_spec(observation, None, &Touched::default()),
        ready: conditions::unknown(None),
        verdicts: conditions::none_known(because),
        events: Vec::new(),
        next: None,
    }
}

fn not_started(observation: &Observation, in_force: &InForce, previous: &TokenBudgetStatus, now: Timestamp) -> Found {
    let touched = Touched::of(&in_force.covers, observation);
    let status = status::of_spec(observation, Some(in_force), &touched);
    Found {
        status: TokenBudgetStatus { extensions: previous.extensions.clone(), history: previous.history.clone(), ..status },
        ready: conditions::ready(observation, in_force, false, now),
        verdicts: conditions::not_started(),
        events: Vec::new(),
        next: Some(until(in_force.period.start, now)),
    }
}

/// A budget of whose use nothing is known, and of which something has to be said all the same.
fn unknown(observation: &Observation, in_force: &InForce, previous: &TokenBudgetStatus, is_new: bool) -> Found {
    let because = observation.unknown_because.as_deref();
    let (status, verdicts) = if is_new {
        let touched = Touched::of(&in_force.covers, observation);
        (status::of_spec(observation, Some(in_force), &touched), conditions::none_known(because))
    } else {
        (previous.clone(), conditions::kept(&previous.conditions))
    };
    Found { status, ready: conditions::unknown(because), verdicts, events: Vec::new(), next: Some(FIRST_LOOK) }
}

/// A budget of which it is known what was used.
fn counted(
    observation: &Observation,
    in_force: &InForce,
    accounts: &Accounts,
    units: &PerUnit<AccountFacts>,
    previous: &TokenBudgetStatus,
    now: Timestamp,
) -> Found {
    let budget = &observation.budget;
    let remembered = verdict::remembered(budget, in_force.period.id);
    let raised = remembered.is_some() && is_raised(in_force::limits_shown(previous), in_force.limits);
    let Remembered { steps, exhausted: was_exhausted } = remembered.unwrap_or_default();
    let percent = units.values().map(AccountFacts::percent).max().unwrap_or(0);
    let acts = in_force.enforcement != Enforcement::DryRun;
    let ladder = thresholds::climb(&in_force.thresholds, steps, Used::of(percent, accounts), raised, acts, now);
    let exhausted = in_force.state == State::Over
        || verdict::is_exhausted(units, in_force.enforcement, accounts.refused)
        || was_exhausted && !raised;
    let standing = Standing { in_force, units: Some(units), accounts: Some(accounts), steps: &ladder.steps, exhausted };
    let (callers, is_cut) = verdict::held_back(&verdict::judge(budget, &standing, &observation.pools));
    let touched = Touched::of(&in_force.covers, observation);
    let shown = TokenBudgetStatus {
        phase: Some(phase(&ladder.steps, exhausted)),
        verdict: Some(verdict_status(observation, previous, remembered.is_some(), &ladder.steps, exhausted, now)),
        extensions: in_force.extensions.clone(),
        ..status::of_spec(observation, Some(in_force), &touched)
    };
    let mut shown = status::with_figures(shown, observation, accounts, units, previous, now);
    if let Some(verdict) = &mut shown.verdict {
        verdict.callers = callers;
    }
    let Written { status, next } = status::throttled(shown, previous, observation.figures_changed, now);
    let runs_out = status.burn_rate_per_hour.map(|_| status.projected_exhaustion.is_some());
    let verdicts = vec![
        conditions::usage_known(observation, in_force, accounts.known, &touched.backends),
        conditions::exhausted(in_force, units, exhausted),
        conditions::on_track(in_force, exhausted, runs_out),
    ];
    let ends = in_force.period.end.filter(|_| in_force.state == State::Open).map(|end| until(end, now));
    Found {
        ready: conditions::ready(observation, in_force, is_cut, now),
        verdicts,
        events: edges(in_force, previous, remembered, ladder, exhausted, raised),
        next: [next, ends, extension_ends(observation, now)].into_iter().flatten().min(),
        status,
    }
}

/// Whether a limit is higher than before, or is no more.
fn is_raised(before: Limits, now: Limits) -> bool {
    Unit::ALL.into_iter().any(|unit| before.of(unit).is_some_and(|before| now.of(unit).is_none_or(|now| now > before)))
}

fn phase(steps: &[VerdictStep], exhausted: bool) -> Phase {
    let does_more = |step: &VerdictStep| step.action != ThresholdAction::Alert;
    match steps {
        _ if exhausted => Phase::Exhausted,
        [] => Phase::Active,
        steps if steps.iter().any(does_more) => Phase::Throttled,
        _ => Phase::Warning,
    }
}

/// The verdict as the status shows it, without callers. `same_period`: that before is of this period.
fn verdict_status(
    observation: &Observation,
    previous: &TokenBudgetStatus,
    same_period: bool,
    steps: &[VerdictStep],
    exhausted: bool,
    now: Timestamp,
) -> VerdictStatus {
    // A dry run shows the wall that there would be.
    let is_walled = observation.budget.spec.enforcement.unwrap_or_default() != Enforcement::Alert;
    let (level, since) = if exhausted && is_walled {
        let before = previous.verdict.as_ref().filter(|before| same_period && before.level == VerdictLevel::Block);
        (VerdictLevel::Block, Some(before.and_then(|before| before.since.clone()).unwrap_or(Time(now))))
    } else {
        let level = steps.iter().map(|step| thresholds::level(step.action)).max().unwrap_or_default();
        let of_level = steps.iter().filter(|step| thresholds::level(step.action) == level);
        (level, of_level.map(|step| step.since.0).min().map(Time))
    };
    VerdictStatus { level, since, steps: steps.to_vec(), callers: Vec::new() }
}

/// What has changed, to be told.
fn edges(
    in_force: &InForce,
    previous: &TokenBudgetStatus,
    remembered: Option<Remembered<'_>>,
    ladder: Ladder,
    exhausted: bool,
    raised: bool,
) -> Vec<Event> {
    let event = |warning, reason: &str, note: &str| Event { warning, reason: reason.to_owned(), note: note.to_owned() };
    let mut events = ladder.events;
    let was_exhausted = remembered.is_some_and(|remembered| remembered.exhausted);
    let was_held_back = previous.verdict.as_ref().is_some_and(|verdict| verdict.level > VerdictLevel::Free);
    if remembered.is_none() && was_held_back && previous.period.is_some() {
        let note = "a new period has started: what was done in the one before is done no more";
        events.push(event(false, reasons::PERIOD_STARTED, note));
    }
    if ladder.left || raised && was_exhausted && !exhausted {
        let note = "the limit was raised: what was done at it, or at a threshold that is above what is used now, is done no more";
        events.push(event(false, reasons::THRESHOLD_LEFT, note));
    }
    // Of the end of the only period Ready tells.
    if exhausted && !was_exhausted && in_force.state == State::Open {
        let (warning, note) = match in_force.enforcement {
            Enforcement::Block => (true, "the limit is reached: calls that have no room are refused, and pools pause"),
            Enforcement::Alert => (true, "the limit is reached, and nobody is refused"),
            Enforcement::DryRun => (false, "the limit is reached, and nothing is done"),
        };
        events.push(event(warning, reasons::BUDGET_EXHAUSTED, note));
    }
    events
}

/// The time until an extension ends, and the limit with it.
fn extension_ends(observation: &Observation, now: Timestamp) -> Option<Duration> {
    let ends = observation.budget.spec.extensions.iter().map(|extension| extension.until.0);
    ends.filter(|end| *end > now).min().map(|end| until(end, now))
}

/// The time until then: a moment at least, and at most so long as a timer can be set for.
fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_until(then)).unwrap_or_default().clamp(Duration::from_millis(1), LONGEST)
}

#[cfg(test)]
mod decide_tests;
