//! From the outcome of a decision to the conditions that every kind of reader understands.
//!
//! kstatus, Flux and Helm read Reconciling and Stalled; Argo CD and people read Ready. The four states here keep them
//! consistent by construction.

use std::time::Duration;

use super::overdue;
use crate::api::conditions::{reasons, types};
use crate::api::status::InferenceBackendStatus;
use crate::decide::conditions::{Status, Verdict};
use crate::decide::decision::Children;

/// What was decided about a backend, before it is written as conditions.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The children that should exist.
    pub children: Children,
    /// The status without conditions and generation.
    pub status: InferenceBackendStatus,
    /// Whether the backend does what it is for.
    pub ready: Readiness,
    /// The conditions of this kind: Sized, Available, ModelLoaded, UpdateAvailable.
    pub verdicts: Vec<Verdict>,
    /// When to look again.
    pub next: Option<Duration>,
}

/// Whether the backend does what it is for, and if not, who has to do something about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// One of the four states.
    pub state: State,
    /// One of [`reasons`].
    pub reason: &'static str,
    /// What is the case, and what to do.
    pub message: String,
    /// How long it may be waited for before somebody should be told to act. Only of [`State::Waiting`].
    pub patience: Option<Duration>,
}

/// The states of readiness, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The desired state is reached.
    Ready,
    /// It will be reached by itself.
    Progressing,
    /// It waits for something that somebody else has to provide, and goes on by itself then. It becomes Stalled after a while.
    Waiting,
    /// Only a change of the spec, or of what it refers to, gets it further.
    Stalled,
}

impl Readiness {
    /// The desired state is reached.
    pub fn ready(reason: &'static str, message: impl Into<String>) -> Self {
        Self::of(State::Ready, reason, message)
    }

    /// The desired state will be reached by itself.
    pub fn progressing(reason: &'static str, message: impl Into<String>) -> Self {
        Self::of(State::Progressing, reason, message)
    }

    /// It waits for something that somebody else has to provide, for as long as [`overdue::PATIENCE`] says.
    pub fn waiting(reason: &'static str, message: impl Into<String>) -> Self {
        Self::waiting_within(overdue::PATIENCE, reason, message)
    }

    /// It waits for something that takes as long as this at most.
    pub fn waiting_within(patience: Duration, reason: &'static str, message: impl Into<String>) -> Self {
        Self { patience: Some(patience), ..Self::of(State::Waiting, reason, message) }
    }

    /// Only a change of the spec, or of what it refers to, gets it further.
    pub fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Self::of(State::Stalled, reason, message)
    }

    fn of(state: State, reason: &'static str, message: impl Into<String>) -> Self {
        Self { state, reason, message: message.into(), patience: None }
    }

    /// The status of the condition Ready.
    pub fn status(&self) -> Status {
        if self.state == State::Ready { Status::True } else { Status::False }
    }

    /// Whether somebody should act on it.
    pub fn is_a_problem(&self) -> bool {
        matches!(self.state, State::Waiting | State::Stalled)
    }
}

impl Outcome {
    /// A backend with neither member of the union, which the schema refuses.
    pub fn neither() -> Self {
        let message = "exactly one of spec.vllm, spec.external must be set";
        Self::keep(Readiness::stalled(reasons::INVALID_SPEC, message), InferenceBackendStatus::default())
    }

    /// What exists stays as it is.
    pub fn keep(ready: Readiness, status: InferenceBackendStatus) -> Self {
        Self { children: Children::Keep, status, ready, verdicts: Vec::new(), next: None }
    }
}

/// The conditions of an outcome. Reconciling and Stalled are there only while True, and never both.
pub fn all(outcome: &Outcome, suspended: bool, outdated_schema: &[String]) -> Vec<Verdict> {
    let ready = &outcome.ready;
    let verdict = |type_, status| Verdict { type_, status, reason: ready.reason, message: ready.message.clone() };
    let mut verdicts = vec![verdict(types::READY, ready.status())];
    match ready.state {
        State::Ready => {}
        State::Progressing | State::Waiting => verdicts.push(verdict(types::RECONCILING, Status::True)),
        State::Stalled => verdicts.push(verdict(types::STALLED, Status::True)),
    }
    verdicts.extend(outcome.verdicts.iter().cloned());
    verdicts.push(if suspended {
        Verdict::holds(types::SUSPENDED, reasons::SUSPENDED, "spec.suspend is true: nothing is changed, the state is still shown")
    } else {
        Verdict::fails(types::SUSPENDED, reasons::NOT_SUSPENDED, "spec.suspend is not set")
    });
    if let Some(first) = outdated_schema.first() {
        let message = format!(
            "the served CustomResourceDefinition lacks {first} and {} more fields of this operator's version: apply the definitions of this version",
            outdated_schema.len() - 1
        );
        verdicts.push(Verdict::holds(types::SCHEMA_OUTDATED, reasons::SCHEMA_OUTDATED, message));
    }
    verdicts
}
