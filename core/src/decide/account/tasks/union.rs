//! The operator's half: what all replicas of a gateway said of tasks, and what each of them is to hear of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::recent::Recent;
use super::{TaskRow, Tasks};

/// What the replicas of one gateway said of tasks. Times are counted from one origin of the process, on a clock that never goes back.
#[derive(Debug, Default)]
pub struct TaskUnion {
    tasks: Recent<Reported>,
    /// The callers of which every replica is to know all tasks.
    told: BTreeSet<String>,
}

/// What was said of a task.
#[derive(Debug, Default)]
struct Reported {
    /// By the processes that live.
    processes: BTreeMap<u64, TaskRow>,
    /// By all that have ended.
    ended: TaskRow,
}

impl TaskUnion {
    /// A process reports what has changed of its tasks, or all of them. Whether others are to hear something soon.
    pub fn receive(&mut self, epoch: u64, tasks: &Tasks, now: Duration) -> bool {
        let before = self.tasks.changes();
        for (caller, tasks) in tasks {
            let all_are_told = self.told.contains(caller);
            for (id, row) in tasks {
                let task = self.tasks.hear(caller, *id, now);
                let is_more = !row.is_empty() && task.processes.entry(epoch).or_default().raise(row);
                if is_more || all_are_told {
                    self.tasks.note(caller, *id);
                }
            }
        }
        self.tasks.changes() != before
    }

    /// A process has ended. What it said stays.
    pub fn ended(&mut self, epoch: u64) {
        for task in self.tasks.values_mut() {
            if let Some(row) = task.processes.remove(&epoch) {
                task.ended.add(&row);
            }
        }
    }

    /// These are the callers of which every replica is to know all tasks from now on. Of the others it hears of tasks that used
    /// something.
    pub fn tell_all_of(&mut self, callers: BTreeSet<String>) {
        for caller in callers.difference(&self.told) {
            for id in self.tasks.of_caller(caller) {
                self.tasks.note(caller, id);
            }
        }
        self.told = callers;
    }

    /// What a process is to hear of what has changed since there were so many changes, and how many there are now.
    pub fn rows(&self, epoch: u64, since: u64) -> (Tasks, u64) {
        let mut rows = Tasks::new();
        for (caller, id, task) in self.tasks.since(since) {
            let row = task.elsewhere(epoch);
            if !row.is_empty() || self.told.contains(caller) {
                rows.entry(caller.to_owned()).or_default().insert(id, row);
            }
        }
        (rows, self.tasks.changes())
    }
}

impl Reported {
    /// What all but this process said.
    fn elsewhere(&self, epoch: u64) -> TaskRow {
        let mut sum = self.ended.clone();
        self.processes.iter().filter(|(process, _)| **process != epoch).for_each(|(_, row)| sum.add(row));
        sum
    }
}

#[cfg(test)]
#[path = "union_tests.rs"]
mod tests;
