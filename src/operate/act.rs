//! Acting on a decision's children: apply what differs, leave what is the same, delete what is no longer wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use quartermaster_core::decide::decision::{ApplyMode, Child, ChildIdentity, Refusal, RefusalCause};
use quartermaster_core::decide::short_hash;
use tokio::time::Instant;
use tracing::{info, warn};

use super::cache::Cache;
use super::calls::Calls;
use super::children::{ChildFacts, ChildKind};
use super::error::{CallError, named};
use super::key::ObjectKey;
use super::memory::{Applied, Memory};
use super::metrics::Metrics;
use super::watch::resource_version;

/// The kinds that a controller makes, each with the cache that its watch fills.
pub type ChildCaches = BTreeMap<&'static str, (ChildKind, Arc<Cache<ChildFacts>>)>;

/// Applies and deletes the children of one kind of object.
pub struct Actor {
    /// The calls.
    pub calls: Calls,
    /// The kinds of children.
    pub caches: ChildCaches,
    /// The field manager of this controller.
    pub manager: &'static str,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// Whose children these are.
pub struct Owner<'a> {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name; the children live in its namespace.
    pub key: &'a ObjectKey,
    /// Its uid.
    pub uid: &'a str,
    /// Its generation that was decided on.
    pub generation: Option<i64>,
}

/// Whether there is still somebody to act for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// What could be done is done.
    ForOwner,
    /// The owner is gone, or going, and its watch has yet to tell. Nothing was made.
    OwnerIsGone,
}

/// What is known of the owner within one pass.
#[derive(Default)]
struct Presence(Option<Acted>);

impl Actor {
    /// Brings the children into being in their order, and deletes those that the owner has beyond them. What cannot be done
    /// is remembered as a refusal; the others go on.
    pub async fn act(&self, owner: &Owner<'_>, children: &[Child], memory: &mut Memory) -> Acted {
        let mut presence = Presence::default();
        for child in children {
            self.apply(owner, child, memory, &mut presence).await;
            if presence.0 == Some(Acted::OwnerIsGone) {
                return Acted::OwnerIsGone;
            }
        }
        let wanted: BTreeSet<&ChildIdentity> = children.iter().map(|child| &child.identity).collect();
        memory.applied.retain(|identity, _| wanted.contains(identity));
        memory.refused.retain(|identity, _| wanted.contains(identity));
        self.prune(owner, &wanted, memory).await;
        Acted::ForOwner
    }

    async fn apply(&self, owner: &Owner<'_>, child: &Child, memory: &mut Memory, presence: &mut Presence) {
        let Some((kind, cache)) = self.caches.get(child.identity.kind.as_str()) else {
            let message = format!("this controller makes no {}", child.identity.kind);
            return refuse(memory, child, intent_hash(child), RefusalCause::Invalid, message);
        };
        if child.mode == ApplyMode::Keep {
            self.metrics.skipped_apply(kind.kind);
            memory.refused.remove(&child.identity);
            return;
        }
        let intent_hash = intent_hash(child);
        let key = ObjectKey::new(owner.key.namespace.clone(), child.identity.name.clone());
        let known = cache.get(&key);
        let is_foreign = |facts: &ChildFacts| facts.owner_uid.as_deref() != Some(owner.uid);
        if let Some(known) = &known {
            let same = memory
                .applied
                .get(&child.identity)
                .is_some_and(|applied| applied.intent_hash == intent_hash && applied.fingerprint == known.fingerprint);
            let made = child.mode == ApplyMode::CreateOnce;
            if known.terminating || (!is_foreign(known) && (same || made)) {
                self.metrics.skipped_apply(kind.kind);
                memory.refused.remove(&child.identity);
                return;
            }
        }
        let waits = memory.refused.get(&child.identity).is_some_and(|refused| {
            // What could not be changed can be made anew once it is gone.
            let gone = refused.refusal.cause == RefusalCause::Immutable && known.is_none();
            !gone && refused.refusal.intent_hash == intent_hash && refused.retry_at > Instant::now()
        });
        if waits {
            return;
        }
        // A name that is not in the cache may still be taken by an object without our label.
        let existing = match known {
            Some(known) => Some(ChildFacts::clone(&known)),
            None => match self.calls.metadata(*kind, &key).await {
                Ok(found) => found.map(|found| ChildFacts::of(&found.metadata, None)),
                Err(error) => return self.refuse_call(memory, child, intent_hash, &error),
            },
        };
        if let Some(existing) = &existing {
            if is_foreign(existing) {
                let message = format!(
                    "{} exists and does not belong to this object: rename one of the two, or delete it",
                    named(&child.identity)
                );
                return refuse(memory, child, intent_hash, RefusalCause::NameInUse, message);
            }
            if existing.terminating || child.mode == ApplyMode::CreateOnce {
                return;
            }
        } else if presence.0.is_none() {
            // A child may be missing because the owner was deleted and its children with it: the watch of one kind can tell
            // of that before the watch of the other does.
            match self.calls.metadata(owner.kind, owner.key).await {
                Ok(found) => presence.0 = Some(presence_of(owner, found.as_ref().map(|found| &found.metadata))),
                Err(error) => return self.refuse_call(memory, child, intent_hash, &error),
            }
            if presence.0 == Some(Acted::OwnerIsGone) {
                return;
            }
        }
        let uid = existing.as_ref().map(|existing| existing.uid.as_str());
        match self.calls.apply(*kind, &key, self.manager, &child.object, uid).await {
            Ok(object) => {
                info!(kind = kind.kind, %key, "applied");
                memory.wrote(kind.kind, resource_version(&object));
                memory.refused.remove(&child.identity);
                let spec = object.data.get("spec").filter(|_| kind.watched_whole);
                let fingerprint = ChildFacts::of(&object.metadata, spec).fingerprint;
                memory.applied.insert(child.identity.clone(), Applied { intent_hash, fingerprint });
            }
            Err(error) => self.refuse_call(memory, child, intent_hash, &error),
        }
    }

