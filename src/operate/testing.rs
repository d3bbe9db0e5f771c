//! A driver over an API server of this file, for tests in tokio's paused time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::Client;
use kube::api::DynamicObject;
use kube::client::Body;
use kube::runtime::events::Reporter;
use quartermaster_core::api::InferenceBackend;
use quartermaster_core::decide::decision::{ApplyMode, Child, ChildIdentity, Children, Decision, Event, Patch, Refusal};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::act::{Actor, ChildCaches};
use super::cache::Cache;
use super::calls::Calls;
use super::children::{ChildFacts, ChildKind, POD, SERVICE};
use super::control::{Control, DecideError};
use super::driver::Driver;
use super::events::Events;
use super::health::Health;
use super::key::ObjectKey;
use super::leadership::Leadership;
use super::metrics::{Exposition as _, Metrics};
use super::object::Stored;
use super::queue::Queue;
use crate::controllers::inference_backend::Backends;

/// A controller whose objects misbehave by their names.
#[derive(Default)]
pub struct Scripted {
    observed: Mutex<Vec<(String, Instant)>>,
}

/// What it looks at.
#[derive(Serialize)]
pub struct Observation {
    backend: InferenceBackend,
    refusals: Vec<Refusal>,
}

impl Control for Scripted {
    type Object = InferenceBackend;
    type Observation = Observation;

    const KIND: ChildKind = Backends::KIND;
    const MANAGER: &'static str = "test";
    const CHILDREN: &'static [ChildKind] = &[SERVICE];
    const PATCHED: &'static [ChildKind] = &[POD];
    const CONDITIONS: &'static [&'static str] = &["Ready", "Reconciling", "Stalled"];

    async fn observe(&self, object: Arc<InferenceBackend>, refusals: Vec<Refusal>) -> Observation {
        let name = object.metadata.name.clone().unwrap();
        self.observed.lock().unwrap().push((name.clone(), Instant::now()));
        if name.starts_with("hangs") {
            std::future::pending::<()>().await;
        }
        Observation { backend: InferenceBackend::clone(&object), refusals }
    }

    fn decide(observation: &Observation, _: Timestamp) -> Result<Decision<Value>, DecideError> {
        let backend = &observation.backend;
        let name = backend.metadata.name.as_deref().unwrap();
        assert!(name != "panics" || backend.spec.replicas != Some(1), "as the test wants");
        let mode = if name == "parent-keeps" { ApplyMode::Keep } else { ApplyMode::Apply };
        let child = |child: String| {
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": child, "ownerReferences": [{
                    "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "name": name, "controller": true,
                    "uid": backend.metadata.uid,
                }] },
            });
            Child { identity: ChildIdentity { kind: "Service".into(), name: child }, object, mode }
        };
        let children = match name {
            // Their calls, each with its deadline, take longer together than a pass may.
            "parent-of-many" => (0..12).map(|number| child(format!("{name}-{number}"))).collect(),
            name if name.starts_with("parent") => vec![child(name.to_owned())],
            _ => Vec::new(),
        };
        let refusal = observation.refusals.first().map(|refusal| refusal.message.clone());
        // An event with every decision: that it is told once is the driver's doing.
        let event = Event { warning: false, reason: "Decided".into(), note: format!("{:?}", backend.spec.replicas) };
        let patch = Patch {
            target: ChildIdentity { kind: "Pod".into(), name: "idle".into() },
            subresource: None,
            patch: json!({ "metadata": { "annotations": { "replicas": format!("{:?}", backend.spec.replicas) } } }),
            required: true,
        };
        Ok(Decision {
            children: Children::Exactly(children),
            patches: if name.ends_with("patches") { vec![patch] } else { Vec::new() },
            status: json!({ "replicas": backend.spec.replicas, "endpoint": refusal }),
            events: vec![event],
            next: None,
        })
    }

    fn forget(&self, key: &ObjectKey) {
        assert!(key.name != "unforgettable", "as the test wants");
    }
}

