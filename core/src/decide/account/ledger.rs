//! The hot ledger: what outlives the leader. For each budget, unit and period it has what was settled, and for each process of
//! a gateway what it had used and how far it may go before the ledger is written again.
//!
//! It is written before anything is told that depends on it, so that whoever reads the last one knows, of each process, a
//! number that its allowance does not pass (its *ceiling*), and of all of them together another one (the *bound*). What is
//! settled of a process that has ended is in `settled`; a process that lives is named, so that nothing of it is counted twice.
//!
//! Here it is JSON. How it is compressed and where it is kept is not decided here.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Limits, PeriodId, Unit};

/// The version of the text that this code writes. A reader takes it and those before it.
pub const SCHEMA_VERSION: u32 = 1;

/// Why a ledger, or another text that outlives the leader, cannot be read. It is then as if it were lost, but is not to be
/// overwritten before somebody has looked at it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A later version has written it. To go on without it would forget what that version counted.
    #[error("reading the ledger: it is of version {found}, and this operator reads versions up to {known}", known = SCHEMA_VERSION)]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It is cut, was edited by hand, or is something else.
    #[error("reading the ledger: {0}")]
    Unreadable(String),
}

/// All budgets of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HotLedger {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The term of the leader that wrote it, for people.
    #[serde(default)]
    pub term: u64,
    /// By uid of the TokenBudget.
    #[serde(default)]
    pub budgets: BTreeMap<String, BudgetLedger>,
}

/// A budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetLedger {
    /// The period that is open. None before it was ever open again.
    pub open: PeriodId,
    /// An earlier ledger was lost, or a part of the caller table that an account opened by, and nobody has confirmed what was made in
    /// its place.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unconfirmed: bool,
    /// The periods in which something may still be used: the open one, the next, and those before that are not settled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub periods: BTreeMap<PeriodId, PeriodLedger>,
    /// The last periods that are over and settled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub closed: BTreeMap<PeriodId, ClosedLedger>,
}

/// A period in which something may still be used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeriodLedger {
    /// When it starts, in seconds since 1970.
    pub start: i64,
    /// When it ends, in seconds since 1970; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// What may be used in it.
    #[serde(default)]
    pub limits: Limits,
    /// Each unit that is limited, once its account is open.
    #[serde(default)]
    pub accounts: Units<AccountLedger>,
}

/// A unit of a budget in a period.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountLedger {
    /// What is settled and what all processes may ever use do not pass this together; none: nothing says so, as the budget
    /// refuses nobody, or not always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<u64>,
    /// By caller; of a budget without shares, and of the time in which it had none, by "".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shares: BTreeMap<String, ShareLedger>,
}

/// A share, or all of a budget without shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ShareLedger {
    /// What was used by processes that have ended, and before the account was opened.
    pub settled: u64,
    /// The part of `settled` that is an upper bound.
    #[serde(skip_serializing_if = "is_zero")]
    pub estimated: u64,
    /// Calls that those processes refused for want of room.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// What the caller had used in the period before it had a share. It counts against the share, and not again against the
    /// budget.
    #[serde(skip_serializing_if = "is_zero")]
    pub before: u64,
    /// By epoch: every process that lives and has reported the account, or was granted something. One that used nothing of this share and
    /// may use nothing of it is missing where another share of the account names it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub processes: BTreeMap<u64, ProcessLedger>,
}

/// What a process of a gateway spends in an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessLedger {
    /// What it has reported as used.
    pub live: u64,
    /// The part of `live` that is an upper bound.
    #[serde(skip_serializing_if = "is_zero")]
    pub estimated: u64,
    /// Calls that it refused for want of room.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// What its allowance does not pass before the ledger is written again.
    pub ceiling: u64,
}

/// A period that is over and settled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClosedLedger {
    /// When it ended, in seconds since 1970; none: it had no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// The limits that it had in the end.
    pub limits: Limits,
    /// What was used.
    pub used: Units<u64>,
    /// The part of `used` that is an upper bound.
    pub estimated: Units<u64>,
}

/// Something of each unit that there is something of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Units<T> {
    /// Of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<T>,
    /// Of money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<T>,
}

impl<T> Default for Units<T> {
    fn default() -> Self {
        Self { tokens: None, cost: None }
    }
}

impl<T> Units<T> {
    /// That of one unit.
    pub fn of(&self, unit: Unit) -> Option<&T> {
        match unit {
            Unit::Tokens => self.tokens.as_ref(),
            Unit::Cost => self.cost.as_ref(),
        }
    }

    /// The place of that of one unit.
    pub fn of_mut(&mut self, unit: Unit) -> &mut Option<T> {
        match unit {
            Unit::Tokens => &mut self.tokens,
            Unit::Cost => &mut self.cost,
        }
    }

