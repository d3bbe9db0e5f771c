//! Reads the queues of pools, in the background, and wakes a pool when what it reads matters.
//!
//! Queues are read by connection, not by pool: all that share namespace, server, credential and TLS are read over one connection,
//! mostly in one round trip an interval. Each connection has a task of its own, so that a server that is slow or away delays
//! nobody else. What was read is a snapshot in memory. Nothing is read before the first pool asks for it, which only the leader's
//! pools do.
//!
//! [`server`]: one connection, its queues, and when they are read.

mod server;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quartermaster_core::decide::pool::facts::QueueFacts;
use quartermaster_core::decide::pool::poll_schedule::phase;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::server::{Hooks, Polled, QueueKey, Schedule, Server};
use super::key::ObjectKey;
use crate::sources::connect::Connector;
use crate::sources::queue::{Endpoint, EndpointKey, Queue, System};

/// Whether a pool that knows the first facts is worth a look because of the second ones. Called for each reading, so it must be
/// quick.
pub type Matters = Arc<dyn Fn(&QueueFacts, &QueueFacts) -> bool + Send + Sync>;

/// Called with a pool that is worth a look.
pub type WakePool = Arc<dyn Fn(&ObjectKey) + Send + Sync>;

/// Called after each poll of a server.
pub type Report = Arc<dyn Fn(&PollReport) + Send + Sync>;

/// One queue of a pool that is to be read.
#[derive(Clone)]
pub struct Subscription {
    /// Name of the queue in the spec.
    pub name: String,
    /// The server. Its namespace is the pool's.
    pub endpoint: Endpoint,
    /// What is read there.
    pub queue: Queue,
    /// How often.
    pub interval: Duration,
    /// More tasks than this make no difference: most replicas times tasks per replica, and one. What is above may be inexact.
    pub cap: u64,
    /// Which readings the pool is woken for.
    pub matters: Matters,
}

/// What a poll of one server cost, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollReport {
    /// The kind of server.
    pub system: System,
    /// Queues that were read.
    pub queues: usize,
    /// How many of them could not be.
    pub failed: usize,
    /// How long it took.
    pub duration: Duration,
}

/// What is known about the queues of all pools.
pub struct Poller {
    connector: Arc<Connector>,
    hooks: Arc<Hooks>,
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where each queue of a pool is read, in the order of the spec.
    pools: HashMap<ObjectKey, Vec<(String, EndpointKey)>>,
    servers: HashMap<EndpointKey, Running>,
}

struct Running {
    server: Arc<Server>,
    /// Ends with this entry.
    _task: AbortOnDropHandle<()>,
}

impl Poller {
    /// Reads nothing yet.
    pub fn new(connector: Arc<Connector>, wake: WakePool, report: Report) -> Self {
        let hooks = Arc::new(Hooks { wake, report });
        Self { connector, hooks, origin: Instant::now(), state: Mutex::default() }
    }

    /// Sees to it that exactly these queues of a pool are read. A new one is read at once, and then when its server's turn is.
    /// What is known of a queue stays while its tasks are the same ones, also with another credential. Must be called within a
    /// tokio runtime.
    pub fn ensure(&self, pool: &ObjectKey, subscriptions: Vec<Subscription>) {
        let mut state = self.lock();
        let mut before = state.pools.remove(pool).unwrap_or_default();
        let mut placed = Vec::new();
        // Only these may have nothing to read any more.
        let mut left: Vec<EndpointKey> = Vec::new();
        for subscription in subscriptions {
            let endpoint = subscription.endpoint.key(subscription.queue.system());
            let queue = QueueKey { pool: pool.clone(), name: subscription.name.clone() };
            let earlier = before.iter().position(|(name, _)| *name == subscription.name).map(|place| before.swap_remove(place).1);
            let known = match earlier {
                Some(earlier) if earlier == endpoint => None,
                Some(earlier) => {
                    let known = state.remove(&earlier, &queue).filter(|_| earlier.is_same_server(&endpoint));
                    left.push(earlier);
                    known
                }
                None => None,
            };
            placed.push((subscription.name.clone(), endpoint.clone()));
            let server = state.servers.entry(endpoint).or_insert_with_key(|key| self.start(key, &subscription));
            server.server.put(queue, Polled::new(subscription), known);
        }
        for (name, endpoint) in before {
            state.remove(&endpoint, &QueueKey { pool: pool.clone(), name });
            left.push(endpoint);
        }
        if !placed.is_empty() {
            state.pools.insert(pool.clone(), placed);
        }
        for endpoint in left {
            if state.servers.get(&endpoint).is_some_and(|running| running.server.is_empty()) {
                state.servers.remove(&endpoint);
            }
        }
    }

    /// What is known about the queues of a pool, in the order of the spec. The pool is not woken again for what it has been told
    /// here.
    pub fn facts(&self, pool: &ObjectKey) -> Vec<QueueFacts> {
        let state = self.lock();
        let tell = |(name, endpoint): &(String, EndpointKey)| {
            let running = state.servers.get(endpoint)?;
            running.server.tell(&QueueKey { pool: pool.clone(), name: name.clone() })
        };
        state.pools.get(pool).into_iter().flatten().filter_map(tell).collect()
    }

    /// What is known of all queues, for whoever only shows it: no pool counts as told.
    pub fn known(&self) -> Vec<(ObjectKey, QueueFacts)> {
        self.lock().servers.values().flat_map(|running| running.server.known()).collect()
    }

    /// Reads no queue of this pool any more.
    pub fn forget(&self, pool: &ObjectKey) {
        self.ensure(pool, Vec::new());
    }

    /// How many servers are read, by kind of server.
    pub fn servers(&self, system: System) -> usize {
        self.lock().servers.keys().filter(|key| key.system() == system).count()
    }

    fn start(&self, key: &EndpointKey, subscription: &Subscription) -> Running {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let schedule = Schedule { origin: self.origin, phase: phase(hasher.finish()) };
        let server = Arc::new(Server::default());
        let run = server::run(
            Arc::clone(&server),
            Arc::clone(&self.connector),
            subscription.endpoint.clone(),
            key.system(),
            schedule,
            Arc::clone(&self.hooks),
        );
        Running { server, _task: AbortOnDropHandle::new(tokio::spawn(run)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&self, endpoint: &EndpointKey, queue: &QueueKey) -> Option<Polled> {
        self.servers.get(endpoint)?.server.remove(queue)
    }
}

#[cfg(test)]
mod tests;