/// What the API server keeps, and what it was asked.
#[derive(Default)]
pub struct Server {
    state: Mutex<State>,
    /// Its watches deliver nothing.
    pub silent: AtomicBool,
    /// Answers every apply of a child with 403.
    pub forbids: AtomicBool,
    /// Answers every patch of a pod with 403.
    pub forbids_patches: AtomicBool,
    /// Answers every patch of a pod with 404.
    pub lacks_pods: AtomicBool,
    /// Answers no apply of a child.
    pub hangs: AtomicBool,
    /// Panics at every write of a status.
    pub panics: AtomicBool,
    /// Takes the leadership away with every write of a status.
    pub deposes: AtomicBool,
    /// Takes 5 s for every event.
    pub slow_events: AtomicBool,
    leadership: Arc<Leadership>,
    /// Answers every apply of a child as in a namespace that is being deleted.
    pub is_going: AtomicBool,
    objects: Arc<Cache<Stored<InferenceBackend>>>,
    services: Arc<Cache<ChildFacts>>,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct State {
    version: u64,
    stored: BTreeMap<String, Value>,
    asked: Vec<String>,
}

impl Server {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let name = path.trim_end_matches("/status").rsplit('/').next().unwrap().to_owned();
        let plural = ["inferencebackends", "services", "events", "pods"].into_iter().find(|plural| path.contains(plural)).unwrap();
        self.state.lock().unwrap().asked.push(format!("{} {plural} {name}", parts.method));
        if parts.method == Method::PATCH && plural == "inferencebackends" {
            assert!(!self.panics.load(Ordering::Relaxed), "as the test wants");
            if self.deposes.load(Ordering::Relaxed) {
                self.leadership.set(None);
            }
        }
        if plural == "services" && parts.method == Method::PATCH && self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if plural == "events" && self.slow_events.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        let (code, answer) = match (parts.method, plural) {
            (Method::PATCH, "services") if self.forbids.load(Ordering::Relaxed) => {
                (403, json!({ "message": "services is forbidden: User \"x\" cannot patch resource \"services\"" }))
            }
            (Method::PATCH, "pods") if self.forbids_patches.load(Ordering::Relaxed) => {
                (403, json!({ "message": "pods \"idle\" is forbidden: User \"x\" cannot patch resource \"pods\"" }))
            }
            (Method::PATCH, "pods") if self.lacks_pods.load(Ordering::Relaxed) => (404, json!({ "message": "not found" })),
            (Method::PATCH, "services") if self.is_going.load(Ordering::Relaxed) => {
                let message =
                    "services \"x\" is forbidden: unable to create new content in namespace team because it is being terminated";
                (403, json!({ "message": message }))
            }
            (Method::PATCH, "inferencebackends" | "services") => self.patch(plural, &name, body),
            (Method::GET, "inferencebackends" | "services") => {
                match self.state.lock().unwrap().stored.get(&format!("{plural}/{name}")) {
                    Some(stored) => (200, stored.clone()),
                    None => (404, json!({ "message": "not found" })),
                }
            }
            (Method::POST | Method::PATCH, _) => (201, body),
            _ => (404, json!({ "message": "not found" })),
        };
        let answer = if code < 400 { answer } else { status(code, answer) };
        Ok(Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap())
    }

    fn patch(&self, plural: &str, name: &str, mut body: Value) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        state.version += 1;
        let version = json!(state.version.to_string());
        let stored = state.stored.entry(format!("{plural}/{name}")).or_insert_with(|| body.clone());
        if plural == "inferencebackends" {
            if body["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"] {
                return (409, json!({ "message": "the object has been modified" }));
            }
            merge(&mut stored["status"], body["status"].take());
        } else {
            stored["metadata"]["uid"] = json!(format!("uid of the service {name}"));
            stored["metadata"]["namespace"] = json!("team");
        }
        stored["metadata"]["resourceVersion"] = version;
        let answer = stored.clone();
        drop(state);
        if !self.silent.load(Ordering::Relaxed) {
            self.deliver(plural, &answer);
        }
        (200, answer)
    }

    /// What the watches do.
    fn deliver(&self, plural: &str, object: &Value) {
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        let (key, version) = (ObjectKey::of(&object), crate::operate::watch::resource_version(&object));
        if plural == "services" {
            self.services.set(key.clone(), Some(ChildFacts::of(&object.metadata, None)), version);
        } else {
            self.objects.set(key.clone(), Some(Stored::of(object)), version);
        }
        self.queue.add(key);
    }

    /// The watches deliver again, and what they owe first.
    pub fn speak(&self) {
        self.silent.store(false, Ordering::Relaxed);
        let stored = self.state.lock().unwrap().stored.clone();
        for (path, object) in stored {
            self.deliver(path.split('/').next().unwrap(), &object);
        }
    }
}

fn status(code: u16, mut answer: Value) -> Value {
    for (key, value) in [("kind", "Status"), ("apiVersion", "v1"), ("status", "Failure")] {
        answer[key] = json!(value);
    }
    answer["code"] = json!(code);
    answer["reason"] = json!(match code {
        403 => "Forbidden",
        404 => "NotFound",
        _ => "Conflict",
    });
    answer
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else { return *target = patch };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(&key);
        } else {
            merge(&mut target[&key], value);
        }
    }
}

/// One driver and its API server.
pub struct World {
    pub server: Arc<Server>,
    pub driver: Arc<Driver<Scripted>>,
    /// The driver at work.
    pub driving: JoinHandle<Result<(), JoinError>>,
    /// Asks the driver to end.
    pub stop: CancellationToken,
}

