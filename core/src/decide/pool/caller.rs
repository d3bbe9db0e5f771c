//! A pool as a caller of its namespace's gateway: the key of its agents, and how long the key before the last rotation is valid.
//!
//! What has to be remembered stands in annotations of the Secret `<pool>-caller`: hashes of keys of 256 random bits tell nothing
//! about them, and whoever makes a plan of them needs no value of a Secret.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::api::{AgentPool, agent_pool};
use crate::decide::gateway::plan::{Caller, TaskLimits};

/// Annotation of a pool: any new value asks for a new key. The Secret carries the value that its key was made for.
pub const ROTATE_KEY: &str = "quartermaster.dev/rotate-key";
/// Annotation of the Secret, and of the agents' pods: SHA-256 of the key.
pub const KEY_HASH: &str = "quartermaster.dev/key-hash";
/// Annotation of the Secret: SHA-256 of the key before.
const PREVIOUS_KEY_HASH: &str = "quartermaster.dev/previous-key-hash";
/// Annotation of the Secret: when the key took the place of the one before.
const ROTATED_AT: &str = "quartermaster.dev/key-rotated-at";
/// How long the key before the last rotation is valid at least, for whoever has it and is no pod of the pool.
const OVERLAP: SignedDuration = SignedDuration::from_mins(10);
/// Hexadecimal digits of a SHA-256.
const HASH_DIGITS: usize = 64;

/// What the annotations of a pool's Secret say of its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CallerSecret {
    /// SHA-256 of the key, in hexadecimal.
    pub key_hash: String,
    /// The same of the key before the last rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_key_hash: Option<String>,
    /// When that took place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<Timestamp>,
    /// The value of the pool's annotation that the key was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
}

impl CallerSecret {
    /// What the annotations of a Secret say. One whose hash somebody has taken away has the hash of no key, so that another key is
    /// made.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let hash = |name: &str| annotations.get(name).filter(|hash| is_hash(hash)).cloned();
        Self {
            key_hash: hash(KEY_HASH).unwrap_or_default(),
            previous_key_hash: hash(PREVIOUS_KEY_HASH),
            rotated_at: annotations.get(ROTATED_AT).and_then(|time| time.parse().ok()),
            rotation: annotations.get(ROTATE_KEY).cloned(),
        }
    }

    /// The annotations that say this.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let of_rotation = [
            (PREVIOUS_KEY_HASH, self.previous_key_hash.clone()),
            (ROTATED_AT, self.rotated_at.map(|time| time.to_string())),
            (ROTATE_KEY, self.rotation.clone()),
        ];
        let stated = of_rotation.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        stated.chain([(KEY_HASH.to_owned(), self.key_hash.clone())]).collect()
    }

    /// Time for which the key before the last rotation is valid for sure; `None` once that has passed.
    fn overlap(&self, now: Timestamp) -> Option<Duration> {
        let until = self.rotated_at?.checked_add(OVERLAP).ok()?;
        Duration::try_from(until.duration_since(now)).ok().filter(|left| !left.is_zero())
    }
}

/// What becomes of the key of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The pool has no route to call, and has no key.
    None,
    /// The pool has no route to call any more. The Secret stays, which may come to be needed again, and its key opens nothing.
    Unused,
    /// It stays.
    Stays {
        /// Its SHA-256.
        hash: String,
        /// When a new one that is asked for can be made: not before the last rotation is over.
        next: Option<Duration>,
    },
    /// It is made, or made anew; the annotations of the Secret will say this, but for the hash of the key.
    Made(CallerSecret),
}

/// What becomes of the key of a pool, of whose Secret this is known.
pub fn key(pool: &AgentPool, secret: Option<&CallerSecret>, now: Timestamp) -> Key {
    if pool.spec.model_routes.is_empty() {
        return if secret.is_some() { Key::Unused } else { Key::None };
    }
    let asked = pool.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ROTATE_KEY)).cloned();
    let Some(secret) = secret else {
        return Key::Made(CallerSecret { rotation: asked, ..CallerSecret::default() });
    };
    if secret.key_hash.is_empty() {
        return Key::Made(CallerSecret { rotated_at: Some(now), rotation: asked, ..CallerSecret::default() });
    }
    if asked.is_none() || asked == secret.rotation {
        return Key::Stays { hash: secret.key_hash.clone(), next: None };
    }
    // A third key would lock out those that have the first.
    if let Some(left) = secret.overlap(now) {
        return Key::Stays { hash: secret.key_hash.clone(), next: Some(left) };
    }
    Key::Made(CallerSecret {
        key_hash: String::new(),
        previous_key_hash: Some(secret.key_hash.clone()),
        rotated_at: Some(now),
        rotation: asked,
    })
}

/// The pool as its namespace's plan has it, and when that may change without anybody's doing. `pods`: when each of its pods was made,
/// which has the key of that time. `None`: nobody can call in its name.
pub fn of_plan(
    pool: &AgentPool,
    secret: Option<&CallerSecret>,
    pods: impl IntoIterator<Item = Timestamp>,
    now: Timestamp,
) -> Option<(Caller, Option<Duration>)> {
    let secret = secret.filter(|secret| !secret.key_hash.is_empty())?;
    if pool.spec.model_routes.is_empty() {
        return None;
    }
    let mut key_hashes = BTreeSet::from([secret.key_hash.clone()]);
    let left = secret.overlap(now);
    let has_old_pods = || pods.into_iter().any(|made| secret.rotated_at.is_some_and(|rotated| made < rotated));
    if left.is_some() || has_old_pods() {
        key_hashes.extend(secret.previous_key_hash.clone());
    }
    let routes = pool.spec.model_routes.iter().map(|route| route.name.clone()).collect();
    let labels = pool.spec.request_labels.clone();
    let task_limits = pool.spec.task_limits.as_ref().map(limits_of_plan).unwrap_or_default();
    Some((Caller { key_hashes, labels, routes, task_limits }, left))
}

/// The limits of a task that the gateway holds to. An amount that cannot be read, which the schema refuses, allows nothing: a limit that
/// nobody understands is closed and not open.
fn limits_of_plan(limits: &agent_pool::TaskLimits) -> TaskLimits {
    let tokens = |limit: Option<i64>| limit.map(|tokens| u64::try_from(tokens).unwrap_or(0));
    TaskLimits {
        max_tokens_per_request: tokens(limits.max_tokens_per_request),
        max_tokens: tokens(limits.max_tokens_per_task),
        max_cost: limits.max_cost_per_task.as_ref().map(|cost| cost.millionths().unwrap_or(0)),
        max_identical_requests: limits.max_identical_requests,
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == HASH_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
#[path = "caller_tests.rs"]
mod tests;
