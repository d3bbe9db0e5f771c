//! The driver: one reconcile, the same way for every kind.
//!
//! It takes a key from the queue, sets a deadline, catches panics, and does nothing while it does not lead. Then it observes,
//! decides and acts; a child that is refused becomes a fact, and the decision is made once more with it, so that the status
//! tells of it in the same pass.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use kube::Resource as _;
use kube::runtime::events::{Event, EventType, Recorder};
use quartermaster_core::api::conditions::{actions, reasons};
use quartermaster_core::decide::decision::{self, Children};
use quartermaster_core::decide::{merge_patch, served_schema, stalled};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::act::{Acted, Actor, Owner};
use super::cache::Cache;
use super::calls::Calls;
use super::control::{Control, DecideError};
use super::error::CallError;
use super::health::Watchdog;
use super::key::ObjectKey;
use super::memory::Memory;
use super::metrics::Metrics;
use super::object::Stored;
use super::queue::Queue;

/// Longest time of one pass. Each call in it has a deadline of its own, well below.
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// Time until an object whose reconcile ended in a panic, or in another defect of this program, is tried again.
const AFTER_DEFECT: Duration = Duration::from_secs(300);
/// Time until a pass that found the caches behind this process's own writes looks again; the watch usually wakes it before.
const AFTER_STALE: Duration = Duration::from_secs(1);
/// Least time until a refused child is tried again.
const LEAST_RETRY: Duration = Duration::from_millis(250);
/// Reconciles at the same time. They wait for the network, not for the processor.
const WORKERS: usize = 32;

/// Drives the objects of one kind.
pub struct Driver<C: Control> {
    /// The controller.
    pub control: Arc<C>,
    /// The objects.
    pub objects: Arc<Cache<Stored<C::Object>>>,
    /// Who wants a reconcile.
    pub queue: Arc<Queue>,
    /// What makes the children.
    pub actor: Actor,
    /// The calls.
    pub calls: Calls,
    /// What tells of events.
    pub recorder: Recorder,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Fields that the served schema lacks.
    pub outdated_schema: watch::Receiver<Arc<Vec<String>>>,
    /// What is remembered of each object, with its uid.
    pub memories: Mutex<HashMap<ObjectKey, (String, Memory)>>,
    /// The objects that cannot be decoded.
    pub invalid: Mutex<HashSet<ObjectKey>>,
    /// The last observation of each object, where the configuration asks for it.
    pub observations: Option<Observations>,
}

/// The last observation of each object.
pub type Observations = Arc<Mutex<HashMap<ObjectKey, Value>>>;

/// How a pass ended.
enum Outcome {
    /// Look again after this time, or when a watch wakes us.
    Done(Option<Duration>),
    /// A call failed in a way that may pass.
    Failed(CallError),
    /// The caches have not seen this process's own last writes.
    Stale,
    /// A defect of this program.
    Defect(String),
}

impl<C: Control> Driver<C> {
    /// Wants a reconcile of every object: something that all of them depend on has changed.
    pub fn wake_all(&self) {
        self.objects.keys().into_iter().for_each(|key| self.queue.add(key));
    }

    /// Works on the queue while `leads` is true, until cancelled. Returns when every pass has ended.
    pub async fn run(self: Arc<Self>, leads: watch::Receiver<bool>, watchdog: Watchdog, cancelled: CancellationToken) {
        let watchdog = Arc::new(watchdog);
        let workers = (0..WORKERS).map(|_| {
            let (driver, mut leads, watchdog, cancelled) = (self.clone(), leads.clone(), watchdog.clone(), cancelled.clone());
            tokio::spawn(async move {
                loop {
                    let key = tokio::select! {
                        biased;
                        () = cancelled.cancelled() => return,
                        key = async { leads.wait_for(|leads| *leads).await.ok(); driver.queue.next().await } => key,
                    };
                    watchdog.work_waits();
                    driver.pass(&key).await;
                    driver.queue.done(&key);
                    let left = driver.queue.ready();
                    driver.metrics.set_queue_depth(C::KIND.kind, left);
                    watchdog.progressed(left);
                }
            })
        });
        futures::future::join_all(workers.collect::<Vec<_>>()).await;
    }

