//! Accounts: what may be spent, by whom, how much of it each gateway may spend without asking, and what was spent.
//!
//! An account is a budget, or one caller's share of it, in one unit. The operator's leader *grants*: it tells each process of a
//! gateway (an epoch) the most that it may ever use in an account and period, its *allowance*. The gateway *spends*: it admits a call
//! where allowance less what was used and reserved covers the most that the call can use, and asks where it does not. An allowance
//! falls only by agreement. So at every step, for every budget, unit and period:
//!
//! `settled + sum over unsettled epochs of max(reported used and reserved, highest allowance sent and not given back) <= limit`
//!
//! as long as no limit was lowered below what had been granted, no backend reported more than was reserved, and no call was charged
//! that had reserved nothing, as it began before the budget covered it; and nothing is granted while it is more. Both halves are
//! state machines without clock or socket, and are tested against each other over lost, repeated and late messages and crashes.
//!
//! * [`granting`]: the operator's half. * [`spending`]: the gateway's half. * [`message`]: what they tell each other.
//! * [`ledger`]: what outlives the leader: what was settled, and how far epochs may go before it is written again.
//! * [`history`]: what callers used, by hour, day and month. * [`export`]: the same for people: chargeback, and what another budget
//!   would have done.
//! * [`callers`]: what budgets mean for callers, as far as there are accounts.
//! * [`tasks`]: what tasks used, beside all this: no account has a part in it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub mod callers;
pub mod export;
pub mod granting;
pub mod history;
pub mod ledger;
pub mod message;
pub mod spending;
pub mod tasks;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Tokens.
    Tokens,
    /// Millionths of the operator's currency.
    Cost,
}

impl Unit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tokens, Self::Cost];

    /// As it stands in the id of an account.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Cost => "cost",
        }
    }
}

/// An amount of each unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    /// Tokens.
    pub tokens: u64,
    /// Millionths of the operator's currency.
    pub cost: u64,
}

impl Amounts {
    /// That of one unit.
    pub fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Cost => self.cost,
        }
    }
}

/// What may be used in a period, of each unit; none: that unit is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Millionths of the operator's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
}

impl Limits {
    /// That of one unit.
    pub fn of(self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Cost => self.cost,
        }
    }
}

/// An instant, by both clocks of a process.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the wall clock, which may jump either way: it says which period it is, and decides nothing else.
    pub wall: Timestamp,
    /// Since the origin of the process, by a clock that never goes back: it decides everything else.
    pub elapsed: Duration,
}

/// An account: a budget, or one caller's share of it, in one unit. As text `<uid>/tokens` or `<uid>/cost/<caller>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId {
    /// The uid of the TokenBudget.
    pub budget: String,
    /// What is counted.
    pub unit: Unit,
    /// The AgentPool whose share it is; none for a budget without shares.
    pub caller: Option<String>,
}

/// A text that is no id of an account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no account: it has to be <uid>/tokens or <uid>/cost, with /<caller> for a share")]
pub struct ParseAccountError(pub String);

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.budget, self.unit.name())?;
        self.caller.as_ref().map_or(Ok(()), |caller| write!(formatter, "/{caller}"))
    }
}

impl FromStr for AccountId {
    type Err = ParseAccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || ParseAccountError(text.to_owned());
        let mut parts = text.splitn(3, '/');
        let (budget, unit) = parts.next().zip(parts.next()).ok_or_else(invalid)?;
        let unit = Unit::ALL.into_iter().find(|known| known.name() == unit).ok_or_else(invalid)?;
        if budget.is_empty() {
            return Err(invalid());
        }
        Ok(Self { budget: budget.to_owned(), unit, caller: parts.next().map(str::to_owned) })
    }
}

impl Serialize for AccountId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A period of a budget: the instant at which it starts, in seconds since 1970 in UTC. Ids of one budget only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeriodId(pub i64);

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_as_it_is_written() {
        for text in ["6f1c/tokens", "6f1c/cost", "6f1c/tokens/coder"] {
            assert_eq!(text.parse::<AccountId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "6f1c", "6f1c/euros", "/tokens"] {
            assert_eq!(text.parse::<AccountId>(), Err(ParseAccountError(text.to_owned())));
        }
    }
}
