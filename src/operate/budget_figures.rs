//! The metrics of budgets, whose labels are names of objects. [`super::metrics`] shows them, and asks when it is asked.

use jiff::Timestamp;
use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec};
use quartermaster_core::decide::account::Unit;

use super::key::ObjectKey;
use super::metric_definitions::{Definitions, MetricsError};

/// The figures of budgets. What is not known has none.
#[derive(Clone, Debug)]
pub struct BudgetFigures {
    tokens_used: IntCounterVec,
    limit: GaugeVec,
    remaining: GaugeVec,
    exhausted: IntGaugeVec,
    exceeded: IntCounterVec,
    projected_exhaustion: IntGaugeVec,
    usage_known: IntGaugeVec,
}

impl BudgetFigures {
    /// Registers them.
    pub(super) fn new(new: &Definitions<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            tokens_used: new.counters(
                "quartermaster_tokens_used_total",
                "Tokens of calls that a budget covers. Input has those that a prefix cache served.",
                &["namespace", "budget", "pool", "direction"],
            )?,
            limit: new.real_gauges(
                "quartermaster_token_budget_limit",
                "What may be used in the period of a budget: tokens, or the operator's currency.",
                &["namespace", "budget", "unit"],
            )?,
            remaining: new.real_gauges(
                "quartermaster_token_budget_remaining",
                "What is left in the period of a budget: tokens, or the operator's currency.",
                &["namespace", "budget", "unit"],
            )?,
            exhausted: new.gauges(
                "quartermaster_token_budget_exhausted",
                "1 while a budget is exhausted: what is left, if anything, is too little for its callers.",
                &["namespace", "budget"],
            )?,
            exceeded: new.counters(
                "quartermaster_token_budget_exceeded_total",
                "Calls for which a budget had no room: refused, or let through where it refuses nothing.",
                &["namespace", "budget"],
            )?,
            projected_exhaustion: new.gauges(
                "quartermaster_token_budget_projected_exhaustion_timestamp_seconds",
                "When a budget is used up if it goes on as at present. Absent: not in the period.",
                &["namespace", "budget"],
            )?,
            usage_known: new.gauges(
                "quartermaster_token_budget_usage_known",
                "1 while all that was used of a budget is counted.",
                &["namespace", "budget"],
            )?,
        })
    }

    /// Forgets all of them before they are told anew: a budget that is gone has none any more.
    pub(super) fn reset(&self) {
        self.tokens_used.reset();
        self.limit.reset();
        self.remaining.reset();
        self.exhausted.reset();
        self.exceeded.reset();
        self.projected_exhaustion.reset();
        self.usage_known.reset();
    }

    /// Tokens that a pool used of a budget, since the process began to count.
    pub fn tokens_used(&self, budget: &ObjectKey, pool: &str, input: u64, output: u64) {
        let [namespace, name] = labels(budget);
        for (direction, tokens) in [("input", input), ("output", output)] {
            self.tokens_used.with_label_values(&[namespace, name, pool, direction]).inc_by(tokens);
        }
    }

    /// The limit of a budget in a unit, and what was used of it: tokens, or millionths of the operator's currency.
    pub fn limit(&self, budget: &ObjectKey, unit: Unit, limit: u64, used: u64) {
        let [namespace, name] = labels(budget);
        let labels = [namespace, name, unit.name()];
        self.limit.with_label_values(&labels).set(shown(unit, limit));
        self.remaining.with_label_values(&labels).set(shown(unit, limit.saturating_sub(used)));
    }

    /// Whether its phase is Exhausted.
    pub fn exhausted(&self, budget: &ObjectKey, exhausted: bool) {
        self.exhausted.with_label_values(&labels(budget)).set(exhausted.into());
    }

    /// Calls of the period for which there was no room.
    pub fn exceeded(&self, budget: &ObjectKey, calls: u64) {
        self.exceeded.with_label_values(&labels(budget)).inc_by(calls);
    }

    /// When it is used up.
    pub fn projected_exhaustion(&self, budget: &ObjectKey, at: Timestamp) {
        self.projected_exhaustion.with_label_values(&labels(budget)).set(at.as_second());
    }

    /// Whether all that was used is counted.
    pub fn usage_known(&self, budget: &ObjectKey, known: bool) {
        self.usage_known.with_label_values(&labels(budget)).set(known.into());
    }
}

/// Namespace and name, as labels.
fn labels(budget: &ObjectKey) -> [&str; 2] {
    [&budget.namespace, &budget.name]
}

/// An amount in what people count: tokens, or the currency.
fn shown(unit: Unit, amount: u64) -> f64 {
    match unit {
        Unit::Tokens => real(amount),
        Unit::Cost => real(amount) / 1e6,
    }
}

/// As a real number: exact up to 2^53, which is the largest limit.
fn real(number: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits).unwrap_or(u32::MAX));
    half(number >> 32) * 4_294_967_296.0 + half(number & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_exact_up_to_the_largest_limit_and_money_is_in_whole_units() {
        for (unit, amount, number) in [
            (Unit::Tokens, 0, "0"),
            (Unit::Tokens, 5_000_000, "5000000"),
            (Unit::Tokens, (1 << 53) - 1, "9007199254740991"),
            (Unit::Tokens, 1 << 53, "9007199254740992"),
            (Unit::Cost, 250_000_000, "250"),
            (Unit::Cost, 1, "0.000001"),
        ] {
            assert_eq!(shown(unit, amount).to_string(), number);
        }
    }
}
