//! What is to be said of tasks and may not have been heard yet. It only ever becomes more, so that a message with it is all that there
//! is to remember: what was taken need not be known any more.

use std::collections::BTreeMap;

use crate::decide::account::tasks::{TaskId, TaskRow, Tasks};

/// What a replica may not have heard yet of tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Untaken {
    /// The changes until which it is known what is to be said.
    changes: u64,
    /// By caller and task, with the first message that said so on this connection; none: there was none yet.
    rows: BTreeMap<(String, TaskId), (TaskRow, Option<u64>)>,
}

impl Untaken {
    /// This is to be said beside what is, which is all until there were so many changes. Whether there is anything new.
    pub(super) fn want(&mut self, tasks: Tasks, changes: u64) -> bool {
        let is_news = !tasks.is_empty();
        self.changes = changes;
        for (caller, tasks) in tasks {
            self.rows.extend(tasks.into_iter().map(|(task, row)| ((caller.clone(), task), (row, None))));
        }
        is_news
    }

    /// The changes until which it is known what is to be said.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// What message `seq` says.
    pub(super) fn say(&mut self, seq: u64) -> Tasks {
        let mut said = Tasks::new();
        for ((caller, task), (row, first)) in &mut self.rows {
            first.get_or_insert(seq);
            said.entry(caller.clone()).or_default().insert(*task, row.clone());
        }
        said
    }

    /// The replica has taken the messages up to this one.
    pub(super) fn taken(&mut self, seq: u64) {
        self.rows.retain(|_, (_, first)| first.is_none_or(|first| first > seq));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(task: &str, tokens: u64) -> Tasks {
        let row = TaskRow { tokens, ..TaskRow::default() };
        [("coder".to_owned(), [(TaskId::of(task.as_bytes()).unwrap(), row)].into())].into()
    }

    #[test]
    fn what_is_new_of_a_task_is_said_until_a_message_with_it_was_taken() {
        let mut untaken = Untaken::default();
        assert!(untaken.want(of("a", 1), 3));
        assert!(!untaken.want(Tasks::new(), 4));
        assert_eq!((untaken.changes(), untaken.say(1)), (4, of("a", 1)));
        assert_eq!(untaken.say(2), of("a", 1));
        assert!(untaken.want(of("a", 2), 5));
        untaken.taken(1);
        assert_eq!(untaken.say(3), of("a", 2));
        untaken.taken(2);
        assert_eq!(untaken.say(4), of("a", 2), "what was taken said less");
        untaken.taken(3);
        assert_eq!(untaken.say(5), Tasks::new());
        assert!(untaken.rows.is_empty());
    }
}
