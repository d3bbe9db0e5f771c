//! The objects: a fleet of nodes, and backends in a namespace of their own, under an operator's account.

use std::collections::HashMap;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use quartermaster::controllers::inference_backend::Backends;
use quartermaster::operate::control::Control as _;
use quartermaster_core::api::InferenceBackend;
use quartermaster_dev::nodes::{self, FakeNode};
use quartermaster_dev::{Connection, account};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::rules::rules;

/// Longest time that anything is waited for.
pub const DEADLINE: Duration = Duration::from_secs(300);
/// Writes of this process at the same time.
const WRITES: usize = 16;
/// The node whose label wakes every backend.
const TOUCHED_NODE: &str = "bench-0000";
/// One small model on one small GPU, of the built-in catalogue: nothing is asked of any hub.
const MODEL: &str = "Qwen/Qwen3-8B";
/// Short enough for one of these GPUs.
const CONTEXT_LENGTH: u32 = 8192;

/// What is measured on.
pub struct Cluster {
    pub connection: Connection,
    pub client: Client,
    pub namespace: String,
    /// The kubeconfig of the operator's account, which the reflector uses too.
    pub kubeconfig: PathBuf,
}

impl Cluster {
    /// Makes nodes with eight GPUs each and backends that no operator has seen yet.
    pub async fn create(nodes: usize, backends: usize) -> Self {
        let connection = Connection::from_environment().expect("run by `make bench`, or under quartermaster-dev with-cluster");
        let client = connection.client().await.unwrap();
        for definition in [
            include_str!("../../crds/quartermaster.dev_inferencebackends.yaml"),
            include_str!("../../crds/quartermaster.dev_modelroutes.yaml"),
            include_str!("../../crds/quartermaster.dev_tokenbudgets.yaml"),
            include_str!("../../crds/quartermaster.dev_agentpools.yaml"),
        ] {
            account::apply(&connection, definition).await.unwrap();
        }
        let namespace = format!("bench-{:06x}", fastrand::u32(..1 << 24));
        let kubeconfig =
            account::kubeconfig_of_service_account(&connection, &namespace, "quartermaster", &rules(&namespace, "quartermaster"))
                .await
                .unwrap();
        self::nodes::create(&connection, &(0..nodes).map(node).collect::<Vec<_>>()).await.unwrap();
        let cluster = Self { connection, client, namespace, kubeconfig };
        cluster.until_served().await;
        let api = cluster.backends();
        let writes = futures::stream::iter(0..backends).map(|number| {
            let (api, name) = (api.clone(), format!("model-{number:04}"));
            async move {
                let object = json!({
                    "apiVersion": "quartermaster.dev/v1alpha1", "kind": "InferenceBackend",
                    "metadata": { "name": name }, "spec": { "vllm": { "model": MODEL, "contextLength": CONTEXT_LENGTH } },
                });
                api.patch(&name, &PatchParams::apply("bench"), &Patch::Apply(&object)).await.unwrap();
            }
        });
        writes.buffer_unordered(WRITES).collect::<Vec<()>>().await;
        cluster
    }

    /// The backends.
    pub fn backends(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &Backends::KIND.resource())
    }

    /// The backends, typed.
    pub fn typed_backends(&self) -> Api<InferenceBackend> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Follows in how many backends the condition Ready is decided, from now on.
    pub async fn watch_decided(&self) -> Decided {
        let api = self.backends();
        let (sender, receiver) = watch::channel(0);
        tokio::spawn(async move {
            let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
            let mut decided = HashMap::new();
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(object) | Event::InitApply(object)) = event {
                    let object = serde_json::to_value(object).unwrap();
                    let ready = ready(&object);
                    let is_decided = ready.is_some_and(|ready| ready["observedGeneration"] == object["metadata"]["generation"]);
                    decided.insert(object["metadata"]["name"].to_string(), is_decided);
                    sender.send_replace(decided.values().filter(|decided| **decided).count());
                }
            }
        });
        Decided { receiver }
    }

    /// Waits until so many backends are ready.
    pub async fn until_ready(&self, count: usize) {
        let started = Instant::now();
        loop {
            let list = self.backends().list(&ListParams::default()).await.unwrap();
            let objects = list.items.iter().map(|object| serde_json::to_value(object).unwrap());
            let is_ready = |object: &Value| ready(object).is_some_and(|ready| ready["status"] == "True");
            let ready = objects.filter(is_ready).count();
            if ready == count {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "only {ready} of {count} backends became ready");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Changes a node in a way that means nothing, which wakes every backend.
    pub async fn touch_node(&self, value: usize) {
        let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client.clone());
        let patch = json!({ "metadata": { "labels": { "bench.quartermaster.dev/round": value.to_string() } } });
        api.patch(TOUCHED_NODE, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    async fn until_served(&self) {
        let started = Instant::now();
        while self.backends().list(&ListParams::default()).await.is_err() {
            assert!(started.elapsed() < DEADLINE, "the definitions are never served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How many backends are decided.
pub struct Decided {
    receiver: watch::Receiver<usize>,
}

impl Decided {
    /// Waits until so many are, and tells how long that took.
    pub async fn all(mut self, count: usize, since: Instant) -> Duration {
        let all = self.receiver.wait_for(|decided| *decided == count);
        let waited = tokio::time::timeout(DEADLINE, all).await.map(|reached| reached.is_ok());
        let elapsed = since.elapsed();
        assert!(waited == Ok(true), "only {} of {count} backends were decided", *self.receiver.borrow());
        elapsed
    }
}

fn ready(object: &Value) -> Option<&Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| condition["type"] == "Ready")
}

/// A node with eight small GPUs, labelled as those of the development fleet.
fn node(number: usize) -> FakeNode {
    let mut node = nodes::fleet().into_iter().find(|node| node.name == "l4-0").unwrap();
    node.name = format!("bench-{number:04}");
    node.labels.insert("nvidia.com/gpu.count".to_owned(), "8".to_owned());
    node.accelerators.insert("nvidia.com/gpu".to_owned(), 8);
    node
}
