//! The driver: one reconcile, the same way for every kind.
//!
//! It takes a key from the queue, sets a deadline, catches panics, and does nothing while it does not lead. Then it observes,
//! decides and acts; a child that is refused becomes a fact, and the decision is made once more with it, so that the status
//! tells of it in the same pass.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use kube::Resource as _;
use quartermaster_core::api::conditions::reasons;
use quartermaster_core::decide::decision::{self, Children};
use quartermaster_core::decide::{merge_patch, served_schema, stalled};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use super::act::{Acted, Actor, Owner};
use super::cache::Cache;
use super::calls::Calls;
use super::control::{Control, DecideError};
use super::error::CallError;
use super::events::Events;
use super::health::Watchdog;
use super::key::ObjectKey;
use super::memory::{Memory, Written};
use super::metrics::Metrics;
use super::object::Stored;
use super::queue::Queue;

/// Longest time of one pass. Each call in it has a deadline of its own, well below.
const PASS_DEADLINE: Duration = Duration::from_secs(60);
/// Longest time to say in a status that a pass came to nothing: a write and, where that meets a conflict, a read.
const SAYING_DEADLINE: Duration = Duration::from_secs(30);
/// Time until an object whose reconcile ended in a panic, or in another defect of this program, is tried again.
const AFTER_DEFECT: Duration = Duration::from_secs(300);
/// Time until a pass that found the caches behind this process's own writes looks again; the watch usually wakes it before.
const AFTER_STALE: Duration = Duration::from_secs(1);
/// Least time until something that did not succeed is tried again.
const LEAST_RETRY: Duration = Duration::from_millis(250);
/// Longest time until a status is written again that met a conflict although nothing newer was there.
const AFTER_CONFLICT: Duration = Duration::from_secs(2);
/// What users read of an object whose pass was stopped before it had decided anything.
const OBSERVES_TOO_LONG: &str = "the operator did not get to the end of observing what this object depends on, and tries again; \
    its log has more";
/// The same of one that was stopped afterwards.
const ACTS_TOO_LONG: &str = "the operator did not get to the end of applying what was decided about this object, and tries again; \
    its log has more";
/// Reconciles at the same time, of which one namespace gets [`super::queue::AT_ONCE`]. They wait for the network, not for the
/// processor.
const WORKERS: usize = 64;

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
    pub events: Arc<Events>,
    /// The events that are being told of. Who leads next must not find one that is still under way.
    pub telling: TaskTracker,
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

/// Why a status is written that no decision made.
enum Undecided<'a> {
    /// Only another spec, or another version of this program, gets the object further.
    Stalled { reason: &'static str, message: &'a str },
    /// The pass did not end in time, and is tried again.
    Retrying { message: &'a str },
}

/// How a pass ended.
enum Outcome {
    /// Look again after this time, or when a watch wakes us.
    Done(Option<Duration>),
    /// A call failed in a way that may pass.
    Failed(CallError),
    /// Somebody else has written the object since the version that the pass was about; whether that is in the cache now.
    Conflict { is_news: bool },
    /// The caches have not seen this process's own last writes.
    Stale,
    /// A defect of this program.
    Defect(String),
}

/// Takes keys from the queue while `leads` is true, until cancelled, with so many workers. Returns when every pass has ended.
///
/// # Errors
///
/// A worker ended in a panic, beside the pass, in which panics are caught.
pub(super) async fn work<Pass>(
    workers: usize,
    queue: &Arc<Queue>,
    leads: watch::Receiver<bool>,
    watchdog: Watchdog,
    cancelled: CancellationToken,
    pass: impl Fn(ObjectKey) -> Pass + Clone + Send + 'static,
) -> Result<(), JoinError>
where
    Pass: Future<Output = ()> + Send,
{
    let watchdog = Arc::new(watchdog);
    let mut working = JoinSet::new();
    for _ in 0..workers {
        let (queue, mut leads, pass) = (queue.clone(), leads.clone(), pass.clone());
        let (watchdog, cancelled) = (watchdog.clone(), cancelled.clone());
        working.spawn(async move {
            loop {
                let key = tokio::select! {
                    biased;
                    () = cancelled.cancelled() => return,
                    key = async { leads.wait_for(|leads| *leads).await.ok(); queue.next().await } => key,
                };
                watchdog.work_waits();
                pass(key.clone()).await;
                queue.done(&key);
                watchdog.progressed(queue.ready());
            }
        });
    }
    while let Some(ended) = working.join_next().await {
        ended?;
    }
    Ok(())
}

