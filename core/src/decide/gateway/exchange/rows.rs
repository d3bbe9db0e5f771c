//! Rows that a replica is to have, and which of them it may lack: each is said until the replica has taken a message with what it says
//! now. What it costs grows with the rows that changed.

use std::collections::{BTreeMap, BTreeSet};

use crate::decide::account::AccountId;
use crate::decide::account::granting::AccountRows;
use crate::decide::account::message::AccountRow;

/// Rows by their key.
#[derive(Clone, Debug)]
pub(super) struct Rows<Key, Row> {
    rows: BTreeMap<Key, Wanted<Row>>,
    /// Those that the replica may not have as they are to be.
    open: BTreeSet<Key>,
}

/// A row as it is to be.
#[derive(Clone, Debug)]
struct Wanted<Row> {
    /// What it says; none: it is to go.
    content: Option<Row>,
    /// The first message that said so on this connection; none: there was none yet.
    said: Option<u64>,
}

impl<Key, Row> Default for Rows<Key, Row> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), open: BTreeSet::new() }
    }
}

impl<Key: Clone + Ord, Row: Clone + PartialEq> Rows<Key, Row> {
    /// These are all rows from now on. Whether that is something new.
    pub(super) fn want(&mut self, rows: &BTreeMap<Key, Row>) -> bool {
        let gone = self.rows.keys().filter(|key| !rows.contains_key(*key)).cloned().collect();
        let changed = rows.iter().filter(|(key, row)| !self.is_wanted(key, row));
        let changed: Vec<(Key, Row)> = changed.map(|(key, row)| (key.clone(), row.clone())).collect();
        let is_less = self.remove(gone);
        self.put(changed) || is_less
    }

    fn is_wanted(&self, key: &Key, row: &Row) -> bool {
        self.rows.get(key).is_some_and(|wanted| wanted.content.as_ref() == Some(row))
    }

    /// These are to be as they are here. Whether that is something new.
    fn put(&mut self, rows: impl IntoIterator<Item = (Key, Row)>) -> bool {
        let mut news = false;
        for (key, row) in rows {
            if !self.is_wanted(&key, &row) {
                self.open.insert(key.clone());
                self.rows.insert(key, Wanted { content: Some(row), said: None });
                news = true;
            }
        }
        news
    }

    /// These are to go. Whether that is something new.
    fn remove(&mut self, gone: Vec<Key>) -> bool {
        let mut news = false;
        for key in gone {
            if let Some(wanted) = self.rows.get_mut(&key).filter(|wanted| wanted.content.is_some()) {
                *wanted = Wanted { content: None, said: None };
                self.open.insert(key);
                news = true;
            }
        }
        news
    }

    /// The replica has taken the messages up to this one. Rows that it knows to be gone are forgotten.
    pub(super) fn taken(&mut self, seq: u64) {
        let Self { rows, open } = self;
        open.retain(|key| {
            let Some(wanted) = rows.get(key) else { return false };
            let is_taken = wanted.said.is_some_and(|said| said <= seq);
            if is_taken && wanted.content.is_none() {
                rows.remove(key);
            }
            !is_taken
        });
    }

    /// What message `seq` says: a row that is gone as none.
    pub(super) fn say(&mut self, seq: u64) -> BTreeMap<Key, Option<Row>> {
        let mut said = BTreeMap::new();
        for key in &self.open {
            if let Some(wanted) = self.rows.get_mut(key) {
                wanted.said.get_or_insert(seq);
                said.insert(key.clone(), wanted.content.clone());
            }
        }
        said
    }
}