impl World {
    /// A driver that runs until the test ends.
    pub fn new() -> Self {
        let leadership = Arc::new(Leadership::alone());
        let server = Arc::new(Server { leadership: leadership.clone(), ..Server::default() });
        let answers = server.clone();
        let client = Client::new(tower::service_fn(move |request| answers.clone().answer(request)), "team");
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let calls = Calls::new(client.clone(), leadership);
        let caches = ChildCaches::from([("Service", (SERVICE, server.services.clone()))]);
        let (lacks, outdated_schema) = watch::channel(Arc::default());
        std::mem::forget(lacks);
        let driver = Arc::new(Driver {
            control: Arc::new(Scripted::default()),
            objects: server.objects.clone(),
            queue: server.queue.clone(),
            actor: Actor { calls: calls.clone(), caches, patched: Scripted::PATCHED, manager: "test", metrics: metrics.clone() },
            calls,
            events: Arc::new(Events::new(client, Reporter::from("test"))),
            telling: TaskTracker::new(),
            metrics,
            outdated_schema,
            memories: Mutex::default(),
            invalid: Mutex::default(),
            observations: None,
        });
        let leads = watch::Sender::new(true);
        let stop = CancellationToken::new();
        let driving = tokio::spawn(driver.clone().run(leads.subscribe(), Health::default().watch("test"), stop.clone()));
        std::mem::forget(leads);
        Self { server, driver, driving, stop }
    }

    /// A user's write.
    pub fn put(&self, name: &str, generation: i64, spec: Value) {
        self.put_in("team", name, generation, spec);
    }

    /// The same in another namespace.
    pub fn put_in(&self, namespace: &str, name: &str, generation: i64, spec: Value) {
        let object = self.put_unseen(namespace, name, generation, spec);
        self.server.deliver("inferencebackends", &object);
    }

    /// A user's write that the watch does not deliver.
    pub fn put_unseen(&self, namespace: &str, name: &str, generation: i64, spec: Value) -> Value {
        let path = format!("inferencebackends/{name}");
        let mut state = self.server.state.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        let status = state.stored.get(&path).map(|stored| stored["status"].clone()).unwrap_or(json!({}));
        let object = json!({
            "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "spec": spec, "status": status,
            "metadata": { "name": name, "namespace": namespace, "uid": name, "generation": generation, "resourceVersion": version },
        });
        state.stored.insert(path, object.clone());
        object
    }

    /// A Service that another object owns.
    pub fn put_service(&self, name: &str, owner: &str, owner_uid: &str) {
        let object = {
            let mut state = self.server.state.lock().unwrap();
            state.version += 1;
            let version = state.version.to_string();
            let owner = json!({
                "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend", "name": owner, "uid": owner_uid, "controller": true,
            });
            let metadata = json!({
                "name": name, "namespace": "team", "uid": "theirs", "resourceVersion": version, "ownerReferences": [owner],
            });
            let object = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata });
            state.stored.insert(format!("services/{name}"), object.clone());
            object
        };
        self.server.deliver("services", &object);
    }

    /// Somebody deletes a Service, and its watch tells.
    pub fn remove_service(&self, name: &str) {
        let version = {
            let mut state = self.server.state.lock().unwrap();
            state.stored.remove(&format!("services/{name}"));
            state.version += 1;
            state.version
        };
        self.server.services.set(ObjectKey::new("team", name), None, Some(version));
        self.wake(name);
    }

    pub fn wake(&self, name: &str) {
        self.driver.queue.add(ObjectKey::new("team", name));
    }

    /// The status of an object as the API server keeps it.
    pub fn status(&self, name: &str) -> Value {
        self.server.state.lock().unwrap().stored[&format!("inferencebackends/{name}")]["status"].clone()
    }

    pub fn condition(&self, name: &str, type_: &str) -> Option<(String, String)> {
        let status = self.status(name);
        let condition = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)?.clone();
        Some((condition["status"].as_str()?.to_owned(), condition["reason"].as_str()?.to_owned()))
    }

    /// The requests about these kinds, in their order.
    pub fn requests(&self, plurals: &[&str]) -> Vec<String> {
        let state = self.server.state.lock().unwrap();
        state.asked.iter().filter(|asked| plurals.iter().any(|plural| asked.contains(plural))).cloned().collect()
    }

    /// When an object was observed, since the start of the first pass.
    pub fn observed(&self, name: &str) -> Vec<Duration> {
        let observed = self.driver.control.observed.lock().unwrap();
        let start = observed.first().unwrap().1;
        observed.iter().filter(|(observed, _)| observed == name).map(|(_, at)| at.duration_since(start)).collect()
    }

    /// Requests about a kind, and about one object of it.
    pub fn asked(&self, what: &str) -> usize {
        self.server.state.lock().unwrap().asked.iter().filter(|asked| asked.contains(what)).count()
    }

    /// Passes so far, however they ended.
    pub fn passes(&self) -> usize {
        let text = String::from_utf8(self.driver.metrics.text().unwrap()).unwrap();
        let counts = text.lines().filter(|line| line.starts_with("quartermaster_reconciles_total"));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
    }

    pub fn shows(&self, line: &str) -> bool {
        String::from_utf8(self.driver.metrics.text().unwrap()).unwrap().lines().any(|shown| shown == line)
    }
}
