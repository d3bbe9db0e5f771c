//! One server: the queues that are read from it, when, and what is known of them.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use quartermaster_core::decide::pool::facts::{Failure, QueueFacts};
use quartermaster_core::decide::pool::poll_schedule::next_tick;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{PollReport, Report, Subscription, WakePool};
use crate::operate::key::ObjectKey;
use crate::sources::connect::Connector;
use crate::sources::prometheus::Prometheus;
use crate::sources::queue::{Endpoint, Queue, System};
use crate::sources::queue_error::QueueError;
use crate::sources::redis::{Outcome, Question, Redis};

/// Pools that come together, as at the operator's start, are read together: so long is waited for others.
const GATHER: Duration = Duration::from_millis(20);
/// A task without queues waits for news; this is only how long it sleeps at a time.
const NOTHING_DUE: Duration = Duration::from_secs(3600);

/// Whom the tasks call.
pub(super) struct Hooks {
    pub(super) wake: WakePool,
    pub(super) report: Report,
}

/// One queue of one pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueKey {
    pub(super) pool: ObjectKey,
    pub(super) name: String,
}

/// A queue that is read, and what is known of it.
pub(super) struct Polled {
    subscription: Subscription,
    facts: QueueFacts,
    /// What the pool knows.
    told: QueueFacts,
    /// When it is read next.
    due: Instant,
}

impl Polled {
    /// A queue of which nothing is known, to be read at once.
    pub(super) fn new(subscription: Subscription) -> Self {
        let facts = QueueFacts { name: subscription.name.clone(), reading: None, failure: None };
        Self { subscription, told: facts.clone(), facts, due: Instant::now() }
    }

    /// Takes over what is known of an earlier form of the queue, if its tasks are the same ones.
    fn knowing(mut self, earlier: Self) -> Self {
        if self.subscription.queue.has_the_tasks_of(&earlier.subscription.queue) {
            (self.facts, self.told) = (earlier.facts, earlier.told);
        }
        self
    }

    /// Takes an outcome over. Whether the pool is worth a look.
    fn note(&mut self, outcome: Outcome, now: Timestamp) -> bool {
        match outcome {
            Ok(reading) => (self.facts.reading, self.facts.failure) = (Some(reading), None),
            Err(error) => {
                let since = self.facts.failure.as_ref().map_or(now, |failure| failure.since);
                self.facts.failure = Some(Failure { cause: error.cause(), message: error.to_string(), since });
            }
        }
        (self.subscription.matters)(&self.told, &self.facts)
    }
}

/// When the queues of one server are read.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    pub(super) origin: Instant,
    pub(super) phase: Duration,
}

impl Schedule {
    fn next(&self, now: Instant, interval: Duration) -> Instant {
        self.origin + next_tick(now.saturating_duration_since(self.origin), self.phase, interval)
    }
}

/// The queues of one server.
#[derive(Default)]
pub(super) struct Server {
    queues: Mutex<BTreeMap<QueueKey, Polled>>,
    news: Notify,
}

impl Server {
    /// Reads this queue from now on, or in this form. `known` is what another connection to the same server has found.
    pub(super) fn put(&self, key: QueueKey, polled: Polled, known: Option<Polled>) {
        let mut queues = self.lock();
        let polled = match queues.remove(&key).or(known) {
            // The same again: it is read when its turn is.
            Some(earlier) if earlier.subscription.queue == polled.subscription.queue && earlier.same_times(&polled) => {
                let due = earlier.due;
                Polled { due, ..polled.knowing(earlier) }
            }
            Some(earlier) => polled.knowing(earlier),
            None => polled,
        };
        let is_news = polled.due <= Instant::now();
        queues.insert(key, polled);
        drop(queues);
        if is_news {
            self.news.notify_one();
        }
    }

    /// Reads it no more.
    pub(super) fn remove(&self, key: &QueueKey) -> Option<Polled> {
        // A new connection reads it at once.
        self.lock().remove(key).map(|polled| Polled { due: Instant::now(), ..polled })
    }

    /// Whether nothing is read here.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What is known, which the pool then knows.
    pub(super) fn tell(&self, key: &QueueKey) -> Option<QueueFacts> {
        let mut queues = self.lock();
        let polled = queues.get_mut(key)?;
        polled.told = polled.facts.clone();
        Some(polled.facts.clone())
    }