impl<C: Control> Driver<C> {
    /// Wants a reconcile of every object: something that all of them depend on has changed.
    pub fn wake_all(&self) {
        self.objects.keys().into_iter().for_each(|key| self.queue.add(key));
    }

    /// Works on the queue while `leads` is true, until cancelled. Returns when every pass has ended and its events are told.
    ///
    /// # Errors
    ///
    /// A worker ended in a panic, beside the pass, in which panics are caught. It had an object that nobody would ever work on
    /// again: the process must end.
    pub async fn run(
        self: Arc<Self>,
        leads: watch::Receiver<bool>,
        watchdog: Watchdog,
        cancelled: CancellationToken,
    ) -> Result<(), JoinError> {
        let pass = {
            let driver = self.clone();
            move |key: ObjectKey| {
                let driver = driver.clone();
                async move { driver.pass(&key).await }
            }
        };
        work(WORKERS, &self.queue, leads, watchdog, cancelled, pass).await?;
        self.telling.close();
        self.telling.wait().await;
        Ok(())
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
        let acts = AtomicBool::new(false);
        let pass = AssertUnwindSafe(self.reconcile(key, &stored, &mut memory, &acts)).catch_unwind();
        let (outcome, next) = match tokio::time::timeout(PASS_DEADLINE, pass).await {
            Ok(Ok(Outcome::Done(next))) => {
                if memory.refused.is_empty() {
                    memory.succeeded();
                }
                ("success", [next, memory.next_retry().map(|retry| retry.max(LEAST_RETRY))].into_iter().flatten().min())
            }
            Ok(Ok(Outcome::Stale)) => ("stale", Some(AFTER_STALE)),
            Ok(Ok(Outcome::Failed(error))) => {
                warn!(%key, %error, "trying again");
                (error.outcome(), Some(memory.back_off(fastrand::f64())))
            }
            Ok(Ok(Outcome::Conflict { is_news })) => {
                debug!(%key, is_news, "the object was written since; trying again");
                let delay = if is_news { LEAST_RETRY } else { memory.back_off(fastrand::f64()).min(AFTER_CONFLICT) };
                // What wakes it meanwhile, its children above all, would only make more of them.
                memory.hold(stored.meta.generation, delay);
                ("conflict", Some(delay))
            }
            Ok(Ok(Outcome::Defect(message))) => {
                error!(%key, message, "a defect of this program");
                ("defect", Some(self.stall(key, &stored, &mut memory, &message).await))
            }
            Ok(Err(_)) => {
                self.metrics.panicked(C::KIND.kind);
                error!(%key, "the reconcile ended in a panic");
                let message = "the reconcile of this object ended in a defect of the operator; its log has more";
                ("defect", Some(self.stall(key, &stored, &mut memory, message).await))
            }
            Err(_) => {
                self.metrics.timed_out(C::KIND.kind);
                let acts = acts.load(Ordering::Relaxed);
                warn!(%key, seconds = PASS_DEADLINE.as_secs(), acts, "the reconcile did not end in time");
                let message = if acts { ACTS_TOO_LONG } else { OBSERVES_TOO_LONG };
                self.say(key, &stored, &mut memory, Undecided::Retrying { message }).await;
                let delay = memory.back_off(fastrand::f64());
                // Its own status would wake it at once.
                memory.hold(stored.meta.generation, delay);
                ("timeout", Some(delay))
            }
        };
        self.put_memory(key, uid, memory);
        if let Some(next) = next {
            self.queue.add_after(key.clone(), next);
        }
        self.metrics.reconciled(C::KIND.kind, outcome, started.elapsed());
    }