    /// One pass over one object, which costs nobody else anything: with a deadline, and with panics caught.
    async fn pass(&self, key: &ObjectKey) {
        let started = Instant::now();
        let Some(stored) = self.objects.get(key) else {
            self.forget(key);
            return;
        };
        if stored.meta.deletion_timestamp.is_some() {
            // Owner references do the rest. Nothing is made for an object that is going.
            self.forget(key);
            return;
        }
        let uid = stored.meta.uid.clone().unwrap_or_default();
        let mut memory = self.take_memory(key, &uid);
        if let Some(left) = memory.held(stored.meta.generation) {
            self.put_memory(key, uid, memory);
            self.queue.add_after(key.clone(), left);
            return;
        }
        let pass = AssertUnwindSafe(self.reconcile(key, &stored, &mut memory)).catch_unwind();
        let (outcome, next) = match tokio::time::timeout(PASS_DEADLINE, pass).await {
            Ok(Ok(Outcome::Done(next))) => {
                if memory.refused.is_empty() {
                    memory.succeeded();
                }
                ("success", [next, memory.next_retry().map(|retry| retry.max(LEAST_RETRY))].into_iter().flatten().min())
            }
            Ok(Ok(Outcome::Stale)) => ("stale", Some(AFTER_STALE)),
            Ok(Ok(Outcome::Failed(error))) => {
                let level_is_low = error.code() == Some(409);
                if level_is_low {
                    debug!(%key, %error, "trying again")
                } else {
                    warn!(%key, %error, "trying again")
                }
                (error.outcome(), Some(memory.back_off(fastrand::f64())))
            }
            Ok(Ok(Outcome::Defect(message))) => {
                error!(%key, message, "a defect of this program");
                memory.hold(stored.meta.generation, AFTER_DEFECT);
                (self.stall(key, &stored, &mut memory, &message).await, Some(AFTER_DEFECT))
            }
            Ok(Err(_)) => {
                self.metrics.panicked(C::KIND.kind);
                error!(%key, "the reconcile ended in a panic");
                memory.hold(stored.meta.generation, AFTER_DEFECT);
                (
                    self.stall(
                        key,
                        &stored,
                        &mut memory,
                        "the reconcile of this object ended in a defect of the operator; its log has more",
                    )
                    .await,
                    Some(AFTER_DEFECT),
                )
            }
            Err(_) => {
                self.metrics.timed_out(C::KIND.kind);
                warn!(%key, seconds = PASS_DEADLINE.as_secs(), "the reconcile did not end in time");
                ("timeout", Some(memory.back_off(fastrand::f64())))
            }
        };
        self.put_memory(key, uid, memory);
        if let Some(next) = next {
            self.queue.add_after(key.clone(), next);
        }
        self.metrics.reconciled(C::KIND.kind, outcome, started.elapsed());
    }

