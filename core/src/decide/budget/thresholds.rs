//! The ladder: which steps are taken, and when one is left.
//!
//! Thresholds are edges with memory, which the status keeps. A step is taken once in a period, and told once. It is left when
//! the period ends, when its threshold is removed, or when the limit was raised so far that the threshold is above what is used
//! again: never because less seems to be used than before, as it does after a ledger was lost.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observation::Accounts;
use crate::api::agent_pool::Criticality;
use crate::api::conditions::reasons;
use crate::api::model_route::Tier;
use crate::api::token_budget::{Severity, Threshold, ThresholdAction};
use crate::api::token_budget_status::{VerdictLevel, VerdictStep};
use crate::decide::conditions::truncated;
use crate::decide::decision::Event;

/// How much of a budget is used, in percent, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Of the limit: of tokens and money, that of which more is used.
    pub percent: u32,
    /// Of its share by whoever has used most of its own, or of the limit if that is more.
    pub fullest_share: u32,
}

impl Used {
    /// What accounts say, given how much of the limit is used.
    pub fn of(percent: u32, accounts: &Accounts) -> Self {
        let shares = accounts.shares.values().flat_map(|share| share.values().map(|account| account.percent()));
        Self { percent, fullest_share: shares.max().unwrap_or(0).max(percent) }
    }

    /// What a threshold compares. Of shares that nobody uses up the limit never sees 100 percent: so Redistribute, which is for
    /// whoever comes to the end of its share, looks at the fullest one.
    fn compared(self, threshold: &Threshold) -> u32 {
        match threshold.action {
            ThresholdAction::Redistribute => self.fullest_share,
            ThresholdAction::Alert | ThresholdAction::Downgrade | ThresholdAction::PausePools => self.percent,
        }
    }
}

/// The steps that are taken now, and what is to be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ladder {
    /// The lowest threshold first.
    pub steps: Vec<VerdictStep>,
    /// A step that is taken each.
    pub events: Vec<Event>,
    /// Whether a step was left because the limit was raised.
    pub left: bool,
}

/// The steps that are taken. `thresholds` are in the order of [`order`]; `remembered` are those of the status, of this period;
/// `raised`: the limit is higher than when they were written; `acts`: the steps do something.
pub fn climb(thresholds: &[Threshold], remembered: &[VerdictStep], used: Used, raised: bool, acts: bool, now: Timestamp) -> Ladder {
    let mut ladder = Ladder::default();
    for threshold in thresholds {
        let reached = used.compared(threshold) >= threshold.at_percent;
        match remembered.iter().find(|step| is_of(step, threshold)) {
            Some(step) if reached || !raised => {
                ladder.steps.push(VerdictStep { severity: severity(threshold), ..step.clone() });
            }
            Some(_) => ladder.left = true,
            None if reached => {
                let Threshold { at_percent, action, .. } = *threshold;
                ladder.steps.push(VerdictStep { at_percent, action, severity: severity(threshold), since: Time(now) });
                ladder.events.push(told(threshold, acts));
            }
            None => {}
        }
    }
    ladder
}

/// The thresholds in the order in which they are reached, and of those at the same percentage the gentlest first.
pub fn order(mut thresholds: Vec<Threshold>) -> Vec<Threshold> {
    thresholds.sort_by_key(|threshold| (threshold.at_percent, threshold.action));
    thresholds
}

/// The thresholds whose steps are taken.
pub fn taken<'a>(thresholds: &'a [Threshold], steps: &'a [VerdictStep]) -> impl Iterator<Item = &'a Threshold> {
    thresholds.iter().filter(move |threshold| steps.iter().any(|step| is_of(step, threshold)))
}

/// The highest tier that may answer: the lowest of all Downgrades. None: any.
pub fn tier_ceiling(thresholds: &[Threshold], steps: &[VerdictStep]) -> Option<Tier> {
    let downgrades = taken(thresholds, steps).filter(|threshold| threshold.action == ThresholdAction::Downgrade);
    downgrades.filter_map(|threshold| threshold.tier).min()
}

/// Whether a pool of this criticality is paused by a step.
pub fn pauses(thresholds: &[Threshold], steps: &[VerdictStep], criticality: Criticality) -> bool {
    let pauses = |threshold: &Threshold| {
        threshold.action == ThresholdAction::PausePools && threshold.below_criticality.is_none_or(|below| criticality < below)
    };
    taken(thresholds, steps).any(pauses)
}

/// Whether a step with this action is taken.
pub fn is_taken(steps: &[VerdictStep], action: ThresholdAction) -> bool {
    steps.iter().any(|step| step.action == action)
}

/// What an action is as a level of the verdict.
pub fn level(action: ThresholdAction) -> VerdictLevel {
    match action {
        ThresholdAction::Alert => VerdictLevel::Alert,
        ThresholdAction::Redistribute => VerdictLevel::Redistribute,
        ThresholdAction::Downgrade => VerdictLevel::Downgrade,
        ThresholdAction::PausePools => VerdictLevel::PausePools,
    }
}

fn is_of(step: &VerdictStep, threshold: &Threshold) -> bool {
    (step.at_percent, step.action) == (threshold.at_percent, threshold.action)
}

/// How grave the step is; none: it is no alert.
fn severity(threshold: &Threshold) -> Option<Severity> {
    (threshold.action == ThresholdAction::Alert).then(|| threshold.severity.unwrap_or_default())
}

/// Tells of a step.
fn told(threshold: &Threshold, acts: bool) -> Event {
    let used = match threshold.action {
        ThresholdAction::Redistribute => format!("{} % of a share, or of the limit, is used", threshold.at_percent),
        _ => format!("{} % of the limit is used", threshold.at_percent),
    };
    let done = match (threshold.action, threshold.tier, threshold.below_criticality) {
        (ThresholdAction::Alert, ..) => None,
        (ThresholdAction::Redistribute, ..) => Some("what pools leave of their shares goes to those that need more".to_owned()),
        (ThresholdAction::Downgrade, tier, _) => {
            Some(format!("only backends up to tier {:?} answer", tier.unwrap_or(Tier::Premium)))
        }
        (ThresholdAction::PausePools, _, Some(below)) => Some(format!("pools whose criticality is below {below:?} pause")),
        (ThresholdAction::PausePools, _, None) => Some("all pools pause".to_owned()),
    };
    let note = match (done, acts) {
        (None, _) => severity(threshold).map_or_else(|| used.clone(), |severity| format!("{used} (severity {severity:?})")),
        (Some(done), true) => format!("{used}: {done} until the period ends or the limit is raised"),
        (Some(done), false) => format!("{used}: it would be that {done}, but the budget does nothing now"),
    };
    let warning = match threshold.action {
        ThresholdAction::Alert => severity(threshold) > Some(Severity::Info),
        ThresholdAction::Redistribute => false,
        ThresholdAction::Downgrade | ThresholdAction::PausePools => acts,
    };
    Event { warning, reason: reasons::THRESHOLD_REACHED.to_owned(), note: truncated(note) }
}

#[cfg(test)]
#[path = "thresholds_tests.rs"]
mod tests;
