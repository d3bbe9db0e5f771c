//! What the driver remembers of an object between two passes. Losing all of it costs a few calls and changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use quartermaster_core::decide::back_off;
use quartermaster_core::decide::decision::{ChildIdentity, Refusal, RefusalCause};
use tokio::time::Instant;

use super::children::ChildFacts;

/// Longest time that a pass waits for a watch to deliver this process's own last write.
const AWAIT_WRITE: Duration = Duration::from_secs(5);

/// What is remembered of one object.
#[derive(Debug, Default)]
pub struct Memory {
    /// The children as they were last applied.
    pub applied: BTreeMap<ChildIdentity, Applied>,
    /// The children that could not be applied.
    pub refused: BTreeMap<ChildIdentity, Refused>,
    /// Writes that the watches have not delivered yet.
    awaited: Vec<Awaited>,
    /// Passes in a row that failed in a way that may pass.
    failures: u32,
    /// Set after a pass that ended in a defect or a conflict.
    held: Option<Held>,
}

/// A generation of the object that is left alone for a while.
#[derive(Debug)]
struct Held {
    generation: Option<i64>,
    until: Instant,
}

/// A child as it was last applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Hash of the intent.
    pub intent_hash: String,
    /// Fingerprint of the object that came back.
    pub fingerprint: u64,
}

/// A child that could not be applied.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Which, and why.
    pub refusal: Refusal,
    /// When to try the same again.
    pub retry_at: Instant,
    /// Who had the child's name, where that is why and where the cache knew.
    pub holder: Option<Holder>,
}

/// Somebody else's object that has a child's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    uid: String,
    owner_uid: Option<String>,
}

impl Holder {
    /// This object.
    pub fn of(facts: &ChildFacts) -> Self {
        Self { uid: facts.uid.clone(), owner_uid: facts.owner_uid.clone() }
    }
}

impl Refused {
    /// Whether the child's name is taken.
    pub fn is_of_the_name(&self) -> bool {
        matches!(self.refusal.cause, RefusalCause::NameInUse | RefusalCause::Leftover)
    }

    /// Whether the same intent is not to be tried yet, with what the cache knows now of the child's name. Who has it is known
    /// without asking, and the cache tells at once when that changes.
    pub fn holds(&self, intent_hash: &str, known: Option<&ChildFacts>) -> bool {
        let same = !self.is_of_the_name() || self.holder == known.map(Holder::of);
        // What could not be changed can be made anew once it is gone.
        let gone = self.refusal.cause == RefusalCause::Immutable && known.is_none();
        same && !gone && self.refusal.intent_hash == intent_hash && self.retry_at > Instant::now()
    }
}