    async fn reconcile(&self, key: &ObjectKey, stored: &Stored<C::Object>, memory: &mut Memory) -> Outcome {
        let seen = |kind: &'static str, version| match self.actor.caches.get(kind) {
            Some((_, cache)) => cache.has_seen(version),
            None => self.objects.has_seen(version),
        };
        if !memory.has_seen_own_writes(seen) {
            return Outcome::Stale;
        }
        let object = match &stored.object {
            Ok(object) => object.clone(),
            Err(message) => {
                self.note_validity(key, false);
                let message = format!("the stored object does not fit the schema of this version: {message}; apply a valid one");
                return self.write_stalled(key, stored, memory, reasons::INVALID_OBJECT, &message).await;
            }
        };
        self.note_validity(key, true);
        let mut decision = match self.decide(key, object.clone(), memory).await {
            Ok(decision) => decision,
            Err(error) => return Outcome::Defect(error.to_string()),
        };
        if decision.children == Children::Keep {
            // Nothing is tried, so that there is nothing to try again.
            memory.refused.clear();
        }
        if let Children::Exactly(children) = &decision.children {
            let before = memory.refusals();
            let (uid, generation) = (stored.meta.uid.as_deref().unwrap_or_default(), stored.meta.generation);
            let owner = Owner { kind: C::KIND, key, uid, generation };
            if self.actor.act(&owner, children, memory).await == Acted::OwnerIsGone {
                // Its watch will tell. There is nobody whose status could be written.
                return Outcome::Done(None);
            }
            if memory.refusals() != before {
                decision = match self.decide(key, object.clone(), memory).await {
                    Ok(decision) => decision,
                    Err(error) => return Outcome::Defect(error.to_string()),
                };
            }
        }
        match self.write_status(key, stored, decision.status, memory).await {
            Ok(true) => self.tell(object.object_ref(&()), decision.events),
            Ok(false) => {}
            Err(error) => return Outcome::Failed(error),
        }
        Outcome::Done(decision.next)
    }

    async fn decide(
        &self,
        key: &ObjectKey,
        object: Arc<C::Object>,
        memory: &Memory,
    ) -> Result<decision::Decision<Value>, DecideError> {
        let observation = self.control.observe(object, memory.refusals()).await;
        if let Some(observations) = &self.observations {
            let value = serde_json::to_value(&observation)?;
            observations.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), value);
        }
        C::decide(&observation, Timestamp::now())
    }

    /// Writes a status if it says something else than the stored one. Returns whether it did.
    async fn write_status(
        &self,
        key: &ObjectKey,
        stored: &Stored<C::Object>,
        mut status: Value,
        memory: &mut Memory,
    ) -> Result<bool, CallError> {
        served_schema::prune(&mut status, &self.outdated_schema.borrow());
        let Some(patch) = merge_patch::difference(&stored.status, &status) else {
            self.metrics.skipped_status_write(C::KIND.kind);
            return Ok(false);
        };
        let version = stored.meta.resource_version.as_deref().unwrap_or_default();
        let written = self.calls.patch_status(C::KIND, key, C::MANAGER, &patch, version).await?;
        memory.wrote(C::KIND.kind, written);
        Ok(true)
    }

    async fn write_stalled(
        &self,
        key: &ObjectKey,
        stored: &Stored<C::Object>,
        memory: &mut Memory,
        reason: &'static str,
        message: &str,
    ) -> Outcome {
        let generation = stored.meta.generation;
        let status = stalled::status(&stored.status, C::CONDITIONS, generation, reason, message, Timestamp::now());
        match self.write_status(key, stored, status, memory).await {
            Ok(written) => {
                let event = decision::Event { warning: true, reason: reason.to_owned(), note: message.to_owned() };
                let mut reference = k8s_openapi::api::core::v1::ObjectReference {
                    api_version: Some(C::KIND.resource().api_version),
                    kind: Some(C::KIND.kind.to_owned()),
                    name: Some(key.name.clone()),
                    namespace: Some(key.namespace.clone()),
                    ..Default::default()
                };
                reference.uid = stored.meta.uid.clone();
                if written {
                    self.tell(reference, vec![event]);
                }
                Outcome::Done(None)
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    async fn stall(&self, key: &ObjectKey, stored: &Stored<C::Object>, memory: &mut Memory, message: &str) -> &'static str {
        if let Outcome::Failed(error) = self.write_stalled(key, stored, memory, reasons::INTERNAL_ERROR, message).await {
            warn!(%key, %error, "failed to say so in the status");
        }
        "defect"
    }

    /// Publishes events in the background: an event that cannot be told must not hold up the next pass.
    fn tell(&self, about: k8s_openapi::api::core::v1::ObjectReference, events: Vec<decision::Event>) {
        if events.is_empty() {
            return;
        }
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            for event in events {
                let published = Event {
                    type_: if event.warning { EventType::Warning } else { EventType::Normal },
                    reason: event.reason,
                    note: Some(event.note),
                    action: actions::RECONCILE.to_owned(),
                    secondary: None,
                };
                match tokio::time::timeout(Duration::from_secs(15), recorder.publish(&published, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(%error, "failed to publish an event"),
                    Err(_) => warn!("failed to publish an event: no answer"),
                }
            }
        });
    }

    /// Counts the objects that cannot be decoded.
    fn note_validity(&self, key: &ObjectKey, valid: bool) {
        let mut invalid = self.invalid.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if valid { invalid.remove(key) } else { invalid.insert(key.clone()) };
        if changed {
            self.metrics.set_invalid_objects(C::KIND.kind, invalid.len());
        }
    }

    fn forget(&self, key: &ObjectKey) {
        self.note_validity(key, true);
        self.lock_memories().remove(key);
        self.queue.forget(key);
        self.control.forget(key);
        if let Some(observations) = &self.observations {
            observations.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }

    /// What is remembered of the object; nothing of an earlier one of the same name.
    fn take_memory(&self, key: &ObjectKey, uid: &str) -> Memory {
        self.lock_memories().remove(key).filter(|(remembered, _)| remembered == uid).map(|(_, memory)| memory).unwrap_or_default()
    }

    fn put_memory(&self, key: &ObjectKey, uid: String, memory: Memory) {
        self.lock_memories().insert(key.clone(), (uid, memory));
    }

    fn lock_memories(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, (String, Memory)>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
