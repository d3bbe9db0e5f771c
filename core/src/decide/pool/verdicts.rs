//! The conditions of a pool beside Ready: whether its queues are known, whether it follows them, and what limits it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::facts::{Failure, FailureCause, Missing, QueueFacts};
use super::scaling::demand::{Demand, Source};
use super::scaling::replicas::Answer;
use crate::api::agent_pool::LimitedBy;
use crate::api::conditions::{reasons, types};
use crate::decide::conditions::{Status, Verdict, truncated};
use crate::decide::decision::Event;
use crate::decide::readiness::Readiness;

/// The conditions MetricsAvailable, ScalingActive and ScalingLimited. `knows_who_works`: the queues tell which agents have
/// tasks.
pub fn of(queues: &[QueueFacts], demand: &Demand, answer: &Answer, knows_who_works: bool) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = metrics(queues).into_iter().collect();
    verdicts.push(active(demand, answer, knows_who_works));
    verdicts.push(limited(answer));
    verdicts
}

/// Whether every queue can be read. A pool without queues has nothing to be known.
fn metrics(queues: &[QueueFacts]) -> Option<Verdict> {
    if let Some((name, failure)) = queues.iter().find_map(|queue| Some((&queue.name, queue.failure.as_ref()?))) {
        return Some(Verdict::fails(types::METRICS_AVAILABLE, reason(failure.cause), words(name, failure)));
    }
    if let Some(queue) = queues.iter().find(|queue| queue.reading.is_none()) {
        let message = format!("spec.queues[{}] is being read for the first time", queue.name);
        return Some(Verdict::unknown(types::METRICS_AVAILABLE, reasons::PROGRESSING, message));
    }
    let read = || queues.iter().filter_map(|queue| Some((&queue.name, queue.reading.as_ref()?)));
    if let Some((name, _)) = read().find(|(_, reading)| reading.partial) {
        let message = format!(
            "spec.queues[{name}]: the server warns that it has not seen everything: nothing is taken away until its answer is whole"
        );
        return Some(Verdict::fails(types::METRICS_AVAILABLE, reasons::PARTIAL_ANSWER, message));
    }
    if let Some((name, _)) = read().find(|(_, reading)| reading.missing == Some(Missing::Group)) {
        let message = format!(
            "spec.queues[{name}]: the stream has no such group: all its entries count as waiting, as they will for agents that make \
             the group at the beginning of the stream; correct the name if it should be there"
        );
        return Some(Verdict::holds(types::METRICS_AVAILABLE, reasons::GROUP_NOT_FOUND, message));
    }
    let known = || Verdict::holds(types::METRICS_AVAILABLE, reasons::QUEUES_READ, "every queue can be read");
    (!queues.is_empty()).then(known)
}

/// Tells of a change of what is known of the queues: a failure, another one, and its end.
pub fn event(before: &[Condition], verdicts: &[Verdict]) -> Option<Event> {
    let verdict = verdicts.iter().find(|verdict| verdict.type_ == types::METRICS_AVAILABLE)?;
    let before = before.iter().find(|condition| condition.type_ == types::METRICS_AVAILABLE);
    let same = before.is_some_and(|before| before.status == verdict.status.as_str() && before.reason == verdict.reason);
    let was_worse = before.is_some_and(|before| before.status == "False" || before.reason == reasons::GROUP_NOT_FOUND);
    let is_told = match (verdict.status, verdict.reason) {
        (Status::Unknown, _) => false,
        (Status::True, reasons::GROUP_NOT_FOUND) | (Status::False, _) => true,
        (Status::True, _) => was_worse,
    };
    let warning = verdict.status == Status::False || verdict.reason == reasons::GROUP_NOT_FOUND;
    let event = || Event { warning, reason: verdict.reason.to_owned(), note: truncated(verdict.message.clone()) };
    (is_told && !same).then(event)
}

/// Whether an event says what was told already when the queues could not be read.
pub fn told(before: &[Condition], event: &Event) -> bool {
    let says_it = |condition: &Condition| {
        condition.type_ == types::METRICS_AVAILABLE
            && condition.status == "False"
            && condition.reason == event.reason
            && truncated(condition.message.clone()) == event.note
    };
    before.iter().any(says_it)
}

