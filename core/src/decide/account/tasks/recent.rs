//! What is known of tasks, in the order in which they were heard of, and what of it has changed since a time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use super::TaskId;

/// Tasks of one caller that are known. Of more, those are forgotten of which nothing was heard for longest.
const PER_CALLER: usize = 2000;
/// The same of all callers together: with what is known of each, some megabytes.
const IN_ALL: usize = 20_000;
/// How long a task is known after it was last heard of.
pub(super) const KNOWN: Duration = Duration::from_secs(3600);

/// What is known of each task of each caller. Times are counted from one origin of the process, on a clock that never goes back.
#[derive(Debug)]
pub(super) struct Recent<T> {
    callers: BTreeMap<Arc<str>, OfCaller<T>>,
    /// All tasks, by the turn in which they were last heard of.
    order: BTreeMap<u64, (Arc<str>, TaskId)>,
    /// Those that have changed, by the number of their last change.
    changed: BTreeMap<u64, (Arc<str>, TaskId)>,
    turns: u64,
    changes: u64,
}

/// The tasks of one caller.
#[derive(Debug)]
struct OfCaller<T> {
    name: Arc<str>,
    tasks: BTreeMap<TaskId, Known<T>>,
    /// By the turn in which they were last heard of.
    order: BTreeMap<u64, TaskId>,
}

/// A task.
#[derive(Debug)]
struct Known<T> {
    heard: Duration,
    turn: u64,
    /// The number of its last change; 0: there was none.
    changed: u64,
    content: T,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { callers: BTreeMap::new(), order: BTreeMap::new(), changed: BTreeMap::new(), turns: 0, changes: 0 }
    }
}

impl<T: Default> Recent<T> {
    /// What is known of a task; none: nothing was heard of it lately.
    pub(super) fn get(&self, caller: &str, task: TaskId, now: Duration) -> Option<&T> {
        let known = self.callers.get(caller)?.tasks.get(&task)?;
        (!is_over(known.heard, now)).then_some(&known.content)
    }

    /// The same, to be changed, whenever it was heard of.
    pub(super) fn get_mut(&mut self, caller: &str, task: TaskId) -> Option<&mut T> {
        Some(&mut self.callers.get_mut(caller)?.tasks.get_mut(&task)?.content)
    }

    /// A task is heard of, perhaps for the first time. Others are forgotten for it where there are too many.
    pub(super) fn hear(&mut self, caller: &str, task: TaskId, now: Duration) -> &mut T {
        self.expire(now);
        self.make_room(caller, task);
        self.turns += 1;
        let turn = self.turns;
        let name = self.callers.get(caller).map_or_else(|| Arc::from(caller), |of_caller| Arc::clone(&of_caller.name));
        let of_caller = self.callers.entry(Arc::clone(&name)).or_insert_with(|| OfCaller {
            name: Arc::clone(&name),
            tasks: BTreeMap::new(),
            order: BTreeMap::new(),
        });
        let known = of_caller.tasks.entry(task).or_insert_with(|| Known { heard: now, turn, changed: 0, content: T::default() });
        self.order.remove(&known.turn);
        of_caller.order.remove(&known.turn);
        (known.heard, known.turn) = (now, turn);
        self.order.insert(turn, (name, task));
        of_caller.order.insert(turn, task);
        &mut known.content
    }

    /// What is known of a task has changed.
    pub(super) fn note(&mut self, caller: &str, task: TaskId) {
        let Some(of_caller) = self.callers.get_mut(caller) else { return };
        let Some(known) = of_caller.tasks.get_mut(&task) else { return };
        self.changes += 1;
        self.changed.remove(&known.changed);
        known.changed = self.changes;
        self.changed.insert(self.changes, (Arc::clone(&of_caller.name), task));
    }

    /// How often anything was noted to have changed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The tasks that have changed since there were so many changes, with their callers.
    pub(super) fn since(&self, changes: u64) -> impl Iterator<Item = (&str, TaskId, &T)> {
        let changed = self.changed.range((Bound::Excluded(changes), Bound::Unbounded));
        changed.filter_map(|(_, (caller, task))| {
            let known = self.callers.get(caller)?.tasks.get(task)?;
            Some((&**caller, *task, &known.content))
        })
    }

    /// The tasks of a caller.
    pub(super) fn of_caller(&self, caller: &str) -> Vec<TaskId> {
        self.callers.get(caller).map(|of_caller| of_caller.tasks.keys().copied().collect()).unwrap_or_default()
    }

