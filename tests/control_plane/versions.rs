//! Every version of the objects of a kind, in their order, each with the time at which it was seen.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::Value;

use crate::harness::DEADLINE;

/// A version of an object.
#[derive(Clone, Debug)]
pub struct Version {
    /// When it was seen: a little after it was written.
    pub at: Timestamp,
    pub object: Value,
}

/// Keeps every version of the objects of a kind from the beginning of the watch on.
pub struct Watched {
    seen: Arc<Mutex<Vec<Version>>>,
    watching: tokio::task::JoinHandle<Result<(), kube::Error>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Watched {
    /// Begins to watch. None where the kind is not served, so that there is nothing to watch.
    pub async fn begin(api: Api<DynamicObject>) -> Option<Self> {
        let listed = match api.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return None,
            listed => listed.unwrap(),
        };
        let seen: Arc<Mutex<Vec<Version>>> = Arc::default();
        let watching = tokio::spawn(follow(api, listed.metadata.resource_version.unwrap(), seen.clone()));
        Some(Self { seen, watching })
    }

    /// The versions of all objects. Fails when the watch has ended, since versions would be missing.
    pub fn all(&self) -> Vec<Version> {
        assert!(!self.watching.is_finished(), "the watch of all versions has ended");
        self.seen.lock().unwrap().clone()
    }

    /// The versions of one object.
    pub fn of(&self, name: &str) -> Vec<Version> {
        self.all().into_iter().filter(|version| version.object["metadata"]["name"] == name).collect()
    }

    /// The values of `spec.replicas` that one object had, in their order, each with the time at which it was first seen.
    pub fn replicas_of(&self, name: &str) -> Vec<(Timestamp, u64)> {
        let mut replicas: Vec<(Timestamp, u64)> =
            self.of(name).iter().map(|version| (version.at, version.object["spec"]["replicas"].as_u64().unwrap())).collect();
        replicas.dedup_by_key(|(_, replicas)| *replicas);
        replicas
    }

    /// The same up to a version that has this many, which is waited for: a watch tells of it a little after it was written.
    pub async fn until_replicas_of(&self, name: &str, last: u64) -> Vec<(Timestamp, u64)> {
        let started = Instant::now();
        loop {
            let replicas = self.replicas_of(name);
            if replicas.last().is_some_and(|(_, replicas)| *replicas == last) {
                return replicas;
            }
            assert!(started.elapsed() < DEADLINE, "the replicas of {name} were never {last} in the end: {replicas:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Watches from a version on, and goes on where a watch ends in good order.
async fn follow(api: Api<DynamicObject>, mut version: String, seen: Arc<Mutex<Vec<Version>>>) -> Result<(), kube::Error> {
    loop {
        let mut events = api.watch(&WatchParams::default().timeout(290), &version).await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    version = object.metadata.resource_version.clone().unwrap();
                    let object = serde_json::to_value(object).unwrap();
                    seen.lock().unwrap().push(Version { at: Timestamp::now(), object });
                }
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
    }
}
