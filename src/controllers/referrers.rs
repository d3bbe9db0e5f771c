//! Which objects refer to something, so that a change of it wakes them.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::operate::key::ObjectKey;

/// Which objects refer to a `T`: a Secret, a queue.
#[derive(Debug)]
pub struct Referrers<T> {
    maps: Mutex<Maps<T>>,
}

#[derive(Debug)]
struct Maps<T> {
    by_referred: HashMap<T, HashSet<ObjectKey>>,
    by_object: HashMap<ObjectKey, HashSet<T>>,
}

impl<T> Default for Referrers<T> {
    fn default() -> Self {
        Self { maps: Mutex::new(Maps { by_referred: HashMap::new(), by_object: HashMap::new() }) }
    }
}

impl<T: Clone + Eq + Hash> Referrers<T> {
    /// The objects that refer to it.
    pub fn of(&self, referred: &T) -> Vec<ObjectKey> {
        self.lock().by_referred.get(referred).into_iter().flatten().cloned().collect()
    }

    /// The object refers to these from now on. Returns those that it was the last one to refer to and no longer does.
    pub fn set(&self, object: &ObjectKey, referred: HashSet<T>) -> Vec<T> {
        let mut maps = self.lock();
        if maps.by_object.get(object).map_or(referred.is_empty(), |known| *known == referred) {
            return Vec::new();
        }
        let before = maps.remove(object);
        for one in &referred {
            maps.by_referred.entry(one.clone()).or_default().insert(object.clone());
        }
        if !referred.is_empty() {
            maps.by_object.insert(object.clone(), referred);
        }
        before.into_iter().filter(|one| !maps.by_referred.contains_key(one)).collect()
    }

    /// What the object refers to.
    pub fn referred_by(&self, object: &ObjectKey) -> HashSet<T> {
        self.lock().by_object.get(object).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Maps<T>> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone + Eq + Hash> Maps<T> {
    /// Forgets what the object refers to, and returns it.
    fn remove(&mut self, object: &ObjectKey) -> HashSet<T> {
        let before = self.by_object.remove(object).unwrap_or_default();
        for one in &before {
            if let Some(objects) = self.by_referred.get_mut(one) {
                objects.remove(object);
                if objects.is_empty() {
                    self.by_referred.remove(one);
                }
            }
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_referred_to_is_left_when_the_last_object_that_refers_to_it_no_longer_does() {
        let referrers: Referrers<ObjectKey> = Referrers::default();
        let key = |name: &str| ObjectKey::new("team", name);
        let set = |object: &str, referred: &[&str]| referrers.set(&key(object), referred.iter().copied().map(key).collect());
        assert_eq!(set("a", &["shared", "own"]), []);
        assert_eq!(set("b", &["shared"]), []);
        assert_eq!(set("a", &["shared", "own"]), []);
        assert_eq!(set("a", &["other"]), [key("own")], "its spec names another one now");
        assert_eq!(set("a", &[]), [key("other")], "it is deleted");
        assert_eq!(referrers.of(&key("shared")), [key("b")]);
        assert_eq!(set("b", &[]), [key("shared")]);
        assert_eq!(referrers.of(&key("shared")), []);
    }
}
