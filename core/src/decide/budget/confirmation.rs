//! Whether somebody has confirmed what a budget shows as used, after its ledger was lost.

use kube::ResourceExt as _;

use super::observation::UsageKnown;
use crate::api::TokenBudget;
use crate::api::token_budget::CONFIRM_USAGE;

/// What is remembered of the annotation [`CONFIRM_USAGE`] of a budget between two looks: the value that confirms nothing, since
/// it was there before. A new process begins without, and takes what it finds first for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    has_looked: bool,
    seen: Option<String>,
}

impl Confirmation {
    /// Whether what is shown as used is confirmed by now. `known`: what the accounts say of it; none: nothing yet.
    pub fn is_given(&mut self, budget: &TokenBudget, known: Option<UsageKnown>) -> bool {
        let value = budget.annotations().get(CONFIRM_USAGE).cloned();
        let is_new = self.has_looked && value.is_some() && value != self.seen;
        let confirms = is_new && known == Some(UsageKnown::LedgerLost);
        // While it is not known whether the ledger is lost, a new value may be about that.
        if !self.has_looked || confirms || known == Some(UsageKnown::Yes) {
            (self.has_looked, self.seen) = (true, value);
        }
        confirms
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::budget::testing::budget;

    const LOST: Option<UsageKnown> = Some(UsageKnown::LedgerLost);
    const YES: Option<UsageKnown> = Some(UsageKnown::Yes);

    fn is_given(confirmation: &mut Confirmation, value: Option<&str>, known: Option<UsageKnown>) -> bool {
        let mut budget = budget(&json!({}));
        let annotations = value.map(|value| (CONFIRM_USAGE.to_owned(), value.to_owned()));
        budget.metadata.annotations = Some(annotations.into_iter().collect());
        confirmation.is_given(&budget, known)
    }

    #[test]
    fn a_new_value_confirms_once_and_only_a_ledger_that_is_lost() {
        let mut confirmation = Confirmation::default();
        assert!(!is_given(&mut confirmation, None, LOST));
        assert!(is_given(&mut confirmation, Some("1"), LOST));
        assert!(!is_given(&mut confirmation, Some("1"), LOST));
        assert!(!is_given(&mut confirmation, Some("2"), YES));
        assert!(!is_given(&mut confirmation, Some("2"), LOST), "it was there before the ledger was lost");
        assert!(is_given(&mut confirmation, Some("3"), LOST));
    }

    #[test]
    fn what_a_process_finds_first_confirms_nothing() {
        let mut confirmation = Confirmation::default();
        assert!(!is_given(&mut confirmation, Some("1"), LOST));
        assert!(!is_given(&mut confirmation, None, LOST), "and neither does taking it away");
        assert!(is_given(&mut confirmation, Some("2"), LOST));
    }

    #[test]
    fn what_is_written_before_the_loss_can_be_told_confirms_it() {
        for unknown in [None, Some(UsageKnown::Opening), Some(UsageKnown::NotHeard)] {
            let mut confirmation = Confirmation::default();
            assert!(!is_given(&mut confirmation, Some("1"), unknown));
            assert!(!is_given(&mut confirmation, Some("2"), unknown));
            assert!(is_given(&mut confirmation, Some("2"), LOST), "{unknown:?}");
        }
    }
}
