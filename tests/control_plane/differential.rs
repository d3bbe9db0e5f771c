//! One workload, the same in every run, and what the ends of two runs are compared by: the objects, and what was made and
//! removed. The contract of every status on the way is checked of every test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams};
use quartermaster_dev::fault_proxy::{Recorded, Verb, WriteIdentity};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::faulty::{Faulty, small_model};
use crate::harness::{DEADLINE, resource};
use crate::providers::{KNOWN, Provider};

/// Time without a write after which a run has ended: the longest second delay of the operator's back-off, twice.
pub const QUIET: Duration = Duration::from_secs(2);

const BACKENDS: [&str; 4] = ["one", "two", "three", "hosted"];

/// The port of a provider for all runs, so that its address is the same in each. It outlives the test that asks first.
static PROVIDER: LazyLock<u16> = LazyLock::new(|| {
    let (port, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            port.send(Provider::serve().await.port).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
});

/// Three backends of models and a hosted one are made, all are changed, one is removed, and then all others. Every step of it
/// has a name, so that a test can do something between two.
pub struct Workload {
    pub faulty: Faulty,
    keys: JoinHandle<String>,
}

/// How a run ended.
pub struct End {
    /// The objects before the last backends were removed, by kind and name.
    pub objects: BTreeMap<String, Value>,
    /// Those after that: what a test has made itself.
    pub left: BTreeMap<String, Value>,
    /// How often each object was made and removed by the operator.
    pub counts: BTreeMap<String, usize>,
    /// The writes, in their order.
    pub writes: Vec<Recorded>,
    /// The writes of events, in their order.
    pub events: Vec<Recorded>,
}

impl Workload {
    /// A team and a proxy. The operator does not run yet.
    pub async fn new(name: &str) -> Self {
        let faulty = Faulty::new(name).await;
        for secret in ["before", "after"] {
            faulty.kubectl(&["create", "secret", "generic", secret, &format!("--from-literal=api-key={KNOWN}")]);
        }
        let keys = tokio::spawn(watch_keys(faulty.api(&resource("", "v1", "Secret", "secrets"))));
        Self { faulty, keys }
    }

    /// The whole of it, with nothing between its steps.
    pub async fn run(self, quiet: Duration) -> End {
        self.faulty.start_operator();
        self.make().await;
        self.settled().await;
        self.change().await;
        self.settled().await;
        self.finish(quiet).await
    }

    async fn apply(&self, name: &str, replicas: u32, more: Value) {
        let mut vllm = small_model();
        vllm.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.faulty.apply(name, json!({ "replicas": replicas, "vllm": vllm })).await;
    }

    /// The hosted one, with its key in this Secret.
    async fn apply_hosted(&self, secret: &str) {
        let external = json!({
            "provider": "OpenAICompatible", "model": "m", "baseURL": format!("http://127.0.0.1:{}/knows/v1", *PROVIDER),
            "apiKeys": [{ "name": "first", "secretKeyRef": { "name": secret, "key": "api-key" } }],
        });
        self.faulty.apply("hosted", json!({ "external": external })).await;
    }

    pub async fn make(&self) {
        for (name, replicas) in [("one", 1), ("two", 2), ("three", 1)] {
            self.apply(name, replicas, json!({})).await;
        }
        self.apply_hosted("before").await;
    }

    /// New pods; a budget that is no longer needed; one that is needed from now on; another Secret.
    pub async fn change(&self) {
        self.apply_hosted("after").await;
        self.apply("one", 1, json!({ "drainTimeout": "90s" })).await;
        self.apply("two", 1, json!({})).await;
        self.apply("three", 2, json!({})).await;
    }

    pub async fn settled(&self) {
        self.faulty.until_settled(&BACKENDS).await;
    }

    /// One is removed and another changed at the same time, and so is the Secret that no backend refers to any more. When all is
    /// quiet, the others are removed.
    pub async fn finish(self, quiet: Duration) -> End {
        let Self { faulty, keys } = self;
        faulty.backends().delete("three", &DeleteParams::default()).await.unwrap();
        let mut vllm = small_model();
        vllm["extraArgs"] = json!(["--seed=7"]);
        faulty.apply("two", json!({ "replicas": 1, "vllm": vllm })).await;
        faulty.kubectl(&["delete", "secret", "before"]);
        until_gone(&faulty, &["three"]).await;
        let others = ["one", "two", "hosted"];
        faulty.until_quiet(&others, quiet).await;
        assert!(!keys.is_finished(), "{}", keys.await.unwrap());
        keys.abort();
        let at_rest = objects(&faulty).await;
        for name in others {
            faulty.backends().delete(name, &DeleteParams::default()).await.unwrap();
        }
        until_gone(&faulty, &others).await;
        faulty.until_quiet(&[], quiet).await;
        let (writes, events) = (faulty.proxy.writes(), faulty.proxy.events());
        let end = End { objects: at_rest, left: objects(&faulty).await, counts: counts(&writes), writes, events };
        faulty.kubectl(&["delete", "namespace", &faulty.namespace, "--wait=false"]);
        end
    }
}

/// How the workload ends when nothing befalls it.
pub struct Reference {
    pub end: End,
    /// The writes that every run without faults makes, in the order of one of them. How many statuses are written between two
    /// states depends on when pods become ready.
    pub writes: Vec<WriteIdentity>,
    /// The same of the events.
    pub events: Vec<WriteIdentity>,
}

impl Reference {
    /// The same for all tests of this process.
    pub async fn get() -> &'static Self {
        static REFERENCE: OnceCell<Reference> = OnceCell::const_new();
        REFERENCE.get_or_init(Self::of_two_runs).await
    }

    async fn of_two_runs() -> Self {
        let run = async || Workload::new("reference").await.run(QUIET).await;
        let (end, other) = tokio::join!(run(), run());
        let found = difference(&end, &other);
        assert!(found.is_empty(), "two runs without faults end differently:\n{}", found.join("\n"));
        let all = |writes: &[Recorded]| writes.iter().filter_map(|write| write.identity.clone()).collect::<Vec<WriteIdentity>>();
        let (mut writes, others) = (all(&end.writes), all(&other.writes));
        let of_children = |writes: &[WriteIdentity]| -> BTreeSet<WriteIdentity> {
            writes.iter().filter(|write| write.subresource.is_empty()).cloned().collect()
        };
        assert_eq!(of_children(&writes), of_children(&others), "two runs without faults write other children");
        writes.retain(|write| others.contains(write));
        assert!(writes.len() >= 30, "a workload with {} writes proves little", writes.len());
        let (mut events, others) = (all(&end.events), all(&other.events));
        events.retain(|event| others.contains(event));
        assert!(!events.is_empty(), "no event is told in both runs");
        println!("{} writes and {} events are the same in both runs without faults", writes.len(), events.len());
        Self { end, writes, events }
    }

    /// What is another at the end of this run than at that of a run without faults. Empty: nothing.
    pub fn differs(&self, end: &End) -> Vec<String> {
        difference(&self.end, end)
    }

    /// Fails where a run ended differently.
    pub fn same(&self, end: &End) {
        let found = self.differs(end);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

/// What is another at the end of one run than at that of the other.
pub fn difference(expected: &End, end: &End) -> Vec<String> {
    let mut found = differences(&expected.objects, &end.objects);
    found.extend(differences(&expected.left, &end.left).into_iter().map(|left| format!("when all backends are gone: {left}")));
    if end.counts != expected.counts {
        found.push(format!("made and removed {:?} instead of {:?}", end.counts, expected.counts));
    }
    found
}

/// How often each object was made and removed.
pub fn counts(writes: &[Recorded]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for write in writes.iter().filter(|write| write.succeeded()) {
        let verb = if write.request.verb == Verb::Delete { "removed" } else { "made" };
        if verb == "removed" || write.code == Some(201) {
            *counts.entry(format!("{verb} {}/{}", write.request.resource, write.request.name)).or_default() += 1;
        }
    }
    counts
}

/// Waits until nothing is left of backends.
async fn until_gone(faulty: &Faulty, names: &[&str]) {
    let started = Instant::now();
    loop {
        let is_left = |object: &String| object.split('/').any(|part| names.iter().any(|name| part.starts_with(name)));
        let left: Vec<String> = objects(faulty).await.into_keys().filter(is_left).collect();
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < DEADLINE, "left of {names:?}: {left:?}\n{}", faulty.told());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns when a generated key changes under its pods, with what happened.
async fn watch_keys(api: Api<DynamicObject>) -> String {
    let mut seen: BTreeMap<String, (Option<String>, Value)> = BTreeMap::new();
    loop {
        // The API server may refuse while the test ends.
        for secret in api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
            let name = secret.metadata.name.unwrap_or_default();
            let now = (secret.metadata.uid, secret.data.get("data").cloned().unwrap_or_default());
            let before = seen.entry(name.clone()).or_insert_with(|| now.clone());
            if *before != now {
                return format!("the key in the Secret {name} was made anew");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The kind of the backends, and the kinds that the operator makes.
pub fn own_kinds() -> [ApiResource; 7] {
    [
        resource("quartermaster.dev", "v1alpha1", "InferenceBackend", "inferencebackends"),
        resource("apps", "v1", "Deployment", "deployments"),
        resource("", "v1", "Service", "services"),
        resource("", "v1", "Secret", "secrets"),
        resource("", "v1", "ServiceAccount", "serviceaccounts"),
        resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
        resource("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ]
}

/// The objects of the team, without what differs from run to run by nature.
pub async fn objects(faulty: &Faulty) -> BTreeMap<String, Value> {
    let kinds = own_kinds().into_iter().chain([resource("apps", "v1", "ReplicaSet", "replicasets")]);
    let mut objects = BTreeMap::new();
    for kind in kinds {
        for object in faulty.api(&kind).list(&ListParams::default()).await.unwrap().items {
            let name = object.metadata.name.clone().unwrap_or_default();
            let value = neutral(&kind.kind, &object, &faulty.namespace);
            objects.insert(format!("{}/{name}", kind.kind), value);
        }
    }
    objects
}

/// An object of a kind, without what differs from run to run by nature.
pub fn neutral(kind: &str, object: &DynamicObject, namespace: &str) -> Value {
    let mut value = serde_json::to_value(object).unwrap();
    mask(&mut value, namespace);
    if kind == "Secret" {
        // Drawn by chance. That they stay what they are is watched while the run goes on. Certificates and what belongs to them are
        // not even of one length.
        let certified = |entry: &str| ["tls.crt", "tls.key", "ca.crt"].contains(&entry);
        for (entry, text) in value["data"].as_object_mut().into_iter().flatten() {
            *text = if certified(entry) { json!("there") } else { json!(text.as_str().unwrap().len()) };
        }
    }
    if !["InferenceBackend", "ModelRoute", "TokenBudget", "AgentPool"].contains(&kind) {
        // What the control plane makes of it, and in how many steps, is not the operator's.
        value.as_object_mut().unwrap().remove("status");
        value["metadata"].as_object_mut().unwrap().remove("generation");
    }
    value
}

/// Takes out what is another in every namespace and at every time.
pub fn mask(value: &mut Value, namespace: &str) {
    match value {
        Value::Object(members) => {
            for name in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "clusterIP", "clusterIPs"] {
                members.remove(name);
            }
            members.retain(|name, _| !name.ends_with("Time") && !name.ends_with("Timestamp") && name != "waitingSince");
            members.values_mut().for_each(|member| mask(member, namespace));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, namespace)),
        Value::String(text) => *text = text.replace(namespace, "NAMESPACE"),
        _ => {}
    }
}

/// The places where two sets of objects differ, and how.
pub fn differences(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for name in names {
        match (one.get(name), other.get(name)) {
            (Some(one), Some(other)) => compare(name, one, other, &mut found),
            (Some(_), None) => found.push(format!("{name} is missing")),
            (None, _) => found.push(format!("{name} should not be there")),
        }
    }
    found
}

fn compare(path: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let of = |members: &serde_json::Map<String, Value>| members.get(name).cloned().unwrap_or_default();
                compare(&format!("{path}/{name}"), &of(one), &of(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}/{index}"), one, other, found);
            }
        }
        _ if one == other => {}
        _ => found.push(format!("{path}: {other} instead of {one}")),
    }
}