    /// All that is known, to be changed.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.callers.values_mut().flat_map(|of_caller| of_caller.tasks.values_mut()).map(|known| &mut known.content)
    }

    /// Forgets the tasks of those who are no callers any more.
    pub(super) fn retain(&mut self, is_caller: impl Fn(&str) -> bool) {
        let gone: Vec<Arc<str>> = self.callers.keys().filter(|caller| !is_caller(caller)).cloned().collect();
        for caller in gone {
            for task in self.of_caller(&caller) {
                self.forget(&caller, task);
            }
        }
    }

    /// Forgets what was not heard of for long.
    fn expire(&mut self, now: Duration) {
        while let Some((caller, task)) = self.order.first_key_value().map(|(_, first)| first.clone())
            && self.get(&caller, task, now).is_none()
        {
            self.forget(&caller, task);
        }
    }

    /// Makes room for a task, if it is not known yet.
    fn make_room(&mut self, caller: &str, task: TaskId) {
        let of_caller = self.callers.get(caller);
        if of_caller.is_some_and(|of_caller| of_caller.tasks.contains_key(&task)) {
            return;
        }
        let full = of_caller.filter(|of_caller| of_caller.tasks.len() >= PER_CALLER);
        if let Some(first) = full.and_then(|of_caller| of_caller.order.first_key_value()).map(|(_, first)| *first) {
            self.forget(caller, first);
        }
        if self.order.len() >= IN_ALL
            && let Some((caller, first)) = self.order.first_key_value().map(|(_, first)| first.clone())
        {
            self.forget(&caller, first);
        }
    }

    fn forget(&mut self, caller: &str, task: TaskId) {
        let Some(of_caller) = self.callers.get_mut(caller) else { return };
        if let Some(known) = of_caller.tasks.remove(&task) {
            of_caller.order.remove(&known.turn);
            self.order.remove(&known.turn);
            self.changed.remove(&known.changed);
        }
        if of_caller.tasks.is_empty() {
            self.callers.remove(caller);
        }
    }
}

fn is_over(heard: Duration, now: Duration) -> bool {
    now.saturating_sub(heard) >= KNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: usize) -> TaskId {
        TaskId::of(number.to_string().as_bytes()).unwrap()
    }

    fn knows(tasks: &Recent<u64>, caller: &str, number: usize, now: Duration) -> bool {
        tasks.get(caller, task(number), now).is_some()
    }

    /// How many tasks are known, if all that keeps them in order has the same.
    fn number(tasks: &Recent<u64>) -> usize {
        let known: usize = tasks.callers.values().map(|of_caller| of_caller.tasks.len()).sum();
        let in_order: usize = tasks.callers.values().map(|of_caller| of_caller.order.len()).sum();
        assert_eq!((tasks.order.len(), in_order), (known, known));
        assert!(tasks.changed.len() <= known && tasks.callers.values().all(|of_caller| !of_caller.tasks.is_empty()));
        known
    }

    #[test]
    fn a_task_is_known_for_an_hour_after_it_was_heard_of_and_to_its_caller_only() {
        let mut tasks = Recent::default();
        *tasks.hear("coder", task(1), Duration::ZERO) = 7;
        assert!(knows(&tasks, "coder", 1, KNOWN / 2) && !knows(&tasks, "coder", 2, KNOWN / 2));
        assert!(!knows(&tasks, "planner", 1, KNOWN / 2));
        assert_eq!(*tasks.hear("coder", task(1), KNOWN / 2), 7);
        assert!(knows(&tasks, "coder", 1, KNOWN) && !knows(&tasks, "coder", 1, KNOWN / 2 + KNOWN));
        assert_eq!(*tasks.hear("coder", task(1), KNOWN / 2 + KNOWN), 0, "it begins anew");
        tasks.hear("planner", task(2), KNOWN * 3);
        assert_eq!(number(&tasks), 1, "what is over is let go");
    }

    #[test]
    fn of_more_tasks_than_are_kept_of_a_caller_those_go_that_were_heard_of_longest_ago() {
        let mut tasks = Recent::default();
        tasks.hear("planner", task(0), Duration::ZERO);
        for first in [1, 2, 1] {
            tasks.hear("coder", task(first), Duration::ZERO);
        }
        for next in 3..=PER_CALLER + 1 {
            tasks.hear("coder", task(next), Duration::ZERO);
        }
        let of_coder = |number| knows(&tasks, "coder", number, Duration::ZERO);
        assert!(of_coder(1) && !of_coder(2) && of_coder(PER_CALLER + 1));
        assert!(knows(&tasks, "planner", 0, Duration::ZERO));
        assert_eq!(number(&tasks), PER_CALLER + 1);
    }

    #[test]
    fn of_more_tasks_than_are_kept_in_all_those_go_that_were_heard_of_longest_ago() {
        let mut tasks = Recent::default();
        for next in 0..=IN_ALL {
            tasks.hear(&format!("caller-{}", next % 20), task(next), Duration::ZERO);
        }
        assert_eq!(number(&tasks), IN_ALL);
        assert!(!knows(&tasks, "caller-0", 0, Duration::ZERO) && knows(&tasks, "caller-1", 1, Duration::ZERO));
    }

    #[test]
    fn what_has_changed_is_told_once_in_the_order_of_the_last_changes() {
        let mut tasks = Recent::default();
        for number in 1..=3 {
            tasks.hear("coder", task(number), Duration::ZERO);
            tasks.note("coder", task(number));
        }
        tasks.note("coder", task(1));
        let changed = |tasks: &Recent<u64>, since| tasks.since(since).map(|(_, task, _)| task).collect::<Vec<_>>();
        assert_eq!(changed(&tasks, 0), [task(2), task(3), task(1)]);
        assert_eq!((changed(&tasks, 3), changed(&tasks, tasks.changes())), (vec![task(1)], Vec::new()));
        tasks.note("coder", task(4));
        tasks.note("planner", task(1));
        assert_eq!(tasks.changes(), 4, "what is not known does not change");
        tasks.retain(|caller| caller != "coder");
        assert_eq!((changed(&tasks, 0), number(&tasks)), (Vec::new(), 0));
    }
}
