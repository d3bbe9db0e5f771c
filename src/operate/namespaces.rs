//! Drives what the objects of a namespace have together: one pass a namespace, in the way of [`super::driver`], but without an object
//! and a status of its own.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use quartermaster_core::decide::decision::{ChildIdentity, Children, Refusal};
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::act::{Actor, Owner};
use super::children::{ChildKind, shared_owner};
use super::driver::work;
use super::health::Watchdog;
use super::key::ObjectKey;
use super::memory::{Memory, Written};
use super::metrics::Metrics;
use super::queue::Queue;

/// Longest time of one pass: that of the passes about single objects.
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// Time until a namespace is tried again whose pass ended in a panic or another defect of this program.
const AFTER_DEFECT: Duration = Duration::from_secs(300);
/// Time until a pass that found the caches behind this process's own writes looks again; the watch usually wakes it before.
const AFTER_STALE: Duration = Duration::from_secs(1);
/// Passes at the same time.
const WORKERS: usize = 16;

/// What is in a namespace for all objects of one kind together.
pub trait NamespaceControl: Send + Sync + 'static {
    /// What the metrics and the log call it.
    const NAME: &'static str;
    /// The kind of the objects that own the children together.
    const OWNERS: ChildKind;
    /// The field manager under which children are applied.
    const MANAGER: &'static str;
    /// The kinds of children, in no particular order.
    const CHILDREN: &'static [ChildKind];

    /// Observes and decides. `refusals`: the children that could not be applied.
    ///
    /// # Errors
    ///
    /// Why nothing could be decided, in words for the log.
    fn decide(&self, namespace: &str, refusals: Vec<Refusal>) -> impl Future<Output = Result<Wanted, Undecided>> + Send;

    /// What could be done was done; these children could not be applied.
    fn acted(&self, namespace: &str, refusals: Vec<Refusal>);
}

/// Why nothing could be decided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// Something could not be read that may be readable soon.
    #[error("{0}")]
    Transient(String),
    /// A defect of this program.
    #[error("a defect of this program: {0}")]
    Defect(String),
}

/// What should be in a namespace.
#[derive(Debug)]
pub struct Wanted {
    /// The children.
    pub children: Children,
    /// Name and uid of one of the owners; none where there is none.
    pub owner: Option<(String, String)>,
    /// When to look again, if nothing wakes us before.
    pub next: Option<Duration>,
}

/// Drives all namespaces. The name in its keys is empty.
pub struct NamespaceDriver<C> {
    /// The controller.
    pub control: Arc<C>,
    /// Which namespaces want a pass.
    pub queue: Arc<Queue>,
    /// What makes the children.
    pub actor: Actor,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// What is remembered of each namespace.
    pub memories: Mutex<HashMap<String, Memory>>,
}

impl<C: NamespaceControl> NamespaceDriver<C> {
    /// Wants a pass over a namespace.
    pub fn wake(&self, namespace: &str) {
        self.queue.add(ObjectKey::new(namespace, ""));
    }

    /// Works on the queue while `leads` is true, until cancelled. Returns when every pass has ended.
    ///
    /// # Errors
    ///
    /// A worker ended in a panic, beside the pass.
    pub async fn run(
        self: Arc<Self>,
        leads: watch::Receiver<bool>,
        watchdog: Watchdog,
        cancelled: CancellationToken,
    ) -> Result<(), JoinError> {
        let queue = self.queue.clone();
        let pass = move |key: ObjectKey| {
            let driver = self.clone();
            async move { driver.pass(&key).await }
        };
        work(WORKERS, &queue, leads, watchdog, cancelled, pass).await
    }

    async fn pass(&self, key: &ObjectKey) {
        let started = Instant::now();
        let mut memory = self.lock_memories().remove(&key.namespace).unwrap_or_default();
        let pass = AssertUnwindSafe(self.reconcile(&key.namespace, &mut memory)).catch_unwind();
        let (outcome, next) = match tokio::time::timeout(PASS_DEADLINE, pass).await {
            Ok(Ok(Ok(next))) => {
                if memory.refused.is_empty() {
                    memory.succeeded();
                }
                ("success", [next, memory.next_retry()].into_iter().flatten().min())
            }
            Ok(Ok(Err(problem @ Undecided::Transient(_)))) => {
                warn!(namespace = key.namespace, %problem, "trying again");
                ("failed", Some(memory.back_off(fastrand::f64())))
            }
            Ok(Ok(Err(problem @ Undecided::Defect(_)))) => {
                error!(namespace = key.namespace, %problem, "no {} was decided", C::NAME);
                ("defect", Some(AFTER_DEFECT))
            }
            Ok(Err(_)) => {
                self.metrics.panicked(C::NAME);
                error!(namespace = key.namespace, "the reconcile of a {} ended in a panic", C::NAME);
                ("defect", Some(AFTER_DEFECT))
            }
            Err(_) => {
                self.metrics.timed_out(C::NAME);
                warn!(namespace = key.namespace, "the reconcile of a {} did not end in time", C::NAME);
                ("timeout", Some(memory.back_off(fastrand::f64())))
            }
        };
        if !memory.is_empty() {
            self.lock_memories().insert(key.namespace.clone(), memory);
        }
        if let Some(next) = next {
            self.queue.add_after(key.clone(), next);
        }
        self.metrics.reconciled(C::NAME, outcome, started.elapsed());
    }

    async fn reconcile(&self, namespace: &str, memory: &mut Memory) -> Result<Option<Duration>, Undecided> {
        let seen = |what: Written, version| match what {
            Written::Patched(_) => true,
            Written::Own(kind) => self.actor.caches.get(kind).is_none_or(|(_, cache)| cache.has_seen(namespace, version)),
        };
        if !memory.has_seen_own_writes(seen) {
            return Ok(Some(AFTER_STALE));
        }
        let wanted = self.control.decide(namespace, memory.refusals()).await?;
        let (Children::Exactly(children), Some((name, uid))) = (&wanted.children, &wanted.owner) else {
            memory.refused.clear();
            self.control.acted(namespace, Vec::new());
            return Ok(wanted.next);
        };
        let is_wanted = |identity: &ChildIdentity| children.iter().any(|child| child.identity == *identity);
        memory.refused.retain(|refused, _| is_wanted(refused));
        let (key, holds_by) = (ObjectKey::new(namespace, name), shared_owner(C::OWNERS.kind, namespace));
        let owner = Owner { kind: C::OWNERS, key: &key, uid, holds_by: &holds_by, generation: None };
        self.actor.act(&owner, children, memory).await;
        self.control.acted(namespace, memory.refusals());
        Ok(wanted.next)
    }

    fn lock_memories(&self) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