    /// What is known of every queue.
    pub(super) fn known(&self) -> Vec<(ObjectKey, QueueFacts)> {
        self.lock().iter().map(|(key, polled)| (key.pool.clone(), polled.facts.clone())).collect()
    }

    /// What is to be read now; else when something will be.
    fn due(&self, now: Instant) -> Result<Vec<(QueueKey, Question)>, Instant> {
        let queues = self.lock();
        let due = queues.iter().filter(|(_, polled)| polled.due <= now);
        let questions: Vec<_> = due.map(|(key, polled)| (key.clone(), polled.question())).collect();
        if questions.is_empty() {
            return Err(queues.values().map(|polled| polled.due).min().unwrap_or(now + NOTHING_DUE));
        }
        Ok(questions)
    }

    /// Takes over what was read, and gives the pools that are worth a look.
    fn note(
        &self,
        asked: Vec<(QueueKey, Question)>,
        outcomes: Vec<Outcome>,
        schedule: Schedule,
        away: Option<Instant>,
    ) -> Vec<ObjectKey> {
        let (now, instant) = (Timestamp::now(), Instant::now());
        let mut queues = self.lock();
        let mut woken: Vec<ObjectKey> = Vec::new();
        for ((key, question), outcome) in asked.into_iter().zip(outcomes) {
            // Meanwhile it may be gone, or another one that is still to be read.
            let Some(polled) = queues.get_mut(&key).filter(|polled| polled.subscription.queue == question.queue) else { continue };
            // A server that is away is tried when its time has come, be that sooner or later than the turn.
            polled.due = away.unwrap_or_else(|| schedule.next(instant, polled.subscription.interval));
            if polled.note(outcome, now) && woken.last() != Some(&key.pool) {
                woken.push(key.pool);
            }
        }
        woken
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<QueueKey, Polled>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Polled {
    fn question(&self) -> Question {
        Question { queue: self.subscription.queue.clone(), cap: self.subscription.cap }
    }

    fn same_times(&self, other: &Self) -> bool {
        self.subscription.interval == other.subscription.interval
    }
}

/// The connection to a server, in one form for each kind of server.
enum Session {
    Redis(Box<Redis>),
    Prometheus(Prometheus),
}

impl Session {
    fn new(connector: &Arc<Connector>, endpoint: &Endpoint, system: System) -> Self {
        let (connector, endpoint) = (Arc::clone(connector), endpoint.clone());
        match system {
            System::Redis => Self::Redis(Box::new(Redis::new(connector, endpoint))),
            System::Prometheus => Self::Prometheus(Prometheus::new(connector, endpoint)),
        }
    }

    async fn poll(&mut self, questions: &[Question]) -> Vec<Outcome> {
        match self {
            Self::Redis(redis) => redis.poll(questions).await,
            Self::Prometheus(prometheus) => prometheus.poll(questions).await,
        }
    }

    fn away_until(&self) -> Option<Instant> {
        match self {
            Self::Redis(redis) => redis.away_until(),
            Self::Prometheus(_) => None,
        }
    }
}

/// Reads the queues of a server when they are due, until it is aborted.
pub(super) async fn run(
    server: Arc<Server>,
    connector: Arc<Connector>,
    endpoint: Endpoint,
    system: System,
    schedule: Schedule,
    hooks: Arc<Hooks>,
) {
    let mut session = Session::new(&connector, &endpoint, system);
    loop {
        let asked = match server.due(Instant::now()) {
            Ok(asked) => asked,
            Err(next) => {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = server.news.notified() => tokio::time::sleep(GATHER).await,
                }
                continue;
            }
        };
        let started = Instant::now();
        let questions: Vec<Question> = asked.iter().map(|(_, question)| question.clone()).collect();
        // A defect in reading one server must end neither its readings nor the operator.
        let outcomes = match AssertUnwindSafe(session.poll(&questions)).catch_unwind().await {
            Ok(outcomes) => outcomes,
            Err(_panic) => {
                session = Session::new(&connector, &endpoint, system);
                questions.iter().map(|question| Err(defect(&question.queue))).collect()
            }
        };
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        (hooks.report)(&PollReport { system, queues: asked.len(), failed, duration: started.elapsed() });
        for pool in server.note(asked, outcomes, schedule, session.away_until()) {
            (hooks.wake)(&pool);
        }
    }
}

fn defect(queue: &Queue) -> QueueError {
    QueueError::ReadAnswer { command: queue.system().name(), reason: "a defect of the operator: its log has more".to_owned() }
}
