//! What the operator costs with many pools of agents, and how fast it is, beside [`least`](crate::least): the least program that
//! reads the same queues and scales.

use std::collections::HashMap;
use std::net::TcpListener;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use quartermaster::controllers::agent_pool::Pools;
use quartermaster::operate::control::Control as _;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, DEADLINE};
use crate::figures::Figures;
use crate::least::{self, Least};
use crate::operator::Operator;
use crate::process::{self, Memory};

/// How long both are watched while nothing happens.
const IDLE: Duration = Duration::from_secs(20);
/// Writes of this process at the same time.
const WRITES: usize = 16;

/// What one of the two programs cost.
pub struct Cost {
    /// Share of one processor while nothing happens.
    pub idle: f64,
    /// Its memory then.
    pub memory: Memory,
    /// From a task in a queue to the replicas of its Deployment, for each queue, the shortest first.
    pub delays: Vec<Duration>,
}

/// A Redis server of the bench's own.
pub struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    async fn start(cluster: &Cluster) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(cluster.connection.directory())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let redis = Self { child, url: format!("redis://127.0.0.1:{port}/0") };
        let started = Instant::now();
        while redis.try_connect().await.is_none() {
            assert!(started.elapsed() < DEADLINE, "Redis never answers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        redis
    }

    async fn try_connect(&self) -> Option<MultiplexedConnection> {
        redis::Client::open(self.url.as_str()).unwrap().get_multiplexed_async_connection().await.ok()
    }

    /// Makes an empty stream with a group for each name.
    async fn make(&self, names: &[String]) {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd("XGROUP").arg(&["CREATE", name, least::GROUP, "$", "MKSTREAM"]);
        }
        let _: () = pipeline.query_async(&mut self.try_connect().await.unwrap()).await.unwrap();
    }

    /// Adds a task to each stream, and tells when.
    async fn burst(&self, names: &[String]) -> Instant {
        let mut pipeline = redis::pipe();
        for name in names {
            pipeline.cmd("XADD").arg(&[name, "*", "milliseconds", "1000"]);
        }
        let mut connection = self.try_connect().await.unwrap();
        let at = Instant::now();
        let _: () = pipeline.query_async(&mut connection).await.unwrap();
        at
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures both with so many pools.
pub async fn measure(figures: &mut Figures, pools: usize, say: &impl Fn(&str)) {
    say(&format!("{pools} pools, each with a stream of its own on one Redis"));
    let cluster = Cluster::create(0, 0).await;
    let redis = Redis::start(&cluster).await;
    let names: Vec<String> = (0..pools).map(|number| format!("pool-{number:04}")).collect();
    redis.make(&names).await;
    create(&cluster, &names, |name| pool(name, &redis.url), &Pools::KIND.resource()).await;

    say("the operator: waiting until it has made every Deployment and nothing happens any more");
    let operator = Operator::start(&cluster);
    operator.reconciled(pools).await;
    operator.quiet().await;
    say(&format!("nothing happens for {} s", IDLE.as_secs()));
    let before = operator.metrics().await;
    tokio::time::sleep(IDLE).await;
    let growth = operator.metrics().await.since(&before);
    let idle = growth.processor_seconds() / IDLE.as_secs_f64();
    let (calls, polls) = (growth.calls(), growth.polls());
    let memory = operator.memory();
    say("a task in every stream");
    let mut scaled = Scaled::watch(&cluster).await;
    let before = operator.metrics().await;
    let burst = redis.burst(&names).await;
    let delays = scaled.all(&names.iter().map(|name| format!("{name}-pool")).collect::<Vec<_>>(), burst).await;
    operator.quiet().await;
    let burst_calls = operator.metrics().await.since(&before).calls();
    operator.end();
    let of_operator = Cost { idle, memory, delays };

    say("the least program that does it");
    let names: Vec<String> = (0..pools).map(|number| format!("least-{number:04}")).collect();
    redis.make(&names).await;
    create(&cluster, &names, deployment, &kube::api::ApiResource::erase::<Deployment>(&())).await;
    let least = Least::start(&cluster, &redis.url, pools);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = process::processor_seconds(least.id());
    tokio::time::sleep(IDLE).await;
    let idle = (process::processor_seconds(least.id()) - before) / IDLE.as_secs_f64();
    let memory = process::memory(least.id());
    let mut scaled = Scaled::watch(&cluster).await;
    let burst = redis.burst(&names).await;
    let of_least = Cost { idle, memory, delays: scaled.all(&names, burst).await };
    figures.pools(pools, &of_operator, &of_least, (calls, polls / IDLE.as_secs_f64(), burst_calls / pools as f64));
}

/// Creates an object for each name.
async fn create(cluster: &Cluster, names: &[String], object: impl Fn(&str) -> Value, resource: &kube::api::ApiResource) {
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, resource);
    let writes = futures::stream::iter(names.iter().map(|name| (name.clone(), object(name)))).map(|(name, object)| {
        let api = api.clone();
        async move { api.patch(&name, &PatchParams::apply("bench"), &Patch::Apply(&object)).await.unwrap() }
    });
    writes.buffer_unordered(WRITES).for_each(|_| std::future::ready(())).await;
}

/// Pods that no node takes: what is measured ends with the Deployment.
fn template() -> Value {
    json!({ "spec": {
        "nodeSelector": { "bench.quartermaster.dev/none": "true" },
        "containers": [{ "name": "agent", "image": "agent" }],
    }})
}

fn pool(name: &str, url: &str) -> Value {
    json!({
        "apiVersion": "quartermaster.dev/v1alpha1", "kind": "AgentPool", "metadata": { "name": name },
        "spec": {
            "template": template(),
            "queues": [{ "name": "tasks", "redisStream": { "url": url, "stream": name, "group": least::GROUP } }],
            "scaling": { "pollInterval": "1s" },
        },
    })
}

fn deployment(name: &str) -> Value {
    let mut template = template();
    template["metadata"] = json!({ "labels": { "least": name } });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": 0, "selector": { "matchLabels": { "least": name } }, "template": template },
    })
}

/// When Deployments were seen to have replicas.
struct Scaled {
    seen: mpsc::UnboundedReceiver<(String, Instant)>,
}

impl Scaled {
    /// Sees those that get replicas from now on.
    async fn watch(cluster: &Cluster) -> Self {
        let api: Api<Deployment> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let (sender, seen) = mpsc::unbounded_channel();
        let (listed, is_listed) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
            let mut listed = Some(listed);
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(deployment)) if deployment.spec.replicas.unwrap_or(0) > 0 => {
                        let name = deployment.metadata.name.unwrap_or_default();
                        if sender.send((name, Instant::now())).is_err() {
                            return;
                        }
                    }
                    Ok(Event::InitDone) => {
                        let _ = listed.take().map(|listed| listed.send(()));
                    }
                    _ => {}
                }
            }
        });
        is_listed.await.unwrap();
        Self { seen }
    }

    /// How long it took from then on for each of these, the shortest first.
    async fn all(&mut self, names: &[String], since: Instant) -> Vec<Duration> {
        let mut delays: HashMap<String, Duration> = HashMap::new();
        while delays.len() < names.len() {
            let next = tokio::time::timeout(DEADLINE, self.seen.recv()).await;
            let (name, at) = next.unwrap_or_else(|_| panic!("only {} of {} were scaled", delays.len(), names.len())).unwrap();
            if names.binary_search(&name).is_ok() {
                delays.entry(name).or_insert_with(|| at.duration_since(since));
            }
        }
        let mut delays: Vec<Duration> = delays.into_values().collect();
        delays.sort_unstable();
        delays
    }
}
