//! Why there are as many replicas, as one sentence that a person can follow.

use super::demand::{Demand, Source};
use super::replicas::Answer;
use super::settings::{Mode, Settings};
use crate::api::agent_pool::LimitedBy;
use crate::decide::pool::budgets::{self, BudgetFacts};

/// Why there are as many replicas, for example `12 by queue tasks (58 waiting, 2 in flight, 5 per replica), held at 8 by the
/// stabilization window`. The figures are those of the moment: whoever shows the sentence keeps it until the answer changes.
/// `budgets` are those that cover the pool; of a pause there are no figures.
pub fn explain(answer: &Answer, demand: &Demand, settings: &Settings, budgets: &[BudgetFacts]) -> String {
    let replicas = answer.replicas;
    let wanted = match (&demand.source, answer.limited_by) {
        (_, Some(LimitedBy::Suspended)) => return format!("{replicas}, as spec.suspend is set"),
        (_, Some(LimitedBy::Budget)) => {
            let finish = if replicas > 0 { ", and agents at work finish" } else { "" };
            return format!("{replicas}, as {}{finish}", budgets::who(budgets));
        }
        (_, Some(LimitedBy::Pinned)) => return format!("{replicas} by spec.replicas"),
        (Source::Nothing, _) => return format!("{replicas}, as there is no queue to follow"),
        (Source::Unread, _) => return format!("{replicas}, until the queues have been read for the first time"),
        (Source::Unknown, _) => return format!("{replicas}, as before: no queue can be read"),
        (Source::Queue { name, waiting, in_flight }, _) => {
            let in_flight = match demand.in_flight_known {
                true => format!("{in_flight} in flight"),
                false => "in flight not known".to_owned(),
            };
            format!("{} by queue {name} ({waiting} waiting, {in_flight}, {})", answer.wanted, measure(&settings.mode))
        }
        (Source::Sum, _) => {
            let figures = format!("{} waiting, {} in flight", demand.waiting, demand.in_flight);
            format!("{} by the sum of the queues ({figures}, {})", answer.wanted, measure(&settings.mode))
        }
        (Source::Fallback { name }, _) => format!("{} by onMetricFailure, as queue {name} cannot be read", answer.wanted),
    };
    let Some(limited_by) = answer.limited_by else { return wanted };
    let by = match limited_by {
        LimitedBy::Suspended | LimitedBy::Budget | LimitedBy::Pinned => return wanted,
        LimitedBy::MaxReplicas => "spec.maxReplicas",
        LimitedBy::MinReplicas => "spec.minReplicas",
        LimitedBy::ScaleUpPolicy => "the policies of scaleUp",
        LimitedBy::ScaleDownPolicy => "the policies of scaleDown",
        LimitedBy::StabilizationWindow => "the stabilization window",
        LimitedBy::Cooldown => "the cooldown",
        LimitedBy::BusyAgents => "agents at work",
        LimitedBy::QueueFailure => "a queue that cannot be read",
    };
    format!("{wanted}, held at {replicas} by {by}")
}

fn measure(mode: &Mode) -> String {
    match mode {
        Mode::Proportional { tasks_per_replica } => format!("{tasks_per_replica} per replica"),
        Mode::Step { high, low, size } => format!("{size} more above {high}, {size} less below {low}"),
        Mode::Age { .. } => "one more while the oldest is too old".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::token_budget_status::Phase;

    fn settings() -> Settings {
        let spec = json!({ "scaling": { "proportional": { "tasksPerReplica": 5 } } });
        Settings::of(&serde_json::from_value(spec).unwrap()).unwrap()
    }

    fn demand(source: Source) -> Demand {
        Demand {
            replicas: Some(12),
            source,
            unknown: false,
            own_tasks: 0,
            waiting: 58,
            in_flight: 2,
            in_flight_known: true,
            next: None,
        }
    }

    fn answer(replicas: u32, limited_by: Option<LimitedBy>) -> Answer {
        Answer { wanted: 12, replicas, limited_by, next: None }
    }

    #[test]
    fn a_sentence_tells_who_asks_for_how_much_and_what_holds_it_back() {
        let queue = || Source::Queue { name: "tasks".into(), waiting: 58, in_flight: 2 };
        let of = |source, replicas, limited_by| explain(&answer(replicas, limited_by), &demand(source), &settings(), &[]);
        assert_eq!(
            of(queue(), 8, Some(LimitedBy::StabilizationWindow)),
            "12 by queue tasks (58 waiting, 2 in flight, 5 per replica), held at 8 by the stabilization window"
        );
        assert_eq!(of(queue(), 12, None), "12 by queue tasks (58 waiting, 2 in flight, 5 per replica)");
        assert_eq!(of(Source::Nothing, 3, None), "3, as there is no queue to follow");
        assert_eq!(of(Source::Unknown, 3, Some(LimitedBy::QueueFailure)), "3, as before: no queue can be read");
        assert_eq!(of(queue(), 3, Some(LimitedBy::Pinned)), "3 by spec.replicas");
        assert_eq!(
            of(Source::Fallback { name: "tasks".into() }, 10, Some(LimitedBy::MaxReplicas)),
            "12 by onMetricFailure, as queue tasks cannot be read, held at 10 by spec.maxReplicas"
        );
    }

    #[test]
    fn of_a_pause_it_tells_whose_it_is_and_nothing_of_the_queues() {
        let budget = |name: &str, pauses| BudgetFacts { name: name.into(), phase: Phase::Exhausted, pauses };
        let budgets = [budget("day", true), budget("free", false), budget("sprint", true)];
        let of = |replicas, budgets: &[BudgetFacts]| {
            let source = Source::Queue { name: "tasks".into(), waiting: 58, in_flight: 2 };
            explain(&answer(replicas, Some(LimitedBy::Budget)), &demand(source), &settings(), budgets)
        };
        assert_eq!(of(0, &budgets), "0, as budgets day, sprint pause the pool");
        assert_eq!(of(2, &budgets[..2]), "2, as budget day pauses the pool, and agents at work finish");
    }

    #[test]
    fn what_is_not_known_is_not_told_as_zero() {
        let source = Source::Queue { name: "tasks".into(), waiting: 58, in_flight: 0 };
        let said = explain(&answer(12, None), &Demand { in_flight_known: false, ..demand(source) }, &settings(), &[]);
        assert_eq!(said, "12 by queue tasks (58 waiting, in flight not known, 5 per replica)");
    }
}
