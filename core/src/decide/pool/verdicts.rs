//! The conditions of a pool beside Ready: whether its queues are known, whether it follows them, and what limits it.

use super::facts::{Failure, FailureCause, QueueFacts};
use super::scaling::demand::{Demand, Source};
use super::scaling::replicas::Answer;
use crate::api::agent_pool::LimitedBy;
use crate::api::conditions::{reasons, types};
use crate::decide::conditions::Verdict;

/// The conditions MetricsAvailable, ScalingActive and ScalingLimited.
pub fn of(queues: &[QueueFacts], demand: &Demand, answer: &Answer) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = metrics(queues).into_iter().collect();
    verdicts.push(active(demand, answer));
    verdicts.push(limited(answer));
    verdicts
}

/// Whether every queue can be read. A pool without queues has nothing to be known.
fn metrics(queues: &[QueueFacts]) -> Option<Verdict> {
    if let Some((name, failure)) = queues.iter().find_map(|queue| Some((&queue.name, queue.failure.as_ref()?))) {
        let message = format!("spec.queues[{name}]: {}: {}", failure.message, advice(failure));
        return Some(Verdict::fails(types::METRICS_AVAILABLE, reason(failure.cause), message));
    }
    if let Some(queue) = queues.iter().find(|queue| queue.reading.is_none()) {
        let message = format!("spec.queues[{}] is being read for the first time", queue.name);
        return Some(Verdict::unknown(types::METRICS_AVAILABLE, reasons::PROGRESSING, message));
    }
    let known = || Verdict::holds(types::METRICS_AVAILABLE, reasons::QUEUES_READ, "every queue can be read");
    (!queues.is_empty()).then(known)
}

/// Whether the replicas follow the queues.
fn active(demand: &Demand, answer: &Answer) -> Verdict {
    let fails = |reason, message: &str| Verdict::fails(types::SCALING_ACTIVE, reason, message);
    match (answer.limited_by, &demand.source) {
        (Some(LimitedBy::Suspended), _) => fails(reasons::SUSPENDED, "spec.suspend is true: the replicas stay as they are"),
        (Some(LimitedBy::Pinned), _) => {
            fails(reasons::PINNED, "spec.replicas pins the pool: remove it, and the queues decide again")
        }
        (_, Source::Nothing) => fails(reasons::NO_QUEUE, "spec.queues names no queue to follow"),
        (_, Source::Unknown) => fails(reasons::QUEUES_UNKNOWN, "no queue can be read: the replicas stay as they are"),
        (_, Source::Fallback { .. }) => {
            let message = "no queue that can be read asks for more than spec.scaling.onMetricFailure.thenReplicas";
            fails(reasons::FALLBACK, message)
        }
        (_, Source::Queue { .. } | Source::Sum) => {
            Verdict::holds(types::SCALING_ACTIVE, reasons::QUEUES_FOLLOWED, "the replicas follow the queues")
        }
    }
}

/// What limits the replicas.
fn limited(answer: &Answer) -> Verdict {
    let holds = |reason, message: &str| Verdict::holds(types::SCALING_LIMITED, reason, message);
    match answer.limited_by {
        Some(LimitedBy::MaxReplicas) => holds(reasons::TOO_MANY_REPLICAS, "the queues ask for more than spec.maxReplicas"),
        Some(LimitedBy::MinReplicas) => holds(reasons::TOO_FEW_REPLICAS, "the queues ask for less than spec.minReplicas"),
        Some(LimitedBy::ScaleUpPolicy) => holds(reasons::SCALE_UP_LIMIT, "replicas are added as fast as scaleUp allows"),
        Some(LimitedBy::ScaleDownPolicy) => holds(reasons::SCALE_DOWN_LIMIT, "replicas are removed as fast as scaleDown allows"),
        Some(LimitedBy::StabilizationWindow) => holds(reasons::STABILIZED, "a stabilization window has seen another demand"),
        Some(LimitedBy::Cooldown) => holds(reasons::COOLDOWN, "the last replica stays for spec.scaling.cooldown"),
        Some(LimitedBy::BusyAgents) => holds(reasons::BUSY_AGENTS, "the end of agents at work is put off until they are idle"),
        Some(LimitedBy::QueueFailure) => holds(reasons::QUEUES_UNKNOWN, "nothing is taken away while a queue cannot be read"),
        None | Some(LimitedBy::Suspended | LimitedBy::Pinned) => {
            Verdict::fails(types::SCALING_LIMITED, reasons::DESIRED_WITHIN_RANGE, "nothing holds the replicas back")
        }
    }
}

/// The reason that stands for a failure.
pub fn reason(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::Unreachable => reasons::UNREACHABLE,
        FailureCause::Unauthorized => reasons::UNAUTHORIZED,
        FailureCause::Forbidden => reasons::FORBIDDEN,
        FailureCause::Tls => reasons::TLS_ERROR,
        FailureCause::NotAllowed => reasons::ENDPOINT_NOT_ALLOWED,
        FailureCause::WrongType => reasons::UNEXPECTED_ANSWER,
        FailureCause::NoData => reasons::NO_DATA,
        FailureCause::Secret => reasons::SECRET_INVALID,
    }
}

/// What to do about a failure.
fn advice(failure: &Failure) -> &'static str {
    match failure.cause {
        FailureCause::Unreachable => "check the url, and that the server runs",
        FailureCause::Unauthorized => "put the right credentials into the Secret",
        FailureCause::Forbidden => "allow the user the commands that the guide lists",
        FailureCause::Tls => "a private authority's certificates are named by tls.caSecretKeyRef",
        FailureCause::NotAllowed => {
            "name a server outside of the operator's own machine and network, or a Service of this namespace"
        }
        FailureCause::WrongType => "check what the queue names",
        FailureCause::NoData => "check the query, or say what an empty answer means in whenEmpty",
        FailureCause::Secret => "correct the Secret",
    }
}