    async fn prune(&self, owner: &Owner<'_>, wanted: &BTreeSet<&ChildIdentity>, memory: &mut Memory) {
        for (kind, cache) in self.caches.values() {
            for (key, facts) in cache.owned_by(owner.uid) {
                let identity = ChildIdentity { kind: kind.kind.to_owned(), name: key.name.clone() };
                if facts.terminating || wanted.contains(&identity) {
                    continue;
                }
                let deleted = match self.is_current(owner).await {
                    Ok(true) => self.calls.delete(*kind, &key, &facts.uid).await,
                    // Its watch will tell.
                    Ok(false) => return,
                    Err(error) => Err(error),
                };
                match deleted {
                    Ok(()) => info!(kind = kind.kind, %key, "deleted: no longer wanted"),
                    Err(error) => {
                        warn!(kind = kind.kind, %key, %error, "failed to delete a child that is no longer wanted");
                        let refusal = Refusal {
                            child: identity,
                            intent_hash: String::new(),
                            cause: error.cause(),
                            message: error.to_string(),
                        };
                        memory.refuse(refusal, fastrand::f64());
                    }
                }
            }
        }
    }

    /// Whether the owner is still what was decided on. An API server whose caches hang behind, each by another time, may tell of
    /// a spec of then and a child of now.
    async fn is_current(&self, owner: &Owner<'_>) -> Result<bool, CallError> {
        let found = self.calls.metadata(owner.kind, owner.key).await?;
        let metadata = found.as_ref().map(|found| &found.metadata);
        let same_generation = metadata.is_some_and(|metadata| metadata.generation == owner.generation);
        Ok(same_generation && presence_of(owner, metadata) == Acted::ForOwner)
    }

    fn refuse_call(&self, memory: &mut Memory, child: &Child, intent_hash: String, error: &CallError) {
        warn!(child = named(&child.identity), %error, "failed to apply a child");
        refuse(memory, child, intent_hash, error.cause(), error.answer());
    }
}

fn presence_of(owner: &Owner<'_>, found: Option<&ObjectMeta>) -> Acted {
    let same = |found: &ObjectMeta| found.uid.as_deref() == Some(owner.uid) && found.deletion_timestamp.is_none();
    if found.is_some_and(same) { Acted::ForOwner } else { Acted::OwnerIsGone }
}

fn refuse(memory: &mut Memory, child: &Child, intent_hash: String, cause: RefusalCause, message: String) {
    let refusal = Refusal { child: child.identity.clone(), intent_hash, cause, message };
    memory.refuse(refusal, fastrand::f64());
}

/// Hash of what is to be applied. Objects are maps with sorted keys, so that equal intents have equal text.
fn intent_hash(child: &Child) -> String {
    short_hash::of(child.object.to_string())
}
