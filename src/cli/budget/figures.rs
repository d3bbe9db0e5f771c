//! What a status says in numbers.

use std::cmp::Ordering;

use quartermaster_core::api::price::Amount;
use quartermaster_core::api::token_budget_status::{TokenBudgetStatus, amount};
use quartermaster_core::decide::account::{Amounts, Unit};

/// How far a budget is used, of the unit of which more is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// What is counted.
    pub unit: Unit,
    /// What was used.
    pub used: u64,
    /// The limit.
    pub limit: u64,
}

impl Figures {
    /// Those of a status; none: nothing is known.
    pub fn of(status: &TokenBudgetStatus) -> Option<Self> {
        let of = |unit: Unit, limit: Option<u64>, used: Option<u64>| Some(Self { unit, used: used?, limit: limit? });
        let tokens = of(Unit::Tokens, status.limit_tokens, status.used_tokens);
        let cost = of(Unit::Cost, millionths(status.limit_cost.as_ref()), millionths(status.used_cost.as_ref()));
        match (tokens, cost) {
            (Some(tokens), Some(cost)) if cost.compare(&tokens) == Ordering::Greater => Some(cost),
            (tokens, cost) => tokens.or(cost),
        }
    }

    /// Of which more is used.
    fn compare(&self, other: &Self) -> Ordering {
        let product = |used: u64, limit: u64| u128::from(used) * u128::from(limit);
        product(self.used, other.limit).cmp(&product(other.used, self.limit))
    }

    /// An amount of the unit.
    pub fn shown(&self, value: u64) -> String {
        match self.unit {
            Unit::Tokens => value.to_string(),
            Unit::Cost => amount(value),
        }
    }

    /// What is used of the limit, in words.
    pub fn text(&self) -> String {
        let unit = if self.unit == Unit::Tokens { " tokens" } else { "" };
        format!("{} of {}{unit}", self.shown(self.used), self.shown(self.limit))
    }
}

/// What a status says was used. What it does not say, as that is not limited, is nothing here.
pub fn used(status: &TokenBudgetStatus) -> Amounts {
    Amounts { tokens: status.used_tokens.unwrap_or(0), cost: millionths(status.used_cost.as_ref()).unwrap_or(0) }
}

fn millionths(amount: Option<&String>) -> Option<u64> {
    Amount(amount?.clone()).millionths().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(tokens: Option<(u64, u64)>, cost: Option<(&str, &str)>) -> TokenBudgetStatus {
        TokenBudgetStatus {
            used_tokens: tokens.map(|(used, _)| used),
            limit_tokens: tokens.map(|(_, limit)| limit),
            used_cost: cost.map(|(used, _)| used.to_owned()),
            limit_cost: cost.map(|(_, limit)| limit.to_owned()),
            ..TokenBudgetStatus::default()
        }
    }

    #[test]
    fn the_unit_of_which_more_is_used_is_told() {
        for (tokens, cost, expected) in [
            (Some((500, 1000)), None, "500 of 1000 tokens"),
            (None, Some(("2.50", "10.00")), "2.50 of 10.00"),
            (Some((500, 1000)), Some(("2.50", "10.00")), "500 of 1000 tokens"),
            (Some((500, 1000)), Some(("5.00", "10.00")), "500 of 1000 tokens"),
            (Some((500, 1000)), Some(("5.01", "10.00")), "5.01 of 10.00"),
        ] {
            assert_eq!(Figures::of(&status(tokens, cost)).unwrap().text(), expected);
        }
        assert_eq!(Figures::of(&TokenBudgetStatus::default()), None);
        let unlimited = TokenBudgetStatus { used_tokens: Some(7), ..TokenBudgetStatus::default() };
        assert_eq!((Figures::of(&unlimited), used(&unlimited)), (None, Amounts { tokens: 7, cost: 0 }));
    }
}