    /// Those that there are.
    pub fn each(&self) -> impl Iterator<Item = (Unit, &T)> {
        Unit::ALL.into_iter().filter_map(|unit| Some((unit, self.of(unit)?)))
    }

    /// Those that there are, to be changed.
    pub fn each_mut(&mut self) -> impl Iterator<Item = (Unit, &mut T)> {
        let Self { tokens, cost } = self;
        [(Unit::Tokens, tokens), (Unit::Cost, cost)].into_iter().filter_map(|(unit, of)| Some((unit, of.as_mut()?)))
    }
}

/// Reads what stands in the ledger or the table, unless a later version wrote it.
pub(super) fn versioned<T: DeserializeOwned>(text: &str) -> Result<T, LedgerError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u32,
    }
    // The version first: what a later one says may not be readable at all.
    let Version { schema_version: found } = serde_json::from_str(text).map_err(unreadable)?;
    if found > SCHEMA_VERSION {
        return Err(LedgerError::Newer { found });
    }
    serde_json::from_str(text).map_err(unreadable)
}

impl HotLedger {
    /// Reads what [`Self::text`] wrote.
    ///
    /// # Errors
    ///
    /// A later version wrote it, or it is no ledger.
    pub fn read(text: &str) -> Result<Self, LedgerError> {
        versioned(text)
    }

    /// As JSON.
    ///
    /// # Errors
    ///
    /// None that is known: every ledger can be written.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

fn unreadable(error: serde_json::Error) -> LedgerError {
    LedgerError::Unreadable(error.to_string())
}

fn is_zero(amount: &u64) -> bool {
    *amount == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ledger() -> HotLedger {
        let processes = BTreeMap::from([(17, ProcessLedger { live: 20, ceiling: 30, ..ProcessLedger::default() })]);
        let share = ShareLedger { settled: 10, estimated: 4, processes, ..ShareLedger::default() };
        let accounts = Units {
            tokens: Some(AccountLedger { bound: Some(1000), shares: BTreeMap::from([(String::new(), share)]) }),
            cost: None,
        };
        let period = PeriodLedger { start: 3600, end: Some(7200), limits: Limits { tokens: Some(1000), cost: None }, accounts };
        let closed = ClosedLedger { end: Some(3600), used: Units { tokens: Some(900), cost: None }, ..ClosedLedger::default() };
        let budget = BudgetLedger {
            open: PeriodId(3600),
            unconfirmed: false,
            periods: BTreeMap::from([(PeriodId(3600), period)]),
            closed: BTreeMap::from([(PeriodId(0), closed)]),
        };
        HotLedger { schema_version: SCHEMA_VERSION, term: 3, budgets: BTreeMap::from([("6f1c".to_owned(), budget)]) }
    }

    #[test]
    fn a_ledger_is_read_as_it_is_written() {
        let text = ledger().text().unwrap();
        assert_eq!(HotLedger::read(&text), Ok(ledger()));
        let process = json!({"live": 20, "ceiling": 30});
        let share = json!({"settled": 10, "estimated": 4, "processes": {"17": process}});
        let account = json!({"bound": 1000, "shares": {"": share}});
        let period = json!({"start": 3600, "end": 7200, "limits": {"tokens": 1000}, "accounts": {"tokens": account}});
        let closed = json!({"end": 3600, "limits": {}, "used": {"tokens": 900}, "estimated": {}});
        let budget = json!({"open": 3600, "periods": {"3600": period}, "closed": {"0": closed}});
        let written: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(written, json!({"schemaVersion": 1, "term": 3, "budgets": {"6f1c": budget}}));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over_and_what_an_earlier_one_lacked_is_nothing() {
        let text = r#"{"schemaVersion":1,"budgets":{"6f1c":{"open":0,"mood":"good"}}}"#;
        let budget = BudgetLedger::default();
        let read = HotLedger::read(text).unwrap();
        assert_eq!(read.budgets, BTreeMap::from([("6f1c".to_owned(), budget)]));
    }

    #[test]
    fn a_later_version_is_told_from_what_cannot_be_read() {
        assert_eq!(
            HotLedger::read(r#"{"schemaVersion":2,"budgets":["quite", "another", "form"]}"#),
            Err(LedgerError::Newer { found: 2 })
        );
        let text = ledger().text().unwrap();
        let cut = text.get(..text.len() / 2).unwrap();
        let edited = text.replace("900", "-900");
        for unreadable in ["", "{}", "null", cut, edited.as_str()] {
            assert!(matches!(HotLedger::read(unreadable), Err(LedgerError::Unreadable(_))), "{unreadable}");
        }
    }
}