/// What a write has made a new version of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The object itself, or a child of it, by its kind.
    Own(&'static str),
    /// An object that is somebody else's, by its kind.
    Patched(&'static str),
}

#[derive(Debug)]
struct Awaited {
    what: Written,
    resource_version: u64,
    until: Instant,
}

impl Memory {
    /// The refusals, for an observation.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refused.values().map(|refused| refused.refusal.clone()).collect()
    }

    /// Remembers a write that a watch will deliver.
    pub fn wrote(&mut self, what: Written, resource_version: Option<u64>) {
        if let Some(resource_version) = resource_version {
            self.awaited.push(Awaited { what, resource_version, until: Instant::now() + AWAIT_WRITE });
        }
    }

    /// Whether every own write was delivered, or was waited for long enough.
    pub fn has_seen_own_writes(&mut self, seen: impl Fn(Written, u64) -> bool) -> bool {
        let now = Instant::now();
        self.awaited.retain(|awaited| awaited.until > now && !seen(awaited.what, awaited.resource_version));
        self.awaited.is_empty()
    }

    /// Remembers a child that could not be applied, and who has its name where that is why. `jitter` is from 0 to 1: what refuses
    /// the children of many objects at once, a quota or a right, is not to be asked by all of them at once again.
    pub fn refuse(&mut self, refusal: Refusal, holder: Option<Holder>, jitter: f64) {
        let spread = |seconds| Duration::from_secs(seconds).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 2.0);
        let delay = match refusal.cause {
            RefusalCause::Invalid | RefusalCause::Immutable => spread(300),
            RefusalCause::NameInUse => spread(40),
            RefusalCause::Forbidden | RefusalCause::QuotaExceeded => spread(20),
            RefusalCause::Transient | RefusalCause::Leftover => self.back_off(jitter),
        };
        self.refused.insert(refusal.child.clone(), Refused { refusal, retry_at: Instant::now() + delay, holder });
    }

    /// The delay after one more failure. `jitter` is from 0 to 1.
    pub fn back_off(&mut self, jitter: f64) -> Duration {
        let delay = back_off::after(self.failures, jitter);
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Leaves this generation of the object alone for a while, whoever wakes it: the next pass would most likely meet the same.
    pub fn hold(&mut self, generation: Option<i64>, time: Duration) {
        self.held = Some(Held { generation, until: Instant::now() + time });
    }

    /// How long this generation is still to be left alone. Another one is tried at once.
    pub fn held(&self, generation: Option<i64>) -> Option<Duration> {
        let held = self.held.as_ref().filter(|held| held.generation == generation)?;
        Some(held.until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// A pass succeeded: the next failure waits for the shortest time again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.refused.is_empty() && self.awaited.is_empty() && self.failures == 0 && self.held.is_none()
    }

    /// When the first refused child wants to be tried again.
    pub fn next_retry(&self) -> Option<Duration> {
        let now = Instant::now();
        self.refused.values().map(|refused| refused.retry_at.saturating_duration_since(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_back_off_doubles_up_to_half_a_minute_and_starts_anew_after_success() {
        let mut memory = Memory::default();
        let delays: Vec<_> = (0..9).map(|_| memory.back_off(1.0).as_millis()).collect();
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        memory.succeeded();
        assert_eq!(memory.back_off(0.0).as_millis(), 250);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_child_is_tried_again_after_its_time_and_up_to_half_more_by_chance() {
        for (cause, seconds) in [
            (RefusalCause::Forbidden, 20),
            (RefusalCause::QuotaExceeded, 20),
            (RefusalCause::NameInUse, 40),
            (RefusalCause::Invalid, 300),
            (RefusalCause::Immutable, 300),
        ] {
            for (jitter, expected) in [(0.0, seconds), (0.5, seconds * 5 / 4), (1.0, seconds * 3 / 2)] {
                let mut memory = Memory::default();
                let child = ChildIdentity { kind: "Service".into(), name: "a".into() };
                memory.refuse(Refusal { child, intent_hash: "x".into(), cause, message: "no".into() }, None, jitter);
                assert_eq!(memory.next_retry(), Some(Duration::from_secs(expected)), "{cause:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_own_write_is_waited_for_until_it_is_seen_but_not_for_ever() {
        let mut memory = Memory::default();
        memory.wrote(Written::Own("Service"), Some(7));
        assert!(!memory.has_seen_own_writes(|_, version| version <= 6));
        assert!(memory.has_seen_own_writes(|_, version| version <= 7));
        memory.wrote(Written::Own("Service"), Some(9));
        tokio::time::advance(AWAIT_WRITE).await;
        assert!(memory.has_seen_own_writes(|_, _| false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_generation_is_left_alone_for_its_time_and_another_one_is_not() {
        let mut memory = Memory::default();
        assert_eq!(memory.held(Some(1)), None);
        memory.hold(Some(1), Duration::from_secs(300));
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(memory.held(Some(1)), Some(Duration::from_secs(200)));
        assert_eq!(memory.held(Some(2)), None);
        tokio::time::advance(Duration::from_secs(200)).await;
        assert_eq!(memory.held(Some(1)), None);
    }
}
