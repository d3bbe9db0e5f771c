//! The task that a call is for, and what it is told where that may use no more. What is counted of tasks is in
//! [`quartermaster_core::decide::account::tasks`].

use hyper::HeaderMap;
use quartermaster_core::decide::account::spending::Reservation;
use quartermaster_core::decide::account::tasks::ledger::{Stopped, TaskCall, TaskReservation};
use quartermaster_core::decide::account::tasks::{BodyHash, TaskId};
use quartermaster_core::decide::gateway::plan::TaskLimits;
use quartermaster_core::decide::request::refusal::Refusal;

/// The header in which a client says for which task it calls.
const TASK_ID: &str = "x-quartermaster-task-id";

/// The call as one of its task; none where it names none. `bytes` are those of its body.
pub fn of_call(limits: TaskLimits, headers: &HeaderMap, bytes: &[u8]) -> Option<TaskCall> {
    let task = TaskId::of(headers.get(TASK_ID)?.as_bytes())?;
    // Bodies may be large: they are read once more only where that decides something.
    let body = limits.max_identical_requests.map(|_| BodyHash::of(bytes));
    Some(TaskCall { task, limits, body })
}

/// What a call is told whose task may use no more.
pub fn refusal(stopped: Stopped) -> Refusal {
    match stopped {
        Stopped::TooLarge { limit, most } => Refusal::TaskRequestTooLarge { limit, most },
        Stopped::Exceeded { unit, limit, left } => Refusal::TaskLimitExceeded { unit, limit, left },
        Stopped::Busy => Refusal::TaskBusy,
        Stopped::Identical { limit } => Refusal::IdenticalRequests { limit },
        Stopped::PriceMissing => Refusal::PriceMissing,
    }
}

/// What an attempt has reserved: in the budgets of its caller, and of the limits of its task.
#[derive(Debug)]
#[must_use = "what is reserved stays reserved until it is settled"]
pub struct Reserved {
    /// In budgets; it may be of nothing.
    pub budgets: Reservation,
    /// Of the limits of its task; none where it is for none that counts.
    pub task: Option<TaskReservation>,
}

impl From<Reservation> for Reserved {
    fn from(budgets: Reservation) -> Self {
        Self { budgets, task: None }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_call_is_one_of_the_task_that_its_header_names() {
        let headers = |id| HeaderMap::from_iter([(HeaderName::from_static(TASK_ID), HeaderValue::from_static(id))]);
        let none = TaskLimits::default();
        let limits = TaskLimits { max_identical_requests: Some(3), ..none };
        let call = of_call(limits, &headers("fix-7"), b"{}").unwrap();
        assert_eq!((Some(call.task), call.body), (TaskId::of(b"fix-7"), Some(BodyHash::of(b"{}"))));
        assert_eq!(of_call(none, &headers("fix-7"), b"{}").unwrap().body, None);
        assert!(of_call(limits, &headers(""), b"{}").is_none() && of_call(limits, &HeaderMap::new(), b"{}").is_none());
    }
}