impl Rows<AccountId, AccountRow> {
    /// These accounts are to be as they are here. Whether that is something new.
    pub(super) fn want_accounts(&mut self, accounts: AccountRows) -> bool {
        let is_less = self.remove(accounts.gone(&self.rows));
        self.put(accounts.rows) || is_less
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Rows<&'static str, u64>;

    fn said(rows: &mut Numbers, seq: u64) -> Vec<(&'static str, Option<u64>)> {
        rows.say(seq).into_iter().collect()
    }

    #[test]
    fn a_row_is_said_until_a_message_with_what_it_says_now_was_taken() {
        let mut rows = Numbers::default();
        assert!(rows.want(&[("a", 1), ("b", 2)].into()));
        assert_eq!(said(&mut rows, 1), [("a", Some(1)), ("b", Some(2))]);
        assert!(!rows.want(&[("a", 1), ("b", 2)].into()), "the same again is no news");
        assert_eq!(said(&mut rows, 2), [("a", Some(1)), ("b", Some(2))]);
        assert!(rows.want(&[("a", 1), ("b", 3)].into()));
        rows.taken(1);
        assert_eq!(said(&mut rows, 3), [("b", Some(3))]);
        rows.taken(2);
        assert_eq!(said(&mut rows, 4), [("b", Some(3))], "what was taken said something else of b");
        rows.taken(3);
        assert_eq!(said(&mut rows, 5), []);
    }

    #[test]
    fn a_row_that_changes_and_changes_back_is_said_again() {
        let mut rows = Numbers::default();
        rows.want(&[("a", 1)].into());
        said(&mut rows, 1);
        rows.taken(1);
        rows.want(&[("a", 2)].into());
        said(&mut rows, 2);
        rows.want(&[("a", 1)].into());
        assert_eq!(said(&mut rows, 3), [("a", Some(1))], "message 2 may be the last that was taken");
        rows.taken(2);
        assert_eq!(said(&mut rows, 4), [("a", Some(1))]);
        rows.taken(3);
        assert_eq!(said(&mut rows, 5), []);
    }

    #[test]
    fn a_row_that_is_gone_is_said_to_be_until_that_was_taken_and_then_forgotten() {
        let mut rows = Numbers::default();
        rows.want(&[("a", 1), ("b", 2)].into());
        said(&mut rows, 1);
        rows.taken(1);
        assert!(rows.want(&[("b", 2)].into()));
        assert!(!rows.want(&[("b", 2)].into()));
        assert_eq!(said(&mut rows, 2), [("a", None)]);
        rows.taken(1);
        assert_eq!(said(&mut rows, 3), [("a", None)]);
        rows.taken(2);
        assert_eq!(said(&mut rows, 4), []);
        assert_eq!(rows.rows.len(), 1);
        // And it may come again.
        assert!(rows.want(&[("a", 1), ("b", 2)].into()));
        assert_eq!(said(&mut rows, 5), [("a", Some(1))]);
    }

    #[test]
    fn accounts_of_budgets_that_are_not_named_stay_and_others_are_gone_where_they_are_missing() {
        let row = |used| AccountRow { used, ..AccountRow::default() };
        let rows = |rows: &[(&str, u64)]| -> BTreeMap<AccountId, AccountRow> {
            rows.iter().map(|(id, used)| (id.parse().unwrap(), row(*used))).collect()
        };
        let named = |budgets: &[&str], accounts: &[(&str, u64)]| AccountRows {
            budgets: Some(budgets.iter().map(|uid| (*uid).to_owned()).collect()),
            ..AccountRows::all(rows(accounts))
        };
        let mut wanted = Rows::<AccountId, AccountRow>::default();
        let said = |wanted: &mut Rows<AccountId, AccountRow>, seq| -> Vec<(String, Option<u64>)> {
            let said = wanted.say(seq);
            wanted.taken(seq);
            said.into_iter().map(|(id, row)| (id.to_string(), row.map(|row| row.used))).collect()
        };
        let of = |id: &str, used: Option<u64>| (id.to_owned(), used);
        let all = rows(&[("a/tokens", 1), ("b/tokens/coder", 2), ("b/cost", 3), ("c/tokens", 4)]);
        assert!(wanted.want_accounts(AccountRows::all(all)));
        assert_eq!(said(&mut wanted, 1).len(), 4);
        assert!(!wanted.want_accounts(named(&[], &[])));
        assert!(!wanted.want_accounts(named(&["a"], &[("a/tokens", 1)])));
        assert!(wanted.want_accounts(named(&["a", "b"], &[("a/tokens", 1), ("b/tokens/coder", 5)])));
        assert_eq!(said(&mut wanted, 2), [of("b/tokens/coder", Some(5)), of("b/cost", None)]);
        assert!(wanted.want_accounts(named(&["a"], &[])));
        assert_eq!(said(&mut wanted, 3), [of("a/tokens", None)]);
        assert!(wanted.want_accounts(AccountRows::all(rows(&[("c/tokens", 4)]))));
        assert_eq!(said(&mut wanted, 4), [of("b/tokens/coder", None)]);
        assert_eq!(wanted.rows.len(), 1);
    }
}
