//! Acting on a decision's children: apply what differs, leave what is the same, delete what is no longer wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use quartermaster_core::decide::decision::{ApplyMode, Child, ChildIdentity, Patch, Refusal, RefusalCause};
use quartermaster_core::decide::short_hash;
use tracing::{info, warn};

use super::cache::Cache;
use super::calls::Calls;
use super::children::{ChildFacts, ChildKind};
use super::error::{CallError, named};
use super::key::ObjectKey;
use super::memory::{Applied, Holder, Memory, Refused, Written};
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
    /// The kinds of objects that are patched and not owned.
    pub patched: &'static [ChildKind],
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
    /// By what the caches find the children: its uid, or [`super::children::shared_owner`] where it is one of several owners.
    pub holds_by: &'a str,
    /// Its generation that was decided on; none where the decision was about more than this object.
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
    /// is remembered as a refusal, and the others go on, save where a name is taken: those after it would use somebody
    /// else's ServiceAccount, Secret or Service in place of ours.
    pub async fn act(&self, owner: &Owner<'_>, children: &[Child], memory: &mut Memory) -> Acted {
        let mut presence = Presence::default();
        let mut untried = children.iter();
        for child in untried.by_ref() {
            self.apply(owner, child, memory, &mut presence).await;
            if presence.0 == Some(Acted::OwnerIsGone) {
                // There is nothing to try again.
                memory.refused.clear();
                return Acted::OwnerIsGone;
            }
            if memory.refused.get(&child.identity).is_some_and(Refused::is_of_the_name) {
                break;
            }
        }
        for child in untried {
            memory.refused.remove(&child.identity);
        }
        let wanted: BTreeSet<&ChildIdentity> = children.iter().map(|child| &child.identity).collect();
        memory.applied.retain(|identity, _| wanted.contains(identity));
        self.prune(owner, &wanted, memory).await;
        Acted::ForOwner
    }

    /// Patches objects that are not the owner's, in their order. After one that cannot be patched nothing else is, where what
    /// comes later relies on it. Returns whether all that is relied on is done.
    pub async fn patch(&self, owner: &Owner<'_>, patches: &[Patch], memory: &mut Memory) -> bool {
        for patch in patches {
            let hash = short_hash::of(patch.patch.to_string());
            let Some(kind) = self.patched.iter().find(|kind| kind.kind == patch.target.kind) else {
                let message = format!("this controller patches no {}", patch.target.kind);
                refuse(memory, &patch.target, hash, RefusalCause::Invalid, message);
                return false;
            };
            if memory.refused.get(&patch.target).is_some_and(|refused| refused.holds(&hash, None)) {
                if patch.required {
                    return false;
                }
                continue;
            }
            let key = ObjectKey::new(owner.key.namespace.clone(), patch.target.name.clone());
            match self.calls.patch(*kind, &key, self.manager, patch.subresource, &patch.patch).await {
                Ok(version) => {
                    info!(kind = kind.kind, %key, subresource = patch.subresource, "patched");
                    memory.wrote(Written::Patched(kind.kind), version);
                    memory.refused.remove(&patch.target);
                }
                Err(error) => {
                    warn!(target = named(&patch.target), %error, "failed to patch");
                    refuse(memory, &patch.target, hash, error.cause(), error.answer());
                    if patch.required {
                        return false;
                    }
                }
            }
        }
        true
    }

    async fn apply(&self, owner: &Owner<'_>, child: &Child, memory: &mut Memory, presence: &mut Presence) {
        let Some((kind, cache)) = self.caches.get(child.identity.kind.as_str()) else {
            let message = format!("this controller makes no {}", child.identity.kind);
            return refuse(memory, &child.identity, intent_hash(child), RefusalCause::Invalid, message);
        };
        if child.mode == ApplyMode::Keep {
            self.metrics.skipped_apply(kind.kind);
            memory.refused.remove(&child.identity);
            return;
        }
        if let Some(unlisted) = cache.unlisted(&owner.key.namespace) {
            // What there is of this kind is not known. Without a hash, the child is tried as soon as it is.
            return refuse(memory, &child.identity, String::new(), unlisted.cause, unlisted.message);
        }
        let intent_hash = intent_hash(child);
        let key = ObjectKey::new(owner.key.namespace.clone(), child.identity.name.clone());
        let known = cache.get(&key);
        let is_foreign = |facts: &ChildFacts| facts.owner_uid.as_deref() != Some(owner.holds_by);
        if let Some(known) = known.as_ref().filter(|known| !is_foreign(known)) {
            let same = memory
                .applied
                .get(&child.identity)
                .is_some_and(|applied| applied.intent_hash == intent_hash && applied.fingerprint == known.fingerprint);
            if known.terminating || same || child.mode == ApplyMode::CreateOnce {
                self.metrics.skipped_apply(kind.kind);
                memory.refused.remove(&child.identity);
                return;
            }
        }
        if memory.refused.get(&child.identity).is_some_and(|refused| refused.holds(&intent_hash, known.as_deref())) {
            return;
        }
        let holder = known.as_deref().map(Holder::of);
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
                let (cause, message) = taken(owner, &child.identity, existing);
                let refusal = Refusal { child: child.identity.clone(), intent_hash, cause, message };
                return memory.refuse(refusal, holder, fastrand::f64());
            }
            if existing.terminating || child.mode == ApplyMode::CreateOnce {
                memory.refused.remove(&child.identity);
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
                memory.wrote(Written::Own(kind.kind), resource_version(&object));
                memory.refused.remove(&child.identity);
                let spec = object.data.get("spec").filter(|_| kind.watched_whole);
                let fingerprint = ChildFacts::of(&object.metadata, spec).fingerprint;
                memory.applied.insert(child.identity.clone(), Applied { intent_hash, fingerprint });
            }
            // The owner goes with its namespace, and its watch will tell.
            Err(error) if error.namespace_is_going() => presence.0 = Some(Acted::OwnerIsGone),
            Err(error) => self.refuse_call(memory, child, intent_hash, &error),
        }
    }

    async fn prune(&self, owner: &Owner<'_>, wanted: &BTreeSet<&ChildIdentity>, memory: &mut Memory) {
        for (kind, cache) in self.caches.values() {
            for (key, facts) in cache.owned_by(owner.holds_by) {
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
                        memory.refuse(refusal, None, fastrand::f64());
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
        let same = |metadata: &ObjectMeta| owner.generation.is_none() || metadata.generation == owner.generation;
        let same_generation = metadata.is_some_and(same);
        Ok(same_generation && presence_of(owner, metadata) == Acted::ForOwner)
    }

    fn refuse_call(&self, memory: &mut Memory, child: &Child, intent_hash: String, error: &CallError) {
        warn!(child = named(&child.identity), %error, "failed to apply a child");
        refuse(memory, &child.identity, intent_hash, error.cause(), error.answer());
    }
}

/// Why a child is refused whose name another's object has. What is left from an earlier owner of the same name, the garbage
/// collector removes; it and what is being deleted are only waited for.
fn taken(owner: &Owner<'_>, child: &ChildIdentity, existing: &ChildFacts) -> (RefusalCause, String) {
    let is_left = existing.owner.as_ref().is_some_and(|(kind, name)| kind == owner.kind.kind && *name == owner.key.name);
    let child = named(child);
    if is_left || existing.terminating {
        (RefusalCause::Leftover, format!("the {child} of an earlier object is about to be deleted, and is made anew then"))
    } else {
        (RefusalCause::NameInUse, format!("{child} exists and does not belong to this object: rename one of the two, or delete it"))
    }
}

fn presence_of(owner: &Owner<'_>, found: Option<&ObjectMeta>) -> Acted {
    let same = |found: &ObjectMeta| found.uid.as_deref() == Some(owner.uid) && found.deletion_timestamp.is_none();
    if found.is_some_and(same) { Acted::ForOwner } else { Acted::OwnerIsGone }
}

fn refuse(memory: &mut Memory, refused: &ChildIdentity, intent_hash: String, cause: RefusalCause, message: String) {
    let refusal = Refusal { child: refused.clone(), intent_hash, cause, message };
    memory.refuse(refusal, None, fastrand::f64());
}

/// Hash of what is to be applied. Objects are maps with sorted keys, so that equal intents have equal text.
fn intent_hash(child: &Child) -> String {
    short_hash::of(child.object.to_string())
}