/// A failure that only somebody can end, of a queue that was never read: the pool does not do what it is for.
pub fn never_read(queues: &[QueueFacts]) -> Option<Readiness> {
    let failure =
        queues.iter().filter(|queue| queue.reading.is_none()).find_map(|queue| Some((&queue.name, queue.failure.as_ref()?)));
    let (name, failure) = failure?;
    match failure.cause {
        // It may come by itself.
        FailureCause::Unreachable | FailureCause::NoData => None,
        _ => Some(Readiness::waiting(reason(failure.cause), words(name, failure))),
    }
}

/// What is wrong with a queue and what to do.
fn words(name: &str, failure: &Failure) -> String {
    match advice(failure) {
        Some(advice) => format!("spec.queues[{name}]: {}: {advice}", failure.message),
        None => failure.message.clone(),
    }
}

/// What is said of a pause where another condition tells whose it is.
const PAUSED: &str = "a budget pauses the pool: the condition PausedByBudget says which one";

/// Whether the replicas follow the queues.
fn active(demand: &Demand, answer: &Answer, knows_who_works: bool) -> Verdict {
    let fails = |reason, message: &str| Verdict::fails(types::SCALING_ACTIVE, reason, message);
    match (answer.limited_by, &demand.source) {
        (Some(LimitedBy::Suspended), _) => fails(reasons::SUSPENDED, "spec.suspend is true: the replicas stay as they are"),
        (Some(LimitedBy::Budget), _) => fails(reasons::PAUSED, PAUSED),
        (Some(LimitedBy::Pinned), _) => {
            fails(reasons::PINNED, "spec.replicas pins the pool: remove it, and the queues decide again")
        }
        (_, Source::Nothing) => fails(reasons::NO_QUEUE, "spec.queues names no queue to follow"),
        (_, Source::Unread) => {
            let message = "the queues are being read for the first time";
            Verdict::unknown(types::SCALING_ACTIVE, reasons::PROGRESSING, message)
        }
        (_, Source::Unknown) => fails(reasons::QUEUES_UNKNOWN, "no queue can be read: the replicas stay as they are"),
        (_, Source::Fallback { .. }) => {
            let message = "no queue that can be read asks for more than spec.scaling.onMetricFailure.thenReplicas";
            fails(reasons::FALLBACK, message)
        }
        (_, Source::Queue { .. } | Source::Sum) => {
            let message = match knows_who_works {
                true => "the replicas follow the queues",
                false => {
                    "the replicas follow the queues, which do not tell the agents at work from the others: when there are too \
                     many, Kubernetes chooses who ends, and SIGTERM asks it to finish its task"
                }
            };
            Verdict::holds(types::SCALING_ACTIVE, reasons::QUEUES_FOLLOWED, message)
        }
    }
}

/// What limits the replicas.
fn limited(answer: &Answer) -> Verdict {
    let holds = |reason, message: &str| Verdict::holds(types::SCALING_LIMITED, reason, message);
    match answer.limited_by {
        Some(LimitedBy::Budget) => holds(reasons::PAUSED, PAUSED),
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
        FailureCause::SecretNotFound => reasons::SECRET_NOT_FOUND,
        FailureCause::SecretKeyMissing => reasons::SECRET_KEY_MISSING,
        FailureCause::SecretEmpty => reasons::SECRET_EMPTY,
        FailureCause::SecretForbidden => reasons::FORBIDDEN,
        FailureCause::Secret => reasons::SECRET_INVALID,
    }
}

/// What to do about a failure, where its message does not say.
fn advice(failure: &Failure) -> Option<&'static str> {
    let advice = match failure.cause {
        FailureCause::Unreachable => "check the url, and that the server runs",
        FailureCause::Unauthorized => "put the right credentials into the Secret",
        FailureCause::Forbidden => "allow the user what the guide lists for its kind of queue",
        FailureCause::Tls => "a private authority's certificates are named by tls.caSecretKeyRef",
        // What is no URL of a server is refused with what to write instead.
        FailureCause::NotAllowed if failure.message.contains("refuse the URL") => return None,
        FailureCause::NotAllowed => {
            "name a server outside of the operator's own machine and network, or a Service of this namespace"
        }
        FailureCause::WrongType => "check what the queue names",
        FailureCause::NoData => "check the query, or say what an empty answer means in whenEmpty",
        FailureCause::SecretNotFound
        | FailureCause::SecretKeyMissing
        | FailureCause::SecretEmpty
        | FailureCause::SecretForbidden
        | FailureCause::Secret => return None,
    };
    Some(advice)
}
