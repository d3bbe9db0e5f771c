//! Which budgets may have changed since when, so that nobody has to look at the others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The changes of budgets, which are counted.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// How many there were.
    count: u64,
    /// By uid: the number of the last change of each budget.
    last: BTreeMap<String, u64>,
    /// The same the other way round.
    budgets: BTreeMap<u64, String>,
    /// The last change that may have been one of any budget.
    of_any: u64,
}

impl Changes {
    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Something may have changed of a budget.
    pub(super) fn note(&mut self, uid: &str) {
        self.count += 1;
        let uid = match self.last.get_mut(uid) {
            Some(last) => {
                let before = std::mem::replace(last, self.count);
                self.budgets.remove(&before).unwrap_or_else(|| uid.to_owned())
            }
            None => {
                self.last.insert(uid.to_owned(), self.count);
                uid.to_owned()
            }
        };
        self.budgets.insert(self.count, uid);
    }

    /// Something may have changed of any of them.
    pub(super) fn note_any(&mut self) {
        self.count += 1;
        self.of_any = self.count;
    }

    /// Only such budgets are left. That one is gone is a change of any: there is nothing else that says so.
    pub(super) fn retain(&mut self, is_left: impl Fn(&str) -> bool) {
        let count = self.last.len();
        self.last.retain(|uid, _| is_left(uid));
        if self.last.len() < count {
            self.budgets.retain(|_, uid| is_left(uid));
            self.note_any();
        }
    }

    /// The budgets of which something may have changed since there were so many changes, by uid; none: any, or one is gone. Since there
    /// were none, any has.
    pub(super) fn since(&self, count: u64) -> Option<BTreeSet<String>> {
        let is_any = count == 0 || count < self.of_any;
        let budgets = || self.budgets.range((Bound::Excluded(count), Bound::Unbounded)).map(|(_, uid)| uid.clone()).collect();
        (!is_any).then(budgets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(changes: &Changes, count: u64) -> Option<Vec<String>> {
        changes.since(count).map(|budgets| budgets.into_iter().collect())
    }

    #[test]
    fn only_budgets_that_have_changed_since_are_named_and_each_once() {
        let mut changes = Changes::default();
        assert_eq!(changes.since(0), None);
        ["a", "b", "c"].into_iter().for_each(|uid| changes.note(uid));
        let known = changes.count();
        assert_eq!((since(&changes, 0), since(&changes, known)), (None, Some(vec![])));
        ["b", "a", "b"].into_iter().for_each(|uid| changes.note(uid));
        assert_eq!(since(&changes, known), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(since(&changes, changes.count() - 1), Some(vec!["b".to_owned()]));
        assert_eq!(changes.budgets.len(), 3);
    }

    #[test]
    fn a_change_of_any_and_a_budget_that_is_gone_concern_whoever_knows_less() {
        let mut changes = Changes::default();
        ["a", "b"].into_iter().for_each(|uid| changes.note(uid));
        let known = changes.count();
        changes.retain(|_| true);
        assert_eq!(since(&changes, known), Some(vec![]), "none is gone");
        changes.retain(|uid| uid != "a");
        assert_eq!((since(&changes, known), changes.budgets.len()), (None, 1));
        let known = changes.count();
        assert_eq!(since(&changes, known), Some(vec![]));
        changes.note_any();
        changes.note("b");
        assert_eq!(since(&changes, known), None);
        assert_eq!(since(&changes, changes.count() - 1), Some(vec!["b".to_owned()]));
    }
}
