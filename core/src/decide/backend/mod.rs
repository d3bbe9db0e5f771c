//! InferenceBackend: what to make of a backend, given the cluster.
//!
//! [`decide()`] is the whole decision. For a self-hosted model: [`model`] tells what is known of it, [`accelerator`] what it
//! can run on, [`sizing`] how large it must be, [`choice`] whether the choice in force stays, [`arguments`], [`children`] and
//! [`rollout`] what is made of it, [`serving`] what its pods say, and [`engine_health`] what the engines in them answer. For a model
//! that Ollama serves: [`ollama`]; [`engine`] says how the two differ. For a hosted provider: [`external`]. For both, [`traffic`] tells
//! what the gateway's calls say of the keys, and [`budgets`] what is said of the budgets whose callers can reach it.

pub mod accelerator;
pub mod arguments;
pub mod budgets;
pub mod check;
pub mod children;
pub mod choice;
pub mod clocks;
pub mod destination;
pub mod engine;
pub mod engine_check;
pub mod engine_errors;
pub mod engine_health;
pub mod external;
pub mod facts;
pub mod hosted;
pub mod model;
pub mod model_source;
pub mod ollama;
pub mod outcome;
pub mod patch;
pub mod provider;
pub mod pull_errors;
pub mod rollout;
pub mod secrets;
pub mod self_hosted;
pub mod serving;
pub mod sizing;
pub mod traffic;

use jiff::Timestamp;

use super::conditions;
use super::decision::{Children, Decision, Event};
use super::overdue::{self, Previous};
use super::readiness::{self, Readiness, State};
use crate::api::conditions::{reasons, types};
use crate::api::status::{BudgetState, InferenceBackendStatus};
use facts::Observation;
use outcome::Outcome;

/// The types of conditions that this decision writes.
pub const CONDITIONS: &[&str] = &[
    types::READY,
    types::RECONCILING,
    types::STALLED,
    types::SUSPENDED,
    types::SCHEMA_OUTDATED,
    types::SIZED,
    types::AVAILABLE,
    types::MODEL_LOADED,
    types::UPDATE_AVAILABLE,
];

/// What should exist for a backend, and what its status should say.
pub fn decide(observation: &Observation, now: Timestamp) -> Decision<InferenceBackendStatus> {
    let backend = &observation.backend;
    let spec = &backend.spec;
    let mut outcome = match (&spec.vllm, &spec.ollama, &spec.external) {
        (Some(vllm), ..) => self_hosted::decide(observation, vllm, now),
        (None, Some(ollama), _) => ollama::decide(observation, ollama, now),
        (None, None, Some(external)) => external::decide(observation, external),
        (None, None, None) => Outcome::none(),
    };
    let suspended = backend.spec.suspend == Some(true);
    if suspended && outcome.ready.state == State::Progressing {
        outcome.ready = Readiness::progressing(reasons::SUSPENDED, "spec.suspend is true: nothing is changed until it is removed");
    }
    let previous = backend.status.clone().unwrap_or_default();
    let generation = backend.metadata.generation;
    let remembered = Previous {
        conditions: &previous.conditions,
        observed_generation: previous.observed_generation,
        waiting_since: previous.waiting_since.as_ref(),
    };
    let judged = overdue::judge(outcome.ready, remembered, generation, now);
    outcome.ready = judged.ready;
    let verdicts = readiness::conditions(&outcome.ready, outcome.verdicts.clone(), suspended, &observation.outdated_schema);
    let events = events(&previous, &outcome);
    let mut status = outcome.status;
    status.observed_generation = generation;
    status.waiting_since = judged.since;
    status.budgets = BudgetState::listed(observation.budgets.clone());
    status.conditions = conditions::merge(&previous.conditions, verdicts, CONDITIONS, generation, now);
    let children = if suspended { Children::Keep } else { outcome.children };
    let next = [outcome.next, judged.next, secrets::read_again(&observation.secrets)].into_iter().flatten().min();
    Decision { children, patches: Vec::new(), status, events, next }
}

/// Tells of a new state of readiness, and of a new choice.
fn events(previous: &InferenceBackendStatus, outcome: &Outcome) -> Vec<Event> {
    let mut events = Vec::new();
    let sizing = outcome.status.sizing.as_ref();
    let changed = sizing.filter(|sizing| previous.sizing.as_ref().is_none_or(|previous| previous.summary() != sizing.summary()));
    if let Some(sizing) = changed {
        let derivation = sizing.derivation.as_deref().unwrap_or("as the spec says");
        events.push(event(false, reasons::SIZED, &format!("{}: {derivation}", sizing.summary())));
    }
    events.extend(readiness::event(&previous.conditions, &outcome.ready));
    events
}

fn event(warning: bool, reason: &str, note: &str) -> Event {
    Event { warning, reason: reason.to_owned(), note: conditions::truncated(note.to_owned()) }
}

#[cfg(test)]
mod decide_hub_tests;
#[cfg(test)]
mod decide_tests;