    /// `acts` tells how far it got, should it be stopped.
    async fn reconcile(&self, key: &ObjectKey, stored: &Stored<C::Object>, memory: &mut Memory, acts: &AtomicBool) -> Outcome {
        let seen = |what: Written, version| match what {
            Written::Patched(kind) => self.control.has_seen_patch(key, kind, version),
            Written::Own(kind) => match self.actor.caches.get(kind) {
                Some((_, cache)) => cache.has_seen(&key.namespace, version),
                // What was read after a conflict counts as well as what the watch delivered.
                None => self.objects.has_seen(&key.namespace, version) || stored.version() >= Some(version),
            },
        };
        if !memory.has_seen_own_writes(seen) {
            return Outcome::Stale;
        }
        let object = match &stored.object {
            Ok(object) => object.clone(),
            Err(message) => {
                self.note_validity(key, false);
                let message = format!("the stored object does not fit the schema of this version: {message}; apply a valid one");
                let undecided = Undecided::Stalled { reason: reasons::INVALID_OBJECT, message: &message };
                return self.write_undecided(key, stored, memory, undecided).await;
            }
        };
        self.note_validity(key, true);
        let mut decision = match self.decide(key, object.clone(), memory).await {
            Ok(decision) => decision,
            Err(error) => return Outcome::Defect(error.to_string()),
        };
        acts.store(true, Ordering::Relaxed);
        let before = memory.refusals();
        // What is not wanted any more is not tried again.
        let patched = decision.patches.iter().map(|patch| &patch.target);
        let made = match &decision.children {
            Children::Exactly(children) => children.as_slice(),
            Children::Keep => &[],
        };
        let wanted: HashSet<_> = patched.chain(made.iter().map(|child| &child.identity)).collect();
        memory.refused.retain(|refused, _| wanted.contains(refused));
        let (uid, generation) = (stored.meta.uid.as_deref().unwrap_or_default(), stored.meta.generation);
        let owner = Owner { kind: C::KIND, key, uid, holds_by: uid, generation };
        let patched = self.actor.patch(&owner, &decision.patches, memory).await;
        // Children that rely on what cannot be patched stay as they are.
        if let Children::Exactly(children) = &decision.children
            && patched
            && self.actor.act(&owner, children, memory).await == Acted::OwnerIsGone
        {
            // Its watch will tell. There is nobody whose status could be written.
            return Outcome::Done(None);
        }
        if memory.refusals() != before {
            acts.store(false, Ordering::Relaxed);
            decision = match self.decide(key, object.clone(), memory).await {
                Ok(decision) => decision,
                Err(error) => return Outcome::Defect(error.to_string()),
            };
            acts.store(true, Ordering::Relaxed);
        }
        match self.write_status(key, stored, decision.status, memory).await {
            Ok(true) => self.tell(object.object_ref(&()), decision.events),
            Ok(false) => {}
            Err(error) => return self.not_written(key, error).await,
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
        let now = Timestamp::now();
        if let Some(observations) = &self.observations {
            let mut value = serde_json::to_value(&observation)?;
            // What is decided depends on the time as well.
            if let Some(fields) = value.as_object_mut() {
                fields.insert("observedAt".to_owned(), serde_json::to_value(now)?);
            }
            observations.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), value);
        }
        C::decide(&observation, now)
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
            self.metrics.decided_status(C::KIND.kind, false);
            return Ok(false);
        };
        let version = stored.meta.resource_version.as_deref().unwrap_or_default();
        let written = self.calls.patch_status(C::KIND, key, C::MANAGER, &patch, version).await?;
        memory.wrote(Written::Own(C::KIND.kind), written);
        self.metrics.decided_status(C::KIND.kind, true);
        Ok(true)
    }

    /// Writes a status that no decision made, and tells of it where it is news.
    async fn write_undecided(
        &self,
        key: &ObjectKey,
        stored: &Stored<C::Object>,
        memory: &mut Memory,
        undecided: Undecided<'_>,
    ) -> Outcome {
        let (generation, now) = (stored.meta.generation, Timestamp::now());
        let (status, event) = match undecided {
            Undecided::Stalled { reason, message } => {
                // Nothing is tried, so that there is nothing to try again.
                memory.refused.clear();
                let status = stalled::status(&stored.status, C::CONDITIONS, generation, reason, message, now);
                (status, decision::Event { warning: true, reason: reason.to_owned(), note: message.to_owned() })
            }
            Undecided::Retrying { message } => {
                let status = stalled::retrying(&stored.status, generation, message, now);
                let reason = reasons::PROGRESSING_WITH_RETRY.to_owned();
                (status, decision::Event { warning: false, reason, note: message.to_owned() })
            }
        };
        let is_news = stalled::is_news(&stored.status, &status);
        match self.write_status(key, stored, status, memory).await {
            Ok(true) if is_news => {
                let mut reference = k8s_openapi::api::core::v1::ObjectReference {
                    api_version: Some(C::KIND.resource().api_version),
                    kind: Some(C::KIND.kind.to_owned()),
                    name: Some(key.name.clone()),
                    namespace: Some(key.namespace.clone()),
                    ..Default::default()
                };
                reference.uid = stored.meta.uid.clone();
                self.tell(reference, vec![event]);
                Outcome::Done(None)
            }
            Ok(_) => Outcome::Done(None),
            Err(error) => self.not_written(key, error).await,
        }
    }

    /// What follows from a status that could not be written. After a conflict the object is read, once: the cache can be behind
    /// for as long as its watch is silent.
    async fn not_written(&self, key: &ObjectKey, error: CallError) -> Outcome {
        if error.code() != Some(409) {
            return Outcome::Failed(error);
        }
        match self.calls.read(C::KIND, key).await {
            Ok(Some(object)) => {
                let read = Stored::of(object);
                let version = read.version();
                Outcome::Conflict { is_news: self.objects.renew(key, read, |known| known.version() < version) }
            }
            // Its watch will tell.
            Ok(None) => Outcome::Conflict { is_news: false },
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Says that the object met a defect, and leaves it alone for the time that is returned.
    async fn stall(&self, key: &ObjectKey, stored: &Stored<C::Object>, memory: &mut Memory, message: &str) -> Duration {
        self.say(key, stored, memory, Undecided::Stalled { reason: reasons::INTERNAL_ERROR, message }).await;
        memory.hold(stored.meta.generation, AFTER_DEFECT);
        AFTER_DEFECT
    }

    /// Says in the status what a pass came to that has no other outcome. What spoilt the pass may spoil this as well: it has a
    /// deadline, and panics in it are caught.
    async fn say(&self, key: &ObjectKey, stored: &Stored<C::Object>, memory: &mut Memory, undecided: Undecided<'_>) {
        let saying = AssertUnwindSafe(self.write_undecided(key, stored, memory, undecided)).catch_unwind();
        match tokio::time::timeout(SAYING_DEADLINE, saying).await {
            Ok(Ok(Outcome::Failed(error))) => warn!(%key, %error, "failed to say so in the status"),
            Ok(Ok(_)) => {}
            Ok(Err(_)) => {
                self.metrics.panicked(C::KIND.kind);
                error!(%key, "saying so in the status ended in a panic");
            }
            Err(_) => warn!(%key, seconds = SAYING_DEADLINE.as_secs(), "saying so in the status did not end in time"),
        }
    }

    /// Publishes events in the background: an event that cannot be told must not hold up the next pass.
    fn tell(&self, about: k8s_openapi::api::core::v1::ObjectReference, events: Vec<decision::Event>) {
        if events.is_empty() {
            return;
        }
        let (teller, calls) = (self.events.clone(), self.calls.clone());
        self.telling.spawn(async move {
            for event in events {
                if !calls.leads() {
                    warn!("failed to publish an event: this process no longer leads");
                    return;
                }
                match tokio::time::timeout(Duration::from_secs(15), teller.publish(event, &about)).await {
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
