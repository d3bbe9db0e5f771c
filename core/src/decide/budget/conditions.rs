//! The conditions of a budget: whether it does what its spec says, whether what was used is known, and how far that goes.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::check::Problem;
use super::in_force::{InForce, State};
use super::limit;
use super::observation::{AccountFacts, Observation, PerUnit, UsageKnown};
use crate::api::conditions::{reasons, types};
use crate::api::token_budget::{Enforcement, WhenUsageUnknown};
use crate::decide::conditions::{Status, Verdict, truncated};
use crate::decide::decision::Event;
use crate::decide::readiness::Readiness;

/// The conditions of this kind, in this order.
pub const OF_KIND: [&str; 3] = [types::USAGE_KNOWN, types::EXHAUSTED, types::ON_TRACK];

/// The most names that a message has.
const NAMES: usize = 5;

/// Why a spec cannot come into force, and what stays.
pub fn invalid(problems: &[Problem], in_force: Option<&InForce>) -> Option<Readiness> {
    let first = problems.first()?;
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    let stays = if in_force.is_some() { "; what was in force before stays in force" } else { "" };
    Some(Readiness::stalled(first.reason, format!("{}{stays}", messages.join("; "))))
}

/// That what was used is not known yet. `because`: why it will not be known before somebody does something.
pub fn unknown(because: Option<&str>) -> Readiness {
    match because {
        Some(because) => Readiness::waiting(reasons::USAGE_UNKNOWN, because),
        None => Readiness::progressing(reasons::USAGE_UNKNOWN, UNKNOWN),
    }
}

const UNKNOWN: &str = "the operator has yet to read what was used";

/// Whether a budget that is in force does what its spec says. `is_cut`: the status has no room for all who are held back.
pub fn ready(observation: &Observation, in_force: &InForce, is_cut: bool, now: Timestamp) -> Readiness {
    let spec = &observation.budget.spec;
    let is_walled = in_force.enforcement == Enforcement::Block;
    let (reason, message) = match in_force.state {
        State::Before => (reasons::PERIOD_NOT_STARTED, "nothing is limited before spec.period.start"),
        _ if spec.suspend == Some(true) => (reasons::SUSPENDED, "spec.suspend is true: calls are counted, and nobody is held back"),
        State::Over if is_walled => {
            (reasons::PERIOD_ENDED, "the only period is over: calls are refused; delete the budget, or move spec.period.end")
        }
        State::Over => (reasons::PERIOD_ENDED, "the only period is over: delete the budget, or move spec.period.end"),
        State::Open => match in_force.enforcement {
            Enforcement::DryRun => (reasons::DRY_RUN, "calls are counted, and what would be done is shown and not done"),
            _ if in_force.covers.is_empty() => {
                let message = "no AgentPool is one whose calls count: compare spec.appliesTo with the labels of the pools and with \
                               their modelRoutes";
                (reasons::NO_CALLERS, message)
            }
            Enforcement::Block => (reasons::IN_FORCE, "calls are counted, and held to the limit"),
            Enforcement::Alert => (reasons::IN_FORCE, "calls are counted; thresholds act, and at the limit nobody is refused"),
        },
    };
    let mut message = message.to_owned();
    if is_cut {
        message.push_str(match in_force.enforcement {
            Enforcement::DryRun => "; status.verdict.callers has no room for all who would be held back",
            Enforcement::Block | Enforcement::Alert => {
                "; status.verdict.callers has no room for all who are held back: the gateway holds back the others all the same, \
                 and their pools do not pause"
            }
        });
    }
    if !limit::past_extensions(spec, &in_force.extensions, now).is_empty() {
        message.push_str(
            "; an extension in spec.extensions is over, by its until or with the period in which it began: it adds nothing any more, \
             and may be removed",
        );
    }
    Readiness::ready(reason, message)
}

/// The conditions of a budget of whose use nothing is known.
pub fn none_known(because: Option<&str>) -> Vec<Verdict> {
    let unknown = |type_| Verdict::unknown(type_, reasons::USAGE_UNKNOWN, because.unwrap_or(UNKNOWN));
    OF_KIND.map(unknown).into()
}

/// The conditions of a budget whose first period has not started.
pub fn not_started() -> Vec<Verdict> {
    let message = "the first period has not started";
    let reason = reasons::PERIOD_NOT_STARTED;
    vec![
        Verdict::holds(types::USAGE_KNOWN, reason, message),
        Verdict::fails(types::EXHAUSTED, reason, message),
        Verdict::holds(types::ON_TRACK, reason, message),
    ]
}

/// The conditions that were there, while nothing new is known.
pub fn kept(before: &[Condition]) -> Vec<Verdict> {
    let of_type = |type_: &'static str| {
        let condition = before.iter().find(|condition| condition.type_ == type_)?;
        let reason = reasons::ALL.iter().copied().find(|reason| *reason == condition.reason)?;
        let states = [Status::True, Status::False, Status::Unknown];
        let status = states.into_iter().find(|status| status.as_str() == condition.status)?;
        Some(Verdict { type_, status, reason, message: condition.message.clone() })
    };
    OF_KIND.into_iter().filter_map(of_type).collect()
}

