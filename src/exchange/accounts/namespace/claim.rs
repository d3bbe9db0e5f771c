//! How the ledger of a namespace is claimed: when, and what follows from what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use quartermaster_core::decide::account::granting::BudgetTerms;
use quartermaster_core::decide::account::ledger::{BudgetLedger, HotLedger, SCHEMA_VERSION};
use quartermaster_core::decide::back_off;

/// What the ledger of a namespace says when it is claimed.
#[derive(Debug)]
pub enum Claimed {
    /// This; none: there was none.
    Ledger(Option<HotLedger>),
    /// Nothing that can be read. It is made anew, and that is shown until somebody confirms it.
    Lost,
    /// What a later version wrote. Nothing is granted, nor written, before somebody does something about it; these words say what.
    Held(String),
}

impl Claimed {
    /// The ledger to begin with, in a term with these budgets; none: there was none.
    ///
    /// # Errors
    ///
    /// Why nothing is to be gone by.
    pub(super) fn ledger(self, term: u64, budgets: &BTreeMap<String, BudgetTerms>) -> Result<Option<HotLedger>, String> {
        match self {
            Self::Ledger(ledger) => Ok(ledger),
            Self::Lost => {
                let unconfirmed = || BudgetLedger { unconfirmed: true, ..BudgetLedger::default() };
                let budgets = budgets.keys().map(|uid| (uid.clone(), unconfirmed())).collect();
                Ok(Some(HotLedger { schema_version: SCHEMA_VERSION, term, budgets }))
            }
            Self::Held(why) => Err(why),
        }
    }
}

/// When the ledger is claimed, and how often that has failed. Times are since the origin of the process.
#[derive(Debug, Default)]
pub(super) struct Claims {
    at: Duration,
    failures: u32,
    /// Why it failed the last time.
    failure: Option<String>,
}

impl Claims {
    /// When the ledger is claimed.
    pub(super) fn at(&self) -> Duration {
        self.at
    }

    /// Why it could not be claimed the last time.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// It is claimed.
    pub(super) fn succeeded(&mut self) {
        (self.failures, self.failure) = (0, None);
    }

    /// It could not be claimed, for this reason. `jitter` is from 0 to 1.
    pub(super) fn failed(&mut self, why: String, now: Duration, jitter: f64) {
        self.at = now.saturating_add(back_off::after(self.failures, jitter));
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(why);
    }
}
