//! What the watches have seen: one value an object, cut to what observe reads, found by name and by owner.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::key::ObjectKey;

/// What a cache keeps of an object.
pub trait Cached: Clone + PartialEq + Send + Sync + 'static {
    /// The uid of the controlling owner, if there is one.
    fn owner_uid(&self) -> Option<&str> {
        None
    }
}

/// The objects of one kind.
#[derive(Debug)]
pub struct Cache<T> {
    state: RwLock<State<T>>,
    /// The largest resourceVersion that a watch has delivered.
    seen: AtomicU64,
}

#[derive(Debug)]
struct State<T> {
    objects: HashMap<ObjectKey, Arc<T>>,
    by_owner: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { state: RwLock::new(State { objects: HashMap::new(), by_owner: HashMap::new() }), seen: AtomicU64::new(0) }
    }
}

/// A change that is news to the readers of a cache.
#[derive(Debug, PartialEq)]
pub struct Change<T> {
    /// What was there before.
    pub before: Option<Arc<T>>,
    /// What is there now.
    pub after: Option<Arc<T>>,
}

impl<T: Cached> Cache<T> {
    /// The object of that name.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.read().objects.get(key).cloned()
    }

    /// The objects that the owner controls, in the order of their names.
    pub fn owned_by(&self, uid: &str) -> Vec<(ObjectKey, Arc<T>)> {
        let state = self.read();
        let keys = state.by_owner.get(uid).into_iter().flatten();
        keys.filter_map(|key| Some((key.clone(), state.objects.get(key)?.clone()))).collect()
    }

    /// All keys.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// All objects.
    pub fn values(&self) -> Vec<Arc<T>> {
        self.read().objects.values().cloned().collect()
    }

    /// Whether the watch has delivered this resourceVersion or a later one.
    pub fn has_seen(&self, resource_version: u64) -> bool {
        self.seen.load(Ordering::Acquire) >= resource_version
    }

    /// Takes in an object that a watch delivered; `None`: it is gone. Returns the change if what is kept differs.
    pub fn set(&self, key: ObjectKey, value: Option<T>, resource_version: Option<u64>) -> Option<Change<T>> {
        let change = self.write().set(key, value);
        self.seen.fetch_max(resource_version.unwrap_or(0), Ordering::AcqRel);
        change
    }

    /// Ends a list: removes the objects within the scope that it did not have.
    pub fn retain(&self, in_scope: impl Fn(&ObjectKey) -> bool, listed: &HashSet<ObjectKey>) -> Vec<(ObjectKey, Change<T>)> {
        let mut state = self.write();
        let gone: Vec<ObjectKey> = state.objects.keys().filter(|key| in_scope(key) && !listed.contains(*key)).cloned().collect();
        gone.into_iter().filter_map(|key| state.set(key.clone(), None).map(|change| (key, change))).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Cached> State<T> {
    fn set(&mut self, key: ObjectKey, value: Option<T>) -> Option<Change<T>> {
        let before = self.objects.get(&key).cloned();
        if before.as_deref() == value.as_ref() {
            return None;
        }
        if let Some(owner) = before.as_ref().and_then(|before| before.owner_uid())
            && let Some(keys) = self.by_owner.get_mut(owner)
        {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_owner.remove(owner);
            }
        }
        let after = value.map(Arc::new);
        match &after {
            Some(object) => {
                if let Some(owner) = object.owner_uid() {
                    self.by_owner.entry(owner.to_owned()).or_default().insert(key.clone());
                }
                self.objects.insert(key, object.clone());
            }
            None => {
                self.objects.remove(&key);
            }
        }
        Some(Change { before, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Child {
        owner: &'static str,
        text: &'static str,
    }

    impl Cached for Child {
        fn owner_uid(&self) -> Option<&str> {
            Some(self.owner)
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("team", name)
    }

    #[test]
    fn the_same_value_again_is_no_news() {
        let cache = Cache::default();
        assert!(cache.set(key("a"), Some(Child { owner: "1", text: "x" }), Some(5)).is_some());
        assert!(cache.set(key("a"), Some(Child { owner: "1", text: "x" }), Some(6)).is_none());
        assert!(cache.has_seen(6) && !cache.has_seen(7));
    }

    #[test]
    fn children_are_found_by_their_owner_also_after_it_changed() {
        let cache = Cache::default();
        cache.set(key("a"), Some(Child { owner: "1", text: "x" }), None);
        cache.set(key("a"), Some(Child { owner: "2", text: "x" }), None);
        assert!(cache.owned_by("1").is_empty());
        assert_eq!(cache.owned_by("2").len(), 1);
        cache.set(key("a"), None, None);
        assert!(cache.owned_by("2").is_empty());
    }

    #[test]
    fn a_new_list_removes_what_it_lacks_within_its_scope_only() {
        let cache = Cache::default();
        for name in ["a", "b"] {
            cache.set(key(name), Some(Child { owner: "1", text: "x" }), None);
        }
        cache.set(ObjectKey::new("other", "c"), Some(Child { owner: "1", text: "x" }), None);
        let gone = cache.retain(|key| key.namespace == "team", &HashSet::from([key("a")]));
        assert_eq!(gone.len(), 1);
        assert!(cache.get(&key("b")).is_none() && cache.get(&ObjectKey::new("other", "c")).is_some());
    }
}
