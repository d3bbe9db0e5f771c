//! The work queue: which objects want a reconcile, and when.
//!
//! An object is in the queue at most once, however often it is added, and is never worked on twice at the same time: what is
//! added while it is being worked on comes after. Namespaces take turns, and no one of them gets all the workers: a team whose
//! objects hang, or come by the thousand, holds up itself.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::key::ObjectKey;

/// Objects of one namespace that are worked on at the same time.
pub const AT_ONCE: usize = 32;

/// Objects that want a reconcile, now or later.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What is ready in each namespace that has something ready, with the time since when.
    ready: HashMap<String, VecDeque<(ObjectKey, Instant)>>,
    /// The same namespaces, in the order of their turns.
    turns: VecDeque<String>,
    queued: HashSet<ObjectKey>,
    running: HashSet<ObjectKey>,
    /// How many of each namespace are running, where any are.
    at_work: HashMap<String, usize>,
    /// Added while running: they become ready when the current pass ends.
    again: HashSet<ObjectKey>,
    delayed: BTreeMap<(Instant, u64), ObjectKey>,
    due: HashMap<ObjectKey, (Instant, u64)>,
    sequence: u64,
}

impl Queue {
    /// Wants a reconcile of the object now.
    pub fn add(&self, key: ObjectKey) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    /// Wants a reconcile of the object after a delay. Of several delays the earliest wins.
    pub fn add_after(&self, key: ObjectKey, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().add_at(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// Waits for an object that wants a reconcile and marks it as being worked on. Every key that is handed out must be
    /// given back by [`Queue::done`].
    pub async fn next(&self) -> ObjectKey {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.lock();
                state.release_due(Instant::now());
                if let Some(key) = state.take() {
                    if !state.queued.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(at, _)| *at)
            };
            match wait {
                Some(at) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} },
                None => changed.await,
            }
        }
    }

    /// Ends the work on an object. What was added meanwhile becomes ready.
    pub fn done(&self, key: &ObjectKey) {
        self.lock().done(key);
        self.changed.notify_one();
    }

    /// Forgets a planned later reconcile: the object is gone.
    pub fn forget(&self, key: &ObjectKey) {
        let mut state = self.lock();
        if let Some(at) = state.due.remove(key) {
            state.delayed.remove(&at);
        }
    }

    /// Objects that are ready to be worked on.
    pub fn ready(&self) -> usize {
        self.lock().queued.len()
    }

    /// How long the one of them waits that has waited longest; zero when there is none.
    pub fn longest_wait(&self) -> Duration {
        let state = self.lock();
        let oldest = state.ready.values().filter_map(|ready| ready.front()).map(|(_, since)| *since).min();
        oldest.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements, so that a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, key: ObjectKey) {
        if let Some(at) = self.due.remove(&key) {
            self.delayed.remove(&at);
        }
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            let ready = self.ready.entry(key.namespace.clone()).or_default();
            if ready.is_empty() {
                self.turns.push_back(key.namespace.clone());
            }
            ready.push_back((key, Instant::now()));
        }
    }

    fn add_at(&mut self, key: ObjectKey, at: Instant) {
        if self.queued.contains(&key) || self.due.get(&key).is_some_and(|(planned, _)| *planned <= at) {
            return;
        }
        if let Some(planned) = self.due.remove(&key) {
            self.delayed.remove(&planned);
        }
        self.sequence += 1;
        let slot = (at, self.sequence);
        self.due.insert(key.clone(), slot);
        self.delayed.insert(slot, key);
    }

    fn release_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }

    /// The next object of the first namespace in turn that may have one more worked on.
    fn take(&mut self) -> Option<ObjectKey> {
        let may = |namespace: &String| self.at_work.get(namespace).is_none_or(|at_work| *at_work < AT_ONCE);
        let turn = self.turns.iter().position(may)?;
        let namespace = self.turns.remove(turn)?;
        let ready = self.ready.get_mut(&namespace)?;
        let (key, _) = ready.pop_front()?;
        if ready.is_empty() {
            self.ready.remove(&namespace);
        } else {
            self.turns.push_back(namespace.clone());
        }
        self.queued.remove(&key);
        self.running.insert(key.clone());
        *self.at_work.entry(namespace).or_default() += 1;
        Some(key)
    }

    fn done(&mut self, key: &ObjectKey) {
        if self.running.remove(key)
            && let Some(at_work) = self.at_work.get_mut(&key.namespace)
        {
            *at_work -= 1;
            if *at_work == 0 {
                self.at_work.remove(&key.namespace);
            }
        }
        if self.again.remove(key) {
            self.add(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("team", name)
    }

    async fn nothing_comes(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_added_often_is_worked_on_once() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.add(key("a"));
        }
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"));
        assert!(nothing_comes(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_added_while_it_is_worked_on_comes_after_and_never_beside() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.next().await;
        queue.add(key("a"));
        assert!(nothing_comes(&queue).await);
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_delays_the_earliest_wins() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(90));
        let start = Instant::now();
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&key("a"));
        assert!(tokio::time::timeout(Duration::from_secs(200), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_that_is_planned_while_it_is_worked_on_holds() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.next().await;
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.done(&key("a"));
        assert!(nothing_comes(&queue).await);
        let start = Instant::now();
        queue.next().await;
        assert!(start.elapsed() <= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn namespaces_take_turns_and_none_gets_more_than_its_part_of_the_workers() {
        let queue = Queue::default();
        for number in 0..2 * AT_ONCE {
            queue.add(key(&format!("{number}")));
        }
        queue.add(ObjectKey::new("other", "a"));
        queue.add(ObjectKey::new("other", "b"));
        assert_eq!(queue.next().await, key("0"));
        assert_eq!(queue.next().await, ObjectKey::new("other", "a"));
        for number in 1..AT_ONCE {
            if number == 2 {
                assert_eq!(queue.next().await, ObjectKey::new("other", "b"));
            }
            assert_eq!(queue.next().await, key(&format!("{number}")));
        }
        assert!(nothing_comes(&queue).await);
        assert_eq!(queue.ready(), AT_ONCE);
        queue.add(ObjectKey::new("third", "a"));
        assert_eq!(queue.next().await, ObjectKey::new("third", "a"));
        queue.done(&key("7"));
        assert_eq!(queue.next().await, key(&format!("{AT_ONCE}")));
        assert!(nothing_comes(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_wait_is_that_of_what_is_ready_and_not_of_what_is_planned() {
        let queue = Queue::default();
        queue.add_after(key("later"), Duration::from_secs(3600));
        assert_eq!(queue.longest_wait(), Duration::ZERO);
        queue.add(key("a"));
        tokio::time::advance(Duration::from_secs(3)).await;
        queue.add(key("a"));
        queue.add(ObjectKey::new("other", "b"));
        assert_eq!((queue.ready(), queue.longest_wait()), (2, Duration::from_secs(3)));
        queue.next().await;
        assert_eq!(queue.longest_wait(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn several_workers_share_what_is_ready() {
        let queue = std::sync::Arc::new(Queue::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for name in ["a", "b", "c"] {
            queue.add(key(name));
        }
        let mut taken = Vec::new();
        for worker in workers {
            taken.push(tokio::time::timeout(Duration::from_secs(1), worker).await.unwrap().unwrap());
        }
        taken.sort();
        assert_eq!(taken, [key("a"), key("b"), key("c")]);
    }
}