/// Whether all that was used is counted. `reached`: the backends that the callers may reach.
pub fn usage_known(observation: &Observation, in_force: &InForce, known: UsageKnown, reached: &BTreeSet<String>) -> Verdict {
    let fails = |reason, message: &str| Verdict::fails(types::USAGE_KNOWN, reason, message);
    match known {
        UsageKnown::LedgerLost => {
            let message = "the ledger or a part of it is gone, or somebody else has changed it, and what was used was made anew of what \
                           is left and of what the gateways know: compare status.usedTokens and status.usedCost with what you know, and \
                           confirm them with kubectl annotate --overwrite quartermaster.dev/confirm-usage=<any new value>";
            return fails(reasons::LEDGER_LOST, message);
        }
        UsageKnown::Opening => {
            let message = "the budget is new, and not every replica of the gateway has said what was used before: until then \
                           nothing is granted";
            return fails(reasons::USAGE_OPENING, message);
        }
        UsageKnown::NotHeard => {
            let message = "not every replica of the gateway has reported to the operator that leads: those are granted nothing \
                           more, and what they may have used counts";
            return fails(reasons::GATEWAY_NOT_HEARD, message);
        }
        UsageKnown::Yes => {}
    }
    let is_counted = in_force.limits.cost.is_some();
    let unpriced: Vec<&str> = reached.intersection(&observation.unpriced).map(String::as_str).collect();
    if !is_counted || unpriced.is_empty() {
        return Verdict::holds(types::USAGE_KNOWN, reasons::USAGE_KNOWN, "all that was used is counted");
    }
    let refuses = in_force.enforcement == Enforcement::Block
        && observation.budget.spec.when_usage_unknown.unwrap_or_default() != WhenUsageUnknown::Allow;
    let what_happens = if refuses { "they get no calls of these pools" } else { "what their calls cost is not counted" };
    let message =
        format!("spec.cost limits money, and backends have no price: {}; {what_happens} until spec.price is set", names(&unpriced));
    fails(reasons::PRICE_MISSING, &message)
}

/// Some of the names, where there are many.
fn names(names: &[&str]) -> String {
    let first: Vec<&str> = names.iter().take(NAMES).copied().collect();
    let more = if names.len() > NAMES { " and others" } else { "" };
    format!("{}{more}", first.join(", "))
}

/// Whether the limit is reached.
pub fn exhausted(in_force: &InForce, units: &PerUnit<AccountFacts>, exhausted: bool) -> Verdict {
    let holds = |reason, message| Verdict::holds(types::EXHAUSTED, reason, message);
    if in_force.state == State::Over {
        return holds(reasons::PERIOD_ENDED, "the only period is over: nothing is left for later");
    }
    if !exhausted {
        return Verdict::fails(types::EXHAUSTED, reasons::WITHIN_BUDGET, "the limit is not reached");
    }
    let message = match in_force.enforcement {
        Enforcement::Block if units.values().any(AccountFacts::is_spent) => {
            "the limit is reached: calls are refused, and pools pause, until the next period, a higher limit or an extension"
        }
        Enforcement::Block => {
            "less than a hundredth is left, too little for calls that were refused: pools pause, until the next period, a higher \
             limit or an extension"
        }
        Enforcement::Alert => "the limit is reached, and nobody is refused",
        Enforcement::DryRun => "the limit is reached, and nothing is done",
    };
    holds(reasons::BUDGET_EXHAUSTED, message)
}

/// Whether what is left lasts for the period. `runs_out`: whether it is used up before that if
/// it is used as at present; none: nothing is known of how fast that is.
pub fn on_track(in_force: &InForce, exhausted: bool, runs_out: Option<bool>) -> Verdict {
    let fails = |reason, message| Verdict::fails(types::ON_TRACK, reason, message);
    match runs_out {
        _ if in_force.state == State::Over => Verdict::holds(types::ON_TRACK, reasons::PERIOD_ENDED, "the only period is over"),
        _ if exhausted => fails(reasons::BUDGET_EXHAUSTED, "the limit is reached before the period ends"),
        None => Verdict::unknown(types::ON_TRACK, reasons::USAGE_UNKNOWN, "how fast the budget is used is not known yet"),
        Some(true) => {
            let message =
                "if it is used as at present, the budget is used up at status.projectedExhaustion, before the period ends";
            fails(reasons::PROJECTED_TO_RUN_OUT, message)
        }
        Some(false) => Verdict::holds(types::ON_TRACK, reasons::ON_TRACK, "what is left lasts for the period"),
    }
}

/// Tells that usage is not known any more for a reason that somebody has to remove, and that it is again.
pub fn usage_event(before: &[Condition], verdict: &Verdict) -> Option<Event> {
    let needs_somebody = |reason: &str| reason == reasons::LEDGER_LOST || reason == reasons::PRICE_MISSING;
    let before = before.iter().find(|condition| condition.type_ == verdict.type_);
    let before = before.map(|condition| condition.reason.as_str()).unwrap_or_default();
    let warning = needs_somebody(verdict.reason);
    let is_told = before != verdict.reason && (warning || needs_somebody(before));
    is_told.then(|| Event { warning, reason: verdict.reason.to_owned(), note: truncated(verdict.message.clone()) })
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
