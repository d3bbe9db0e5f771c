//! The least that a program can do with the same objects: a bare kube reflector for each kind that the operator watches, with
//! the same selections, that keeps what it gets. It is this binary in another mode, as a process of its own.

use std::fmt::Debug;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Client;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, watcher};
use quartermaster::run::watches::{API_SERVER, SECRETS};
use quartermaster_core::api::InferenceBackend;
use quartermaster_core::decide::backend::children::BACKEND_LABEL;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::process::{self, Memory};

/// The argument that makes this binary the reflector.
pub const MODE: &str = "reflector";

/// A running reflector that has everything. It ends with its owner.
pub struct Reflector {
    /// Time from the start of the process until every kind was listed.
    pub synced: Duration,
    /// How many objects of each kind it holds.
    pub objects: Value,
    child: Child,
}

impl Reflector {
    /// Starts it and waits until it has everything.
    pub async fn start(cluster: &Cluster) -> Self {
        let started = Instant::now();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([MODE, &cluster.namespace])
            .env("KUBECONFIG", &cluster.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).unwrap();
        let synced = started.elapsed();
        Self { synced, objects: serde_json::from_str(&line).expect("the reflector ended early"), child }
    }

    /// Its memory now.
    pub fn memory(&self) -> Memory {
        process::memory(self.child.id())
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reflector itself: lists and watches, says when it has everything, and stays.
pub async fn run(namespace: &str) {
    let client = Client::try_default().await.unwrap();
    let ours = || watcher::Config::default().labels(BACKEND_LABEL);
    let backends = reflect(Api::<InferenceBackend>::namespaced(client.clone(), namespace), watcher::Config::default());
    let nodes = reflect(Api::<Node>::all(client.clone()), watcher::Config::default());
    let deployments = reflect(Api::<Deployment>::namespaced(client.clone(), namespace), ours());
    let pods = reflect(Api::<Pod>::namespaced(client.clone(), namespace), ours());
    let referred = watcher::Config::default().fields(SECRETS);
    let secrets = reflect(Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), namespace), referred);
    let services = reflect(Api::<PartialObjectMeta<Service>>::namespaced(client.clone(), namespace), ours());
    let accounts = reflect(Api::<PartialObjectMeta<ServiceAccount>>::namespaced(client.clone(), namespace), ours());
    let budgets = reflect(Api::<PartialObjectMeta<PodDisruptionBudget>>::namespaced(client.clone(), namespace), ours());
    let of_api_server = watcher::Config::default().labels(API_SERVER);
    let endpoints = reflect(Api::<EndpointSlice>::namespaced(client.clone(), "default"), of_api_server);
    backends.wait_until_ready().await.unwrap();
    nodes.wait_until_ready().await.unwrap();
    deployments.wait_until_ready().await.unwrap();
    pods.wait_until_ready().await.unwrap();
    secrets.wait_until_ready().await.unwrap();
    services.wait_until_ready().await.unwrap();
    accounts.wait_until_ready().await.unwrap();
    budgets.wait_until_ready().await.unwrap();
    endpoints.wait_until_ready().await.unwrap();
    let objects = json!({
        "InferenceBackend": backends.len(), "Node": nodes.len(), "Deployment": deployments.len(), "Pod": pods.len(),
        "Secret": secrets.len(), "Service": services.len(), "ServiceAccount": accounts.len(),
        "PodDisruptionBudget": budgets.len(), "EndpointSlice": endpoints.len(),
    });
    println!("{objects}");
    std::future::pending().await
}

fn reflect<K>(api: Api<K>, configuration: watcher::Config) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = reflector::reflector(writer, watcher(api, configuration)).default_backoff();
    tokio::spawn(events.for_each(|_| std::future::ready(())));
    store
}
