//! The least program that scales by queues: it watches the Deployments of a namespace, reads all streams in one round trip every
//! second, and patches the replicas of each Deployment whose stream has tasks. It decides nothing, waits for nothing and says
//! nothing. It is this binary in another mode, as a process of its own.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, watcher};
use serde_json::json;

use crate::cluster::Cluster;

/// The argument that makes this binary the least program.
pub const MODE: &str = "least";
/// The consumer group of every stream.
pub const GROUP: &str = "agents";
/// Patches at the same time: as many as the operator has workers for one namespace.
const WRITES: usize = 32;

/// The running program. It ends with its owner.
pub struct Least {
    child: Child,
}

impl Least {
    /// Starts it for so many Deployments and streams `least-0000` and so on.
    pub fn start(cluster: &Cluster, url: &str, number: usize) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([MODE, &cluster.namespace, url, &number.to_string()])
            .env("KUBECONFIG", &cluster.kubeconfig)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Least {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program itself.
pub async fn run(namespace: &str, url: &str, number: &str) {
    let client = Client::try_default().await.unwrap();
    let api: Api<Deployment> = Api::namespaced(client, namespace);
    let (store, writer) = reflector::store();
    let events = reflector::reflector(writer, watcher(api.clone(), watcher::Config::default())).default_backoff();
    tokio::spawn(events.for_each(|_| std::future::ready(())));
    store.wait_until_ready().await.unwrap();
    let names: Vec<String> = (0..number.parse::<usize>().unwrap()).map(|number| format!("least-{number:04}")).collect();
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let mut pipeline = redis::pipe();
        for name in &names {
            pipeline.cmd("XLEN").arg(name);
        }
        let lengths: Vec<u64> = pipeline.query_async(&mut connection).await.unwrap();
        let tasks: HashMap<&String, u64> = names.iter().zip(lengths).filter(|(_, length)| *length > 0).collect();
        let behind = tasks.into_iter().filter(|(name, _)| {
            let known = store.get(&ObjectRef::new(name).within(namespace));
            known.is_none_or(|deployment| deployment.spec.replicas == Some(0))
        });
        futures::stream::iter(behind)
            .map(|(name, tasks)| {
                let api = api.clone();
                async move {
                    let patch = json!({ "spec": { "replicas": tasks } });
                    api.patch_scale(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
                }
            })
            .buffer_unordered(WRITES)
            .for_each(|()| std::future::ready(()))
            .await;
    }
}
