//! What the watches have seen: one value an object, cut to what observe reads, found by name and by owner.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use quartermaster_core::decide::decision::RefusalCause;

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
}

#[derive(Debug)]
struct State<T> {
    objects: HashMap<ObjectKey, Arc<T>>,
    /// What a watch told last of objects that were read since. What was read is news to everybody else until a watch delivers it.
    told: HashMap<ObjectKey, Arc<T>>,
    by_owner: HashMap<String, BTreeSet<ObjectKey>>,
    /// The largest resourceVersion that a watch has delivered of a namespace's objects. Each namespace may have a watch of its
    /// own, and what one watch has delivered says nothing of another.
    seen: HashMap<String, u64>,
    /// The watches that have yet to complete their first list, by their namespaces, and why.
    unlisted: HashMap<Option<String>, Unlisted>,
}

/// Why the first list of a watch is not complete yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlisted {
    /// How it lasts: until somebody grants a right, or not for long.
    pub cause: RefusalCause,
    /// What the API server says.
    pub message: String,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            told: HashMap::new(),
            by_owner: HashMap::new(),
            seen: HashMap::new(),
            unlisted: HashMap::new(),
        }
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { state: RwLock::new(State::default()) }
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

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.read().objects.is_empty()
    }

    /// All keys.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.read().objects.keys().cloned().collect()
    }

    /// All objects.
    pub fn values(&self) -> Vec<Arc<T>> {
        self.read().objects.values().cloned().collect()
    }

    /// Whether a watch has delivered this resourceVersion of an object of this namespace, or a later one.
    pub fn has_seen(&self, namespace: &str, resource_version: u64) -> bool {
        self.read().seen.get(namespace).is_some_and(|seen| *seen >= resource_version)
    }

    /// Why a watch that looks after this namespace has yet to complete its first list; none: all have.
    pub fn unlisted(&self, namespace: &str) -> Option<Unlisted> {
        let unlisted = &self.read().unlisted;
        let of = |(scope, _): &(&Option<String>, &Unlisted)| scope.as_deref().is_none_or(|scope| scope == namespace);
        unlisted.iter().find(of).map(|(_, unlisted)| unlisted.clone())
    }

    /// A watch, limited to this namespace or not, has yet to complete its first list; none: it has.
    pub fn set_unlisted(&self, scope: Option<String>, unlisted: Option<Unlisted>) {
        let mut state = self.write();
        match unlisted {
            Some(unlisted) => state.unlisted.insert(scope, unlisted),
            None => state.unlisted.remove(&scope),
        };
    }

    /// Takes in an object that a watch delivered; `None`: it is gone. Returns the change if it differs from what a watch delivered
    /// before, be it known since by [`Cache::renew`].
    pub fn set(&self, key: ObjectKey, value: Option<T>, resource_version: Option<u64>) -> Option<Change<T>> {
        let mut state = self.write();
        if let Some(version) = resource_version {
            match state.seen.get_mut(&key.namespace) {
                Some(seen) => *seen = version.max(*seen),
                None => {
                    state.seen.insert(key.namespace.clone(), version);
                }
            }
        }
        state.deliver(key, value)
    }

    /// Takes in an object that was read, not delivered, if the one that is there is older; returns whether it was. One that is
    /// not there stays away: its watch may have told of its end in the meantime. Whoever depends on the object hears of it from its
    /// watch, in the order of that, and not from here.
    pub fn renew(&self, key: &ObjectKey, value: T, is_older: impl FnOnce(&T) -> bool) -> bool {
        let mut state = self.write();
        let Some(known) = state.objects.get(key).filter(|known| is_older(known)).cloned() else { return false };
        state.told.entry(key.clone()).or_insert(known);
        state.set(key.clone(), Some(value));
        true
    }

    /// Ends a list: removes the objects within the scope that it did not have.
    pub fn retain(&self, in_scope: impl Fn(&ObjectKey) -> bool, listed: &HashSet<ObjectKey>) -> Vec<(ObjectKey, Change<T>)> {
        let mut state = self.write();
        let gone: Vec<ObjectKey> = state.objects.keys().filter(|key| in_scope(key) && !listed.contains(*key)).cloned().collect();
        gone.into_iter().filter_map(|key| state.deliver(key.clone(), None).map(|change| (key, change))).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<T>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Cached> State<T> {
    /// Takes in what a watch delivered; the change to what it delivered before.
    fn deliver(&mut self, key: ObjectKey, value: Option<T>) -> Option<Change<T>> {
        let told = self.told.remove(&key);
        let change = self.set(key.clone(), value);
        let Some(before) = told else { return change };
        let after = self.objects.get(&key).cloned();
        (after.as_deref() != Some(&*before)).then_some(Change { before: Some(before), after })
    }

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
        assert!(cache.has_seen("team", 6) && !cache.has_seen("team", 7));
    }

    #[test]
    fn what_the_watch_of_one_namespace_has_delivered_says_nothing_of_another() {
        let cache = Cache::default();
        cache.set(ObjectKey::new("one", "a"), Some(Child { owner: "1", text: "x" }), Some(900));
        assert!(cache.has_seen("one", 900) && !cache.has_seen("other", 1));
        cache.set(ObjectKey::new("other", "a"), None, Some(7));
        assert!(cache.has_seen("other", 7) && !cache.has_seen("other", 8));
    }

    #[test]
    fn what_was_read_replaces_only_what_is_there_and_older() {
        let cache = Cache::default();
        let read = || Child { owner: "1", text: "read" };
        assert!(!cache.renew(&key("a"), read(), |_| true), "its end may have been told");
        cache.set(key("a"), Some(Child { owner: "1", text: "x" }), Some(5));
        assert!(!cache.renew(&key("a"), read(), |_| false));
        assert_eq!(cache.get(&key("a")).unwrap().text, "x");
        assert!(cache.renew(&key("a"), read(), |_| true));
        assert_eq!(cache.get(&key("a")).unwrap().text, "read");
        assert!(!cache.has_seen("team", 6), "a watch has delivered nothing");
    }

    #[test]
    fn what_was_read_is_news_once_its_watch_delivers_it() {
        let (cache, value) = (Cache::default(), |text| Child { owner: "1", text });
        cache.set(key("a"), Some(value("old")), Some(5));
        assert!(cache.renew(&key("a"), value("read"), |_| true) && cache.renew(&key("a"), value("read again"), |_| true));
        let change = cache.set(key("a"), Some(value("read again")), Some(7)).unwrap();
        assert_eq!((change.before.unwrap().text, change.after.unwrap().text), ("old", "read again"));
        assert!(cache.set(key("a"), Some(value("read again")), Some(8)).is_none(), "once");
        assert!(cache.renew(&key("a"), value("last"), |_| true));
        let gone = cache.retain(|_| true, &HashSet::new());
        assert_eq!(gone[0].1.before.as_ref().unwrap().text, "read again", "what nobody was told of was never there");
        assert!(cache.owned_by("1").is_empty());
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
