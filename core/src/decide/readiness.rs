//! Whether an object does what it is for, in the conditions that every kind of reader understands.
//!
//! kstatus, Flux and Helm read Reconciling and Stalled; Argo CD and people read Ready. The four states here keep them
//! consistent by construction.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::conditions::{Status, Verdict};
use super::decision::Event;
use super::overdue;
use crate::api::conditions::{reasons, types};

/// Whether an object does what it is for, and if not, who has to do something about it.
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

/// Tells of a new state of readiness: of another reason or another status than before.
pub fn event(before: &[Condition], ready: &Readiness) -> Option<Event> {
    let before = before.iter().find(|condition| condition.type_ == types::READY);
    let same = before.is_some_and(|before| before.reason == ready.reason && before.status == ready.status().as_str());
    let note = || super::conditions::truncated(ready.message.clone());
    (!same).then(|| Event { warning: ready.is_a_problem(), reason: ready.reason.to_owned(), note: note() })
}

/// The conditions of an object, with those of its kind in the middle. Reconciling and Stalled are there only while True, and never both.
pub fn conditions(ready: &Readiness, of_kind: Vec<Verdict>, suspended: bool, outdated_schema: &[String]) -> Vec<Verdict> {
    let verdict = |type_, status| Verdict { type_, status, reason: ready.reason, message: ready.message.clone() };
    let mut verdicts = vec![verdict(types::READY, ready.status())];
    match ready.state {
        State::Ready => {}
        State::Progressing | State::Waiting => verdicts.push(verdict(types::RECONCILING, Status::True)),
        State::Stalled => verdicts.push(verdict(types::STALLED, Status::True)),
    }
    verdicts.extend(of_kind);
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
